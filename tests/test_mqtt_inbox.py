"""What came in and waits for its receiver; sessions that the broker lost, with real brokers."""

import asyncio
import socket
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from edge_llm.mqtt import MqttConnection, Publication
from edge_llm.mqtt.inbox import Inbox
from edge_llm.settings import MqttSettings
from tests.brokers import Mosquitto, Proxy
from tests.clients import eventually
from tests.programs import HOST
from tests.test_mqtt_connection import Protocol, connected, logged, nothing_comes, receive

pytestmark = pytest.mark.usefixtures("reconnects_quickly")

FORGETFUL = {"persistence": "false"}


def message(packet_id: int, session: int = 1, qos: int = 1) -> Publication:
    topic = f"t/{session}/{packet_id}"
    return Publication(topic, b"", qos, False, False, packet_id, session=session)


async def handed_out(inbox: Inbox, count: int) -> list[tuple[int, int]]:
    got = [await inbox.get() for _ in range(count)]
    assert inbox._incoming.empty()
    return [(p.session, p.packet_id) for p in got]


async def restart(mosquitto: Mosquitto, connection: MqttConnection) -> None:
    """Restart the broker, and wait until the connection and its subscriptions are back."""
    before = connection.connection
    mosquitto.stop()
    await eventually(lambda: not connection.is_connected)
    mosquitto.start()
    await eventually(lambda: connection.connection > before)
    await settled(connection)


async def settled(connection: MqttConnection) -> None:
    """Wait until the broker has taken what was sent before."""
    await asyncio.wait_for(connection.publish("ready", b"", 1), 5)


async def test_more_than_the_receiver_wants_is_held_until_it_acknowledges() -> None:
    inbox = Inbox(2)
    for packet_id in (1, 2, 3, 4):
        inbox.put(message(packet_id))
    inbox.put(message(9, qos=0))
    assert await handed_out(inbox, 3) == [(1, 1), (1, 2), (1, 9)]
    inbox.ack(message(2))
    inbox.ack(message(2))
    assert await handed_out(inbox, 1) == [(1, 3)]


async def test_a_copy_is_handed_out_again_and_held_once() -> None:
    inbox = Inbox(1)
    inbox.put(message(1))
    inbox.put(message(2))
    again = replace(message(1), dup=True, connection=2)
    inbox.put(again)
    inbox.put(replace(message(2), dup=True, connection=2))
    assert await handed_out(inbox, 2) == [(1, 1), (1, 1)]
    inbox.ack(again)
    assert await handed_out(inbox, 1) == [(1, 2)]
    inbox.ack(message(2))
    assert inbox.num_unacknowledged == 0


async def test_messages_of_a_lost_session_count_and_are_passed_on_in_their_turn() -> None:
    inbox = Inbox(1)
    for publication in (message(1), message(2), message(1, session=2), message(2, session=2)):
        inbox.put(publication)
    assert await handed_out(inbox, 1) == [(1, 1)]
    inbox.ack(message(1, session=2))  # not handed out yet: no room is made
    inbox.ack(message(1))
    assert await handed_out(inbox, 1) == [(1, 2)]
    inbox.ack(message(2))
    assert await handed_out(inbox, 1) == [(2, 1)]
    inbox.ack(message(1, session=2))
    assert await handed_out(inbox, 1) == [(2, 2)]


async def test_an_acknowledgement_of_a_lost_session_does_not_hit_another_message(
    tmp_path: Path, protocol: Protocol
) -> None:
    with Mosquitto(tmp_path, FORGETFUL) as mosquitto:
        broker = mosquitto.broker(protocol)
        async with (
            Proxy(broker.port) as proxy,
            connected(broker.settings(port=proxy.port), "t/+") as connection,
        ):
            async with broker.client() as client:
                client.publish("t/old", b"")
                [old] = await receive(connection)
            await restart(mosquitto, connection)
            async with broker.client() as client:
                client.publish("t/new", b"")
                [new] = await receive(connection)
            assert new.packet_id == old.packet_id
            assert new.session == old.session + 1
            connection.ack(old)
            await settled(connection)
            proxy.cut()
            [again] = await receive(connection)
            assert (again.topic, again.dup, again.session) == ("t/new", True, new.session)
            connection.ack(again)
            assert await nothing_comes(connection)
            proxy.cut()
            assert [p.topic for p in await receive(connection)] == ["t/marker"]
            assert await nothing_comes(connection)


async def test_what_was_held_when_the_broker_lost_the_session_comes_and_is_not_acknowledged(
    tmp_path: Path,
) -> None:
    with Mosquitto(tmp_path, FORGETFUL) as mosquitto:
        broker = mosquitto.broker("3.1.1")  # a broker with MQTT 5 holds them itself
        async with (
            Proxy(broker.port) as proxy,
            connected(broker.settings(port=proxy.port), "t/+", receive_maximum=1) as connection,
        ):
            async with broker.client() as client:
                for number in range(2):
                    client.publish(f"t/old{number}", b"")
                [first] = await receive(connection)
                await eventually(lambda: connection._inbox._held)
            await restart(mosquitto, connection)
            async with broker.client() as client:
                for number in range(2):
                    client.publish(f"t/new{number}", b"").wait_for_publish(5)
            connection.ack(first)
            [second] = await receive(connection)
            assert (second.topic, second.packet_id) == ("t/old1", 2)
            connection.ack(second)  # t/new1 has this id now
            await settled(connection)
            [third] = await receive(connection)
            proxy.cut()
            [again] = await receive(connection)
            assert [p.topic for p in (third, again)] == ["t/new0", "t/new0"]
            await settled(connection)  # t/new1 came again, too
            connection.ack(again)
            await settled(connection)
            proxy.cut()
            fourth, copy = await receive(connection, 2)
            assert (fourth.topic, fourth.packet_id) == ("t/new1", 2)
            assert (copy.topic, copy.dup) == ("t/new1", True)
            connection.ack(copy)
            assert connection.is_settled
            assert await nothing_comes(connection)


async def test_an_acknowledgement_without_a_connection_is_sent_for_the_copy_only(
    mosquitto: Mosquitto, protocol: Protocol
) -> None:
    broker = mosquitto.broker(protocol)
    async with connected(broker.settings(), "t/+") as connection, broker.client() as client:
        client.publish("t/1", b"")
        [first] = await receive(connection)
        mosquitto.stop()
        await eventually(lambda: not connection.is_connected)
        connection.ack(first)
        assert connection.is_settled
        mosquitto.start()
        [again] = await receive(connection)
        assert (again.packet_id, again.session) == (first.packet_id, first.session)
        connection.ack(again)
        assert await nothing_comes(connection)


async def test_nothing_is_acknowledged_while_a_connection_is_being_made() -> None:
    loop = asyncio.get_running_loop()
    with socket.socket() as listener, ExitStack() as sockets:
        listener.bind((HOST, 0))
        listener.listen(0)
        port = int(listener.getsockname()[1])
        fillers = [sockets.enter_context(socket.socket()) for _ in range(2)]
        for filler in fillers:  # its queue is full, so the next has to try again after a second
            filler.setblocking(False)
            filler.connect_ex((HOST, port))
        async with MqttConnection(MqttSettings(host=HOST, port=port), "ours", []) as connection:
            await asyncio.sleep(0.1)
            connection.ack(message(1, session=0))
            listener.setblocking(False)
            first_bytes = []
            while b"\x10" not in first_bytes:
                node, _ = await asyncio.wait_for(loop.sock_accept(listener), 5)
                sockets.enter_context(node).setblocking(False)
                if node.getpeername() not in [filler.getsockname() for filler in fillers]:
                    first_bytes.append(await asyncio.wait_for(loop.sock_recv(node, 1), 5))
    assert first_bytes == [b"\x10"]  # CONNECT; mosquitto ends a connection that begins otherwise


async def test_a_broker_that_lost_the_session_is_told_of(
    tmp_path: Path, protocol: Protocol
) -> None:
    with Mosquitto(tmp_path, FORGETFUL) as mosquitto, capture_logs() as logs:
        async with connected(mosquitto.broker(protocol).settings(), "t/+") as connection:
            await restart(mosquitto, connection)
    [entry] = logged(logs, "mqtt.session_lost")
    assert "persistence true" in entry["do"]


@pytest.mark.parametrize("clean", [True, False])
async def test_a_session_that_is_kept_or_not_wanted_is_not_missed(
    tmp_path: Path, clean: bool
) -> None:
    changes = FORGETFUL if clean else {}
    with Mosquitto(tmp_path, changes) as mosquitto, capture_logs() as logs:
        settings = mosquitto.broker().settings()
        async with connected(settings, "t/+", clean=clean) as connection:
            await restart(mosquitto, connection)
    assert not logged(logs, "mqtt.session_lost")


async def test_it_knows_whether_messages_may_be_repetitions(
    mosquitto: Mosquitto, protocol: Protocol
) -> None:
    broker = mosquitto.broker(protocol)
    async with (
        Proxy(broker.port) as proxy,
        connected(broker.settings(port=proxy.port), "t/+") as connection,
    ):
        assert not connection.resumed
        assert 0 < connection.connected_for_s < 5
        proxy.refuses = True
        proxy.cut()
        await eventually(lambda: not connection.is_connected)
        assert connection.connected_for_s == 0
        proxy.refuses = False
        await eventually(lambda: connection.is_connected)
        assert connection.resumed
    async with connected(broker.settings(), "t/+") as connection:
        assert connection.connection == 1
        assert connection.resumed
