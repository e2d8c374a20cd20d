"""The work queue: what waits for a node of the fleet, taken one at a time.

There is a consumer for each kind of request: for whom it is, and its priority. A node that is free
asks those that it may serve, the most urgent first, and holds what it is given by a lease that it
extends while it works. The servers say nothing of what came in where nobody asked for it, so every
node listens to what is published, and looks at the whole once a second for what it missed.
"""

import asyncio
import contextlib
import json
import time
from collections.abc import Callable, Collection
from typing import Any

import structlog

from edge_llm.fleet.item import ARRIVED, QOS, SESSION_OF_WORK, TOPIC, Item, make_publication
from edge_llm.fleet.names import ANY, FleetNames, Ticket
from edge_llm.settings import FleetSettings

__all__ = ["WorkQueue"]

log = structlog.get_logger()

LOOK_EVERY_S = 1.0
ASK_TIMEOUT_S = 2.0
NO_WAIT = json.dumps({"batch": 1, "no_wait": True}).encode()


class WorkQueue:
    """What waits for a node of the fleet.

    Args:
        client: of NATS.
        names: of the fleet.
        settings: of the fleet.
        node: our own name.
        may_serve: the classes of requests that this node can take now, besides those for itself.
    """

    def __init__(
        self,
        client: Any,
        names: FleetNames,
        settings: FleetSettings,
        node: str,
        may_serve: Callable[[], Collection[str]],
    ) -> None:
        self._client, self._js, self._names = client, client.jetstream(), names
        self._settings, self._ours = settings, names.of_node(node)
        self._may_serve = may_serve
        self._waiting: dict[Ticket, float] = {}  # perhaps, and since when we think so
        self._consumers: set[Ticket] = set()
        self._news = asyncio.Event()
        self.num_waiting = 0
        """As of the last look."""

    async def listen(self) -> None:
        """Hear of what comes in, and look at the whole now and then, for ever."""
        subscription = await self._client.subscribe(self._names.work_subjects, cb=self._hear)
        try:
            while True:
                await self._look()
                await asyncio.sleep(LOOK_EVERY_S)
        finally:
            await subscription.unsubscribe()

    async def put(
        self, ticket: Ticket, payload: bytes, *, topic: str, qos: int, arrived_at: float, key: str
    ) -> None:
        """Let a request wait; one with the same key, that comes again within two minutes, does not.

        Raises:
            nats.errors.Error: it was not taken.
        """
        await self._ensure(ticket)
        headers = {TOPIC: topic, QOS: str(qos), ARRIVED: f"{arrived_at:.3f}", "Nats-Msg-Id": key}
        await self._js.publish(self._names.subject(ticket), payload, headers=headers)

    async def take(self) -> Item | None:
        """Return the most urgent request that this node may serve now, if there is one."""
        from nats.errors import Error

        for ticket in self._choose():
            try:
                message = await self._ask(ticket)
            except (Error, TimeoutError) as exc:
                log.debug("fleet.ask_failed", reason=str(exc) or type(exc).__name__)
                return None
            if message is not None:
                return self._item(message)
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
        now, serving = time.monotonic(), {ANY, self._ours, *self._may_serve()}
        patient = [
            ticket
            for ticket, since in self._waiting.items()
            if ticket.who in serving
            # What was to go to another node first, and was not taken there.
            or (ticket.who.startswith("node-") and now - since > self._settings.session_wait_s)
        ]
        return sorted(patient, key=lambda t: (-t.priority, t.who != self._ours, t.who))

    async def _ask(self, ticket: Ticket) -> Any | None:
        await self._ensure(ticket)
        subject = f"$JS.API.CONSUMER.MSG.NEXT.{self._names.work}.{self._names.consumer(ticket)}"
        # By an inbox of its own: what is delivered keeps its subject, by which others are told.
        message = await self._client.request(
            subject, NO_WAIT, timeout=ASK_TIMEOUT_S, old_style=True
        )
        is_status = message.headers and "Status" in message.headers
        return None if is_status else message

    async def _ensure(self, ticket: Ticket) -> None:
        """Make the consumer of a kind of request; does nothing if it is there."""
        if ticket in self._consumers:
            return
        from nats.js.api import AckPolicy, ConsumerConfig

        await self._js.add_consumer(
            self._names.work,
            ConsumerConfig(
                durable_name=self._names.consumer(ticket),
                filter_subject=self._names.subject(ticket),
                ack_policy=AckPolicy.EXPLICIT,
                ack_wait=self._settings.lease_s,
            ),
        )
        self._consumers.add(ticket)

    def _item(self, message: Any) -> Item:
        headers = message.headers or {}
        topic, qos = headers.get(TOPIC, ""), int(headers.get(QOS, "1"))
        arrived_at = float(headers.get(ARRIVED, time.time()))
        publication = make_publication(message, topic, SESSION_OF_WORK, qos, arrived_at)
        return Item(message, publication, arrived_at)

    async def _hear(self, message: Any) -> None:
        if ticket := self._names.ticket(message.subject):
            self._waiting.setdefault(ticket, time.monotonic())
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
