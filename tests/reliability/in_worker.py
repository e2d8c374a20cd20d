"""What is different in a worker process under test: its clocks, and a step that fails on demand."""

import os
import resource
from pathlib import Path
from typing import Any

from tests.reliability.clocks import quicken_worker

__all__ = ["FACTOR_VARIABLE", "SPOIL_VARIABLE", "prepare"]

FACTOR_VARIABLE = "RELIABILITY_FACTOR"
SPOIL_VARIABLE = "RELIABILITY_SPOIL"
"""Names a file; the next step removes it and does what it says: ``raise`` or ``hoard``."""

SIZES = (1 << 20, 1 << 16, 1 << 12, 1 << 9)


def prepare() -> None:
    """Change this process, before the worker begins."""
    from edge_llm.engine.sampling import Sampler

    quicken_worker(float(os.environ[FACTOR_VARIABLE]))
    control = Path(os.environ[SPOIL_VARIABLE])
    sample = Sampler.sample
    hoard: list[bytearray] = []

    def sample_or_fail(self: Sampler, *args: Any, **kwargs: Any) -> int:
        if control.exists():
            word = control.read_text()
            control.unlink()
            if word == "hoard":
                _take_all_memory(hoard)
            raise RuntimeError("a step that fails, as it was asked to")
        return sample(self, *args, **kwargs)

    Sampler.sample = sample_or_fail  # type: ignore[method-assign]


def _take_all_memory(hoard: list[bytearray]) -> None:
    """Fill what the process has, and let it have no more; raises MemoryError, as all does then."""
    resource.setrlimit(resource.RLIMIT_AS, (0, 0))
    for size in SIZES[:-1]:
        try:
            while True:
                hoard.append(bytearray(size))
        except MemoryError:
            continue
    while True:
        hoard.append(bytearray(SIZES[-1]))
