"""What a node keeps ready: personas for the first visitor, conversations for the next turn."""

import asyncio
import json
import os
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from tests.brokers import Mosquitto
from tests.clients import RawClient, eventually
from tests.programs import running

SETTINGS = """
node = "stage"
default_preset = "oracle"
[http]
enabled = false
[engine]
temperature = 0.0
max_tokens = 24
[preset.oracle]
system_prompt = "You are the oracle of the old fountain in the garden, and you answer in riddles."
[preset.robot]
system_prompt = "You are a robot in the hall who counts the visitors and tells them the number."
"""


@asynccontextmanager
async def node(mosquitto: Mosquitto, directory: Path) -> AsyncGenerator[RawClient]:
    config = directory / "edge-llm.toml"
    config.write_text(SETTINGS)
    env = {
        **os.environ,
        "EDGE_LLM_MQTT__PORT": str(mosquitto.port),
        "EDGE_LLM_STORE__DIRECTORY": str(directory),
    }
    command = [sys.executable, "-m", "edge_llm", "serve", "--config", str(config)]
    log = directory / "node.log"
    async with mosquitto.broker().client() as client:
        await client.subscribe("llm/response/#", "llm/node/stage/activity")
        with running(command, log, lambda: True, env):
            await eventually(lambda: "model.loaded" in log.read_text(), 30)
            await idle(client)
            yield client


async def idle(client: RawClient) -> None:
    """Wait as a visitor does who comes a moment later."""
    await eventually(lambda: client.payloads("llm/node/stage/activity")[-1:] == [b"idle"])
    for _ in range(6):
        await asyncio.sleep(0.1)


async def ask(client: RawClient, request_id: str, **request: Any) -> dict[str, Any]:
    client.publish(f"llm/request/{request_id}", json.dumps(request))
    [final] = await client.wait_for(f"llm/response/{request_id}", timeout_s=20)
    body: dict[str, Any] = json.loads(final)
    assert "error" not in body, body
    return body


async def test_the_first_visitor_of_each_persona_waits_as_little_as_the_tenth(
    mosquitto: Mosquitto, tmp_path: Path
) -> None:
    async with node(mosquitto, tmp_path) as client:
        shares = []
        for visitor in range(10):
            preset = ("oracle", "robot")[visitor % 2]
            final = await ask(client, f"v{visitor}", prompt=f"Who is {visitor}?", preset=preset)
            shares.append(final["usage"]["cached_tokens"] / final["usage"]["prompt_tokens"])
            await idle(client)
        print([round(share, 2) for share in shares])
        assert min(shares) >= 0.5  # the persona; a question has fewer tokens


async def test_a_tenth_turn_computes_no_more_than_the_second(
    mosquitto: Mosquitto, tmp_path: Path
) -> None:
    async with node(mosquitto, tmp_path) as client:
        computed = []
        for turn in range(10):
            final = await ask(client, f"t{turn}", prompt=f"What is {turn} plus 1?", session="booth")
            usage = final["usage"]
            computed.append(usage["prompt_tokens"] - usage["cached_tokens"])
            await idle(client)
        print(computed)
        assert max(computed[1:]) <= computed[1] + 2
