"""Visitors of an installation: opening hours, bursts, nights, in a plan that passes quickly."""

import asyncio
import contextlib
import random
import time
from dataclasses import dataclass, field

from tests.reliability.crowd import NUM_CLIENTS, PROMPTS, Asked, Crowd

__all__ = ["OPEN_HOURS", "PER_MINUTE", "Plan", "Visitors"]

OPEN_HOURS = (10.0, 18.0)
PER_MINUTE = 10.0
"""Requests in opening hours, on average, from all eight stations."""
BURSTS_PER_HOUR = 2.0
BURST_LEN = 24
"""Requests of a school class, which presses at all stations as soon as they have answered."""
HOUR_S = 3600.0
TICK_S = 0.02


@dataclass
class Plan:
    """The time in the installation, which passes faster than ours.

    Args:
        compress: seconds of the plan in one of ours.
        start_hour: of the day.
    """

    compress: float
    start_hour: float = OPEN_HOURS[0]
    began: float = field(default_factory=time.monotonic)

    @property
    def hours(self) -> float:
        """How many hours of the plan have passed."""
        return (time.monotonic() - self.began) * self.compress / HOUR_S

    @property
    def is_open(self) -> bool:
        """Whether visitors are there."""
        low, high = OPEN_HOURS
        return low <= (self.start_hour + self.hours) % 24 < high


class Visitors:
    """Eight stations with one visitor each, who waits for the answer before the next question.

    A press while the station still answers asks nothing, and is counted: it is the price of a plan
    that passes faster than the engine works.

    Args:
        crowd: its clients are the stations.
        plan: when who comes.
        seed: of chance.
    """

    def __init__(self, crowd: Crowd, plan: Plan, seed: int) -> None:
        self._crowd, self._plan = crowd, plan
        self._chance = random.Random(seed)
        self._latest: dict[int, Asked] = {}
        self.num_presses = 0
        self.num_in_vain = 0
        """Presses while the station was still busy."""

    async def run(self, hours: float) -> None:
        """Come and go until so many hours of the plan have passed."""
        last_hours = self._plan.hours
        while self._plan.hours < hours:
            await asyncio.sleep(TICK_S)
            now_hours = self._plan.hours
            passed_h, last_hours = now_hours - last_hours, now_hours
            if not self._plan.is_open:
                continue
            if self._chance.random() < passed_h * BURSTS_PER_HOUR:
                await self._burst()
                last_hours = self._plan.hours
            for _ in range(self._draw(passed_h * 60 * PER_MINUTE)):
                self._press(self._chance.randrange(NUM_CLIENTS))

    def _draw(self, mean: float) -> int:
        """Return how many come in a short time."""
        count = int(mean)
        return count + (self._chance.random() < mean - count)

    def _press(self, station: int) -> None:
        self.num_presses += 1
        latest = self._latest.get(station)
        if latest and not latest.finals:
            self.num_in_vain += 1
            return
        self._latest[station] = self._crowd.ask(station, self._chance.choice(PROMPTS))

    async def _burst(self) -> None:
        for _ in range(BURST_LEN // NUM_CLIENTS):
            for station in range(NUM_CLIENTS):
                self._press(station)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(HOUR_S / self._plan.compress):
                    for asked in self._latest.values():
                        await asked.done.wait()
