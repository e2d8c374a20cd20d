"""One row of the matrix: a fault is injected again and again, and what came of it is measured."""

import asyncio
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise
from math import inf
from pathlib import Path

from tests.reliability.crowd import Tally
from tests.reliability.faults import Fault, NotFiredError
from tests.reliability.world import EngineKind, World, open_world

__all__ = ["Row", "run_faults"]

WELL_TIMEOUT_S = 90.0
LEAST_WELL_S = 20.0  # also where all the time went by without a sign of the fault
THINK_S = 0.02
NUM_ANSWERS = 6
"""Of a node that is taken to be well."""


@dataclass
class Row:
    """What was measured of one fault on one engine."""

    fault: str
    title: str
    engine: EngineKind
    lasts_s: float
    injected: int = 0
    detected_s: list[float] = field(default_factory=list)
    """From the injection to the first sign of it."""
    back_s: list[float] = field(default_factory=list)
    """From the injection to the first answer to a request that was sent after it."""
    silence_s: list[float] = field(default_factory=list)
    """The longest time without an answer, until the node was well again."""
    asked: int = 0
    texts: int = 0
    errors: Counter[str] = field(default_factory=Counter)
    lost: int = 0
    repeated: int = 0
    contradicted: int = 0
    wrong: int = 0
    must_be_noticed: bool = True
    troubles: list[str] = field(default_factory=list)
    """Injections after which the node was not well again in time, or that did not happen."""

    def add(self, tally: Tally) -> None:
        """Take down what became of the requests."""
        self.asked += tally.asked
        self.texts += tally.texts
        self.errors += tally.errors
        self.lost += len(tally.lost)
        self.repeated += tally.repeated
        self.contradicted += len(tally.contradicted)
        self.wrong += len(tally.wrong)

    @property
    def failures(self) -> list[str]:
        """What must not be; empty if all is well."""
        wrong = [
            *self.troubles,
            *([f"{self.lost} requests had no final message"] if self.lost else []),
            *([f"{self.contradicted} had two that differ"] if self.contradicted else []),
            *([f"{self.wrong} answers were wrong"] if self.wrong else []),
        ]
        unnoticed = self.injected - len(self.detected_s)
        if self.must_be_noticed and unnoticed:
            wrong.append(f"{unnoticed} of {self.injected} were not noticed")
        if len(self.back_s) < self.injected:
            wrong.append(f"no answer after {self.injected - len(self.back_s)} of {self.injected}")
        return [f"{self.fault} on {self.engine}: {text}" for text in wrong]


Tell = Callable[[str], None]


async def run_faults(
    folder: Path,
    faults: list[Fault],
    engine: EngineKind,
    model: Path,
    *,
    times: int,
    seed: int,
    think_s: float = THINK_S,
    tell: Tell = print,
) -> list[Row]:
    """Inject some faults into one world, one after another; they must need the same world.

    Args:
        folder: for all files; empty.
        faults: what to inject.
        engine: into which node.
        model: the packed model, for the card.
        times: how often each.
        seed: of chance.
        think_s: how long a client waits, on average, before it asks again.
        tell: called with a line on each injection.
    """
    switches = {name: value for fault in faults for name, value in fault.switches.items()}
    needs = {need for fault in faults for need in fault.needs}
    rows = [_row(fault, engine) for fault in faults]
    ends: list[float] = []
    async with open_world(
        folder, engine, model, seed=seed, think_s=think_s, needs=needs, **switches
    ) as world:
        for fault, row in zip(faults, rows, strict=True):
            for number in range(times):
                await _inject(world, fault, row)
                tell(f"{fault.name} on {engine}, {number + 1} of {times}: {_latest(row)}")
            ends.append(time.monotonic())
        await world.crowd.stop()
        for row, (since, until) in zip(rows, pairwise([0.0, *ends[:-1], inf]), strict=True):
            row.add(world.crowd.tally(since, until))
    rows[-1].troubles += world.notes
    return rows


def _row(fault: Fault, engine: EngineKind) -> Row:
    row = Row(fault.name, fault.title, engine, fault.lasts_s)
    row.must_be_noticed = fault.signs is not None
    return row


async def _inject(world: World, fault: Fault, row: Row) -> None:
    if fault.is_fresh and world.is_used:
        await asyncio.to_thread(world.node.stop)
        world.reset()
        world.node.start()
    if not await world.until_well(NUM_ANSWERS, WELL_TIMEOUT_S):
        row.troubles.append(f"not well before it, but {world.watch.health}")
    row.injected += 1
    world.is_used = True
    try:
        at = await fault.inject(world)
    except NotFiredError as exc:
        row.troubles.append(str(exc))
        return
    deadline = at + fault.lasts_s + fault.limit_s
    if fault.signs:
        await world.until(lambda: world.watch.first(fault.signs or (), at), fault.limit_s)
    is_back = await world.until(
        lambda: world.crowd.first_text_after(at), deadline - time.monotonic()
    )
    left_s = max(deadline - time.monotonic(), LEAST_WELL_S)
    if not (is_back and await world.until_well(NUM_ANSWERS, left_s)):
        row.troubles.append(
            f"not well {fault.limit_s:g} s after injection {row.injected}: {world.watch.health}"
        )
        world.reset()
    if fault.signs and (seen := world.watch.first(fault.signs, at)):
        row.detected_s.append(seen - at)
    if back := world.crowd.first_text_after(at):
        row.back_s.append(back - at)
    row.silence_s.append(world.crowd.longest_silence_s(at, time.monotonic()))


def _latest(row: Row) -> str:
    def shown(values: list[float]) -> str:
        return f"{values[-1]:.2f} s" if len(values) == row.injected else "not always"

    noticed = shown(row.detected_s) if row.must_be_noticed else "not to be"
    return f"noticed {noticed}, back {shown(row.back_s)}, troubles {len(row.troubles)}"
