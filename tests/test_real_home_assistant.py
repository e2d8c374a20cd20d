"""Home Assistant itself, in an environment of its own: what it makes of an announcement.

It is the real thing from the announcement on the broker to the states that people see: its schemas,
its templates, its MQTT client. Not run are its web server, and what draws the states.
"""

import asyncio
import json
import re
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, get_args

import pytest

from bridges.home_assistant import remove_from_home_assistant
from edge_llm.protocol import Timing, Usage
from edge_llm.settings import Command, HomeAssistantSettings
from tests.brokers import Mosquitto
from tests.clients import RawClient
from tests.environments import require_python
from tests.home_assistant import (
    ACTIVITY,
    BARE,
    COMMAND,
    CONFIG,
    FULL,
    HEALTH,
    JAPANESE,
    LAST_ANSWER,
    STATUS,
    announced,
    hurry,
)
from tests.stage import open_stage, retained

DOCUMENTATION = Path(__file__).parent.parent / "docs" / "home-assistant.md"
SCRIPT = Path(__file__).parent / "real_servers" / "home_assistant.py"
START_TIMEOUT_S = 60.0
TIMEOUT_S = 15.0
POLL_S = 0.05
SENSOR, BINARY, BUTTON = (
    f"{kind}.edge_llm_stage_" for kind in ("sensor", "binary_sensor", "button")
)
SHOWN = {
    f"{SENSOR}activity": ("loading", "loading"),
    f"{SENSOR}state": ("ready", "loading"),
    f"{SENSOR}heat": ("warn", "unknown"),
    f"{SENSOR}temperature": ("71.25", "unknown"),
    f"{SENSOR}npu": ("98.0", "unknown"),
    f"{SENSOR}card_cpu": ("3.0", "unknown"),
    f"{SENSOR}cmm_used": ("5120", "unknown"),
    f"{SENSOR}cmm_free": ("1920", "unknown"),
    f"{SENSOR}cmm_total": ("7040", "unknown"),
    f"{SENSOR}speed": ("4.21", "unknown"),
    f"{SENSOR}queue": ("3", "0"),
    f"{SENSOR}requests": ("43", "0"),
    f"{SENSOR}generated_tokens": ("2500", "0"),
    f"{SENSOR}worker_restarts": ("1", "0"),
    f"{SENSOR}recoveries": ("1", "0"),
    f"{SENSOR}host_temperature": ("55.0", "unknown"),
    f"{SENSOR}host_cpu": ("12.5", "unknown"),
    f"{SENSOR}host_memory_available": ("6000", "unknown"),
    f"{SENSOR}host_disk_free": ("90000", "unknown"),
    f"{SENSOR}last_answer": ("unknown", "unknown"),
    f"{BINARY}attention": ("on", "off"),
    f"{BINARY}host_throttled": ("on", "unknown"),
    f"{BINARY}card": ("on", "unknown"),
    # Never pressed; that which reboots the card is not shown until somebody enables it.
    **{f"{BUTTON}{name}": ("unknown",) * 2 for name in ("pause", "resume", "drain", "reload")},
}

pytestmark = pytest.mark.timeout(240)  # the first time, with the packages to be fetched


class HomeAssistant:
    """A Home Assistant that runs.

    Args:
        process: the script that is it.
    """

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    async def ask(self, question: str = "", timeout_s: float = TIMEOUT_S) -> Any:
        """Ask, or hear what it says first; see the script for what it answers."""
        assert self._process.stdin
        assert self._process.stdout
        if question:
            self._process.stdin.write(f"{question}\n".encode())
        return json.loads(await asyncio.wait_for(self._process.stdout.readline(), timeout_s))

    async def wait_for(self, is_right: Callable[[Any], object], question: str = "states") -> Any:
        """Ask until the answer is as it should be, and return it."""
        deadline = time.monotonic() + TIMEOUT_S
        while not is_right(said := await self.ask(question)):
            if time.monotonic() > deadline:
                shown = plain(said) if question == "states" else said
                pytest.fail(f"it says {shown}, and {await self.ask('complaints')}")
            await asyncio.sleep(POLL_S)
        return said


@asynccontextmanager
async def home_assistant(port: int, folder: Path) -> AsyncGenerator[HomeAssistant]:
    """Start a Home Assistant with its MQTT integration."""
    python = await asyncio.to_thread(
        require_python, SCRIPT.with_suffix(".txt"), version="3.13", only=True
    )
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(
        # -P: else "import home_assistant" would find the script, and more beside it.
        *(str(python), "-P", str(SCRIPT), str(port), str(folder)),
        stdin=pipe,
        stdout=pipe,
        limit=2**24,
    )
    try:
        running = HomeAssistant(process)
        assert await running.ask(timeout_s=START_TIMEOUT_S) == "ready"
        yield running
        assert await running.ask("complaints") == []
        process.stdin.close()  # type: ignore[union-attr] # it is a pipe
        assert await asyncio.wait_for(process.wait(), TIMEOUT_S) == 0
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


def plain(states: dict[str, Any]) -> dict[str, str]:
    return {name: state["state"] for name, state in states.items()}


async def say(client: RawClient, health: Any) -> None:
    client.publish(STATUS, b"online", retain=True)
    client.publish(ACTIVITY, b"loading 3/37", retain=True)
    client.publish(HEALTH, health.model_dump_json(), retain=True)


@pytest.fixture(autouse=True)
def nobody_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    hurry(monkeypatch)


async def test_home_assistant_shows_a_node_and_its_answers_and_presses_its_buttons(
    mosquitto: Mosquitto, tmp_path: Path
) -> None:
    mqtt = mosquitto.broker().settings()
    async with (
        mosquitto.broker().client() as client,
        announced(mqtt, commands=get_args(Command)) as stats,
        home_assistant(mosquitto.port, tmp_path) as shown,
    ):
        await client.subscribe(COMMAND, LAST_ANSWER)
        for number, health in enumerate((FULL, BARE, FULL)):
            await say(client, health)
            wanted = {name: both[number % 2] for name, both in SHOWN.items()}
            states = await shown.wait_for(lambda states, w=wanted: plain(states) == w)  # type: ignore[misc]
        attributes = states[f"{BINARY}attention"]["attributes"]
        assert attributes["attention"] == FULL.attention
        assert attributes["recovery_reason"] == "a step took 61 s"
        assert states[f"{SENSOR}requests"]["attributes"]["by_outcome"] == FULL.counts.requests
        temperature = states[f"{SENSOR}temperature"]["attributes"]
        assert temperature["unit_of_measurement"] == "°C"
        assert temperature["friendly_name"] == "edge-llm stage Temperature"

        name = f"{SENSOR}last_answer"
        stats.note("stop", Timing(total_s=2.5), Usage(completion_tokens=700), JAPANESE)
        states = await shown.wait_for(lambda states: states[name]["state"] != "unknown")
        assert len(states[name]["state"]) <= 255
        assert states[name]["attributes"]["text"] == JAPANESE
        assert states[name]["attributes"]["finish_reason"] == "stop"

        await shown.ask(f"press {BUTTON}pause")
        assert await client.wait_for(COMMAND) == [b"pause"]

        client.publish(STATUS, b"offline", retain=True)
        await shown.wait_for(lambda states: set(plain(states).values()) == {"unavailable"})


async def test_the_automations_of_the_documentation_work(
    mosquitto: Mosquitto, tmp_path: Path
) -> None:
    [block] = re.findall(r"```yaml\n(.*?)```", DOCUMENTATION.read_text(), re.DOTALL)
    broker = mosquitto.broker()
    async with (
        open_stage(broker) as stage,
        announced(broker.settings(), name="Oracle"),
        home_assistant(mosquitto.port, tmp_path) as shown,
    ):
        stage.engine.release.set()
        assert await shown.ask(f"configure {json.dumps(block)}")
        while not await shown.ask("calls"):  # it subscribes when it has time
            stage.client.publish("llm/response/homeassistant/hall", "Good morning.")
            await asyncio.sleep(POLL_S)
        await shown.ask("set binary_sensor.hall_motion off")
        await shown.ask("set binary_sensor.hall_motion on")
        greeting = "Greet a guest in one sentence. It is "
        calls = await shown.wait_for(lambda calls: greeting in str(calls), "calls")
        assert calls[-1][0] == "tts.speak"
        assert calls[-1][1]["message"].startswith(greeting)
        await say(stage.client, FULL)
        calls = await shown.wait_for(lambda calls: calls[-1][0] != "tts.speak", "calls")
        assert calls[-1] == ["persistent_notification.create", {"message": FULL.attention}]


async def test_home_assistant_follows_what_is_switched_off_and_forgets_what_is_removed(
    mosquitto: Mosquitto, tmp_path: Path
) -> None:
    mqtt = mosquitto.broker().settings()
    rare = {name for name in SHOWN if name.startswith(("button", f"{SENSOR}last_answer"))}
    async with mosquitto.broker().client() as client:
        await say(client, FULL)
        async with home_assistant(mosquitto.port, tmp_path) as shown:
            # Without reboot_card: as an entity that is not enabled goes, Home Assistant clears what
            # is cleared already, and complains of it.
            async with announced(mqtt, commands=("pause", "resume", "drain", "reload")):
                await shown.wait_for(lambda states: set(states) == set(SHOWN))
            async with announced(mqtt, last_answer=False, name="Oracle"):
                await shown.wait_for(lambda states: set(states) == set(SHOWN) - rare)
                assert await shown.ask("devices") == ["Oracle"]
            assert await remove_from_home_assistant(HomeAssistantSettings(), mqtt, "stage")
            await shown.wait_for(lambda states: not states)
            assert await shown.ask("devices") == []
    assert await retained(mosquitto.broker(), CONFIG) == []
