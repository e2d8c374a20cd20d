"""UpstreamEngine against real servers: ours, and llama.cpp's with the same model."""

import asyncio
import json
import os
import sys
import urllib.request
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import Any

import openai
import pytest

from bridges.http import open_http
from edge_llm.engine import open_engine
from edge_llm.engine.queue import QueuedEngine
from edge_llm.errors import ContextOverflowError, QueueFullError, UpstreamError
from edge_llm.plugin import BridgeContext
from edge_llm.protocol import (
    ChatRequest,
    Delta,
    Done,
    Event,
    ModelInfo,
    Started,
    TokenLogprob,
    ToolCallDelta,
    TopLogprob,
    Usage,
)
from edge_llm.settings import EngineSettings, HttpSettings, OpenAISettings
from tests.brokers import Mosquitto
from tests.clients import eventually
from tests.environments import require_python
from tests.fakes import ScriptedEngine
from tests.programs import free_port, running

SERVERS = Path(__file__).parent / "real_servers"
TINY = Path(__file__).parent.parent / "edge_llm" / "tiny" / "model"
CITY = {"type": "object", "properties": {"city": {"enum": ["Rome"]}}, "required": ["city"]}
TOOL = {"type": "function", "function": {"name": "get_weather", "parameters": CITY}}
PROMPTS = ("Who are you?", "Hello!", "Tell me a poem about the moon.", "What is the sea?")


def request_of(prompt: str = "Who are you?", **fields: Any) -> ChatRequest:
    said = {"prompt": prompt, "temperature": 0, "enable_thinking": False, **fields}
    return ChatRequest.model_validate(said, strict=False)


async def collect(engine: QueuedEngine, request: ChatRequest) -> list[Event]:
    async with aclosing(engine.generate(request)) as events:
        return [event async for event in events]


def text_of(events: list[Event]) -> str:
    return "".join(event.text for event in events if isinstance(event, Delta))


def done_of(events: list[Event]) -> Done:
    assert isinstance(events[-1], Done)
    return events[-1]


def upstream(url: str, **settings: Any) -> Any:
    return open_engine(
        EngineSettings(kind="openai", openai=OpenAISettings(base_url=f"{url}/v1"), **settings)
    )


@asynccontextmanager
async def behind_our_bridge(
    engine: ScriptedEngine,
) -> AsyncGenerator[QueuedEngine]:
    async with (
        open_http(HttpSettings(port=0), BridgeContext("node", engine)) as server,
        upstream(server.url) as up,
    ):
        yield up


async def test_all_that_http_can_say_comes_through_our_own_bridge() -> None:
    token = TokenLogprob(
        token="Hi",
        bytes=(72, 105),
        logprob=-0.5,
        top_logprobs=(TopLogprob(token="Ha", bytes=(72, 97), logprob=-1.5),),
    )
    call = ToolCallDelta(index=0, id="call_1", name="get_weather")
    more = ToolCallDelta(index=0, arguments='{"city": "Rome"}')
    usage = Usage(prompt_tokens=9, cached_tokens=4, completion_tokens=7, reasoning_tokens=3)
    deltas = [
        Delta(reasoning="Hm."),
        Delta(text="Hi", logprobs=(token,)),
        Delta(tool_calls=(call,)),
        Delta(tool_calls=(more,)),
    ]
    engine = ScriptedEngine([Started(), *deltas, Done(finish_reason="tool_calls", usage=usage)])
    request = request_of(
        top_k=5,
        min_p=0.1,
        repeat_penalty=1.1,
        seed=7,
        stop=["END"],
        max_tokens=50,
        tools=[TOOL],
        tool_choice="auto",
        logprobs=True,
        top_logprobs=1,
    )
    async with behind_our_bridge(engine) as up:
        events = await collect(up, request)
    (asked,) = engine.requests
    assert asked.model_dump(exclude={"model", "messages", "prompt", "overflow"}) == (
        request.model_dump(exclude={"model", "messages", "prompt", "overflow"})
    )
    assert [event for event in events if isinstance(event, Delta)] == deltas
    assert done_of(events).finish_reason == "tool_calls"
    assert done_of(events).usage == usage


async def test_our_own_bridges_refusals_keep_their_meaning() -> None:
    for error in (
        ContextOverflowError("it has 9 tokens"),
        QueueFullError("full", retry_after_s=60),
    ):
        async with behind_our_bridge(ScriptedEngine([error])) as up:
            with pytest.raises(type(error)) as caught:
                await collect(up, request_of())
            assert error.message in caught.value.message
            assert caught.value.retry_after_s == error.retry_after_s


async def test_our_own_bridge_fails_in_mid_answer() -> None:
    engine = ScriptedEngine([Started(), Delta(text="Hi"), UpstreamError("the end")])
    async with behind_our_bridge(engine) as up:
        with pytest.raises(UpstreamError, match="the server broke off: the end"):
            await collect(up, request_of())


async def test_closing_reaches_the_engine_behind_our_bridge() -> None:
    engine = ScriptedEngine([Started(), Delta(text="Hi"), asyncio.Event()])
    async with behind_our_bridge(engine) as up:
        async with aclosing(up.generate(request_of())) as events:
            async for event in events:
                if isinstance(event, Delta):
                    break
        await eventually(lambda: engine.num_closed == 1, 1.0)


@pytest.fixture(scope="module")
def llama_cpp(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Run llama.cpp's server with the built-in model; return where it is."""
    python, port = require_python(SERVERS / "llama_cpp.txt"), free_port()
    folder, url = tmp_path_factory.mktemp("llama_cpp"), f"http://127.0.0.1:{port}"
    script = [str(python), str(SERVERS / "llama_cpp.py")]
    command = [*script, str(TINY), str(folder / "tiny.gguf"), str(port)]
    with running(command, folder / "server.log", lambda: _answers(f"{url}/health"), None):
        yield url


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=1):
            return True
    except OSError:
        return False


async def test_the_built_in_model_says_the_same_here_behind_our_bridge_and_in_llama_cpp(
    llama_cpp: str,
) -> None:
    async with (
        open_engine(EngineSettings()) as local,
        open_http(HttpSettings(port=0), BridgeContext("node", local)) as server,
        upstream(server.url) as ours,
        upstream(llama_cpp) as theirs,
    ):
        for prompt in PROMPTS:
            events = await collect(local, request_of(prompt))
            for engine in (ours, theirs):
                others = await collect(engine, request_of(prompt))
                assert text_of(others) == text_of(events)
                assert len(others) > 5
                assert done_of(others).finish_reason == done_of(events).finish_reason == "stop"
                usage = done_of(others).usage
                assert usage.prompt_tokens == done_of(events).usage.prompt_tokens
                assert usage.completion_tokens == done_of(events).usage.completion_tokens


async def test_a_node_behind_a_node_calls_tools_and_keeps_to_forms() -> None:
    async with (
        open_engine(EngineSettings()) as local,
        open_http(HttpSettings(port=0), BridgeContext("node", local)) as server,
        upstream(server.url) as engine,
    ):
        (model,) = await engine.ready()
        assert model.model_copy(update={"runtime": None, "vocab_size": 0}) == (
            local.models[0].model_copy(
                update={"quantization": None, "runtime": None, "kv_slots": None, "vocab_size": 0}
            )
        )
        events = await collect(
            engine,
            request_of(tools=[TOOL], tool_choice="required", parallel_tool_calls=False),
        )
        assert done_of(events).finish_reason == "tool_calls"
        pieces = [call for each in events if isinstance(each, Delta) for call in each.tool_calls]
        assert pieces[0].name == "get_weather"
        assert json.loads("".join(piece.arguments for piece in pieces)) == {"city": "Rome"}
        events = await collect(engine, request_of("Yes or no?", choices=["yes", "no"]))
        assert text_of(events) in ("yes", "no")


async def test_llama_cpp_tells_what_it_has(llama_cpp: str) -> None:
    async with upstream(llama_cpp) as engine:
        (model,) = await engine.ready()
    assert model == ModelInfo(
        id="tiny-gguf",
        context_len=1024,
        vocab_size=2048,
        runtime="openai",
        max_tokens=256,
        has_thinking=True,
        has_tools=True,
    )


async def test_llama_cpp_keeps_to_forms_and_choices(llama_cpp: str) -> None:
    schema = {"type": "json_schema", "json_schema": {"name": "city", "schema": CITY}}
    async with upstream(llama_cpp) as engine:
        events = await collect(engine, request_of(response_format=schema))
        assert json.loads(text_of(events)) == {"city": "Rome"}
        events = await collect(engine, request_of("Yes or no?", choices=["yes", "no"]))
        assert text_of(events) in ("yes", "no")


async def test_llama_cpp_reasons_and_says_how_likely_its_tokens_were(llama_cpp: str) -> None:
    async with upstream(llama_cpp) as engine:
        asked = request_of(enable_thinking=True, logprobs=True, top_logprobs=2, max_tokens=60)
        deltas = [event for event in await collect(engine, asked) if isinstance(event, Delta)]
    assert "".join(delta.reasoning for delta in deltas).strip()
    tokens = [token for delta in deltas for token in delta.logprobs]
    assert tokens
    assert all(len(token.top_logprobs) == 2 and token.logprob <= 0 for token in tokens)


async def test_llama_cpp_refuses_what_is_too_long_or_drops_it(llama_cpp: str) -> None:
    turns = [
        {"role": "assistant" if n % 2 else "user", "content": f"Hello {n}. " * 20}
        for n in range(21)
    ]
    async with upstream(llama_cpp) as engine:
        with pytest.raises(ContextOverflowError, match="1024"):
            await collect(engine, request_of("hello " * 2000))
        dropping = ChatRequest.model_validate(
            {"messages": turns, "overflow": "drop_oldest", "max_tokens": 5}, strict=False
        )
        assert done_of(await collect(engine, dropping)).dropped_messages > 0


async def test_llama_cpp_ends_in_time_and_is_free_again_after_a_cancel(llama_cpp: str) -> None:
    async with upstream(llama_cpp) as engine:
        poem = request_of(PROMPTS[2], time_budget_s=5.0, max_bytes=60)
        events = await collect(engine, poem)
        assert text_of(events)
        assert done_of(events).finish_reason in ("stop", "length")
        for _ in range(3):
            async with aclosing(engine.generate(request_of(PROMPTS[2]))) as given_up:
                async for event in given_up:
                    if isinstance(event, Delta):
                        break
        assert "edge-llm" in text_of(await collect(engine, request_of()))


async def test_a_node_with_llama_cpp_behind_it_serves_mqtt_and_http(
    llama_cpp: str, mosquitto: Mosquitto, tmp_path: Path
) -> None:
    port = free_port()
    config = tmp_path / "edge-llm.toml"
    config.write_text(
        'node = "pi5"\n'
        f"[mqtt]\nport = {mosquitto.port}\n[http]\nport = {port}\n"
        '[engine]\nkind = "openai"\nenable_thinking = false\ntemperature = 0.0\n'
        f'[engine.openai]\nbase_url = "{llama_cpp}/v1"\n'
    )
    serve = [sys.executable, "-m", "edge_llm", "serve", "--config", str(config)]
    url = f"http://127.0.0.1:{port}"
    with running(
        serve, tmp_path / "log", lambda: _answers(f"{url}/health/ready"), dict(os.environ)
    ):
        async with mosquitto.broker().client() as client:
            await client.subscribe("llm/#")
            await eventually(lambda: b"tiny-gguf" in b"".join(client.payloads("llm/node/pi5/info")))
            client.publish("llm/request/button7", "Who are you?")
            (answer,) = await client.wait_for("llm/response/button7")
            assert "edge-llm" in answer.decode()
            client.publish(
                "llm/request/b8", json.dumps({"prompt": "Who are you?", "max_tokens": 3})
            )
            (payload,) = await client.wait_for("llm/response/b8")
        told = json.loads(payload)
        assert (told["model"], told["finish_reason"]) == ("tiny-gguf", "length")
        assert told["usage"]["completion_tokens"] == 3
        async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="-") as http:
            completion = await http.chat.completions.create(
                model="tiny-gguf", messages=[{"role": "user", "content": "Who are you?"}]
            )
        assert "edge-llm" in (completion.choices[0].message.content or "")
