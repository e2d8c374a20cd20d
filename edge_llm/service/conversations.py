"""Sessions as requests use them: one turn at a time, each with what was said before.

The history is read when a request's turn in its session has come, as the answer before it is part
of it.
"""

import asyncio
from collections import Counter
from dataclasses import dataclass

from edge_llm.errors import ExpiredError, QueueFullError
from edge_llm.protocol import Message, MqttRequest
from edge_llm.store import Sessions

__all__ = ["Conversations", "Turn"]

RETRY_AFTER_S = 5.0


@dataclass(frozen=True, slots=True)
class Turn:
    """One request's turn in its session; must be ended."""

    name: str
    num_resets: int
    history: tuple[Message, ...]
    """The session's turns, then the request's own."""
    request: MqttRequest
    """With the history."""


class Conversations:
    """The sessions of a node.

    Args:
        sessions: where they are kept.
        limit: most requests that may wait in one session.
    """

    def __init__(self, sessions: Sessions, limit: int) -> None:
        self._sessions = sessions
        self._limit = limit
        self._locks: dict[str, asyncio.Lock] = {}
        self._num_inside: Counter[str] = Counter()  # that wait for a lock or have it
        self._num_resets: Counter[str] = Counter()

    async def begin(self, request: MqttRequest) -> Turn | None:
        """Wait for the request's turn in its session; None if it has none.

        Raises:
            ExpiredError: the turn did not come within the request's time to live.
            QueueFullError: too many wait in this session.
        """
        name = request.session
        if name is None:
            return None
        if self._num_inside[name] > self._limit:
            raise QueueFullError(
                f"{self._limit} requests are waiting in session {name!r}, as many as may",
                retry_after_s=RETRY_AFTER_S,
            )
        self._num_inside[name] += 1
        try:
            async with asyncio.timeout(request.ttl_s):
                await self._locks.setdefault(name, asyncio.Lock()).acquire()
        except BaseException as exc:
            self._leave(name)
            if isinstance(exc, TimeoutError):
                raise ExpiredError(f"session {name!r} was busy for {request.ttl_s} s") from exc
            raise
        turns = request.conversation
        system = tuple(turn for turn in turns if turn.role in ("system", "developer"))
        said = (*self._sessions.turns(name), *(turn for turn in turns if turn not in system))
        full = {"prompt": None, "messages": (*system, *said), "overflow": "drop_oldest"}
        return Turn(name, self._num_resets[name], said, request.model_copy(update=full))

    def end(self, turn: Turn, answer: Message | None, num_dropped: int = 0) -> None:
        """Remember what was said, if anything was, and let the next one have its turn.

        Args:
            turn: which is over.
            answer: what was said; if nothing was, nothing is remembered.
            num_dropped: oldest messages that the context had no room for; they are forgotten.
        """
        if answer and turn.num_resets == self._num_resets[turn.name]:
            kept = (*turn.history, answer)
            self._sessions.keep(turn.name, kept[num_dropped:])
        self._locks[turn.name].release()
        self._leave(turn.name)

    def reset(self, name: str) -> None:
        """Forget a conversation, also the turn that is being answered."""
        self._sessions.reset(name)
        if self._num_inside[name]:
            self._num_resets[name] += 1

    def _leave(self, name: str) -> None:
        self._num_inside[name] -= 1
        if not self._num_inside[name]:  # names come from outside, and must not pile up
            del self._num_inside[name]
            self._num_resets.pop(name, None)
            self._locks.pop(name, None)
