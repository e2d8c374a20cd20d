"""A fleet: real nodes at a real nats-server, asked by plain MQTT 3.1.1 clients."""

import asyncio
import json
import time
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from edge_llm.engine.queue import QueuedEngine
from edge_llm.fleet import FleetNames, FleetSource, door
from edge_llm.fleet.connection import connect_fleet
from edge_llm.fleet.door import Door
from edge_llm.node.desk import NodeDesk
from edge_llm.preset import Preset, Presets
from edge_llm.protocol import ModelInfo, NodeInfo
from edge_llm.route import Route
from edge_llm.service import Rules, Service
from edge_llm.settings import (
    FleetSettings,
    MqttSettings,
    QueueSettings,
    SessionSettings,
    StoreSettings,
)
from edge_llm.store import open_store
from tests.clients import RawClient, eventually
from tests.nats import NatsServer, nats_servers
from tests.prompted_engine import PromptedEngine

LEASE_S = 1.0
RULES = Rules(
    Presets({"oracle": Preset(system_prompt="You are the oracle.", priority=8)}),
    routes=tuple(
        Route(
            name=name,
            topic=f"house/+/{name}",
            prompt="{{ payload }}",
            respond_to="house/{{ levels[1] }}/speaker",
            while_busy=name,
        )
        for name in ("queue", "drop", "replace")
    ),
)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[NatsServer]:
    with nats_servers(tmp_path) as [server]:
        yield server


@asynccontextmanager
async def joined(
    server: NatsServer, name: str, engine: PromptedEngine | None = None, **settings: Any
) -> AsyncIterator[PromptedEngine]:
    """Have a node join the fleet, until the context is left."""
    engine = engine or PromptedEngine()
    queue = QueuedEngine(engine, QueueSettings())
    mqtt = MqttSettings(port=server.mqtt_port, protocol="3.1.1", stop_timeout_s=0.2)
    options = FleetSettings(servers=(server.url,), lease_s=LEASE_S, **settings)
    info = NodeInfo(node=name, version="0", boot_id=name, models=(), engine="worker", queue_limit=4)
    source = FleetSource(options, FleetNames("llm"), name)
    with open_store(None, StoreSettings(), SessionSettings()) as store:
        service = Service(
            queue, mqtt, info, store, rules=RULES, on_command=lambda _: None, source=source
        )
        source.serve(NodeDesk(queue, service, store.sessions))
        queue.stats.watchers.append(lambda _: source.wake())
        running = asyncio.create_task(service.run())
        try:
            await eventually(lambda: source.health.joined)
            yield engine
        finally:
            running.cancel()
            await asyncio.wait({running})
            if not running.cancelled() and (error := running.exception()):
                raise error


@pytest.fixture
async def client(server: NatsServer) -> AsyncGenerator[RawClient]:
    async with RawClient(server.mqtt_port, client_id="esp1") as client:
        await client.subscribe("llm/response/#")
        yield client


def said(client: RawClient, topic: str) -> list[str]:
    return [m.payload.decode() for m in client.messages if m.topic == f"llm/response/{topic}"]


async def answer(client: RawClient, request_id: str, count: int = 1) -> str:
    """Wait for the final message of a request."""
    await eventually(lambda: len(said(client, request_id)) == count, 10.0)
    return said(client, request_id)[-1]


def ask(client: RawClient, request_id: str, prompt: str, **fields: Any) -> None:
    payload = json.dumps({"prompt": prompt, **fields}) if fields else prompt
    client.publish(f"llm/request/{request_id}", payload, 1)


async def test_one_node_of_two_answers(server: NatsServer, client: RawClient) -> None:
    async with joined(server, "a") as a, joined(server, "b") as b:
        for number in range(10):
            ask(client, f"esp1/{number}", f"say {number}")
        for number in range(10):
            assert await answer(client, f"esp1/{number}") == str(number)
        assert sorted(a.asked + b.asked) == sorted(f"say {number}" for number in range(10))
        assert a.asked
        assert b.asked
        assert len(client.messages) == 10


async def test_a_request_waits_for_a_node_with_room(server: NatsServer, client: RawClient) -> None:
    async with joined(server, "a") as a:
        ask(client, "first", "hold on")
        await eventually(lambda: a.asked == ["hold on"])
        ask(client, "second", "say later")
        await asyncio.sleep(0.3)
        assert a.asked == ["hold on"]
        async with joined(server, "b") as b:
            assert await answer(client, "second") == "later"
            assert b.asked == ["say later"]
        a.release.set()
        assert await answer(client, "first") == "hold on"


async def num_put(server: NatsServer) -> int:
    """How many requests were ever put into the queue."""
    async with connect_fleet(FleetSettings(servers=(server.url,)), "test") as nats:
        info = await nats.jetstream().stream_info("LLM_WORK")
    return int(info.state.last_seq)


async def num_left(server: NatsServer) -> int:
    """How many requests that came in are not dealt with yet."""
    found = 0
    async with connect_fleet(FleetSettings(servers=(server.url,)), "test") as nats:
        for stream, consumer in (door.MQTT_STREAM, "LLM_REQUESTS"), ("LLM_REQUESTS", "sorter"):
            info = await nats.jetstream().consumer_info(stream, consumer)
            found += int(info.num_pending or 0) + int(info.num_ack_pending or 0)
    return found


async def test_what_would_not_wait_does_not_go_through_the_queue(
    server: NatsServer, client: RawClient
) -> None:
    async with joined(server, "a") as a:
        for number in range(3):
            ask(client, f"idle/{number}", f"say {number}")
            await answer(client, f"idle/{number}")
        ask(client, "mine", "say mine", node="a", model="tiny")
        await answer(client, "mine")
        await eventually_none_is_left(server)
        ask(client, "long", "hold on")
        await eventually(lambda: "hold on" in a.asked)
        assert await num_left(server) == 1  # it would go to another if this node died now
        assert await num_put(server) == 0
        ask(client, "waits", "say this")
        ask(client, "turn", "say that", session="ada")
        async with asyncio.timeout(5):
            while await num_put(server) < 2:  # noqa: ASYNC110 - it asks the server
                await asyncio.sleep(0.02)
        a.release.set()
        for name in ("long", "waits", "turn"):
            await answer(client, name)
        assert await num_put(server) == 2
        await eventually_none_is_left(server)


async def eventually_none_is_left(server: NatsServer) -> None:
    async with asyncio.timeout(5):
        while await num_left(server):  # noqa: ASYNC110 - it asks the server
            await asyncio.sleep(0.02)


async def begin(
    server: NatsServer, client: RawClient, node: PromptedEngine, *, waits: bool
) -> None:
    """Have a node be in the midst of request q, which it took at once or from the queue."""
    if waits:
        ask(client, "before", "hold up")
        await eventually(lambda: node.asked == ["hold up"])
    ask(client, "q", "hold on", stream="token", events=True)
    if waits:
        async with asyncio.timeout(5):
            while not await num_put(server):  # noqa: ASYNC110 - it asks the server
                await asyncio.sleep(0.02)
        client.publish("llm/cancel/before", b"", 0)
    await eventually(lambda: bool(said(client, "q/delta")))


WAITS = pytest.mark.parametrize("waits", [False, True], ids=["at-once", "from-the-queue"])


@WAITS
async def test_what_a_node_that_stops_has_not_said_another_says(
    server: NatsServer, client: RawClient, *, waits: bool
) -> None:
    async with AsyncExitStack() as first:
        a = await first.enter_async_context(joined(server, "a"))
        await begin(server, client, a, waits=waits)
        async with joined(server, "b") as b:
            b.release.set()
            began = time.monotonic()
            await first.aclose()
            body = json.loads(await answer(client, "q"))
            assert body["text"] == "hold on"
            assert body["node"] == "b"
            assert time.monotonic() - began < LEASE_S + 1.0
    assert a.asked[waits:] == b.asked == ["hold on"]
    events = [json.loads(event)["event"] for event in said(client, "q/event")]
    assert events == ["started", "first_token", "restarted", "started", "first_token", "done"]
    assert [json.loads(delta)["seq"] for delta in said(client, "q/delta")] == [0, 0, 1]


async def tell_of_a_lost_server(server: NatsServer, *nodes: str) -> None:
    """Say it as another node would, until these have passed it on."""
    said, subject = {"node": "c", "models": ["tiny"]}, FleetNames("llm").peers
    lost_at = time.time()
    heard: set[str] = set()

    async def hear(message: Any) -> None:
        told = json.loads(message.data)
        if told["server_lost_at"] == lost_at:
            heard.add(told["node"])

    async with connect_fleet(FleetSettings(servers=(server.url,)), "test") as nats:
        await nats.subscribe(subject, cb=hear)
        async with asyncio.timeout(10):
            while not heard >= set(nodes):
                await nats.publish(
                    subject, json.dumps({**said, "server_lost_at": lost_at}).encode()
                )
                await asyncio.sleep(0.1)


@pytest.mark.parametrize("is_lost", [True, False], ids=["a-server-was-lost", "all-is-well"])
async def test_what_is_sent_again_as_its_server_died_is_answered_with_the_same_words(
    server: NatsServer, client: RawClient, *, is_lost: bool
) -> None:
    async with joined(server, "a"):
        ask(client, "q", "say this", events=True)
        first = await answer(client, "q")
    async with joined(server, "b") as b:
        if is_lost:
            await tell_of_a_lost_server(server, "b")
        ask(client, "q", "say this", events=True)
        second = await answer(client, "q", 2)
        assert b.asked == ["say this"]
        assert json.loads(second)["node"] == ("a" if is_lost else "b")
        assert (second == first) == is_lost


async def test_what_two_nodes_have_in_hand_as_it_was_sent_twice_ends_alike(
    server: NatsServer, client: RawClient
) -> None:
    async with joined(server, "a") as a:
        ask(client, "q", "hold on", events=True)
        await eventually(lambda: bool(a.asked))
        async with joined(server, "b") as b:
            await tell_of_a_lost_server(server, "a", "b")
            ask(client, "q", "hold on", events=True)
            await eventually(lambda: bool(b.asked))
            b.release.set()
            first = await answer(client, "q")
            a.release.set()
            assert await answer(client, "q", 2) == first
            assert json.loads(first)["node"] == "b"


@pytest.mark.parametrize("ahead_s", [-0.2, 0.2])  # of another server's clock
async def test_what_comes_in_while_the_doors_are_opened_is_answered_once(
    server: NatsServer, client: RawClient, monkeypatch: pytest.MonkeyPatch, ahead_s: float
) -> None:
    open_door = Door.open
    names = ("before", "between")

    async def open_amid_requests(door: Door, lease_s: float) -> None:
        if door.is_mqtt:  # our stream is there, and has the first; that of MQTT drops it
            await publish(client, "before")
        await open_door(door, lease_s)
        if door.is_mqtt:
            door.open_since += ahead_s
            await publish(client, "between")

    monkeypatch.setattr(Door, "open", open_amid_requests)
    monkeypatch.setattr(door, "OPENING_S", 0.5)
    async with joined(server, "a") as a:
        for times in (1, 2, 3, 4):  # they ask again later, and are answered again
            for name in names:
                await answer(client, name, times)
            await asyncio.sleep(0.35)  # for what should not come
            assert len(client.messages) == len(a.asked) == 2 * times
            for name in names:
                ask(client, name, f"say {name}")


async def publish(client: RawClient, name: str) -> None:
    """Ask, and wait until the server has confirmed it."""
    info = client.publish(f"llm/request/{name}", f"say {name}", 1)
    await eventually(info.is_published)


async def test_the_urgent_goes_first(server: NatsServer, client: RawClient) -> None:
    async with joined(server, "a") as a:
        ask(client, "first", "hold on")
        await eventually(lambda: bool(a.asked))
        ask(client, "low", "say low", priority=1)
        ask(client, "plain", "say plain")
        ask(client, "oracle", "say oracle", preset="oracle")
        ask(client, "high", "say high", priority=9)
        await asyncio.sleep(0.3)  # all are sorted
        a.release.set()
        for name in ("low", "plain", "oracle", "high"):
            await answer(client, name)
        assert a.asked == ["hold on", "say high", "say oracle", "say plain", "say low"]


async def test_what_is_wrong_is_refused_at_once_also_by_a_busy_node(
    server: NatsServer, client: RawClient
) -> None:
    async with joined(server, "a") as a:
        ask(client, "first", "hold on")
        await eventually(lambda: bool(a.asked))
        ask(client, "bad", "x", temprature=1)
        assert json.loads(await answer(client, "bad"))["error"]["code"] == "unknown_field"
        ask(client, "nobody", "x", preset="nobody")
        assert json.loads(await answer(client, "nobody"))["error"]["code"] == "preset_not_found"
        a.release.set()
        await answer(client, "first")


async def test_a_queue_that_is_full_is_said(server: NatsServer, client: RawClient) -> None:
    async with joined(server, "a", max_waiting=2) as a:
        ask(client, "first", "hold on")
        await eventually(lambda: bool(a.asked))
        for number in range(2):
            ask(client, f"w{number}", f"say {number}")
        await asyncio.sleep(1.3)  # it is known now how many wait
        ask(client, "more", "say more", ttl_s=30)
        assert json.loads(await answer(client, "more"))["error"]["code"] == "queue_full"
        a.release.set()
        for number in range(2):
            assert await answer(client, f"w{number}") == str(number)


async def test_a_cancel_reaches_whoever_has_it_and_what_waits(
    server: NatsServer, client: RawClient
) -> None:
    async with joined(server, "a") as a:
        ask(client, "first", "hold on", events=False, stream="token")
        await eventually(lambda: bool(said(client, "first/delta")))
        ask(client, "second", "say never", priority=5)
        await asyncio.sleep(0.3)
        client.publish("llm/cancel/second", "", 0)
        assert json.loads(await answer(client, "second"))["finish_reason"] == "cancelled"
        client.publish("llm/cancel/first", "", 0)
        body = json.loads(await answer(client, "first"))
        assert (body["finish_reason"], body["text"]) == ("cancelled", "hold")
        assert a.asked == ["hold on"]
        ask(client, "second", "say anew")  # the same id is no longer cancelled
        assert await answer(client, "second", 2) == "anew"


async def test_a_model_is_asked_where_it_is_and_refused_where_nobody_has_it(
    server: NatsServer, client: RawClient
) -> None:
    def engine(model: str) -> PromptedEngine:
        served = ModelInfo(id=model, context_len=512, vocab_size=1000)
        return PromptedEngine(models=(served,))

    async with (
        joined(server, "a", engine("qwen3/4b")) as a,
        joined(server, "b", engine("qwen2.5-0.5b")) as b,
    ):
        await asyncio.sleep(3.6)  # both know of each other
        for number in range(4):
            ask(client, f"m{number}", f"say {number}", model="qwen3/4b")
            await answer(client, f"m{number}")
        assert (len(a.asked), len(b.asked)) == (4, 0)
        ask(client, "none", "say nothing", model="llama")
        assert json.loads(await answer(client, "none"))["error"]["code"] == "model_not_found"
        ask(client, "away", "say nothing", node="c")
        assert json.loads(await answer(client, "away"))["error"]["code"] == "node_offline"
        ask(client, "node", "say hello", node="b")
        assert json.loads(await answer(client, "node"))["node"] == "b"


async def test_a_conversation_goes_on_where_it_is_and_elsewhere_if_that_node_is_gone(
    server: NatsServer, client: RawClient
) -> None:
    async with AsyncExitStack() as stay, joined(server, "b") as b:
        a = await stay.enter_async_context(joined(server, "a"))
        await asyncio.sleep(1.2)
        nodes = []
        for number in range(5):
            ask(client, f"t{number}", f"say turn {number}", session="ada")
            nodes.append(json.loads(await answer(client, f"t{number}"))["node"])
        assert len(set(nodes)) == 1  # the one that has the beginning
        first, other = (a, b) if nodes[0] == "a" else (b, a)
        assert len(first.asked) == 5
        assert not other.asked
        if nodes[0] == "b":
            return  # it is the one that stays
        await stay.aclose()
        ask(client, "t5", "say turn 5", session="ada")
        assert json.loads(await answer(client, "t5"))["node"] == "b"
        assert [turn.content for turn in b.conversations[-1]] == [
            text for number in range(5) for text in (f"say turn {number}", f"turn {number}")
        ] + ["say turn 5"]
        client.publish("llm/session/ada/reset", "", 1)
        await asyncio.sleep(0.3)
        ask(client, "t6", "say anew", session="ada")
        await answer(client, "t6")
        assert [turn.content for turn in b.conversations[-1]] == ["say anew"]


def presses_of(client: RawClient) -> list[str]:
    return [text.decode() for text in client.payloads("house/hall/speaker")]


async def test_a_press_is_answered_once_and_one_after_another(
    server: NatsServer, client: RawClient
) -> None:
    await client.subscribe("house/+/speaker")
    async with joined(server, "a") as a, joined(server, "b") as b:
        for text in ("hold on", "say two", "say three"):
            client.publish("house/hall/queue", text, 1)
            await asyncio.sleep(0.1)
        await eventually(lambda: len(a.asked + b.asked) == 1)
        await asyncio.sleep(0.3)
        assert a.asked + b.asked == ["hold on"]  # though the other node is free
        a.release.set()
        b.release.set()
        await eventually(lambda: len(presses_of(client)) == 3, 10.0)
        assert presses_of(client) == ["hold on", "two", "three"]


async def test_a_press_does_nothing_or_takes_the_place_of_another(
    server: NatsServer, client: RawClient
) -> None:
    await client.subscribe("house/+/speaker")
    async with joined(server, "a") as a, joined(server, "b") as b:
        for way in ("drop", "replace"):
            client.publish(f"house/hall/{way}", "hold on", 1)
            await eventually(lambda: "hold on" in a.asked + b.asked)
            await asyncio.sleep(0.2)
            client.publish(f"house/hall/{way}", "say second", 1)
            await asyncio.sleep(0.5)
            a.release.set()
            b.release.set()
            await eventually(lambda: bool(presses_of(client)))
            await asyncio.sleep(0.3)
            assert presses_of(client) == (["hold on"] if way == "drop" else ["second"])
            client.messages.clear()
            for engine in (a, b):
                engine.asked.clear()
                engine.release.clear()


async def test_what_waits_too_long_is_told_in_time(server: NatsServer, client: RawClient) -> None:
    async with joined(server, "a") as a:
        ask(client, "first", "hold on")
        await eventually(lambda: bool(a.asked))
        began = time.monotonic()
        ask(client, "late", "say late", ttl_s=0.5)
        assert json.loads(await answer(client, "late"))["error"]["code"] == "expired"
        assert 0.5 <= time.monotonic() - began < 1.5
        a.release.set()
        await answer(client, "first")
        assert a.asked == ["hold on"]


@WAITS
async def test_what_a_hurt_node_holds_goes_to_another(
    server: NatsServer, client: RawClient, *, waits: bool
) -> None:
    async with joined(server, "a") as a:
        await begin(server, client, a, waits=waits)
        a.state = "recovering"
        async with joined(server, "b") as b:
            b.release.set()
            assert json.loads(await answer(client, "q"))["node"] == "b"
            assert a.num_running == 0


async def test_a_conversation_waits_for_its_node_and_not_for_ever(
    server: NatsServer, client: RawClient
) -> None:
    wait_s = 0.8
    async with (
        joined(server, "a", session_wait_s=wait_s) as a,
        joined(server, "b", session_wait_s=wait_s) as b,
    ):
        await asyncio.sleep(1.2)  # both know of each other
        ask(client, "t0", "say one", session="ada")
        holder = json.loads(await answer(client, "t0"))["node"]
        busy, free = (a, b) if holder == "a" else (b, a)
        ask(client, "long", "hold on", node=holder)
        await eventually(lambda: "hold on" in busy.asked)
        began = time.monotonic()
        ask(client, "t1", "say two", session="ada")
        body = json.loads(await answer(client, "t1"))
        waited_s = time.monotonic() - began
        assert body["node"] != holder
        assert wait_s <= waited_s < wait_s + 1.5
        assert [turn.content for turn in free.conversations[-1]] == ["say one", "one", "say two"]
        busy.release.set()
        await answer(client, "long")


async def test_each_press_that_is_wrong_is_told(server: NatsServer, client: RawClient) -> None:
    async with joined(server, "a") as a:
        for count in (1, 2, 3):
            client.publish("house/hall/queue", " ", 1)
            await client.wait_for("llm/response/queue/error", count)
        assert not a.asked
