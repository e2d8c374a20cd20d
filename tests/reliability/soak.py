"""Days of an installation in minutes: visitors, nights, restarts of the broker, faults by chance.

python -m tests.reliability.soak --hours 24 --compress 20 [--out FILE.json] [--write-docs]
"""

import argparse
import asyncio
import json
import random
import statistics
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tests.cards import pack_built_in
from tests.reliability.catalog import FAULTS
from tests.reliability.clocks import FACTOR
from tests.reliability.faults import Fault, NotFiredError, stop_broker
from tests.reliability.matrix import machine, open_folder
from tests.reliability.table import write_docs
from tests.reliability.traffic import Plan, Visitors
from tests.reliability.vitals import Vitals, growth_of
from tests.reliability.world import EngineKind, World, open_world

__all__ = ["main", "run_soak"]

BROKER_EVERY_H = 3.0
FAULT_EVERY_H = 1.0
NOTICED_TIMEOUT_S = 30.0
WORKS_TIMEOUT_S = 120.0
MOST_ERRORS = 0.01
MOST_MIB_PER_HOUR = 0.5
MOST_FDS_PER_HOUR = 0.1
MOST_LATENCY_GROWTH = 1.5
LEFT_OUT = (
    *("both_killed", "card_dead_at_start"),  # the core must live to be measured
    "broker_gone",  # it has restarts of its own here
    *("worker_sigkill_wedges", "card_hangs_wedges"),  # their card would be another one
)


class Trouble:
    """Restarts the broker and injects faults, one at a time.

    Args:
        world: into which.
        plan: what time it is.
        seed: of chance.
        faults: from which it draws.
    """

    def __init__(self, world: World, plan: Plan, seed: int, faults: list[Fault]) -> None:
        self._world, self._plan, self._faults = world, plan, faults
        self._chance = random.Random(seed)
        self.done: list[dict[str, Any]] = []
        self.num_broker_restarts = 0

    async def run(self, hours: float) -> None:
        """Make trouble until so many hours of the plan have passed."""
        next_fault = min(FAULT_EVERY_H / 2, hours / 4)
        next_restart = min(BROKER_EVERY_H / 2, hours / 2)
        while self._plan.hours < hours:
            await asyncio.sleep(0.1)
            if self._plan.hours >= next_restart:
                next_restart += BROKER_EVERY_H
                self.num_broker_restarts += 1
                await stop_broker(self._world)
            if self._plan.hours >= next_fault:
                await self._inject()
                next_fault = self._plan.hours + self._chance.expovariate(1 / FAULT_EVERY_H)

    async def _inject(self) -> None:
        fault = self._chance.choice(
            [fault for fault in self._faults if self._plan.is_open or not fault.is_of_load]
        )
        entry: dict[str, Any] = {"hour": round(self._plan.hours, 2), "fault": fault.name}
        self.done.append(entry)
        try:
            at = await fault.inject(self._world)
        except NotFiredError as exc:
            self._world.reset()
            entry["trouble"] = str(exc)
            return
        watch, signs = self._world.watch, fault.signs or ()
        if signs:
            await self._world.until(lambda: watch.first(signs, at), NOTICED_TIMEOUT_S)
        await asyncio.sleep(0.5)  # for what follows to be told
        if not await self._world.until(lambda: watch.is_working, WORKS_TIMEOUT_S):
            entry["trouble"] = f"does not work after {WORKS_TIMEOUT_S:g} s: {watch.health}"
            self._world.reset()
        seen = watch.first(signs, at)
        entry["noticed_s"] = None if seen is None else round(seen - at, 2)
        entry["works_s"] = round(time.monotonic() - at, 1)
        print(time.strftime("%H:%M:%S"), entry, flush=True)


@asynccontextmanager
async def _in_background(*coroutines: Any) -> AsyncIterator[None]:
    tasks = [asyncio.create_task(coroutine) for coroutine in coroutines]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def run_soak(
    folder: Path, *, hours: float, compress: float, seed: int, engine: EngineKind = "card"
) -> dict[str, Any]:
    """Live through some hours of the plan; return what was measured.

    Args:
        folder: for all files; empty.
        hours: of the plan.
        compress: seconds of the plan in one of ours.
        seed: of all chance.
        engine: what answers.
    """
    model = pack_built_in(folder / "model")
    faults = [
        fault for fault in FAULTS.values() if engine in fault.engines and fault.name not in LEFT_OUT
    ]
    (folder / "world").mkdir()
    needs = {need for fault in faults for need in fault.needs}
    async with open_world(
        folder / "world", engine, model, seed=seed, think_s=None, needs=needs
    ) as world:
        plan = Plan(compress)
        visitors = Visitors(world.crowd, plan, seed)
        trouble = Trouble(world, plan, seed, faults)
        vitals = Vitals(world.node, plan)
        began = time.monotonic()
        async with _in_background(vitals.run()):
            await asyncio.gather(visitors.run(hours), trouble.run(hours))
        await world.crowd.stop()
        tally = world.crowd.tally(began)
        notes = world.notes
    return {
        "hours": hours,
        "compress": compress,
        "factor": FACTOR,
        "engine": engine,
        "seed": seed,
        "machine": machine(),
        **asdict(tally),
        "presses": visitors.num_presses,
        "presses_in_vain": visitors.num_in_vain,
        "broker_restarts": trouble.num_broker_restarts,
        "faults": trouble.done,
        "latency_s": _latency(world, began),
        "growth": {
            name: growth and asdict(growth)
            for name, growth in (
                ("core", growth_of(vitals.core)),
                ("worker", growth_of(vitals.worker)),
            )
        },
        "notes": notes,
    }


def _latency(world: World, since: float) -> dict[str, float]:
    """The middle latency of the first and of the last quarter of the answers, in seconds."""
    asked = sorted(
        (asked.at, asked.finals[0][0] - asked.at)
        for asked in world.crowd.asked.values()
        if asked.at >= since and asked.finals and not asked.error
    )
    quarter = max(len(asked) // 4, 1)
    parts = {"first_quarter": asked[:quarter], "last_quarter": asked[-quarter:]}
    return {
        name: round(statistics.median(latency for _, latency in part), 3)
        for name, part in parts.items()
        if part
    }


def failures_of(report: dict[str, Any], *, is_long: bool = True) -> list[str]:
    """Return what must not be; growth is judged only where there was time for it."""
    errors = sum(report["errors"].values())
    latency = report["latency_s"]
    checks = [
        (bool(report["lost"]), f"{len(report['lost'])} requests were lost"),
        (bool(report["contradicted"]), f"{len(report['contradicted'])} had two answers"),
        (bool(report["wrong"]), f"{len(report['wrong'])} answers were wrong"),
        (errors > MOST_ERRORS * report["asked"], f"{errors} of {report['asked']} were errors"),
        (not report["asked"], "nothing was asked"),
        *(
            (True, f"{fault['fault']}: {fault['trouble']}")
            for fault in report["faults"]
            if "trouble" in fault
        ),
    ]
    if is_long:
        limit = MOST_LATENCY_GROWTH * latency["first_quarter"]
        checks.append((latency["last_quarter"] > limit, f"the latency grew: {latency}"))
        for name, growth in report["growth"].items():
            if growth is None:
                checks.append((True, f"{name}: it never lived long enough"))
                continue
            checks += [
                (growth["mib_per_hour"] > MOST_MIB_PER_HOUR, f"{name} grows: {growth}"),
                (growth["fds_per_hour"] > MOST_FDS_PER_HOUR, f"{name} opens files: {growth}"),
            ]
    return [text for is_wrong, text in checks if is_wrong]


def describe(report: dict[str, Any]) -> str:
    """Return what was measured as a table of Markdown."""
    errors = sum(report["errors"].values())
    latency, growth = report["latency_s"], report["growth"]
    lines = {
        "plan": f"{report['hours']:g} h, {report['compress']:g} times compressed, from 10 o'clock; "
        f"visitors until 18 o'clock",
        "engine": f"{report['engine']}; {report['machine']}; seed {report['seed']}",
        "requests": f"{report['asked']}; {report['presses_in_vain']} presses met a busy station",
        "lost": str(len(report["lost"]) + len(report["contradicted"])),
        "wrong answers": str(len(report["wrong"])),
        "answered with an error": f"{errors} ({100 * errors / max(report['asked'], 1):.2f} %)"
        + (f": {dict(report['errors'])}" if errors else ""),
        "faults": str(len(report["faults"])),
        "restarts of the broker": str(report["broker_restarts"]),
        "latency, median": f"{latency['first_quarter']:.2f} s in the first quarter, "
        f"{latency['last_quarter']:.2f} s in the last",
    }
    for name, grown in growth.items():
        lines[f"growth of the {name}"] = grown and (
            f"{grown['mib_per_hour']:+.3f} MiB and {grown['fds_per_hour']:+.3f} file descriptors "
            f"per hour of the plan ({grown['first_mib']:.0f} to {grown['last_mib']:.0f} MiB, "
            f"{grown['lives']} processes)"
        )
    rows = [f"| {name} | {text} |" for name, text in lines.items()]
    return "\n".join(["| | |", "| --- | --- |", *rows])


def main(arguments: list[str] | None = None) -> int:
    """Run it; return 0 if nothing was lost, wrong or growing."""
    parser = argparse.ArgumentParser(prog="python -m tests.reliability.soak")
    parser.add_argument("--hours", type=float, default=24.0, help="of the plan")
    parser.add_argument("--compress", type=float, default=20.0, help="seconds of the plan in ours")
    parser.add_argument("--engine", choices=("card", "cpu"), default="card")
    parser.add_argument("--seed", type=int, default=random.randrange(10**6))
    parser.add_argument("--out", type=Path, metavar="FILE.json")
    parser.add_argument("--folder", type=Path, help="keep all files here, logs too; must be empty")
    parser.add_argument("--write-docs", action="store_true", help="into docs/reliability.md")
    options = parser.parse_args(arguments)
    print(f"seed {options.seed}; clocks {FACTOR:g} times faster than the defaults", flush=True)
    with open_folder(options.folder) as folder:
        report = asyncio.run(
            run_soak(
                folder,
                hours=options.hours,
                compress=options.compress,
                seed=options.seed,
                engine=options.engine,
            )
        )
    if options.out:
        options.out.write_text(json.dumps(report, indent=1))
    print(describe(report))
    if options.write_docs:
        write_docs("soak", describe(report))
    failures = failures_of(report)
    for failure in failures:
        print(f"FAILED {failure}")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
