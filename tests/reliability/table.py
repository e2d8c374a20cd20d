"""What was measured, as a table of Markdown, and its place in the documentation.

The matrix takes hours, so it may be run in parts:

    python -m tests.reliability.table FILE.json ... [--write-docs]
"""

import argparse
import json
import statistics
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.reliability.catalog import FAULTS

__all__ = ["describe", "main", "merge", "write_docs"]

OF_THE_FAULT = ("fault", "title", "engine", "lasts_s", "must_be_noticed")
DOCS = Path(__file__).parent.parent.parent / "docs" / "reliability.md"

COLUMNS = (
    "fault",
    "engine",
    "times",
    "lasts",
    "noticed after",
    "answers again after",
    "longest without an answer",
    "requests",
    "answered with text",
    "with an error",
    "lost",
    "wrong",
)


def _shown(values: Sequence[float]) -> str:
    """The middle one, and the longest."""
    if not values:
        return "never"
    return f"{statistics.median(values):.1f} s ({max(values):.1f})"


def _errors(errors: Mapping[str, int]) -> str:
    counts = ", ".join(f"{count} {code}" for code, count in sorted(errors.items()))
    return counts or "0"


def _cells(row: Mapping[str, Any]) -> tuple[str, ...]:
    noticed = _shown(row["detected_s"]) if row["must_be_noticed"] else "need not be"
    return (
        row["title"],
        row["engine"],
        str(row["injected"]),
        f"{row['lasts_s']:g} s" if row["lasts_s"] else "",
        noticed,
        _shown(row["back_s"]),
        _shown(row["silence_s"]),
        str(row["asked"]),
        str(row["texts"]),
        _errors(row["errors"]),
        str(row["lost"] + row["contradicted"]),
        str(row["wrong"]),
    )


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def describe(report: Mapping[str, Any]) -> str:
    """Return the table, with what was measured on and how."""
    rows = report["rows"]
    asked, lost = (sum(row[name] for row in rows) for name in ("asked", "lost"))
    wrong = sum(row["wrong"] for row in rows)
    errors = sum(sum(row["errors"].values()) for row in rows)
    head = (
        f"{sum(row['injected'] for row in rows)} injections, {asked} requests: {lost} lost, "
        f"{wrong} wrong answers, {errors} answered with an error. Clocks {report['factor']:g} "
        f"times faster than the defaults; {report['machine']}; seed {report['seed']}. Times are "
        "the median and, in brackets, the longest."
    )
    lines = [_line(COLUMNS), _line(["---"] * len(COLUMNS))]
    return "\n".join([head, "", *lines, *(_line(_cells(row)) for row in rows)])


def merge(reports: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Put the reports of several runs together; rows of one fault and engine become one.

    Raises:
        ValueError: they were not measured with the same clocks, on the same kind of machine.
    """
    if len({(report["factor"], report["machine"]) for report in reports}) != 1:
        raise ValueError("these runs can't be compared: clocks or machines differ")
    rows: dict[tuple[str, str], dict[str, Any]] = {}
    for report in reports:
        for row in report["rows"]:
            merged = rows.setdefault((row["engine"], row["fault"]), {})
            for name, value in row.items():
                is_first = name in OF_THE_FAULT or name not in merged
                merged[name] = value if is_first else _sum(merged[name], value)
    names = list(FAULTS)
    return {
        **reports[0],
        "seed": ", ".join(str(report["seed"]) for report in reports),
        "rows": [rows[key] for key in sorted(rows, key=lambda key: (key[0], names.index(key[1])))],
    }


def _sum(before: Any, value: Any) -> Any:
    if isinstance(value, Mapping):
        return dict(Counter(before) + Counter(value))
    return before + value


def write_docs(name: str, text: str) -> None:
    """Put a text into the documentation, between its markers.

    Raises:
        ValueError: there are no such markers.
    """
    begin, end = f"<!-- {name}: begin -->\n", f"<!-- {name}: end -->"
    before, found, rest = DOCS.read_text().partition(begin)
    _, found_end, after = rest.partition(end)
    if not (found and found_end):
        raise ValueError(f"{DOCS} has no markers for {name}")
    DOCS.write_text(f"{before}{begin}{text}\n{end}{after}")


def main(arguments: list[str] | None = None) -> int:
    """Print the table of several runs; return 0 if nothing was lost or wrong in any."""
    parser = argparse.ArgumentParser(prog="python -m tests.reliability.table")
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE.json")
    parser.add_argument("--write-docs", action="store_true", help="into docs/reliability.md")
    options = parser.parse_args(arguments)
    report = merge([json.loads(path.read_text()) for path in options.files])
    print(describe(report))
    if options.write_docs:
        write_docs("matrix", describe(report))
    troubles = [trouble for row in report["rows"] for trouble in row["troubles"]]
    for trouble in troubles:
        print(f"TROUBLE {trouble}")
    bad = sum(row[name] for row in report["rows"] for name in ("lost", "contradicted", "wrong"))
    return 1 if bad or troubles else 0


if __name__ == "__main__":
    sys.exit(main())
