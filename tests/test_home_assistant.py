"""The node as a device in Home Assistant: what is announced, when, and how it goes away."""

import asyncio
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any, get_args

import pytest
from jinja2 import StrictUndefined
from jinja2.sandbox import ImmutableSandboxedEnvironment

from bridges.home_assistant import Announcement, bridge, remove_from_home_assistant
from bridges.home_assistant.last_answer import MAX_STATE_CHARS, shorten
from edge_llm.engine.queue import Hold
from edge_llm.errors import BrokerError
from edge_llm.node import open_node
from edge_llm.protocol import ACTIVITIES, EngineState, NodeHealth, Timing, Usage
from edge_llm.settings import (
    EngineSettings,
    HomeAssistantSettings,
    HttpSettings,
    MqttSettings,
    PacedSettings,
    Settings,
    load_settings,
)
from edge_llm.topics import Topics
from tests.brokers import Mosquitto, Proxy
from tests.clients import RawClient
from tests.home_assistant import (
    BARE,
    CONFIG,
    FULL,
    GERMAN,
    HEALTH,
    JAPANESE,
    LAST_ANSWER,
    SILENT,
    STATUS,
    announced,
    hurry,
)
from tests.programs import HOST, free_port, require_program
from tests.stage import retained

pytestmark = pytest.mark.usefixtures("reconnects_quickly", "nobody_waits")

ROOT = Path(__file__).parent.parent
TOPICS = Topics("llm", "stage")
UNKNOWN = "None"  # Home Assistant's PAYLOAD_NONE
NODE = {
    "activity": ("generating", "loading"),
    "attention": ("ON", "OFF"),
    "state": ("ready", "loading"),
    "speed": ("4.21", UNKNOWN),
    "queue": ("3", "0"),
    "host_temperature": ("55.0", UNKNOWN),
    "host_cpu": ("12.5", UNKNOWN),
    "host_memory_available": ("6000", UNKNOWN),
    "host_disk_free": ("90000", UNKNOWN),
    "host_throttled": ("ON", UNKNOWN),
    "requests": ("43", "0"),
    "tokens": ("2500", "0"),
    "restarts": ("1", "0"),
    "recoveries": ("1", "0"),
}
CARD = {
    "temperature": ("71.25", UNKNOWN),
    "heat": ("warn", UNKNOWN),
    "npu": ("98.0", UNKNOWN),
    "card_cpu": ("3.0", UNKNOWN),
    "cmm_used": ("5120", UNKNOWN),
    "cmm_free": ("1920", UNKNOWN),
    "cmm_total": ("7040", UNKNOWN),
    "card_answers": ("ON", UNKNOWN),
}


@pytest.fixture
def nobody_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    hurry(monkeypatch)


def components(*, has_card: bool = True, commands: Any = (), **settings: Any) -> dict[str, Any]:
    announcement = Announcement(HomeAssistantSettings(**settings), TOPICS, commands)
    found: dict[str, Any] = json.loads(announcement.payload(has_card=has_card))["components"]
    return found


def render(template: str, health: NodeHealth, *, exclude_none: bool = False) -> str:
    """Render as Home Assistant does; what is undefined, which it logs, is an error."""
    environment = ImmutableSandboxedEnvironment(undefined=StrictUndefined)
    told = json.loads(health.model_dump_json(exclude_none=exclude_none))
    return environment.from_string(template).render(value=health.activity, value_json=told).strip()


@pytest.mark.parametrize("exclude_none", [False, True])
def test_each_template_finds_its_value_and_says_none_where_there_is_none(
    exclude_none: bool,
) -> None:
    found = components()
    templates = {
        key: component["value_template"]
        for key, component in found.items()
        if "value_template" in component and key != "last_answer"
    }
    for number, health in enumerate((FULL, BARE)):
        said = {
            key: render(template, health, exclude_none=exclude_none)
            for key, template in templates.items()
        }
        assert said == {key: both[number] for key, both in (NODE | CARD).items()}


def test_what_is_there_but_can_not_be_read_is_unknown() -> None:
    said = {
        key: render(component["value_template"], SILENT)
        for key, component in components().items()
        if key.startswith(("card_", "cmm", "host", "npu", "temp"))
    }
    assert said.pop("card_answers") == "OFF"
    assert set(said.values()) == {UNKNOWN}


def test_attributes_are_json_of_whatever_the_health_says() -> None:
    for health in (FULL, BARE, SILENT):
        attributes = {
            key: json.loads(render(component["json_attributes_template"], health))
            for key, component in components().items()
            if "json_attributes_template" in component
        }
        assert attributes["attention"]["attention"] == health.attention
        assert attributes["queue"]["holds"] == list(health.queue.holds)
        assert attributes["requests"]["by_outcome"] == health.counts.requests
    full = json.loads(render(components()["attention"]["json_attributes_template"], FULL))
    assert full["fault_code"] == "device_error"
    assert full["recovery_step"] == "restart"


def test_every_word_that_is_said_is_an_option() -> None:
    found = components()
    assert set(get_args(Hold)) < set(ACTIVITIES)
    assert set(get_args(EngineState)) - {"ready"} < set(ACTIVITIES)
    assert found["state"]["options"] == list(get_args(EngineState))
    assert found["heat"]["options"] == ["normal", "warn", "hot", "critical", "emergency"]


def test_only_what_is_allowed_is_a_button_and_the_others_are_taken_away() -> None:
    found = components(commands=["pause", "resume"])
    assert found["command_pause"]["payload_press"] == "pause"
    assert found["command_pause"]["command_topic"] == "llm/node/stage/command"
    assert found["command_reboot_card"] == {"platform": "button"}
    assert set(components(has_card=False)) == set(found) - set(CARD)
    assert "command_reboot_card" not in components(has_card=False, commands=["reboot_card"])
    assert len(components(commands=["reboot_card"])["command_reboot_card"]) > 1


def test_an_announcement_can_be_named_and_its_topic_has_no_dots() -> None:
    topics = Topics("house/llm", "stage.left")
    announcement = Announcement(HomeAssistantSettings(name="Oracle", prefix="ha"), topics)
    message = json.loads(announcement.payload(has_card=False))
    assert announcement.topic == "ha/device/edge_llm_stage_left/config"
    assert message["device"]["name"] == "Oracle"
    assert message["availability_topic"] == "house/llm/node/stage.left/status"
    ids = [c["unique_id"] for c in message["components"].values() if "unique_id" in c]
    assert len(set(ids)) == len(ids) == len(NODE) + 1


@pytest.mark.parametrize("text", [GERMAN, JAPANESE, "x" * 2000, "👩‍👩‍👧" * 300], ids=str.__len__)
def test_a_state_is_cut_at_a_word_and_no_longer_than_home_assistant_allows(text: str) -> None:
    short = shorten(text)
    assert MAX_STATE_CHARS - 20 < len(short) <= MAX_STATE_CHARS
    assert short.endswith("…")
    assert text.startswith(short[:-1])
    if text == GERMAN:
        assert text[len(short) - 1] == " "
    assert shorten(" One\nline. ") == "One line."


def test_a_text_that_just_fits_is_not_cut() -> None:
    assert shorten("a" * 250 + " four") == "a" * 250 + " four"
    assert shorten("a" * 250 + " fives") == "a" * 250 + "…"


async def test_the_announcement_is_retained_and_a_birth_message_brings_it_again(
    mosquitto: Mosquitto,
) -> None:
    broker = mosquitto.broker()
    async with broker.client() as client, announced(broker.settings()):
        await client.subscribe("homeassistant/#")
        [first] = await client.wait_for(CONFIG)
        program = require_program("mosquitto_sub", "mosquitto-clients")
        command = [program, "-h", HOST, "-p", str(mosquitto.port), "-t", CONFIG, "-C", "1"]
        plain = await asyncio.to_thread(subprocess.run, command, capture_output=True, timeout=5)
        assert plain.stdout.strip() == first
        client.publish("homeassistant/status", b"offline")
        for _ in range(5):  # a crowd of them is one
            client.publish("homeassistant/status", b"online")
        assert await client.wait_for(CONFIG, 2) == [first, first]
        client.publish("homeassistant/status", b"online")
        assert len(await client.wait_for(CONFIG, 3)) == 3


async def test_it_is_announced_again_after_a_broken_connection(mosquitto: Mosquitto) -> None:
    broker = mosquitto.broker()
    async with (
        Proxy(mosquitto.port) as proxy,
        broker.client() as client,
        announced(broker.settings(port=proxy.port)),
    ):
        await client.subscribe(CONFIG)
        await client.wait_for(CONFIG)
        proxy.cut()
        await client.wait_for(CONFIG, 2)


async def test_a_card_is_announced_when_there_is_one(mosquitto: Mosquitto) -> None:
    broker = mosquitto.broker()
    async with broker.client() as client, announced(broker.settings()):
        await client.subscribe(CONFIG)
        [without] = await client.wait_for(CONFIG)
        assert "temperature" not in json.loads(without)["components"]
        for nothing in (BARE.model_dump_json(), "", "{", '["card"]', "[" * 100_000):
            client.publish(HEALTH, nothing, retain=True)
        client.publish(HEALTH, FULL.model_dump_json(), retain=True)
        [_, with_card] = await client.wait_for(CONFIG, 2)
        assert set(CARD) < set(json.loads(with_card)["components"])
    async with broker.client() as client, announced(broker.settings()):
        await client.subscribe(CONFIG)
        await client.wait_for(CONFIG, 2)  # the one that is retained, and one for the new start
        assert client.payloads(CONFIG) == [with_card] * 2


async def test_removal_clears_the_announcement(mosquitto: Mosquitto, protocol: Any) -> None:
    broker = mosquitto.broker(protocol)
    settings = HomeAssistantSettings()
    async with broker.client() as client, announced(broker.settings()):
        await client.subscribe(CONFIG)
        await client.wait_for(CONFIG)
    assert await retained(broker, CONFIG)  # the device is offline, not gone
    assert await remove_from_home_assistant(settings, broker.settings(), "stage")
    assert await retained(broker, CONFIG) == []
    assert not await remove_from_home_assistant(settings, broker.settings(), "stage")


async def test_a_removal_that_can_not_be_done_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bridge, "REMOVE_TIMEOUT_S", 0.5)
    acl = tmp_path / "acl"
    acl.write_text("topic readwrite llm/#\n")
    acl.chmod(0o700)
    with Mosquitto(tmp_path, {"acl_file": str(acl)}) as mosquitto:
        for mqtt in (mosquitto.broker().settings(), MqttSettings(host=HOST, port=free_port())):
            with pytest.raises(BrokerError, match=CONFIG):
                await remove_from_home_assistant(HomeAssistantSettings(), mqtt, "stage")


async def test_the_access_list_that_we_ship_lets_both_do_their_part(tmp_path: Path) -> None:
    acl = tmp_path / "acl"
    acl.write_text((ROOT / "mosquitto" / "edge-llm.acl").read_text())
    acl.chmod(0o600)
    # Without a file of passwords each name is taken at its word.
    with Mosquitto(tmp_path, {"acl_file": str(acl)}) as mosquitto:
        mqtt = mosquitto.broker().settings(username="edge-llm")
        client = mosquitto.broker().client()
        client.paho.username_pw_set("homeassistant")
        async with client, announced(mqtt) as stats:
            await client.subscribe(CONFIG, LAST_ANSWER)
            await client.wait_for(CONFIG)
            client.publish("homeassistant/status", b"online")
            await client.wait_for(CONFIG, 2)
            note(stats, "stop", "Yes.")
            await client.wait_for(LAST_ANSWER)
        assert await remove_from_home_assistant(HomeAssistantSettings(), mqtt, "stage")


def test_the_command_removes_it(mosquitto: Mosquitto) -> None:
    environment = {
        **os.environ,
        "EDGE_LLM_NODE": "stage",
        "EDGE_LLM_MQTT__PORT": str(mosquitto.port),
    }
    command = [sys.executable, "-m", "edge_llm", "home-assistant", "--remove"]
    publish = [require_program("mosquitto_pub", "mosquitto-clients"), "-p", str(mosquitto.port)]
    subprocess.run([*publish, "-r", "-t", CONFIG, "-m", "{}"], check=True, timeout=5)
    for said in ("stage is removed", "nothing to remove"):
        done = subprocess.run(
            command, capture_output=True, text=True, check=True, timeout=20, env=environment
        )
        assert said in done.stdout
    assert asyncio.run(retained(mosquitto.broker(), CONFIG)) == []


def test_the_settings_of_the_documentation_are_settings(tmp_path: Path) -> None:
    text = (ROOT / "docs" / "home-assistant.md").read_text()
    file = tmp_path / "edge-llm.toml"
    file.write_text(re.findall(r"```toml\n(.*?)```", text, re.DOTALL)[0])
    assert load_settings(file).home_assistant.enabled


def note(stats: Any, outcome: str, text: str) -> None:
    stats.note(outcome, Timing(total_s=1.2345), Usage(completion_tokens=7), text)


@pytest.mark.parametrize("text", [GERMAN, JAPANESE], ids=["german", "japanese"])
async def test_the_last_answer_is_told_whole_and_short(mosquitto: Mosquitto, text: str) -> None:
    assert len(text) >= 2000
    broker = mosquitto.broker()
    async with broker.client() as client, announced(broker.settings()) as stats:
        await client.subscribe(LAST_ANSWER, CONFIG)
        await client.wait_for(CONFIG)
        note(stats, "queue_full", "")
        note(stats, "engine_failed", "Once upon")
        note(stats, "stop", " \n")
        note(stats, "length", text)
        [told] = await client.wait_for(LAST_ANSWER)
        answer = json.loads(told)
        assert answer.pop("text") == text
        assert answer.pop("state") == shorten(text)
        assert answer == {"finish_reason": "length", "completion_tokens": 7, "total_s": 1.234}
    assert stats.watchers == []
    assert await retained(broker, LAST_ANSWER) == []  # it would be spoken at each restart


async def test_the_last_answer_stays_private_if_it_shall(mosquitto: Mosquitto) -> None:
    assert components(last_answer=False)["last_answer"] == {"platform": "sensor"}
    broker = mosquitto.broker()
    async with announced(broker.settings(), last_answer=False) as stats:
        assert stats.watchers == []


@pytest.mark.parametrize("enabled", [True, False])
async def test_a_node_announces_itself_and_its_answers_if_it_shall(
    mosquitto: Mosquitto, enabled: bool
) -> None:
    settings = Settings(
        node="stage",
        mqtt=mosquitto.broker().settings(commands=["pause"]),
        http=HttpSettings(enabled=False),
        engine=EngineSettings(kind="paced", paced=PacedSettings(text="The fountain sleeps.")),
        home_assistant=HomeAssistantSettings(enabled=enabled),
    )
    async with RawClient(mosquitto.port) as client, open_node(settings):
        await client.subscribe("llm/response/a", LAST_ANSWER, CONFIG, STATUS)
        await client.wait_for(STATUS)
        if enabled:
            [told] = await client.wait_for(CONFIG)
            assert "payload_press" in json.loads(told)["components"]["command_pause"]
        client.publish("llm/request/a", "What is it?")
        [answer] = await client.wait_for("llm/response/a")
        if enabled:
            [told] = await client.wait_for(LAST_ANSWER)
            assert json.loads(told)["text"] == answer.decode()
    assert bool(client.payloads(LAST_ANSWER)) == bool(client.payloads(CONFIG)) == enabled
