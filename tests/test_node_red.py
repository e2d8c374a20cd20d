"""A real Node-RED asks over MQTT 5, with its own nodes and without any of ours."""

import json
import shutil
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.brokers import Mosquitto
from tests.programs import HOST, accepts, free_port, require_npm, running
from tests.stage import open_stage

VERSION = "4.1.15"
FLOWS = Path(__file__).parent / "data" / "node_red" / "flows.json"


def set_up(directory: Path, mqtt_port: int, http_port: int) -> None:
    (directory / "flows.json").write_text(FLOWS.read_text().replace('"PORT"', f'"{mqtt_port}"'))
    settings = {
        "uiPort": http_port,
        "uiHost": HOST,
        "flowFile": "flows.json",
        "credentialSecret": False,
        "externalModules": {"palette": {"allowInstall": False}},
        "telemetry": {"enabled": False, "updateNotification": False},
    }
    (directory / "settings.js").write_text(f"module.exports = {json.dumps(settings)}")


@pytest.mark.timeout(240)  # with installing it
async def test_node_red_asks_and_is_answered(mosquitto: Mosquitto, tmp_path: Path) -> None:
    red = require_npm("node-red", VERSION) / "red.js"
    node = shutil.which("node") or "node"
    port = free_port()
    set_up(tmp_path, mosquitto.port, port)
    command = [node, str(red), "-u", str(tmp_path)]
    log = tmp_path / "node-red.log"

    def is_ready() -> bool:
        text = log.read_text()
        return accepts(port) and "Started flows" in text and "Connected to broker" in text

    async with open_stage(mosquitto.broker("5")) as stage, aiohttp.ClientSession() as http:
        with running(command, log, is_ready, None):

            async def ask(payload: object) -> dict[str, Any]:
                url = f"http://{HOST}:{port}/ask"
                timeout = aiohttp.ClientTimeout(total=10)
                async with http.post(url, json={"ask": payload}, timeout=timeout) as response:
                    body: dict[str, Any] = await response.json()
                    return body

            said = await ask("say 42")
            assert said["said"] == "42"  # a text, though it looks like a number: by its type
            assert said["contentType"] == "text/plain"
            assert said["properties"] == {"node": "stage", "finish_reason": "stop"}
            said = await ask({"prompt": "say Good evening."})
            assert said["said"]["text"] == "Good evening."
            assert said["contentType"] == "application/json"
            said = await ask({"prompt": "fail now"})
            assert said["properties"]["error"] == said["said"]["error"]["code"] == "internal"
            assert not stage.client.payloads("llm/node/stage/error")
