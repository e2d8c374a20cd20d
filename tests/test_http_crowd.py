"""A crowd: 200 clients stream from the built-in model at once, and a third of them walk away."""

import asyncio
import gc
import json
import random
import tracemalloc

import aiohttp

from bridges.http import HttpServer, open_http
from edge_llm.engine import open_engine
from edge_llm.engine.queue import QueuedEngine
from edge_llm.plugin import BridgeContext
from edge_llm.settings import EngineSettings, HttpSettings, QueueSettings
from tests.clients import eventually

NUM_CLIENTS = 200
GROWTH_BYTES = 512 * 1024
QUESTIONS = ("Tell me a poem about the sea.", "What is 3 plus 4?", "How are you?", "Who are you?")


async def read(http: aiohttp.ClientSession, server: HttpServer, index: int) -> str | None:
    """Read a whole answer; or leave: before it begins, or in the middle of it."""
    leaves = index % 3 == 0
    body = {
        "messages": [{"role": "user", "content": QUESTIONS[index % len(QUESTIONS)]}],
        "stream": True,
        "seed": index,
        "max_tokens": 60,
    }
    patience_s = random.uniform(0, 3) if leaves else None
    said, reason = "", None
    try:
        async with (
            asyncio.timeout(patience_s),
            http.post(f"{server.url}/v1/chat/completions", json=body) as response,
        ):
            assert response.status == 200
            async for line in response.content:
                if line.startswith(b"data: {"):
                    [choice] = json.loads(line[6:])["choices"]
                    said += choice["delta"].get("content") or ""
                    reason = choice["finish_reason"] or reason
                    if leaves and len(said) > 10:
                        return None
    except TimeoutError:
        return None
    assert reason in ("stop", "length"), said
    return said


async def crowd(server: HttpServer, queue: QueuedEngine) -> int:
    """Send a crowd; return how many were answered."""
    connector = aiohttp.TCPConnector(limit=0)
    timeout = aiohttp.ClientTimeout(total=90)
    async with aiohttp.ClientSession(connector=connector, timeout=timeout) as http:
        said = await asyncio.gather(*(read(http, server, index) for index in range(NUM_CLIENTS)))
        # One step after the last one the engine is free.
        await eventually(lambda: queue.stats.num_running + queue.stats.num_waiting == 0, 1)
        body = {"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 1}
        async with http.post(f"{server.url}/v1/chat/completions", json=body) as response:
            assert response.status == 200
    assert all(said[index] for index in range(NUM_CLIENTS) if index % 3)
    return sum(text is not None for text in said)


async def test_a_crowd_is_served_and_leaves_nothing_behind() -> None:
    settings = EngineSettings(queue=QueueSettings(limit=NUM_CLIENTS + 10))
    async with (
        open_engine(settings) as queue,
        open_http(HttpSettings(port=0), BridgeContext("pi5", queue, stats=queue.stats)) as server,
    ):
        await queue.ready()
        assert await crowd(server, queue) >= NUM_CLIENTS * 2 // 3
        tracemalloc.start()
        try:
            gc.collect()
            before = tracemalloc.get_traced_memory()[0]
            assert await crowd(server, queue) >= NUM_CLIENTS * 2 // 3
            gc.collect()
            await asyncio.sleep(0.1)
            growth = tracemalloc.get_traced_memory()[0] - before
        finally:
            tracemalloc.stop()
        print(f"{growth:+} bytes")
        assert growth < GROWTH_BYTES
