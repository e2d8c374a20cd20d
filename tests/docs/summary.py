"""How many blocks of the documentation were run, where, and which were not; said at the end."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from tests.docs.blocks import OWN_TEST, PLACES, Block

__all__ = ["COMMANDS", "as_property", "describe", "outcomes"]

COMMANDS = "documentation"
"""Under this name a test records what became of a block."""
RAN = ("clone", "node", "fleet", "machine", "fresh", OWN_TEST)


def as_property(block: Block, outcome: str) -> tuple[str, str]:
    """Return what to record of a block: ``run``, ``failed``, ``skipped`` or ``not run``."""
    return COMMANDS, f"{block.place} {outcome}"


def outcomes(reports: Iterable[Any]) -> Iterator[str]:
    """Yield what tests have recorded, from their reports."""
    for report in reports:
        if getattr(report, "when", None) == "call":
            for name, value in report.user_properties:
                if name == COMMANDS:
                    yield str(value)


def describe(recorded: Sequence[str]) -> str:
    """Say it in a line."""
    count = Counter(recorded)
    ran = {place: number for place in RAN if (number := count[f"{place} run"])}
    where = ", ".join(f"{number} {PLACES[place]}" for place, number in ran.items())
    parts = [f"{sum(ran.values())} were run" + (f" ({where})" if where else "")]
    for outcome, place in (("not run", "ci"), ("not run", "card")):
        if number := count[f"{place} {outcome}"]:
            parts.append(f"{number} {PLACES[place]}")
    for outcome, words in (("failed", "failed"), ("skipped", "were left out")):
        if number := sum(count[f"{place} {outcome}"] for place in RAN):
            parts.append(f"{number} {words}")
    return f"blocks of commands in the documentation: {', '.join(parts)}"
