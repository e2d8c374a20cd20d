"""A fleet is commanded: nodes drain, go on, and are upgraded one by one under load."""

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest

from edge_llm.client import Roster
from edge_llm.client.orders import Upgrade, drain, resume
from edge_llm.errors import EdgeLLMError, ExpiredError, InvalidRequestError, NodeOfflineError
from tests.clients import RawClient, eventually
from tests.fleet_stage import QUICK, ask, end, fleet_mqtt, fleet_node, until_online
from tests.nats import NatsServer, nats_servers

EDGE_LLM = (sys.executable, "-m", "edge_llm")
PAGELESS = {"http": {"enabled": False}}
READY = {**PAGELESS, "engine": {"kind": "paced", "paced": QUICK}}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NatsServer]:
    with nats_servers(tmp_path_factory.mktemp("nats")) as [server]:
        yield server


@pytest.fixture
async def client(server: NatsServer) -> AsyncIterator[RawClient]:
    async with RawClient(server.mqtt_port, client_id="esp1") as client:
        await client.subscribe("llm/response/#")
        yield client


@pytest.fixture
async def roster(server: NatsServer) -> AsyncIterator[Roster]:
    async with Roster(fleet_mqtt(server)) as roster:
        yield roster


class Told(list[str]):
    """What the command said."""

    def __call__(self, words: str) -> None:
        self.append(words)


class Fleet:
    """Nodes that can be started again, each for itself."""

    def __init__(self, server: NatsServer, nodes: AsyncExitStack) -> None:
        self._server, self._nodes = server, nodes
        self._by_name: dict[str, AsyncExitStack] = {}

    async def start(self, name: str) -> None:
        self._by_name[name] = stack = AsyncExitStack()
        await stack.enter_async_context(fleet_node(self._server, name, **READY))
        self._nodes.push_async_callback(stack.aclose)

    async def stop(self, name: str) -> None:
        await self._by_name.pop(name).aclose()

    async def start_again(self, name: str) -> int:
        await self.stop(name)
        await self.start(name)
        return 0


@asynccontextmanager
async def fleet_of(server: NatsServer, *names: str) -> AsyncIterator[Fleet]:
    async with AsyncExitStack() as nodes:
        fleet = Fleet(server, nodes)
        for name in names:
            await fleet.start(name)
        yield fleet


async def run_program(server: NatsServer, *arguments: str) -> tuple[int | None, str]:
    process = await asyncio.create_subprocess_exec(
        *EDGE_LLM, "fleet", *arguments, "--port", str(server.mqtt_port),
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    try:
        async with asyncio.timeout(40):
            output, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.communicate()
    return process.returncode, output.decode()


async def test_a_node_drains_and_takes_requests_again(
    server: NatsServer, client: RawClient, roster: Roster
) -> None:
    told = Told()
    async with fleet_node(server, "a", **PAGELESS):
        await until_online(roster, "a")
        ask(client, "held")
        await eventually(lambda: held(roster, "a"))
        with pytest.raises(ExpiredError, match=r"^after 0.3 s a: generating, 1 in hand$"):
            await drain(roster, "a", timeout_s=0.3, tell=told)
        draining = asyncio.create_task(drain(roster, "a", timeout_s=8, tell=told))
        ask(client, "waits")
        await asyncio.sleep(0.2)
        assert not draining.done()
        await end(client, "held")
        await draining
        assert "a: generating, 1 in hand" in told
        assert not client.payloads("llm/response/waits/error")  # it is not refused
        async with fleet_node(server, "b", **READY):  # and another takes it
            [payload] = await client.wait_for("llm/response/waits")
            assert payload == b"Good evening."
            assert not held(roster, "a")
        await resume(roster, "a", timeout_s=5, tell=told)
        ask(client, "next")
        await eventually(lambda: held(roster, "a"))
        await end(client, "next")


def held(roster: Roster, name: str) -> int:
    node = roster.find(name)
    fleet = node.health.fleet if node and node.health else None
    return fleet.held if fleet else 0


async def test_what_can_not_be_done_is_said(server: NatsServer, roster: Roster) -> None:
    mqtt = {**fleet_mqtt(server).model_dump(exclude_unset=True), "commands": ("resume",)}
    async with fleet_node(server, "a", **{**READY, "mqtt": mqtt}):
        await until_online(roster, "a")
        with pytest.raises(InvalidRequestError, match="'drain' is switched off"):
            await drain(roster, "a", timeout_s=5, tell=Told())
        with pytest.raises(NodeOfflineError, match=r"'x' is not online \(there are: a\)"):
            await resume(roster, "x", timeout_s=5, tell=Told())


async def test_an_upgrade_under_load_refuses_nothing(
    server: NatsServer, client: RawClient, tmp_path: Path
) -> None:
    names = ("a", "b", "c")
    async with fleet_of(server, *names) as fleet:
        stop = asyncio.Event()
        asking = asyncio.create_task(keep_asking(client, stop))
        starting = asyncio.create_task(start_what_is_wanted(fleet, tmp_path))
        code, output = await run_program(
            server, "upgrade", "--run", f"echo upgrading {{node}}; touch {tmp_path}/{{node}}"
        )
        starting.cancel()
        stop.set()
        num_asked = await asking
        assert code == 0, output
        assert [f"upgrading {name}" for name in names] == [
            line for line in output.splitlines() if line.startswith("upgrading")
        ]
        assert [line[9:] for line in output.splitlines() if line.endswith(": done")] == [
            f"{name}: done" for name in names
        ]
        assert num_asked > 20
        for number in range(num_asked):
            [payload] = await client.wait_for(f"llm/response/load/{number}")
            assert payload == b"Good evening.", number
        assert not [m.topic for m in client.messages if m.topic.endswith("/error")]


async def keep_asking(client: RawClient, stop: asyncio.Event) -> int:
    number = 0
    while not stop.is_set():
        ask(client, f"load/{number}")
        number += 1
        await asyncio.sleep(0.05)
    return number


async def start_what_is_wanted(fleet: Fleet, folder: Path) -> None:
    """Start a node again some time after the command has asked for it, as systemd would."""
    while True:
        for name in os.listdir(folder):
            os.unlink(folder / name)
            await fleet.start_again(name)
        await asyncio.sleep(0.05)


async def test_an_upgrade_stops_at_the_first_node_that_does_not_come_back(
    server: NatsServer, roster: Roster
) -> None:
    told, runs = Told(), list[str]()

    def upgrade(run: Callable[[str], Awaitable[int]], return_s: float) -> Upgrade:
        async def noting(name: str) -> int:
            runs.append(name)
            return await run(name)

        return Upgrade(roster, noting, 5, return_s, told)

    async def stop(name: str) -> int:
        await fleet.stop(name)
        return 0

    async def nothing(_name: str) -> int:
        return 0

    async def fails(_name: str) -> int:
        return 7

    async with fleet_of(server, "a", "b", "c") as fleet:
        await until_online(roster, "a", "b", "c")
        with pytest.raises(EdgeLLMError, match=r"^a: the command failed with exit code 7$"):
            await upgrade(fails, 5)(("a", "b"))
        with pytest.raises(ExpiredError, match=r"^after 0.3 s a: draining$"):
            await upgrade(nothing, 0.3)(("a", "b"))
        assert runs == ["a", "a"]
        # Both times it was not started again, so it takes requests again.
        await eventually(lambda: not is_draining(roster, "a"))
        with pytest.raises(ExpiredError, match=r"^after 1 s b: offline$"):
            await upgrade(stop, 1)(("b", "c"))
        assert runs == ["a", "a", "b"]
        # With one left there is nobody who could answer meanwhile.
        await fleet.stop("c")
        await eventually(lambda: not is_online(roster, "c"))
        with pytest.raises(EdgeLLMError, match=r"^a: no other node could answer meanwhile"):
            await upgrade(fleet.start_again, 8)(("a",))
        await upgrade(fleet.start_again, 8)(("a",), alone=True)
        assert runs == ["a", "a", "b", "a"]


def is_online(roster: Roster, name: str) -> bool:
    node = roster.find(name)
    return bool(node and node.is_online)


def is_draining(roster: Roster, name: str) -> bool:
    node = roster.find(name)
    return bool(node and node.health and "draining" in node.health.queue.holds)


async def test_drain_and_resume_are_commands(server: NatsServer, roster: Roster) -> None:
    async with fleet_node(server, "a", **READY):
        await until_online(roster, "a")
        code, output = await run_program(server, "drain", "a")
        assert (code, output.splitlines()[-1][9:]) == (0, "a: has nothing in hand")
        assert is_draining(roster, "a")
        code, output = await run_program(server, "resume", "a")
        assert (code, output.splitlines()[-1][9:]) == (0, "a: takes requests")
        assert not is_draining(roster, "a")
