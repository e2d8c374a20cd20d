"""Places in the queue, budgets and interruptions, as a client sees them."""

import json
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

from edge_llm.engine.paced import PacedEngine
from edge_llm.engine.queue import QueuedEngine
from edge_llm.settings import EngineSettings, PacedSettings, QueueSettings
from tests.brokers import Broker, Mosquitto
from tests.clients import RawClient, eventually
from tests.stage import STATUS, Stage, serving

STORY = "I see a door. It is made of oak and iron. " * 20


@asynccontextmanager
async def paced(mosquitto: Mosquitto, **pace: Any) -> AsyncGenerator[RawClient]:
    """A node that speaks at a set speed, and a client that hears it."""
    broker = mosquitto.broker()
    settings = EngineSettings(paced=PacedSettings.model_validate({"text": STORY, **pace}))
    queue = QueuedEngine(PacedEngine(settings), QueueSettings())
    async with broker.client() as client, serving(broker.settings(), queue):
        await client.subscribe("llm/response/#", STATUS)
        await client.wait_for(STATUS)
        yield client


def events(client: RawClient, request_id: str) -> list[dict[str, Any]]:
    return [json.loads(e) for e in client.payloads(f"llm/response/{request_id}/event")]


async def test_an_led_sees_its_request_move_up(stage: Stage, broker: Broker) -> None:
    stage.ask("hold the line", "first")
    await eventually(lambda: stage.engine.num_running)
    for name in ("a", "b", "c"):
        stage.ask({"prompt": f"say {name}", "events": True}, name)
        await eventually(lambda name=name: events(stage.client, name))  # type: ignore[misc]
    stage.ask({"prompt": "say high", "priority": 9}, "high")
    await eventually(lambda: stage.queue.num_waiting == 4)
    stage.engine.release.set()
    await stage.client.wait_for("llm/response/c")
    await eventually(lambda: len(events(stage.client, "c")) >= 7)
    said = events(stage.client, "c")
    positions = [event["position"] for event in said if event["event"] == "queued"]
    assert positions[:3] == [3, 4, 3]  # one of a higher priority went ahead
    assert positions[-1] == 1
    assert [event["event"] for event in said if event["event"] != "queued"] == [
        "started",
        "first_token",
        "done",
    ]


async def test_an_answer_is_said_in_its_time_and_ends_on_a_sentence(mosquitto: Mosquitto) -> None:
    async with paced(mosquitto, ttft_s=0.1, tokens_per_s=30) as client:
        begin = time.monotonic()
        asked = {"prompt": "x", "time_budget_s": 1.0, "stream": "token"}
        client.publish("llm/request/a", json.dumps(asked))
        [final] = await client.wait_for("llm/response/a")
        body = json.loads(final)
        assert time.monotonic() - begin < 1.2
        assert body["finish_reason"] == "time_budget"
        assert body["text"].endswith(".")
        assert STORY.startswith(body["text"])
        deltas = [json.loads(d)["text"] for d in client.payloads("llm/response/a/delta")]
        assert "".join(deltas) == body["text"]


async def test_the_wait_counts_and_a_budget_that_is_over_is_not_spoken(
    mosquitto: Mosquitto,
) -> None:
    async with paced(mosquitto, ttft_s=0.1, tokens_per_s=50) as client:
        client.publish("llm/request/long", json.dumps({"prompt": "x", "max_tokens": 60}))
        client.publish("llm/request/late", json.dumps({"prompt": "x", "time_budget_s": 0.5}))
        [late] = await client.wait_for("llm/response/late")
        assert json.loads(late)["error"]["code"] == "expired"
        assert not client.payloads("llm/response/long")


async def test_an_alarm_interrupts_and_the_interrupted_goes_on(mosquitto: Mosquitto) -> None:
    async with paced(mosquitto, ttft_s=0.1, tokens_per_s=40) as client:
        asked = {"prompt": "x", "max_tokens": 40, "stream": "token"}
        client.publish("llm/request/tale", json.dumps(asked))
        await client.wait_for("llm/response/tale/delta", 5)
        alarm = {"prompt": "x", "max_tokens": 4, "priority": 9, "preempt": True}
        client.publish("llm/request/alarm", json.dumps(alarm))
        await client.wait_for("llm/response/alarm")
        assert not client.payloads("llm/response/tale")
        said_before = len(client.payloads("llm/response/tale/delta"))
        [tale] = await client.wait_for("llm/response/tale")
        deltas = [json.loads(d) for d in client.payloads("llm/response/tale/delta")]
        assert said_before < 40
        assert [delta["seq"] for delta in deltas] == list(range(40))
        assert "".join(delta["text"] for delta in deltas) == json.loads(tale)["text"]
        assert len(json.loads(tale)["text"].split()) == 40
