"""The measured, as a table of Markdown, and its place in the documentation."""

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

__all__ = ["describe", "write_docs"]

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
