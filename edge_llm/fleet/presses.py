"""Buttons without code, in a fleet: each press is heard by one node, and waits as a request does.

The presses of one route are answered one after another, by whichever node is free: its consumer
hands out one at a time. So it can be said of the whole fleet whether a route is busy.
"""

import itertools
import uuid
from collections.abc import Callable, Sequence
from typing import Any

import structlog

from edge_llm.errors import QueueFullError
from edge_llm.fleet.desk import Desk
from edge_llm.fleet.item import SESSION_OF_REQUESTS, make_item
from edge_llm.fleet.names import FleetNames, Ticket
from edge_llm.fleet.queue import WorkQueue
from edge_llm.mqtt import Publication
from edge_llm.route import Route

__all__ = ["Presses"]

log = structlog.get_logger()


class Presses:
    """Hears presses, and puts them into the work queue.

    Args:
        client: of NATS.
        names: of the fleet.
        queue: where they wait.
        desk: reads and refuses them.
    """

    def __init__(self, client: Any, names: FleetNames, queue: WorkQueue, desk: Desk) -> None:
        self._client, self._names, self._queue, self._desk = client, names, queue, desk
        self._subscriptions: list[Any] = []
        self._numbers = itertools.count(1)  # or two presses with the same words would be copies

    async def follow(self, routes: Sequence[Route], take: Callable[[Publication], None]) -> None:
        """Listen to the topics of these routes from now on, and to no others.

        Args:
            routes: as in the settings.
            take: deals with a press here and now.
        """
        before, self._subscriptions = self._subscriptions, []
        for route in routes:

            async def hear(message: Any, route: Route = route) -> None:
                await self._hear(route, message, take)

            group = f"{self._names.presses}-{route.id}"
            for subject in _subjects(route.topic):
                self._subscriptions.append(
                    await self._client.subscribe(subject, queue=group, cb=hear)
                )
        for subscription in before:
            await subscription.unsubscribe()

    async def _hear(self, route: Route, message: Any, take: Callable[[Publication], None]) -> None:
        from nats.errors import Error

        item = make_item(
            message,
            self._names.topic(message.subject),
            origin=SESSION_OF_REQUESTS,
            qos=route.qos,
            arrived_at=None,
            seq=next(self._numbers),
            route=route.id,
        )
        try:
            await self._sort(route, item, take)
        except (Error, TimeoutError) as exc:
            log.warning("fleet.press_lost", route=route.id, reason=str(exc) or type(exc).__name__)

    async def _sort(self, route: Route, item: Any, take: Callable[[Publication], None]) -> None:
        publication = item.publication
        request = self._desk.sort(publication)
        if request is None:
            take(publication)
            return
        ticket = Ticket(self._names.of_route(route.id), request.priority)
        num_before = await self._queue.count(ticket)
        if num_before and route.while_busy == "drop":
            log.debug("route.ignored", route=route.id)
            return
        if num_before and route.while_busy == "replace":
            await self._queue.purge(ticket)
            await self._client.publish(self._names.replaced, route.id.encode())
        elif num_before > route.max_queued:
            full = QueueFullError(f"{route.max_queued} presses are waiting, as many as may")
            self._desk.refuse(full, publication)
            return
        await self._queue.put(ticket, item, request, key=uuid.uuid4().hex)


def _subjects(topic_filter: str) -> Sequence[str]:
    """Return the subjects of a topic filter; MQTT's ``a/#`` is for ``a``, too."""
    subject = topic_filter.replace("/", ".").replace("+", "*").replace("#", ">")
    return (subject, subject.removesuffix(".>")) if subject.endswith(".>") else (subject,)
