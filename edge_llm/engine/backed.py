"""An engine with a second one behind it, for when a person is needed to bring the first one back.

The second one is opened only then, so that it takes no memory before, and closed when the first
one works again and whatever it had in hand has ended. An answer that has begun does not change
over: another model would not say the rest of it.
"""

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, aclosing

import structlog

from edge_llm.engine.gate import Gate
from edge_llm.engine.interface import EngineState, PausableEngine
from edge_llm.engine.stats import EngineStats
from edge_llm.errors import DeviceUnavailableError, EdgeLLMError
from edge_llm.protocol import ChatRequest, Event, Message, ModelInfo, Started

__all__ = ["BackedEngine"]

log = structlog.get_logger()

OPEN_TIMEOUT_S = 10.0  # to begin with it; its model may take longer to load


class BackedEngine:
    """The first engine while it has hope, the second one after that.

    Args:
        first: is asked as long as it has not failed for good.
        open_second: opens the other one.
        stats: tells when the state of the first one changes.
    """

    def __init__(
        self,
        first: PausableEngine,
        open_second: Callable[[], AbstractAsyncContextManager[PausableEngine]],
        stats: EngineStats,
    ) -> None:
        self._first, self._open_second = first, open_second
        self._stats = stats
        self._second: PausableEngine | None = None
        self._is_open = asyncio.Event()
        self._changed = asyncio.Event()
        self._num_in_use = 0
        self._beginnings: Sequence[Sequence[Message]] = ((),)
        stats.on_change.append(self._changed.set)

    @property
    def state(self) -> EngineState:
        """Of the engine that would be asked now."""
        return self._now.state

    @property
    def activity(self) -> str:
        """Of the engine that would be asked now."""
        return self._now.activity

    @property
    def models(self) -> tuple[ModelInfo, ...]:
        """First that of the engine that would be asked now; both names may be asked for."""
        models = self._now.models
        return models if self._now is self._first else (*models, *self._first.models)

    @property
    def _now(self) -> PausableEngine:
        return self._second or self._first

    async def run(self) -> None:
        """Open the second engine when it is needed, and close it when it is not, for ever."""
        while True:
            await self._until(lambda: self._first.state == "failed")
            try:
                async with self._open_second() as second:
                    await self._lend(second)
            except* EdgeLLMError as group:
                log.exception("engine.backup_failed", exc_info=group)
                await self._until(lambda: self._first.state == "ready")

    async def _lend(self, second: PausableEngine) -> None:
        """Let it answer until the first one works again, and then end what it has in hand."""
        log.warning("engine.backup_serves")
        second.prepare(self._beginnings)
        self._second = second
        self._is_open.set()
        self._stats.tell()
        try:
            await self._until(lambda: self._first.state == "ready")
        finally:
            self._second = None
            self._is_open.clear()
        log.info("engine.backup_ends")
        await self._until(lambda: not self._num_in_use)

    async def _until(self, is_so: Callable[[], bool]) -> None:
        while not is_so():
            self._changed.clear()
            await self._changed.wait()

    async def ready(self) -> tuple[ModelInfo, ...]:
        """Wait for either; see ``Engine.ready``."""
        try:
            return await self._first.ready()
        except DeviceUnavailableError:
            return await (await self._wait_for_second()).ready()

    def prepare(self, conversations: Sequence[Sequence[Message]]) -> None:
        """Tell both; see ``Engine.prepare``."""
        self._beginnings = conversations
        self._first.prepare(conversations)
        if self._now is not self._first:
            self._now.prepare(conversations)

    async def check(self, request: ChatRequest) -> None:
        """Ask whichever would answer; see ``PausableEngine.check``."""
        await self._now.check(_without_model(request) if self._second else request)

    async def generate(
        self, request: ChatRequest, gate: Gate | None = None
    ) -> AsyncGenerator[Event]:
        """Generate by the first engine, or by the second; see ``PausableEngine.generate``."""
        num_events = 0
        try:
            async with aclosing(self._first.generate(request, gate)) as events:
                async for event in events:
                    num_events += 1
                    yield event
            return
        except DeviceUnavailableError:
            if num_events > 1:  # it has said something
                raise
        second = await self._wait_for_second()
        self._num_in_use += 1
        try:
            await second.ready()
            async with aclosing(second.generate(_without_model(request), gate)) as events:
                async for event in events:
                    if not (num_events and isinstance(event, Started)):
                        yield event
        finally:
            self._num_in_use -= 1
            self._changed.set()

    async def _wait_for_second(self) -> PausableEngine:
        """Return the second engine, or say again what the first one says.

        Raises:
            DeviceUnavailableError: there is no second one either.
        """
        try:
            await asyncio.wait_for(self._is_open.wait(), OPEN_TIMEOUT_S)
        except TimeoutError:
            await self._first.ready()  # raises, unless it is back
        return self._now


def _without_model(request: ChatRequest) -> ChatRequest:
    return request.model_copy(update={"model": None})
