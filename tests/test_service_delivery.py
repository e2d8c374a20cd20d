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
from edge_llm.mqtt import MqttConnection
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
    open_proxied,
    open_stage,
    retained,
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
            await eventually(lambda: not stage.service._requests.num_running)
            mosquitto.start()
            await eventually(lambda: not len(stage.service._requests))
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
            await eventually(lambda: not service._requests.num_running)
            proxy.refuses = True
            mosquitto.start()
            async with broker.client() as listener:
                await listener.subscribe("llm/response/#", STATUS)
                proxy.refuses = False
                assert await listener.wait_for(FINAL) == [b"hold the line"]
                await eventually(lambda: not len(service._requests))
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


async def test_a_stop_lets_end_what_has_begun_and_hands_back_the_rest(
    mosquitto: Mosquitto, protocol: Protocol, tmp_path: Path
) -> None:
    broker = mosquitto.broker(protocol)
    store = tmp_path / "node.sqlite3"
    async with open_stage(broker, store=store) as stage:
        stage.ask("hold the line", "begun")
        await eventually(lambda: stage.engine.num_running)
        for number in range(4):
            stage.ask({"prompt": f"say {number}"}, f"{number}", qos=number % 2)
        await eventually(lambda: stage.queue.num_waiting == 4)
        begin = time.monotonic()
        stage.task.cancel()
        for number in (0, 2):  # at QoS 0: the broker has forgotten them
            assert (await stage.final(f"{number}"))["error"]["code"] == "shutting_down"
        stage.engine.release.set()
        assert await stage.text("begun") == "hold the line"
        await asyncio.wait({stage.task}, timeout=5)
        assert time.monotonic() - begin < 1
        await eventually(lambda: states(stage.client) == [b"online", b"offline"])
        assert not stage.finals("1") + stage.finals("3")
        engine = PromptedEngine()
        async with serving(broker.settings(), QueuedEngine(engine, QueueSettings()), store=store):
            for number in (1, 3):  # its next life has them
                assert (await stage.final(f"{number}"))["text"] == f"{number}"
        assert sorted(engine.asked) == ["say 1", "say 3"]


async def test_a_stop_waits_no_longer_than_it_may(mosquitto: Mosquitto, protocol: Protocol) -> None:
    broker = mosquitto.broker(protocol)
    async with open_stage(broker, settings=broker.settings(stop_timeout_s=0.3)) as stage:
        stage.ask("hold the line", "begun")
        stage.ask({"prompt": "hold the line"}, "other", qos=0)
        await eventually(lambda: stage.queue.num_waiting)
        begin = time.monotonic()
        stage.task.cancel()
        await asyncio.wait({stage.task}, timeout=5)
        assert 0.3 <= time.monotonic() - begin < 1
        assert (await stage.final("other"))["error"]["code"] == "shutting_down"
        assert not stage.finals("begun")
        assert (stage.engine.num_running, stage.queue.num_waiting) == (0, 0)
        async with serving(broker.settings(), QueuedEngine(PromptedEngine(), QueueSettings())) as (
            service,
            _,
        ):
            await eventually(lambda: service._requests.num_running)  # it is back
            stage.cancel("begun")
            assert await stage.text("begun") == "hold"


async def test_a_second_stop_ends_the_wait(mosquitto: Mosquitto) -> None:
    async with open_stage(mosquitto.broker()) as stage:
        stage.ask({"prompt": "hold the line"}, qos=0)
        await eventually(lambda: stage.engine.num_running)
        stage.task.cancel()
        await asyncio.sleep(0.05)
        begin = time.monotonic()
        stage.task.cancel()
        await asyncio.wait({stage.task}, timeout=5)
        assert time.monotonic() - begin < 1
        assert (await stage.final())["error"]["code"] == "shutting_down"


async def test_what_cannot_go_back_is_told() -> None:
    """amqtt has forgotten a request by then."""
    async with open_amqtt() as port:
        broker = Broker(port, "3.1.1", ack="receipt", is_mosquitto=False)
        settings = broker.settings(stop_timeout_s=0)
        async with open_stage(broker, settings=settings) as stage:
            stage.ask({"prompt": "hold the line"}, "json")
            stage.ask("hold the line", "text")
            await eventually(lambda: stage.queue.num_waiting)
            stage.task.cancel()
            assert (await stage.final("json"))["error"]["code"] == "shutting_down"
            assert (await stage.error("text")).startswith("shutting_down: ")


async def test_an_answer_that_was_given_is_given_again_and_not_made_anew(
    mosquitto: Mosquitto, protocol: Protocol, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A node dies when its answer is out, before the broker has heard that the request is done."""
    broker, store = mosquitto.broker(protocol), tmp_path / "node.sqlite3"
    async with broker.client() as client:
        await client.subscribe("llm/response/#", STATUS)
        with monkeypatch.context() as patch:
            patch.setattr(MqttConnection, "ack", lambda _self, _publication: None)
            queue = QueuedEngine(PromptedEngine(), QueueSettings())
            async with serving(broker.settings(), queue, store=store):
                await client.wait_for(STATUS)
                client.publish("llm/request/a", '{"prompt": "say Yes"}')
                await client.wait_for(FINAL)
        engine = PromptedEngine()
        async with serving(broker.settings(), QueuedEngine(engine, QueueSettings()), store=store):
            first, second = await client.wait_for(FINAL, 2)
            client.publish("llm/request/b", "say marker")
            await client.wait_for("llm/response/b")
        assert first == second  # with its timing, to the byte
        assert engine.asked == ["say marker"]


async def test_the_same_press_after_an_answer_is_a_new_question(stage: Stage) -> None:
    for number in range(3):
        stage.ask("say Yes")
        await stage.client.wait_for(FINAL, number + 1)
    assert stage.engine.asked == ["say Yes"] * 3


async def test_who_repeats_after_a_broken_line_is_given_the_same_answer(
    mosquitto: Mosquitto, protocol: Protocol
) -> None:
    broker = mosquitto.broker(protocol)
    async with Proxy(broker.port) as proxy, open_proxied(broker, proxy) as stage:
        stage.ask({"prompt": "say Yes"})
        await stage.final()
        proxy.cut()
        await eventually(lambda: proxy.num_connections == 2)
        await eventually(lambda: stage.service._mqtt.is_connected)
        stage.ask({"prompt": "say Yes"})  # a new message to the broker, as it comes from a sender
        first, second = await stage.client.wait_for(FINAL, 2)
        assert first == second
        stage.ask({"prompt": "say No"})
        await stage.client.wait_for(FINAL, 3)
        assert stage.engine.asked == ["say Yes", "say No"]


async def test_a_request_is_as_old_as_when_it_first_came(
    mosquitto: Mosquitto, protocol: Protocol, tmp_path: Path
) -> None:
    broker, store = mosquitto.broker(protocol), tmp_path / "node.sqlite3"
    settings = broker.settings(max_age_s=0.6, stop_timeout_s=0)
    async with open_stage(broker, settings=settings, store=store) as stage:
        stage.ask({"prompt": "hold the line"}, "a")
        stage.ask({"prompt": "say never", "ttl_s": 0.4}, "b")
        stage.ask({"prompt": "say patient", "ttl_s": 60}, "c")
        await eventually(lambda: stage.queue.num_waiting == 2)
        stage.task.cancel()
        await asyncio.wait({stage.task}, timeout=5)
        begin = time.monotonic()
        await eventually(lambda: time.monotonic() - begin > 0.7)
        engine = PromptedEngine()
        async with serving(settings, QueuedEngine(engine, QueueSettings()), store=store):
            for request_id in ("a", "b"):
                assert (await stage.final(request_id))["error"]["code"] == "expired"
            assert (await stage.final("c"))["text"] == "patient"
        assert engine.asked == ["say patient"]


async def test_a_late_will_does_not_win(mosquitto: Mosquitto, protocol: Protocol) -> None:
    broker = mosquitto.broker(protocol)
    async with open_stage(broker) as stage:
        await eventually(lambda: stage.client.payloads(STATUS))
        stage.client.publish(STATUS, b"offline", 1, retain=True)  # as an earlier life's will
        await eventually(lambda: states(stage.client)[-2:] == [b"offline", b"online"])
        assert await retained(broker, STATUS) == [b"online"]


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
