"""A child at a button: twenty presses a second for ten seconds, in each way of being busy."""

import asyncio
import time
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

from edge_llm.preset import Presets
from edge_llm.route import Route
from edge_llm.service import Rules
from tests.brokers import Mosquitto
from tests.clients import eventually
from tests.prompted_engine import PromptedEngine
from tests.stage import Stage, open_stage

PRESSES, EVERY_S = 200, 0.05
WORD_S = 0.1
LIMIT = 5


async def mash(stage: Stage) -> None:
    """Press, and wait until every press has its one final message."""
    begin = time.monotonic()
    for number in range(PRESSES):
        stage.client.publish("button", f"press {number}")
        await asyncio.sleep(max(begin + (number + 1) * EVERY_S - time.monotonic(), 0))
    assert 9.9 < time.monotonic() - begin < 11


def spoken(stage: Stage) -> list[str]:
    return [payload.decode() for payload in stage.client.payloads("speaker")]


def errors(stage: Stage, code: str) -> int:
    return sum(e.startswith(code.encode()) for e in stage.client.payloads("speaker/error"))


async def drop(stage: Stage) -> None:
    await mash(stage)
    await eventually(lambda: spoken(stage), 10)
    assert [text.split()[:2] for text in spoken(stage)] == [["press", "0"]]
    assert len(stage.engine.asked) == 1
    assert not stage.client.payloads("speaker/error")


async def replace(stage: Stage) -> None:
    await mash(stage)
    await eventually(lambda: spoken(stage), 10)
    assert [text.split()[:2] for text in spoken(stage)] == [["press", f"{PRESSES - 1}"]]
    await eventually(lambda: errors(stage, "replaced") == PRESSES - 1)
    # Each began within a step: none waited for the one before it to end.
    assert len(stage.engine.asked) == PRESSES


async def queue(stage: Stage) -> None:
    await mash(stage)
    await eventually(lambda: len(spoken(stage)) + errors(stage, "queue_full") == PRESSES, 20)
    assert spoken(stage)[0].startswith("press 0 ")
    assert errors(stage, "queue_full") > 100
    # Never more than the bound waited: as many were spoken as there was time for, and these.
    assert LIMIT + 1 <= len(spoken(stage)) <= 10 / (8 * WORD_S) + LIMIT + 2


# How long an answer takes, in words.
WAYS: dict[str, tuple[Any, int]] = {
    "drop": (drop, 108),
    "replace": (replace, 8),
    "queue": (queue, 8),
}


async def test_a_child_at_a_button(tmp_path: Path) -> None:
    """All three at once, as each takes its ten seconds."""
    async with AsyncExitStack() as stack:
        tasks = []
        for way, (check, num_words) in WAYS.items():
            (directory := tmp_path / way).mkdir()
            mosquitto = stack.enter_context(Mosquitto(directory))
            route = Route.model_validate(
                {
                    "topic": "button",
                    "prompt": "{{ payload }}" + " word" * (num_words - 2),
                    "respond_to": "speaker",
                    "while_busy": way,
                    "max_queued": LIMIT,
                }
            )
            stage = await stack.enter_async_context(
                open_stage(
                    mosquitto.broker(),
                    limit=16,
                    engine=PromptedEngine(step_s=WORD_S),
                    rules=Rules(Presets(), [route]),
                )
            )
            await stage.client.subscribe("speaker/#")
            tasks.append(asyncio.create_task(check(stage)))
        await asyncio.gather(*tasks)
