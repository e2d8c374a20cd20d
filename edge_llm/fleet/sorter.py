"""Sorting: what comes in is read once, by any node, and waits for the right one in its place."""

import asyncio
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import structlog

from edge_llm.errors import NodeOfflineError, QueueFullError, UnknownModelError
from edge_llm.fleet.cancelled import end_if_cancelled
from edge_llm.fleet.desk import Desk, Sorted
from edge_llm.fleet.door import Door, open_doors
from edge_llm.fleet.item import Item
from edge_llm.fleet.leases import Leases
from edge_llm.fleet.names import ANY, FleetNames, Ticket
from edge_llm.fleet.peers import Peers
from edge_llm.fleet.queue import WorkQueue
from edge_llm.fleet.sessions import FleetSessions
from edge_llm.mqtt import Publication

__all__ = ["Sorter"]

log = structlog.get_logger()

RETRY_S = 0.2
RETRY_AFTER_S = 5.0
MAX_REMEMBERED = 4096
LATE_S = 0.05
"""After the end of its time, so that it is over by any clock."""

Take = Callable[[Publication], None]


class Sorter:
    """Puts requests into the work queue.

    Args:
        client: of NATS.
        names: of the fleet.
        desk: reads and refuses them.
        queue: where they wait.
        leases: hold them meanwhile.
        sessions: tell which node goes on best.
        peers: tell which nodes there are.
        max_waiting: more are refused.
        serve: answers a request here and now, if this node is free and nothing waits before it.
    """

    def __init__(
        self,
        client: Any,
        names: FleetNames,
        desk: Desk,
        *,
        queue: WorkQueue,
        leases: Leases,
        sessions: FleetSessions,
        peers: Peers,
        max_waiting: int,
        serve: Callable[[Item, Sorted], bool],
    ) -> None:
        self._client, self._names = client, names
        self._queue, self._desk, self._leases = queue, desk, leases
        self._sessions, self._peers, self._max_waiting = sessions, peers, max_waiting
        self._serve = serve
        self._is_stopped = False
        self._ended = asyncio.Event()
        self._timers: dict[int, asyncio.TimerHandle] = {}
        self._put: OrderedDict[str, tuple[Ticket, int]] = OrderedDict()  # by id, the latest

    async def run(self, take: Take) -> None:
        """Sort, for ever.

        Args:
            take: deals with a request here and now.
        """
        try:
            mqtt, ours = await self._open()
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._sort_all(mqtt, ours, take), name="fleet.door.mqtt")
                tasks.create_task(self._sort_all(ours, mqtt, take), name="fleet.door.ours")
        finally:
            self._ended.set()

    async def ended(self) -> None:
        """Return when all that was asked for before ``stop`` is sorted."""
        await self._ended.wait()

    def stop(self) -> None:
        """Sort no more."""
        self._is_stopped = True
        for timer in self._timers.values():
            timer.cancel()
        self._timers.clear()

    async def withdraw(self, request_id: str, take: Take) -> None:
        """Take a request out of the queue that we have put there, and end it as cancelled.

        What a node has already taken is not touched: that one heard of the cancel, too.
        """
        from nats.errors import Error

        if (put := self._put.pop(request_id, None)) is None:
            return
        try:
            item = await self._queue.remove(*put)
        except (Error, TimeoutError) as exc:
            log.debug("fleet.not_withdrawn", reason=str(exc) or type(exc).__name__)
            return
        if item is not None:
            take(item.publication)
            self._desk.cancel(request_id)

    async def _open(self) -> tuple[Door, Door]:
        from nats.errors import Error

        while True:
            try:
                return await open_doors(self._client, self._names, self._leases.lease_s)
            except (Error, TimeoutError) as exc:
                log.debug("fleet.no_door", reason=str(exc) or type(exc).__name__)
                end_if_cancelled()
                await asyncio.sleep(RETRY_S)

    async def _sort_all(self, door: Door, other: Door, take: Take) -> None:
        from nats.errors import Error

        while not self._is_stopped:
            end_if_cancelled()
            try:
                if (item := await door.next()) is None:
                    continue
                self._leases.hold(item)
                await self._sort_safely(item, door, other, take)
            except (Error, TimeoutError) as exc:
                log.debug("fleet.sort_failed", reason=str(exc) or type(exc).__name__)
                await asyncio.sleep(RETRY_S)

    async def _sort_safely(self, item: Item, door: Door, other: Door, take: Take) -> None:
        meta = item.message.metadata
        try:
            if await door.leaves(item, other):
                self._leases.end(item.publication)
                return
            await self._sort(item, take, key=f"{meta.stream}-{meta.sequence.stream}")
        except BaseException:  # else its lease would be extended for ever
            self._leases.end(item.publication, give_back=True)
            raise

    async def _sort(self, item: Item, take: Take, *, key: str) -> None:
        publication = item.publication
        request = self._desk.sort(publication)
        if request is None:
            take(publication)
        elif request.model is not None and not self._peers.is_served(request.model):
            known = f"there is no model {request.model!r} in this fleet"
            self._desk.refuse(UnknownModelError(known, param="model"), publication)
        elif request.node is not None and not self._peers.may_be_there(request.node):
            # Not parked: each name would have a place of its own at the servers, for ever.
            away = f"there is no node {request.node[:64]!r} in this fleet now"
            self._desk.refuse(NodeOfflineError(away), publication)
        elif self._queue.num_waiting >= self._max_waiting:
            full = QueueFullError(
                f"{self._max_waiting} requests wait in the fleet, as many as may",
                retry_after_s=RETRY_AFTER_S,
            )
            self._desk.refuse(full, publication)
        elif not self._serve(item, request):
            ticket = await self._ticket(request)
            seq = await self._queue.put(ticket, item, request, key=key)
            self._remember(request.request_id, ticket, seq)
            self._expire_in(request.ttl_s, item, ticket, seq, take)
            self._leases.end(publication)

    async def _ticket(self, request: Sorted) -> Ticket:
        who = ANY
        if request.node is not None:
            who = FleetNames.only_node(request.node)
        elif request.model is not None:
            who = FleetNames.of_model(request.model)
        elif request.session is not None:
            held = await self._sessions.load(request.session)
            if held and self._peers.is_there(held.node):
                who = FleetNames.of_node(held.node)
        return Ticket(who, request.priority)

    def _remember(self, request_id: str, ticket: Ticket, seq: int) -> None:
        self._put[request_id] = (ticket, seq)
        self._put.move_to_end(request_id)
        if len(self._put) > MAX_REMEMBERED:
            self._put.popitem(last=False)

    def _expire_in(
        self, ttl_s: float | None, item: Item, ticket: Ticket, seq: int, take: Take
    ) -> None:
        """Say that a request is too old when it is, and not when a node gets round to it."""
        if ttl_s is None or len(self._timers) >= MAX_REMEMBERED:
            return
        left_s = max(ttl_s - item.publication.age_s, 0.0) + LATE_S

        def end() -> None:
            del self._timers[seq]
            self._leases.start(self._take_out(ticket, seq, take))

        self._timers[seq] = asyncio.get_running_loop().call_later(left_s, end)

    async def _take_out(self, ticket: Ticket, seq: int, take: Take) -> None:
        """Deal with a request that still waits: it is refused, as its time is over."""
        if (item := await self._queue.remove(ticket, seq)) is not None:
            take(item.publication)
