"""What our configuration of mosquitto promises, at a real one: limits, power cuts, web pages."""

import asyncio
import os
import signal
import ssl
import statistics
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import paho.mqtt.client as paho
import pytest
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion

from tests.accounts import NOT_AUTHORIZED, SHIPPED, Lan, answer_to, blocks_of, open_lan
from tests.brokers import Broker, Mosquitto
from tests.clients import RawClient, eventually
from tests.programs import HOST
from tests.test_mqtt_tls import Authority, make_authority

MEGABYTE = b"x" * 1_000_000
PACKET_TOO_LARGE = 149  # MQTT 5, section 3.14.2.1


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return make_authority(tmp_path_factory.mktemp("ca"))


@pytest.fixture
def lan(tmp_path: Path, authority: Authority) -> Iterator[Lan]:
    with open_lan(tmp_path, authority) as lan:
        yield lan


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    with Mosquitto(tmp_path_factory.mktemp("mosquitto")) as mosquitto:
        yield mosquitto.broker()


async def leave_a_session(broker: Broker, client_id: str, topic: str) -> None:
    """Have the broker keep what comes on a topic for a client that is away."""
    async with broker.client(client_id=client_id, clean=False) as client:
        await client.subscribe(topic)


async def fetch(broker: Broker, client_id: str, topic: str) -> list[bytes]:
    """Return what the broker has kept for a client."""
    async with broker.client(client_id=client_id, clean=False) as client:
        await client.subscribe("end")
        client.publish("end", b"")  # which queues behind what was kept
        await client.wait_for("end", timeout_s=10)
        return client.payloads(topic)


async def publish_all(client: RawClient, *messages: tuple[str, bytes], retain: bool = False) -> int:
    """Publish at QoS 1; return how many were acknowledged before the broker had enough."""
    acknowledged: list[int] = []
    cut: list[Any] = []
    client.paho.on_publish = lambda _c, _d, mid, _r, _p: acknowledged.append(mid)
    client.paho.on_disconnect = lambda *args: cut.append(args[3])
    for topic, payload in messages:
        client.publish(topic, payload, retain=retain)
    await eventually(lambda: cut or len(acknowledged) == len(messages), 10)
    return len(acknowledged)


async def test_a_device_that_is_away_has_a_thousand_messages_kept(broker: Broker) -> None:
    await leave_a_session(broker, "away", "a")
    async with broker.client() as sender:
        count = await publish_all(sender, *[("a", b"%d" % number) for number in range(1100)])
    assert count == 1100  # nobody is told
    kept = await fetch(broker, "away", "a")
    assert kept == [b"%d" % number for number in range(1000)]


async def test_of_large_ones_sixteen_megabytes_are_kept(broker: Broker) -> None:
    await leave_a_session(broker, "away", "b")
    async with broker.client() as sender:
        assert await publish_all(sender, *[("b", MEGABYTE)] * 22) == 22
    kept = await fetch(broker, "away", "b")
    assert 15 <= len(kept) <= 17  # 16 MiB, and one that began below it


async def test_who_fills_the_memory_is_cut_off_and_others_are_served(broker: Broker) -> None:
    limit_mb = 128 * 1.048576
    async with broker.client() as other:
        await other.subscribe("still")
        async with broker.client() as flood:
            messages = [(f"flood/{number}", MEGABYTE) for number in range(150)]
            kept = await publish_all(flood, *messages, retain=True)
            flood.paho.disconnect()
        assert limit_mb - 30 < kept < limit_mb
        other.publish("still", "served")
        assert await other.wait_for("still") == [b"served"]
        for number in range(150):  # others have the same broker
            other.publish(f"flood/{number}", b"", retain=True)
        other.publish("still", "empty")
        await other.wait_for("still", 2)


async def test_an_exchange_does_not_wait_for_a_delayed_acknowledgement(broker: Broker) -> None:
    """Without set_tcp_nodelay the median is 44 ms, whatever the machine: the kernel's timer."""
    async with broker.client() as asks, broker.client() as answers:
        await answers.subscribe("question")
        await asks.subscribe("answer")

        def answer(*_: object) -> None:
            answers.publish("answer", b"")

        answers.paho.on_message = answer
        medians: list[float] = []
        for number in range(5):  # a busy machine has a quick moment
            times_s = [await time_of_answer(asks, 15 * number + n) for n in range(1, 16)]
            medians.append(statistics.median(times_s))
            if medians[-1] < 0.03:
                return
    pytest.fail(f"{medians}")


async def time_of_answer(client: RawClient, count: int) -> float:
    begin = time.perf_counter()
    client.publish("question", b"")
    await client.wait_for("answer", count)
    return time.perf_counter() - begin


@pytest.mark.parametrize("version", ["5", "3.1.1"])
async def test_a_packet_over_two_mebibytes_ends_the_connection(
    broker: Broker, version: str
) -> None:
    ends: list[Any] = []
    client = broker.client(protocol=version)
    client.paho.on_disconnect = lambda *args: ends.append(args)
    async with client:
        client.publish("c", b"x" * (2097152 + 1))
        await eventually(lambda: ends)
        client.paho.disconnect()
    async with broker.client() as other:
        assert await publish_all(other, ("c", b"x" * (2097152 - 100))) == 1


async def test_the_broker_says_that_a_packet_is_too_large(broker: Broker) -> None:
    # Of the packet only how long it is: what a broker says to one who still sends may be lost.
    reader, writer = await asyncio.open_connection(HOST, broker.port)
    writer.write(b"\x10\x0e\x00\x04MQTT\x05\x02\x00\x3c\x00\x00\x01c")  # CONNECT, MQTT 5, 3.1
    kind, num_bytes = await reader.readexactly(2)
    assert kind == 0x20  # CONNACK
    await reader.readexactly(num_bytes)
    writer.write(b"\x30\x80\x80\x80\x01")  # PUBLISH, 2,097,152 bytes to come
    said = await asyncio.wait_for(reader.read(), 5)
    writer.close()
    assert said[0] == 0xE0  # DISCONNECT
    assert said[2] == PACKET_TOO_LARGE


async def written_anew(file: Path) -> None:
    def version() -> int:
        return file.stat().st_ino if file.exists() else 0

    before = version()
    await eventually(lambda: version() not in {0, before})


async def test_what_was_written_down_survives_a_sudden_death(tmp_path: Path) -> None:
    with Mosquitto(tmp_path, {"autosave_interval": "1"}) as mosquitto:
        broker, written = mosquitto.broker(), tmp_path / "mosquitto.db"
        await leave_a_session(broker, "node", "llm/request/#")
        async with broker.client() as sender:
            await publish_all(sender, ("llm/request/a", b"say One"), ("llm/request/b", b"say Two"))
            await publish_all(sender, ("llm/node/n/status", b"online"), retain=True)
        for _ in range(2):  # the first may have begun before the last message came
            await written_anew(written)
        assert mosquitto._process
        mosquitto._process.send_signal(signal.SIGKILL)
        mosquitto._process.wait()
        mosquitto.stop()
        mosquitto.start()
        async with broker.client(client_id="node", clean=False) as node:
            assert await node.wait_for("llm/request/a") == [b"say One"]
            assert await node.wait_for("llm/request/b") == [b"say Two"]
            await node.subscribe("llm/node/#")
            assert await node.wait_for("llm/node/n/status") == [b"online"]


async def test_half_a_file_is_mended_as_docs_broker_md_says(tmp_path: Path) -> None:
    [commands] = blocks_of("broker.md", "test_mosquitto.py")
    move, restart = commands.replace("/var/lib/mosquitto", str(tmp_path)).splitlines()
    assert restart == "systemctl restart mosquitto"
    with Mosquitto(tmp_path) as mosquitto:
        async with mosquitto.broker().client() as sender:
            await publish_all(sender, *[(f"llm/node/{n}/status", b"online") for n in range(9)])
            await publish_all(sender, ("llm/node/n/status", b"online"), retain=True)
        mosquitto.stop()
        os.truncate(tmp_path / "mosquitto.db", 100)
        with pytest.raises(pytest.fail.Exception, match="Couldn't open database"):
            mosquitto.start()
        await asyncio.to_thread(subprocess.run, move, shell=True, check=True)
        mosquitto.start()
        async with mosquitto.broker().client() as client:
            assert await publish_all(client, ("a", b"served")) == 1


def test_it_is_written_every_thirty_seconds_and_not_at_every_message() -> None:
    lines = (SHIPPED / "edge-llm.conf").read_text().splitlines()
    assert "persistence true" in lines
    assert "autosave_interval 30" in lines
    assert not [line for line in lines if line.startswith("autosave_on_changes")]


class Page(RawClient):
    """A web page: MQTT over websockets with TLS."""

    def __init__(self, lan: Lan, name: str | None, client_id: str = "") -> None:
        super().__init__(lan.pages, "5", client_id)
        old = self.paho
        self.paho = paho.Client(
            CallbackAPIVersion.VERSION2,
            client_id=client_id or f"page-{os.urandom(4).hex()}",
            protocol=MQTTProtocolVersion.MQTTv5,
            transport="websockets",
        )
        self.paho.on_message, self.paho.on_subscribe = old.on_message, old.on_subscribe
        context = ssl.create_default_context(cafile=lan.authority.ca_file)
        self.paho.tls_set_context(context)
        if name:
            self.paho.username_pw_set(name, f"password of {name}")


async def test_a_web_page_is_a_device_and_has_its_rights(lan: Lan) -> None:
    reasons: list[int] = []
    async with Page(lan, "esp1") as page, lan.node_at_home().client() as node:
        await page.subscribe("#")
        await node.subscribe("llm/request/#")
        page.paho.on_publish = lambda _c, _d, _m, reason, _p: reasons.append(reason.value)
        page.publish("llm/request/esp2", "say never")
        page.publish("llm/node/stage/health", "{}", retain=True)
        page.publish("llm/request/esp1", "say Yes")
        assert await node.wait_for("llm/request/esp1") == [b"say Yes"]
        node.publish("llm/response/esp2", "not for you")
        node.publish("llm/response/esp1", "Yes")
        assert await page.wait_for("llm/response/esp1") == [b"Yes"]
        assert {message.topic for message in page.messages} == {"llm/response/esp1"}
        assert {message.topic for message in node.messages} == {"llm/request/esp1"}
    assert reasons[:2] == [NOT_AUTHORIZED, NOT_AUTHORIZED]


async def test_a_web_page_without_an_account_stays_out(lan: Lan) -> None:
    assert await answer_to(Page(lan, None)) == NOT_AUTHORIZED
    assert await answer_to(Page(lan, "nobody")) == NOT_AUTHORIZED
    assert await answer_to(Page(lan, "admin")) == NOT_AUTHORIZED  # one of the staff
    assert await answer_to(Page(lan, "esp1")) == 0


async def test_websockets_without_the_lan_s_file_are_not_open_either(
    tmp_path: Path, authority: Authority
) -> None:
    # Then edge-llm.conf's "allow_anonymous true" holds for all, and this must hold all the same.
    files = ("edge-llm-websockets.conf", "edge-llm.conf")
    with open_lan(tmp_path, authority, files=files) as lan:
        assert await answer_to(Page(lan, None)) == NOT_AUTHORIZED
        assert await answer_to(Page(lan, "nobody")) == NOT_AUTHORIZED


async def test_a_page_can_not_take_the_client_id_of_the_node(lan: Lan) -> None:
    async with lan.node_at_home().client(client_id="edge-llm-stage") as node:
        await node.subscribe("llm/request/#")
        async with Page(lan, "esp1", client_id="edge-llm-stage") as page:
            page.publish("llm/request/esp1", "say Yes")
            assert await node.wait_for("llm/request/esp1") == [b"say Yes"]
        assert node.paho.is_connected()


def test_the_listener_without_accounts_is_this_machine_s_alone() -> None:
    for file in SHIPPED.glob("*.conf"):
        blocks = file.read_text().split("\nlistener ")[1:]
        assert blocks
        for block in blocks:
            lines = block.splitlines()
            if "allow_anonymous true" in lines:
                assert lines[0] == "1883 127.0.0.1"
            else:
                assert "allow_anonymous false" in lines
                assert "acl_file /etc/mosquitto/edge-llm.acl" in lines
                assert any(line.startswith("certfile ") for line in lines)
