"""Streams over HTTP: silence, clients that go away or stop reading, and the end of the node."""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest
from openai.types.chat import ChatCompletion
from structlog.testing import capture_logs

from bridges.http import HttpServer, event_stream, open_http
from edge_llm.errors import ContextOverflowError, ShuttingDownError
from edge_llm.plugin import BridgeContext
from edge_llm.protocol import Delta, Done, Started
from edge_llm.settings import HttpSettings
from tests.http_bridge import ENDLESS, HttpBridge, PlayedEngine, open_bridge, talk, user

PATH = "/v1/chat/completions"
ASK: Any = {"model": "tiny", "messages": [user()]}


@pytest.fixture
async def bridge() -> AsyncIterator[HttpBridge]:
    async with open_bridge(PlayedEngine(talk("Good ", "evening."))) as bridge:
        yield bridge


async def send(
    server: HttpServer, body: dict[str, Any], limit: int = 2**16
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Ask with a bare socket."""
    payload = json.dumps(body).encode()
    reader, writer = await asyncio.open_connection(server.address, server.port, limit=limit)
    head = f"POST {PATH} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(payload)}\r\n\r\n"
    writer.write(head.encode() + payload)
    return reader, writer


async def test_the_headers_of_a_stream_keep_proxies_from_collecting_it(bridge: HttpBridge) -> None:
    async with bridge.http.post(PATH, json=ASK | {"stream": True}) as response:
        assert response.headers["Content-Type"] == "text/event-stream; charset=utf-8"
        assert response.headers["Cache-Control"] == "no-cache"
        assert response.headers["X-Accel-Buffering"] == "no"


async def test_silence_is_filled_with_pings_even_before_the_first_event(
    bridge: HttpBridge, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(event_stream, "PING_S", 0.02)
    bridge.play(0.07, Started(), 0.07, Delta(text="a"), Done(finish_reason="stop"))
    lines = await bridge.frames(PATH, ASK)
    assert lines[0] == ": ping"
    role = next(index for index, line in enumerate(lines) if "assistant" in line)
    assert ": ping" in lines[role:]
    assert lines[-1] == "[DONE]"


async def test_a_late_refusal_after_a_ping_is_an_error_frame(
    bridge: HttpBridge, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(event_stream, "PING_S", 0.02)
    bridge.play(0.05, ContextOverflowError("600 tokens do not fit into 512"))
    lines = await bridge.frames(PATH, ASK)
    assert json.loads(lines[-1])["error"]["code"] == "context_overflow"


@pytest.mark.parametrize("stream", [True, False])
async def test_a_client_that_goes_away_frees_the_engine_at_once(
    bridge: HttpBridge, stream: bool
) -> None:
    bridge.play(Started(), Delta(text="a"), *ENDLESS)
    reader, writer = await send(bridge.server, ASK | {"stream": stream})
    if stream:
        await reader.readuntil(b'"content":"b"')
    await bridge.engine.started.wait()
    left_at = time.perf_counter()
    writer.transport.abort()
    await asyncio.wait_for(bridge.engine.closed.wait(), 1)
    assert bridge.engine.closed_at
    assert bridge.engine.closed_at - left_at < 0.1
    assert bridge.engine.num_running == 0


async def test_a_client_that_stops_reading_is_given_up(
    bridge: HttpBridge, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(event_stream, "STALLED_S", 0.1)
    bridge.play(Started(), *[Delta(text="x" * 60_000)] * 1000)
    reader, writer = await send(bridge.server, ASK | {"stream": True}, limit=1024)
    with capture_logs() as logs:
        await asyncio.wait_for(bridge.engine.closed.wait(), 10)
        writer.transport.abort()
        await asyncio.sleep(0.02)
    assert reader.exception() is None
    assert logs == []  # it is no crash


async def test_thirty_clients_at_once_are_all_answered(bridge: HttpBridge) -> None:
    bridge.play(Started(), 0.02, Delta(text="a"), 0.02, *talk("b")[1:])

    async def ask(index: int) -> str | None:
        if index % 2:
            completion: ChatCompletion = await bridge.openai.chat.completions.create(**ASK)
            return completion.choices[0].message.content
        stream = await bridge.openai.chat.completions.create(**ASK, stream=True)
        return "".join([c.choices[0].delta.content or "" async for c in stream])

    assert await asyncio.gather(*map(ask, range(30))) == ["ab"] * 30
    assert bridge.engine.num_running == 0


@pytest.mark.parametrize("stream", [True, False])
async def test_stopping_ends_open_requests_with_a_word_about_why(stream: bool) -> None:
    engine = PlayedEngine([Started(), *ENDLESS])
    settings = HttpSettings(port=0, stop_timeout_s=0)
    async with aiohttp.ClientSession() as http:
        async with open_http(settings, BridgeContext("pi5", engine)) as server:
            body = ASK | {"stream": stream}
            asking = asyncio.create_task(http.post(f"{server.url}{PATH}", json=body))
            await engine.started.wait()
            await asyncio.sleep(0.05)
            stopped_at = time.perf_counter()
        assert time.perf_counter() - stopped_at < 1
        response = await asking
        assert response.status == (200 if stream else 503)
        last = (await response.text()).strip().split("\n\n")[-1].removeprefix("data: ")
    assert json.loads(last)["error"]["code"] == ShuttingDownError.code
    assert engine.num_running == 0
