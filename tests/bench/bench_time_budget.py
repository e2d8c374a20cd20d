"""Do replies with a time budget end in time? ``python -m tests.bench.bench_time_budget``.

At the speeds of three sizes of model, 100 replies each have 3 s; they run at once, each on an
engine of its own. Prints a table and JSON: the share that end in time (200 ms late at most) and on
the end of a sentence, of which 95 % are wanted; how late the latest was; and how much of the time
is used, up to the last sentence and up to the end.
"""

import argparse
import asyncio
import json
import platform
import random
import statistics
import time
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

import structlog

from edge_llm.engine.paced import PacedEngine
from edge_llm.engine.queue import QueuedEngine
from edge_llm.protocol import ChatRequest, Delta, Done
from edge_llm.settings import EngineSettings, PacedSettings, QueueSettings

SPEEDS = (5.0, 20.0, 40.0)  # tokens/s
BUDGET_S, LATE_S = 3.0, 0.2
TTFT_S = 0.3
WANTED = 0.95
WORDS = ("the", "sea", "night", "long", "wide", "moon", "of", "and", "under", "we", "sleeps", "far")
MARKS = ".!?"


@dataclass(frozen=True, slots=True)
class Reply:
    """How one reply went."""

    took_s: float
    last_text_s: float
    text: str
    finish_reason: str
    is_whole: bool


def make_text(dice: random.Random) -> str:
    """Make more sentences of 2 to 14 words than fit into any budget."""
    sentences = []
    for _ in range(100):
        words = [dice.choice(WORDS) for _ in range(dice.randint(2, 14))]
        sentences.append(" ".join(words).capitalize() + dice.choice(MARKS))
    return " ".join(sentences)


async def reply(tokens_per_s: float, seed: int) -> Reply:
    """Ask an engine of its own."""
    text = make_text(random.Random(seed))
    paced = PacedSettings(text=text, ttft_s=TTFT_S, tokens_per_s=tokens_per_s)
    engine = QueuedEngine(PacedEngine(EngineSettings(kind="paced", paced=paced)), QueueSettings())
    request = ChatRequest(prompt="Go on.", time_budget_s=BUDGET_S)
    said, last_text_s, reason = "", 0.0, "none"
    begin = time.monotonic()
    async with aclosing(engine.generate(request)) as events:
        async for event in events:
            if isinstance(event, Delta):
                said += event.text
                last_text_s = time.monotonic() - begin
            elif isinstance(event, Done):
                reason = event.finish_reason
    took_s = time.monotonic() - begin
    is_whole = said.endswith(tuple(MARKS)) and text.startswith(said)
    return Reply(took_s, last_text_s, said, reason, is_whole)


async def measure(tokens_per_s: float, count: int) -> dict[str, Any]:
    """Measure so many replies at once."""
    seeds = (int(tokens_per_s * 1000) + n for n in range(count))
    replies = await asyncio.gather(*(reply(tokens_per_s, seed) for seed in seeds))
    good = [r for r in replies if r.is_whole and r.took_s <= BUDGET_S + LATE_S]
    return {
        "tokens_per_s": tokens_per_s,
        "replies": count,
        "in_time_and_whole": len(good) / count,
        "in_time": sum(r.took_s <= BUDGET_S + LATE_S for r in replies) / count,
        "whole": sum(r.is_whole for r in replies) / count,
        "ellipsis": sum(r.text.endswith("…") for r in replies) / count,
        "latest_s": round(max(r.took_s for r in replies), 3),
        "median_end_s": round(statistics.median(r.took_s for r in replies), 3),
        "median_last_text_s": round(statistics.median(r.last_text_s for r in replies), 3),
        "median_words": statistics.median(len(r.text.split()) for r in replies),
    }


def main() -> None:
    """Measure, and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=100, help="replies at each speed")
    count = parser.parse_args().count
    structlog.configure(logger_factory=structlog.ReturnLoggerFactory())
    rows = [asyncio.run(measure(speed, count)) for speed in SPEEDS]
    for name in rows[0]:
        print(f"{name:20}", *(f"{row[name]:>8}" for row in rows))
    result = {
        "machine": platform.processor() or platform.machine(),
        "budget_s": BUDGET_S,
        "rows": rows,
        "wanted": WANTED,
        "reached": min(row["in_time_and_whole"] for row in rows) >= WANTED,
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
