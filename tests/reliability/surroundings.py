"""A disk that can be full, and a clock that can be set, for one process and its children."""

import ctypes
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

from tests.programs import require_program

__all__ = ["fake_clock", "fill", "small_disk"]

DISK_BYTES = 1024 * 1024
CHUNK_BYTES = 4096
MNT_DETACH = 2


@contextmanager
def small_disk(folder: Path) -> Iterator[bool]:
    """Mount a file system of 1 MiB there, if that is allowed; say whether it was."""
    libc = ctypes.CDLL(None, use_errno=True)
    options = f"size={DISK_BYTES}".encode()
    is_mounted = libc.mount(b"tmpfs", bytes(folder), b"tmpfs", 0, options) == 0
    try:
        yield is_mounted
    finally:
        if is_mounted:
            libc.umount2(bytes(folder), MNT_DETACH)


def fill(folder: Path, pid: int) -> Callable[[], None]:
    """Leave no room for what a process writes there; return what undoes it.

    On a small disk of its own that is a file that takes what is left. Elsewhere no file of the
    process may grow any more (RLIMIT_FSIZE), its log included.
    """
    if not folder.is_mount():
        process = psutil.Process(pid)
        before = process.rlimit(psutil.RLIMIT_FSIZE)
        process.rlimit(psutil.RLIMIT_FSIZE, (0, before[1]))
        return lambda: process.rlimit(psutil.RLIMIT_FSIZE, before)
    path = folder / "filler"
    with suppress(OSError), path.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(CHUNK_BYTES))
    return path.unlink


def fake_clock(file: Path) -> dict[str, str]:
    """Return the environment of a process whose clock is off by what the file says, as ``+3600``.

    Only the clock that somebody can set is: the monotonic one and the times of files are real.
    """
    require_program("faketime", "faketime")
    libraries = sorted(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"))
    if not libraries:
        raise RuntimeError("faketime is installed, but its library is not where Debian has it")
    file.write_text("+0")
    return {
        "LD_PRELOAD": ":".join(filter(None, [str(libraries[0]), os.environ.get("LD_PRELOAD")])),
        "FAKETIME_TIMESTAMP_FILE": str(file),
        "FAKETIME_NO_CACHE": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        "DONT_FAKE_MONOTONIC": "1",
        "NO_FAKE_STAT": "1",
    }
