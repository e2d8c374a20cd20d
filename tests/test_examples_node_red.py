"""``examples/node-red`` in a real Node-RED, as it is shipped: one start for all flows."""

import asyncio
import itertools
import json
import os
import shutil
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.brokers import Mosquitto
from tests.clients import RawClient, eventually
from tests.home_assistant import FULL
from tests.programs import HOST, POLL_S, accepts, free_port, require_npm, running
from tests.stage import Stage, open_stage

VERSION = "4.1.15"
EXAMPLES = Path(__file__).parent.parent / "examples" / "node-red"
FILES = {"mqtt5.json", "mqtt311.json", "display.json", "health.json"}
STORY = "Once there was a fox in the hall. It was red, and it was tired of walking. The end came."
FAILED = "internal: it was told to fail"
TIMEOUT_S = 15.0
TIMEOUT = aiohttp.ClientTimeout(total=TIMEOUT_S)


def set_up(directory: Path, port: int) -> None:
    """Import the files, as the editor does: their nodes, one after the other."""
    files = sorted(EXAMPLES.glob("*.json"))
    assert {file.name for file in files} == FILES
    nodes = [node for file in files for node in json.loads(file.read_text())]
    assert len({node["id"] for node in nodes}) == len(nodes), "two files can't be imported together"
    (directory / "flows.json").write_text(json.dumps(nodes))
    settings = {
        "uiPort": port,
        "uiHost": HOST,
        "flowFile": "flows.json",
        "credentialSecret": False,
        "externalModules": {"palette": {"allowInstall": False}},
        "telemetry": {"enabled": False, "updateNotification": False},
    }
    (directory / "settings.js").write_text(f"module.exports = {json.dumps(settings)}")


class NodeRed:
    """A Node-RED that runs."""

    def __init__(self, port: int, http: aiohttp.ClientSession) -> None:
        self._url = f"http://{HOST}:{port}"
        self._http = http

    async def post(self, path: str, question: str | dict[str, Any]) -> tuple[int, str, str]:
        """Return the status, the content type, and the body."""
        body = {"json": question} if isinstance(question, dict) else {"data": question}
        async with self._http.post(f"{self._url}{path}", timeout=TIMEOUT, **body) as response:
            return response.status, response.content_type, await response.text()

    async def get(self, path: str) -> str:
        async with self._http.get(f"{self._url}{path}", timeout=TIMEOUT) as response:
            assert response.status == 200
            return await response.text()

    async def press(self, inject: str) -> None:
        async with self._http.post(f"{self._url}/inject/{inject}", timeout=TIMEOUT) as response:
            assert response.status == 200


@asynccontextmanager
async def node_red(mqtt_port: int, directory: Path) -> AsyncGenerator[NodeRed]:
    red = await asyncio.to_thread(require_npm, "node-red", VERSION)
    node = shutil.which("node") or "node"
    port = free_port()
    set_up(directory, port)
    command = [node, str(red / "red.js"), "-u", str(directory)]
    log = directory / "node-red.log"
    environment = os.environ | {"MQTT_HOST": HOST, "MQTT_PORT": str(mqtt_port)}

    def is_ready() -> bool:
        return accepts(port) and log.read_text().count("Connected to broker") == len(FILES)

    async with aiohttp.ClientSession() as http:
        with running(command, log, is_ready, environment):
            yield NodeRed(port, http)
            assert "[error]" not in log.read_text()


@pytest.mark.timeout(240)  # with installing it
async def test_the_flows_do_what_their_page_says(mosquitto: Mosquitto, tmp_path: Path) -> None:
    broker = mosquitto.broker()
    async with (
        open_stage(broker, report=lambda: FULL) as stage,
        broker.client() as display,
        node_red(mosquitto.port, tmp_path) as red,
    ):
        await display.subscribe("installation/display/#")
        await mqtt5_asks_and_is_answered(red, stage)
        await mqtt311_asks_and_is_answered(red)
        await a_display_grows(red, display, stage)
        await the_health_is_shown(red, stage)


async def mqtt5_asks_and_is_answered(red: NodeRed, stage: Stage) -> None:
    # A text stays one, though it looks like a number: by its content type.
    assert await red.post("/ask", "say 42") == (200, "text/plain", "42")
    status, kind, body = await red.post("/ask", {"prompt": "say Good evening."})
    assert (status, kind) == (200, "application/json")
    assert json.loads(body)["text"] == "Good evening."
    status, _, body = await red.post("/ask", {"prompt": "fail now"})
    assert status == 502
    assert json.loads(body)["error"]["code"] == "internal"
    assert await red.post("/ask", "fail now") == (502, "text/plain", FAILED)
    questions = [f"say {number}" for number in range(8)]
    replies = await asyncio.gather(*(red.post("/ask", question) for question in questions))
    assert [body for _, _, body in replies] == [question[4:] for question in questions]
    await red.press("mqtt5-button")
    await eventually(lambda: "Who are you?" in stage.engine.asked, TIMEOUT_S)
    assert not stage.client.payloads("llm/node/stage/error")


async def mqtt311_asks_and_is_answered(red: NodeRed) -> None:
    assert await red.post("/ask311", "say 42") == (200, "text/plain", "42")
    status, _, body = await red.post("/ask311", "fail now")
    assert (status, body) == (502, FAILED)
    replies = await asyncio.gather(*(red.post("/ask311", f"say {n}") for n in range(8)))
    assert [body for _, _, body in replies] == list("01234567")


async def a_display_grows(red: NodeRed, display: RawClient, stage: Stage) -> None:
    shown = "installation/display"
    display.publish("installation/question", f"say {STORY}")
    await eventually(lambda: display.payloads(shown)[-1:] == [STORY.encode()], TIMEOUT_S)
    sentences = [payload.decode() for payload in display.payloads(f"{shown}/sentence")]
    assert len(sentences) >= 2
    assert " ".join(sentences) == STORY
    grown = [payload.decode() for payload in display.payloads(shown)]
    assert all(later.startswith(earlier) for earlier, later in itertools.pairwise(grown))
    display.publish("installation/question", "hold on for a while")
    await eventually(lambda: "hold on for a while" in stage.engine.asked, TIMEOUT_S)
    await red.press("display-stop")
    await eventually(lambda: not stage.engine.num_running, TIMEOUT_S)
    stage.engine.release.set()
    await red.press("display-button")
    await eventually(lambda: display.payloads(shown)[-1] == b"Tell me a story.", TIMEOUT_S)


async def the_health_is_shown(red: NodeRed, stage: Stage) -> None:
    async def page_with(text: str, times: int = 1) -> str:
        deadline = asyncio.get_running_loop().time() + TIMEOUT_S
        while (page := await red.get("/llm")).count(text) != times:
            assert asyncio.get_running_loop().time() < deadline, page
            await asyncio.sleep(POLL_S)
        return page

    page = await page_with("<td>stage<td>idle")
    assert '<meter min="20" low="70" high="80" max="90" value="71.25">' in page
    assert "<td>3<td>4.21<td>Look at the card&#39;s" in page
    assert "<slot>" not in page  # which stands in what a person is asked to do
    garden = {"status": "online", "activity": "cooling", "health": FULL.model_dump_json()}
    for name, payload in garden.items():
        stage.client.publish(f"llm/node/garden/{name}", payload, retain=True)
    page = await page_with("<td>garden<td>cooling")
    assert "false" not in page
    assert "null" not in page
    await page_with('value="71.25"></meter> 71.25 °C\n<td>3<td>4.21<td>Look', 2)
    stage.client.publish("llm/node/garden/status", b"offline", retain=True)
    page = await page_with("<td>garden<td>offline")
    assert page.count("<meter") == 1  # what a node said before it went says nothing of it now
