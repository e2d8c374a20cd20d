"""The fault matrix: each fault again and again into a node under load.

    python -m tests.reliability.matrix --times 20 [--only NAME ...] [--out FILE.json] [--write-docs]

It prints a line for each injection, then the table.
"""

import argparse
import asyncio
import json
import os
import platform
import random
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from itertools import groupby
from pathlib import Path
from typing import Any

from tests.cards import pack_built_in
from tests.reliability.catalog import FAULTS
from tests.reliability.clocks import FACTOR
from tests.reliability.faults import Fault
from tests.reliability.injection import Row, run_faults
from tests.reliability.table import describe, write_docs
from tests.reliability.world import EngineKind

__all__ = ["machine", "main", "make_groups", "open_folder"]

ENGINES: tuple[EngineKind, ...] = ("card", "cpu")


def make_groups(
    names: list[str], engines: tuple[EngineKind, ...]
) -> list[tuple[EngineKind, list[Fault]]]:
    """Put together faults that can be injected into one world, one after another."""
    groups = []
    for engine in engines:
        faults = [FAULTS[name] for name in names if engine in FAULTS[name].engines]
        faults.sort(key=_world)
        groups += [(engine, list(group)) for _, group in groupby(faults, _world)]
    return groups


def _world(fault: Fault) -> tuple[str, ...]:
    return (*sorted(fault.needs), *map(str, fault.switches))


async def _run(options: argparse.Namespace, folder: Path) -> list[Row]:
    model = pack_built_in(folder / "model")
    rows: list[Row] = []
    groups = make_groups(options.only or list(FAULTS), options.engine or ENGINES)
    for number, (engine, faults) in enumerate(groups):
        where = folder / f"world{number}"
        where.mkdir()
        rows += await run_faults(
            where,
            faults,
            engine,
            model,
            times=options.times,
            seed=options.seed + number,
            tell=_tell,
        )
        if options.out:  # also of a run that is broken off
            options.out.write_text(json.dumps(_report(options, rows), indent=1))
    names = list(FAULTS)
    return sorted(rows, key=lambda row: (ENGINES.index(row.engine), names.index(row.fault)))


def _tell(line: str) -> None:
    print(time.strftime("%H:%M:%S"), line, flush=True)


def _report(options: argparse.Namespace, rows: list[Row]) -> dict[str, Any]:
    return {
        "times": options.times,
        "seed": options.seed,
        "factor": FACTOR,
        "machine": machine(),
        "rows": [asdict(row) for row in rows],
    }


def machine() -> str:
    """Say what was measured on."""
    return f"{os.cpu_count()} cores of {platform.machine()}, Python {platform.python_version()}"


@contextmanager
def open_folder(kept: Path | None) -> Iterator[Path]:
    """Give a folder: one that is kept, or one that goes at the end."""
    if kept:
        kept.mkdir(parents=True, exist_ok=True)
        yield kept
        return
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        yield Path(folder)


def main(arguments: list[str] | None = None) -> int:
    """Run it; return 0 if nothing was lost, wrong, unnoticed or not well again."""
    parser = argparse.ArgumentParser(prog="python -m tests.reliability.matrix")
    parser.add_argument("--times", type=int, default=20, help="injections of each fault")
    parser.add_argument("--only", nargs="+", choices=FAULTS, metavar="NAME", help=", ".join(FAULTS))
    parser.add_argument("--engine", nargs="+", choices=ENGINES)
    parser.add_argument("--seed", type=int, default=random.randrange(10**6))
    parser.add_argument("--out", type=Path, metavar="FILE.json")
    parser.add_argument("--folder", type=Path, help="keep all files here, logs too; must be empty")
    parser.add_argument("--write-docs", action="store_true", help="into docs/reliability.md")
    options = parser.parse_args(arguments)
    print(f"seed {options.seed}, clocks {FACTOR:g} times faster than the defaults")
    with open_folder(options.folder) as folder:
        rows = asyncio.run(_run(options, folder))
    report = _report(options, rows)
    if options.out:
        options.out.write_text(json.dumps(report, indent=1))
    print(describe(report))
    if options.write_docs:
        write_docs("matrix", describe(report))
    failures = [failure for row in rows for failure in row.failures]
    for failure in failures:
        print(f"FAILED {failure}")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
