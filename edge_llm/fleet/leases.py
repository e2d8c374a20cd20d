"""What this node holds of its fleet's requests, and goes on holding until it is dealt with."""

import asyncio
from collections.abc import Awaitable
from dataclasses import replace
from typing import Any, TypeVar

import structlog

from edge_llm.fleet.item import SESSION_OF_WORK, Item
from edge_llm.fleet.sessions import FleetSessions
from edge_llm.mqtt import Publication

__all__ = ["Leases"]

log = structlog.get_logger()

Result = TypeVar("Result")

SETTLE_POLL_S = 0.01


class Leases:
    """The leases of a node.

    Args:
        lease_s: how long the servers wait for a word of ours.
        sessions: whose locks go with some of them.
    """

    def __init__(self, lease_s: float, sessions: FleetSessions) -> None:
        self.lease_s = lease_s
        self._sessions = sessions
        self._held: dict[tuple[int, int], Item] = {}
        self._tasks: set[asyncio.Future[Any]] = set()

    @property
    def num_work(self) -> int:
        """How many are of requests that we answer, and not only sort."""
        return sum(origin == SESSION_OF_WORK for origin, _ in self._held)

    async def run(self) -> None:
        """Extend all of them, for ever."""
        while True:
            await asyncio.sleep(self.lease_s / 3)
            for item in tuple(self._held.values()):
                self.start(item.message.in_progress())
                if item.session is not None:
                    self.start(self._sessions.extend(item.session))

    async def settle(self) -> None:
        """Return when nothing is held and all was told to the servers."""
        while self._held or self._tasks:  # noqa: ASYNC110 - once in a node's life
            await asyncio.sleep(SETTLE_POLL_S)

    def hold(self, item: Item) -> None:
        """Extend one from now on."""
        self._held[_key(item.publication)] = item

    def answer(self, item: Item) -> None:
        """Have what we hold to sort it for what is answered here: it is forgotten when that is."""
        del self._held[_key(item.publication)]
        item.publication = replace(item.publication, session=SESSION_OF_WORK)
        self.hold(item)

    def find(self, publication: Publication) -> Item | None:
        """Return what a message of ours is about, if we hold it."""
        return self._held.get(_key(publication))

    def end(self, publication: Publication, *, give_back: bool = False) -> bool:
        """Let the servers forget a request, or give it to another node; False if it isn't held."""
        item = self._held.pop(_key(publication), None)
        if item is None:
            return False
        self.start(item.message.nak() if give_back else item.message.ack())
        if item.session is not None:
            self.start(self._sessions.unlock(item.session))
        return True

    def start(self, action: Awaitable[Result]) -> "asyncio.Future[Result]":
        """Do something that the caller does not wait for; the loop itself keeps no task alive."""
        task = asyncio.ensure_future(action)
        self._tasks.add(task)
        task.add_done_callback(self._note_end)
        return task

    def _note_end(self, task: "asyncio.Future[Any]") -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()):
            log.debug("fleet.not_told", reason=str(error) or type(error).__name__)


def _key(publication: Publication) -> tuple[int, int]:
    return publication.session, publication.packet_id
