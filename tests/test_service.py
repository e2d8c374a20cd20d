"""The MQTT front end, at real brokers: each request gets exactly one final message."""

import asyncio
import itertools
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncGenerator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pytest
from structlog.testing import capture_logs

from edge_llm import mqtt
from edge_llm.engine import Engine
from edge_llm.engine.paced import PacedEngine
from edge_llm.engine.queue import QueuedEngine
from edge_llm.mqtt import MqttConnection, Publication
from edge_llm.protocol import MAX_ID_CHARS, MAX_PAYLOAD_BYTES, NodeInfo
from edge_llm.service import Service
from edge_llm.settings import EngineSettings, MqttSettings, PacedSettings, QueueSettings
from tests.brokers import (
    HOST,
    Broker,
    Mosquitto,
    PromptedEngine,
    Proxy,
    RawClient,
    eventually,
    open_amqtt,
    running,
)

Protocol = Literal["5", "3.1.1"]
STATUS, INFO, ERROR = (f"llm/node/stage/{name}" for name in ("status", "info", "error"))
FINAL = "llm/response/a"


@pytest.fixture(autouse=True)
def reconnects_quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mqtt, "RECONNECT_DELAY_S", (0.05, 0.1))


@dataclass
class Stage:
    """A node that serves, and a client that hears all that it says."""

    engine: PromptedEngine
    queue: QueuedEngine
    service: Service
    task: asyncio.Task[None]
    client: RawClient
    num_markers: int = 0

    def ask(self, request: str | bytes | dict[str, Any], request_id: str = "a", **how: Any) -> None:
        payload = json.dumps(request) if isinstance(request, dict) else request
        self.client.publish(f"llm/request/{request_id}", payload, **how)

    def cancel(self, request_id: str = "a") -> None:
        self.client.publish(f"llm/cancel/{request_id}", b"", 0)

    async def final(self, request_id: str = "a") -> dict[str, Any]:
        """Wait for the final message, and make sure that it stays the only one."""
        topic = f"llm/response/{request_id}"
        [payload] = await self.client.wait_for(topic)
        body: dict[str, Any] = json.loads(payload)
        return body

    async def text(self, request_id: str = "a") -> str:
        [payload] = await self.client.wait_for(f"llm/response/{request_id}")
        return payload.decode()

    async def error(self, request_id: str = "a") -> str:
        [payload] = await self.client.wait_for(f"llm/response/{request_id}/error")
        return payload.decode()

    async def code(self, request: str | bytes | dict[str, Any], request_id: str = "a") -> str:
        """Ask, and return the code of the error."""
        self.ask(request, request_id)
        body = await self.final(request_id)
        assert body["text"] == ""
        return str(body["error"]["code"])

    async def settle(self) -> None:
        """Wait until all that was asked until now has been answered, and has arrived."""
        self.engine.release.set()
        self.num_markers += 1
        self.ask("say marker", "marker")
        await self.client.wait_for("llm/response/marker", self.num_markers)
        assert not self.service._requests
        await eventually(lambda: not self.service._unconfirmed)

    def finals(self, request_id: str = "a") -> list[bytes]:
        topic = f"llm/response/{request_id}"
        return self.client.payloads(topic) + self.client.payloads(f"{topic}/error")


@asynccontextmanager
async def serving(
    settings: MqttSettings, engine: Engine, limit: int = 16
) -> AsyncGenerator[tuple[Service, asyncio.Task[None]]]:
    info = NodeInfo(
        node="stage", version="1", boot_id="b1", models=(), engine="worker", queue_limit=limit
    )
    service = Service(engine, settings, info)
    task = asyncio.create_task(service.run())
    try:
        yield service, task
    finally:
        task.cancel()
        await asyncio.wait({task}, timeout=5)
        assert task.cancelled()


@asynccontextmanager
async def open_stage(
    broker: Broker,
    *,
    limit: int = 16,
    settings: MqttSettings | None = None,
    engine: PromptedEngine | None = None,
) -> AsyncGenerator[Stage]:
    engine = engine or PromptedEngine()
    queue = QueuedEngine(engine, QueueSettings(limit=limit))
    async with broker.client() as client:
        await client.subscribe("llm/response/#", "llm/node/#")
        async with serving(settings or broker.settings(), queue, limit) as (service, task):
            await eventually(lambda: b"online" in client.payloads(STATUS))
            yield Stage(engine, queue, service, task, client)


@pytest.fixture
async def stage(broker: Broker) -> AsyncGenerator[Stage]:
    async with open_stage(broker) as stage:
        yield stage


def open_proxied(broker: Broker, proxy: Proxy) -> Any:
    return open_stage(broker, settings=broker.settings(port=proxy.port))


# Answers -----------------------------------------------------------------------------------------


async def test_text_in_text_out(stage: Stage) -> None:
    stage.ask("say Good evening.")
    assert await stage.text() == "Good evening."


async def test_json_in_json_out(stage: Stage) -> None:
    stage.ask({"prompt": "say Good evening.", "seed": 1})
    body = await stage.final()
    timing = body.pop("timing")
    assert body == {
        "id": "a",
        "node": "stage",
        "model": "tiny",
        "text": "Good evening.",
        "finish_reason": "stop",
        "usage": {"prompt_tokens": 2, "cached_tokens": 0, "completion_tokens": 2},
    }
    assert set(timing) >= {"queue_s", "ttft_s", "total_s"}


async def test_json_in_text_out(stage: Stage) -> None:
    stage.ask({"prompt": "say Good evening.", "format": "text"})
    assert await stage.text() == "Good evening."


async def test_messages_are_a_prompt_too(stage: Stage) -> None:
    turns = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "say Yes"}]
    stage.ask({"messages": turns})
    assert (await stage.final())["text"] == "Yes"


async def test_an_id_may_have_two_levels_and_any_letters(stage: Stage) -> None:
    stage.ask("say one", "esp1/42")
    stage.ask("say two", "Büro 7/öl")
    assert await stage.text("esp1/42") == "one"
    assert await stage.text("Büro 7/öl") == "two"


@pytest.mark.parametrize("qos", [0, 1, 2])
async def test_every_quality_of_service_is_answered(stage: Stage, qos: int) -> None:
    stage.ask("say Yes", qos=qos)
    assert await stage.text() == "Yes"
    await stage.settle()
    assert len(stage.finals()) == 1


async def test_max_bytes_fits_small_clients(stage: Stage) -> None:
    stage.ask({"prompt": "say Eins zwei drei vier fünf sechs", "format": "text", "max_bytes": 20})
    text = await stage.text()
    assert len(text.encode()) <= 20
    assert text == "Eins zwei drei…"


@pytest.mark.parametrize("form", ["json", "text"])
@pytest.mark.parametrize("stream", [True, "token", "sentence"])
async def test_deltas_come_in_order_without_gaps_and_add_up(
    stage: Stage, stream: str | bool, form: str
) -> None:
    text = "One two. Three four! Five"
    stage.ask({"prompt": f"say {text}", "stream": stream, "format": form})
    await stage.client.wait_for(FINAL)
    deltas = stage.client.payloads(f"{FINAL}/delta")
    if form == "json":
        assert (await stage.final())["text"] == text
        parts = [json.loads(delta) for delta in deltas]
        assert [part["seq"] for part in parts] == list(range(len(parts)))
        texts = [part["text"] for part in parts]
    else:
        assert await stage.text() == text
        texts = [delta.decode() for delta in deltas]
    assert "".join(texts) == text
    if stream == "sentence":
        assert texts == ["One two.", " Three four!", " Five"]
    else:
        assert texts == ["One", " two.", " Three", " four!", " Five"]


async def test_an_id_may_be_used_again_at_once(stage: Stage) -> None:
    for number in range(1, 30):
        stage.ask("say Yes", qos=number % 2)
        await stage.client.wait_for(FINAL, number)
    assert not stage.client.payloads(f"{FINAL}/error")


async def test_an_id_whose_last_answer_is_being_confirmed_is_free(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The loop may see the confirmation and the next request in one go, and this in between."""
    confirmed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    confirmed.set_result(None)
    first = Publication("llm/request/a", b"say No", 1, False, False, 999)
    stage.service._unconfirmed["a"] = (first, confirmed)
    stage.ask("say Yes")
    assert await stage.text() == "Yes"


# The node's own topics ---------------------------------------------------------------------------


async def test_it_is_online_and_says_what_it_has(stage: Stage, broker: Broker) -> None:
    await eventually(
        lambda: [info for info in stage.client.payloads(INFO) if json.loads(info)["models"]]
    )
    async with broker.client() as late:
        await late.subscribe("llm/node/#")
        status = (await late.wait_for(STATUS))[-1]
        info = json.loads((await late.wait_for(INFO))[-1])
    assert status == b"online"
    assert info == {
        "node": "stage",
        "version": "1",
        "protocol": 1,
        "boot_id": "b1",
        "models": [{"id": "tiny", "context_len": 512, "vocab_size": 1000}],
        "engine": "worker",
        "queue_limit": 16,
        "max_payload_bytes": MAX_PAYLOAD_BYTES,
    }


async def test_a_clean_stop_says_offline_for_those_who_come_later(broker: Broker) -> None:
    async with open_stage(broker):
        pass
    async with broker.client() as late:
        await late.subscribe(STATUS)
        assert set(await late.wait_for(STATUS)) == {b"offline"}


async def test_the_will_says_offline_and_a_return_online(broker: Broker) -> None:
    async with Proxy(broker.port) as proxy, open_proxied(broker, proxy) as stage:
        await eventually(lambda: len(stage.client.payloads(INFO)) >= 2)  # all was said
        stage.client.messages.clear()
        proxy.refuses = True
        proxy.cut()
        assert await stage.client.wait_for(STATUS) == [b"offline"]
        proxy.refuses = False
        assert await stage.client.wait_for(STATUS, 2) == [b"offline", b"online"]


# Cancelling --------------------------------------------------------------------------------------


async def test_a_cancelled_request_ends_with_what_was_said(stage: Stage) -> None:
    stage.ask({"prompt": "hold the line", "stream": "token"})
    await stage.client.wait_for(f"{FINAL}/delta")
    stage.cancel()
    body = await stage.final()
    assert (body["text"], body["finish_reason"]) == ("hold", "cancelled")
    assert stage.engine.num_running == 0
    await stage.settle()
    assert len(stage.finals()) == 1


async def test_a_cancelled_text_request_ends_with_what_was_said(stage: Stage) -> None:
    stage.ask("hold the line")
    await eventually(lambda: stage.engine.num_running)
    stage.cancel()
    assert await stage.text() == "hold"


async def test_a_request_in_the_queue_can_be_cancelled(stage: Stage) -> None:
    stage.ask("hold the line", "first")
    stage.ask({"prompt": "say never"}, "esp1/2")
    await eventually(lambda: stage.queue.num_waiting)
    stage.cancel("esp1/2")
    body = await stage.final("esp1/2")
    assert (body["text"], body["finish_reason"]) == ("", "cancelled")
    assert stage.queue.num_waiting == 0
    await stage.settle()
    assert stage.engine.asked == ["hold the line", "say marker"]


async def test_a_request_that_has_not_begun_can_be_cancelled(mosquitto: Mosquitto) -> None:
    """As when both messages are in one packet: its task never runs."""
    async with open_stage(mosquitto.broker()) as stage:
        asked = Publication("llm/request/a", b'{"prompt": "say never"}', 1, False, False, 999)
        stage.service._take(asked)
        stage.service._take(Publication("llm/cancel/a", b"", 0, False, False, 0))
        assert (await stage.final())["finish_reason"] == "cancelled"
        assert not stage.engine.asked
        await stage.settle()
        assert len(stage.finals()) == 1


async def test_cancelling_what_has_ended_or_never_was_does_nothing(stage: Stage) -> None:
    stage.cancel("ghost")
    stage.ask("say Yes")
    await stage.text()
    stage.cancel()
    stage.cancel()
    await stage.settle()
    assert (stage.finals(), stage.finals("ghost")) == ([b"Yes"], [])
    assert not stage.service._cancelled
    stage.ask("say Again")  # not cancelled by what came before it
    assert await stage.client.wait_for(FINAL, 2) == [b"Yes", b"Again"]


async def test_cancelling_twice_is_cancelling_once(stage: Stage) -> None:
    stage.ask({"prompt": "hold the line"})
    await eventually(lambda: stage.engine.num_running)
    for _ in range(5):
        stage.cancel()
    assert (await stage.final())["finish_reason"] == "cancelled"
    await stage.settle()
    assert len(stage.finals()) == 1
    assert not stage.service._cancelled


async def test_a_retained_cancel_is_cleared(broker: Broker) -> None:
    async with broker.client() as client:
        client.publish("llm/cancel/a", b"stop", retain=True)
        async with open_stage(broker) as stage:
            client.publish("llm/cancel/a", b"stop", 0, retain=True)
            await stage.settle()
        if broker.protocol == "5":  # 3.1.1 brokers tell only those who subscribe later
            assert await retained(broker, "llm/cancel/a") == []


# What is wrong with a request --------------------------------------------------------------------

BAD_JSON: dict[str, tuple[str | bytes, str]] = {
    "broken": ('{"prompt": "x"', "invalid_json"),
    "only a brace": ("{", "invalid_json"),
    "two objects": ('{"prompt": "x"} {}', "invalid_json"),
    "not UTF-8": (b'{"prompt": "\xff"}', "invalid_utf8"),
    "half a surrogate": (r'{"prompt": "\ud800"}', "invalid_json"),
    "nothing": ("{}", "invalid_request"),
    "empty prompt": ('{"prompt": ""}', "invalid_request"),
    "blank prompt": ('{"prompt": " \\n"}', "invalid_request"),
    "prompt of null": ('{"prompt": null}', "invalid_request"),
    "prompt of number": ('{"prompt": 5}', "invalid_request"),
    "prompt and messages": (
        '{"prompt": "x", "messages": [{"role": "user", "content": "x"}]}',
        "invalid_request",
    ),
    "no messages": ('{"messages": []}', "invalid_request"),
    "messages of text": ('{"messages": "x"}', "invalid_request"),
    "null content": ('{"messages": [{"role": "user", "content": null}]}', "invalid_request"),
    "list content": (
        '{"messages": [{"role": "user", "content": [{"type": "text", "text": "x"}]}]}',
        "invalid_request",
    ),
    "no content": ('{"messages": [{"role": "user"}]}', "invalid_request"),
    "empty content": ('{"messages": [{"role": "user", "content": ""}]}', "invalid_request"),
    "unknown role": ('{"messages": [{"role": "bot", "content": "x"}]}', "invalid_request"),
    "field of a message": (
        '{"messages": [{"role": "user", "content": "x", "name": "y"}]}',
        "unknown_field",
    ),
    "number as text": ('{"prompt": "x", "max_tokens": "5"}', "invalid_request"),
    "number as boolean": ('{"prompt": "x", "max_tokens": true}', "invalid_request"),
    "fraction": ('{"prompt": "x", "max_tokens": 5.5}', "invalid_request"),
    "too low": ('{"prompt": "x", "max_tokens": 0}', "invalid_request"),
    "too hot": ('{"prompt": "x", "temperature": 2.01}', "invalid_request"),
    "NaN": ('{"prompt": "x", "temperature": NaN}', "invalid_request"),
    "infinite": ('{"prompt": "x", "ttl_s": Infinity}', "invalid_request"),
    "too many stops": ('{"prompt": "x", "stop": ["a", "b", "c", "d", "e"]}', "invalid_request"),
    "empty stop": ('{"prompt": "x", "stop": [""]}', "invalid_request"),
    "huge seed": ('{"prompt": "x", "seed": 100000000000000000000}', "invalid_request"),
    "unknown stream": ('{"prompt": "x", "stream": "words"}', "invalid_request"),
    "unknown format": ('{"prompt": "x", "format": "xml"}', "invalid_request"),
    "tiny max_bytes": ('{"prompt": "x", "max_bytes": 15}', "invalid_request"),
    "unknown field": ('{"prompt": "x", "temprature": 1}', "unknown_field"),
    "preset": ('{"prompt": "x", "preset": "oracle"}', "unsupported_field"),
    "session": ('{"prompt": "x", "session": "s"}', "unsupported_field"),
    "tools": ('{"prompt": "x", "tools": []}', "unsupported_field"),
    "model": ('{"prompt": "x", "model": "gpt-4"}', "model_not_found"),
    "1 MB": ('{"prompt": "' + "x" * 1_000_000 + '"}', "payload_too_large"),
}


async def test_bad_json_is_answered_with_the_right_code(stage: Stage) -> None:
    """All at one node: none may disturb the next."""
    for number, (name, (payload, code)) in enumerate(BAD_JSON.items()):
        assert await stage.code(payload, f"bad/{number}") == code, name
    assert not stage.engine.asked
    await stage.settle()
    for number, name in enumerate(BAD_JSON):
        assert len(stage.finals(f"bad/{number}")) == 1, name


async def test_bad_text_is_answered_as_code_and_message_off_the_answers(stage: Stage) -> None:
    bad: list[tuple[bytes, str]] = [
        (b"\xff\xfe", "invalid_utf8: the request is not UTF-8: byte 0 is wrong"),
        (b"", "invalid_request: the prompt is empty"),
        (b" \n", "invalid_request: the prompt is empty"),
        (b"x" * 1_000_000, "payload_too_large: the request has 1000000 bytes"),
    ]
    for number, (payload, message) in enumerate(bad):
        stage.ask(payload, f"bad{number}")
        assert (await stage.error(f"bad{number}")).startswith(message)
    await stage.settle()
    for number in range(len(bad)):
        assert len(stage.finals(f"bad{number}")) == 1


async def test_the_field_at_fault_is_named(stage: Stage) -> None:
    stage.ask({"prompt": "x", "messages": [{"role": "user"}]}, "a")
    assert (await stage.final("a"))["error"]["param"] == "messages.0.content"
    stage.ask({"prompt": "x", "temprature": 1}, "b")
    assert (await stage.final("b"))["error"]["param"] == "temprature"


async def test_what_looks_almost_like_json_is_a_prompt(stage: Stage) -> None:
    for number, text in enumerate(('["a"]', '"a"', "42", "null", "say {}")):
        stage.ask(text, f"{number}")
        assert await stage.text(f"{number}") == text.removeprefix("say ")


async def test_failures_of_the_engine_are_answered(stage: Stage) -> None:
    assert await stage.code({"prompt": "fail"}) == "internal"
    stage.ask("fail", "b")
    assert await stage.error("b") == "internal: it was told to fail"


async def test_a_crash_is_answered_and_logged_and_the_next_request_runs(stage: Stage) -> None:
    stage.engine.error = RuntimeError("a bug")
    with capture_logs() as logs:
        assert await stage.code({"prompt": "x"}) == "internal"
    assert "request.crashed" in [entry["event"] for entry in logs]
    assert "a bug" not in str(stage.client.payloads(FINAL))
    stage.engine.error = None
    stage.ask("say Yes", "b")
    assert await stage.text("b") == "Yes"


@pytest.mark.parametrize("request_id", ["a/delta", "a/error", "a/part", "a/event", "/b", "a/"])
async def test_an_id_that_cant_be_answered_is_refused_on_the_nodes_topic(
    stage: Stage, request_id: str
) -> None:
    stage.ask("say never", request_id)
    [payload] = await stage.client.wait_for(ERROR)
    assert json.loads(payload)["code"] == "invalid_id"
    assert not stage.engine.asked


async def test_a_long_id_is_refused(stage: Stage) -> None:
    longest = "x" * (MAX_ID_CHARS - 2) + "/y"
    stage.ask("say Yes", longest)
    assert await stage.text(longest) == "Yes"
    stage.ask("say never", f"{longest}y")
    [payload] = await stage.client.wait_for(ERROR)
    assert json.loads(payload)["code"] == "invalid_id"


async def test_an_id_with_control_characters_is_refused_here_or_by_the_broker(
    stage: Stage, broker: Broker
) -> None:
    async with broker.client() as client:
        gone: list[Any] = []
        client.paho.on_disconnect = lambda *args: gone.append(args)
        client.publish("llm/request/a\x07b", "say never", 0)
        if broker.is_mosquitto:  # it throws out whoever sends such a topic
            await eventually(lambda: gone)
        else:
            [payload] = await stage.client.wait_for(ERROR)
            assert json.loads(payload)["code"] == "invalid_id"
    await stage.settle()
    assert stage.engine.asked == ["say marker"]


async def test_a_bad_cancel_is_refused_and_the_node_goes_on(stage: Stage) -> None:
    stage.cancel("a/delta")
    await stage.client.wait_for(ERROR)
    await stage.settle()


# Retained and repeated requests -------------------------------------------------------------------


async def retained(broker: Broker, topic: str) -> list[bytes]:
    """What the broker has on a topic for those who come."""
    async with broker.client() as client:
        client.publish("end/marker", b"x", retain=True)
        await client.subscribe(topic)
        await client.subscribe("end/marker")
        await client.wait_for("end/marker")
        return client.payloads(topic)


async def test_a_retained_request_is_refused_once_and_cleared(
    mosquitto: Mosquitto, protocol: Protocol
) -> None:
    broker = mosquitto.broker(protocol)
    async with broker.client() as client, Proxy(broker.port) as proxy:
        if protocol == "3.1.1":  # a live copy has no flag there: only what was there before has
            client.publish("llm/request/a", '{"prompt": "say never"}', retain=True)
        async with open_proxied(broker, proxy) as stage:
            if protocol == "5":
                stage.ask({"prompt": "say never"}, retain=True)
            body = await stage.final()
            assert body["error"]["code"] == "retained_request"
            await stage.settle()
            assert await retained(broker, "llm/request/a") == []
            proxy.cut()
            await eventually(lambda: proxy.num_connections > 1)
            await stage.settle()
            assert len(stage.finals()) == 1
            assert not stage.service._cleared
            assert "say never" not in stage.engine.asked


async def test_a_retained_request_with_a_bad_id_is_cleared_too(mosquitto: Mosquitto) -> None:
    broker = mosquitto.broker()
    async with open_stage(broker) as stage:
        stage.ask("say never", "a/delta", retain=True)
        await stage.client.wait_for(ERROR)
        await stage.settle()
        assert await retained(broker, "llm/request/a/delta") == []
        assert len(stage.client.payloads(ERROR)) == 1


async def test_clearing_a_retained_request_is_not_a_request(mosquitto: Mosquitto) -> None:
    async with open_stage(mosquitto.broker()) as stage:
        stage.ask(b"", retain=True)
        await stage.settle()
        assert not stage.finals()


async def test_an_id_in_flight_is_refused_off_the_first_ones_topic(stage: Stage) -> None:
    stage.ask({"prompt": "hold the line"})
    await eventually(lambda: stage.engine.num_running)
    stage.ask({"prompt": "say second"})
    assert json.loads(await stage.error())["code"] == "duplicate_id"
    stage.engine.release.set()
    assert (await stage.final())["text"] == "hold the line"
    assert stage.engine.asked == ["hold the line"]


async def test_a_text_duplicate_gets_code_and_message(stage: Stage) -> None:
    stage.ask("hold the line")
    await eventually(lambda: stage.engine.num_running)
    stage.ask("say second")
    assert (await stage.error()).startswith("duplicate_id: ")
    stage.engine.release.set()
    assert await stage.text() == "hold the line"


async def test_what_the_broker_repeats_is_answered_once(
    mosquitto: Mosquitto, protocol: Protocol
) -> None:
    broker = mosquitto.broker(protocol)
    async with Proxy(broker.port) as proxy, open_proxied(broker, proxy) as stage:
        stage.ask({"prompt": "hold the line"})
        await eventually(lambda: stage.engine.num_running)
        for _ in range(2):
            proxy.num_connections = 0
            proxy.cut()
            await eventually(lambda: proxy.num_connections)
            await eventually(lambda: stage.service._mqtt.is_connected)
        await stage.settle()
        assert (await stage.final())["text"] == "hold the line"
        assert len(stage.finals()) == 1
        assert stage.engine.asked.count("hold the line") == 1


async def test_a_lost_acknowledgement_does_not_answer_twice(
    mosquitto: Mosquitto, protocol: Protocol, monkeypatch: pytest.MonkeyPatch
) -> None:
    broker = mosquitto.broker(protocol)
    async with Proxy(broker.port) as proxy, open_proxied(broker, proxy) as stage:
        with monkeypatch.context() as patch:
            lost: list[Publication] = []
            patch.setattr(
                MqttConnection, "ack", lambda _self, publication: lost.append(publication)
            )
            stage.ask("say Yes")
            await eventually(lambda: lost)
        proxy.cut()
        await eventually(lambda: proxy.num_connections == 2)
        await stage.settle()
        assert stage.finals() == [b"Yes"]
        proxy.cut()  # now it is acknowledged, and does not come again
        await eventually(lambda: proxy.num_connections == 3)
        await stage.settle()
        assert stage.finals() == [b"Yes"]


# Delivery -----------------------------------------------------------------------------------------


@contextmanager
def node_process(broker: Broker, tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A whole node, which can be killed; it takes its time to answer."""
    settings = {
        "NODE": "stage",
        "MQTT__PORT": str(broker.port),
        "MQTT__PROTOCOL": "auto" if broker.protocol == "5" else broker.protocol,
        "ENGINE__PACED__TEXT": "Here I am.",
        "ENGINE__PACED__TTFT_S": "0.3",
        "ENGINE__PACED__TOKENS_PER_S": "100",
    }
    env = {**os.environ, **{f"EDGE_LLM_{key}": value for key, value in settings.items()}}
    command = [sys.executable, "-m", "edge_llm", "serve", "--paced", "--no-http"]
    with running(command, tmp_path / "node.log", lambda: True, env) as process:
        yield process


def states(client: RawClient) -> list[bytes]:
    """Each status once, as they are said anew when the models are known."""
    return [status for status, _ in itertools.groupby(client.payloads(STATUS))]


async def test_a_node_that_is_killed_is_offline_and_answers_once_when_it_is_back(
    mosquitto: Mosquitto, protocol: Protocol, tmp_path: Path
) -> None:
    broker = mosquitto.broker(protocol)
    async with broker.client() as client:
        await client.subscribe("llm/response/#", STATUS)
        with node_process(broker, tmp_path) as process:
            await client.wait_for(STATUS, timeout_s=20)
            client.publish("llm/request/a", '{"prompt": "x", "stream": "token"}')
            client.publish("llm/request/b", "while it waits", 2)
            await client.wait_for(f"{FINAL}/delta")
            process.send_signal(signal.SIGKILL)
            await eventually(lambda: states(client) == [b"online", b"offline"])
        assert not client.payloads(FINAL)
        with node_process(broker, tmp_path):
            await client.wait_for(FINAL, timeout_s=20)
            await client.wait_for("llm/response/b")
            client.publish("llm/request/marker", "x")
            await client.wait_for("llm/response/marker")
        assert [json.loads(final)["text"] for final in client.payloads(FINAL)] == ["Here I am."]
        assert client.payloads("llm/response/b") == [b"Here I am."]
        # SIGTERM is a clean stop.
        await eventually(lambda: states(client) == [b"online", b"offline"] * 2)


async def test_what_was_asked_while_it_was_away_is_answered(
    mosquitto: Mosquitto, protocol: Protocol
) -> None:
    broker = mosquitto.broker(protocol)
    async with open_stage(broker):
        pass
    async with broker.client() as client:
        await client.subscribe("llm/response/#")
        client.publish("llm/request/a", "say Here I am.").wait_for_publish(5)
        async with serving(broker.settings(), QueuedEngine(PromptedEngine(), QueueSettings())):
            assert await client.wait_for(FINAL) == [b"Here I am."]


async def test_an_answer_that_overtakes_the_copy_of_its_request_is_the_only_one(
    mosquitto: Mosquitto, protocol: Protocol
) -> None:
    """mosquitto takes our late answer before it sends again what it has kept for us."""
    broker = mosquitto.broker(protocol)
    async with open_stage(broker) as stage:
        for request_id in ("a", "b", "c"):
            stage.client.paho.reconnect_delay_set(1, 1)
            stage.engine.release.clear()
            stage.ask("hold the line", request_id)
            await eventually(lambda: stage.engine.num_running)
            mosquitto.stop()
            await eventually(lambda: not stage.service._mqtt.is_connected)
            stage.engine.release.set()
            await eventually(lambda: not stage.service._requests)
            mosquitto.start()
            await eventually(lambda: not stage.service._unconfirmed)
            await eventually(stage.client.paho.is_connected)
            await stage.client.subscribe("llm/response/#")
            await stage.settle()
        assert stage.engine.asked.count("hold the line") == 3


@pytest.mark.parametrize("persistence", ["true", "false"])
async def test_an_answer_comes_after_a_restart_of_the_broker(
    tmp_path: Path, protocol: Protocol, persistence: str
) -> None:
    """The reply is finished while the broker is gone, by a node that knows no one to tell."""
    with Mosquitto(tmp_path, {"persistence": persistence}) as mosquitto:
        broker = mosquitto.broker(protocol)
        engine = PromptedEngine()
        queue = QueuedEngine(engine, QueueSettings())
        async with (
            Proxy(broker.port) as proxy,
            serving(broker.settings(port=proxy.port), queue) as (service, _),
            broker.client() as client,
        ):
            await client.subscribe("llm/response/#", STATUS)
            await client.wait_for(STATUS)
            client.publish("llm/request/a", "hold the line")
            await eventually(lambda: engine.num_running)
            mosquitto.stop()
            await eventually(lambda: not service._mqtt.is_connected)
            engine.release.set()
            await eventually(lambda: not service._requests)
            proxy.refuses = True
            mosquitto.start()
            async with broker.client() as listener:
                await listener.subscribe("llm/response/#", STATUS)
                proxy.refuses = False
                assert await listener.wait_for(FINAL) == [b"hold the line"]
                await eventually(lambda: not service._unconfirmed)
                listener.publish("llm/request/marker", "say marker")
                await listener.wait_for("llm/response/marker")
                assert listener.payloads(FINAL) == [b"hold the line"]
                assert not listener.payloads(f"{FINAL}/error")
                assert engine.asked == ["hold the line", "say marker"]


async def test_a_slow_answer_is_given_once_where_the_broker_forgets_after_5_s() -> None:
    async with open_amqtt() as port:
        broker = Broker(port, "3.1.1", ack="receipt", is_mosquitto=False)
        paced = EngineSettings(paced=PacedSettings(text="So slow", ttft_s=5.6, tokens_per_s=100))
        queue = QueuedEngine(PacedEngine(paced), QueueSettings())
        async with broker.client() as client:
            await client.subscribe("llm/response/#", STATUS)
            async with serving(broker.settings(), queue):
                await client.wait_for(STATUS)
                client.publish("llm/request/a", '{"prompt": "x"}')
                [final] = await client.wait_for(FINAL, timeout_s=10)
                assert json.loads(final)["text"] == "So slow"
                client.publish("llm/request/marker", '{"prompt": ""}')
                await client.wait_for("llm/response/marker")
                assert len(client.payloads(FINAL)) == 1


async def test_a_flood_at_qos_0_is_told_when_the_queue_is_full(stage: Stage) -> None:
    for number in range(30):
        stage.ask({"prompt": "hold the line"}, f"flood/{number}", qos=0)
    refused = [number for number in range(30) if number > 16]  # one runs, 16 wait
    for number in refused:
        error = (await stage.final(f"flood/{number}"))["error"]
        assert error["code"] == "queue_full"
        assert 1 <= error["retry_after_s"] <= 120
    assert stage.queue.num_waiting == 16
    stage.engine.release.set()
    for number in range(17):
        assert (await stage.final(f"flood/{number}"))["finish_reason"] == "stop"
    await stage.settle()
    assert all(len(stage.finals(f"flood/{number}")) == 1 for number in range(30))


async def test_nothing_of_a_flood_at_qos_1_is_refused(
    mosquitto: Mosquitto, protocol: Protocol
) -> None:
    async with open_stage(mosquitto.broker(protocol), limit=3) as stage:
        for number in range(60):
            stage.ask("say Yes", f"flood/{number}")
        for number in range(60):
            assert await stage.text(f"flood/{number}") == "Yes"
        await stage.settle()
        assert len(stage.engine.asked) == 61
        assert all(len(stage.finals(f"flood/{number}")) == 1 for number in range(60))


async def test_a_higher_priority_goes_first(stage: Stage) -> None:
    stage.ask("hold the line", "first")
    await eventually(lambda: stage.engine.num_running)
    for number, priority in enumerate((5, 1, 9)):
        stage.ask({"prompt": f"say {priority}", "priority": priority}, f"{number}")
    await eventually(lambda: stage.queue.num_waiting == 3)
    await stage.settle()
    assert stage.engine.asked[1:3] == ["say 9", "say 5"]


async def test_a_request_that_waits_too_long_expires(stage: Stage) -> None:
    stage.ask("hold the line", "first")
    await eventually(lambda: stage.engine.num_running)
    stage.ask({"prompt": "say never", "ttl_s": 0.1})
    assert (await stage.final())["error"]["code"] == "expired"
    await stage.settle()
    assert "say never" not in stage.engine.asked


async def test_the_expiry_of_mqtt_5_is_a_time_to_live(mosquitto: Mosquitto) -> None:
    async with open_stage(mosquitto.broker()) as stage:
        stage.ask("hold the line", "first")
        await eventually(lambda: stage.engine.num_running)
        stage.ask({"prompt": "say never"}, "a", expiry_s=1)
        stage.ask({"prompt": "say never", "ttl_s": 0.1}, "b", expiry_s=60)
        assert (await stage.final("b"))["error"]["code"] == "expired"
        begin = time.monotonic()
        assert (await stage.final("a"))["error"]["code"] == "expired"
        assert time.monotonic() - begin < 1.5
        await stage.settle()


# Stopping -----------------------------------------------------------------------------------------


async def test_a_stop_answers_what_is_in_hand_within_a_second(stage: Stage) -> None:
    for number in range(10):
        stage.ask({"prompt": "hold the line"}, f"{number}", qos=number % 2)
    stage.ask("hold the line", "text")
    await eventually(lambda: stage.queue.num_waiting == 10)
    begin = time.monotonic()
    stage.task.cancel()
    await asyncio.wait({stage.task}, timeout=5)
    assert time.monotonic() - begin < 1
    for number in range(10):
        error = (await stage.final(f"{number}"))["error"]
        assert error["code"] == "shutting_down"
        assert len(stage.finals(f"{number}")) == 1
    assert (await stage.error("text")).startswith("shutting_down: ")
    await eventually(lambda: states(stage.client) == [b"online", b"offline"])
    assert (stage.engine.num_running, stage.queue.num_waiting) == (0, 0)


async def test_a_stop_without_a_broker_takes_no_longer(mosquitto: Mosquitto) -> None:
    async with serving(mosquitto.broker().settings(), PromptedEngine()) as (service, task):
        await eventually(lambda: hasattr(service, "_mqtt") and service._mqtt.is_connected)
        mosquitto.stop()
        await eventually(lambda: not service._mqtt.is_connected)
        begin = time.monotonic()
        task.cancel()
        await asyncio.wait({task}, timeout=5)
        assert time.monotonic() - begin < 1.2


async def test_it_waits_for_a_broker_that_is_not_there_yet(tmp_path: Path) -> None:
    mosquitto = Mosquitto(tmp_path)
    engine = PromptedEngine()
    with capture_logs() as logs:
        async with serving(mosquitto.broker().settings(host=HOST), engine):
            await eventually(lambda: "mqtt.unreachable" in [entry["event"] for entry in logs])
            with mosquitto:
                async with mosquitto.broker().client() as client:
                    await client.subscribe("llm/#")
                    await client.wait_for(STATUS)
                    client.publish("llm/request/a", "say Yes")
                    assert await client.wait_for(FINAL) == [b"Yes"]
