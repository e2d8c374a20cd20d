"""What grows with what others send has an end."""

import asyncio
import time
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from bridges import osc
from bridges.http import door, open_http
from bridges.http.bridge import Bridge
from bridges.http.conversation import MAX_CHARS, MAX_CLIENTS, MAX_MESSAGES, Conversations
from bridges.http.page import history, page, requests
from edge_llm.engine.prompt import prompter
from edge_llm.errors import BrokerError
from edge_llm.fleet import setup
from edge_llm.mqtt import MqttConnection, link, throttle
from edge_llm.mqtt import connection as mqtt_connection
from edge_llm.plugin import BridgeContext
from edge_llm.protocol import (
    MAX_PAYLOAD_BYTES,
    ChatRequest,
    FunctionCall,
    Message,
    ToolCall,
)
from edge_llm.settings import (
    EngineSettings,
    FleetSettings,
    HttpSettings,
    MqttSettings,
    SessionSettings,
    StoreSettings,
)
from edge_llm.store import open_store
from edge_llm.text import template
from edge_llm.topics import MAX_ID_CHARS, MAX_TOPIC_BYTES
from tests.brokers import Mosquitto, Proxy
from tests.clients import eventually
from tests.fakes import ScriptedEngine
from tests.http_bridge import PlayedEngine, talk
from tests.programs import HOST, free_port
from tests.test_mqtt_connection import connected, receive

pytestmark = pytest.mark.usefixtures("reconnects_quickly")


async def test_a_flood_waits_at_the_broker_while_the_loop_is_busy(
    mosquitto: Mosquitto, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edge_llm.mqtt.throttle.MAX_UNREAD", 20)
    loop: Any = asyncio.get_running_loop()
    async with (
        connected(mosquitto.broker().settings(), "t/+") as connection,
        mosquitto.broker().client() as client,
    ):
        for number in range(900):  # fewer than mosquitto keeps for one that does not read
            client.publish("t/1", b"%d" % number, 0)
        time.sleep(0.3)  # noqa: ASYNC251 - it is what a busy loop does
        assert len(loop._ready) < 100
        received = await receive(connection, 900)
        assert [int(p.payload) for p in received] == list(range(900))


async def test_a_packet_that_is_too_large_is_not_sent_to_us(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edge_llm.mqtt.link.MAX_PACKET_BYTES", 100_000)
    with Mosquitto(tmp_path) as mosquitto:
        async with (
            connected(mosquitto.broker().settings(), "t/+") as connection,
            mosquitto.broker().client() as client,
        ):
            client.publish("t/1", b"x" * 200_000)
            client.publish("t/2", b"x" * 50_000)
            [publication] = await receive(connection)
            assert publication.topic == "t/2"


async def test_what_is_retained_waits_once_for_each_topic(mosquitto: Mosquitto) -> None:
    mosquitto.stop()
    async with MqttConnection(mosquitto.broker().settings(), "ours", []) as connection:
        states = [connection.publish("s", b"%d" % n, 1, retain=True) for n in range(500)]
        other = connection.publish("o", b"x", 1, retain=True)
        final = connection.publish("final", b"x", 1)
        assert len(connection._waiting) == 3
        mosquitto.start()
        await asyncio.wait_for(asyncio.gather(states[-1], other, final), 10)
        async with mosquitto.broker().client() as client:
            await client.subscribe("s", "o")
            assert await client.wait_for("s") == [b"499"]


async def test_a_broker_that_does_not_read_is_sent_no_more_in_the_end(
    mosquitto: Mosquitto, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mqtt_connection, "MAX_UNCONFIRMED", 50)
    async with (
        Proxy(mosquitto.port) as proxy,
        connected(mosquitto.broker().settings(port=proxy.port), "t/+") as connection,
    ):
        proxy.passes.clear()
        sent = [connection.publish("t/1", b"x", 1) for _ in range(60)]
        failed = [future for future in sent if future.done()]
        assert len(failed) == 10
        with pytest.raises(BrokerError) as error:
            failed[0].result()
        assert error.value.retryable
        proxy.passes.set()
        await asyncio.wait_for(asyncio.gather(*sent[:50]), 10)
        assert len(await receive(connection, 50)) == 50
        await asyncio.wait_for(connection.publish("t/1", b"x", 1), 5)


async def test_what_waits_without_a_broker_has_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mqtt_connection, "MAX_UNCONFIRMED", 50)
    settings = MqttSettings(host=HOST, port=free_port())
    async with MqttConnection(settings, "ours", []) as connection:
        waiting = [connection.publish("t", b"x", 1) for _ in range(60)]
        assert sum(future.done() for future in waiting) == 10
        assert len(connection._waiting) == 50


def test_a_session_counts_calls_too() -> None:
    limits = SessionSettings(max_chars=1000)
    call = ToolCall(id="c", function=FunctionCall(name="f", arguments=f'"{"x" * 600}"'))
    turn = (
        Message(role="user", content="Hi"),
        Message(role="assistant", content="", tool_calls=(call,)),
        Message(role="tool", content="1", tool_call_id="c"),
    )
    with open_store(None, StoreSettings(), limits) as store:
        store.sessions.keep("a", turn)
        assert store.sessions.turns("a") == turn
        store.sessions.keep("a", (*turn, *turn))
        assert store.sessions.turns("a") == turn


async def test_a_conversation_that_http_keeps_has_an_end() -> None:
    engine = PlayedEngine(talk("x" * 1000))
    bridge = Bridge(engine, HttpSettings(), "pi5")
    conversations = Conversations()
    conversations.reset("10.0.0.7", "You are brief.")
    conversation = conversations.find("10.0.0.7")
    assert conversation
    for _ in range(8):
        asked = ChatRequest(prompt="y" * (MAX_CHARS // 4))
        async with conversation.generate(bridge, asked) as events:
            async for _event in events:
                pass
    assert sum(len(turn.content) for turn in conversation._turns) <= MAX_CHARS
    assert conversation._turns[-1].content == "x" * 1000


async def silent(server: Any) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    return await asyncio.open_connection(server.address, server.port)


async def test_who_connects_and_says_nothing_is_sent_away(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bridges.http.door.FIRST_REQUEST_TIMEOUT_S", 0.2)
    async with open_http(HttpSettings(port=0), BridgeContext("pi5", ScriptedEngine())) as server:
        reader, writer = await silent(server)
        slow_reader, slow_writer = await silent(server)
        slow_writer.write(b"GET /health HTTP/1.1\r\nHost: x\r\nX-Slow: ")
        async with aiohttp.ClientSession(server.url) as http:
            async with http.get("/health") as response:
                assert response.status == 200
            assert await asyncio.wait_for(reader.read(), 5) == b""
            assert await asyncio.wait_for(slow_reader.read(), 5) == b""
            async with http.get("/health") as response:  # the one before is still there
                assert response.status == 200
        for each in (writer, slow_writer):
            each.close()


async def test_so_many_connections_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bridges.http.door.MAX_CONNECTIONS", 5)
    async with open_http(HttpSettings(port=0), BridgeContext("pi5", ScriptedEngine())) as server:
        held = [await silent(server) for _ in range(5)]
        await eventually(lambda: True)
        reader, writer = await silent(server)
        answer = await asyncio.wait_for(reader.read(), 5)
        assert answer.startswith(b"HTTP/1.1 503 ")
        assert b"Connection: close" in answer
        writer.close()
        held[0][1].close()
        async with aiohttp.ClientSession() as http:

            async def is_served() -> bool:
                try:
                    async with http.get(f"{server.url}/health") as response:
                        return response.status == 200
                except aiohttp.ClientError:
                    return False

            deadline = time.monotonic() + 5
            while not await is_served():
                assert time.monotonic() < deadline
                await asyncio.sleep(0.01)
        for _, each in held:
            each.close()


async def test_headers_have_an_end_all_together() -> None:
    async with open_http(HttpSettings(port=0), BridgeContext("pi5", ScriptedEngine())) as server:
        reader, writer = await silent(server)
        writer.write(b"GET /health HTTP/1.1\r\nHost: x\r\n")
        lines = b"".join(b"X-%d: %s\r\n" % (n, b"x" * 5000) for n in range(2000))
        writer.write(lines + b"\r\n")
        assert b" 400 " in await asyncio.wait_for(reader.readline(), 5)
        writer.close()


async def test_labels_of_metrics_come_from_us() -> None:
    async with (
        open_http(HttpSettings(port=0), BridgeContext("pi5", ScriptedEngine())) as server,
        aiohttp.ClientSession(server.url) as http,
    ):
        for number in range(30):
            async with http.get(f"/nowhere/{number}") as response:
                assert response.status == 404
            async with http.get(f"/v1/models/m{number}") as response:
                assert response.status == 404
        async with http.get("/metrics") as response:
            text = await response.text()
        assert "nowhere" not in text
        assert "m17" not in text
        assert 'route="unknown",status="404"} 30.0' in text


def test_the_limits_are_as_documented() -> None:
    table = (Path(__file__).parents[1] / "SECURITY.md").read_text().split("## Limits")[1]
    rows = {row.split(" | ")[0].strip("| "): row for row in table.splitlines()}
    engine, mqtt, http = EngineSettings(), MqttSettings(), HttpSettings()
    numbers = {
        "requests that wait": engine.queue.limit,
        "time in the queue": f"{mqtt.max_age_s:g}",
        "MQTT messages that the node has not got round to": throttle.MAX_UNREAD,
        "a packet to the node, with MQTT 5": f"{link.MAX_PACKET_BYTES >> 20} MiB",
        "messages to the broker that it has not taken": mqtt_connection.MAX_UNCONFIRMED,
        "topics, ids": f"{MAX_TOPIC_BYTES} bytes, {MAX_ID_CHARS} characters",
        "what a route's template makes of a message": f"{template.MAX_CHARS >> 10} Ki characters",
        "what a model's template makes of a conversation": f"{prompter.RENDER_TIMEOUT_S:g} s, 8 Mi",
        "sessions": f"{SessionSettings().max_sessions}, each of `max_chars`, 100,000",
        "HTTP connections": door.MAX_CONNECTIONS,
        "HTTP requests in hand": http.max_concurrent,
        "a request, over MQTT and HTTP": f"{MAX_PAYLOAD_BYTES >> 10} KiB",
        "AXERA's conversations over HTTP": f"{MAX_CLIENTS} clients, {MAX_MESSAGES} turns, 500,000",
        "status pages that are open": page.MAX_READERS,
        "what the status page remembers": f"{requests.MAX_ENDED} requests, an hour of readings, "
        f"{history.MAX_SPANS} states, {history.MAX_MARKS} faults",
        "requests that wait in a fleet; what it remembers": f"`fleet.max_waiting`, "
        f"{FleetSettings().max_waiting}; {setup.MAX_KEPT:,} answers",
        "requests by OSC in hand; a text to it": f"{osc.MAX_IN_HAND}; {osc.MAX_TEXT_BYTES:,} bytes",
    }
    for name, number in numbers.items():
        assert f" {number}" in rows[name], name
    assert (prompter.MAX_RENDERED_CHARS, MAX_CHARS) == (8 << 20, 500_000)
