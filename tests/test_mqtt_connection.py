"""The connection to the broker, with real ones, and with a proxy that breaks it on purpose."""

import asyncio
import socket
import threading
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import Any, Literal

import paho.mqtt.client as paho
import pytest
from structlog.testing import capture_logs

from edge_llm.errors import BrokerError
from edge_llm.mqtt import MqttConnection, Publication, Subscription, Will
from edge_llm.mqtt import connection as mqtt
from edge_llm.mqtt import link as mqtt_link
from edge_llm.mqtt.link import Link
from edge_llm.settings import MqttSettings
from tests.brokers import Broker, Mosquitto, Proxy, open_amqtt
from tests.clients import eventually
from tests.programs import HOST, free_port

Protocol = Literal["5", "3.1.1"]


@pytest.fixture(autouse=True)
def reconnects_quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mqtt, "RECONNECT_DELAY_S", (0.05, 0.1))
    monkeypatch.setattr(mqtt_link, "ANSWER_TIMEOUT_S", 0.3)


@asynccontextmanager
async def connected(
    settings: MqttSettings, *filters: str, **options: Any
) -> AsyncGenerator[MqttConnection]:
    subscriptions = [Subscription(topic_filter, 1) for topic_filter in filters]
    connection = MqttConnection(
        settings, options.pop("client_id", "ours"), subscriptions, **options
    )
    async with connection:
        await asyncio.wait_for(connection.wait_until_connected(), 5)
        # The broker takes this after the subscriptions, so those hold from here on.
        await asyncio.wait_for(connection.publish("ready", b"", 1), 5)
        yield connection


async def receive(connection: MqttConnection, count: int = 1) -> list[Publication]:
    received: list[Publication] = []
    async with aclosing(connection.messages()) as messages, asyncio.timeout(5):
        async for publication in messages:
            received.append(publication)
            if len(received) == count:
                return received
    raise AssertionError


async def nothing_comes(connection: MqttConnection) -> bool:
    """True if nothing came before a message that is sent now; brokers keep the order."""
    connection.publish("t/marker", b"", 1)
    return [p.topic for p in await receive(connection)] == ["t/marker"]


def logged(logs: list[Any], event: str) -> list[Any]:
    return [entry for entry in logs if entry["event"] == event]


async def test_it_speaks_the_newest_version_that_the_broker_does(broker: Broker) -> None:
    with capture_logs() as logs:
        async with connected(broker.settings()):
            assert [entry["protocol"] for entry in logged(logs, "mqtt.connected")] == [
                broker.protocol
            ]


async def test_it_sets_tcp_nodelay(broker: Broker) -> None:
    async with connected(broker.settings()) as connection:
        sock = connection._link.client.socket()
        assert isinstance(sock, socket.socket)
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


async def test_mqtt_5_alone_is_refused_once_by_a_broker_without_it(mosquitto: Mosquitto) -> None:
    async with Proxy(mosquitto.port) as proxy:
        proxy.only_3_1_1 = "refuse"
        settings = mosquitto.broker().settings(port=proxy.port, protocol="5")
        with capture_logs() as logs:
            async with MqttConnection(settings, "ours", []) as connection:
                await eventually(lambda: proxy.num_connections > 2)
                assert not connection.is_connected
    assert [(e["event"], e["reason"]) for e in logs] == [
        ("mqtt.refused", "Unsupported protocol version")
    ]


async def test_a_broker_that_never_answers_is_said_once(mosquitto: Mosquitto) -> None:
    async with Proxy(mosquitto.port) as proxy:
        proxy.swallows = True
        settings = mosquitto.broker("3.1.1").settings(port=proxy.port)
        with capture_logs() as logs:
            async with MqttConnection(settings, "ours", []):
                await eventually(lambda: logs)
    assert [entry["event"] for entry in logs] == ["mqtt.unanswered"]


@pytest.mark.parametrize("how", ["refuse", "ignore"])
async def test_a_broker_without_mqtt_5_is_asked_again_and_nothing_is_lost_or_doubled(
    mosquitto: Mosquitto, how: Literal["refuse", "ignore"]
) -> None:
    async with mosquitto.broker().client() as client, Proxy(mosquitto.port) as proxy:
        proxy.only_3_1_1 = how
        await client.subscribe("t/#")
        settings = mosquitto.broker().settings(port=proxy.port)
        with capture_logs() as logs:
            async with MqttConnection(settings, "ours", []) as connection:
                first = connection.publish("t/first", b"1", 1)
                await eventually(lambda: logged(logs, "mqtt.downgraded"))
                second = connection.publish("t/second", b"2", 1)  # the old client is still ending
                await asyncio.wait_for(asyncio.gather(first, second), 5)
                assert not connection._outgoing
                await client.wait_for("t/second")
                await client.wait_for("t/first")
        assert sorted(message.topic for message in client.messages) == ["t/first", "t/second"]
        assert [e["protocol"] for e in logged(logs, "mqtt.connected")] == ["3.1.1"]


async def test_amqtt_is_one_of_those_that_ignore_mqtt_5() -> None:
    async with (
        open_amqtt() as port,
        connected(MqttSettings(host=HOST, port=port)) as connection,
    ):
        await asyncio.wait_for(connection.publish("t", b"", 1), 5)


async def test_leaving_at_any_moment_of_the_connecting_ends_it(
    broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    clients: list[paho.Client] = []
    make_client = Link._make_client

    def make_and_note(link: Link) -> paho.Client:
        clients.append(make_client(link))
        return clients[-1]

    monkeypatch.setattr(Link, "_make_client", make_and_note)
    for delay_s in (0, 0.001, 0.003, 0.01, 0.02, 0.04):
        begin = time.monotonic()
        async with MqttConnection(broker.settings(), "ours", []) as connection:
            await asyncio.sleep(delay_s)
        assert time.monotonic() - begin < 1.5
        await asyncio.sleep(0.02)  # a downgrade that goes on would connect now
        assert clients
        assert not [client for client in clients if client.socket()]
        assert not connection.is_connected


async def test_leaving_that_is_cut_short_leaves_no_connection(mosquitto: Mosquitto) -> None:
    async def leave() -> None:
        async with connected(proxied, client_id="cut-short") as connection:
            proxy.swallows = True
            connection.publish("t", b"", 1)
            waits.set()

    waits = asyncio.Event()
    async with Proxy(mosquitto.port) as proxy:
        proxied = mosquitto.broker().settings(port=proxy.port)
        leaving = asyncio.create_task(leave())
        await waits.wait()
        await asyncio.sleep(0.05)  # it waits for the broker to confirm
        leaving.cancel()
        await asyncio.wait({leaving}, timeout=5)
        assert leaving.cancelled()
    assert not [thread.name for thread in threading.enumerate() if "cut-short" in thread.name]


async def test_a_broker_that_is_not_there_is_said_once_and_found_when_it_comes(
    tmp_path: Path,
) -> None:
    mosquitto = Mosquitto(tmp_path)
    with capture_logs() as logs:
        async with MqttConnection(mosquitto.broker().settings(), "ours", []) as connection:
            await eventually(lambda: logged(logs, "mqtt.unreachable"))
            await asyncio.sleep(0.1)
            await asyncio.sleep(0.1)
            with mosquitto:
                await asyncio.wait_for(connection.wait_until_connected(), 5)
                assert len(logged(logs, "mqtt.unreachable")) == 1
    assert logged(logs, "mqtt.unreachable")[0]["broker"] == f"{HOST}:{mosquitto.port}"


async def test_leaving_does_not_wait_for_a_broker_that_is_not_there() -> None:
    settings = MqttSettings(host=HOST, port=free_port())
    begin = time.monotonic()
    async with MqttConnection(settings, "ours", []) as connection:
        answer = connection.publish("t", b"", 1)
        await asyncio.sleep(0.05)
    assert time.monotonic() - begin < 1.5
    assert answer.cancelled()


async def test_a_wrong_password_is_said_once_with_its_cure(
    tmp_path: Path, protocol: Protocol
) -> None:
    passwords = tmp_path / "passwords"
    passwords.write_text("")
    changes = {"allow_anonymous": "false", "password_file": str(passwords)}
    with Mosquitto(tmp_path, changes) as mosquitto, capture_logs() as logs:
        settings = mosquitto.broker(protocol).settings(username="llm", password="wrong")
        async with MqttConnection(settings, "ours", []) as connection:
            tries = 3
            await eventually(
                lambda: mosquitto.log.read_text().count("not authorised") >= tries or None
            )
            assert not connection.is_connected
    refusals = logged(logs, "mqtt.refused")
    assert len(refusals) == 1
    assert "mqtt.password" in refusals[0]["do"]
    assert "wrong" not in str(logs)


async def test_what_comes_while_it_is_away_is_kept(
    mosquitto: Mosquitto, protocol: Protocol
) -> None:
    broker = mosquitto.broker(protocol)
    async with connected(broker.settings(), "t/+"):
        pass
    async with broker.client() as client:
        client.publish("t/away", b"hello", 1).wait_for_publish(5)
    async with connected(broker.settings(), "t/+") as connection:
        assert [p.payload for p in await receive(connection)] == [b"hello"]


async def test_a_clean_session_begins_with_nothing(
    mosquitto: Mosquitto, protocol: Protocol
) -> None:
    broker = mosquitto.broker(protocol)
    async with connected(broker.settings(), "t/+"):
        pass
    async with broker.client() as client:
        client.publish("t/away", b"hello", 1).wait_for_publish(5)
    async with connected(broker.settings(), "t/+", clean=True) as connection:
        assert await nothing_comes(connection)


async def test_only_what_was_not_acknowledged_comes_again(
    mosquitto: Mosquitto, protocol: Protocol
) -> None:
    broker = mosquitto.broker(protocol)
    async with (
        Proxy(broker.port) as proxy,
        broker.client() as client,
        connected(broker.settings(port=proxy.port), "t/+") as connection,
    ):
        for number in range(4):
            client.publish(f"t/{number}", b"")
        first = await receive(connection, 4)
        connection.ack(first[2])  # out of order
        connection.ack(first[0])
        await asyncio.sleep(0.05)
        proxy.cut()
        again = await receive(connection, 2)
        assert [(p.topic, p.dup) for p in again] == [("t/1", True), ("t/3", True)]
        # The packet ids are those of the first copies, so one acknowledgement does for both.
        assert [p.packet_id for p in again] == [first[1].packet_id, first[3].packet_id]


async def test_no_more_than_it_wants_come_at_once_and_qos_0_overtakes(
    mosquitto: Mosquitto, protocol: Protocol
) -> None:
    broker = mosquitto.broker(protocol)
    async with (
        Proxy(broker.port) as proxy,
        broker.client() as client,
        connected(broker.settings(port=proxy.port), "t/+", receive_maximum=2) as connection,
    ):
        for number in range(40):
            client.publish(f"t/{number}", b"")
        client.publish("t/urgent", b"", 0)
        first = await receive(connection, 3)
        assert [p.topic for p in first] == ["t/0", "t/1", "t/urgent"]
        proxy.cut()  # all come again, those that are held too
        again = await receive(connection, 2)
        assert [(p.topic, p.dup) for p in again] == [("t/0", True), ("t/1", True)]
        await asyncio.wait_for(connection.publish("ready", b"", 1), 5)  # so have the others, now
        topics = []
        for publication in again:
            connection.ack(publication)
        for _ in range(38):
            [publication] = await receive(connection)
            assert connection._inbox.num_unacknowledged <= 2
            topics.append(publication.topic)
            connection.ack(publication)
        assert topics == [f"t/{number}" for number in range(2, 40)]
        assert await nothing_comes(connection)


async def test_subscriptions_are_made_anew_when_the_broker_forgot_them(
    tmp_path: Path, protocol: Protocol
) -> None:
    connects = []
    with Mosquitto(tmp_path, {"persistence": "false"}) as mosquitto:
        broker = mosquitto.broker(protocol)
        async with connected(
            broker.settings(), "t/+", on_connected=lambda: connects.append(1)
        ) as connection:
            mosquitto.stop()
            await eventually(lambda: not connection.is_connected)
            mosquitto.start()
            await eventually(lambda: len(connects) == 2)
            await asyncio.wait_for(connection.publish("ready", b"", 1), 5)
            async with broker.client() as client:
                client.publish("t/new", b"hello")
                assert [p.payload for p in await receive(connection)] == [b"hello"]


async def test_the_expiry_of_a_message_is_told(mosquitto: Mosquitto) -> None:
    broker = mosquitto.broker()
    async with connected(broker.settings(), "t/+") as connection, broker.client() as client:
        client.publish("t/1", b"", expiry_s=30)
        client.publish("t/2", b"")
        assert [p.expiry_s for p in await receive(connection, 2)] == [30, None]


async def test_retained_messages_come_only_to_those_who_asked(
    mosquitto: Mosquitto, protocol: Protocol
) -> None:
    broker = mosquitto.broker(protocol)
    async with broker.client() as client:
        client.publish("t/old", b"retained", retain=True)
        client.publish("u/old", b"retained", retain=True).wait_for_publish(5)
    subscriptions = [Subscription("t/+", 1), Subscription("u/+", 1, retained=True)]
    async with MqttConnection(broker.settings(), "ours", subscriptions) as connection:
        topics = {p.topic for p in await receive(connection, 1 if protocol == "5" else 2)}
    # MQTT 3.1.1 has no way to say so.
    assert topics == ({"u/old"} if protocol == "5" else {"t/old", "u/old"})


async def test_qos_1_waits_for_the_connection_and_qos_0_does_not(
    mosquitto: Mosquitto, protocol: Protocol
) -> None:
    broker = mosquitto.broker(protocol)
    async with connected(broker.settings()) as connection:
        mosquitto.stop()
        await eventually(lambda: not connection.is_connected)
        kept = connection.publish("t/kept", b"", 1)
        with pytest.raises(BrokerError):
            await connection.publish("t/dropped", b"", 0)
        mosquitto.start()
        async with broker.client() as client:
            await client.subscribe("t/+")
            await asyncio.wait_for(kept, 5)
            connection.publish("t/last", b"")
            await client.wait_for("t/last")
            # The first may have been before the subscription.
            assert "t/dropped" not in [message.topic for message in client.messages]
        assert not connection._outgoing


async def test_qos_0_that_a_broken_connection_lost_is_not_waited_for(mosquitto: Mosquitto) -> None:
    async with (
        Proxy(mosquitto.port) as proxy,
        connected(mosquitto.broker().settings(port=proxy.port)) as connection,
    ):
        proxy.reads.clear()  # nothing more goes through, and the socket's buffers fill
        sent = [connection.publish("t", b"x" * 100_000, 0) for _ in range(100)]
        await asyncio.sleep(0.1)
        assert not sent[-1].done()
        proxy.cut()
        proxy.reads.set()
        await asyncio.wait(sent, timeout=5)
        assert sent[-1].done()
        assert isinstance(sent[-1].exception(), BrokerError)
        assert not connection._outgoing


async def test_a_refused_publish_is_logged_and_done(tmp_path: Path) -> None:
    acl = tmp_path / "acl"
    acl.write_text("topic write ready\n")
    with Mosquitto(tmp_path, {"acl_file": str(acl)}) as mosquitto, capture_logs() as logs:
        async with connected(mosquitto.broker().settings()) as connection:
            await asyncio.wait_for(connection.publish("closed/door", b"", 1), 5)
    assert [e["topic"] for e in logged(logs, "mqtt.publish_refused")] == ["closed/door"]


async def test_the_will_comes_when_the_connection_breaks_and_not_when_it_ends(
    broker: Broker,
) -> None:
    will = Will("t/status", b"gone")
    async with broker.client() as client, Proxy(broker.port) as proxy:
        await client.subscribe("t/status")
        async with connected(broker.settings(), will=will):
            pass
        async with connected(broker.settings(port=proxy.port), will=will):
            client.publish("t/status", b"marker")
            await client.wait_for("t/status")
            proxy.refuses = True
            proxy.cut()
            assert await client.wait_for("t/status", 2) == [b"marker", b"gone"]


@pytest.mark.usefixtures("reconnects_quickly")
async def test_another_server_of_a_cluster_is_turned_to(tmp_path: Path) -> None:
    folders = [tmp_path / name for name in ("first", "second")]
    for folder in folders:
        folder.mkdir()
    with Mosquitto(folders[0]) as first, Mosquitto(folders[1]) as second:
        settings = first.broker().settings()
        settings = settings.model_copy(update={"more_hosts": (f"{HOST}:{second.port}",)})
        async with connected(settings, "t/+") as connection:
            first.stop()
            waiting = connection.publish("t/1", b"kept", 1)
            await asyncio.wait_for(waiting, 10)
            [publication] = await receive(connection)
            assert publication.payload == b"kept"
            first.start()
            second.stop()
            await asyncio.wait_for(connection.publish("t/1", b"back", 1), 10)


def test_hosts_are_names_or_addresses_with_a_port_or_without() -> None:
    hosts = ("10.0.0.6", "hall.local:1884", "[::1]:1885")
    settings = MqttSettings(port=1880, more_hosts=hosts)
    others = (("10.0.0.6", 1880), ("hall.local", 1884), ("::1", 1885))
    assert settings.servers == (("127.0.0.1", 1880), *others)
    with pytest.raises(ValueError, match=r"10\.0\.0\.6:1884"):
        MqttSettings(more_hosts=("mqtt://10.0.0.6",))
