"""A disk that can be full, and a clock that can be set, for one process and its children."""

import ctypes
import os
import sqlite3
import struct
import subprocess
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import psutil

__all__ = ["SettableClock", "fill", "small_disk"]

DISK_BYTES = 16 * 1024 * 1024
CHUNK_BYTES = 4096
MNT_DETACH = 2


@contextmanager
def small_disk(folder: Path) -> Iterator[bool]:
    """Mount a file system of 16 MiB there, if that is allowed; say whether it was."""
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
    _empty_logs(folder)
    path = folder / "filler"
    with suppress(OSError), path.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(CHUNK_BYTES))
    return path.unlink


def _empty_logs(folder: Path) -> None:
    """Have what is written next need room: SQLite writes over a log that it has copied."""
    for path in folder.glob("*.sqlite3"):
        with closing(sqlite3.connect(path, timeout=5.0)) as connection:
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")


class SettableClock:
    """The clock of a process and its children, by which only what people set is off.

    Args:
        folder: for the library and for the file that says by how much.
    """

    def __init__(self, folder: Path) -> None:
        library = folder / "clock.so"
        command = [os.environ.get("CC", "cc"), "-O2", "-shared", "-fPIC", "-o", str(library)]
        subprocess.run([*command, str(Path(__file__).parent / "clock.c"), "-ldl"], check=True)
        self._file = folder / "clock"
        self._file.write_bytes(struct.pack("=q", 0))
        self.environment = {"LD_PRELOAD": str(library), "RELIABILITY_CLOCK": str(self._file)}
        """What a process needs to have this clock."""

    def jump(self, seconds: int) -> None:
        """Set it further ahead, or back."""
        with self._file.open("r+b") as file:
            (offset,) = struct.unpack("=q", file.read(8))
            file.seek(0)
            file.write(struct.pack("=q", offset + seconds))
