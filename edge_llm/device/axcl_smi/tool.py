"""Runs the tool, one at a time, and not for long.

With a card that hangs each start of it waits in the kernel for up to 50 s, where it can not even be
killed, and keeps the next one waiting (axcl-runtime, ``axcl_pcie_host.c``). Each run also asks the
card some seven things by a shell there. So there is never more than one, a pause after each, and no
new one beside an old one that still hangs. What was killed is read on to its end in the background,
which costs nothing, and tells when it has gone.
"""

import asyncio
import os
import shutil
import signal
import time
from asyncio.subprocess import DEVNULL, PIPE, Process
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from edge_llm.device.axcl_smi.table import parse_table
from edge_llm.device.axcl_smi.text import errors_in, first_line, parse_reboot
from edge_llm.device.reading import CardsReading

__all__ = ["AxclSmi", "Unreadable", "find_axcl_smi"]

WHERE = Path("/usr/bin/axcl/axcl-smi")
"""Where the vendor's package puts it; only login shells have that in their PATH."""

PAUSE_S = 10.0
REBOOT_TIMEOUT_S = 90.0
"""The driver itself gives up after 60 s."""
KILL_TIMEOUT_S = 1.0
MOST_BYTES = 256 * 1024
"""What it may print; a table with a dozen processes is 3 KiB."""
CHUNK_BYTES = 64 * 1024


@dataclass(frozen=True, slots=True)
class Unreadable:
    """A reading that failed."""

    reason: str
    """For people: in the tool's words, if it had any."""


class _FailedError(Exception):
    """It could not be run to its end."""


@dataclass(frozen=True, slots=True)
class _Printed:
    text: str
    is_too_much: bool
    returncode: int


def find_axcl_smi() -> Path | None:
    """Return the absolute path of the tool, if it is installed."""
    if WHERE.is_file():
        return WHERE
    found = shutil.which("axcl-smi")
    return Path(found).absolute() if found else None


class AxclSmi:
    """The tool, for whoever needs it in this process.

    Args:
        path: of the tool.
        timeout_s: how long a reading may take; it asks the card seven things, a second or two each
            at most.
        pause_s: how long the card is left alone after it was read or rebooted.
    """

    def __init__(self, path: Path, timeout_s: float = 10.0, pause_s: float = PAUSE_S) -> None:
        self._path = path.absolute()
        self._timeout_s = timeout_s
        self._pause_s = pause_s
        self._lock = asyncio.Lock()
        self._running: asyncio.Task[_Printed] | None = None
        self._is_rebooting = False
        self._latest: CardsReading | Unreadable | None = None
        self._paused_until = 0.0
        self.reboot_error: str | None = None
        """Why the latest reboot was not done, as far as that is known; None if it was."""

    async def read(self) -> CardsReading | Unreadable:
        """Return what it says now, or what it said within the pause.

        Whoever asks while it is being read gets that reading; while a card is being rebooted, it is
        unreadable.
        """
        if self._is_rebooting:
            return Unreadable("the card is being rebooted")
        async with self._lock:
            if self._latest is None or time.monotonic() >= self._paused_until:
                try:
                    self._latest = await self._read()
                finally:
                    self._paused_until = time.monotonic() + self._pause_s
            return self._latest

    async def reboot(self, index: int = 0, timeout_s: float = REBOOT_TIMEOUT_S) -> bool:
        """Reboot a card, once a reading that is being taken is over; return whether it came back.

        Why it did not is in ``reboot_error``. A run of the tool that hangs is waited for, for half
        of the time.

        Args:
            index: of the card.
            timeout_s: how long all of that may take; then the tool is killed.
        """
        if self._is_rebooting:
            self.reboot_error = "a card is being rebooted already"
            return False
        self._is_rebooting = True
        try:
            printed = await self._reboot(index, timeout_s)
            if parse_reboot(printed.text):
                self.reboot_error = None
            else:
                said = errors_in(printed.text)
                self.reboot_error = said or "axcl-smi did not say that the card was rebooted"
        except _FailedError as exc:
            self.reboot_error = str(exc)
        finally:
            self._is_rebooting = False
            self._latest = Unreadable("it was not read since a reboot")
            self._paused_until = time.monotonic() + self._pause_s
        return self.reboot_error is None

    async def _reboot(self, index: int, timeout_s: float) -> _Printed:
        deadline = time.monotonic() + timeout_s
        async with self._lock:
            if self._running:
                await asyncio.wait({self._running}, timeout=timeout_s / 2)
            if (left_s := deadline - time.monotonic()) <= 0:
                raise _FailedError("the card was being read for so long that no time was left")
            return await self._run("reboot", "-d", str(index), timeout_s=left_s, answer=b"y\n")

    async def _read(self) -> CardsReading | Unreadable:
        try:
            printed = await self._run(timeout_s=self._timeout_s)
        except _FailedError as exc:
            return Unreadable(str(exc))
        return parse_table(printed.text) or Unreadable(_why_none(printed))

    async def _run(self, *arguments: str, timeout_s: float, answer: bytes = b"") -> _Printed:
        if self._running and not self._running.done():
            raise _FailedError("an earlier axcl-smi still hangs")
        try:
            process = await asyncio.create_subprocess_exec(
                self._path,
                *arguments,
                # No terminal: one that was killed has been seen to leave it unusable.
                stdin=PIPE if answer else DEVNULL,
                stdout=PIPE,
                stderr=PIPE,
                start_new_session=True,
            )
        except OSError as exc:
            raise _FailedError(f"{self._path} can't be run: {exc.strerror}") from exc
        self._running = running = asyncio.create_task(_attend(process, answer), name="axcl_smi")
        is_in_time = False
        try:
            await asyncio.wait({running}, timeout=timeout_s)
            is_in_time = running.done()
        finally:
            if not is_in_time:
                _kill(process)
                await asyncio.wait({running}, timeout=KILL_TIMEOUT_S)
        if not is_in_time:
            raise _FailedError(f"axcl-smi did not end within {timeout_s:.3g} s")
        printed = running.result()
        if printed.is_too_much:
            raise _FailedError(f"axcl-smi printed more than {MOST_BYTES // 1024} KiB")
        return printed


async def _attend(process: Process, answer: bytes) -> _Printed:
    """Answer it, read what it prints to the end, and wait for its own."""
    if process.stdin:
        with suppress(ConnectionError):  # it has ended, and asked nothing
            process.stdin.write(answer)
            await process.stdin.drain()
        process.stdin.close()
    # Apart, so that a complaint never stands within a row of the table.
    parts = await asyncio.gather(_keep(process.stdout, process), _keep(process.stderr, process))
    return _Printed(
        text=b"\n".join(parts).decode(errors="replace"),
        is_too_much=any(len(part) > MOST_BYTES for part in parts),
        returncode=await process.wait(),
    )


async def _keep(stream: asyncio.StreamReader | None, process: Process) -> bytearray:
    """Return what comes; of a flood the beginning, as it is stopped then."""
    kept = bytearray()
    while stream and (chunk := await stream.read(CHUNK_BYTES)):
        if len(kept) <= MOST_BYTES:
            kept += chunk
            if len(kept) > MOST_BYTES:
                _kill(process)
    return kept


def _kill(process: Process) -> None:
    """Kill it and what it started, which helps only when the kernel lets it go."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)


def _why_none(printed: _Printed) -> str:
    if error := errors_in(printed.text):
        return error
    if printed.returncode < 0:
        return f"axcl-smi was ended by signal {-printed.returncode}"
    if "| AXCL-SMI " in printed.text:
        return "axcl-smi printed a table that is not whole, or of a form that is not known"
    if line := first_line(printed.text):
        return f"axcl-smi printed no table, but: {line}"
    return "axcl-smi printed nothing"
