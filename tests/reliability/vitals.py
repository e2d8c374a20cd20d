"""Memory and file descriptors of a node's processes, and whether they grow."""

import asyncio
import contextlib
from collections import defaultdict
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import psutil

from tests.reliability.traffic import Plan
from tests.reliability.world import NodeProcess

__all__ = ["Growth", "Sample", "Vitals", "growth_of"]

EVERY_S = 1.0
FEWEST = 20
"""Samples of one process, below which nothing is said of its growth."""
WARM_UP = 0.25
"""The part of each life that is left out: buffers are filled and pools grow."""
MIB = 2**20


class Sample(NamedTuple):
    """What one process had at one time."""

    pid: int
    hours: float
    rss_mib: float
    num_fds: int


@dataclass(frozen=True)
class Growth:
    """By a straight line through what was measured, over all lives of a process.

    Attributes:
        lives: processes that lived long enough to say something.
        hours: of the plan, that they lived together.
        first_mib: at the end of the warm-up of the first.
        last_mib: at the end of the last.
        mib_per_hour: of the plan.
        fds_per_hour: of the plan.
    """

    lives: int
    hours: float
    first_mib: float
    last_mib: float
    mib_per_hour: float
    fds_per_hour: float


def growth_of(samples: list[Sample]) -> Growth | None:
    """Return how one kind of process has grown; None if none has lived long enough."""
    lives: dict[int, list[Sample]] = defaultdict(list)
    for sample in samples:
        lives[sample.pid].append(sample)
    long_ones = [life[int(WARM_UP * len(life)) :] for life in lives.values() if len(life) >= FEWEST]
    if not long_ones:
        return None
    lengths = np.array([life[-1].hours - life[0].hours for life in long_ones])
    slopes = np.array([_slopes(life) for life in long_ones])
    mib, fds = np.average(slopes, axis=0, weights=lengths)
    return Growth(
        lives=len(long_ones),
        hours=float(lengths.sum()),
        first_mib=long_ones[0][0].rss_mib,
        last_mib=long_ones[-1][-1].rss_mib,
        mib_per_hour=float(mib),
        fds_per_hour=float(fds),
    )


def _slopes(life: list[Sample]) -> tuple[float, float]:
    hours = [sample.hours for sample in life]
    rss = np.polyfit(hours, [sample.rss_mib for sample in life], 1)
    fds = np.polyfit(hours, [float(sample.num_fds) for sample in life], 1)
    return float(rss[0]), float(fds[0])


class Vitals:
    """Takes samples now and then, while ``run`` runs.

    Args:
        node: whose.
        plan: what time it is.
    """

    def __init__(self, node: NodeProcess, plan: Plan) -> None:
        self._node, self._plan = node, plan
        self.core: list[Sample] = []
        self.worker: list[Sample] = []

    async def run(self) -> None:
        """Take samples for ever."""
        while True:
            for pid, samples in ((self._node.pid, self.core), (self._node.worker_pid, self.worker)):
                if pid is not None:
                    self._take(pid, samples)
            await asyncio.sleep(EVERY_S)

    def _take(self, pid: int, samples: list[Sample]) -> None:
        with contextlib.suppress(psutil.Error):  # it has just died
            process = psutil.Process(pid)
            rss = process.memory_info().rss / MIB
            samples.append(Sample(pid, self._plan.hours, rss, process.num_fds()))
