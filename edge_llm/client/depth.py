"""How much waits in a fleet, from what its nodes say one by one."""

from collections.abc import Iterable
from dataclasses import dataclass

from edge_llm.protocol import FleetHealth

__all__ = ["FleetDepth", "Told", "find_depth"]

Told = tuple[FleetHealth, float]
"""What a node said, and when, by a clock that does not jump, in seconds."""


@dataclass(frozen=True, slots=True)
class FleetDepth:
    """How much waits."""

    waiting: int
    """Requests that no node has in hand."""
    oldest_s: float | None
    """How long the oldest of them has waited; None if none waits."""
    held: int
    """Requests in hand, of all nodes."""


def find_depth(told: Iterable[Told], now: float) -> FleetDepth | None:
    """Return what nodes that are online know together; None if none is in a fleet.

    All of them see the same queue, so the latest word counts, and of equally late ones the highest.
    """
    known = list(told)
    joined = [(at, health) for health, at in known if health.joined]
    if not known:
        return None
    held = sum(health.held for health, _ in known)
    if not joined:
        return FleetDepth(0, None, held)
    at, latest = max(joined, key=lambda item: (item[0], item[1].waiting))
    oldest_s = None if latest.oldest_s is None else round(latest.oldest_s + now - at, 1)
    return FleetDepth(latest.waiting, oldest_s, held)
