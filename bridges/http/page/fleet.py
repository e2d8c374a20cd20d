"""The other nodes of a fleet, for the page: who they are, what each does, and how much waits.

They say so on retained topics, which the page reads over a connection of its own.
"""

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager, suppress

from bridges.http.page.status import FleetNode, FleetView
from edge_llm.client import RemoteNode, Roster
from edge_llm.plugin import BridgeContext

__all__ = ["describe_fleet", "open_roster"]

MAX_NODES = 64
LOOK_EVERY_S = 5.0
"""At least, as what waits becomes older."""


@asynccontextmanager
async def open_roster(
    context: BridgeContext, note_change: Callable[[], None]
) -> AsyncGenerator[Roster | None]:
    """Follow the nodes until the context is left; None where there is no fleet."""
    if not (context.is_in_fleet and context.mqtt.enabled):
        yield None
        return
    async with Roster(context.mqtt) as roster:
        following = asyncio.create_task(_follow(roster, note_change), name="http.page.fleet")
        try:
            yield roster
        finally:
            following.cancel()
            with suppress(asyncio.CancelledError):
                await following


async def _follow(roster: Roster, note_change: Callable[[], None]) -> None:
    while True:
        await roster.change(LOOK_EVERY_S)
        note_change()


def describe_fleet(roster: Roster) -> FleetView:
    """Return what is known of a fleet now."""
    depth = roster.depth if roster.is_connected else None
    return {
        "is_known": roster.is_connected,
        "waiting": depth.waiting if depth else None,
        "oldest_s": depth.oldest_s if depth else None,
        "held": depth.held if depth else None,
        "nodes": [_describe(node) for node in roster.nodes[:MAX_NODES]],
    }


def _describe(node: RemoteNode) -> FleetNode:
    health = node.health if node.is_online else None  # of a node that is gone it is an old one
    fleet = health.fleet if health else None
    return {
        "node": node.name,
        "activity": node.activity if node.is_online else "offline",
        "joined": fleet.joined if fleet else None,
        "held": fleet.held if fleet else None,
        "card_celsius": health.card.temperature_celsius if health and health.card else None,
        "heat": health.heat if health else None,
        "attention": health.attention if health else None,
        "models": [model.id for model in node.models],
    }
