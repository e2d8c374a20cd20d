"""OpenAI's dialect over HTTP, with the real client and the server as it runs."""

import asyncio
import json
import time
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from typing import Any

import aiohttp
import openai
import pytest
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from structlog.testing import capture_logs

from bridges.http import HttpServer, event_stream, open_http
from edge_llm.engine import EngineState
from edge_llm.errors import ContextOverflowError, ShuttingDownError
from edge_llm.protocol import (
    ChatRequest,
    Delta,
    Done,
    Event,
    FinishReason,
    Message,
    ModelInfo,
    Started,
    Usage,
)
from edge_llm.settings import HttpSettings

USAGE = Usage(prompt_tokens=7, cached_tokens=4, completion_tokens=3)
ASK: Any = {"model": "tiny", "messages": [{"role": "user", "content": "Hello"}]}
Step = Event | Exception | float
ENDLESS: list[Step] = [0.01, Delta(text="b")] * 100_000


class ScriptedEngine:
    """Yields what its script says, and remembers what it was asked."""

    def __init__(self, *script: Step) -> None:
        self.script: list[Step] = list(script)
        self.state: EngineState = "ready"
        self.activity = "idle"
        self.models: tuple[ModelInfo, ...] = (
            ModelInfo(id="tiny", context_len=512, vocab_size=1000, quantization="int8"),
        )
        self.asked: list[ChatRequest] = []
        self.num_running = 0
        self.started = asyncio.Event()
        self.closed_at: float | None = None
        self.closed = asyncio.Event()

    def prepare(self, conversations: Sequence[Sequence[Message]]) -> None:
        """Nothing is prepared."""

    async def generate(self, request: ChatRequest) -> AsyncGenerator[Event]:
        self.asked.append(request)
        self.num_running += 1
        self.started.set()
        try:
            for step in self.script:
                await asyncio.sleep(step if isinstance(step, float) else 0)
                if isinstance(step, Exception):
                    raise step
                if not isinstance(step, float):
                    yield step
        finally:
            self.num_running -= 1
            self.closed_at = time.perf_counter()
            self.closed.set()

    async def ready(self) -> tuple[ModelInfo, ...]:
        return self.models


def talk(*texts: str, finish_reason: FinishReason = "stop") -> list[Step]:
    deltas = [Delta(text=text) for text in texts]
    return [Started(), *deltas, Done(finish_reason=finish_reason, usage=USAGE)]


@pytest.fixture
def engine() -> ScriptedEngine:
    return ScriptedEngine(*talk("Good ", "", "evening."))


@pytest.fixture
async def server(engine: ScriptedEngine) -> AsyncIterator[HttpServer]:
    settings = HttpSettings(port=0, model_aliases=("gpt-*",))
    async with open_http(engine, settings, "pi5") as server:
        yield server


@pytest.fixture
async def client(server: HttpServer) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(
        base_url=f"{server.url}/v1", api_key="none", max_retries=0
    ) as client:
        yield client


@pytest.fixture
async def http(server: HttpServer) -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(server.url) as session:
        yield session


async def frames(http: aiohttp.ClientSession, **body: object) -> list[Any]:
    async with http.post("/v1/chat/completions", json=ASK | {"stream": True} | body) as response:
        assert response.status == 200
        lines = (await response.text()).split("\n\n")
    assert lines.pop() == ""
    assert all(line.startswith(("data: ", ": ping")) for line in lines)
    return [line.removeprefix("data: ") for line in lines]


async def test_a_completion_satisfies_the_schema_of_openai(
    client: openai.AsyncOpenAI, http: aiohttp.ClientSession
) -> None:
    async with http.post("/v1/chat/completions", json=ASK) as response:
        assert response.status == 200
        body = await response.json()
        assert response.headers["X-Request-Id"] == body["id"]
    completion = ChatCompletion.model_validate(body, strict=True, extra="forbid")
    assert completion.id.startswith("chatcmpl-")
    assert completion.model == "tiny"
    assert abs(completion.created - time.time()) < 60
    assert body["choices"] == [
        {
            "index": 0,
            "message": {"role": "assistant", "content": "Good evening.", "refusal": None},
            "logprobs": None,
            "finish_reason": "stop",
        }
    ]
    assert body["usage"] == {
        "prompt_tokens": 7,
        "completion_tokens": 3,
        "total_tokens": 10,
        "prompt_tokens_details": {"cached_tokens": 4},
    }
    assert (await client.chat.completions.create(**ASK)).choices[0].message.content == (
        "Good evening."
    )


async def test_a_stream_is_role_then_text_then_reason_then_done(
    http: aiohttp.ClientSession,
) -> None:
    *chunks, end = await frames(http)
    assert end == "[DONE]"
    parsed = [json.loads(chunk) for chunk in chunks]
    for chunk in parsed:
        ChatCompletionChunk.model_validate(chunk, strict=True, extra="forbid")
        assert "usage" not in chunk
    assert len({(chunk["id"], chunk["created"], chunk["model"]) for chunk in parsed}) == 1
    assert [(c["choices"][0]["delta"], c["choices"][0]["finish_reason"]) for c in parsed] == [
        ({"role": "assistant", "content": None}, None),
        ({"content": "Good "}, None),
        ({"content": "evening."}, None),
        ({}, "stop"),
    ]


async def test_usage_comes_in_a_chunk_of_its_own_if_asked(http: aiohttp.ClientSession) -> None:
    *chunks, usage, _end = await frames(http, stream_options={"include_usage": True})
    assert all(json.loads(chunk)["usage"] is None for chunk in chunks)
    assert json.loads(usage)["choices"] == []
    assert json.loads(usage)["usage"]["total_tokens"] == 10


async def test_the_headers_of_a_stream_keep_proxies_from_collecting_it(
    http: aiohttp.ClientSession,
) -> None:
    async with http.post("/v1/chat/completions", json=ASK | {"stream": True}) as response:
        assert response.headers["Content-Type"] == "text/event-stream; charset=utf-8"
        assert response.headers["Cache-Control"] == "no-cache"
        assert response.headers["X-Accel-Buffering"] == "no"


async def test_openai_streams(client: openai.AsyncOpenAI, engine: ScriptedEngine) -> None:
    engine.script = talk("grüß", "\n\n", "dich 👋")
    stream = await client.chat.completions.create(
        **ASK, stream=True, stream_options={"include_usage": True}
    )
    chunks = [chunk async for chunk in stream]
    texts = [chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices]
    assert "".join(texts) == "grüß\n\ndich 👋"
    assert chunks[-1].usage
    assert chunks[-1].usage.total_tokens == 10


async def test_openais_accumulating_stream_agrees(client: openai.AsyncOpenAI) -> None:
    async with client.chat.completions.stream(**ASK) as stream:
        final = await stream.get_final_completion()
    assert final.choices[0].message.content == "Good evening."
    assert final.choices[0].finish_reason == "stop"


def test_the_synchronous_client_works_too(engine: ScriptedEngine) -> None:
    async def serve_and_ask() -> str | None:
        async with open_http(engine, HttpSettings(port=0), "pi5") as server:

            def ask() -> str | None:
                with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none") as client:
                    completion: ChatCompletion = client.chat.completions.create(**ASK)
                return completion.choices[0].message.content

            return await asyncio.to_thread(ask)

    assert asyncio.run(serve_and_ask()) == "Good evening."


async def test_reasoning_is_kept_apart(
    client: openai.AsyncOpenAI, http: aiohttp.ClientSession, engine: ScriptedEngine
) -> None:
    engine.script = [
        Started(),
        Delta(reasoning="Hm"),
        Delta(reasoning=".", text="Yes"),
        Done(finish_reason="stop"),
    ]
    completion = await client.chat.completions.create(**ASK)
    message = completion.choices[0].message
    assert (message.content, message.model_extra) == ("Yes", {"reasoning_content": "Hm."})
    deltas = [json.loads(frame)["choices"][0]["delta"] for frame in (await frames(http))[:-1]]
    assert deltas[1:-1] == [
        {"reasoning_content": "Hm"},
        {"reasoning_content": ".", "content": "Yes"},
    ]
    history: Any = [*ASK["messages"], message, {"role": "user", "content": "And?"}]
    await client.chat.completions.create(model="tiny", messages=history)
    assert [turn.content for turn in engine.asked[-1].conversation] == ["Hello", "Yes", "And?"]


@pytest.mark.parametrize(
    ("ours", "theirs"), [("stop", "stop"), ("length", "length"), ("cancelled", "length")]
)
async def test_finish_reasons_are_openais(
    client: openai.AsyncOpenAI, engine: ScriptedEngine, ours: FinishReason, theirs: str
) -> None:
    engine.script = talk("a", finish_reason=ours)
    assert (await client.chat.completions.create(**ASK)).choices[0].finish_reason == theirs


async def test_every_parameter_reaches_the_engine(
    client: openai.AsyncOpenAI, engine: ScriptedEngine
) -> None:
    extras = {
        "top_k": 20,
        "min_p": 0.1,
        "repeat_penalty": 1.1,
        "repeat_last_n": 32,
        "priority": 9,
        "preempt": True,
        "ttl_s": 30,
        "time_budget_s": 20,
        "overflow": "drop_oldest",
        "chat_template_kwargs": {"enable_thinking": True},
    }
    await client.chat.completions.create(
        model="gpt-4o",
        messages=[
            {"role": "developer", "content": "Be brief.", "name": "director"},
            {"role": "system", "content": ""},
            {"role": "user", "content": "Hello"},
        ],
        max_tokens=5,
        max_completion_tokens=6,
        temperature=1,
        top_p=0.9,
        stop=["\n", "END"],
        seed=-3,
        frequency_penalty=0.5,
        presence_penalty=-0.5,
        logit_bias={"42": -100},
        n=1,
        extra_body=extras,
    )
    sent = engine.asked[0].model_dump(exclude_none=True)
    assert sent.pop("messages") == (
        {"role": "developer", "content": "Be brief."},
        {"role": "system", "content": ""},
        {"role": "user", "content": "Hello"},
    )
    extras.pop("chat_template_kwargs")
    assert sent == extras | {
        "model": "tiny",
        "max_tokens": 6,
        "temperature": 1,
        "top_p": 0.9,
        "stop": ("\n", "END"),
        "seed": -3,
        "frequency_penalty": 0.5,
        "presence_penalty": -0.5,
        "logit_bias": {42: -100},
        "enable_thinking": True,
    }


async def test_fields_that_ask_for_nothing_special_are_accepted(
    client: openai.AsyncOpenAI, engine: ScriptedEngine
) -> None:
    await client.chat.completions.create(
        **ASK,
        stop="END",
        user="u",
        metadata={"a": "b"},
        store=True,
        service_tier="auto",
        safety_identifier="s",
        prompt_cache_key="k",
        parallel_tool_calls=False,
        verbosity="low",
        modalities=["text"],
        logprobs=False,
        top_logprobs=0,
        tools=[],
        tool_choice="auto",
        response_format={"type": "text"},
    )
    assert engine.asked[0] == ChatRequest(
        model="tiny", messages=engine.asked[0].messages, stop=("END",)
    )


async def test_null_is_the_same_as_absent(
    http: aiohttp.ClientSession, engine: ScriptedEngine
) -> None:
    names = """model max_tokens max_completion_tokens temperature top_p stop seed frequency_penalty
    presence_penalty logit_bias stream stream_options n user metadata store service_tier tools
    safety_identifier prompt_cache_key parallel_tool_calls reasoning_effort verbosity modalities
    logprobs top_logprobs tool_choice response_format audio prediction functions function_call
    web_search_options top_k min_p repeat_penalty repeat_last_n enable_thinking
    chat_template_kwargs"""
    body = {"messages": ASK["messages"]} | dict.fromkeys(names.split())
    async with http.post("/v1/chat/completions", json=body) as response:
        assert response.status == 200, await response.text()
    assert engine.asked[0] == ChatRequest(model="tiny", messages=engine.asked[0].messages)


@pytest.mark.parametrize(
    ("body", "thinking"),
    [
        ({}, None),
        ({"reasoning_effort": "none"}, False),
        ({"reasoning_effort": "minimal"}, False),
        ({"reasoning_effort": "low"}, True),
        ({"reasoning_effort": "high", "enable_thinking": False}, False),
        ({"reasoning_effort": "high", "chat_template_kwargs": {"enable_thinking": False}}, False),
        ({"chat_template_kwargs": {}}, None),
        ({"enable_thinking": True, "chat_template_kwargs": {"enable_thinking": False}}, True),
    ],
)
async def test_the_plainest_word_about_thinking_wins(
    http: aiohttp.ClientSession,
    engine: ScriptedEngine,
    body: dict[str, object],
    thinking: bool | None,
) -> None:
    async with http.post("/v1/chat/completions", json=ASK | body) as response:
        assert response.status == 200
    assert engine.asked[0].enable_thinking is thinking


async def test_models_are_listed_and_shown(client: openai.AsyncOpenAI) -> None:
    listed = [model async for model in client.models.list()]
    assert [model.id for model in listed] == ["tiny"]
    assert listed[0].model_extra == {"context_len": 512, "quantization": "int8"}
    assert (await client.models.retrieve("tiny")).object == "model"
    assert (await client.models.retrieve("gpt-4o")).id == "gpt-4o"
    with pytest.raises(openai.NotFoundError, match="there are: tiny"):
        await client.models.retrieve("meta/llama")


async def test_a_model_that_loads_is_waited_for_and_named_after_it_came(
    client: openai.AsyncOpenAI, engine: ScriptedEngine
) -> None:
    loaded, engine.models = engine.models, ()

    async def load() -> None:
        await engine.started.wait()
        engine.models = loaded

    engine.script = [0.02, *talk("a")]
    async with asyncio.TaskGroup() as group:
        group.create_task(load())
        completion = await client.chat.completions.create(**ASK)
    assert completion.model == "tiny"
    engine.models = ()
    assert [model async for model in client.models.list()] == []
    with pytest.raises(openai.NotFoundError):
        await client.models.retrieve("tiny")


@pytest.mark.parametrize("state", ["ready", "loading", "restarting"])
async def test_health_is_ok_only_when_the_engine_is_ready(
    http: aiohttp.ClientSession, engine: ScriptedEngine, state: EngineState
) -> None:
    engine.state = state
    async with http.get("/health") as response:
        assert response.status == (200 if state == "ready" else 503)
        body = await response.json()
    assert body.pop("version")
    assert body == {
        "status": "ok" if state == "ready" else "unavailable",
        "node": "pi5",
        "state": state,
        "models": [engine.models[0].model_dump()],
    }


async def test_silence_is_filled_with_pings_even_before_the_first_event(
    http: aiohttp.ClientSession, engine: ScriptedEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(event_stream, "PING_S", 0.02)
    engine.script = [0.07, Started(), 0.07, Delta(text="a"), Done(finish_reason="stop")]
    lines = await frames(http)
    assert lines[0] == ": ping"
    role = next(index for index, line in enumerate(lines) if "assistant" in line)
    assert ": ping" in lines[role:]
    assert lines[-1] == "[DONE]"


async def test_a_late_refusal_after_a_ping_is_an_error_frame(
    http: aiohttp.ClientSession, engine: ScriptedEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(event_stream, "PING_S", 0.02)
    engine.script = [0.05, ContextOverflowError("600 tokens do not fit into 512")]
    lines = await frames(http)
    assert json.loads(lines[-1])["error"]["code"] == "context_overflow"


@pytest.mark.parametrize("stream", [True, False])
async def test_a_client_that_goes_away_frees_the_engine_at_once(
    server: HttpServer, engine: ScriptedEngine, stream: bool
) -> None:
    engine.script = [Started(), Delta(text="a"), *ENDLESS]
    body = json.dumps(ASK | {"stream": stream}).encode()
    reader, writer = await asyncio.open_connection(server.address, server.port)
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
    writer.write(head.encode() + body)
    if stream:
        await reader.readuntil(b'"content":"b"')
    await engine.started.wait()
    left_at = time.perf_counter()
    writer.transport.abort()
    await asyncio.wait_for(engine.closed.wait(), 1)
    assert engine.closed_at
    assert engine.closed_at - left_at < 0.1
    assert engine.num_running == 0


async def test_a_client_that_stops_reading_is_given_up(
    server: HttpServer, engine: ScriptedEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(event_stream, "STALLED_S", 0.1)
    engine.script = [Started(), *[Delta(text="x" * 60_000)] * 1000]
    body = json.dumps(ASK | {"stream": True}).encode()
    reader, writer = await asyncio.open_connection(server.address, server.port, limit=1024)
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
    writer.write(head.encode() + body)
    with capture_logs() as logs:
        await asyncio.wait_for(engine.closed.wait(), 10)
        writer.transport.abort()
        await asyncio.sleep(0.02)
    assert reader.exception() is None
    assert logs == []  # it is no crash


async def test_thirty_clients_at_once_are_all_answered(
    client: openai.AsyncOpenAI, engine: ScriptedEngine
) -> None:
    engine.script = [Started(), 0.02, Delta(text="a"), 0.02, *talk("b")[1:]]

    async def ask(index: int) -> str | None:
        if index % 2:
            completion: ChatCompletion = await client.chat.completions.create(**ASK)
            return completion.choices[0].message.content
        stream = await client.chat.completions.create(**ASK, stream=True)
        return "".join([c.choices[0].delta.content or "" async for c in stream])

    assert await asyncio.gather(*map(ask, range(30))) == ["ab"] * 30
    assert engine.num_running == 0


@pytest.mark.parametrize("stream", [True, False])
async def test_stopping_ends_open_requests_with_a_word_about_why(
    engine: ScriptedEngine, stream: bool
) -> None:
    engine.script = [Started(), *ENDLESS]
    async with aiohttp.ClientSession() as http:
        async with open_http(engine, HttpSettings(port=0), "pi5") as server:
            url = f"{server.url}/v1/chat/completions"
            asking = asyncio.create_task(http.post(url, json=ASK | {"stream": stream}))
            await engine.started.wait()
            await asyncio.sleep(0.05)
            stopped_at = time.perf_counter()
        assert time.perf_counter() - stopped_at < 1
        response = await asking
        assert response.status == (200 if stream else 503)
        last = (await response.text()).strip().split("\n\n")[-1].removeprefix("data: ")
    assert json.loads(last)["error"]["code"] == ShuttingDownError.code
    assert engine.num_running == 0
