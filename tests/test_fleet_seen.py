"""What a fleet says of itself: in the nodes' health, their metrics and pages, and on a terminal."""

import asyncio
import json
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing
from typing import Any

import pytest

from edge_llm.client import FleetDepth, Roster, find_depth
from edge_llm.client.nodes import Nodes
from edge_llm.mqtt import MqttConnection
from edge_llm.protocol import FleetHealth
from edge_llm.service import presence
from edge_llm.watch.run import _connect
from edge_llm.watch.screen import Screen
from edge_llm.watch.state import State
from tests.browser import barriers, open_browser, open_tab
from tests.clients import RawClient
from tests.fleet_stage import (
    ask,
    end,
    fleet_mqtt,
    fleet_node,
    get_json,
    metric,
    until,
    until_online,
)
from tests.nats import NatsServer, nats_servers

EDGE_LLM = (sys.executable, "-m", "edge_llm")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NatsServer]:
    with nats_servers(tmp_path_factory.mktemp("nats")) as [server]:
        yield server


@pytest.fixture
async def client(server: NatsServer) -> AsyncIterator[RawClient]:
    async with RawClient(server.mqtt_port, client_id="esp1") as client:
        await client.subscribe("llm/response/#", "llm/node/#")
        yield client


def fleet_of(client: RawClient, name: str) -> dict[str, Any]:
    """What a node's latest health says of the fleet."""
    body = json.loads(client.payloads(f"llm/node/{name}/health")[-1])
    fleet: dict[str, Any] = body["fleet"]
    return fleet


def test_the_latest_word_on_what_waits_counts() -> None:
    def told(waiting: int, oldest_s: float | None, held: int = 0, joined: bool = True) -> Any:
        return FleetHealth(joined=joined, waiting=waiting, oldest_s=oldest_s, held=held)

    assert find_depth([], 9.0) is None
    assert find_depth([(told(3, 4.0, 1), 1.0), (told(2, 5.0, 1), 2.0)], 9.0) == FleetDepth(
        2, 12.0, 2
    )
    assert find_depth([(told(3, 4.0), 1.0), (told(2, 5.0), 1.0)], 1.0) == FleetDepth(3, 4.0, 0)
    # A node without a connection to the fleet does not know.
    gone = told(7, 70.0, 1, joined=False)
    assert find_depth([(gone, 2.0), (told(0, None), 1.0)], 9.0) == FleetDepth(0, None, 1)


async def test_what_waits_and_who_does_what_is_seen_everywhere(
    server: NatsServer, client: RawClient
) -> None:
    ids = ("esp1/1", "esp1/2", "esp1/3", "esp1/4")
    async with (
        fleet_node(server, "a") as a,
        fleet_node(server, "b") as b,
        Roster(fleet_mqtt(server)) as roster,
        _connect(fleet_mqtt(server)) as watching,
        open_browser() as browser,
        open_tab(browser, ("phone", "dark")) as page,
    ):
        state, lines = State("llm"), list[str]()
        feeding = asyncio.create_task(feed(watching, state, lines))
        await until_online(roster, "a", "b")
        assert fleet_of(client, "a") == {"joined": True, "waiting": 0, "oldest_s": None, "held": 0}
        assert await metric(a, "edge_llm_fleet_waiting") == 0
        asked_at = time.time()
        ask(client, *ids)

        async def seen() -> FleetDepth | None:
            depth = roster.depth
            return depth if depth and (depth.waiting, depth.held) == (2, 2) else None

        depth = await until(seen)
        # In the health, and on the page, of each node.
        for name, node in (("a", a), ("b", b)):
            assert fleet_of(client, name)["held"] == 1
            assert await metric(node, "edge_llm_fleet_held") == 1
            await until(lambda node=node: has(node, "edge_llm_fleet_waiting", 2))
            view = (await get_json(node, "/status"))["state"]["fleet"]
            assert [(n["node"], n["activity"], n["held"]) for n in view["nodes"]] == [
                ("a", "generating", 1),
                ("b", "generating", 1),
            ]
            assert (view["is_known"], view["waiting"], view["held"]) == (True, 2, 2)
            age_s = await metric(node, "edge_llm_fleet_oldest_seconds")
            assert age_s is not None
            assert abs(age_s - (time.time() - asked_at)) < 2
        assert depth.oldest_s is not None
        assert depth.oldest_s < time.time() - asked_at + 1
        # In a browser.
        assert a.http
        await page.goto(f"{a.http.url}/")
        await page.get_by_text("2 requests waiting, the oldest for").wait_for()
        rows = page.locator("#fleet-nodes tbody tr")
        assert [(await row.inner_text()).split() for row in await rows.all()] == [
            ["a", "(this", "one)", "generating", "1", "paced"],
            ["b", "generating", "1", "paced"],
        ]
        assert await barriers(page) == []
        # On a terminal.
        await until(lambda: told_by(state, "2 waiting"))
        screen = Screen("here").draw(state, time.monotonic(), 100, 24).plain
        assert "fleet: 2 in hand, 2 waiting for " in screen
        assert screen.count("generating (1)") == 2
        assert any(line.startswith("fleet ") and "2 waiting, the oldest" in line for line in lines)
        # And when it is over.
        await end(client, *ids)
        await until(lambda: told_by(state, "fleet: 0 in hand, 0 waiting"))
        assert await until(lambda: has(b, "edge_llm_fleet_waiting", 0))
        await page.get_by_text("No request waiting; 0 in hand.").wait_for()
        feeding.cancel()


async def feed(watching: MqttConnection, state: State, lines: list[str]) -> None:
    async with aclosing(watching.messages()) as messages:
        async for m in messages:
            happening = state.feed(m.topic, m.payload, time.monotonic(), is_retained=m.retain)
            if happening:
                lines.append(" ".join(happening))


async def told_by(state: State, text: str) -> bool:
    return text in Screen("here").draw(state, time.monotonic(), 100, 24).plain


async def has(node: Any, name: str, value: float) -> bool:
    return await metric(node, name) == value


async def test_a_node_says_all_of_it_again_now_and_then(
    server: NatsServer, client: RawClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As NATS may give who subscribes just then what was retained before, and nothing else."""
    monkeypatch.setattr(presence, "HEALTH_EVERY_S", 0.2)
    async with fleet_node(server, "a"):
        for kind in ("status", "info", "activity", "health"):
            heard = await client.wait_for(f"llm/node/a/{kind}", 4)
            assert len(set(heard[-2:])) == (2 if kind == "health" else 1)


def test_what_was_retained_before_does_not_undo_what_is_said_now() -> None:
    async def feed() -> list[bool]:
        nodes = Nodes()
        nodes.begin()
        nodes.feed("a", "status", b"offline", is_old=True)
        nodes.feed("a", "status", b"online")
        nodes.feed("a", "status", b"offline", is_old=True)
        told = [nodes.is_online("a")]
        nodes.begin()  # and what is retained when we come back counts
        nodes.feed("a", "status", b"offline", is_old=True)
        return [*told, nodes.is_online("a")]

    assert asyncio.run(feed()) == [True, False]


async def test_a_node_that_goes_is_told_of_as_gone(server: NatsServer) -> None:
    async with fleet_node(server, "a") as a:
        async with fleet_node(server, "b"):
            pass

        async def nodes() -> list[tuple[str, str, int | None]]:
            view = (await get_json(a, "/status"))["state"]["fleet"]
            return [(n["node"], n["activity"], n["held"]) for n in view["nodes"]]

        async def is_gone() -> bool:
            return await nodes() == [("a", "idle", 0), ("b", "offline", None)]

        await until(is_gone)


async def test_the_status_in_a_terminal_and_as_json(server: NatsServer) -> None:
    async def status(*arguments: str) -> tuple[int | None, str]:
        process = await asyncio.create_subprocess_exec(
            *EDGE_LLM,
            "fleet",
            "status",
            "--port",
            str(server.mqtt_port),
            *arguments,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        output, _ = await process.communicate()
        return process.returncode, output.decode()

    async with (
        Roster(fleet_mqtt(server)) as roster,
        fleet_node(server, "a"),
        fleet_node(server, "b"),
    ):
        await until_online(roster, "a", "b")
        (code, text), (_, document) = await asyncio.gather(status(), status("--json"))
    assert code == 0, text
    title, *rows, _, depth = text.splitlines()
    assert title.split()[:4] == ["NODE", "STATUS", "ACTIVITY", "IN"]
    assert [row.split()[:4] for row in rows] == [
        ["a", "online", "idle", "0"],
        ["b", "online", "idle", "0"],
    ]
    assert depth == "0 waiting; 0 in hand"
    body = json.loads(document)
    assert (body["waiting"], body["oldest_s"], body["held"]) == (0, None, 0)
    assert [(n["node"], n["joined"], n["models"]) for n in body["nodes"]] == [
        ("a", True, ["paced"]),
        ("b", True, ["paced"]),
    ]
    code, text = await status()
    assert (code, text) == (1, "edge-llm: no node is online\n")
