"""What systemd is told of the service, and what it asks: ready, how it is, alive.

The protocol is sd_notify(3): a datagram of ``NAME=value`` lines to the socket that
``$NOTIFY_SOCKET`` names. Outside systemd there is none, and everything here does nothing. No wheel
for Python 3.11 has it without a C library; it is small.

The rule of the watchdog: systemd is told that the service lives only while somebody has judged
that it does. A loop that hangs tells nothing by itself; for all else ``is_alive`` has a reason, and
the reason is in the log before systemd ends the process.
"""

import asyncio
import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import structlog

__all__ = ["Notifier", "notify", "reloading", "watchdog_interval_s"]

log = structlog.get_logger()

POLL_S = 1.0
EXTENSION_S = 180.0
"""How much longer loading may take after each sign of progress: the largest file of a model, read
from a slow card, and the graph in it prepared."""


def notify(**fields: str | int) -> bool:
    """Tell systemd something: ``notify(READY=1, STATUS="serving qwen3-4b")``.

    Never blocks.

    Returns:
        Whether systemd has it. False where there is no systemd, or its socket is full: worth
        another try for what must arrive.
    """
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address.startswith(("/", "@")):
        return False
    if address.startswith("@"):  # of the abstract namespace
        address = f"\0{address[1:]}"
    lines = (f"{name}={str(value).replace(chr(10), ' ')}\n" for name, value in fields.items())
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
        sock.setblocking(False)
        try:
            sock.connect(address)
            sock.send("".join(lines).encode())
        except OSError:
            return False
    return True


def watchdog_interval_s() -> float | None:
    """Return the longest silence that systemd bears with, in seconds; None if it bears with any.

    What stands in the environment may be meant for another process, as that of a parent.
    """
    try:
        interval_s = int(os.environ.get("WATCHDOG_USEC", "0")) / 1e6
        pid = int(os.environ.get("WATCHDOG_PID") or os.getpid())
    except ValueError:
        return None
    return interval_s if interval_s > 0 and pid == os.getpid() else None


@contextmanager
def reloading() -> Iterator[None]:
    """Tell systemd that the settings are being read again, until the context is left.

    Only for a service that has said ``READY=1``: it says so again at the end.
    """
    notify(RELOADING=1, MONOTONIC_USEC=time.monotonic_ns() // 1000)
    try:
        yield
    finally:
        notify(READY=1)


class Notifier:
    """Tells systemd how the service is, for as long as it runs.

    Args:
        is_ready: whether what depends on the service may start; asked until it is once so.
        status: a line for ``systemctl status``.
        is_alive: None, or why the service should be taken for dead and be started again.
        progress: of loading; whenever it is another value than before, systemd gives it more
            time to become ready.
    """

    def __init__(
        self,
        *,
        is_ready: Callable[[], bool],
        status: Callable[[], str],
        is_alive: Callable[[], str | None],
        progress: Callable[[], object] = lambda: None,
    ) -> None:
        self._is_ready, self._status = is_ready, status
        self._is_alive, self._progress = is_alive, progress
        self._said_ready = False
        self._said_status: str | None = None
        self._seen_progress: object = None
        self._withheld: str | None = None

    async def run(self) -> None:
        """Tell it until cancelled, and then that the service stops.

        So it must be cancelled when the stop begins, not when it is over; systemd's watchdog does
        not bark at a service that stops.
        """
        interval_s = watchdog_interval_s()
        poll_s = POLL_S if interval_s is None else min(POLL_S, interval_s / 2)
        feed_at = 0.0
        try:
            while True:
                self._tell()
                if interval_s is not None and (now := time.monotonic()) >= feed_at:
                    feed_at = now + interval_s / 2 if self._feed() else now
                await asyncio.sleep(poll_s)
        finally:
            notify(STOPPING=1, STATUS="stopping")

    def _tell(self) -> None:
        if (status := self._status()) != self._said_status and notify(STATUS=status):
            self._said_status = status
        if self._said_ready:
            return
        if self._is_ready():
            self._said_ready = notify(READY=1)
        elif (progress := self._progress()) != self._seen_progress:
            self._seen_progress = progress
            notify(EXTEND_TIMEOUT_USEC=int(EXTENSION_S * 1e6))

    def _feed(self) -> bool:
        """Tell the watchdog that all is well, if it is; return whether it was told."""
        reason = self._is_alive()
        if reason != self._withheld:
            self._withheld = reason
            if reason is None:
                log.info("watchdog.fed_again")
            else:
                log.warning(
                    "watchdog.withheld",
                    reason=reason,
                    do="nothing: systemd starts the service again if this lasts",
                )
        return reason is None and notify(WATCHDOG=1)
