"""What the handlers of every dialect share: the engine, the names of its models, and the stop."""

import asyncio
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Self

from aiohttp import web

from edge_llm.engine import Engine
from edge_llm.errors import EngineFailedError, ShuttingDownError, UnknownModelError
from edge_llm.protocol import (
    ChatRequest,
    Delta,
    Done,
    Event,
    FunctionCall,
    ModelInfo,
    Queued,
    TokenLogprob,
    ToolCall,
)
from edge_llm.settings import HttpSettings

__all__ = ["BRIDGE", "Bridge", "Reply"]


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
        pieces = [piece for delta in deltas for piece in delta.tool_calls]
        calls = [
            ToolCall(
                id=first.id or "",
                function=FunctionCall(
                    name=first.name or "",
                    arguments="".join(p.arguments for p in pieces if p.index == first.index),
                ),
            )
            for first in pieces
            if first.name is not None
        ]
        return cls(
            text="".join(delta.text for delta in deltas),
            reasoning="".join(delta.reasoning for delta in deltas),
            done=done,
            tool_calls=tuple(calls),
            logprobs=tuple(token for delta in deltas for token in delta.logprobs),
        )


class Bridge:
    """One node's engine, as the handlers see it."""

    def __init__(self, engine: Engine, settings: HttpSettings, node: str) -> None:
        self.engine = engine
        self.node = node
        self.started_at = int(time.time())
        self._aliases = settings.model_aliases
        self._limits: set[asyncio.Timeout] = set()
        self._stopping = False

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
        if self._stopping:
            raise ShuttingDownError("the node is stopping")
        # A timeout without an end: when `stop` gives it one, the task is cancelled just as a
        # client that goes away would do it, but asyncio keeps the two apart.
        limit = asyncio.timeout(None)
        try:
            async with (
                limit,
                aclosing(self.engine.generate(chat)) as events,
                aclosing(_without_queue(events)) as begun,
            ):
                self._limits.add(limit)
                yield begun
        except TimeoutError as exc:
            if not limit.expired():
                raise
            raise ShuttingDownError("the node is stopping") from exc
        finally:
            self._limits.discard(limit)

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

    def stop(self) -> None:
        """End all requests in hand, and refuse new ones, with ``shutting_down``."""
        self._stopping = True
        for limit in self._limits:
            limit.reschedule(asyncio.get_running_loop().time())


async def _without_queue(events: AsyncGenerator[Event]) -> AsyncGenerator[Event]:
    """Leave out the places in the queue: HTTP has no word for them but its headers, later."""
    async for event in events:
        if not isinstance(event, Queued):
            yield event


BRIDGE = web.AppKey("bridge", Bridge)
