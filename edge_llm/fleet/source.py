"""A node's part in its fleet: it sorts what comes in, and takes work when it has room.

Sorting is quick and any node does it, also one that is busy: a request is read once to see for whom
it is and how urgent, and put into the work queue; one that is wrong is refused on the spot. Work is
taken one at a time, by nodes whose engine is free. What is held is extended until it is dealt with;
what a node that died held comes to another when its lease is over.
"""

import asyncio
import contextlib
import json
from collections.abc import Callable, Collection, Sequence
from typing import Any, Protocol

import structlog

from edge_llm.fleet.answers import FleetAnswers
from edge_llm.fleet.connection import connect_fleet
from edge_llm.fleet.item import (
    MQTT_QOS,
    SESSION_OF_REQUESTS,
    SESSION_OF_WORK,
    Item,
    make_publication,
)
from edge_llm.fleet.names import FleetNames, Ticket
from edge_llm.fleet.queue import WorkQueue
from edge_llm.fleet.setup import set_up
from edge_llm.mqtt import Publication
from edge_llm.outgoing import Outgoing
from edge_llm.settings import FleetSettings
from edge_llm.store import make_key

__all__ = ["Desk", "FleetSource"]

log = structlog.get_logger()

SORTER = "sorter"
SORT_LEASE_S = 10.0
LOOK_EVERY_S = 1.0
TICK_S = 0.25
RETRY_S = 0.2
ASK_TIMEOUT_S = 2.0
NO_WAIT = json.dumps({"batch": 1, "no_wait": True}).encode()


class Desk(Protocol):
    """What a node does with requests of its fleet."""

    def has_room(self) -> bool:
        """Tell whether it would begin with one at once."""
        ...

    def may_serve(self) -> Collection[str]:
        """Return the classes of requests that it can serve, besides those for any node."""
        ...

    def sort(self, publication: Publication) -> Ticket | None:
        """Say for whom a request is; None if it is to be refused here and now."""
        ...

    def refuse_full(self, publication: Publication) -> None:
        """Refuse a request, as too many wait."""
        ...

    def say(self, finals: Sequence[Outgoing], publication: Publication) -> None:
        """Publish final messages, and then acknowledge what they are for."""
        ...


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
        self._queue: WorkQueue | None = None
        self._held: dict[tuple[int, int], Item] = {}
        self._tasks: set[asyncio.Task[Any]] = set()
        self._unsorted = asyncio.Event()

    def serve(self, desk: "Desk") -> None:
        """Work for this desk."""
        self._desk = desk

    async def run(self, take: Callable[[Publication], None]) -> None:
        """Sort and take work, for ever.

        Raises:
            ConfigurationError: the servers have other settings of this fleet.
        """
        async with connect_fleet(self._settings, f"edge-llm-{self._node}") as client:
            await self._retry(lambda: set_up(client, self._names, self._settings))
            self._client, self._js = client, client.jetstream()
            self._answers = FleetAnswers(client, self._names)
            serving = self._desk.may_serve
            queue = WorkQueue(client, self._names, self._settings, self._node, serving)
            self._queue = queue
            log.info("fleet.joined", stream=self._names.work)
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(queue.listen(), name="fleet.listen")
                tasks.create_task(self._sort_all(queue, take), name="fleet.sort")
                tasks.create_task(self._extend(), name="fleet.leases")
                tasks.create_task(self._work(queue, take), name="fleet.work")

    def owns(self, publication: Publication) -> bool:
        """Tell whether a message came from here."""
        return publication.session in (SESSION_OF_REQUESTS, SESSION_OF_WORK)

    def ack(self, publication: Publication) -> None:
        """Forget a message, as it is dealt with."""
        if item := self._held.pop(_key(publication), None):
            self._start(item.message.ack())
            self.wake()

    def give_back(self, publication: Publication) -> None:
        """Let another node have it, at once."""
        if item := self._held.pop(_key(publication), None):
            self._start(item.message.nak())

    def keep(
        self, publication: Publication, finals: Sequence[Outgoing]
    ) -> asyncio.Future[Sequence[Outgoing]]:
        """Remember an answer for all nodes; the future has what is to be said."""
        if publication.session != SESSION_OF_WORK:
            known: asyncio.Future[Sequence[Outgoing]] = asyncio.get_running_loop().create_future()
            known.set_result(finals)
            return known
        return self._start(self._keep(publication, finals))

    def wake(self) -> None:
        """Look for work: this node may have room now."""
        if self._queue:
            self._queue.wake()

    async def _keep(
        self, publication: Publication, finals: Sequence[Outgoing]
    ) -> Sequence[Outgoing]:
        from nats.errors import Error

        try:
            return await self._answers.keep(_answer_key(publication), finals)
        except (Error, TimeoutError) as exc:
            # It is said all the same; only if we die before it is acknowledged, another text comes.
            log.warning("fleet.answer_not_kept", reason=str(exc) or type(exc).__name__)
            return finals

    async def _work(self, queue: WorkQueue, take: Callable[[Publication], None]) -> None:
        while True:
            item = await queue.take() if self._desk.has_room() else None
            if item is None:
                await queue.news(TICK_S)
                continue
            self._hold(item)
            if item.publication.dup and await self._is_answered(item):
                continue
            take(item.publication)

    async def _is_answered(self, item: Item) -> bool:
        """Say an answer again that was found, whoever gave it; tell whether there was one."""
        from nats.errors import Error

        try:
            finals = await self._answers.find(_answer_key(item.publication))
        except (Error, TimeoutError):
            finals = None
        if not finals:
            return False
        log.info("fleet.answer_repeated", topic=item.publication.topic)
        self._desk.say(finals, item.publication)
        return True

    async def _sort_all(self, queue: WorkQueue, take: Callable[[Publication], None]) -> None:
        from nats.errors import Error
        from nats.js.api import AckPolicy, ConsumerConfig

        subscription = await self._client.subscribe(self._names.request_subjects, cb=self._hear)
        try:
            config = ConsumerConfig(
                durable_name=SORTER, ack_policy=AckPolicy.EXPLICIT, ack_wait=SORT_LEASE_S
            )
            await self._retry(lambda: self._js.add_consumer(self._names.requests, config))
            while True:
                self._unsorted.clear()
                try:
                    if await self._sort_one(queue, take):
                        continue
                except (Error, TimeoutError) as exc:
                    log.debug("fleet.sort_failed", reason=str(exc) or type(exc).__name__)
                    await asyncio.sleep(RETRY_S)
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._unsorted.wait(), LOOK_EVERY_S)
        finally:
            await subscription.unsubscribe()

    async def _sort_one(self, queue: WorkQueue, take: Callable[[Publication], None]) -> bool:
        """Sort the next request; tell whether there was one."""
        subject = f"$JS.API.CONSUMER.MSG.NEXT.{self._names.requests}.{SORTER}"
        message = await self._client.request(
            subject, NO_WAIT, timeout=ASK_TIMEOUT_S, old_style=True
        )
        headers = message.headers or {}
        if "Status" in headers:
            return False
        meta = message.metadata
        arrived_at = meta.timestamp.timestamp()
        topic, qos = self._names.topic(message.subject), int(headers.get(MQTT_QOS, "1"))
        publication = make_publication(message, topic, SESSION_OF_REQUESTS, qos, arrived_at)
        item = Item(message, publication, arrived_at)
        self._hold(item)
        ticket = self._desk.sort(publication)
        if ticket is None:
            take(publication)
        elif queue.num_waiting >= self._settings.max_waiting:
            self._desk.refuse_full(publication)
        else:
            await queue.put(
                ticket,
                publication.payload,
                topic=topic,
                qos=qos,
                arrived_at=arrived_at,
                key=f"{meta.stream}-{meta.sequence.stream}",
            )
            self.ack(publication)
        return True

    async def _extend(self) -> None:
        """Keep what is held, for ever."""
        every_s = min(self._settings.lease_s, SORT_LEASE_S) / 3
        while True:
            await asyncio.sleep(every_s)
            for item in tuple(self._held.values()):
                self._start(item.message.in_progress())

    async def _retry(self, call: Callable[[], Any]) -> None:
        from nats.errors import Error

        while True:
            try:
                await call()
            except (Error, TimeoutError) as exc:
                log.warning("fleet.set_up_failed", reason=str(exc) or type(exc).__name__)
                await asyncio.sleep(LOOK_EVERY_S)
            else:
                return

    async def _hear(self, _message: Any) -> None:
        self._unsorted.set()

    def _hold(self, item: Item) -> None:
        self._held[_key(item.publication)] = item

    def _start(self, coroutine: Any) -> asyncio.Task[Any]:
        """Do something that the caller does not wait for; the loop itself keeps no task alive."""
        task: asyncio.Task[Any] = asyncio.ensure_future(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._end)
        return task

    def _end(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()):
            log.debug("fleet.not_told", reason=str(error) or type(error).__name__)


def _key(publication: Publication) -> tuple[int, int]:
    return publication.session, publication.packet_id


def _answer_key(publication: Publication) -> str:
    """Name a request among all that there were, also those with the same words."""
    digest = make_key(publication.topic, publication.payload)  # a new stream counts from 1 again
    return f"{digest.hex()}-{publication.packet_id}"
