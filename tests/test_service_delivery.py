"""Requests and replies across deaths, breaks and stops."""

import asyncio
import itertools
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from edge_llm.engine.paced import PacedEngine
from edge_llm.engine.queue import QueuedEngine
from edge_llm.settings import EngineSettings, PacedSettings, QueueSettings
from tests.brokers import Broker, Mosquitto, Proxy, open_amqtt
from tests.clients import RawClient, eventually
from tests.programs import HOST, running
from tests.prompted_engine import PromptedEngine
from tests.stage import (
    FINAL,
    STATUS,
    Protocol,
    Stage,
    open_stage,
    serving,
)

pytestmark = pytest.mark.usefixtures("reconnects_quickly")


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
