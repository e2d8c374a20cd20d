"""What HTTP clients are told when something is wrong: status, code, parameter, when to retry."""

import asyncio
import gzip
import json
import socket
import time
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Sequence
from typing import Any

import aiohttp
import openai
import pytest
from structlog.testing import capture_logs
from structlog.typing import EventDict

from bridges.http import HttpServer, open_http
from edge_llm.engine import EngineState
from edge_llm.errors import (
    BrokerError,
    ConfigurationError,
    ContextOverflowError,
    EdgeLLMError,
    EngineFailedError,
    ExpiredError,
    NodeOfflineError,
    QueueFullError,
    ShuttingDownError,
    UnavailableError,
    UnknownModelError,
)
from edge_llm.plugin import BridgeContext
from edge_llm.protocol import (
    MAX_PAYLOAD_BYTES,
    ChatRequest,
    Delta,
    Done,
    Event,
    Message,
    ModelInfo,
    Started,
)
from edge_llm.settings import HttpSettings

HELLO: dict[str, Any] = {"messages": [{"role": "user", "content": "Hello"}]}
ASK: Any = HELLO | {"model": "tiny"}


class FailingEngine:
    """Fails each request with the next of its errors, and answers when there are none left."""

    state: EngineState = "ready"
    activity = "idle"
    models = (ModelInfo(id="tiny", context_len=512, vocab_size=1000),)

    def __init__(self) -> None:
        self.errors: list[Exception] = []
        self.before: tuple[Event, ...] = ()
        self.num_asked = 0

    def prepare(self, conversations: Sequence[Sequence[Message]]) -> None:
        """Nothing is prepared."""

    async def generate(self, request: ChatRequest) -> AsyncGenerator[Event]:
        self.num_asked += 1
        for event in self.before:
            yield event
        if self.errors:
            raise self.errors.pop(0)
        for event in (Started(), Delta(text="Hi"), Done(finish_reason="stop")):
            yield event

    async def ready(self) -> tuple[ModelInfo, ...]:
        return self.models


@pytest.fixture
def engine() -> FailingEngine:
    return FailingEngine()


@pytest.fixture
async def server(engine: FailingEngine) -> AsyncIterator[HttpServer]:
    async with open_http(HttpSettings(port=0), BridgeContext("pi5", engine)) as server:
        yield server


@pytest.fixture
async def client(server: HttpServer) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key="none") as client:
        yield client


@pytest.fixture
async def http(server: HttpServer) -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(server.url) as session:
        yield session


@pytest.fixture
def logs() -> Iterator[list[EventDict]]:
    with capture_logs() as logs:
        yield logs


async def refusal(response: aiohttp.ClientResponse) -> tuple[int, str, str | None]:
    """Check the shape of an error, and return its status, code and parameter."""
    error = (await response.json())["error"]
    assert set(error) == {"type", "message", "param", "code"}
    assert error["message"]
    kind = "invalid_request_error" if response.status < 500 else "server_error"
    assert error["type"] == kind
    return response.status, error["code"], error["param"]


def turn(**fields: object) -> dict[str, object]:
    return {"messages": [{"role": "user", "content": "Hello"} | fields]}


TOOL_CALL = "messages.0.tool_calls.0.function"
BAD_FIELDS: list[tuple[dict[str, object], str, str | None]] = [
    ({"messages": None}, "invalid_request", "messages"),
    ({"messages": "Hello"}, "invalid_request", "messages"),
    ({"messages": []}, "invalid_request", "messages"),
    ({"messages": ["Hello"]}, "invalid_request", "messages.0"),
    (turn(content=None), "invalid_request", "messages.0.content"),
    (turn(content=5), "invalid_request", "messages.0.content"),
    (turn(content=" "), "invalid_request", "messages"),
    (turn(content=[{"type": "text"}]), "invalid_request", "messages.0.content.0.text"),
    (turn(content=["Hello"]), "invalid_request", "messages.0.content.0"),
    (turn(content=[{"type": "image_url"}]), "unsupported_content", "messages.0.content.0"),
    (turn(content=[]), "invalid_request", "messages"),
    (turn(role="banana"), "invalid_request", "messages.0.role"),
    (turn(role=None), "invalid_request", "messages.0.role"),
    (turn(role=["user"]), "invalid_request", "messages.0.role"),
    (turn(role="function"), "unsupported_field", "messages.0.role"),
    (turn(role="assistant", tool_calls=[{"id": "1"}]), "invalid_request", TOOL_CALL),
    (turn(role="assistant", function_call={}), "unsupported_field", "messages.0.function_call"),
    (turn(mood="happy"), "unknown_field", "messages.0.mood"),
    ({"messages": [{"role": "user"}]}, "invalid_request", "messages.0.content"),
    ({"prompt": "Hello"}, "unknown_field", "prompt"),
    ({"model": 5}, "invalid_request", "model"),
    ({"temperature": 2.1}, "invalid_request", "temperature"),
    ({"temperature": "1"}, "invalid_request", "temperature"),
    ({"temperature": True}, "invalid_request", "temperature"),
    ({"temperature": float("nan")}, "invalid_request", "temperature"),
    ({"temperature": float("inf")}, "invalid_request", "temperature"),
    ({"top_p": 0}, "invalid_request", "top_p"),
    ({"max_tokens": 0}, "invalid_request", "max_tokens"),
    ({"max_tokens": 1.5}, "invalid_request", "max_tokens"),
    ({"max_completion_tokens": 0}, "invalid_request", "max_completion_tokens"),
    ({"stop": list("abcde")}, "invalid_request", "stop"),
    ({"stop": ""}, "invalid_request", "stop.0"),
    ({"stop": 5}, "invalid_request", "stop"),
    ({"seed": 2**64}, "invalid_request", "seed"),
    ({"frequency_penalty": 3}, "invalid_request", "frequency_penalty"),
    ({"presence_penalty": -3}, "invalid_request", "presence_penalty"),
    ({"logit_bias": {"5": 101}}, "invalid_request", "logit_bias.5"),
    ({"logit_bias": {"x": 1}}, "invalid_request", "logit_bias.x"),
    ({"stream": "yes"}, "invalid_request", "stream"),
    ({"stream_options": {"include_usage": 1}}, "invalid_request", "stream_options.include_usage"),
    ({"stream_options": {"speed": 1}}, "unknown_field", "stream_options.speed"),
    ({"chat_template_kwargs": {"a": 1}}, "unknown_field", "chat_template_kwargs.a"),
    ({"reasoning_effort": "heroic"}, "invalid_request", "reasoning_effort"),
    ({"priority": 10}, "invalid_request", "priority"),
    ({"n": 0}, "invalid_request", "n"),
    ({"n": 9}, "invalid_request", "n"),
    ({"tool_choice": "required"}, "invalid_request", "tool_choice"),
    ({"functions": [{"name": "f"}]}, "unsupported_field", "functions"),
    ({"function_call": {"name": "f"}}, "unsupported_field", "function_call"),
    ({"response_format": {"type": "yaml"}}, "invalid_request", "response_format"),
    ({"logprobs": 1}, "invalid_request", "logprobs"),
    ({"logprobs": True, "top_logprobs": 21}, "invalid_request", "top_logprobs"),
    ({"top_logprobs": 5}, "invalid_request", "top_logprobs"),
    ({"modalities": ["text", "audio"]}, "unsupported_field", "modalities"),
    ({"audio": {"voice": "alloy"}}, "unsupported_field", "audio"),
    ({"prediction": {"type": "content"}}, "unsupported_field", "prediction"),
    ({"web_search_options": {}}, "unsupported_field", "web_search_options"),
    ({"temprature": 1}, "unknown_field", "temprature"),
    ({"temprature": 1, "top_p": 9}, "unknown_field", "temprature"),
    ({"max_bytes": 100}, "unsupported_field", "max_bytes"),
]


@pytest.mark.parametrize(("fields", "code", "param"), BAD_FIELDS, ids=lambda value: str(value)[:50])
async def test_a_bad_field_is_named(
    http: aiohttp.ClientSession,
    engine: FailingEngine,
    fields: dict[str, object],
    code: str,
    param: str | None,
) -> None:
    async with http.post("/v1/chat/completions", json=ASK | fields) as response:
        assert await refusal(response) == (400, code, param)
    assert engine.num_asked == 0


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"", "invalid_json"),
        (b"Hello", "invalid_json"),
        (b"{", "invalid_json"),
        (b"[]", "invalid_json"),
        (b"null", "invalid_json"),
        (b'"Hello"', "invalid_json"),
        (b'{"messages":[{"role":"user","content":"\xff"}]}', "invalid_utf8"),
        (b'{"messages":[{"role":"user","content":"\\ud800"}]}', "invalid_json"),
        (json.dumps(HELLO).encode("utf-16"), "invalid_utf8"),
        (b'{"messages":' + b"[" * 100_000, "invalid_json"),
        (json.dumps(HELLO).encode() + b"x", "invalid_json"),
        (b"{}", "invalid_request"),
    ],
    ids=lambda value: str(value)[:50],
)
async def test_a_body_that_is_not_a_request_is_refused(
    http: aiohttp.ClientSession, body: bytes, code: str
) -> None:
    async with http.post("/v1/chat/completions", data=body) as response:
        assert (await refusal(response))[:2] == (400, code)


async def test_the_content_type_does_not_matter(http: aiohttp.ClientSession) -> None:
    headers = {"Content-Type": "application/x-www-form-urlencoded"}  # what curl -d says
    body = json.dumps(HELLO)
    async with http.post("/v1/chat/completions", data=body, headers=headers) as response:
        assert (await response.json())["model"] == "tiny"


async def test_a_body_may_have_as_many_bytes_as_a_payload_and_no_more(
    http: aiohttp.ClientSession,
) -> None:
    room = MAX_PAYLOAD_BYTES - len(json.dumps(turn(content="")))
    for num_chars, status in ((room, 200), (room + 1, 413)):
        body = json.dumps(turn(content="x" * num_chars))
        async with http.post("/v1/chat/completions", data=body) as response:
            assert response.status == status
            if status == 413:
                assert await refusal(response) == (413, "payload_too_large", None)


async def test_a_small_body_that_unpacks_to_a_large_one_is_refused(
    http: aiohttp.ClientSession,
) -> None:
    body = gzip.compress(b"x" * 50_000_000)
    headers = {"Content-Encoding": "gzip"}
    async with http.post("/v1/chat/completions", data=body, headers=headers) as response:
        assert await refusal(response) == (413, "payload_too_large", None)


@pytest.mark.parametrize(
    ("header", "body"),
    [
        ("Transfer-Encoding: chunked", b"zz\r\n{}\r\n0\r\n\r\n"),
        ("Content-Encoding: gzip\r\nContent-Length: 8", b"not gzip"),
    ],
)
async def test_a_broken_transfer_coding_is_a_bad_request(
    server: HttpServer, header: str, body: bytes
) -> None:
    reader, writer = await asyncio.open_connection(server.address, server.port)
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\n{header}\r\nConnection: close\r\n\r\n"
    writer.write(head.encode() + body)
    answer = await asyncio.wait_for(reader.read(), 2)
    writer.close()
    assert b" 400 " in answer.partition(b"\r\n")[0]


async def test_unknown_paths_and_methods_have_the_same_shape(http: aiohttp.ClientSession) -> None:
    async with http.get("/v1/embeddings") as response:
        assert await refusal(response) == (404, "unknown_path", None)
    async with http.get("/v1/chat/completions") as response:
        assert await refusal(response) == (405, "method_not_allowed", None)
        assert "POST" in response.headers["Allow"]


async def test_an_unknown_model_is_named_with_those_there_are(client: openai.AsyncOpenAI) -> None:
    with pytest.raises(openai.NotFoundError, match=r"'gpt-4o'.*there are: tiny") as info:
        await client.chat.completions.create(**ASK | {"model": "gpt-4o"})
    assert (info.value.code, info.value.param) == ("model_not_found", "model")


EngineCase = tuple[EdgeLLMError, int, type[openai.APIStatusError], str | None]
ENGINE_ERRORS: list[EngineCase] = [  # what it raises, status, what openai raises, Retry-After
    (ContextOverflowError("600 > 512"), 400, openai.BadRequestError, None),
    (UnknownModelError("no"), 404, openai.NotFoundError, None),
    (ExpiredError("late"), 410, openai.APIStatusError, None),
    (EngineFailedError("died"), 500, openai.InternalServerError, None),
    (EdgeLLMError("what"), 500, openai.InternalServerError, None),
    (QueueFullError("full", retry_after_s=2.1), 503, openai.InternalServerError, "3"),
    (QueueFullError("full", retry_after_s=0.0), 503, openai.InternalServerError, "1"),
    (UnavailableError("hot"), 503, openai.InternalServerError, "5"),
    (ShuttingDownError("bye"), 503, openai.InternalServerError, "5"),
    (NodeOfflineError("off"), 503, openai.InternalServerError, "5"),
    (BrokerError("off"), 503, openai.InternalServerError, "5"),
]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("case", ENGINE_ERRORS, ids=lambda case: repr(case[0]))
async def test_an_engines_refusal_has_a_status_of_its_own_also_for_streams(
    client: openai.AsyncOpenAI, engine: FailingEngine, stream: bool, case: EngineCase
) -> None:
    error, status, raised, retry_after = case
    engine.errors = [error]
    with pytest.raises(raised) as info:
        await client.with_options(max_retries=0).chat.completions.create(**ASK, stream=stream)
    assert (info.value.status_code, info.value.code) == (status, error.code)
    assert info.value.response.headers.get("Retry-After") == retry_after


async def test_openai_waits_for_a_full_queue_by_itself(
    client: openai.AsyncOpenAI, engine: FailingEngine
) -> None:
    engine.errors = [QueueFullError("full", retry_after_s=0.1)]
    began_at = time.perf_counter()
    completion = await client.chat.completions.create(**ASK)
    assert completion.choices[0].message.content == "Hi"
    assert engine.num_asked == 2
    assert 1 <= time.perf_counter() - began_at < 2


@pytest.mark.parametrize("error", [EngineFailedError("died"), ExpiredError("late")])
async def test_openai_does_not_repeat_what_will_fail_again(
    client: openai.AsyncOpenAI, engine: FailingEngine, error: EdgeLLMError
) -> None:
    engine.errors = [error] * 3
    with pytest.raises(openai.APIStatusError):
        await client.chat.completions.create(**ASK)
    assert engine.num_asked == 1


async def test_an_error_in_mid_stream_is_one_frame_and_the_last(
    client: openai.AsyncOpenAI, http: aiohttp.ClientSession, engine: FailingEngine
) -> None:
    engine.before = (Started(), Delta(text="Hi"))
    engine.errors = [EngineFailedError("died"), EngineFailedError("died")]
    async with http.post("/v1/chat/completions", json=ASK | {"stream": True}) as response:
        assert response.status == 200
        frames = (await response.text()).strip().split("\n\n")
    assert json.loads(frames[-1].removeprefix("data: ")) == {
        "error": {"message": "died", "type": "server_error", "param": None, "code": "engine_failed"}
    }
    assert sum("error" in frame for frame in frames) == 1
    with pytest.raises(openai.APIError, match="died"):
        async for _ in await client.chat.completions.create(**ASK, stream=True):
            pass


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("before", [(), (Started(),)])
async def test_a_crash_is_logged_with_its_traceback_and_not_shown(
    http: aiohttp.ClientSession,
    engine: FailingEngine,
    logs: list[EventDict],
    stream: bool,
    before: tuple[Event, ...],
) -> None:
    engine.before = before
    engine.errors = [BrokenPipeError("secret")]
    async with http.post("/v1/chat/completions", json=ASK | {"stream": stream}) as response:
        assert response.status == (200 if stream and before else 500)
        text = await response.text()
    assert '"internal"' in text.replace(": ", ":")
    assert "secret" not in text
    (crash,) = [entry for entry in logs if entry["event"] == "request.crashed"]
    assert isinstance(crash["exc_info"], BrokenPipeError)


async def test_a_refusal_is_logged_once_and_without_the_prompt(
    http: aiohttp.ClientSession, engine: FailingEngine, logs: list[EventDict]
) -> None:
    async with http.post("/v1/chat/completions", json=ASK | {"top_p": 9}) as response:
        assert response.status == 400
    engine.errors = [ContextOverflowError("600 > 512")]
    async with http.post("/v1/chat/completions", json=ASK) as response:
        assert response.status == 400  # the engine's own, which logs it
    (entry,) = [entry for entry in logs if entry["event"] == "request.rejected"]
    assert entry == {
        "event": "request.rejected",
        "log_level": "warning",
        "code": "invalid_request",
        "param": "top_p",
        "path": "/v1/chat/completions",
    }


async def test_a_port_that_is_taken_is_named_with_the_cure(
    server: HttpServer, engine: FailingEngine
) -> None:
    settings = HttpSettings(port=server.port)
    with pytest.raises(ConfigurationError, match=rf"127\.0\.0\.1:{server.port}.*HTTP__PORT"):
        async with open_http(settings, BridgeContext("pi5", engine)):
            pass


async def test_an_address_of_another_machine_is_named_with_the_cure(engine: FailingEngine) -> None:
    settings = HttpSettings(host="192.0.2.1", port=0, allow_anonymous_on="192.0.2.1")
    with pytest.raises(ConfigurationError, match=r"192\.0\.2\.1:0.*HTTP__HOST"):
        async with open_http(settings, BridgeContext("pi5", engine)):
            pass


async def test_stopping_takes_less_than_a_second_whatever_clients_do(
    engine: FailingEngine,
) -> None:
    engine.before = (Started(), *[Delta(text="x" * 60_000)] * 1000)
    body = json.dumps(ASK | {"stream": True})
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
    async with open_http(
        HttpSettings(port=0, stop_timeout_s=0), BridgeContext("pi5", engine)
    ) as server:
        writers = []
        for sent in ("", head, head + body):  # says nothing; half a request; does not read
            _, writer = await asyncio.open_connection(server.address, server.port, limit=1024)
            writer.write(sent.encode())
            writers.append(writer)
        await asyncio.sleep(0.1)
        stopped_at = time.perf_counter()
    assert time.perf_counter() - stopped_at < 1
    for writer in writers:
        writer.transport.abort()


async def test_start_and_stop_are_logged_and_leave_the_port_free(
    engine: FailingEngine, logs: list[EventDict]
) -> None:
    async with open_http(HttpSettings(port=0), BridgeContext("pi5", engine)) as server:
        port = server.port
    assert [entry["event"] for entry in logs] == ["http.started", "http.stopped"]
    with socket.socket() as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        taken.bind(("127.0.0.1", port))
