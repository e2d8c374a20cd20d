"""A changed settings file, applied while the node runs."""

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.brokers import Mosquitto
from tests.clients import RawClient, eventually
from tests.programs import running

BEFORE = """
node = "stage"
[http]
enabled = false
[engine]
kind = "paced"
[engine.paced]
text = "Here I am, and it takes me a while."
ttft_s = 0.02
tokens_per_s = 20
[[route]]
topic = "button/old"
respond_to = "speaker/old"
prompt = "x"
"""
AFTER = BEFORE.replace("old", "new") + '[preset.oracle]\nprompt = "What do you see?"\n'
COMMAND = "llm/node/stage/command"


@contextmanager
def node(mosquitto: Mosquitto, config: Path) -> Iterator[subprocess.Popen[bytes]]:
    config.write_text(BEFORE)
    env = {
        **os.environ,
        "EDGE_LLM_MQTT__PORT": str(mosquitto.port),
        "EDGE_LLM_STORE__DIRECTORY": str(config.parent),
        "EDGE_LLM_LOG__FORMAT": "json",
    }
    command = [sys.executable, "-m", "edge_llm", "serve", "--config", str(config)]
    with running(command, config.with_suffix(".log"), lambda: True, env) as process:
        yield process


def logged(config: Path, event: str) -> list[dict[str, object]]:
    lines = config.with_suffix(".log").read_text().splitlines()
    return [entry for line in lines if (entry := json.loads(line))["event"] == event]


async def press(client: RawClient, which: str, count: int) -> list[bytes]:
    client.publish(f"button/{which}", b"x")
    return await client.wait_for(f"speaker/{which}", count)


async def test_sighup_and_reload_apply_the_file_without_dropping_a_request(
    mosquitto: Mosquitto, tmp_path: Path
) -> None:
    config = tmp_path / "edge-llm.toml"
    async with mosquitto.broker().client() as client:
        await client.subscribe("speaker/#", "llm/#")
        with node(mosquitto, config) as process:
            await client.wait_for("llm/node/stage/status", timeout_s=20)
            await press(client, "old", 1)
            client.publish("llm/request/a", "while it changes")
            await client.wait_for("llm/node/stage/activity", 2)
            config.write_text(AFTER)
            process.send_signal(signal.SIGHUP)
            await eventually(lambda: logged(config, "settings.reloaded"))
            await client.wait_for("llm/response/a")
            await press(client, "new", 1)
            client.publish("button/old", b"x")
            # Back again, this time over MQTT.
            config.write_text(BEFORE)
            client.publish(COMMAND, b"reload")
            await eventually(lambda: len(logged(config, "settings.reloaded")) == 2)
            await press(client, "old", 2)
            assert len(client.payloads("speaker/old")) == 2
            infos = [json.loads(info) for info in client.payloads("llm/node/stage/info")]
            assert ["oracle"] in [info["presets"] for info in infos]
            assert infos[-1]["presets"] == []


async def test_a_wrong_file_changes_nothing_and_is_told(
    mosquitto: Mosquitto, tmp_path: Path
) -> None:
    config = tmp_path / "edge-llm.toml"
    async with mosquitto.broker().client() as client:
        await client.subscribe("speaker/#", "llm/#")
        with node(mosquitto, config) as process:
            await client.wait_for("llm/node/stage/status", timeout_s=20)
            config.write_text(BEFORE.replace("speaker/old", "button/old"))
            process.send_signal(signal.SIGHUP)
            [error] = await client.wait_for("llm/node/stage/error")
            assert "would never stop" in json.loads(error)["message"]
            assert logged(config, "settings.refused")
            await press(client, "old", 1)
            client.publish(COMMAND, b"explode")
            error = (await client.wait_for("llm/node/stage/error", 2))[1]
            message = json.loads(error)["message"]
            assert "no command 'explode' (there are: drain, pause, " in message
            client.publish(COMMAND, b"reload", retain=True)  # an old command is none
            config.write_text(BEFORE.replace('kind = "paced"', 'kind = "paced"\nmax_tokens = 3'))
            process.send_signal(signal.SIGHUP)
            await eventually(lambda: logged(config, "settings.reloaded"))
            assert logged(config, "settings.reloaded")[0]["changed_after_restart_only"] == [
                "engine"
            ]
            await asyncio.sleep(0)
