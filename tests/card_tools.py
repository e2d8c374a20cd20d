"""Programs that stand in for the vendor's tool, and what that was seen to print."""

import contextlib
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["SEEN", "make_tool", "num_open_files", "outliving", "seen"]

SEEN = Path(__file__).parent / "data" / "axcl_smi"


def seen(name: str) -> str:
    """Return what the real tool printed, by the situation."""
    return (SEEN / f"{name}.stdout.txt").read_text()


def make_tool(folder: Path, script: str) -> Path:
    """Make a program of lines for the shell; ``$folder`` is where it lies, and ``$seen`` works."""
    path = folder / "axcl-smi"
    new = folder / "axcl-smi.new"
    new.write_text(f"#!/bin/sh\nfolder={folder}\nseen={SEEN}\n{script}\n")
    new.chmod(0o755)
    new.replace(path)  # the old one may be running
    return path


def num_open_files() -> int:
    """Count the open files of this process."""
    return len(os.listdir("/proc/self/fd"))


@contextmanager
def outliving(folder: Path) -> Iterator[str]:
    """Give a line that leaves something behind which holds the output, and which no kill reaches.

    So does a call that hangs in the kernel. It is ended when the context is left, or before, by its
    id in the file ``pid``.
    """
    yield 'setsid sh -c "echo \\$\\$ > $folder/pid; exec sleep 60" &\nwait'
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        os.kill(int((folder / "pid").read_text()), signal.SIGKILL)
