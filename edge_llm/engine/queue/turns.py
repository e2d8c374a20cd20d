"""Whose turn it is: one request runs, the others wait, or are paused in the middle.

Those that wait go in order of priority, then of arrival. A request that may preempt does not wait
for one of lower priority: that one is paused, and goes on when no request of a higher priority
waits any more. So those that are paused are a stack, the highest priority on top, and whoever runs
has a higher one than all of them.

A hold lets no request begin or go on, whatever its priority; there may be several, each for a
reason of its own.
"""

import asyncio
import bisect
import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from edge_llm.engine.gate import Gate
from edge_llm.errors import QueueFullError
from edge_llm.protocol import ChatRequest

__all__ = ["Turn", "Turns"]


@dataclass(order=True, slots=True)
class Turn:
    """One request on its way: it waits, it runs, or it is paused."""

    rank: tuple[int, int]  # priority (highest first), then arrival
    gate: Gate = field(default_factory=Gate, compare=False)
    position: int = field(default=0, compare=False)
    """Its place among those that wait; 0 from when its turn has come."""
    moved: asyncio.Event = field(default_factory=asyncio.Event, compare=False)
    must_pause: bool = field(default=False, compare=False)
    """It may end its sentence, and is to be paused then."""

    @property
    def priority(self) -> int:
        """Higher goes first."""
        return -self.rank[0]

    def move_to(self, position: int) -> None:
        """Take another place, and wake whoever waits for that."""
        if position != self.position:
            self.position = position
            self.moved.set()


class Turns:
    """Gives turns.

    Args:
        limit: most requests that may wait.
        on_change: called when the numbers of those that wait or run have changed.
    """

    def __init__(self, limit: int, on_change: Callable[[], None]) -> None:
        self.limit = limit
        self._on_change = on_change
        self._waiting: list[Turn] = []  # in the order of their turns
        self._paused: list[Turn] = []
        self._running: Turn | None = None
        self._arrivals = itertools.count()
        self._holds: dict[str, None] = {}
        self._min_priority = 0

    @property
    def running(self) -> Turn | None:
        """Whoever has the turn."""
        return self._running

    @property
    def num_waiting(self) -> int:
        """How many wait for their turn; those that are paused have had it."""
        return len(self._waiting)

    @property
    def num_begun(self) -> int:
        """How many have had their turn, and have not ended."""
        return len(self._paused) + bool(self._running)

    @property
    def holds(self) -> tuple[str, ...]:
        """Why nobody is given a turn."""
        return tuple(self._holds)

    @contextmanager
    def take(self, request: ChatRequest, retry_after_s: Callable[[], float]) -> Iterator[Turn]:
        """Stand in line until the context is left.

        Raises:
            QueueFullError: as many wait as may.
        """
        turn = Turn((-request.priority, next(self._arrivals)))
        if self._running and request.preempt and turn.priority > self._running.priority:
            self.pause()
        elif not self._can_begin(turn) and len(self._waiting) >= self.limit:
            raise QueueFullError(
                f"{len(self._waiting)} requests are waiting, which is as many as may",
                retry_after_s=retry_after_s(),
            )
        bisect.insort(self._waiting, turn)
        self._call_next()
        try:
            yield turn
        finally:
            self._leave(turn)

    def hold(self, reason: str) -> None:
        """Give no turns any more; whoever has it keeps it."""
        self._holds[reason] = None
        self._call_next()

    def release(self, reason: str) -> None:
        """Give turns again, if there is no other reason not to."""
        self._holds.pop(reason, None)
        if not self._holds and self._running:
            self._running.must_pause = False
        self._call_next()

    def pause(self) -> None:
        """Take the turn from whoever has it; it goes on when nobody of more importance waits."""
        if turn := self._running:
            turn.must_pause = False
            turn.gate.close()
            self._paused.append(turn)
            self._running = None
            self._on_change()

    def require(self, min_priority: int) -> None:
        """Give turns only to requests of this priority and above."""
        self._min_priority = min_priority
        self._call_next()

    def _can_begin(self, turn: Turn) -> bool:
        """Whether a newcomer would have its turn at once."""
        return not (self._running or self._holds) and turn.priority >= self._min_priority

    def _leave(self, turn: Turn) -> None:
        if self._running is turn:
            self._running = None
        elif turn in self._paused:
            self._paused.remove(turn)
        else:
            self._waiting.remove(turn)
        self._call_next()

    def _call_next(self) -> None:
        """Give the turn to whoever it is due to, if it is free, and tell the others their places.

        It is taken here and not when the request wakes, so that no newcomer slips in between.
        """
        if not self._running and not self._holds:
            first = self._waiting[0] if self._waiting else None
            if self._paused and not (first and first.priority > self._paused[-1].priority):
                self._running = self._paused.pop()
                self._running.gate.open()
            elif first and first.priority >= self._min_priority:
                self._running = self._waiting.pop(0)
                self._running.move_to(0)
        self._on_change()
        for place, turn in enumerate(self._waiting, 1):
            turn.move_to(place + sum(turn.priority <= paused.priority for paused in self._paused))
