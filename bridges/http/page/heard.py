"""An engine that is elsewhere, and what passes through here on its way to it."""

import asyncio
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing

from edge_llm.engine import Engine, EngineState, EngineStats
from edge_llm.errors import EdgeLLMError
from edge_llm.protocol import ChatRequest, Delta, Done, Event, Message, ModelInfo, Started, Timing

__all__ = ["HeardEngine"]


class HeardEngine:
    """Generates as another engine does, and tells of it what an engine of this process would.

    Args:
        engine: the other one.
        stats: whom to tell.
    """

    def __init__(self, engine: Engine, stats: EngineStats) -> None:
        self._engine, self._stats = engine, stats

    @property
    def state(self) -> EngineState:
        """The other's."""
        return self._engine.state

    @property
    def activity(self) -> str:
        """The other's."""
        return self._engine.activity

    @property
    def models(self) -> tuple[ModelInfo, ...]:
        """The other's."""
        return self._engine.models

    async def ready(self) -> tuple[ModelInfo, ...]:
        """Wait for the other; see ``Engine.ready``."""
        return await self._engine.ready()

    def prepare(self, conversations: Sequence[Sequence[Message]]) -> None:
        """Tell the other; see ``Engine.prepare``."""
        self._engine.prepare(conversations)

    async def generate(self, request: ChatRequest) -> AsyncGenerator[Event]:
        """Pass on what the other yields; see ``Engine.generate``.

        Raises:
            EdgeLLMError: the other's.
        """
        clock, number = _Clock(), self._stats.take(request)
        outcome = "internal"
        done: Done | None = None
        try:
            async with aclosing(self._engine.generate(request)) as events:
                async for event in events:
                    if isinstance(event, Done):
                        done, outcome = event, event.finish_reason
                    else:
                        clock.note(event)
                        self._stats.hear(number, request, event)
                    yield event
        except EdgeLLMError as exc:
            outcome = exc.code
            raise
        except (asyncio.CancelledError, GeneratorExit):
            outcome = outcome if done else "cancelled"
            raise
        finally:
            timing = done.timing if done and done.timing.total_s else clock.timing()
            self._stats.note(outcome, timing, done.usage if done else None, number=number)


class _Clock:
    """When what came, for requests that the other engine does not time."""

    def __init__(self) -> None:
        self._at = time.monotonic()
        self._started_s = 0.0
        self._first_s: float | None = None

    def note(self, event: Event) -> None:
        if isinstance(event, Started):
            self._started_s = self._since()
        elif isinstance(event, Delta) and event.text and self._first_s is None:
            self._first_s = self._since()

    def timing(self) -> Timing:
        return Timing(queue_s=self._started_s, ttft_s=self._first_s, total_s=self._since())

    def _since(self) -> float:
        return round(time.monotonic() - self._at, 3)
