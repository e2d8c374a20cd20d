"""``python -m tests.page_picture``: takes the picture of the status page that the README shows.

The node in it is played, as no card is needed to look at a page: its readings and requests are made
up after those of a Qwen3-4B on an AX650.
"""

import asyncio
import math
import random
from collections.abc import AsyncGenerator
from contextlib import aclosing
from pathlib import Path

from structlog.contextvars import bound_contextvars

from edge_llm.engine.gate import Gate
from edge_llm.protocol import ChatRequest, Delta, Event, ModelInfo
from tests.browser import open_browser, open_tab
from tests.page_stage import PageStage, open_page_stage
from tests.prompted_engine import PromptedEngine

PICTURE = Path(__file__).parents[1] / "docs" / "images" / "status-page.png"
SIZE = {"width": 1120, "height": 1130}
SPEED = 4.2
MODEL = ModelInfo(id="qwen3-4b", context_len=2047, vocab_size=151_936, runtime="axcl")
ANSWER = (
    "say The sea does not answer letters, but it reads all of them, and twice a day it comes to "
    "the door to say so."
)


class CountedEngine(PromptedEngine):
    """Says which tokens it gives."""

    async def generate(
        self, request: ChatRequest, gate: Gate | None = None
    ) -> AsyncGenerator[Event]:
        async with aclosing(super().generate(request, gate)) as events:
            async for event in events:
                is_delta = isinstance(event, Delta)
                yield event.model_copy(update={"token_ids": (1,)}) if is_delta else event


async def ask(stage: PageStage, name: str, prompt: str) -> None:
    """Ask as if over MQTT."""
    with bound_contextvars(via="mqtt", request_id=name):
        async with aclosing(stage.queue.generate(ChatRequest(prompt=prompt))) as events:
            async for _ in events:
                pass


def remember(stage: PageStage, count: int) -> None:
    """Let requests have ended in the last hour."""
    chance = random.Random(4)
    for number in range(1, count + 1):
        tokens, speed = chance.randint(18, 70), round(chance.uniform(4.0, 4.3), 2)
        stage.stats._num_requests = number
        stage.stats._outcomes["stop"] += 1
        ttft_s = round(0.35 + chance.expovariate(6), 2)
        stage.page.requests.ended.add(
            {
                "number": number,
                "via": "mqtt",
                "id": f"fountain/{number}",
                "at_s": 3600 - 70 * (count - number) - 20,
                "ended_at_s": 3600 - 70 * (count - number),
                "outcome": "stop",
                "has_failed": False,
                "prompt_tokens": 64,
                "cached_tokens": 51,
                "completion_tokens": tokens,
                "queue_s": 0.0,
                "ttft_s": ttft_s,
                "total_s": round(ttft_s + tokens / speed, 2),
                "tokens_per_s": speed,
            }
        )
    stage.stats.tokens_per_s = SPEED
    stage.stats.opened_at -= 3600 * 75


async def main() -> None:
    engine = CountedEngine(step_s=1 / SPEED, models=(MODEL,))
    stage_of = open_page_stage(engine, page={"texts": True})
    async with stage_of as stage, open_browser() as browser, open_tab(browser) as page:
        stage.changes = {"heat": "normal"}
        stage.live_through(lambda minutes: round(57 + 6 * math.sin(minutes / 8)))
        stage.read(62)
        remember(stage, 41)
        names = ("fountain/42", "hall/7", "fountain/43")
        running = [asyncio.create_task(ask(stage, name, ANSWER)) for name in names]
        await asyncio.sleep(3.5)
        await page.set_viewport_size(SIZE)  # type: ignore[arg-type] # a typed dict
        await page.goto(stage.url)
        await page.wait_for_selector("#waiting li")
        PICTURE.parent.mkdir(exist_ok=True)
        await page.screenshot(path=PICTURE)
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
    print(f"{PICTURE}: {PICTURE.stat().st_size} bytes")


if __name__ == "__main__":
    asyncio.run(main())
