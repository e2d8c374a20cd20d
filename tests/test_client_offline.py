"""A node behind a broker that is not there, goes, comes back, or is not the only one."""

import asyncio
import functools
import re
import time
from collections.abc import AsyncGenerator
from contextlib import ExitStack, aclosing, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from edge_llm import ChatRequest, Delta, Done, MqttSettings, RemoteEngine, Started
from edge_llm.client import nodes
from edge_llm.errors import (
    BrokerError,
    ConfigurationError,
    EngineFailedError,
    InvalidRequestError,
    NodeOfflineError,
)
from edge_llm.protocol import Event
from tests.brokers import Broker, Mosquitto, Proxy
from tests.clients import eventually
from tests.programs import HOST, free_port
from tests.prompted_engine import PromptedEngine
from tests.remote import LONG_S, collect, faking, paced_node, remote, texts
from tests.stage import serving

# Nobody there -------------------------------------------------------------------------------------


async def test_without_a_broker_it_says_so_after_its_timeout() -> None:
    settings = MqttSettings(host=HOST, port=free_port())
    async with RemoteEngine(settings, connect_timeout_s=0.2) as engine:
        with pytest.raises(BrokerError, match=f"{HOST}:{settings.port} does not answer"):
            await collect(engine)


async def test_without_a_node_it_says_so_quickly(
    broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nodes, "STATUS_TIMEOUT_S", 0.2)
    async with RemoteEngine(broker.settings(), silence_timeout_s=LONG_S) as engine:
        begin = time.monotonic()
        with pytest.raises(NodeOfflineError, match="edge-llm serve"):
            await collect(engine)
        assert time.monotonic() - begin < 2
        assert engine.state == "offline"


@pytest.mark.parametrize("name", [None, "x"])
async def test_a_node_that_is_retained_as_offline_fails_at_once(
    mosquitto: Mosquitto, name: str | None
) -> None:
    broker = mosquitto.broker()
    async with (
        faking(broker, status="offline"),
        RemoteEngine(broker.settings(), node=name, silence_timeout_s=LONG_S) as engine,
    ):
        begin = time.monotonic()
        with pytest.raises(NodeOfflineError):
            await collect(engine)
        assert time.monotonic() - begin < 1
        begin = time.monotonic()
        with pytest.raises(NodeOfflineError):
            await collect(engine)
        assert time.monotonic() - begin < 0.1


async def test_a_node_that_was_stopped_is_not_there(mosquitto: Mosquitto) -> None:
    broker = mosquitto.broker()
    async with remote(broker, PromptedEngine()):
        pass
    async with RemoteEngine(broker.settings()) as engine:
        with pytest.raises(NodeOfflineError):
            await engine.ready()


async def test_a_node_that_is_cut_off_fails_in_mid_reply_at_once(mosquitto: Mosquitto) -> None:
    """By its will, long before the silence is too long."""
    broker, node = mosquitto.broker(), PromptedEngine()
    async with (
        Proxy(mosquitto.port) as proxy,
        serving(broker.settings(port=proxy.port, stop_timeout_s=0), node),
        RemoteEngine(broker.settings(), silence_timeout_s=LONG_S) as engine,
    ):
        await engine.ready()
        async with aclosing(engine.generate(ChatRequest(prompt="hold the line"))) as events:
            assert [await anext(events), await anext(events)] == [Started(), Delta(text="hold")]
            proxy.refuses = True
            proxy.cut()
            begin = time.monotonic()
            with pytest.raises(NodeOfflineError, match="'stage' went offline"):
                await anext(events)
        assert time.monotonic() - begin < 1
        with pytest.raises(NodeOfflineError):
            await collect(engine)


async def test_a_request_that_was_given_up_is_cancelled_when_the_node_is_back(
    mosquitto: Mosquitto,
) -> None:
    broker = mosquitto.broker()
    async with faking(broker) as node, RemoteEngine(broker.settings()) as engine:
        reply = asyncio.create_task(collect(engine))
        topic, _ = await node.request()
        node.say("status", "offline")
        with pytest.raises(NodeOfflineError):
            await reply
        await eventually(lambda: node.num_cancels == 1)
        node.say("status", "online")
        await eventually(lambda: node.num_cancels == 2)
        assert node.client.messages[-1].topic == topic.replace("/response/", "/cancel/")
        assert not engine._abandoned


# Which node ---------------------------------------------------------------------------------------


async def test_only_the_node_that_is_meant_is_asked(mosquitto: Mosquitto) -> None:
    broker = mosquitto.broker()
    node = PromptedEngine()
    async with (
        faking(broker, "other") as other,
        remote(broker, node, node="stage") as engine,
        RemoteEngine(broker.settings(), node="nobody") as wrong,
    ):
        assert texts(await collect(engine, "say Yes.")) == ["Yes."]
        _, said = await other.request()
        assert said["node"] == "stage"
        with pytest.raises(NodeOfflineError, match="'nobody' is not online"):
            await collect(wrong)
        with pytest.raises(InvalidRequestError, match="for node 'stage' only"):
            await collect(engine, node="other")
        assert len(other.client.messages) == 1


async def test_of_several_nodes_one_is_asked_that_has_the_model_and_time(
    mosquitto: Mosquitto,
) -> None:
    broker = mosquitto.broker()
    info = {"version": "1", "boot_id": "b", "engine": "worker", "queue_limit": 1}
    async with (
        faking(broker, "a") as a,
        faking(broker, "b") as b,
        RemoteEngine(broker.settings()) as engine,
    ):
        for node, model in ((a, "small"), (b, "large")):
            models = [{"id": model, "context_len": 512, "vocab_size": 9}]
            node.say("info", {**info, "node": node.name, "models": models})
        await eventually(lambda: len(engine.models) == 2)
        fields: list[dict[str, Any]] = [{}, {}, {"model": "large"}, {"node": "a"}]
        tasks = []
        for number, given in enumerate(fields):
            tasks.append(asyncio.create_task(collect(engine, "Hi", **given)))
            _, said = await a.request(number)
            assert said["node"] == "abba"[number]
        b.say("status", "offline")
        await eventually(lambda: tasks[1].done() and tasks[2].done())
        assert [task.done() for task in tasks] == [False, True, True, False]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@pytest.mark.parametrize("name", ["", "a/b", "+", "#"])
def test_a_name_that_no_node_can_have_is_refused(name: str) -> None:
    with pytest.raises(ConfigurationError, match="can't be called"):
        RemoteEngine(node=name)


# Restarts -----------------------------------------------------------------------------------------


@asynccontextmanager
async def restarting(
    mosquitto: Mosquitto, after: PromptedEngine, offline_grace_s: float
) -> AsyncGenerator[list[Event]]:
    """Ask a node that is stopped in mid-answer; yield all that came of it, by its next life too."""
    broker = mosquitto.broker()
    settings = broker.settings(stop_timeout_s=0)
    before = PromptedEngine()
    options: dict[str, Any] = {"silence_timeout_s": LONG_S, "offline_grace_s": offline_grace_s}
    async with RemoteEngine(broker.settings(), **options) as engine:
        events: list[Event] = []

        async def read() -> None:
            async with aclosing(engine.generate(ChatRequest(prompt="hold the line"))) as stream:
                async for event in stream:
                    events.append(event)  # noqa: PERF401 - the test looks on

        async with serving(settings, before):
            task = asyncio.create_task(read())
            await eventually(lambda: "hold" in texts(events))
        after.release.set()
        async with serving(settings, after):
            await task
            yield events


async def test_with_grace_an_answer_survives_a_restart_and_nothing_is_said_twice(
    mosquitto: Mosquitto,
) -> None:
    async with restarting(mosquitto, PromptedEngine(), 10) as events:
        assert events[0] == Started()
        assert events.count(Started()) == 1
        assert texts(events) == ["hold", " the", " line"]
        assert isinstance(events[-1], Done)


async def test_an_answer_that_begins_anew_with_other_words_is_an_error(
    mosquitto: Mosquitto, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Fickle(PromptedEngine):
        async def generate(self, request: ChatRequest, *_: Any) -> AsyncGenerator[Event]:
            other = request.model_copy(update={"prompt": "say Other words"})
            async with aclosing(super().generate(other)) as events:
                async for event in events:
                    yield event

    with pytest.raises(EngineFailedError, match="began anew"):
        async with restarting(mosquitto, Fickle(), 10):
            pass


async def test_an_answer_survives_the_death_of_a_real_node(
    mosquitto: Mosquitto, tmp_path: Path
) -> None:
    text = "one two three four five six seven eight nine ten"
    run_node = functools.partial(paced_node, mosquitto.port, tmp_path, text=text, tokens_per_s="10")
    events: list[Event] = []
    with ExitStack() as stack:
        first = stack.enter_context(run_node())
        async with (
            RemoteEngine(mosquitto.broker().settings(), offline_grace_s=30) as engine,
            aclosing(engine.generate(ChatRequest(prompt="Count."))) as stream,
        ):
            async for event in stream:
                events.append(event)
                if len(texts(events)) == 3 and first.poll() is None:
                    first.kill()
                    first.wait()
                    stack.enter_context(run_node())
    assert texts(events) == re.findall(r" ?\w+", text)
    assert (events[0], events.count(Started()), type(events[-1])) == (Started(), 1, Done)


async def test_grace_ends(mosquitto: Mosquitto) -> None:
    broker = mosquitto.broker()
    options: dict[str, Any] = {"silence_timeout_s": LONG_S, "offline_grace_s": 0.5}
    async with faking(broker) as node, RemoteEngine(broker.settings(), **options) as engine:
        reply = asyncio.create_task(collect(engine))
        await node.request()
        node.say("status", "offline")
        begin = time.monotonic()
        with pytest.raises(NodeOfflineError, match="went offline"):
            await reply
        assert 0.4 < time.monotonic() - begin < 2


async def test_with_grace_a_node_that_comes_late_is_waited_for(mosquitto: Mosquitto) -> None:
    broker = mosquitto.broker()
    options: dict[str, Any] = {"silence_timeout_s": LONG_S, "offline_grace_s": 10.0}
    async with (
        faking(broker, status="offline") as node,
        RemoteEngine(broker.settings(), **options) as engine,
    ):
        reply = asyncio.create_task(engine.ask("Hi"))
        await asyncio.sleep(0.1)
        node.say("status", "online")
        topic, _ = await node.request()
        node.end(topic, text="Ho")
        assert await reply == "Ho"


@pytest.mark.usefixtures("reconnects_quickly")
async def test_an_answer_survives_a_broken_connection_of_ours(mosquitto: Mosquitto) -> None:
    broker, node = mosquitto.broker(), PromptedEngine()
    async with (
        serving(broker.settings(), node),
        Proxy(mosquitto.port) as proxy,
        RemoteEngine(broker.settings(port=proxy.port), silence_timeout_s=LONG_S) as engine,
    ):
        reply = asyncio.create_task(collect(engine, "hold the line"))
        await eventually(lambda: node.num_running)
        proxy.cut()
        await eventually(lambda: engine._mqtt.connection == 2)
        await asyncio.sleep(0.1)  # until it was sent again, and refused as a copy
        node.release.set()
        assert "".join(texts(await reply)) == "hold the line"
    assert node.asked == ["hold the line"]


@pytest.mark.usefixtures("reconnects_quickly")
async def test_an_answer_that_came_while_we_were_away_is_asked_for_again(
    mosquitto: Mosquitto,
) -> None:
    broker, node = mosquitto.broker(), PromptedEngine()
    async with (
        serving(broker.settings(), node),
        Proxy(mosquitto.port) as proxy,
        RemoteEngine(broker.settings(port=proxy.port), silence_timeout_s=LONG_S) as engine,
    ):
        reply = asyncio.create_task(collect(engine, "hold the line"))
        await eventually(lambda: node.num_running)
        proxy.refuses = True
        proxy.cut()
        node.release.set()
        await eventually(lambda: not node.num_running)
        await asyncio.sleep(0.1)
        proxy.refuses = False
        assert "".join(texts(await reply)) == "hold the line"


@pytest.mark.usefixtures("reconnects_quickly")
@pytest.mark.parametrize("when", ["before", "after"])
async def test_an_answer_survives_a_restart_of_the_broker(mosquitto: Mosquitto, when: str) -> None:
    """A broker that stops publishes the wills of all, so the node seems to go: it takes grace."""
    broker, node = mosquitto.broker(), PromptedEngine()
    options: dict[str, Any] = {"silence_timeout_s": LONG_S, "offline_grace_s": 10.0}
    async with (
        serving(broker.settings(), node),
        RemoteEngine(broker.settings(), **options) as engine,
    ):
        reply = asyncio.create_task(collect(engine, "hold the line"))
        await eventually(lambda: node.num_running)
        await asyncio.to_thread(mosquitto.stop)
        if when == "before":
            node.release.set()
            await eventually(lambda: not node.num_running)
        await asyncio.to_thread(mosquitto.start)
        await eventually(lambda: engine._mqtt.connection == 2)
        node.release.set()
        assert "".join(texts(await reply)) == "hold the line"
