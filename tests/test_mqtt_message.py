"""What MQTT 5 says with a message, what is subscribed to, and messages that wait."""

import asyncio
from pathlib import Path
from typing import Any

import pytest
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from structlog.testing import capture_logs

from edge_llm.errors import BrokerError
from edge_llm.mqtt import MqttConnection, Subscription
from edge_llm.mqtt import connection as mqtt
from tests.brokers import Broker, Mosquitto, Proxy
from tests.clients import RawClient, eventually
from tests.test_mqtt_connection import Protocol, connected, logged, receive
from tests.test_mqtt_inbox import settled

pytestmark = pytest.mark.usefixtures("reconnects_quickly")

ALL_BYTES = bytes(range(256))


def publish_properties(**values: Any) -> Properties:
    properties = Properties(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call] # paho's
    for name, value in values.items():
        setattr(properties, name, value)
    return properties


async def hear(client: RawClient, topic: str) -> Any:
    await client.wait_for(topic)
    return next(message for message in client.messages if message.topic == topic)


@pytest.fixture
async def down(mosquitto: Mosquitto) -> Any:
    """A connection whose broker has just been stopped."""
    async with connected(mosquitto.broker().settings()) as connection:
        mosquitto.stop()
        await eventually(lambda: not connection.is_connected)
        yield connection


async def test_it_is_told_where_the_reply_goes_and_what_goes_with_it(mosquitto: Mosquitto) -> None:
    broker = mosquitto.broker()
    async with connected(broker.settings(), "t/+") as connection, broker.client() as client:
        properties = publish_properties(
            ResponseTopic="me/replies", CorrelationData=ALL_BYTES, ContentType="application/json"
        )
        client.paho.publish("t/1", b"{}", 1, properties=properties)
        client.publish("t/2", b"")
        full, bare = await receive(connection, 2)
    assert (full.response_topic, full.correlation) == ("me/replies", ALL_BYTES)
    assert full.content_type == "application/json"
    assert (bare.response_topic, bare.correlation, bare.content_type) == (None, None, None)
    assert bare.subscriptions == ()


async def test_a_reply_carries_correlation_and_properties_byte_for_byte(
    mosquitto: Mosquitto,
) -> None:
    broker = mosquitto.broker()
    pairs = [("finish_reason", "stop"), ("ünicode", "☃"), ("finish_reason", "twice")]
    async with connected(broker.settings()) as connection, broker.client() as client:
        await client.subscribe("t/+")
        connection.publish("t/full", "x", 1, correlation=ALL_BYTES, properties=pairs)
        connection.publish("t/empty", "x", 1, correlation=b"")
        connection.publish("t/text", "x", 1, content_type="text/plain", expiry_s=30)
        full, empty, text = [await hear(client, f"t/{n}") for n in ("full", "empty", "text")]
    assert (full.properties.CorrelationData, full.properties.UserProperty) == (ALL_BYTES, pairs)
    assert not hasattr(full.properties, "PayloadFormatIndicator")
    assert empty.properties.CorrelationData == b""
    assert not hasattr(empty.properties, "UserProperty")
    assert not hasattr(text.properties, "CorrelationData")
    assert (text.properties.ContentType, text.properties.PayloadFormatIndicator) == (
        "text/plain",
        1,
    )
    assert text.properties.MessageExpiryInterval in (29, 30)


async def test_without_mqtt_5_there_is_nothing_but_the_message(mosquitto: Mosquitto) -> None:
    async with (
        connected(mosquitto.broker("3.1.1").settings(), "t/+") as connection,
        mosquitto.broker("5").client() as client,
    ):
        await client.subscribe("u/+")
        client.paho.publish(
            "t/1", b"", 1, properties=publish_properties(ResponseTopic="r", CorrelationData=b"c")
        )
        [publication] = await receive(connection)
        connection.publish("u/1", "x", 1, correlation=b"c", properties=[("a", "b")])
        heard = await hear(client, "u/1")
    assert (publication.response_topic, publication.correlation) == (None, None)
    assert not hasattr(heard.properties, "CorrelationData")
    assert not hasattr(heard.properties, "UserProperty")


@pytest.mark.parametrize("max_inflight", [7, None])
async def test_it_knows_version_and_window_of_the_broker(
    tmp_path: Path, max_inflight: int | None
) -> None:
    changes = {"max_inflight_messages": str(max_inflight)} if max_inflight else {}
    with Mosquitto(tmp_path, changes) as mosquitto:
        async with connected(mosquitto.broker("5").settings()) as connection:
            assert connection.protocol == "5"
            assert connection.server_receive_maximum == (max_inflight or 20)
        async with connected(mosquitto.broker("3.1.1").settings()) as connection:
            assert connection.protocol == "3.1.1"
            assert connection.server_receive_maximum is None


async def test_copies_for_overlapping_filters_are_told_apart(
    mosquitto: Mosquitto, protocol: Protocol
) -> None:
    broker = mosquitto.broker(protocol)
    subscriptions = [
        Subscription("t/#", 1, identifier=7),
        Subscription("t/1", 1, identifier=268_435_455),
        Subscription("u/#", 1),
    ]
    async with (
        MqttConnection(broker.settings(), "ours", subscriptions) as connection,
        broker.client() as client,
    ):
        await connection.publish("ready", b"", 1)
        client.publish("t/1", b"")
        client.publish("u/1", b"")
        received = await receive(connection, 3 if protocol == "5" else 2)
    ids = sorted(p.subscriptions for p in received if p.topic == "t/1")
    assert ids == ([(7,), (268_435_455,)] if protocol == "5" else [()])
    assert [p.subscriptions for p in received if p.topic == "u/1"] == [()]


async def test_the_retain_flag_is_cleared_for_those_who_want_that(mosquitto: Mosquitto) -> None:
    broker = mosquitto.broker()
    subscriptions = [
        Subscription("t/+", 1),
        Subscription("u/+", 1, retain_as_published=False),
    ]
    async with (
        MqttConnection(broker.settings(), "ours", subscriptions) as connection,
        broker.client() as client,
    ):
        await connection.publish("ready", b"", 1)
        client.publish("t/1", b"x", retain=True)
        client.publish("u/1", b"x", retain=True)
        received = await receive(connection, 2)
    assert {p.topic: p.retain for p in received} == {"t/1": True, "u/1": False}


async def test_subscriptions_are_replaced(broker: Broker) -> None:
    async with connected(broker.settings(), "t/+", "u/+") as connection, broker.client() as client:
        connection.resubscribe([Subscription("u/+", 1), Subscription("v/+", 1)])
        await settled(connection)
        for topic in ("t/1", "u/1", "v/1"):
            client.publish(topic, b"")
        assert [p.topic for p in await receive(connection, 2)] == ["u/1", "v/1"]
        connection.resubscribe([Subscription("t/+", 1)])
        await settled(connection)
        client.publish("u/2", b"")
        client.publish("t/2", b"")
        assert [p.topic for p in await receive(connection)] == ["t/2"]


async def test_an_identifier_is_replaced(mosquitto: Mosquitto) -> None:
    broker = mosquitto.broker()
    async with connected(broker.settings(), "t/+") as connection, broker.client() as client:
        for identifier in (1, 2):
            connection.resubscribe([Subscription("t/+", 1, identifier=identifier)])
            await settled(connection)
            client.publish("t/1", b"")
            assert [p.subscriptions for p in await receive(connection)] == [(identifier,)]


@pytest.mark.parametrize("persistence", ["true", "false"])
async def test_replaced_subscriptions_hold_for_the_next_connection(
    tmp_path: Path, protocol: Protocol, persistence: str
) -> None:
    with Mosquitto(tmp_path, {"persistence": persistence}) as mosquitto:
        broker = mosquitto.broker(protocol)
        async with connected(broker.settings(), "t/+") as connection:
            mosquitto.stop()
            await eventually(lambda: not connection.is_connected)
            connection.resubscribe([Subscription("u/+", 1)])
            mosquitto.start()
            await settled(connection)
            async with broker.client() as client:
                client.publish("t/1", b"")
                client.publish("u/1", b"")
                assert [p.topic for p in await receive(connection)] == ["u/1"]
                connection.publish("u/marker", b"", 1)
                assert [p.topic for p in await receive(connection)] == ["u/marker"]


async def test_what_is_to_be_kept_waits_for_the_connection(
    mosquitto: Mosquitto, protocol: Protocol
) -> None:
    broker = mosquitto.broker(protocol)
    async with connected(broker.settings()) as connection:
        mosquitto.stop()
        await eventually(lambda: not connection.is_connected)
        topics = [f"t/{number}" for number in range(4)]
        sent = [
            connection.publish(topic, b"", qos, keep=True)
            for topic, qos in zip(topics, (0, 1, 0, 1), strict=True)
        ]
        dropped = connection.publish("t/dropped", b"", 0)
        assert isinstance(dropped.exception(), BrokerError)
        assert not any(future.done() for future in sent)
        mosquitto.start()
        await asyncio.wait_for(asyncio.gather(*sent), 5)
        assert connection.is_settled


async def test_what_was_kept_arrives_in_order(mosquitto: Mosquitto) -> None:
    broker = mosquitto.broker()
    async with (
        Proxy(broker.port) as proxy,
        broker.client() as client,
        connected(broker.settings(port=proxy.port)) as connection,
    ):
        await client.subscribe("t/+")
        proxy.refuses = True
        proxy.cut()
        await eventually(lambda: not connection.is_connected)
        for number in range(20):
            connection.publish(f"t/{number}", b"", number % 2, keep=True)
        proxy.refuses = False
        await client.wait_for("t/19")
        assert [m.topic for m in client.messages] == [f"t/{number}" for number in range(20)]


async def test_the_oldest_of_too_many_are_not_kept(
    down: MqttConnection, mosquitto: Mosquitto, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mqtt, "KEPT_MESSAGES", 2)
    at_qos_1 = down.publish("t", b"", 1)
    kept = [down.publish("t", b"", 0, keep=True) for _ in range(5)]
    assert [future.done() for future in kept] == [True, True, True, False, False]
    with pytest.raises(BrokerError):
        await kept[0]
    mosquitto.start()
    await asyncio.wait_for(asyncio.gather(at_qos_1, *kept[3:]), 5)


async def test_what_a_broken_connection_had_not_sent_is_kept(mosquitto: Mosquitto) -> None:
    async with (
        Proxy(mosquitto.port) as proxy,
        mosquitto.broker().client() as client,
        connected(mosquitto.broker().settings(port=proxy.port)) as connection,
    ):
        await client.subscribe("t")
        proxy.reads.clear()  # nothing more goes through, and the socket's buffers fill
        for _ in range(100):
            connection.publish("filler", b"x" * 100_000, 0)
        last = connection.publish("t", b"last", 0, keep=True)
        await asyncio.sleep(0.1)
        assert not last.done()
        proxy.cut()
        proxy.reads.set()
        await asyncio.wait_for(last, 5)
        assert await client.wait_for("t") == [b"last"]


async def test_what_expired_while_it_waited_is_not_sent(
    down: MqttConnection, mosquitto: Mosquitto
) -> None:
    stale = down.publish("t", b"", 1, expiry_s=10)
    fresh = down.publish("t", b"", 1, expiry_s=30)
    for waiting in down._waiting:
        waiting._made_at -= 20
    mosquitto.start()
    await asyncio.wait_for(fresh, 5)
    with pytest.raises(BrokerError, match="expired"):
        await stale


async def test_what_cannot_be_published_fails_alone(
    down: MqttConnection, mosquitto: Mosquitto
) -> None:
    bad = [down.publish(topic, b"", 1) for topic in ("t/#", "+", "\ud800", "x" * 70_000)]
    good = down.publish("t", b"", 1)
    with capture_logs() as logs:
        mosquitto.start()
        await asyncio.wait_for(good, 5)
    assert len(logged(logs, "mqtt.publish_refused")) == len(bad)
    for future in bad:
        with pytest.raises(BrokerError) as caught:
            await future
        assert not caught.value.retryable


async def test_what_is_too_large_for_the_broker_is_not_sent_again_and_again(
    tmp_path: Path,
) -> None:
    with Mosquitto(tmp_path, {"max_packet_size": "5000"}) as mosquitto:
        async with connected(mosquitto.broker().settings(), "t") as connection:
            with capture_logs() as logs, pytest.raises(BrokerError, match="5000") as caught:
                await connection.publish("t", b"x" * 5000, 1)
            assert not caught.value.retryable
            assert len(logged(logs, "mqtt.publish_refused")) == 1
            fits = connection.publish("t", b"x" * 4900, 1, correlation=b"c" * 70)
            await asyncio.wait_for(fits, 5)
            assert connection.connection == 1


async def test_leaving_gives_up_what_waits(mosquitto: Mosquitto) -> None:
    async with connected(mosquitto.broker().settings()) as down:
        mosquitto.stop()
        await eventually(lambda: not down.is_connected)
        waits = [down.publish("t", b"", 1), down.publish("t", b"", 0, keep=True)]
    assert all(future.cancelled() for future in waits)
