"""What the handlers of every dialect share: the engine, the names of its models, and the stop."""

import asyncio
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Self

import structlog
from aiohttp import web

from edge_llm.engine import Engine
from edge_llm.errors import EngineFailedError, ShuttingDownError, UnknownModelError
from edge_llm.protocol import (
    ChatRequest,
    Delta,
    Done,
    Event,
    ModelInfo,
    Queued,
    Started,
    TokenLogprob,
    ToolCall,
    join_tool_calls,
)
from edge_llm.settings import HttpSettings

__all__ = ["BRIDGE", "Bridge", "Reply", "dropped_header"]

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Reply:
    """A whole answer, for those who did not ask for a stream."""

    text: str
    reasoning: str
    done: Done
    tool_calls: tuple[ToolCall, ...] = ()
    logprobs: tuple[TokenLogprob, ...] = ()

    @classmethod
    def of(cls, deltas: Sequence[Delta], done: Done) -> Self:
        """Put the pieces together."""
        return cls(
            text="".join(delta.text for delta in deltas),
            reasoning="".join(delta.reasoning for delta in deltas),
            done=done,
            tool_calls=join_tool_calls(piece for delta in deltas for piece in delta.tool_calls),
            logprobs=tuple(token for delta in deltas for token in delta.logprobs),
        )


class Bridge:
    """One node's engine, as the handlers see it."""

    def __init__(self, engine: Engine, settings: HttpSettings, node: str) -> None:
        self.engine = engine
        self.node = node
        self.started_at = int(time.time())
        self._aliases = settings.model_aliases
        self._overflow = settings.overflow
        self._in_hand: set[_InHand] = set()
        self._changed = asyncio.Event()
        self.is_stopping = False

    def find_model(self, name: str | None) -> ModelInfo | None:
        """Return the model that is meant; none while the first one still loads.

        Raises:
            UnknownModelError: neither a model of this node, nor let through by an alias.
        """
        models = self.engine.models
        for model in models:
            if name == model.id:
                return model
        if name is None or not models or any(fnmatchcase(name, glob) for glob in self._aliases):
            return models[0] if models else None
        known = ", ".join(model.id for model in models)
        raise UnknownModelError(f"there is no model {name!r} (there are: {known})", param="model")

    @asynccontextmanager
    async def generate(self, chat: ChatRequest) -> AsyncGenerator[AsyncGenerator[Event]]:
        """Give the events of one request; leaving frees the engine.

        Raises:
            EdgeLLMError: the engine's, or ``ShuttingDownError`` when the bridge stops.
        """
        if self.is_stopping:
            raise ShuttingDownError("the node is stopping")
        if chat.overflow is None:
            chat = chat.model_copy(update={"overflow": self._overflow})
        hand = _InHand()
        try:
            async with (
                hand.limit,
                aclosing(self.engine.generate(chat)) as events,
                aclosing(_without_queue(events, hand)) as begun,
            ):
                self._in_hand.add(hand)
                yield begun
        except TimeoutError as exc:
            if not hand.limit.expired():
                raise
            raise ShuttingDownError("the node is stopping") from exc
        finally:
            self._in_hand.discard(hand)
            self._changed.set()

    async def answer(self, chat: ChatRequest) -> Reply:
        """Wait for the whole answer.

        Raises:
            EdgeLLMError: as for ``generate``.
        """
        deltas: list[Delta] = []
        done: Done | None = None
        async with self.generate(chat) as events:
            async for event in events:
                match event:
                    case Delta():
                        deltas.append(event)
                    case Done():
                        done = event  # and to the end, or the engine would see a cancel
        if done is None:
            raise EngineFailedError("the engine ended without a word about why")
        return Reply.of(deltas, done)

    async def stop(self, timeout_s: float) -> None:
        """Let answers that have begun end; refuse all others, with ``shutting_down``.

        Args:
            timeout_s: how long they may take; then they are ended in the same way.
        """
        self.is_stopping = True
        for hand in self._in_hand:
            if not hand.has_begun:
                hand.end()
        try:
            async with asyncio.timeout(timeout_s):
                while self._in_hand:
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            pass
        finally:
            for hand in self._in_hand:
                hand.end()


class _InHand:
    """A request whose events somebody reads."""

    def __init__(self) -> None:
        # A timeout without an end: when `end` gives it one, the task is cancelled just as a
        # client that goes away would do it, but asyncio keeps the two apart.
        self.limit = asyncio.timeout(None)
        self.has_begun = False

    def end(self) -> None:
        if self.limit.when() is None:
            self.limit.reschedule(asyncio.get_running_loop().time())


async def _without_queue(events: AsyncGenerator[Event], hand: _InHand) -> AsyncGenerator[Event]:
    """Leave out the places in the queue: HTTP has no word for them."""
    async for event in events:
        if isinstance(event, Queued):
            continue
        if isinstance(event, Started):
            hand.has_begun = True
            if event.dropped_messages:
                log.warning("conversation.cut", dropped_messages=event.dropped_messages)
        yield event


def dropped_header(event: Started | Done) -> dict[str, str]:
    """Make the header that says how many of the oldest messages were left out, if any were."""
    return {"X-Dropped-Messages": str(event.dropped_messages)} if event.dropped_messages else {}


BRIDGE = web.AppKey("bridge", Bridge)
