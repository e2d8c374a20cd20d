"""``edge-llm http``: HTTP on one machine, the node on another one, the broker between them."""

import asyncio
import signal
import sys
import time
from collections.abc import AsyncGenerator, Awaitable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import openai
import pytest

from tests.brokers import Mosquitto, Proxy
from tests.clients import eventually
from tests.programs import free_port
from tests.prompted_engine import PromptedEngine
from tests.remote import paced_node
from tests.stage import serving

EDGE_LLM = Path(sys.executable).parent / "edge-llm"
OFFLINE = (503, "node_offline", "true")


class HttpDoor:
    """A running ``edge-llm http``, and the clients of those who use it."""

    def __init__(self, process: asyncio.subprocess.Process, port: int, log: Path) -> None:
        self.process, self.log = process, log
        self.url = f"http://127.0.0.1:{port}"
        self.openai = openai.AsyncOpenAI(base_url=f"{self.url}/v1", api_key="-", max_retries=0)

    async def health(self) -> tuple[int, dict[str, Any]]:
        async with (
            aiohttp.ClientSession() as http,
            http.get(f"{self.url}/health/ready") as response,
        ):
            return response.status, await response.json()

    async def wait_for_state(self, state: str) -> dict[str, Any]:
        deadline = time.monotonic() + 15
        while (health := await self.health())[1]["state"] != state:
            assert time.monotonic() < deadline, health
            await asyncio.sleep(0.05)
        return health[1]

    async def ask(self, prompt: str, model: str = "tiny") -> str:
        completion = await self.openai.chat.completions.create(
            model=model, messages=[{"role": "user", "content": prompt}]
        )
        return completion.choices[0].message.content or ""


async def error_of(question: Awaitable[str]) -> tuple[int, str | None, str]:
    """Return status, code and whether to ask again."""
    with pytest.raises(openai.APIStatusError) as caught:
        await question
    again = caught.value.response.headers["X-Should-Retry"]
    return caught.value.status_code, caught.value.code, again


@asynccontextmanager
async def http_door(mqtt_port: int, directory: Path, *arguments: str) -> AsyncGenerator[HttpDoor]:
    port, log = free_port(), directory / "http.log"
    with log.open("w") as file:
        process = await asyncio.create_subprocess_exec(
            *(str(EDGE_LLM), "http", "--port", str(mqtt_port), "--http-port", str(port)),
            *arguments,
            stderr=file,
        )
    try:
        await eventually(lambda: "http.started" in log.read_text(), 20, log.read_text)
        door = HttpDoor(process, port, log)
        async with door.openai:
            yield door
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


@pytest.mark.parametrize("arguments", [(), ("--node", "stage")], ids=["any", "stage"])
async def test_openais_client_talks_to_a_node_behind_the_broker(
    mosquitto: Mosquitto, tmp_path: Path, arguments: tuple[str, ...]
) -> None:
    settings = mosquitto.broker().settings()
    async with (
        serving(settings, PromptedEngine()),
        http_door(mosquitto.port, tmp_path, *arguments) as door,
    ):
        health = await door.wait_for_state("ready")
        assert health["node"] == (arguments[1] if arguments else "any")
        assert [model["id"] for model in health["models"]] == ["tiny"]
        assert [model.id async for model in await door.openai.models.list()] == ["tiny"]
        assert await door.ask("say Good evening") == "Good evening"
        stream = await door.openai.chat.completions.create(
            model="tiny",
            messages=[{"role": "user", "content": "say Good evening to you"}],
            stream=True,
            stream_options={"include_usage": True},
        )
        chunks = [chunk async for chunk in stream]
        texts = [chunk.choices[0].delta.content for chunk in chunks if chunk.choices]
        assert [text for text in texts if text] == ["Good", " evening", " to", " you"]
        assert chunks[-1].usage
        assert chunks[-1].usage.completion_tokens == 4
        with pytest.raises(openai.NotFoundError, match="gpt-4"):
            await door.ask("Hi", model="gpt-4")
        door.process.send_signal(signal.SIGTERM)
        assert await door.process.wait() == 0
        assert "Traceback" not in door.log.read_text()


async def test_a_node_that_goes_is_told_at_once_and_one_that_comes_serves_again(
    mosquitto: Mosquitto, tmp_path: Path
) -> None:
    settings = mosquitto.broker().settings()
    async with (
        Proxy(mosquitto.port) as proxy,
        http_door(mosquitto.port, tmp_path, "--node", "stage") as door,
    ):
        assert await error_of(door.ask("say Hello")) == OFFLINE  # none was ever there
        engine = PromptedEngine()
        behind = settings.model_copy(update={"port": proxy.port, "stop_timeout_s": 0.0})
        async with serving(behind, engine):
            await door.wait_for_state("ready")
            assert await door.ask("say Hello") == "Hello"
            in_mid_reply = asyncio.create_task(door.ask("hold the line"))
            await eventually(lambda: engine.num_running)
            proxy.refuses = True
            proxy.cut()
            begin = time.monotonic()
            assert await error_of(in_mid_reply) == OFFLINE
            assert await error_of(door.ask("say Hello")) == OFFLINE
            assert time.monotonic() - begin < 2
            assert (await door.health())[0] == 503
            proxy.refuses = False
            await door.wait_for_state("ready")
            assert await door.ask("say Hello again") == "Hello again"


async def test_without_a_broker_it_starts_and_says_so(tmp_path: Path) -> None:
    async with http_door(free_port(), tmp_path) as door:
        assert (await door.health())[0] == 503
        assert await error_of(door.ask("say Hello")) == (503, "broker_unavailable", "true")
        door.process.send_signal(signal.SIGINT)
        assert await door.process.wait() == 0


async def test_a_real_node_is_killed_and_comes_back(mosquitto: Mosquitto, tmp_path: Path) -> None:
    async with http_door(mosquitto.port, tmp_path, "--node", "pi5") as door:
        for _ in range(2):
            with paced_node(mosquitto.port, tmp_path, tokens_per_s="100", text="Good day") as node:
                await door.wait_for_state("ready")
                assert await door.ask("Hi", model="paced") == "Good day"
                node.kill()
                begin = time.monotonic()
                await door.wait_for_state("offline")  # as its will has come
                assert time.monotonic() - begin < 1
                assert await error_of(door.ask("Hi")) == OFFLINE
