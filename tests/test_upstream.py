"""UpstreamEngine against servers that misbehave: who hears what, and how often they are asked."""

import asyncio
import json
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing, asynccontextmanager
from typing import Any

import pytest

from edge_llm.engine import open_engine
from edge_llm.engine.gate import Gate
from edge_llm.engine.queue import QueuedEngine
from edge_llm.engine.upstream import engine as upstream
from edge_llm.engine.upstream import open_upstream
from edge_llm.engine.upstream import server as upstream_server
from edge_llm.errors import (
    ContextOverflowError,
    EdgeLLMError,
    ExpiredError,
    InvalidRequestError,
    QueueFullError,
    UnavailableError,
    UpstreamError,
)
from edge_llm.protocol import ChatRequest, Delta, Done, Event, Started, Usage
from edge_llm.settings import EngineSettings, OpenAISettings
from tests.brokers import Mosquitto
from tests.clients import eventually
from tests.misbehaving import (
    DONE,
    Behaviour,
    Server,
    answers,
    chunk,
    frame,
    hangs,
    refuses,
    says,
    serve,
    streams,
    vanishes,
)
from tests.programs import free_port
from tests.stage import serving


@pytest.fixture(autouse=True)
def waits_shortly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upstream, "BACKOFF_S", (0.01, 0.02))


def settings_for(url: str, **openai: Any) -> EngineSettings:
    return EngineSettings(
        kind="openai", openai=OpenAISettings(base_url=url, **{"timeout_s": 5, **openai})
    )


@asynccontextmanager
async def asking(
    *behaviours: Behaviour, **openai: Any
) -> AsyncGenerator[tuple[QueuedEngine, Server]]:
    async with (
        serve(*behaviours) as server,
        open_engine(settings_for(server.url, **openai)) as engine,
    ):
        yield engine, server


async def collect(engine: QueuedEngine, prompt: str = "Hi", **fields: Any) -> list[Event]:
    async with aclosing(engine.generate(ChatRequest(prompt=prompt, **fields))) as events:
        return [event async for event in events]


def text_of(events: list[Event]) -> str:
    return "".join(event.text for event in events if isinstance(event, Delta))


async def say(engine: QueuedEngine, **fields: Any) -> str:
    return text_of(await collect(engine, **fields))


async def fail(*behaviours: Behaviour, **openai: Any) -> tuple[EdgeLLMError, int]:
    """Return the error, and how often the server was asked."""
    async with asking(*behaviours, **openai) as (engine, server):
        with pytest.raises(EdgeLLMError) as caught:
            await say(engine)
        return caught.value, len(server.bodies)


async def test_an_answer() -> None:
    counts = {
        "prompt_tokens": 9,
        "completion_tokens": 2,
        "prompt_tokens_details": {"cached_tokens": 4},
    }
    async with asking(answers("Hel", "lo", reason="length", usage=counts)) as (engine, server):
        started, *deltas, done = await collect(engine)
        assert started == Started()
        assert deltas == [Delta(text="Hel"), Delta(text="lo")]
        assert isinstance(done, Done)
        assert done.finish_reason == "length"
        assert done.usage == Usage(prompt_tokens=9, cached_tokens=4, completion_tokens=2)
        assert done.timing.ttft_s
        assert engine.state == "ready"
        assert engine.activity == "idle"
        assert "Authorization" not in server.headers


async def test_a_key_is_sent_and_never_shown() -> None:
    async with asking(answers("x"), api_key="secret7") as (engine, server):
        await say(engine)
        assert server.headers["Authorization"] == "Bearer secret7"
        assert "secret7" not in repr(settings_for(server.url, api_key="secret7"))


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
async def test_what_may_pass_is_tried_again(status: int) -> None:
    async with asking(refuses(status), refuses(status, "<html>"), answers("ok")) as (
        engine,
        server,
    ):
        assert await say(engine) == "ok"
        assert len(server.bodies) == 3


async def test_only_so_often() -> None:
    error, num_asked = await fail(refuses(500, {"error": "CUDA  died\n badly"}), max_attempts=2)
    assert isinstance(error, UpstreamError)
    assert error.message.endswith("/v1/chat/completions answered 500: CUDA died badly")
    assert num_asked == 2


async def test_retry_after_is_obeyed() -> None:
    begin = time.monotonic()
    async with asking(refuses(429, Retry_After="0.3"), answers("ok")) as (engine, _):
        assert await say(engine) == "ok"
    assert time.monotonic() - begin >= 0.3


@pytest.mark.parametrize(
    ("status", "body", "cls"),
    [
        (429, None, QueueFullError),
        (503, None, UnavailableError),
        (503, {"error": {"message": "full", "code": "queue_full"}}, QueueFullError),
        (502, None, UpstreamError),
    ],
)
async def test_a_long_wait_is_the_clients_to_wait(
    status: int, body: Any, cls: type[EdgeLLMError]
) -> None:
    error, num_asked = await fail(refuses(status, body, Retry_After="90"))
    assert type(error) is cls
    assert error.retry_after_s == 90
    assert error.retryable
    assert num_asked == 1


@pytest.mark.parametrize(
    ("status", "body", "cls", "words", "may_retry"),
    [
        (400, {"error": {"message": "no tools"}}, InvalidRequestError, "no tools", False),
        (422, {"detail": "bad field"}, InvalidRequestError, "bad field", False),
        (401, None, UpstreamError, "set engine.openai.api_key", False),
        (403, "forbidden", UpstreamError, "forbidden; set engine.openai.api_key", False),
        (
            404,
            {"error": {"message": 'model "q" not found, try pulling it first'}},
            UpstreamError,
            "set engine.openai.model",
            False,
        ),
        (404, "404: Not Found", UpstreamError, "base_url mostly ends in /v1", False),
        (
            400,
            {"error": {"code": 400, "message": "x", "type": "exceed_context_size_error"}},
            ContextOverflowError,
            "x",
            False,
        ),
        (
            400,
            {"error": {"code": "context_length_exceeded", "message": "y"}},
            ContextOverflowError,
            "y",
            False,
        ),
        (
            400,
            {"error": {"message": "This model's maximum context length is 4096 tokens"}},
            ContextOverflowError,
            "4096",
            False,
        ),
    ],
)
async def test_what_stays_is_not_tried_again(
    status: int, body: Any, cls: type[EdgeLLMError], words: str, *, may_retry: bool
) -> None:
    error, num_asked = await fail(refuses(status, body))
    assert type(error) is cls
    assert words in error.message
    assert error.retryable is may_retry
    assert num_asked == 1


@pytest.mark.parametrize(
    "death",
    [vanishes, streams(None), streams(chunk(role="assistant", content=""), None), streams()],
    ids=["no answer", "no chunk", "no token", "an end without a reason"],
)
async def test_a_death_before_the_first_token_is_survived(death: Behaviour) -> None:
    async with asking(death, answers("ok")) as (engine, server):
        events = await collect(engine)
        assert text_of(events) == "ok"
        assert [type(event) for event in events] == [Started, Delta, Done]
        assert len(server.bodies) == 2


@pytest.mark.parametrize("ending", [[None], []], ids=["reset", "end"])
async def test_a_death_after_the_first_token_is_an_error(ending: list[None]) -> None:
    error, num_asked = await fail(streams(chunk("One"), *ending), answers("Two"))
    assert isinstance(error, UpstreamError)
    assert error.retryable
    assert num_asked == 1


async def test_nobody_there() -> None:
    async with open_engine(settings_for("http://127.0.0.1:1/v1")) as engine:
        begin = time.monotonic()
        with pytest.raises(UpstreamError, match=r"no server answers at http://127\.0\.0\.1:1/v1"):
            await say(engine)
        assert time.monotonic() - begin < 1
        assert engine.state == engine.activity == "offline"
        assert engine.models == ()


async def test_another_protocol_there() -> None:
    async with (
        serve() as server,
        open_engine(settings_for(server.url.replace("http:", "https:"))) as engine,
    ):
        with pytest.raises(UpstreamError, match="no server answers at https"):
            await say(engine)


async def test_a_server_that_comes_goes_and_comes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(upstream_server.LOOK_EVERY_S, "offline", 0.05)
    async with serve(answers("first")) as server:
        port = int(server.url.split(":")[2].split("/")[0])
    async with open_engine(settings_for(server.url)) as engine:
        with pytest.raises(UpstreamError) as caught:
            await say(engine)
        assert caught.value.retry_after_s
        async with serve(answers("second"), port=port):
            await eventually(lambda: engine.state == "ready")
            assert [model.id for model in engine.models] == ["m1"]
            assert await say(engine) == "second"
        with pytest.raises(UpstreamError, match="no server answers"):
            await say(engine)
        assert engine.state == "offline"


async def test_who_presses_just_then_has_one_more_look_taken(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(upstream_server, "LOOK_AGAIN_S", 0.0)
    monkeypatch.setitem(upstream_server.LOOK_EVERY_S, "offline", 60.0)
    async with serve() as server:
        port = int(server.url.split(":")[2].split("/")[0])
    async with open_engine(settings_for(server.url)) as engine:
        await eventually(lambda: engine.state == "offline")
        async with serve(answers("back"), port=port):
            assert await say(engine) == "back"


@pytest.mark.parametrize(("models", "status"), [({}, 503), ({"data": []}, 200)])
async def test_a_server_that_loads_is_waited_for(
    models: Any, status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(upstream_server.LOOK_EVERY_S, "loading", 0.05)
    async with serve(answers("ok")) as server:
        loaded, server.models, server.models_status = server.models, models, status
        async with open_engine(settings_for(server.url)) as engine:
            asked = asyncio.create_task(say(engine))
            await asyncio.sleep(0.1)
            assert engine.state == engine.activity == "loading"
            assert not asked.done()
            with pytest.raises(ExpiredError):
                await say(engine, ttl_s=0.1, priority=9, preempt=True)
            server.models, server.models_status = loaded, 200
            assert await asked == "ok"


async def test_silence_is_an_error_and_not_tried_again() -> None:
    for silent in (
        hangs,
        streams(chunk(role="assistant", content=""), 60.0),
        streams(chunk("a"), 60.0),
    ):
        error, num_asked = await fail(silent, timeout_s=0.2)
        assert error.message == "the server has said nothing for 0.2 s"
        assert num_asked == 1


async def test_pings_are_no_silence() -> None:
    pings: list[bytes | float] = [b": ping\n\n", 0.15] * 3
    async with asking(streams(*pings, chunk("ok", reason="stop"), DONE), timeout_s=0.3) as (
        engine,
        _,
    ):
        assert await say(engine) == "ok"


async def test_closing_the_generator_closes_the_connection() -> None:
    async with asking(streams(chunk("a"), 60.0)) as (engine, server):
        async with aclosing(engine.generate(ChatRequest(prompt="Hi"))) as events:
            async for event in events:
                if isinstance(event, Delta):
                    break
        await eventually(lambda: server.num_left == 1, 0.5)


async def test_cancelling_before_there_is_an_answer_closes_the_connection() -> None:
    async with asking(hangs) as (engine, server):
        task = asyncio.create_task(say(engine))
        await eventually(lambda: server.bodies)
        task.cancel()
        await eventually(lambda: server.num_left == 1, 0.5)


async def test_characters_may_be_cut_anywhere() -> None:
    stream = b"".join(map(frame, (chunk("Grüße 🦊"), chunk("你好"), chunk(reason="stop")))) + DONE
    pieces = [stream[at : at + 5] for at in range(0, len(stream), 5)]
    async with asking(streams(*pieces)) as (engine, _):
        assert await say(engine) == "Grüße 🦊你好"


@pytest.mark.parametrize("garbage", [frame("<html>"), frame("{"), frame("[1]")])
async def test_garbage_is_an_error(garbage: bytes) -> None:
    error, num_asked = await fail(streams(chunk("a"), garbage), answers("b"))
    assert isinstance(error, UpstreamError)
    assert num_asked == 1


async def test_an_error_frame_is_an_error() -> None:
    told = {"error": {"message": "the card is gone", "type": "server_error"}}
    error, _ = await fail(streams(chunk("a"), told))
    assert error.message == "the server broke off: the card is gone"


async def test_a_server_that_does_not_stream_is_understood() -> None:
    choice = {"index": 0, "message": {"content": "All of it."}, "finish_reason": "stop"}
    async with asking(says({"choices": [choice], "usage": {"completion_tokens": 4}})) as (
        engine,
        _,
    ):
        *_, done = events = await collect(engine)
        assert text_of(events) == "All of it."
        assert isinstance(done, Done)
        assert done.usage.completion_tokens == 4
    error, _ = await fail(says({"error": "streaming is not supported"}))  # hailo-ollama, status 200
    assert "streaming is not supported" in error.message


async def test_stop_strings_are_heeded_also_where_the_server_ignores_them() -> None:
    async with asking(streams(chunk("One. E"), chunk("ND. Two."), 60.0)) as (engine, server):
        *_, done = events = await collect(engine, stop=("END",))
        assert text_of(events) == "One. "
        assert isinstance(done, Done)
        assert done.finish_reason == "stop"
        await eventually(lambda: server.num_left == 1, 0.5)


async def test_max_bytes_ends_it() -> None:
    async with asking(streams(*[chunk("Größe ")] * 4, 60.0)) as (engine, server):
        *_, done = events = await collect(engine, max_bytes=16)
        assert text_of(events) == "Größe Größe Größe "
        assert isinstance(done, Done)
        assert done.finish_reason == "length"
        assert done.usage == Usage(completion_tokens=3)
        await eventually(lambda: server.num_left == 1, 0.5)


async def test_a_time_budget_ends_in_time_and_on_a_sentence() -> None:
    slow: list[Any] = [chunk("One is done. "), chunk("Two is "), 60.0]
    async with asking(streams(*slow)) as (engine, server):
        begin = time.monotonic()
        *_, done = events = await collect(engine, time_budget_s=0.4)
        assert 0.2 < time.monotonic() - begin < 0.45
        assert text_of(events) == "One is done."
        assert isinstance(done, Done)
        assert done.finish_reason == "time_budget"
        await eventually(lambda: server.num_left == 1, 0.5)


@pytest.mark.parametrize("behaviour", [hangs, refuses(503, Retry_After="5"), streams(60.0)])
async def test_a_time_budget_that_ends_before_the_first_word(behaviour: Behaviour) -> None:
    async with asking(behaviour) as (engine, _):
        begin = time.monotonic()
        with pytest.raises(ExpiredError):
            await say(engine, time_budget_s=0.3)
        assert time.monotonic() - begin < 0.4


async def test_a_call_within_a_time_budget_has_no_words() -> None:
    call = {"index": 0, "id": "c", "function": {"name": "f", "arguments": "{}"}}
    async with asking(streams(chunk(tool_calls=[call]), chunk(reason="stop"), DONE)) as (engine, _):
        *_, done = await collect(engine, time_budget_s=2.0)
        assert isinstance(done, Done)
        assert done.finish_reason == "tool_calls"


async def test_a_closed_gate_holds_it() -> None:
    async with (
        serve(answers("a", "b")) as server,
        open_upstream(settings_for(server.url)) as engine,
    ):
        gate = Gate()
        gate.close()
        async with aclosing(engine.generate(ChatRequest(prompt="Hi"), gate)) as events:
            begun = asyncio.ensure_future(anext(events))
            await asyncio.sleep(0.05)
            assert not server.bodies
            gate.open()
            assert await begun == Started()
            assert await anext(events) == Delta(text="a")
            gate.close()
            held = asyncio.ensure_future(anext(events))
            await asyncio.sleep(0.05)
            assert not held.done()
            gate.open()
            assert await held == Delta(text="b")


async def test_an_overflow_drops_the_oldest_turns_if_it_may() -> None:
    turns = [
        {"role": "system" if n == 0 else "user" if n % 2 else "assistant", "content": f"t{n}"}
        for n in range(10)
    ]
    overflow = refuses(400, {"error": {"code": "context_length_exceeded", "message": "long"}})
    async with asking(overflow, overflow, answers("ok")) as (engine, server):
        fields = {"messages": turns, "overflow": "drop_oldest"}
        request = ChatRequest.model_validate(fields, strict=False)
        async with aclosing(engine.generate(request)) as events:
            all_events = [event async for event in events]
        assert text_of(all_events) == "ok"
        assert Started(dropped_messages=6) in all_events
        sent = [[message["content"] for message in body["messages"]] for body in server.bodies]
        assert [len(contents) for contents in sent] == [10, 6, 4]
        assert sent[-1] == ["t0", "t7", "t8", "t9"]


async def test_a_server_that_starts_late_is_announced_and_so_is_its_next_model(
    mosquitto: Mosquitto, monkeypatch: pytest.MonkeyPatch
) -> None:
    for state in ("offline", "ready"):
        monkeypatch.setitem(upstream_server.LOOK_EVERY_S, state, 0.05)
    broker, port = mosquitto.broker(), free_port()
    async with (
        open_engine(settings_for(f"http://127.0.0.1:{port}/v1")) as engine,
        serving(broker.settings(), engine),
        broker.client() as client,
    ):
        await client.subscribe("llm/#")
        await client.wait_for("llm/node/stage/info")
        await eventually(lambda: b"offline" in client.payloads("llm/node/stage/activity"))
        client.publish("llm/request/a", '{"prompt":"Hi"}')
        (refusal,) = await client.wait_for("llm/response/a")
        assert json.loads(refusal)["error"]["code"] == "upstream_error"
        async with serve(answers("ok"), port=port) as server:
            await eventually(lambda: b'"m1"' in client.payloads("llm/node/stage/info")[-1])
            await eventually(lambda: b"idle" in client.payloads("llm/node/stage/activity"))
            server.models = {"data": [{"id": "m2"}]}
            await eventually(lambda: b'"m2"' in client.payloads("llm/node/stage/info")[-1])
