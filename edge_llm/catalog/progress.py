"""How far a download is: a bar on a terminal, a line per file anywhere else."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import PurePosixPath
from typing import Any, cast

from edge_llm.catalog.download import Progress

__all__ = ["open_progress"]


class _Bar:
    """One bar for all files."""

    def __init__(self, bar: Any, num_files: int) -> None:
        self._bar = bar
        self._num_files = num_files

    def file(self, number: int, name: str, size_bytes: int) -> None:
        """Name the file before the bar."""
        self._bar.set_description(f"{number}/{self._num_files} {PurePosixPath(name).name[:28]}")

    def advance(self, num_bytes: int) -> None:
        """Move the bar."""
        self._bar.update(num_bytes)


class _Lines:
    """A line per file, for a log."""

    def __init__(self, num_files: int) -> None:
        self._num_files = num_files

    def file(self, number: int, name: str, size_bytes: int) -> None:
        """Print the line."""
        sys.stderr.write(f"{number}/{self._num_files} {name} {size_bytes / 1e6:.1f} MB\n")

    def advance(self, num_bytes: int) -> None:
        """Nothing: a log is not watched."""


@contextmanager
def open_progress(total_bytes: int, have_bytes: int, num_files: int) -> Iterator[Progress]:
    """Show it on standard error until the context is left."""
    if not sys.stderr.isatty():
        yield _Lines(num_files)
        return
    from huggingface_hub import utils

    with cast(Any, utils).tqdm(
        total=total_bytes, initial=have_bytes, unit="B", unit_scale=True
    ) as bar:
        yield _Bar(bar, num_files)
