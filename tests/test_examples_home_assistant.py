"""``examples/home-assistant`` in a real Home Assistant: what is typed is asked and answered."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from edge_llm.settings import load_settings
from tests.brokers import Mosquitto
from tests.clients import RawClient
from tests.home_assistant import FULL, announced, hurry
from tests.stage import open_stage
from tests.test_real_home_assistant import POLL_S, HomeAssistant, home_assistant

EXAMPLE = Path(__file__).parent.parent / "examples" / "home-assistant"
ANSWER = "llm/response/homeassistant/ask"
QUESTION = 'say "Good evening", she said: it\'s {{ late }}.'


def notification(title: str, message: str, name: str = "answer") -> list[Any]:
    data = {"title": title, "message": message, "notification_id": f"edge_llm_{name}"}
    return ["persistent_notification.create", data]


@pytest.mark.timeout(240)  # the first time, with the packages to be fetched
async def test_what_is_typed_is_asked_and_the_answer_is_shown_and_said(
    mosquitto: Mosquitto, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hurry(monkeypatch)
    settings = load_settings(EXAMPLE / "edge-llm.toml")
    assert settings.home_assistant.enabled
    async with (
        open_stage(mosquitto.broker()) as stage,
        announced(mosquitto.broker().settings(), name=settings.home_assistant.name),
        home_assistant(mosquitto.port, tmp_path) as shown,
    ):
        package = (EXAMPLE / "edge-llm.yaml").read_text()
        assert await shown.ask(f"configure {json.dumps(package)}")
        attention = "binary_sensor.oracle_attention"
        await shown.wait_for(lambda states: attention in states)

        button = "press input_button.edge_llm_ask"
        await shown.ask(button)  # nothing has been typed: nothing is asked
        await listens(shown, stage.client)
        before = len(await shown.ask("calls"))

        async def calls(number: int) -> Any:
            """Wait until so many have been made."""
            made = await shown.wait_for(lambda calls: len(calls) >= before + number, "calls")
            return made[before:]

        await shown.ask(f"type input_text.edge_llm_question {QUESTION}")
        await shown.ask(button)
        said = QUESTION.removeprefix("say ")
        [told, spoken] = await calls(2)
        assert told == notification("The oracle says", said)
        assert spoken[0] == "tts.speak"
        assert spoken[1]["message"] == said
        assert stage.engine.asked == [QUESTION]

        await shown.ask("type input_text.edge_llm_question fail now")
        await shown.ask(button)
        [*_, told] = await calls(3)
        assert told == notification("The oracle does not answer", "it was told to fail")

        stage.client.publish("llm/node/stage/health", FULL.model_dump_json(), retain=True)
        [*_, told] = await calls(4)
        attention = str(FULL.attention)
        assert told == notification("The oracle needs somebody", attention, "attention")


async def listens(shown: HomeAssistant, client: RawClient) -> None:
    """Wait until its automation hears answers: it subscribes when it has time."""
    while not await shown.ask("calls"):
        client.publish(ANSWER, '{"text": "Can you hear me?"}')
        await asyncio.sleep(POLL_S)
    client.publish(ANSWER, '{"text": "Well."}')
    await shown.wait_for(lambda calls: calls[-1][1]["message"] == "Well.", "calls")
    await shown.wait_for(lambda calls: calls[-1][0] == "tts.speak", "calls")
