"""A node's part in its fleet: it sorts what comes in, and takes work when it has room.

Sorting is quick and any node does it, also one that is busy: a request is read once to see for whom
it is and how urgent, and put into the work queue; one that is wrong is refused on the spot, and one
that would not wait is answered at once. Work is taken one at a time, by nodes whose engine is free.
What is held is extended until it is dealt with; what a node that died held comes to another when
its lease is over.
"""

import asyncio
import contextlib
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import structlog

from edge_llm.fleet.answers import Answered, FleetAnswers
from edge_llm.fleet.cancelled import end_if_cancelled
from edge_llm.fleet.connection import connect_fleet
from edge_llm.fleet.desk import Desk, Sorted
from edge_llm.fleet.item import (
    SESSION_OF_CANCELLED,
    SESSION_OF_MQTT,
    SESSION_OF_REQUESTS,
    SESSION_OF_WORK,
    Item,
)
from edge_llm.fleet.leases import Leases
from edge_llm.fleet.names import FleetNames
from edge_llm.fleet.outage import Outage
from edge_llm.fleet.peers import Peers
from edge_llm.fleet.presses import Presses
from edge_llm.fleet.queue import WorkQueue
from edge_llm.fleet.report import FleetReport
from edge_llm.fleet.sessions import FleetSessions
from edge_llm.fleet.setup import set_up
from edge_llm.fleet.sorter import Sorter
from edge_llm.mqtt import Publication
from edge_llm.outgoing import Outgoing
from edge_llm.protocol import FleetHealth
from edge_llm.route import Route
from edge_llm.settings import FleetSettings
from edge_llm.store import make_key

__all__ = ["FleetSource"]

log = structlog.get_logger()

OURS = (SESSION_OF_REQUESTS, SESSION_OF_WORK, SESSION_OF_CANCELLED, SESSION_OF_MQTT)
TICK_S = 0.25
RETRY_S = 1.0
KEEP_AGAIN_S = 0.25
SETTLE_S = 2.0
"""For the last answers to be kept, said and acknowledged, when a node ends."""
SESSION_BUSY_S = 0.3
"""Before a turn of a conversation is tried again that another node is in the midst of."""
UNABLE_S = 1.0
"""Until what a node holds and can't go on with goes to another: shorter pauses are not worth it."""
MAX_CANCELS = 1024

Take = Callable[[Publication], None]


@dataclass(frozen=True, slots=True)
class _Joined:
    """What there is while there is a connection to the fleet."""

    queue: WorkQueue
    answers: FleetAnswers
    sessions: FleetSessions
    leases: Leases
    sorter: Sorter
    presses: Presses
    peers: Peers
    report: FleetReport


class FleetSource:
    """Brings requests from the fleet to this node; see ``RequestSource``.

    Args:
        settings: of the fleet.
        names: of the fleet.
        node: our own name.
    """

    def __init__(self, settings: FleetSettings, names: FleetNames, node: str) -> None:
        self._settings, self._names, self._node = settings, names, node
        self._desk: Desk
        self._take: Take
        self._joined: _Joined | None = None
        self._routes: Sequence[Route] = ()
        self._outage = Outage()
        self._is_leaving = False
        self._is_beginning = False  # with what came from the queue
        self._cancels: OrderedDict[str, float] = OrderedDict()  # and when, in Unix seconds
        self.on_change: list[Callable[[], None]] = []
        """Called when the health is news."""

    @property
    def health(self) -> FleetHealth:
        """How the fleet is, as far as this node knows."""
        if self._joined is None:
            return FleetHealth(joined=False, waiting=0, held=0)
        return self._joined.report.health

    def serve(self, desk: Desk) -> None:
        """Work for this desk."""
        self._desk = desk

    async def run(self, take: Take) -> None:
        """Sort and take work, for ever.

        Raises:
            ConfigurationError: the servers have other settings of this fleet.
        """
        self._take, client_name = take, f"edge-llm-{self._node}"
        async with connect_fleet(self._settings, client_name, self._outage.note_ours) as client:
            await self._set_up(client)
            self._joined = joined = self._join(client)
            await joined.presses.follow(self._routes, take)
            await client.subscribe(self._names.replaced, cb=self._hear_replaced)
            log.info("fleet.joined", stream=self._names.work)
            end_if_cancelled()  # while it joined
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(joined.peers.run(), name="fleet.peers")
                tasks.create_task(joined.queue.listen(), name="fleet.listen")
                tasks.create_task(joined.sorter.run(take), name="fleet.sort")
                tasks.create_task(joined.leases.run(), name="fleet.leases")
                tasks.create_task(joined.report.run(), name="fleet.report")
                tasks.create_task(self._work(joined), name="fleet.work")

    def stop(self) -> None:
        """Sort and take no more; what is held is held on to."""
        self._is_leaving = True
        if joined := self._joined:
            joined.sorter.stop()
            joined.queue.wake()

    async def settle(self) -> None:
        """Return when nothing is held any more, or after a while."""
        if joined := self._joined:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(SETTLE_S):
                    await joined.sorter.ended()
                    await joined.leases.settle()

    def owns(self, publication: Publication) -> bool:
        """Tell whether a message came from here."""
        return publication.session in OURS

    def ack(self, publication: Publication) -> None:
        """Forget a message, as it is dealt with."""
        if self._joined and self._joined.leases.end(publication):
            self.wake()

    def give_back(self, publication: Publication) -> None:
        """Let another node have it, at once."""
        if self._joined:
            self._joined.leases.end(publication, give_back=True)

    def keep(
        self, publication: Publication, finals: Sequence[Outgoing]
    ) -> asyncio.Future[Sequence[Outgoing]] | None:
        """Remember an answer for all nodes; the future has what is to be said."""
        if self._joined is None or publication.session != SESSION_OF_WORK:
            return None
        return self._joined.leases.start(self._keep(self._joined, publication, finals))

    def cancel(self, request_id: str) -> None:
        """Hear that a request is not wanted any more, wherever it waits."""
        self._cancels[request_id] = time.time()
        self._cancels.move_to_end(request_id)
        if len(self._cancels) > MAX_CANCELS:
            self._cancels.popitem(last=False)
        if joined := self._joined:
            joined.leases.start(joined.sorter.withdraw(request_id, self._take))

    def follow(self, routes: Sequence[Route]) -> None:
        """Bring the presses of these routes from now on, and of no others."""
        self._routes = routes
        if joined := self._joined:
            joined.leases.start(joined.presses.follow(routes, self._take))

    def forget(self, session: str) -> None:
        """Hear that a conversation is to be forgotten."""
        if joined := self._joined:
            joined.leases.start(joined.sessions.forget(session))

    def wake(self) -> None:
        """Look for work: this node may have room now."""
        if self._joined:
            self._joined.queue.wake()

    def _join(self, client: Any) -> _Joined:
        names, desk = self._names, self._desk
        peers = Peers(client, names, self._node, desk.models, self._outage)
        queue = WorkQueue(
            client, names, self._settings, self._node, models=desk.models, others=peers.others
        )
        sessions = FleetSessions(client, names, self._node)
        leases = Leases(self._settings.lease_s, sessions)
        sorter = Sorter(
            client,
            names,
            desk,
            queue=queue,
            leases=leases,
            sessions=sessions,
            peers=peers,
            max_waiting=self._settings.max_waiting,
            serve=lambda item, request: self._serve(queue, leases, item, request),
        )
        report = FleetReport(
            client, names, lambda: queue.num_waiting, lambda: leases.num_work, self._tell
        )
        answers = FleetAnswers(client, names)
        presses = Presses(client, names, queue, desk)
        return _Joined(queue, answers, sessions, leases, sorter, presses, peers, report)

    async def _work(self, joined: _Joined) -> None:
        from nats.errors import Error

        unable_since: float | None = None
        while not self._is_leaving:
            end_if_cancelled()
            unable_since = self._hand_back_if_unable(joined, unable_since)
            item = await joined.queue.take() if self._desk.has_room() else None
            if item is None:
                await joined.queue.news(TICK_S)
                continue
            self._is_beginning = True
            try:
                await self._begin(joined, item)
            except (Error, TimeoutError) as exc:
                log.warning("fleet.not_begun", reason=str(exc) or type(exc).__name__)
                self.give_back(item.publication)  # else its lease would be extended for ever
            finally:
                self._is_beginning = False

    def _hand_back_if_unable(self, joined: _Joined, since: float | None) -> float | None:
        """Let others have what this node can't go on with; return since when it can't."""
        if self._desk.is_able() or not joined.leases.num_work:
            return None
        now = time.monotonic()
        if since is None:
            return now
        if now - since >= UNABLE_S:
            log.info("fleet.handing_back", num_requests=joined.leases.num_work)
            self._desk.hand_back()
            return None
        return since

    def _serve(self, queue: WorkQueue, leases: Leases, item: Item, request: Sorted) -> bool:
        """Answer what was just sorted, if it would not wait at all; tell whether that is so.

        It saves a request in an idle fleet the way through the queue, which is two writes to most
        servers. It is held as if it came from there, and one that was handed out before goes there.
        """
        is_for_us = (
            request.session is None
            and request.node in (None, self._node)
            and (request.model is None or request.model in self._desk.models())
        )
        is_free = self._desk.has_room() and not (self._is_leaving or self._is_beginning)
        if item.publication.dup or not (is_for_us and is_free) or queue.has_work():
            return False
        item.request_id = request.request_id
        leases.answer(item)
        self._take_in(item)
        return True

    async def _begin(self, joined: _Joined, item: Item) -> None:
        publication = item.publication
        if item.session is not None and not await joined.sessions.lock(item.session):
            item.session = None  # the lock isn't ours to give back
            await item.message.nak(delay=SESSION_BUSY_S)
            return
        joined.leases.hold(item)
        if publication.dup and (answered := await joined.answers.find(_name(publication))):
            log.info("fleet.answer_repeated", topic=publication.topic)
            if item.session is not None and answered.turns:
                await joined.sessions.save(item.session, answered.turns)
            self._desk.say(answered.finals, publication)
            return
        if item.session is not None:
            held = await joined.sessions.load(item.session)
            self._desk.remember(item.session, held.turns if held else ())
        # Any more: the node was told to drain, say.
        if self._is_leaving or not self._desk.has_room():
            self.give_back(publication)
            return
        self._take_in(item)

    def _take_in(self, item: Item) -> None:
        self._take(item.publication)
        if self._cancels.get(item.request_id, 0.0) > item.arrived_at:
            self._desk.cancel(item.request_id)

    async def _keep(
        self, joined: _Joined, publication: Publication, finals: Sequence[Outgoing]
    ) -> Sequence[Outgoing]:
        from nats.errors import Error

        item = joined.leases.find(publication)
        session = item.session if item else None
        turns = self._desk.turns(session) if session is not None else ()
        answered = Answered(finals, turns, item.arrived_at if item else 0.0)
        told = False
        while True:
            try:
                kept = await joined.answers.keep(
                    _name(publication),
                    answered,
                    may_be_resent=publication.qos > 0
                    and self._outage.may_concern(answered.arrived_at),
                )
                if session is not None:
                    await joined.sessions.save(session, kept.turns)
            except (Error, TimeoutError) as exc:
                # Not said before it is kept: another node may have answered while we were cut off.
                if not told:
                    log.warning("fleet.answer_not_kept", reason=str(exc) or type(exc).__name__)
                told = True
                await asyncio.sleep(KEEP_AGAIN_S)
            else:
                return kept.finals

    async def _set_up(self, client: Any) -> None:
        from nats.errors import Error

        told = False
        while True:
            try:
                await set_up(client, self._names, self._settings)
            except (Error, TimeoutError) as exc:
                reason = str(exc) or type(exc).__name__
                if not told:  # servers that have just been started elect a leader first
                    log.warning("fleet.not_ready", reason=reason, do="it is tried again")
                told = True
                await asyncio.sleep(RETRY_S)
            else:
                return

    async def _hear_replaced(self, message: Any) -> None:
        self._desk.replace(message.data.decode(errors="replace"))

    def _tell(self) -> None:
        for watcher in tuple(self.on_change):
            watcher()


def _name(publication: Publication) -> str:
    """Name a request among all that there were, also those with the same words."""
    digest = make_key(publication.topic, publication.payload)  # a new stream counts from 1 again
    return f"{digest.hex()}.{publication.packet_id}"
