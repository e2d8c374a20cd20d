"""Presets, buttons and conversations, at real brokers."""

import asyncio
import json
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from edge_llm.preset import Preset, Presets
from edge_llm.route import Route
from edge_llm.service import Rules
from edge_llm.settings import ClientSettings, SessionSettings
from tests.brokers import Broker, Mosquitto
from tests.clients import eventually
from tests.prompted_engine import PromptedEngine
from tests.stage import FINAL, INFO, Protocol, Stage, open_stage

pytestmark = pytest.mark.usefixtures("reconnects_quickly")

ORACLE = Preset(
    system_prompt="You are an oracle.",
    prompt="say I see.",
    stream="sentence",
    format="text",
    max_tokens=40,
    fallback="The oracle sleeps.",
)


class RecordingEngine(PromptedEngine):
    """Keeps what it was asked, as the engine gets it."""

    def __init__(self) -> None:
        super().__init__()
        self.requests: list[Any] = []

    async def generate(self, request: Any, gate: Any = None) -> AsyncGenerator[Any]:
        self.requests.append(request)
        async for event in super().generate(request):
            yield event


@asynccontextmanager
async def house(broker: Broker, *routes: dict[str, Any], **options: Any) -> AsyncGenerator[Stage]:
    """A node with an oracle, and buttons."""
    presets = Presets({"oracle": ORACLE, "plain": Preset(prompt="say Nothing.")}, "oracle")
    rules = Rules(
        presets,
        [Route.model_validate(route) for route in routes],
        [ClientSettings(match="esp*", max_bytes=20)],
    )
    async with open_stage(broker, rules=rules, engine=RecordingEngine(), **options) as stage:
        await stage.client.subscribe("speaker/#")
        yield stage


def asked(stage: Stage) -> list[Any]:
    assert isinstance(stage.engine, RecordingEngine)
    return stage.engine.requests


def conversation(request: Any) -> list[tuple[str, str]]:
    return [(turn.role, turn.content) for turn in request.conversation]


async def test_an_empty_payload_asks_what_the_default_preset_asks(broker: Broker) -> None:
    async with house(broker) as stage:
        stage.ask(b"")
        assert await stage.text() == "I see."
        assert conversation(asked(stage)[0]) == [
            ("system", "You are an oracle."),
            ("user", "say I see."),
        ]
        assert asked(stage)[0].max_tokens == 40
        assert stage.client.payloads(f"{FINAL}/delta") == [b"I see."]


async def test_a_request_names_a_preset_and_keeps_what_it_says_itself(broker: Broker) -> None:
    async with house(broker) as stage:
        stage.ask({"prompt": "say Yes.", "format": "json", "max_tokens": 7, "stream": False})
        assert (await stage.final())["text"] == "Yes."
        assert asked(stage)[0].max_tokens == 7
        assert not stage.client.payloads(f"{FINAL}/delta")
        stage.ask({"preset": "plain"}, "b")
        assert (await stage.final("b"))["text"] == "Nothing."
        assert await stage.code({"preset": "cat"}, "c") == "preset_not_found"


async def test_the_fallback_line_is_said_instead(broker: Broker) -> None:
    async with house(broker) as stage:
        stage.ask("fail now")
        assert await stage.text() == "The oracle sleeps."
        assert (await stage.error()).startswith("internal: ")


async def test_small_devices_get_what_fits_them(broker: Broker) -> None:
    async with house(broker) as stage:
        stage.ask('{"prompt": "say One two three four five six.", "stream": false}', "esp1/1")
        assert await stage.text("esp1/1") == "One two three…"
        stage.ask('{"prompt": "say One two three four five six.", "stream": false}', "big/1")
        assert await stage.text("big/1") == "One two three four five six."
        stage.ask(
            '{"prompt": "say One two three four five six.", "stream": false, "max_bytes": 25}',
            "esp1/2",
        )
        assert await stage.text("esp1/2") == "One two three four…"


async def test_the_node_says_which_presets_it_has(broker: Broker) -> None:
    async with house(broker) as stage:
        await stage.client.wait_for(INFO)
        info = json.loads(stage.client.payloads(INFO)[-1])
        assert (info["presets"], info["default_preset"]) == (["oracle", "plain"], "oracle")


async def test_what_changes_while_it_runs_drops_no_request(broker: Broker) -> None:
    async with house(broker, {"topic": "old/button", "respond_to": "speaker/old"}) as stage:
        stage.ask("hold the line", "a")
        await eventually(lambda: stage.engine.num_running)
        stage.ask(b"", "b")
        await eventually(lambda: stage.queue.num_waiting)
        route = Route(topic="new/button", respond_to="speaker/new", prompt="say New.")
        changed = Presets({"oracle": Preset(prompt="say Changed.")}, "oracle")
        stage.service.follow(Rules(changed, [route]))
        stage.ask(b"", "c")
        stage.engine.release.set()
        assert await stage.text("a") == "hold the line"
        assert await stage.text("b") == "I see."  # asked before
        assert await stage.text("c") == "Changed."
        stage.client.publish("old/button", b"x")
        stage.client.publish("new/button", b"x")
        assert await stage.client.wait_for("speaker/new") == [b"New."]
        assert not stage.client.payloads("speaker/old")
        info = json.loads(stage.client.payloads(INFO)[-1])
        assert info["presets"] == ["oracle"]


BUTTON = {"topic": "house/+/button", "name": "button", "respond_to": "speaker/{{ levels[1] }}"}


async def test_a_button_needs_no_code(broker: Broker) -> None:
    route = {
        **BUTTON,
        "prompt": "say Good evening {{ json.name }} in the {{ levels[1] }}.",
        "deltas_to": "speaker/{{ levels[1] }}/words",
        "stream": "word",
    }
    async with house(broker, route) as stage:
        stage.client.publish("house/hall/button", b'{"name": "Ada"}')
        assert await stage.client.wait_for("speaker/hall") == [b"Good evening Ada in the hall."]
        words = stage.client.payloads("speaker/hall/words")
        assert b"".join(words) == b"Good evening Ada in the hall."
        assert len(words) == 6
        assert conversation(asked(stage)[0])[0] == ("system", "You are an oracle.")
        stage.client.publish("house/hall/button", b"{}")
        [error] = await stage.client.wait_for("llm/response/button/error")
        assert error.startswith(b"invalid_request: route 'button': prompt: ")


async def test_a_button_without_a_prompt_asks_what_its_preset_asks(broker: Broker) -> None:
    async with house(broker, BUTTON, {"topic": "ask", "respond_to": "speaker/x"}) as stage:
        stage.client.publish("house/hall/button", b"pressed", 0)
        assert await stage.client.wait_for("speaker/hall") == [b"I see."]


async def test_the_reply_of_a_button_may_be_retained(mosquitto: Mosquitto) -> None:
    broker = mosquitto.broker()
    async with house(broker, {**BUTTON, "retain": True}) as stage:
        stage.client.publish("house/hall/button", b"")
        await stage.client.wait_for("speaker/hall")
        async with broker.client() as late:
            await late.subscribe("speaker/#")
            assert await late.wait_for("speaker/hall") == [b"I see."]


async def test_a_retained_press_is_none_when_the_node_comes(broker: Broker) -> None:
    async with broker.client() as client:
        client.publish("house/hall/button", b"old", 1, retain=True).wait_for_publish(5)
        async with house(broker, {**BUTTON, "prompt": "say {{ payload }}"}) as stage:
            # A sensor's state is retained, and its news is a press all the same.
            client.publish("house/hall/button", b"new", 1, retain=True)
            assert await stage.client.wait_for("speaker/hall") == [b"new"]
            await stage.settle()
            assert [request.conversation[-1].content for request in asked(stage)][:1] == ["say new"]


async def test_two_routes_that_both_match_both_answer(
    mosquitto: Mosquitto, protocol: Protocol
) -> None:
    """Their filters overlap, so that MQTT 5 brokers deliver a copy for each."""
    routes = [
        {"topic": "house/#", "name": "one", "prompt": "say 1", "respond_to": "speaker/one"},
        {"topic": "house/+/button", "name": "two", "prompt": "say 2", "respond_to": "speaker/two"},
    ]
    async with house(mosquitto.broker(protocol), *routes) as stage:
        stage.client.publish("house/hall/button", b"x")
        assert await stage.client.wait_for("speaker/one") == [b"1"]
        assert await stage.client.wait_for("speaker/two") == [b"2"]
        await stage.settle()
        assert len(asked(stage)) == 3  # with the one that settles
        assert len(stage.client.payloads("speaker/one")) == 1


async def mash(stage: Stage, times: int) -> None:
    with capture_logs() as logs:
        for number in range(times):
            stage.client.publish("house/hall/button", b"hold %d" % number)
        # Brokers keep the order: when the node has heard this, it has heard all presses.
        stage.client.publish("llm/session/none/reset", b"", 1)
        await eventually(lambda: "session.reset" in [entry["event"] for entry in logs])
    stage.engine.release.set()


MASHED = {**BUTTON, "prompt": "{{ payload }}"}


async def test_a_busy_button_drops_presses(broker: Broker) -> None:
    async with house(broker, {**MASHED, "while_busy": "drop"}) as stage:
        await mash(stage, 20)
        await stage.client.wait_for("speaker/hall")
        await stage.settle()
        assert stage.client.payloads("speaker/hall") == [b"hold 0"]


async def test_a_busy_button_starts_anew(broker: Broker) -> None:
    async with house(broker, {**MASHED, "while_busy": "replace"}) as stage:
        await mash(stage, 10)
        await stage.client.wait_for("speaker/hall")
        assert stage.client.payloads("speaker/hall") == [b"hold 9"]
        errors = stage.client.payloads("speaker/hall/error")
        assert len(errors) == 9  # each press ends in exactly one final message
        assert {error.partition(b":")[0] for error in errors} == {b"replaced"}


async def test_a_busy_button_queues_up_to_the_bound(broker: Broker) -> None:
    async with house(broker, {**MASHED, "while_busy": "queue", "max_queued": 3}) as stage:
        await mash(stage, 10)
        spoken = await stage.client.wait_for("speaker/hall", 4)
        assert spoken == [b"hold 0", b"hold 1", b"hold 2", b"hold 3"]
        errors = await stage.client.wait_for("speaker/hall/error", 6)
        assert {error.partition(b":")[0] for error in errors} == {b"queue_full"}
        assert stage.client.payloads("speaker/hall") == spoken  # no fallback line for each


async def test_a_button_cools_down(mosquitto: Mosquitto) -> None:
    async with house(mosquitto.broker(), {**BUTTON, "cooldown_s": 0.4}) as stage:
        began = time.monotonic()
        while len(stage.client.payloads("speaker/hall")) < 3:
            stage.client.publish("house/hall/button", b"x")
            await asyncio.sleep(0.02)
        assert time.monotonic() - began >= 0.8


async def test_a_button_is_cancelled_by_its_name(broker: Broker) -> None:
    async with house(broker, MASHED) as stage:
        stage.client.publish("house/hall/button", b"hold the line")
        await eventually(lambda: stage.engine.num_running)
        stage.cancel("button")
        assert await stage.client.wait_for("speaker/hall") == [b"hold"]


def session(name: str, prompt: str) -> dict[str, Any]:
    return {"session": name, "prompt": prompt, "format": "text", "preset": "plain"}


async def test_a_session_remembers_what_was_said(broker: Broker, tmp_path: Path) -> None:
    store = tmp_path / "node.sqlite3"
    async with house(broker, store=store) as stage:
        for number in range(3):
            stage.ask(session("booth-1", f"say Turn {number}"), f"t{number}")
            await stage.text(f"t{number}")
        stage.ask(session("booth-2", "say Another"), "u")
        await stage.text("u")
        assert [text for _, text in conversation(asked(stage)[2])] == [
            "say Turn 0",
            "Turn 0",
            "say Turn 1",
            "Turn 1",
            "say Turn 2",
        ]
        assert len(asked(stage)[3].conversation) == 1
        assert asked(stage)[2].overflow == "drop_oldest"
    async with house(broker, store=store) as stage:  # it survives a restart
        stage.ask(session("booth-1", "say Turn 3"), "t3")
        await stage.text("t3")
        assert len(asked(stage)[0].conversation) == 7
        stage.client.publish("llm/session/booth-1/reset", b"")
        stage.client.publish("llm/session/never/reset", b"")
        stage.ask(session("booth-1", "say Turn 4"), "t4")
        await stage.text("t4")
        assert conversation(asked(stage)[-1]) == [("user", "say Turn 4")]


async def test_turns_of_a_session_that_come_at_once_follow_each_other(broker: Broker) -> None:
    async with house(broker) as stage:
        for number in range(5):
            stage.ask(session("booth-1", f"say Turn {number}"), f"t{number}")
        for number in range(5):
            await stage.text(f"t{number}")
        assert [len(request.conversation) for request in asked(stage)] == [1, 3, 5, 7, 9]
        await eventually(lambda: not stage.service._conversations._locks)


async def test_failed_turns_are_not_remembered_and_cancelled_ones_as_far_as_they_were_said(
    broker: Broker,
) -> None:
    async with house(broker) as stage:
        stage.ask(session("booth-1", "fail now"), "a")
        await stage.error("a")
        stage.ask(session("booth-1", "hold the line"), "b")
        await eventually(lambda: stage.engine.num_running)
        stage.ask(session("booth-1", "say never"), "c")
        stage.cancel("b")
        assert await stage.text("b") == "hold"
        await stage.text("c")
        assert [text for _, text in conversation(asked(stage)[-1])] == [
            "hold the line",
            "hold",
            "say never",
        ]


async def test_a_reset_in_mid_answer_forgets_that_answer_too(broker: Broker) -> None:
    async with house(broker) as stage:
        stage.ask(session("booth-1", "hold the line"), "a")
        await eventually(lambda: stage.engine.num_running)
        stage.client.publish("llm/session/booth-1/reset", b"")
        stage.ask(session("booth-1", "say Hello"), "b")
        await asyncio.sleep(0.05)
        stage.engine.release.set()
        await stage.text("b")
        assert conversation(asked(stage)[-1]) == [("user", "say Hello")]


async def test_a_session_is_forgotten_after_a_while(mosquitto: Mosquitto) -> None:
    sessions = SessionSettings(idle_expiry_s=0.1)
    async with house(mosquitto.broker(), sessions=sessions) as stage:
        stage.ask(session("booth-1", "say One"), "a")
        await stage.text("a")
        await asyncio.sleep(0.1)
        stage.ask(session("booth-1", "say Two"), "b")
        await stage.text("b")
        assert conversation(asked(stage)[-1]) == [("user", "say Two")]


async def test_a_button_may_have_a_session(broker: Broker) -> None:
    route = {**MASHED, "session": "booth-{{ levels[1] }}", "preset": "plain"}
    async with house(broker, route) as stage:
        for number in range(2):
            stage.client.publish("house/hall/button", b"say %d" % number)
            await stage.client.wait_for("speaker/hall", number + 1)
        assert len(asked(stage)[-1].conversation) == 3


async def test_a_request_for_another_node_is_left_alone(broker: Broker) -> None:
    async with house(broker) as stage:
        stage.ask({"prompt": "say No", "node": "other", "preset": "theirs"}, "a")
        stage.ask({"prompt": "say Yes", "node": "stage"}, "b")
        assert await stage.text("b") == "Yes"
        assert not stage.finals("a")
