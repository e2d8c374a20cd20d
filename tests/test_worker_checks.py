"""A request that must wait is looked at before it does: what can't be answered is refused at once,
while another one runs, and without a change to that one."""

import asyncio
import json
import os
import signal
from contextlib import aclosing

import aiohttp
import pytest

from bridges.http import open_http
from edge_llm.engine import open_engine
from edge_llm.engine.queue import QueuedEngine
from edge_llm.engine.worker import WorkerEngine
from edge_llm.errors import ContextOverflowError, EdgeLLMError, UnsupportedSchemaError
from edge_llm.plugin import BridgeContext
from edge_llm.protocol import (
    ChatRequest,
    Delta,
    Event,
    JsonSchema,
    JsonSchemaFormat,
    Queued,
    Started,
)
from edge_llm.settings import EngineSettings, HttpSettings
from edge_llm.tiny import MODEL_DIR
from tests.clients import eventually

END_IDS = json.loads((MODEL_DIR / "tokenizer" / "generation_config.json").read_text())[
    "eos_token_id"
]
LONG = ChatRequest(
    prompt="Tell me a poem about the sea.",
    max_tokens=950,
    seed=7,
    logit_bias=dict.fromkeys(END_IDS, -100.0),
)
TOO_LONG = ChatRequest(prompt="sea " * 1200)
NO_SCHEMA = ChatRequest(
    prompt="Hi",
    response_format=JsonSchemaFormat(
        type="json_schema", json_schema=JsonSchema(schema={"type": "nonsense"})
    ),
)


async def text(queue: QueuedEngine, request: ChatRequest) -> str:
    async with aclosing(queue.generate(request)) as events:
        return "".join([event.text async for event in events if isinstance(event, Delta)])


async def refusal(queue: QueuedEngine, request: ChatRequest) -> tuple[EdgeLLMError, list[Event]]:
    seen: list[Event] = []

    async def read() -> None:
        async with aclosing(queue.generate(request)) as events:
            async for event in events:
                seen.append(event)  # noqa: PERF401 - what was seen before an error counts

    with pytest.raises(EdgeLLMError) as caught:
        await read()
    return caught.value, seen


async def test_what_can_not_be_answered_does_not_wait() -> None:
    async with open_engine(EngineSettings()) as queue:
        alone = await text(queue, LONG)
        running = asyncio.create_task(text(queue, LONG))
        await eventually(lambda: queue.stats.num_running == 1)
        for request, kind in (
            (TOO_LONG, ContextOverflowError),
            (NO_SCHEMA, UnsupportedSchemaError),
        ):
            error, seen = await refusal(queue, request)
            assert isinstance(error, kind), error
            assert seen == []
        assert not running.done(), "the first one ended too soon to tell"
        async with aclosing(queue.generate(ChatRequest(prompt="Hi", max_tokens=3))) as events:
            assert isinstance(await anext(events), Queued)
        assert await running == alone


async def test_a_stream_that_would_wait_is_refused_with_a_status() -> None:
    async with (
        open_engine(EngineSettings()) as queue,
        open_http(HttpSettings(port=0), BridgeContext("pi5", queue)) as server,
        aiohttp.ClientSession(server.url) as http,
    ):
        await queue.ready()
        running = asyncio.create_task(text(queue, LONG))
        await eventually(lambda: queue.stats.num_running == 1)
        body = {"messages": [{"role": "user", "content": "sea " * 1200}], "stream": True}
        async with http.post("/v1/chat/completions", json=body) as response:
            assert response.status == 400
            error = (await response.json())["error"]
        assert error["code"] == "context_overflow"
        assert "1024" in error["message"]
        assert not running.done()
        await running


async def test_a_worker_that_dies_over_a_check_refuses_nothing() -> None:
    engine = WorkerEngine(EngineSettings())
    running = asyncio.create_task(engine.run())
    try:
        await engine.ready()
        assert engine.pid
        os.kill(engine.pid, signal.SIGSTOP)
        check = asyncio.create_task(engine.check(TOO_LONG))
        await asyncio.sleep(0.05)
        os.kill(engine.pid, signal.SIGKILL)
        await asyncio.wait_for(check, 10)
        await engine.check(TOO_LONG)  # no worker is there to ask
        await engine.ready()
        with pytest.raises(ContextOverflowError):
            await engine.check(TOO_LONG)
        async with aclosing(engine.generate(ChatRequest(prompt="Hi", max_tokens=3))) as events:
            assert isinstance(await anext(events), Started)
    finally:
        running.cancel()
        await asyncio.wait([running])
