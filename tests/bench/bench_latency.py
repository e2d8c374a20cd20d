"""What the service itself costs: request to reply, with an engine that answers at once.

``python -m tests.bench.bench_latency`` prints a table and JSON. The bar for the median is 3 ms, and
0.03 ms for one chunk of a stream: from the engine giving it to its being asked for the next one.
"""

import argparse
import asyncio
import json
import logging
import os
import platform
import statistics
import tempfile
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from pathlib import Path
from typing import Any, Literal

import aiohttp
import structlog

from bridges.http import open_http
from edge_llm.engine.gate import Gate
from edge_llm.engine.queue import QueuedEngine
from edge_llm.plugin import BridgeContext
from edge_llm.protocol import ChatRequest, Delta, Done, Event, Started, TokenLogprob, TopLogprob
from edge_llm.settings import HttpSettings, QueueSettings
from tests.brokers import Mosquitto
from tests.clients import RawClient
from tests.prompted_engine import PromptedEngine
from tests.stage import serving

BAR_MS = 3.0
CHUNK_BAR_MS = 0.03
WARM_UP = 20
CHUNKS_PER_STREAM = 200
REQUEST = {"model": "tiny", "messages": [{"role": "user", "content": "say Good evening."}]}

Row = dict[str, Any]


async def measure(name: str, count: int, once: Callable[[int], Awaitable[None]]) -> Row:
    """Time something that is done again and again, one after the other."""
    times_ms = []
    for number in range(-WARM_UP, count):
        begin = time.perf_counter()
        await asyncio.wait_for(once(number), 10)
        if number >= 0:
            times_ms.append((time.perf_counter() - begin) * 1000)
    return make_row(name, times_ms)


def make_row(name: str, times_ms: list[float], bar_ms: float = BAR_MS) -> Row:
    """Sum up what was measured."""
    percentiles = statistics.quantiles(times_ms, n=100)
    return {
        "what": name,
        "count": len(times_ms),
        "median_ms": round(statistics.median(times_ms), 4),
        "p99_ms": round(percentiles[98], 4),
        "bar_ms": bar_ms,
    }


class Requester:
    """Asks, and waits for the reply without polling."""

    def __init__(self, client: RawClient, qos: int) -> None:
        self._client = client
        self._qos = qos
        self._loop = asyncio.get_running_loop()
        self._replied = asyncio.Event()
        client.paho.on_message = self._on_message

    def _on_message(self, *_args: Any) -> None:
        self._loop.call_soon_threadsafe(self._replied.set)

    async def ask(self, number: int) -> None:
        """Return when the final message has come."""
        self._replied.clear()
        self._client.publish(f"llm/request/bench/{number}", "say Good evening.", self._qos)
        await self._replied.wait()


async def measure_mqtt(
    directory: Path, count: int, *, nodelay: bool, protocol: Literal["5", "3.1.1"], qos: int
) -> Row:
    """Measure at a broker of its own."""
    changes = {"set_tcp_nodelay": "true" if nodelay else "false"}
    with Mosquitto(directory, changes) as mosquitto:
        broker = mosquitto.broker(protocol)
        queue = QueuedEngine(PromptedEngine(), QueueSettings())
        async with serving(broker.settings(), queue), broker.client() as client:
            await _wait_until_online(client)
            await client.subscribe("llm/response/#", qos=qos)
            name = f"MQTT {protocol} QoS {qos}, set_tcp_nodelay {str(nodelay).lower()}"
            return await measure(name, count, Requester(client, qos).ask)


async def _wait_until_online(client: RawClient) -> None:
    await client.subscribe("llm/node/stage/status")
    await client.wait_for("llm/node/stage/status")
    client.paho.unsubscribe("llm/node/stage/status")


async def measure_http(count: int) -> list[Row]:
    """Measure the same over HTTP, with a connection that is kept."""
    queue = QueuedEngine(PromptedEngine(), QueueSettings())
    async with (
        open_http(HttpSettings(port=0), BridgeContext("bench", queue)) as server,
        aiohttp.ClientSession(server.url) as session,
    ):

        async def whole(_number: int) -> None:
            async with session.post("/v1/chat/completions", json=REQUEST) as response:
                response.raise_for_status()
                await response.read()

        async def first_byte(_number: int) -> None:
            body = {**REQUEST, "stream": True}
            async with session.post("/v1/chat/completions", json=body) as response:
                response.raise_for_status()
                await response.content.readany()

        return [
            await measure("HTTP, whole reply", count, whole),
            await measure("HTTP, stream to its first byte", count, first_byte),
        ]


class TimedEngine(PromptedEngine):
    """Gives deltas, and notes how long it is until it is asked for the next one."""

    def __init__(self, delta: Delta) -> None:
        super().__init__()
        self._delta = delta
        self.times_ms: list[float] = []

    async def check(self, request: ChatRequest) -> None:
        """Nothing is checked."""

    async def generate(
        self, request: ChatRequest, gate: Gate | None = None
    ) -> AsyncGenerator[Event]:
        """Give as many as a stream has, and let the reader read after each."""
        yield Started()
        for _ in range(CHUNKS_PER_STREAM):
            begin = time.perf_counter()
            yield self._delta
            self.times_ms.append((time.perf_counter() - begin) * 1000)
            await asyncio.sleep(0)
        yield Done(finish_reason="stop")


async def measure_chunks(count: int) -> list[Row]:
    """Measure what one piece of text costs on its way to the socket."""
    text = Delta(text=" evening", token_ids=(1234,))
    tops = tuple(TopLogprob(token=" a", bytes=(32, 97), logprob=-1.5) for _ in range(5))
    token = TokenLogprob(
        token=" evening", bytes=tuple(b" evening"), logprob=-0.5, top_logprobs=tops
    )
    likely = text.model_copy(update={"logprobs": (token,)})
    prompt = {"prompt": "Hello", "stream": True}
    paths: tuple[tuple[str, str, dict[str, Any], Delta], ...] = (
        ("chat", "/v1/chat/completions", REQUEST | {"stream": True}, text),
        ("chat, 5 top_logprobs", "/v1/chat/completions", REQUEST | {"stream": True}, likely),
        ("completions", "/v1/completions", prompt, text),
        ("responses", "/v1/responses", {"input": "Hello", "stream": True}, text),
    )
    rows = []
    for name, path, body, delta in paths:
        engine = TimedEngine(delta)
        async with (
            open_http(HttpSettings(port=0), BridgeContext("bench", engine)) as server,
            aiohttp.ClientSession(server.url) as session,
        ):
            for _ in range(max(count // 20, 5)):
                async with session.post(path, json=body) as response:
                    response.raise_for_status()
                    await response.read()
        rows.append(make_row(f"HTTP, a chunk of {name}", engine.times_ms, CHUNK_BAR_MS))
    return rows


async def run(count: int) -> list[Row]:
    """Measure everything once."""
    rows = []
    for protocol, qos, nodelay in (
        ("5", 1, True),
        ("5", 1, False),
        ("5", 0, True),
        ("5", 0, False),
        ("3.1.1", 1, True),
        ("3.1.1", 1, False),
    ):
        with tempfile.TemporaryDirectory() as directory:
            few = count if nodelay or qos == 0 else max(count // 10, 20)  # 40 ms and more each
            rows.append(
                await measure_mqtt(
                    Path(directory),
                    few,
                    nodelay=nodelay,
                    protocol="5" if protocol == "5" else "3.1.1",
                    qos=qos,
                )
            )
    return rows + await measure_http(count) + await measure_chunks(count)


def main() -> None:
    """Print the table, then the same as one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=500, help="requests per row")
    count = parser.parse_args().count
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    rows = asyncio.run(run(count))
    machine = {
        "machine": platform.machine(),
        "cores": os.cpu_count(),
        "load": round(os.getloadavg()[0], 2),
        "python": platform.python_version(),
    }
    print(f"{'':45} {'median ms':>10} {'p99 ms':>10}")
    for row in rows:
        meets = "" if row["median_ms"] <= row["bar_ms"] else f"  over {row['bar_ms']:g} ms"
        print(f"{row['what']:45} {row['median_ms']:10.3f} {row['p99_ms']:10.3f}{meets}")
    print(json.dumps({"bench": "latency", **machine, "rows": rows}))


if __name__ == "__main__":
    main()
