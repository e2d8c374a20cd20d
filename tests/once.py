"""What takes long is made once for all processes of a test run."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.programs import one_at_a_time

__all__ = ["made_once"]


def made_once(
    tmp_path_factory: pytest.TempPathFactory, name: str, make: Callable[[Path], None]
) -> Path:
    """Return a folder that this function has filled, in this process or in another of this run."""
    base = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        base = base.parent  # of the run; each worker has one of its own in there
    folder = base / f"once-{name}"
    with one_at_a_time(f"{base.name}-{name}"):
        if not (folder / "complete").exists():
            folder.mkdir(exist_ok=True)
            make(folder)
            (folder / "complete").touch()
    return folder
