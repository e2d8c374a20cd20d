"""The end of what a core that died by itself has left: the worker, in the middle of a step.

systemd would kill it at once, and a card whose process is killed in mid-execute may hang until the
machine is rebooted (woolcoxm, Axera-AX8850-GGUF-Support). A worker ends by itself when its line to
the core breaks: between two steps, and the card is given free. It only has to be waited for.
"""

import contextlib
import os
import signal
import time
from pathlib import Path

import structlog

from edge_llm.errors import ConfigurationError

__all__ = ["end_leftovers"]

log = structlog.get_logger()

CGROUPS = Path("/sys/fs/cgroup")
POLL_S = 0.1
KILLED_TIMEOUT_S = 5.0
"""For those that were killed; one that hangs in the driver goes when the driver lets it go."""


def end_leftovers(timeout_s: float) -> None:
    """Wait until no other process of this service is left; kill what is there after that time.

    To be run by systemd's ``ExecStopPost=``. The core itself, if it is still there, did not end in
    time although it was asked to: it is killed first, as the others wait for it.

    Args:
        timeout_s: how long the others may take.

    Raises:
        ConfigurationError: it was not started by systemd, and would end a login's other programs.
    """
    if "SERVICE_RESULT" not in os.environ:
        raise ConfigurationError("this is for ExecStopPost= in the unit of the service")
    members = _own_cgroup() / "cgroup.procs"
    if (core := int(os.environ.get("MAINPID", "0"))) in _others(members):
        log.warning("core.killed", pid=core, reason="it did not end when it was asked to")
        _kill(core)
    if not _wait(members, timeout_s):
        for pid in _others(members):
            log.warning("leftover.killed", pid=pid, after_s=timeout_s)
            _kill(pid)
        _wait(members, KILLED_TIMEOUT_S)


def _own_cgroup() -> Path:
    lines = Path("/proc/self/cgroup").read_text().splitlines()
    unified = next((line for line in lines if line.startswith("0::/")), "0::/nowhere")
    return CGROUPS / unified.removeprefix("0::/")


def _others(members: Path) -> list[int]:
    try:
        pids = [int(line) for line in members.read_text().split()]
    except OSError:  # without cgroups of version 2 there is nothing to go by
        return []
    return [pid for pid in pids if pid != os.getpid()]


def _wait(members: Path, timeout_s: float) -> bool:
    deadline = time.monotonic() + timeout_s
    while _others(members):
        if time.monotonic() >= deadline:
            return False
        time.sleep(POLL_S)
    return True


def _kill(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
