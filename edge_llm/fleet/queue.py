"""The work queue: what waits for a node of the fleet, taken one at a time.

There is a consumer for each kind of request: for whom it is, and its priority. A node that is free
asks those that it may serve, the most urgent first, and holds what it is given by a lease that it
extends while it works. The servers say nothing of what came in where nobody asked for it, so every
node listens to what is published, and looks at the whole twice a second for what it missed.
"""

import asyncio
import contextlib
import json
import time
from collections.abc import Callable, Collection
from typing import Any

import structlog

from edge_llm.fleet.cancelled import end_if_cancelled
from edge_llm.fleet.consumers import ensure_consumer
from edge_llm.fleet.desk import Sorted
from edge_llm.fleet.item import (
    AGAIN,
    ARRIVED,
    ID,
    QOS,
    SESSION,
    SESSION_OF_CANCELLED,
    SESSION_OF_WORK,
    TOPIC,
    Item,
    make_item,
)
from edge_llm.fleet.item import ROUTE as ROUTE_HEADER
from edge_llm.fleet.names import ANY, NODE, ROUTE, USUAL_PRIORITY, FleetNames, Ticket
from edge_llm.settings import FleetSettings

__all__ = ["WorkQueue"]

log = structlog.get_logger()

LOOK_EVERY_S = 0.5
FRESH_S = 0.3
"""Since a request was heard of, which may not be in all copies of the stream by then."""
ASK_TIMEOUT_S = 2.0
NO_WAIT = json.dumps({"batch": 1, "no_wait": True}).encode()
SHORT_WAIT = json.dumps({"batch": 1, "expires": 100_000_000}).encode()  # in nanoseconds


class WorkQueue:
    """What waits for a node of the fleet.

    Args:
        client: of NATS.
        names: of the fleet.
        settings: of the fleet.
        node: our own name.
        models: what we serve.
        others: the classes of what goes to each of the other nodes first, that are there.
    """

    def __init__(
        self,
        client: Any,
        names: FleetNames,
        settings: FleetSettings,
        node: str,
        *,
        models: Callable[[], Collection[str]],
        others: Callable[[], Collection[str]],
    ) -> None:
        self._client, self._js, self._names = client, client.jetstream(), names
        self._settings, self._ours = settings, (names.of_node(node), names.only_node(node))
        self._models, self._others = models, others
        self._waiting: dict[Ticket, float] = {}  # perhaps, and since when we think so
        self._heard: dict[Ticket, float] = {}  # when we heard of the latest
        self._consumers: set[Ticket] = set()
        self._news = asyncio.Event()
        self.num_waiting = 0
        """As of the last look."""

    async def listen(self) -> None:
        """Hear of what comes in, and look at the whole now and then, for ever."""
        subscription = await self._client.subscribe(self._names.work_subjects, cb=self._hear)
        try:
            await self._prepare()
            while True:
                await self._look()
                end_if_cancelled()
                await asyncio.sleep(LOOK_EVERY_S)
        finally:
            await subscription.unsubscribe()

    async def put(self, ticket: Ticket, item: Item, request: Sorted, *, key: str) -> int:
        """Let a request wait; return its place in the stream.

        Args:
            ticket: for whom it is, and how urgent.
            item: as it came in.
            request: what was read of it.
            key: the same key again within two minutes is taken for the same request.

        Raises:
            nats.errors.Error: it was not taken.
        """
        await self._ensure(ticket)
        headers = {
            TOPIC: item.publication.topic,
            QOS: str(item.publication.qos),
            ARRIVED: f"{item.arrived_at:.3f}",
            ID: request.request_id,
            "Nats-Msg-Id": key,
        }
        if item.publication.dup:  # a node may have begun with it
            headers[AGAIN] = "1"
        if request.session is not None:
            headers[SESSION] = request.session
        if item.publication.route is not None:
            headers[ROUTE_HEADER] = item.publication.route
        payload, subject = item.publication.payload, self._names.subject(ticket)
        taken = await self._js.publish(subject, payload, headers=headers)
        return int(taken.seq)

    async def remove(self, ticket: Ticket, seq: int) -> Item | None:
        """Take a request out that no node has been given yet, and return it.

        Raises:
            nats.errors.Error: it could not be done.
        """
        from nats.js.errors import APIError

        consumer = self._names.consumer(ticket)
        try:
            told = await self._js.consumer_info(self._names.work, consumer)
            if told.delivered.stream_seq >= seq:
                return None
            message = await self._js.get_msg(self._names.work, seq)
            if not await self._js.delete_msg(self._names.work, seq):
                return None
        except APIError:  # it has gone
            return None
        return self._item(message, SESSION_OF_CANCELLED, seq, 1)

    async def count(self, ticket: Ticket) -> int:
        """Return how many requests of a kind wait or are being answered.

        Raises:
            nats.errors.Error: nobody could say.
        """
        who = self._names.subject(ticket).rpartition(".")[0]
        info = await self._js.stream_info(self._names.work, subjects_filter=f"{who}.*")
        return sum((info.state.subjects or {}).values())

    async def purge(self, ticket: Ticket) -> None:
        """Take out all requests of a kind, also those that are being answered.

        Raises:
            nats.errors.Error: it could not be done.
        """
        who = self._names.subject(ticket).rpartition(".")[0]
        await self._js.purge_stream(self._names.work, subject=f"{who}.*")

    def has_work(self) -> bool:
        """Tell whether something may wait that this node may serve, or is being asked for."""
        return bool(self._choose())

    async def take(self) -> Item | None:
        """Return the most urgent request that this node may serve now, if there is one."""
        from nats.errors import Error

        for ticket in self._choose():
            try:
                if self._is_for_another(ticket) and not await self._has_waited(ticket):
                    continue
                message = await self._ask(ticket)
            except (Error, TimeoutError) as exc:
                log.debug("fleet.ask_failed", reason=str(exc) or type(exc).__name__)
                return None
            if message is not None:
                meta = message.metadata
                return self._item(
                    message, SESSION_OF_WORK, meta.sequence.stream, meta.num_delivered
                )
            self._waiting.pop(ticket, None)
        return None

    async def news(self, timeout_s: float) -> None:
        """Return when something may have come in, or after a while."""
        self._news.clear()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._news.wait(), timeout_s)

    def wake(self) -> None:
        """Have ``news`` return: this node may be free now."""
        self._news.set()

    def _choose(self) -> list[Ticket]:
        """Return what to ask for, in order: by priority, and what is for us before the rest."""
        models = map(self._names.of_model, self._models())
        serving = {ANY, *self._ours, *models}
        possible = [
            ticket
            for ticket in self._waiting
            if ticket.who in serving or ticket.who.startswith((ROUTE, NODE))
        ]
        return sorted(possible, key=lambda t: (-t.priority, t.who not in self._ours, t.who))

    def _is_for_another(self, ticket: Ticket) -> bool:
        """Tell whether a conversation goes on best at another node that is there."""
        return ticket.who.startswith(NODE) and ticket.who in self._others()

    async def _has_waited(self, ticket: Ticket) -> bool:
        """Tell whether the first of these requests has waited for the other node long enough.

        Raises:
            nats.errors.Error: nobody could say.
        """
        from nats.js.errors import NotFoundError

        work = self._names.work
        try:
            told = await self._js.consumer_info(work, self._names.consumer(ticket))
            message = await self._js.get_msg(
                work,
                seq=told.delivered.stream_seq + 1,
                subject=self._names.subject(ticket),
                next=True,
            )
        except NotFoundError:  # all of them are in hand
            return False
        arrived_at = float((message.headers or {}).get(ARRIVED, 0.0))
        return time.time() - arrived_at > self._settings.session_wait_s

    async def _ask(self, ticket: Ticket) -> Any | None:
        await self._ensure(ticket)
        subject = f"$JS.API.CONSUMER.MSG.NEXT.{self._names.work}.{self._names.consumer(ticket)}"
        # By an inbox of its own: what is delivered keeps its subject, by which others are told.
        is_fresh = time.monotonic() - self._heard.get(ticket, 0.0) < FRESH_S
        wait = SHORT_WAIT if is_fresh else NO_WAIT
        message = await self._client.request(subject, wait, timeout=ASK_TIMEOUT_S, old_style=True)
        is_status = message.headers and "Status" in message.headers
        return None if is_status else message

    async def _ensure(self, ticket: Ticket) -> None:
        """Make the consumer of a kind of request; does nothing if it is there."""
        if ticket in self._consumers:
            return
        from nats.js.api import AckPolicy, ConsumerConfig

        await ensure_consumer(
            self._js,
            self._names.work,
            ConsumerConfig(
                durable_name=self._names.consumer(ticket),
                filter_subject=self._names.subject(ticket),
                ack_policy=AckPolicy.EXPLICIT,
                max_deliver=-1,  # as often as need be
                ack_wait=self._settings.lease_s,
                # A speaker says one thing at a time.
                max_ack_pending=1 if ticket.who.startswith(ROUTE) else None,
            ),
        )
        self._consumers.add(ticket)

    @staticmethod
    def _item(message: Any, origin: int, seq: int, num_delivered: int) -> Item:
        headers = message.headers or {}
        # One that was put into the queue twice is still one request: it goes by when it came in.
        came_in = headers.get("Nats-Msg-Id", "").rpartition("-")[2]
        return make_item(
            message,
            headers.get(TOPIC, ""),
            origin=origin,
            qos=int(headers.get(QOS, "1")),
            arrived_at=float(headers.get(ARRIVED, time.time())),
            num_delivered=num_delivered,
            seq=int(came_in) if came_in.isdigit() else seq,
        )

    async def _prepare(self) -> None:
        """Make the usual consumer: in a cluster that takes seconds, which the first would wait."""
        from nats.errors import Error

        try:
            await self._ensure(Ticket(ANY, USUAL_PRIORITY))
        except (Error, TimeoutError) as exc:
            log.debug("fleet.not_prepared", reason=str(exc) or type(exc).__name__)

    async def _hear(self, message: Any) -> None:
        if ticket := self._names.ticket(message.subject):
            now = time.monotonic()
            self._heard[ticket] = now
            self._waiting.setdefault(ticket, now)
            self._news.set()

    async def _look(self) -> None:
        from nats.errors import Error

        try:
            info = await self._js.stream_info(self._names.work, subjects_filter=">")
        except (Error, TimeoutError) as exc:
            log.debug("fleet.look_failed", reason=str(exc) or type(exc).__name__)
            return
        self.num_waiting = info.state.messages
        now, found = time.monotonic(), set()
        for subject in info.state.subjects or {}:
            if ticket := self._names.ticket(subject):
                found.add(ticket)
                self._waiting.setdefault(ticket, now)
        for gone in self._waiting.keys() - found:
            if now - self._waiting[gone] > LOOK_EVERY_S:
                del self._waiting[gone]
        if found:
            self._news.set()
