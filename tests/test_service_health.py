"""The health topic of the MQTT front end, and what is said when a device is given up."""

import itertools
import json
from pathlib import Path

import pytest

from edge_llm.errors import DeviceUnavailableError
from edge_llm.preset import Preset, Presets
from edge_llm.protocol import Counts, NodeHealth, QueueHealth
from edge_llm.service import Rules, presence
from tests.brokers import Broker, Mosquitto
from tests.prompted_engine import PromptedEngine
from tests.stage import open_stage

HEALTH = "llm/node/stage/health"


def make_report(uptime_s: float) -> NodeHealth:
    return NodeHealth(
        node="stage",
        boot_id="b1",
        uptime_s=uptime_s,
        state="ready",
        activity="idle",
        heat=None,
        queue=QueueHealth(waiting=0, running=0, limit=16),
        counts=Counts(),
    )


async def test_the_health_is_said_now_and_then(
    broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(presence, "HEALTH_EVERY_S", 0.2)
    reports = itertools.count()
    async with open_stage(broker, report=lambda: make_report(next(reports))) as stage:
        payloads = await stage.client.wait_for(HEALTH, 3)
        assert [json.loads(payload)["uptime_s"] for payload in payloads[:3]] == [0, 1, 2]


async def test_the_health_is_said_at_each_change(broker: Broker) -> None:
    reports = itertools.count()
    async with open_stage(broker, report=lambda: make_report(next(reports))) as stage:
        await stage.client.wait_for(HEALTH)
        assert len(stage.client.payloads(HEALTH)) == 1  # the next one by itself is 30 s away
        stage.service.tell()
        payloads = await stage.client.wait_for(HEALTH, 2)
        assert [json.loads(payload)["uptime_s"] for payload in payloads] == [0, 1]


async def test_who_asks_a_device_that_was_given_up_hears_the_fallback_line(tmp_path: Path) -> None:
    presets = Presets({"oracle": Preset(fallback="The oracle sleeps.")}, "oracle")
    engine = PromptedEngine()
    engine.error = DeviceUnavailableError("look at the card", retry_after_s=120.0)
    with Mosquitto(tmp_path) as mosquitto:
        async with open_stage(mosquitto.broker(), engine=engine, rules=Rules(presets)) as stage:
            stage.ask({"prompt": "What do you see?"})
            body = await stage.final()
            assert body["text"] == "The oracle sleeps."
            assert body["error"]["code"] == "device_unavailable"
            assert body["error"]["retry_after_s"] == 120.0
            stage.ask("What do you see?", "b")
            assert await stage.text("b") == "The oracle sleeps."
