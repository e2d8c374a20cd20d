"""The command line: ``python -m tests.fuzz TARGET --seconds N``, or ``--all --minutes N``."""

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from tests.fuzz.session import Outcome, fuzz_target
from tests.fuzz.target import target_names

HEADINGS = ("target", "executions", "per s", "edges at start", "at end", "corpus", "crashes")
ROW = "{:<18} {:>11} {:>8} {:>14} {:>7} {:>7} {:>7}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Fuzz; return 1 if there were crashes."""
    options = _read(arguments)
    names = target_names() if options.all else [options.target]
    seconds = options.minutes * 60 / len(names) if options.all else options.seconds
    folder = options.folder or Path(tempfile.mkdtemp(prefix="fuzz-"))
    print(f"{seconds:.0f} s for each target; corpora and crashes are kept in {folder}")
    print(ROW.format(*HEADINGS), flush=True)
    outcomes = []
    for name in names:
        outcomes.append(fuzz_target(name, seconds, folder / name))
        print(_row(outcomes[-1]), flush=True)
        if options.out:
            options.out.write_text(json.dumps([_told(each) for each in outcomes], indent=2) + "\n")
    crashes = [crash for outcome in outcomes for crash in outcome.crashes]
    print(*crashes, sep="\n")
    return 1 if crashes else 0


def _read(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("target", nargs="?", choices=target_names(), metavar="TARGET")
    parser.add_argument("--all", action="store_true", help="all targets, one after another")
    parser.add_argument("--seconds", type=float, default=60, help="for the one target")
    parser.add_argument("--minutes", type=float, default=30, help="for all targets together")
    parser.add_argument("--folder", type=Path, help="for corpora and crashes; may be used again")
    parser.add_argument("--out", type=Path, help="where the figures go as JSON")
    options = parser.parse_args(arguments)
    if bool(options.target) == options.all:
        parser.error(f"name a target, or say --all (there are: {', '.join(target_names())})")
    return options


def _row(outcome: Outcome) -> str:
    return ROW.format(
        outcome.target,
        outcome.executions,
        f"{outcome.executions_per_s:.0f}",
        outcome.edges_at_start,
        outcome.edges_at_end,
        outcome.corpus,
        len(outcome.crashes),
    )


def _told(outcome: Outcome) -> dict[str, object]:
    return {**asdict(outcome), "executions_per_s": round(outcome.executions_per_s, 1)}


if __name__ == "__main__":
    sys.exit(main())
