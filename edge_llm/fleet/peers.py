"""The other nodes of a fleet: who is there, and what each can serve; all say so each second."""

import asyncio
import json
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any

import structlog

from edge_llm.fleet.cancelled import end_if_cancelled
from edge_llm.fleet.names import Class, FleetNames
from edge_llm.fleet.outage import Outage

__all__ = ["Peers"]

log = structlog.get_logger()

SAY_EVERY_S = 1.0
GONE_AFTER_S = 3.5
MAX_PEERS = 256


@dataclass(frozen=True, slots=True)
class _Peer:
    models: frozenset[str]
    heard_at: float


class Peers:
    """Says that this node is there, and hears of the others.

    Args:
        client: of NATS.
        names: of the fleet.
        node: our own name.
        models: what we serve now.
        outage: the servers' latest.
    """

    def __init__(
        self,
        client: Any,
        names: FleetNames,
        node: str,
        models: Callable[[], Collection[str]],
        outage: Outage,
    ) -> None:
        self._client, self._subject, self._node = client, names.peers, node
        self._models, self._outage = models, outage
        self._peers: dict[str, _Peer] = {}
        self._since = time.monotonic()

    async def run(self) -> None:
        """Say and hear, for ever."""
        subscription = await self._client.subscribe(self._subject, cb=self._hear)
        try:
            while True:
                await self._say()
                end_if_cancelled()
                await asyncio.sleep(SAY_EVERY_S)
        finally:
            await subscription.unsubscribe()

    def is_there(self, node: str) -> bool:
        """Tell whether a node has been heard of lately."""
        return node == self._node or node in self._live()

    def may_be_there(self, node: str) -> bool:
        """Tell whether a node is there, or we have not listened for long enough to know."""
        return time.monotonic() - self._since < GONE_AFTER_S or self.is_there(node)

    def is_served(self, model: str) -> bool:
        """Tell whether somebody serves a model, or may: one that is just coming up says later."""
        if time.monotonic() - self._since < GONE_AFTER_S:
            return True
        live = self._live().values()
        return model in self._models() or any(model in p.models or not p.models for p in live)

    def others(self) -> set[Class]:
        """Return the classes of what goes to each of the other nodes first."""
        return {FleetNames.of_node(name) for name in self._live()}

    def _live(self) -> dict[str, _Peer]:
        oldest = time.monotonic() - GONE_AFTER_S
        return {name: peer for name, peer in self._peers.items() if peer.heard_at > oldest}

    async def _say(self) -> None:
        from nats.errors import Error

        said = {
            "node": self._node,
            "models": list(self._models()),
            "server_lost_at": self._outage.at,
        }
        try:
            await self._client.publish(self._subject, json.dumps(said).encode())
        except Error as exc:
            log.debug("fleet.not_told", reason=str(exc) or type(exc).__name__)

    async def _hear(self, message: Any) -> None:
        try:
            said = json.loads(message.data)
            name, models = str(said["node"]), frozenset(map(str, said["models"]))
            self._outage.note(float(said.get("server_lost_at", 0.0)))
        except (ValueError, KeyError, TypeError):  # of another version of edge-llm
            return
        if name == self._node:
            return
        if name not in self._peers and len(self._peers) >= MAX_PEERS:
            self._peers = self._live()
        self._peers[name] = _Peer(models, time.monotonic())
