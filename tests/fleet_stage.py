"""Whole nodes in a fleet, in this process: they say a fixed text, at a speed that a test sets."""

import asyncio
import re
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp

from edge_llm.client import Roster
from edge_llm.node import Node, open_node
from edge_llm.settings import MqttSettings, Settings
from tests.clients import RawClient, eventually
from tests.nats import NatsServer

__all__ = [
    "ask",
    "end",
    "fleet_mqtt",
    "fleet_node",
    "fleet_settings",
    "get_json",
    "metric",
    "until",
    "until_online",
]

SLOW = {"text": "and so on " * 100, "ttft_s": 0.0, "tokens_per_s": 20.0}
QUICK = {"text": "Good evening.", "ttft_s": 0.0, "tokens_per_s": 500.0}


def fleet_mqtt(server: NatsServer) -> MqttSettings:
    """Return how to reach the door of a server."""
    return MqttSettings(port=server.mqtt_port, protocol="3.1.1", stop_timeout_s=0)


def fleet_settings(server: NatsServer, name: str, **sections: Any) -> Settings:
    """Return settings of a node; it speaks slowly if nothing else is said."""
    common = {
        "node": name,
        "mqtt": fleet_mqtt(server),
        "http": {"port": 0},
        "fleet": {"servers": (server.url,)},
        "engine": {"kind": "paced", "paced": SLOW},
    }
    return Settings.model_validate({**common, **sections})


@asynccontextmanager
async def fleet_node(server: NatsServer, name: str, **sections: Any) -> AsyncGenerator[Node]:
    """Run a node, which has joined."""
    async with open_node(fleet_settings(server, name, **sections)) as node:
        source: Any = node.service and node.service._source
        await eventually(lambda: source.health.joined, 10.0)
        yield node


async def until_online(roster: Roster, *names: str) -> None:
    """Wait until nodes say that they are in the fleet."""
    async with asyncio.timeout(8):
        for name in names:
            while not _has_joined(roster, name):
                await roster.change(1)


def _has_joined(roster: Roster, name: str) -> bool:
    node = roster.find(name)
    fleet = node.health.fleet if node and node.is_online and node.health else None
    return fleet is not None and fleet.joined


def ask(client: RawClient, *request_ids: str) -> None:
    """Publish requests."""
    for request_id in request_ids:
        client.publish(f"llm/request/{request_id}", "Who are you?")


async def get_json(node: Node, path: str) -> Any:
    """Ask a node over HTTP."""
    assert node.http
    async with aiohttp.ClientSession() as http, http.get(f"{node.http.url}{path}") as response:
        return await response.json()


async def metric(node: Node, name: str) -> float | None:
    """Return a metric of a node."""
    assert node.http
    async with aiohttp.ClientSession() as http, http.get(f"{node.http.url}/metrics") as response:
        found = re.search(rf"^{name} (\S+)$", await response.text(), re.MULTILINE)
    return float(found[1]) if found else None


async def until(condition: Any, timeout_s: float = 8.0) -> Any:
    """Wait until a coroutine function returns something true, and return it."""
    async with asyncio.timeout(timeout_s):
        while not (value := await condition()):  # noqa: ASYNC110 - it asks over HTTP
            await asyncio.sleep(0.05)
    return value


async def end(client: RawClient, *request_ids: str) -> None:
    """Cancel requests, and wait for their final messages."""
    for request_id in request_ids:
        client.publish(f"llm/cancel/{request_id}", b"")
    for request_id in request_ids:
        topic = f"llm/response/{request_id}"
        await eventually(lambda t=topic: client.payloads(t) or client.payloads(f"{t}/error"), 8.0)  # type: ignore[misc]
