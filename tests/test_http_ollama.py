"""Ollama's dialect over HTTP, with its real client and the server as it runs."""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any

import aiohttp
import ollama
import pytest

from edge_llm.errors import ConfigurationError, ContextOverflowError, QueueFullError
from edge_llm.node import open_node
from edge_llm.protocol import (
    Delta,
    Done,
    FinishReason,
    Started,
    Timing,
)
from edge_llm.settings import HttpSettings, MqttSettings, Settings
from tests.http_bridge import ENDLESS, USAGE, HttpBridge, PlayedEngine, open_bridge, talk, user
from tests.ollama_bridge import ASK, lines, make_engine, refusal

TIMING = Timing(queue_s=0.5, ttft_s=0.75, total_s=2.0)


@pytest.fixture
def engine() -> PlayedEngine:
    return make_engine()


@pytest.fixture
async def bridge(engine: PlayedEngine) -> AsyncIterator[HttpBridge]:
    async with open_bridge(engine, model_aliases=("qwen3-*",)) as bridge:
        yield bridge


@pytest.fixture
async def client(bridge: HttpBridge) -> AsyncIterator[ollama.AsyncClient]:
    async with ollama.AsyncClient(host=bridge.server.url) as client:
        yield client


def without_time(reply: dict[str, Any]) -> dict[str, Any]:
    said = datetime.fromisoformat(reply["created_at"])
    assert reply["created_at"].endswith("Z")
    assert abs((datetime.now(UTC) - said).total_seconds()) < 60
    return {name: value for name, value in reply.items() if name != "created_at"}


async def test_a_chat_is_lines_of_json_and_the_last_one_counts(bridge: HttpBridge) -> None:
    done = Done(finish_reason="stop", usage=USAGE, timing=TIMING)
    bridge.play(Started(), Delta(text="Good "), Delta(), Delta(text="evening."), done)
    replies = [without_time(reply) for reply in await lines(bridge, "/api/chat", ASK)]
    assert replies == [
        {"model": "tiny", "message": {"role": "assistant", "content": "Good "}, "done": False},
        {"model": "tiny", "message": {"role": "assistant", "content": "evening."}, "done": False},
        {
            "model": "tiny",
            "message": {"role": "assistant", "content": ""},
            "done": True,
            "done_reason": "stop",
            "total_duration": 2_000_000_000,
            "load_duration": 500_000_000,
            "prompt_eval_count": 7,
            "prompt_eval_duration": 250_000_000,
            "eval_count": 3,
            "eval_duration": 1_250_000_000,
        },
    ]


async def test_generate_is_lines_of_json_too(bridge: HttpBridge) -> None:
    replies = await lines(bridge, "/api/generate", {"model": "tiny", "prompt": "Hello"})
    assert [reply["response"] for reply in replies] == ["Good ", "evening.", ""]
    assert [reply["done"] for reply in replies] == [False, False, True]
    assert replies[-1]["eval_count"] == 3
    assert "message" not in replies[-1]


@pytest.mark.parametrize("path", ["/api/chat", "/api/generate"])
async def test_without_a_stream_it_is_one_object(bridge: HttpBridge, path: str) -> None:
    body = {"model": "tiny:latest", "messages": [user()], "prompt": "Hello", "stream": False}
    async with bridge.http.post(path, json=body) as response:
        assert response.headers["Content-Type"] == "application/json; charset=utf-8"
        reply = without_time(await response.json())
    said = reply["message"]["content"] if path == "/api/chat" else reply["response"]
    assert said == "Good evening."
    assert reply["model"] == "tiny:latest"  # the client compares it with what it asked for
    assert reply["done"] is True
    assert reply["done_reason"] == "stop"
    # No duration is 0, as clients divide by it.
    assert all(reply[name] > 0 for name in reply if name.endswith("_duration"))


async def test_the_client_chats(client: ollama.AsyncClient) -> None:
    reply = await client.chat("tiny", messages=[user()])
    assert reply.message.content == "Good evening."
    assert reply.prompt_eval_count == USAGE.prompt_tokens
    parts = [part async for part in await client.chat("tiny", messages=[user()], stream=True)]
    assert "".join(part.message.content or "" for part in parts) == "Good evening."
    assert [part.done for part in parts] == [False, False, True]


async def test_the_client_generates(client: ollama.AsyncClient, engine: PlayedEngine) -> None:
    reply = await client.generate("tiny", "Hello", system="Be brief.")
    assert reply.response == "Good evening."
    assert reply.context is None
    parts = [part async for part in await client.generate("tiny", "Hello", stream=True)]
    assert "".join(part.response or "" for part in parts) == "Good evening."
    asked = [(turn.role, turn.content) for turn in engine.asked[0].conversation]
    assert asked == [("system", "Be brief."), ("user", "Hello")]


def test_the_synchronous_client_works_too(engine: PlayedEngine) -> None:
    async def serve_and_ask() -> str:
        async with open_bridge(engine) as bridge:

            def ask() -> str:
                with ollama.Client(host=bridge.server.url) as client:
                    parts = client.chat("tiny", messages=[user()], stream=True)
                    return "".join(part.message.content or "" for part in parts)

            return await asyncio.to_thread(ask)

    assert asyncio.run(serve_and_ask()) == "Good evening."


async def test_text_is_utf_8_as_it_stands(bridge: HttpBridge) -> None:
    bridge.play(*talk("grüß\n", "\n", "dich 👋"))
    async with bridge.http.post("/api/chat", json=ASK) as response:
        raw = await response.read()
    assert "grüß".encode() in raw
    replies = map(json.loads, raw.splitlines())
    assert "".join(reply["message"]["content"] for reply in replies) == "grüß\n\ndich 👋"


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ("stop", "stop"),
        ("length", "length"),
        ("tool_calls", "stop"),
        ("time_budget", "length"),
        ("cancelled", "length"),
    ],
)
async def test_done_reasons_are_ollamas(
    client: ollama.AsyncClient, bridge: HttpBridge, ours: FinishReason, theirs: str
) -> None:
    bridge.play(*talk("a", finish_reason=ours))
    assert (await client.generate("tiny", "Hello")).done_reason == theirs


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ({}, "load"),
        ({"keep_alive": -1}, "load"),
        ({"keep_alive": "5m"}, "load"),
        ({"keep_alive": "-1m"}, "load"),
        ({"keep_alive": ""}, "load"),
        ({"keep_alive": 0}, "unload"),
        ({"keep_alive": 0.0}, "unload"),
        ({"keep_alive": "0"}, "unload"),
        ({"keep_alive": "0s"}, "unload"),
    ],
)
async def test_to_ask_nothing_is_to_load(
    bridge: HttpBridge, engine: PlayedEngine, body: dict[str, Any], reason: str
) -> None:
    chat = await bridge.post("/api/chat", {"model": "tiny", "messages": []} | body)
    assert without_time(chat) == {
        "model": "tiny",
        "message": {"role": "assistant", "content": ""},
        "done": True,
        "done_reason": reason,
    }
    generate = await bridge.post("/api/generate", {"model": "tiny", "prompt": ""} | body)
    assert without_time(generate) == {
        "model": "tiny",
        "response": "",
        "done": True,
        "done_reason": reason,
    }
    assert (await bridge.post("/api/generate", {"model": "tiny"} | body))["done_reason"] == reason
    assert engine.asked == []


async def test_a_client_that_goes_away_frees_the_engine_at_once(
    client: ollama.AsyncClient, bridge: HttpBridge, engine: PlayedEngine
) -> None:
    bridge.play(Started(), Delta(text="a"), *ENDLESS)
    stream = await client.chat("tiny", messages=[user()], stream=True)
    async for part in stream:
        if part.message.content == "b":
            break
    left_at = time.perf_counter()
    await stream.aclose()  # type: ignore[attr-defined]  # the client's type is an iterator's
    await asyncio.wait_for(engine.closed.wait(), 1)
    assert engine.closed_at
    assert engine.closed_at - left_at < 0.1


async def test_a_seed_gives_the_same_text_over_each_path() -> None:
    asked: dict[str, Any] = {"temperature": 1.0, "seed": 7}
    options = {"options": asked | {"num_predict": 60}, "stream": False}
    prompt = "Tell me a poem about the sea."
    settings = Settings(mqtt=MqttSettings(enabled=False), http=HttpSettings(port=0))
    async with open_node(settings) as node:
        assert node.http
        async with aiohttp.ClientSession(node.http.url) as http:

            async def post(path: str, body: dict[str, Any]) -> Any:
                async with http.post(path, json=body) as response:
                    assert response.status == 200
                    return await response.json()

            chat = await post("/api/chat", options | {"messages": [user(prompt)]})
            generate = await post("/api/generate", options | {"prompt": prompt})
            completion = await post(
                "/v1/chat/completions", asked | {"messages": [user(prompt)], "max_tokens": 60}
            )
    text = chat["message"]["content"]
    assert text
    assert generate["response"] == text
    assert completion["choices"][0]["message"]["content"] == text


async def test_paths_and_methods_that_do_not_exist_have_ollamas_shape(bridge: HttpBridge) -> None:
    assert await refusal(bridge, "/api/nothing", {}) == (404, "there is no path '/api/nothing'")
    async with bridge.http.get("/api/chat") as response:
        assert response.status == 405
        assert (await response.json())["error"].startswith("'/api/chat' takes ")
    async with bridge.http.post("/api/chat", data=b"{") as response:
        assert response.status == 400
        assert (await response.json())["error"].startswith("not JSON: ")


@pytest.mark.parametrize("stream", [True, False])
async def test_an_early_error_has_a_status(bridge: HttpBridge, stream: bool) -> None:
    bridge.play(Started(), ContextOverflowError("600 tokens do not fit into 512"))
    body = ASK | {"stream": stream}
    assert await refusal(bridge, "/api/chat", body) == (400, "600 tokens do not fit into 512")
    bridge.play(QueueFullError("full", retry_after_s=7))
    async with bridge.http.post("/api/chat", json=body) as response:
        assert response.status == 503
        assert response.headers["Retry-After"] == "7"


async def test_a_late_error_is_the_last_line(
    client: ollama.AsyncClient, bridge: HttpBridge
) -> None:
    bridge.play(Started(), Delta(text="a"), RuntimeError("oops"))
    *_, last = await lines(bridge, "/api/chat", ASK)
    assert last == {"error": "the node made a mistake; its log says which"}
    with pytest.raises(ollama.ResponseError, match="the node made a mistake"):
        async for _ in await client.chat("tiny", messages=[user()], stream=True):
            pass


async def test_an_engine_that_says_nothing_at_the_end_has_failed(bridge: HttpBridge) -> None:
    bridge.play(Started(), Delta(text="a"))
    assert "error" in (await lines(bridge, "/api/chat", ASK))[-1]
    status, _ = await refusal(bridge, "/api/chat", ASK | {"stream": False})
    assert status == 500


async def test_ollamas_port_is_a_second_door(engine: PlayedEngine) -> None:
    async with open_bridge(engine, ollama_port=0) as bridge:
        assert bridge.server.ollama_port not in (None, bridge.server.port)
        root = f"http://{bridge.server.address}:{bridge.server.ollama_port}"
        async with ollama.AsyncClient(host=root) as client:
            assert (await client.generate("tiny", "Hello")).response == "Good evening."
        async with bridge.http.get(f"{root}/v1/models") as response:
            assert response.status == 200
    async with open_bridge(engine) as bridge:
        assert bridge.server.ollama_port is None


async def test_a_second_port_that_is_taken_is_named(engine: PlayedEngine) -> None:
    async with open_bridge(engine) as bridge:
        with pytest.raises(ConfigurationError, match=r"set http\.ollama_port") as caught:
            async with open_bridge(engine, ollama_port=bridge.server.port):
                pass
    assert caught.value.param == "http.ollama_port"
