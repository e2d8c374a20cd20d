"""A rehearsal: the set text, at the set speed, to everyone."""

import asyncio
import itertools
import time
from contextlib import aclosing
from typing import Any

import pytest

from edge_llm.engine import open_engine
from edge_llm.engine.paced import PacedEngine
from edge_llm.protocol import ChatRequest, Delta, Done, Event, Message, Started
from edge_llm.settings import EngineSettings, PacedSettings

TEXT = "One two,\nthree  four."


def make(text: str = TEXT, ttft_s: float = 0.0, tokens_per_s: float = 1e6) -> PacedEngine:
    paced = PacedSettings(text=text, ttft_s=ttft_s, tokens_per_s=tokens_per_s)
    return PacedEngine(EngineSettings(kind="paced", paced=paced))


async def collect(engine: PacedEngine, **fields: Any) -> list[Event]:
    return [event async for event in engine.generate(ChatRequest(prompt="Hi there", **fields))]


async def test_it_says_the_text_word_by_word() -> None:
    started, *deltas, done = await collect(make())
    assert started == Started()
    assert [delta.text for delta in deltas if isinstance(delta, Delta)] == [
        "One",
        " two,",
        "\nthree",
        "  four.",
    ]
    assert isinstance(done, Done)
    assert done.finish_reason == "stop"
    assert (done.usage.prompt_tokens, done.usage.completion_tokens) == (2, 4)


@pytest.mark.parametrize(
    ("max_tokens", "text", "reason"),
    [(1, "One", "length"), (3, "One two,\nthree", "length"), (4, TEXT, "stop"), (9, TEXT, "stop")],
)
async def test_max_tokens_ends_it(max_tokens: int, text: str, reason: str) -> None:
    events = await collect(make(), max_tokens=max_tokens)
    assert "".join(event.text for event in events if isinstance(event, Delta)) == text
    assert isinstance(events[-1], Done)
    assert events[-1].finish_reason == reason


@pytest.mark.parametrize(
    ("max_bytes", "text", "reason"),
    [
        (16, "One two,\nthree  four.", "length"),  # one word more than fits shows that it was cut
        (20, TEXT, "length"),
        (21, TEXT + " Five.", "length"),
        (27, TEXT + " Five.", "stop"),
    ],
)
async def test_max_bytes_ends_it_with_one_token_too_many(
    max_bytes: int, text: str, reason: str
) -> None:
    events = await collect(make(TEXT + " Five."), max_bytes=max_bytes)
    assert "".join(event.text for event in events if isinstance(event, Delta)) == text
    assert isinstance(events[-1], Done)
    assert events[-1].finish_reason == reason


async def test_it_keeps_the_pace() -> None:
    engine = make(ttft_s=0.06, tokens_per_s=50)
    begin = time.monotonic()
    times = [
        time.monotonic() - begin
        async for event in engine.generate(ChatRequest(prompt="Hi"))
        if isinstance(event, Delta)
    ]
    assert times[0] >= 0.06
    assert all(later - sooner >= 0.019 for sooner, later in itertools.pairwise(times))


async def test_closing_ends_it_at_once() -> None:
    engine = make(tokens_per_s=0.01)
    async with asyncio.timeout(1), aclosing(engine.generate(ChatRequest(prompt="Hi"))) as events:
        async for event in events:
            if isinstance(event, Delta):
                break


async def test_it_says_that_it_is_no_model() -> None:
    engine = make()
    assert engine.state == "ready"
    (model,) = await engine.ready()
    assert engine.models == (model,)
    assert model.id == "paced"


async def test_open_engine_puts_it_behind_the_queue() -> None:
    settings = EngineSettings(kind="paced", paced=PacedSettings(ttft_s=0, tokens_per_s=1e6))
    turns = (Message(role="user", content="Hi"),)
    async with open_engine(settings) as engine:
        events = [event async for event in engine.generate(ChatRequest(messages=turns))]
    assert isinstance(events[-1], Done)
    assert events[-1].timing.total_s > 0
