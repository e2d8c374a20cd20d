"""MQTT 5's request and response, as Node-RED and ``mosquitto_rr`` use it."""

import asyncio
import json
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import paho.mqtt.client as paho
import pytest
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from edge_llm.preset import Preset, Presets
from edge_llm.service import Rules
from tests.brokers import Mosquitto
from tests.clients import eventually
from tests.programs import HOST, require_program
from tests.stage import FINAL, Stage, open_stage

CORRELATION = bytes(range(256)) + b"\x00 \xf0\x9f"


@asynccontextmanager
async def stage5(mosquitto: Mosquitto, **options: Any) -> AsyncGenerator[Stage]:
    async with open_stage(mosquitto.broker("5"), **options) as stage:
        await stage.client.subscribe("nodered/reply/#", "elsewhere/#")
        yield stage


def ask(
    stage: Stage, payload: str | bytes, request_id: str = "a", qos: int = 1, **said: Any
) -> None:
    properties = Properties(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call] # paho's
    for name, value in said.items():
        setattr(properties, name, value)
    stage.client.paho.publish(f"llm/request/{request_id}", payload, qos, properties=properties)


async def message(stage: Stage, topic: str) -> paho.MQTTMessage:
    await stage.client.wait_for(topic)
    [found] = [m for m in tuple(stage.client.messages) if m.topic == topic]
    return found


def prop(message: paho.MQTTMessage, name: str) -> Any:
    return getattr(message.properties, name)


def user_properties(message: paho.MQTTMessage) -> dict[str, str]:
    return dict(getattr(message.properties, "UserProperty", []))


@pytest.mark.parametrize("payload", ['{"prompt": "say Yes"}', "say Yes"])
async def test_a_reply_goes_where_the_request_says_with_what_it_gave(
    mosquitto: Mosquitto, payload: str
) -> None:
    async with stage5(mosquitto) as stage:
        topic = "nodered/reply/42"
        ask(stage, payload, ResponseTopic=topic, CorrelationData=CORRELATION)
        final = await message(stage, topic)
        assert prop(final, "CorrelationData") == CORRELATION
        is_json = payload.startswith("{")
        content_type = "application/json" if is_json else "text/plain"
        assert content_type == prop(final, "ContentType")
        assert user_properties(final) == {"node": "stage", "finish_reason": "stop"}
        text = json.loads(final.payload)["text"] if is_json else final.payload.decode()
        assert text == "Yes"
        await stage.settle()
        assert not stage.finals()


async def test_all_that_belongs_to_a_reply_goes_below_its_topic(mosquitto: Mosquitto) -> None:
    async with stage5(mosquitto) as stage:
        asked = {
            "prompt": "say One two. Three four five six.",
            "stream": "sentence",
            "events": True,
            "parts": True,
            "max_bytes": 20,
        }
        topic = "nodered/reply/42"
        ask(stage, json.dumps(asked), ResponseTopic=topic, CorrelationData=b"7")
        await message(stage, topic)
        levels = [m.topic.removeprefix(topic) for m in tuple(stage.client.messages)]
        levels = [level for level in levels if level.startswith("/")]
        assert {"/delta", "/event", "/part/0", "/part/1"} <= set(levels)
        for found in tuple(stage.client.messages):
            if found.topic.startswith(topic):
                assert prop(found, "CorrelationData") == b"7"
                assert prop(found, "ContentType") in ("application/json", "text/plain")


async def test_an_error_has_its_code_beside_it(mosquitto: Mosquitto) -> None:
    rules = Rules(Presets({"oracle": Preset(fallback="The oracle sleeps.")}, "oracle"))
    async with stage5(mosquitto, rules=rules) as stage:
        ask(stage, "fail now", ResponseTopic="nodered/reply/1", CorrelationData=b"1")
        error = await message(stage, "nodered/reply/1/error")
        final = await message(stage, "nodered/reply/1")
        assert final.payload == b"The oracle sleeps."
        for found in (error, final):
            assert user_properties(found) == {"node": "stage", "error": "internal"}
            assert prop(found, "CorrelationData") == b"1"


@pytest.mark.parametrize(
    "topic",
    [
        "elsewhere/a",
        "reply/a",
        "a/b/reply/c",
        "llm/request/b",
        "llm/node/stage/status",
        "llm/node/stage/command",
        "homeassistant/light/config",
    ],
)
async def test_a_reply_goes_nowhere_else(mosquitto: Mosquitto, topic: str) -> None:
    async with stage5(mosquitto) as stage:
        await stage.client.subscribe("homeassistant/#", "a/#", "reply/#", "llm/request/b")
        ask(stage, '{"prompt": "say Yes"}', ResponseTopic=topic, CorrelationData=b"9")
        refused = await message(stage, FINAL)
        assert json.loads(refused.payload)["error"]["code"] == "forbidden_topic"
        assert prop(refused, "CorrelationData") == b"9"
        ask(stage, "say Yes", "b", ResponseTopic=topic)
        assert (await message(stage, "llm/response/b/error")).payload.startswith(b"forbidden_topic")
        await stage.settle()
        assert "say Yes" not in stage.engine.asked
        others = [m for m in tuple(stage.client.messages) if m.topic == topic]
        assert all(m.payload in (b"online", b"say Yes") for m in others)


async def test_where_replies_may_go_can_be_set(mosquitto: Mosquitto) -> None:
    settings = mosquitto.broker().settings(response_topics=["elsewhere/+"])
    async with stage5(mosquitto, settings=settings) as stage:
        ask(stage, "say Yes", ResponseTopic="elsewhere/a")
        assert (await message(stage, "elsewhere/a")).payload == b"Yes"
        ask(stage, "say Yes", "b", ResponseTopic="nodered/reply/a")
        assert (await message(stage, "llm/response/b/error")).payload.startswith(b"forbidden_topic")


async def test_no_reply_has_a_higher_quality_of_service_than_its_request(
    mosquitto: Mosquitto,
) -> None:
    async with stage5(mosquitto) as stage:
        await stage.client.subscribe("llm/response/#", qos=2)
        for qos in (0, 1, 2):
            ask(stage, "say Yes", f"q{qos}", qos)
            found = await message(stage, f"llm/response/q{qos}")
            assert found.qos == min(qos, 1)  # requests are subscribed to at QoS 1


async def test_what_the_node_says_of_itself_has_a_content_type(mosquitto: Mosquitto) -> None:
    async with stage5(mosquitto) as stage:
        await eventually(lambda: stage.client.payloads("llm/node/stage/activity"))
        types = {
            m.topic.rpartition("/")[2]: getattr(m.properties, "ContentType", None)
            for m in tuple(stage.client.messages)
        }
        assert types == {
            "status": "text/plain",
            "activity": "text/plain",
            "info": "application/json",
        }


async def test_mosquitto_rr_asks_and_is_answered(mosquitto: Mosquitto) -> None:
    """Debian's own client for request and response."""
    program = require_program("mosquitto_rr", "mosquitto-clients")
    async with stage5(mosquitto):
        process = await asyncio.create_subprocess_exec(
            program,
            *("-V", "5", "-h", HOST, "-p", str(mosquitto.port), "-W", "10", "-q", "1"),
            *("-t", "llm/request/rr", "-e", "shell/reply/rr", "-m", "say Good evening."),
            *("-D", "publish", "correlation-data", "42", "-F", "%p %C %D %P"),
            stdout=asyncio.subprocess.PIPE,
        )
        output, _ = await asyncio.wait_for(process.communicate(), 15)
    assert output.decode().strip() == ("Good evening. text/plain 42 node:stage finish_reason:stop")
