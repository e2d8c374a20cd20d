"""Devices with accounts at a real mosquitto, with the configuration that we ship for a network."""

import json
import ssl
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import paho.mqtt.client as paho
import pytest
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from structlog.testing import capture_logs

from tests.accounts import DEVICES, NOT_AUTHORIZED, SHIPPED, Lan, answer_to, open_lan
from tests.clients import RawClient, eventually
from tests.programs import HOST
from tests.stage import Stage, open_stage, retained
from tests.test_mqtt_tls import Authority, make_authority


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    authority = make_authority(tmp_path_factory.mktemp("ca"))
    for name in DEVICES:
        authority.sign(name, f"DNS:{name}")
    return authority


@pytest.fixture
def lan(tmp_path: Path, authority: Authority) -> Iterator[Lan]:
    with open_lan(tmp_path, authority) as lan:
        yield lan


@pytest.fixture
async def stage(lan: Lan) -> AsyncIterator[Stage]:
    """A node beside the broker, and a client there that hears all."""
    async with open_stage(lan.node_at_home()) as stage:
        yield stage


async def refusal(client: RawClient, topic: str, payload: str = "say never", **how: Any) -> int:
    """Publish, and return the reason that the broker gives."""
    reasons: dict[int, int] = {}
    client.paho.on_publish = lambda _c, _d, mid, reason, _p: reasons.update({mid: reason.value})
    info = client.publish(topic, payload, **how)
    return await eventually(lambda: reasons.get(info.mid, 0) or None)


def topics_of(client: RawClient) -> set[str]:
    return {message.topic for message in tuple(client.messages)}


@asynccontextmanager
async def listening(client: RawClient, *topic_filters: str) -> AsyncIterator[RawClient]:
    async with client:
        await client.subscribe(*topic_filters)
        yield client


@pytest.mark.parametrize("version", ["5", "3.1.1"])
async def test_a_device_asks_and_is_answered_and_others_hear_nothing(
    lan: Lan, stage: Stage, version: str
) -> None:
    everything = ("#", "llm/response/esp1/#", "llm/response/+/+", "llm/request/#")
    async with (
        listening(lan.client("esp2"), *everything) as other,
        listening(lan.client("esp1", protocol=version), "llm/response/esp1/#") as device,
    ):
        device.publish("llm/request/esp1", "say One")
        device.publish("llm/request/esp1/2", json.dumps({"prompt": "say Two", "stream": "word"}))
        assert await device.wait_for("llm/response/esp1") == [b"One"]
        [answer] = await device.wait_for("llm/response/esp1/2")
        assert json.loads(answer)["text"] == "Two"
        await device.wait_for("llm/response/esp1/2/delta")
        await stage.settle()
        other.publish("llm/request/esp2", "say Three")
        assert await other.wait_for("llm/response/esp2") == [b"Three"]
        status = {f"llm/node/stage/{name}" for name in ("status", "activity", "info", "health")}
        assert topics_of(other) - status == {"llm/response/esp2"}


async def test_a_device_sees_whether_the_node_is_there_and_no_more(lan: Lan, stage: Stage) -> None:
    stage.client.publish("llm/node/stage/last_answer", "a secret of another", retain=True)
    stage.client.publish("llm/node/stage/error", "what somebody got wrong", retain=True)
    async with listening(lan.client("esp1"), "llm/node/#") as device:
        assert await device.wait_for("llm/node/stage/status") == [b"online"]
        await device.wait_for("llm/node/stage/info")
        device.publish("llm/request/esp1", "say Yes")
        await stage.settle()
        assert not topics_of(device) & {f"llm/node/stage/{n}" for n in ("last_answer", "error")}


@pytest.mark.parametrize(
    "topic",
    [
        "llm/request/esp2",
        "llm/request/esp2/1",
        "llm/request/esp11",
        "llm/cancel/esp2",
        "llm/response/esp1",
        "llm/response/esp2",
        "llm/session/esp2/reset",
        "llm/node/stage/command",
        "llm/node/stage/status",
        "llm/node/stage/health",
        "homeassistant/device/x/config",
        "anything",
    ],
)
async def test_a_device_may_do_nothing_else(lan: Lan, stage: Stage, topic: str) -> None:
    commands: list[str] = []
    stage.service._on_command = commands.append
    async with listening(lan.node_at_home().client(), "#") as ears, lan.client("esp1") as device:
        assert await refusal(device, topic) == NOT_AUTHORIZED
        async with lan.client("esp2", protocol="3.1.1") as old:  # which is told nothing
            if "esp2" not in topic or "response" in topic:
                old.publish(topic, "say never")
            old.publish("llm/request/esp2", "say Last")
            assert await ears.wait_for("llm/response/esp2") == [b"Last"]
        assert b"say never" not in ears.payloads(topic)
    assert stage.engine.asked == ["say Last"]
    assert not commands


async def test_a_device_can_not_have_replies_sent_to_another(lan: Lan, stage: Stage) -> None:
    async def ask(device: RawClient, topic: str, number: int) -> None:
        properties = Properties(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call] # paho's
        properties.ResponseTopic = topic
        request = f"llm/request/esp1/{number}"
        device.paho.publish(request, '{"prompt": "say Me"}', 1, properties=properties)

    async with (
        listening(lan.client("esp2"), "#") as other,
        listening(lan.client("esp1"), "llm/response/esp1/#") as device,
    ):
        forbidden = ["llm/response/esp2", "llm/response/esp2/1", "llm/response", "llm/response/"]
        for number, topic in enumerate([*forbidden, "llm/node/stage/command", "house/lamp"]):
            await ask(device, topic, number)
            [refused] = await device.wait_for(f"llm/response/esp1/{number}")
            assert json.loads(refused)["error"]["code"] == "forbidden_topic", topic
        await ask(device, "llm/response/esp1/mine", 9)
        [answer] = await device.wait_for("llm/response/esp1/mine")
        assert json.loads(answer)["text"] == "Me"
        await stage.settle()
        assert not [topic for topic in topics_of(other) if topic.startswith("llm/response")]
        others = {m.topic for m in tuple(stage.client.messages) if "response/esp2" in m.topic}
        assert not others


async def test_a_device_can_not_take_the_place_of_the_node(lan: Lan) -> None:
    with capture_logs() as logs:
        async with open_stage(lan.node_at_home()) as stage:
            thief = lan.client("esp1", client_id="edge-llm-stage", clean=False)
            async with listening(thief, "#", "llm/request/#"):
                stage.ask("say Still here")
                assert await stage.text() == "Still here"
                assert "llm/request/a" not in topics_of(thief)
            assert not [entry for entry in logs if entry["event"] == "mqtt.disconnected"]


async def test_nobody_comes_in_without_an_account_of_that_door(lan: Lan) -> None:
    for port in (lan.devices, lan.staff):
        assert await answer_to(lan.client(None, port)) == NOT_AUTHORIZED
        assert await answer_to(lan.client("nobody", port)) == NOT_AUTHORIZED
    assert await answer_to(lan.client("esp1", password="wrong")) == NOT_AUTHORIZED
    assert await answer_to(lan.client("esp1", lan.staff)) == NOT_AUTHORIZED
    assert await answer_to(lan.client("admin", lan.devices)) == NOT_AUTHORIZED
    assert await answer_to(lan.client("esp1")) == 0
    assert await answer_to(lan.client("admin", lan.staff)) == 0


async def test_an_admin_commands_and_others_of_the_staff_do_not(lan: Lan, stage: Stage) -> None:
    commands: list[str] = []
    stage.service._on_command = commands.append
    async with (
        lan.client("stranger", lan.staff) as stranger,
        listening(lan.client("admin", lan.staff), "llm/#") as admin,
    ):
        assert await refusal(stranger, "llm/node/stage/command", "pause") == NOT_AUTHORIZED
        admin.publish("llm/node/stage/command", "drain")
        await eventually(lambda: commands)
        stage.ask("say Yes")
        assert await admin.wait_for("llm/response/a") == [b"Yes"]  # sees all
    assert commands == ["drain"]


async def test_the_account_of_a_node_can_all_that_a_node_does(lan: Lan, tmp_path: Path) -> None:
    commands: list[str] = []
    with capture_logs() as logs:
        async with (
            open_stage(
                lan.node_at_home(),
                settings=lan.node_elsewhere(tmp_path),
                on_command=commands.append,
            ) as stage,
            listening(lan.client("esp1"), "llm/response/esp1/#") as device,
        ):
            device.publish("llm/request/esp1", "say One")
            assert await device.wait_for("llm/response/esp1") == [b"One"]
            device.publish("llm/request/esp1/kept", "say never", retain=True)
            await device.wait_for("llm/response/esp1/kept/error")
            device.publish("llm/request/esp1/long", json.dumps({"prompt": "hold on"}))
            await eventually(lambda: stage.engine.num_running)
            device.publish("llm/cancel/esp1/long", b"", 0)
            [cancelled] = await device.wait_for("llm/response/esp1/long")
            assert json.loads(cancelled)["finish_reason"] == "cancelled"
            device.publish("llm/session/esp1/reset", b"")
            stage.client.publish("llm/node/stage/command", "reload")
            await eventually(lambda: commands == ["reload"])
            await eventually(lambda: [e for e in logs if e["event"] == "session.reset"])
        assert await retained(lan.node_at_home(), "llm/request/#") == []
        assert await retained(lan.node_at_home(), "llm/node/stage/status") == [b"offline"]
    troubles = ("mqtt.publish_refused", "mqtt.subscription_refused", "mqtt.disconnected")
    assert not [entry for entry in logs if entry["event"] in troubles]


async def test_a_certificate_can_be_the_account(
    tmp_path: Path, authority: Authority, tmp_path_factory: pytest.TempPathFactory
) -> None:
    theirs = make_authority(tmp_path_factory.mktemp("theirs"))
    theirs.sign("esp1", "DNS:esp1")
    commented = ("cafile", "require_certificate", "use_identity_as_username")
    with open_lan(tmp_path, authority, {f"#   {name}": name for name in commented}) as lan:

        def client(signer: Authority | None) -> RawClient:
            client = RawClient(lan.devices, protocol="5")
            context = ssl.create_default_context(cafile=authority.ca_file)
            if signer:
                context.load_cert_chain(signer.file("esp1.pem"), signer.file("esp1.key"))
            client.paho.tls_set_context(context)
            return client

        async with open_stage(lan.node_at_home()):
            async with listening(client(authority), "llm/response/esp1/#") as device:
                device.publish("llm/request/esp1", "say One")
                assert await device.wait_for("llm/response/esp1") == [b"One"]
                assert await refusal(device, "llm/request/esp2") == NOT_AUTHORIZED
            for signer in (None, theirs):
                assert await is_cut_off(client(signer))


async def is_cut_off(client: RawClient) -> bool:
    """Tell whether a broker ends a connection before it has answered."""
    ends: list[bool] = []
    client.paho.on_connect = lambda *_: ends.append(False)
    client.paho.on_disconnect = lambda *_: ends.append(True)
    client.paho.on_connect_fail = lambda *_: ends.append(True)
    client.paho.connect_async(HOST, client._port, 60)
    client.paho.loop_start()
    await eventually(lambda: ends)
    await client.stop()
    return ends[0]


def test_every_rule_of_a_device_has_its_name_or_is_read_only() -> None:
    rules = [
        line.split()
        for line in (SHIPPED / "edge-llm.acl").read_text().splitlines()
        if line.startswith("pattern")
    ]
    assert all("%u" in topic.split("/") or access == "read" for _, access, topic in rules)
    assert paho.topic_matches_sub("llm/request/esp1/#", "llm/request/esp1")
