"""``edge-llm http --fleet``: several doors in front of one fleet, as behind a load balancer."""

import asyncio
import sys
import time
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import aiohttp
import openai
import pytest

from bridges.http import open_http
from edge_llm.client import RemoteEngine
from edge_llm.plugin import BridgeContext
from edge_llm.preset import Presets
from edge_llm.protocol import MqttRequest
from edge_llm.settings import HttpSettings, MqttSettings
from tests.brokers import Proxy
from tests.clients import eventually
from tests.fleet_stage import QUICK, fleet_mqtt, fleet_node
from tests.nats import NatsServer, nats_servers
from tests.programs import free_port

SPEAKS = {"text": "one two three four five six", "ttft_s": 0.1, "tokens_per_s": 20}
PAGELESS = {"http": {"enabled": False}}
READY = {**PAGELESS, "engine": {"kind": "paced", "paced": QUICK}}
BUILT_IN = {**PAGELESS, "engine": {"kind": "worker"}}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NatsServer]:
    with nats_servers(tmp_path_factory.mktemp("nats")) as [server]:
        yield server


class Door:
    """One of them, and a client of it."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.openai = openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="-", max_retries=0)

    async def ask(self, prompt: str = "Who are you?", model: str = "paced", **how: Any) -> Any:
        completion = await self.openai.chat.completions.create(
            model=model, messages=[{"role": "user", "content": prompt}], **how
        )
        return completion if how else completion.choices[0].message.content

    async def models(self) -> list[str]:
        return sorted([model.id async for model in self.openai.models.list()])

    async def state(self) -> tuple[int, str]:
        url = f"{self.url}/health/ready"
        async with aiohttp.ClientSession() as http, http.get(url) as response:
            return response.status, (await response.json())["state"]

    async def becomes(self, *wanted: object) -> None:
        deadline = time.monotonic() + 8
        while (state := await self.state()) != wanted:
            assert time.monotonic() < deadline, state
            await asyncio.sleep(0.02)


@asynccontextmanager
async def open_door(mqtt: MqttSettings) -> AsyncGenerator[Door]:
    """Open one as the command does, in this process."""
    remote = RemoteEngine(mqtt, connect_timeout_s=2, retries=0, is_fleet=True)
    context = BridgeContext("fleet", remote, mqtt, Presets, is_in_fleet=True)
    async with remote, open_http(HttpSettings(port=0), context) as http:
        door = Door(http.url)
        async with door.openai:
            yield door


@pytest.fixture
async def doors(server: NatsServer) -> AsyncIterator[tuple[Door, Door]]:
    mqtt = fleet_mqtt(server)
    async with open_door(mqtt) as first, open_door(mqtt) as second:
        yield first, second


async def test_nodes_come_and_go_behind_any_number_of_doors(
    server: NatsServer, doors: tuple[Door, Door]
) -> None:
    for door in doors:
        await door.becomes(503, "offline")
        with pytest.raises(openai.APIStatusError) as caught:
            await door.ask()
        assert (caught.value.status_code, caught.value.code) == (503, "node_offline")
    async with fleet_node(server, "a", **READY) as a:
        for door in doors:
            await door.becomes(200, "ready")
        async with fleet_node(server, "b", **READY) as b:
            asked = [door.ask() for door in doors for _ in range(10)]
            assert await asyncio.gather(*asked) == ["Good evening."] * 20
            shares = [node.engine.stats.counts().requests["stop"] for node in (a, b)]
            assert sum(shares) == 20
            assert min(shares) >= 5, shares
            view = (await get_json_at(doors[0], "/status"))["state"]["fleet"]
            assert [(node["node"], node["joined"]) for node in view["nodes"]] == [
                ("a", True),
                ("b", True),
            ]
        # One is left, and serves both doors.
        for door in doors:
            assert await door.ask() == "Good evening."
            await door.becomes(200, "ready")
    for door in doors:
        await door.becomes(503, "offline")


async def get_json_at(door: Door, path: str) -> Any:
    async with aiohttp.ClientSession() as http, http.get(f"{door.url}{path}") as response:
        return await response.json()


async def test_a_request_reaches_a_node_that_has_its_model(
    server: NatsServer, doors: tuple[Door, Door]
) -> None:
    async with fleet_node(server, "a", **READY) as a, fleet_node(server, "b", **BUILT_IN) as b:
        await b.engine.ready()
        [built_in] = [model.id for model in b.engine.models]
        for door in doors:
            await eventually_async(door.models, sorted([built_in, "paced"]))
        asked = [door.ask(model="paced") for door in doors for _ in range(3)]
        other = [door.ask("Who are you?", model=built_in, max_tokens=4) for door in doors]
        answers, completions = await asyncio.gather(asyncio.gather(*asked), asyncio.gather(*other))
        assert answers == ["Good evening."] * 6
        assert {completion.model for completion in completions} == {built_in}
        assert [sum(node.engine.stats.counts().requests.values()) for node in (a, b)] == [6, 2]
        with pytest.raises(openai.NotFoundError) as caught:
            await doors[0].ask(model="nobody-has-this")
        assert caught.value.code == "model_not_found"


async def eventually_async(call: Any, wanted: Any) -> None:
    deadline = time.monotonic() + 8
    while (found := await call()) != wanted:
        assert time.monotonic() < deadline, found
        await asyncio.sleep(0.02)


async def test_a_node_that_leaves_is_replaced_behind_the_door(server: NatsServer) -> None:
    """The stream goes on where it was: with the same seed another node says the same."""
    speaking = {**PAGELESS, "engine": {"kind": "paced", "paced": SPEAKS}}
    async with RemoteEngine(fleet_mqtt(server), is_fleet=True) as remote:
        async with fleet_node(server, "a", **speaking):
            asking = asyncio.create_task(remote.ask("Who are you?"))
            await eventually(lambda: any(asked.reading._said for asked in remote._asked.values()))
        assert not asking.done()
        async with fleet_node(server, "b", **speaking):
            assert await asyncio.wait_for(asking, 8) == SPEAKS["text"]


async def test_a_door_that_lost_its_connection_asks_anew(server: NatsServer) -> None:
    text = "and so on " * 12  # longer than it takes to connect again
    speaking = {**PAGELESS, "engine": {"kind": "paced", "paced": {**SPEAKS, "text": text}}}
    async with Proxy(server.mqtt_port) as proxy:
        mqtt = fleet_mqtt(server).model_copy(update={"port": proxy.port})
        async with (
            fleet_node(server, "a", **speaking) as a,
            RemoteEngine(mqtt, is_fleet=True) as remote,
        ):
            asking = asyncio.create_task(remote.ask("Who are you?"))
            await eventually(lambda: any(asked.reading._said for asked in remote._asked.values()))
            proxy.cut()
            assert await asyncio.wait_for(asking, 8) == text.strip()
            await eventually(lambda: not a.engine.health().running)
            assert a.engine.stats.counts().requests == {"cancelled": 1, "stop": 1}


async def test_a_node_can_still_be_meant(server: NatsServer) -> None:
    async with (
        fleet_node(server, "a", **READY) as a,
        fleet_node(server, "b", **READY) as b,
        RemoteEngine(fleet_mqtt(server), is_fleet=True) as remote,
    ):
        for _ in range(4):
            assert [event async for event in remote.generate(MqttRequest(prompt="x", node="b"))]
        assert [sum(node.engine.stats.counts().requests.values()) for node in (a, b)] == [0, 4]


async def test_the_command_is_such_a_door(server: NatsServer, tmp_path: Path) -> None:
    port, log = free_port(), tmp_path / "http.log"
    command = (sys.executable, "-m", "edge_llm", "http", "--fleet", "--http-port", str(port))
    start = partial(asyncio.create_subprocess_exec, *command, "--port", str(server.mqtt_port))
    async with fleet_node(server, "a", **READY):
        with log.open("w") as file:
            process = await start(stderr=file)
        try:
            await eventually(lambda: "http.started" in log.read_text(), 20, log.read_text)
            door = Door(f"http://127.0.0.1:{port}")
            async with door.openai:
                await door.becomes(200, "ready")
                assert await door.ask() == "Good evening."
        finally:
            process.terminate()
            await process.wait()
