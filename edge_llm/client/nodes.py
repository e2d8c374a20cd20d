"""The nodes behind a broker, as their retained topics tell of them."""

import asyncio
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass

from pydantic import ValidationError

from edge_llm.protocol import ModelInfo, NodeHealth, NodeInfo

__all__ = ["Nodes", "RemoteNode"]

UNABLE = frozenset({"failed", "draining", "paused", "cooling", "recovering", "reloading"})
"""What a node does that takes requests and lets them wait, or refuses them."""

STATUS_TIMEOUT_S = 2.0
"""From the connection to the retained status of a node that is there, at the worst."""

SETTLE_S = 0.2
"""From the first retained status to the last one: a broker sends them in one go."""


@dataclass(slots=True)
class RemoteNode:
    """What is known of one node."""

    name: str
    status: str = ""
    """``online``, ``offline``, or nothing yet."""
    activity: str = ""
    info: NodeInfo | None = None
    health: NodeHealth | None = None
    health_at: float = 0.0
    """When that came, by the monotonic clock, in seconds."""

    @property
    def is_online(self) -> bool:
        """Whether it says so, or its will has not come."""
        return self.status == "online"

    @property
    def models(self) -> tuple[ModelInfo, ...]:
        """Its models; none while the first one loads."""
        return self.info.models if self.info else ()

    def may_serve(self, model: str | None) -> bool:
        """Tell whether it has a model, or may have it once that is loaded."""
        return model is None or not self.models or model in [known.id for known in self.models]


class Nodes:
    """All nodes of a broker, or the one that is meant.

    Args:
        name: the only one that counts.
    """

    def __init__(self, name: str | None = None) -> None:
        self._name = name
        self._nodes: dict[str, RemoteNode] = {}
        self._heard: set[tuple[str, str]] = set()  # since the connection began
        self._changed = asyncio.Event()
        self._connected_at = -STATUS_TIMEOUT_S
        self._first_status_at: float | None = None

    def begin(self) -> None:
        """Note that the broker begins to send what is retained."""
        self._connected_at = asyncio.get_running_loop().time()
        self._first_status_at = None
        self._heard.clear()

    def feed(self, name: str, kind: str, payload: bytes, *, is_old: bool = False) -> bool:
        """Take what a node says; tell whether the node went or came by it.

        Args:
            name: of the node.
            kind: of the topic: ``status``, ``info``.
            payload: as it came.
            is_old: it was retained. NATS (2.9) may deliver the message that was retained before
                after the one that was published while we subscribed; it does not count then.
        """
        if is_old and (name, kind) in self._heard:
            return False
        if not is_old:
            self._heard.add((name, kind))
        node = self._nodes.setdefault(name, RemoteNode(name))
        was_online = node.is_online
        text = payload.decode(errors="replace")
        if kind == "status" and not text:  # cleared, as there is no such node any more
            del self._nodes[name]
        match kind:
            case "status":
                self._first_status_at = self._first_status_at or asyncio.get_running_loop().time()
                node.status = "online" if text == "online" else "offline"
            case "activity":
                node.activity = text
            case "info":
                with suppress(ValidationError):  # of another version, or cleared
                    node.info = NodeInfo.model_validate_json(payload)
            case "health":
                with suppress(ValidationError):
                    node.health = NodeHealth.model_validate_json(payload)
                    node.health_at = time.monotonic()
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()
        return node.is_online != was_online

    @property
    def known(self) -> list[RemoteNode]:
        """All, also those that are away, by name."""
        return [node for _, node in sorted(self._nodes.items())]

    @property
    def online(self) -> list[RemoteNode]:
        """Those that are there and count, by name."""
        return [
            node
            for _, node in sorted(self._nodes.items())
            if node.is_online and self._name in (None, node.name)
        ]

    @property
    def activity(self) -> str:
        """What the one that is online and would answer first does; there must be one."""
        return min((node.activity for node in self.online), key=_rank)

    def is_online(self, name: str) -> bool:
        """Tell whether a node is there."""
        return name in self._nodes and self._nodes[name].is_online

    def choose(
        self, model: str | None, in_hand: Mapping[str, int], name: str | None = None
    ) -> str | None:
        """Return the node that a request should go to, if one is there.

        Args:
            model: preferably one that serves it.
            in_hand: how many requests each has of us already.
            name: only this one.
        """
        there = [node for node in self.online if name in (None, node.name)]
        fitting = [node for node in there if node.may_serve(model)] or there
        best = min(
            fitting,
            key=lambda node: (
                node.activity in UNABLE,
                in_hand.get(node.name, 0),
                node.activity != "idle",
            ),
            default=None,
        )
        return best.name if best else None

    def known_at(self, name: str | None) -> float:
        """Return the time of the loop at which the silence of a node means that it is not there."""
        if name in self._nodes and self._nodes[name].status:
            return self._connected_at
        latest = self._connected_at + STATUS_TIMEOUT_S
        if name is None and self._first_status_at is not None:
            return min(latest, self._first_status_at + SETTLE_S)
        return latest

    async def change(self) -> None:
        """Wait until one of them says something."""
        await self._changed.wait()


def _rank(activity: str) -> int:
    """Say how soon a node answers that does this: the less, the sooner."""
    if activity == "idle":
        return 0
    if activity.startswith("loading"):
        return 2
    return 3 if activity in UNABLE else 1
