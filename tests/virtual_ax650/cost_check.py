"""Checks the cost model: counted calls and bytes must give the published speeds.

``python -m tests.virtual_ax650.cost_check`` prints the table. No prediction of the model is worth
quoting while a row is off by more than 15 %.
"""

import tempfile
from dataclasses import dataclass
from pathlib import Path

from tests.virtual_ax650.card import open_card
from tests.virtual_ax650.pack import GEOMETRIES, pack_hollow
from tests.virtual_ax650.schemes import CopyingLoop, Loop, VendorLoop, start_runtime, stop_runtime

__all__ = ["LIMIT", "POINTS", "Point", "Result", "check", "format_table"]

LIMIT = 0.15
NUM_TOKENS = 3


@dataclass(frozen=True, slots=True)
class Point:
    """A published speed."""

    model: str
    loop: type[Loop]
    last_n: int
    published_s: float
    """Per token."""
    python_s: float = 0.0
    """What the host's own work takes per token; not the card's, so it is added."""


POINTS = (
    # gregm's measurement: 0.680 s of layers and 0.054 s of Python (facts 2.4).
    Point("qwen3-4b", CopyingLoop, 1023, 0.734, python_s=0.054),
    # ax-llm on a Pi 5 (facts 5.2); the builds had 2559, 2047 and 2559 rows (facts 1.4).
    Point("qwen3-4b", VendorLoop, 2559, 1 / 3.65),
    Point("qwen3-1.7b", VendorLoop, 2047, 1 / 7.38),
    Point("qwen3-0.6b", VendorLoop, 2559, 1 / 12.88),
)


@dataclass(frozen=True, slots=True)
class Result:
    """What was counted for one token, and what it costs."""

    point: Point
    model_s: float
    executes: int
    copies: int
    bus_bytes: int

    @property
    def error(self) -> float:
        """How far the model is off."""
        return self.model_s / self.point.published_s - 1


def check(point: Point, folder: Path) -> Result:
    """Run a hollow model, and cost what was counted."""
    path = pack_hollow(GEOMETRIES[point.model], folder, last_n=point.last_n, ladder=())
    with open_card(COST="on") as card:
        device = start_runtime(card.axcl)
        with point.loop(card.axcl, path) as loop:
            loop.feed([1])
            card.reset_counters()
            for _ in range(NUM_TOKENS):
                loop.feed([1])
            seconds, counters = card.seconds, card.counters()
        stop_runtime(card.axcl, device)
    copies = sum(counters[f"{direction}_copies"] for direction in ("h2d", "d2h", "d2d"))
    return Result(
        point=point,
        model_s=seconds / NUM_TOKENS + point.python_s,
        executes=(counters["layer_executes"] + counters["post_executes"]) // NUM_TOKENS,
        copies=copies // NUM_TOKENS,
        bus_bytes=(counters["h2d_bytes"] + counters["d2h_bytes"]) // NUM_TOKENS,
    )


def format_table(results: list[Result]) -> str:
    """Write a Markdown table."""
    lines = [
        "| model | loop | rows | executes | copies | bus MB | model | published | off |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {result.point.model} | {result.point.loop.__name__} | {result.point.last_n} "
        f"| {result.executes} | {result.copies} | {result.bus_bytes / 1e6:.3f} "
        f"| {result.model_s * 1000:.1f} ms, {1 / result.model_s:.2f}/s "
        f"| {result.point.published_s * 1000:.1f} ms, {1 / result.point.published_s:.2f}/s "
        f"| {result.error:+.1%} |"
        for result in results
    ]
    return "\n".join(lines)


def main() -> None:
    """Check all points."""
    results = []
    for point in POINTS:
        with tempfile.TemporaryDirectory() as folder:
            results.append(check(point, Path(folder)))
    print(format_table(results))
    if any(abs(result.error) > LIMIT for result in results):
        raise SystemExit(f"off by more than {LIMIT:.0%}")


if __name__ == "__main__":
    main()
