"""The health of a whole node, as `mosquitto_sub` and whoever commands it see it."""

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from edge_llm.protocol import NodeHealth
from tests.brokers import Mosquitto
from tests.clients import RawClient, eventually
from tests.test_cli import EDGE_LLM

pytestmark = pytest.mark.timeout(120)

HEALTH, ACTIVITY, ERROR, COMMAND = (
    f"llm/node/stage/{name}" for name in ("health", "activity", "error", "command")
)


def start(config: Path, port: int) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "EDGE_LLM_MQTT__PORT": str(port)}
    with config.with_suffix(".log").open("wb") as log:
        return subprocess.Popen(
            [EDGE_LLM, "serve", "--config", str(config)], stdout=log, stderr=log, env=environment
        )


@contextlib.asynccontextmanager
async def serve(
    mosquitto: Mosquitto, folder: Path, settings: str = ""
) -> AsyncIterator[tuple[RawClient, int]]:
    """Start a node; give a client that hears it, and the process id."""
    config = folder / "edge-llm.toml"
    config.write_text(
        f'node = "stage"\n{settings}\n[http]\nenabled = false\n'
        f'[store]\ndirectory = "{folder}"\n[engine]\ntemperature = 0\n'
    )
    process = start(config, mosquitto.port)
    async with RawClient(mosquitto.port) as client:
        await client.subscribe("llm/#")
        try:
            await eventually(lambda: b"idle" in client.payloads(ACTIVITY), 60)
            yield client, process.pid
        finally:
            process.send_signal(signal.SIGTERM)
            assert await asyncio.to_thread(process.wait, 40) == 0


def latest(client: RawClient) -> dict[str, Any]:
    health: dict[str, Any] = json.loads(client.payloads(HEALTH)[-1])
    return health


def listen(mosquitto: Mosquitto, *arguments: str) -> list[str]:
    """Run mosquitto_sub as a maker would, until it has a message."""
    command = ["mosquitto_sub", "-p", str(mosquitto.port), "-C", "1", "-W", "10", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=20)
    return done.stdout.splitlines()


async def test_a_plain_client_reads_the_health(mosquitto: Mosquitto, tmp_path: Path) -> None:
    async with serve(mosquitto, tmp_path) as (client, _):
        client.publish("llm/request/a", '{"prompt": "Who are you?"}')
        client.publish("llm/request/b", '{"prompt": ""}')
        await client.wait_for("llm/response/a")
        await client.wait_for("llm/response/b")
        client.publish(COMMAND, "pause")  # a change of state, so it is said at once
        await eventually(lambda: latest(client)["queue"]["holds"] == ["paused"], 5)
        [line] = await asyncio.to_thread(listen, mosquitto, "-t", HEALTH)
        health = NodeHealth.model_validate_json(line)
        assert health.node == "stage"
        assert (health.state, health.activity) == ("ready", "paused")
        assert (health.heat, health.card, health.attention) == (None, None, None)
        assert health.host
        assert health.host.memory_total_mib
        assert health.host.memory_total_mib > 100
        assert health.host.age_s < 60
        assert health.queue.limit == 16
        # What was never taken in hand is no request of the engine's.
        assert health.counts.requests == {"stop": 1}
        assert health.counts.completion_tokens > 3
        assert health.tokens_per_s
        [retained] = await asyncio.to_thread(listen, mosquitto, "-F", "%r %t", "-t", HEALTH)
        assert retained == f"1 {HEALTH}"
        [expires] = await asyncio.to_thread(
            listen, mosquitto, "-V", "mqttv5", "-F", "%E", "-t", HEALTH
        )
        assert 60 < int(expires) <= 90


async def test_a_node_does_what_it_is_told(mosquitto: Mosquitto, tmp_path: Path) -> None:
    async with serve(mosquitto, tmp_path) as (client, _):
        client.publish(COMMAND, "pause")
        await eventually(lambda: client.payloads(ACTIVITY)[-1] == b"paused", 5)
        client.publish("llm/request/a", "Hello!")
        await asyncio.sleep(0.3)
        assert not client.payloads("llm/response/a")
        client.publish(COMMAND, "resume")
        await client.wait_for("llm/response/a")
        client.publish(COMMAND, "drain")
        await eventually(lambda: client.payloads(ACTIVITY)[-1] == b"draining", 5)
        client.publish("llm/request/b", '{"prompt": "Hello!"}')
        [refused] = await client.wait_for("llm/response/b")
        assert json.loads(refused)["error"]["code"] == "draining"
        client.publish(COMMAND, "resume")
        await eventually(lambda: client.payloads(ACTIVITY)[-1] == b"idle", 5)
        client.publish("llm/request/c", "Hello!")
        await client.wait_for("llm/response/c")
        for number, command in enumerate(("reboot_card", "jump", "{"), 1):
            client.publish(COMMAND, command)
            error = (await client.wait_for(ERROR, number))[-1]
            assert json.loads(error)["code"] == "invalid_request"
        assert b"no card" in client.payloads(ERROR)[0]


async def test_commands_can_be_switched_off(mosquitto: Mosquitto, tmp_path: Path) -> None:
    settings = '[mqtt]\ncommands = ["reload"]'
    async with serve(mosquitto, tmp_path, settings) as (client, _):
        for number, command in enumerate(("pause", "drain", "resume", "reboot_card"), 1):
            client.publish(COMMAND, command)
            error = (await client.wait_for(ERROR, number))[-1]
            assert "switched off (mqtt.commands)" in json.loads(error)["message"]
        client.publish("llm/request/a", "Hello!")
        await client.wait_for("llm/response/a")


async def test_a_death_is_told_step_by_step(mosquitto: Mosquitto, tmp_path: Path) -> None:
    async with serve(mosquitto, tmp_path) as (client, pid):
        num_before = len(client.payloads(HEALTH))
        [worker] = psutil.Process(pid).children()
        began = time.monotonic()
        worker.kill()
        await eventually(lambda: client.payloads(ACTIVITY)[-1] == b"recovering", 5)
        told_after_s = time.monotonic() - began
        client.publish("llm/request/a", "Hello!")
        await client.wait_for("llm/response/a", timeout_s=60)
        told = [json.loads(line) for line in client.payloads(HEALTH)[num_before:]]
        assert [health["state"] for health in told][-1] == "ready"
        assert {health["state"] for health in told} == {"recovering", "ready"}
        [step] = {
            (health["recovery"]["step"], health["recovery"]["reason"])
            for health in told
            if health["recovery"]
        }
        assert step[0] == "restart"
        assert "SIGKILL" in step[1]
        assert told[-1]["recovery"]["is_over"]
        assert told[-1]["counts"]["restarts"] == told[-1]["counts"]["recoveries"] == 1
        assert told[-1]["last_fault"]["code"] == "engine_failed"
        assert told_after_s < 5
        assert psutil.Process(pid).children() != [worker]
