"""How early the first sentence is out: ``python -m tests.bench.bench_first_sentence``.

The paced engine at the speeds of four models on the card, behind a real mosquitto: the time from
the request to the first delta of a sentence, beside the time to the first token and of the
sentence's own tokens, which no software can do without. Prints a table and JSON.
"""

import asyncio
import json
import logging
import statistics
import tempfile
import time
from pathlib import Path

import structlog

from edge_llm.engine.paced import PacedEngine
from edge_llm.engine.queue import QueuedEngine
from edge_llm.settings import EngineSettings, PacedSettings, QueueSettings
from tests.brokers import Mosquitto
from tests.stage import STATUS, serving

BAR = 1.2
SPEEDS = (4.2, 9.4, 19.6, 40.0)  # tokens/s
TTFT_S = 0.5
FIRST = (
    "I see a door.",
    "The night is quiet and the water is warm.",
    'She said "come in" to nobody at all.',
    "About 3.5 metres below us Dr. Mirror sleeps.",
    "Who is there?",
)
REST = " And then there is more to say. It goes on."


async def measure(port_of: Mosquitto, text: str, tokens_per_s: float) -> tuple[float, float]:
    """Return seconds to the first sentence, and what its tokens alone take."""
    num_tokens = len(text.split())
    settings = EngineSettings(
        paced=PacedSettings(text=text + REST, ttft_s=TTFT_S, tokens_per_s=tokens_per_s)
    )
    queue = QueuedEngine(PacedEngine(settings), QueueSettings())
    broker = port_of.broker()
    async with broker.client() as client, serving(broker.settings(), queue):
        await client.subscribe("llm/response/#", STATUS)
        await client.wait_for(STATUS)
        begin = time.monotonic()
        client.publish("llm/request/a", json.dumps({"prompt": "x", "stream": "sentence"}))
        [first, *_] = await client.wait_for("llm/response/a/delta", timeout_s=30)
        elapsed = time.monotonic() - begin
        if json.loads(first)["text"] != text:
            raise SystemExit(f"not the first sentence: {first!r}")
    return elapsed, TTFT_S + (num_tokens - 1) / tokens_per_s


async def run() -> list[dict[str, float]]:
    """Measure all speeds."""
    rows = []
    for tokens_per_s in SPEEDS:
        ratios = []
        for text in FIRST:
            with tempfile.TemporaryDirectory() as name, Mosquitto(Path(name)) as mosquitto:
                elapsed, bound = await measure(mosquitto, text, tokens_per_s)
            ratios.append(elapsed / bound)
        rows.append(
            {
                "tokens_per_s": tokens_per_s,
                "median_ratio": round(statistics.median(ratios), 3),
                "worst_ratio": round(max(ratios), 3),
            }
        )
    return rows


def main() -> None:
    """Measure, and print."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    rows = asyncio.run(run())
    print(f"{'tokens/s':>9} {'median':>8} {'worst':>8}  of (ttft + its own tokens)")
    for row in rows:
        meets = "" if row["worst_ratio"] <= BAR else f"  over {BAR:g}"
        print(
            f"{row['tokens_per_s']:9} {row['median_ratio']:8.3f} {row['worst_ratio']:8.3f}{meets}"
        )
    print(json.dumps({"bench": "first_sentence", "ttft_s": TTFT_S, "rows": rows}))


if __name__ == "__main__":
    main()
