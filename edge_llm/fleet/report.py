"""How a fleet is, as a node sees it: what waits, for how long, and what this node has in hand."""

import asyncio
import time
from collections.abc import Callable
from typing import Any

import structlog

from edge_llm.fleet.cancelled import end_if_cancelled
from edge_llm.fleet.item import ARRIVED
from edge_llm.fleet.names import FleetNames
from edge_llm.protocol import FleetHealth

__all__ = ["FleetReport"]

log = structlog.get_logger()

LOOK_EVERY_S = 1.0
TELL_EVERY_S = 5.0
"""While the number of those that wait goes up and down; whatever else changes is told at once."""


class FleetReport:
    """Looks how much waits, and tells when that has changed.

    Args:
        client: of NATS.
        names: of the fleet.
        num_left: says how many requests no node has answered yet.
        num_held: says how many requests this node has in hand.
        tell: called when there is something new.
    """

    def __init__(
        self,
        client: Any,
        names: FleetNames,
        num_left: Callable[[], int],
        num_held: Callable[[], int],
        tell: Callable[[], None],
    ) -> None:
        self._client, self._js, self._stream = client, client.jetstream(), names.work
        self._num_left, self._num_held, self._tell = num_left, num_held, tell
        self._waiting = 0
        self._oldest_at: float | None = None  # Unix seconds
        self._told: tuple[object, ...] = ()
        self._told_waiting, self._told_at = 0, 0.0
        self._said_held = False  # by whomever it was told, as others tell the health, too

    @property
    def health(self) -> FleetHealth:
        """What is known now."""
        held = self._num_held()
        self._said_held |= held > 0
        age_s = None if self._oldest_at is None else max(time.time() - self._oldest_at, 0.0)
        return FleetHealth(
            joined=self._client.is_connected,
            waiting=self._waiting,
            oldest_s=age_s and round(age_s, 1),
            held=held,
        )

    async def run(self) -> None:
        """Look, and look again, for ever."""
        from nats.errors import Error

        while True:
            try:
                await self._look()
            except (Error, TimeoutError) as exc:
                log.debug("fleet.count_failed", reason=str(exc) or type(exc).__name__)
            end_if_cancelled()
            self._tell_news()
            await asyncio.sleep(LOOK_EVERY_S)

    async def _look(self) -> None:
        if not self._num_left():  # nobody needs to be asked
            self._waiting, self._oldest_at = 0, None
            return
        consumers = await self._js.consumers_info(self._stream)
        pending = [consumer for consumer in consumers if consumer.num_pending]
        oldest = [await self._first(consumer) for consumer in pending]
        self._waiting = sum(consumer.num_pending for consumer in pending)
        self._oldest_at = min((at for at in oldest if at is not None), default=None)

    async def _first(self, consumer: Any) -> float | None:
        """Return when the first request of a kind that no node was given came to the fleet."""
        from nats.js.errors import NotFoundError

        begin, subject = consumer.delivered.stream_seq + 1, consumer.config.filter_subject
        try:
            message = await self._js.get_msg(self._stream, seq=begin, subject=subject, next=True)
        except NotFoundError:  # taken meanwhile
            return None
        return float((message.headers or {}).get(ARRIVED, time.time()))

    def _tell_news(self) -> None:
        is_free = self._said_held and not self._num_held()
        self._said_held = False
        health, now = self.health, time.monotonic()
        news = (health.joined, health.waiting > 0, health.held)
        is_due = now - self._told_at >= TELL_EVERY_S
        if is_free or news != self._told or (health.waiting != self._told_waiting and is_due):
            self._told, self._told_waiting, self._told_at = news, health.waiting, now
            self._tell()
