"""Admission: who may wait, and whose turn it is.

One request runs at a time. The others wait in order of priority, then of arrival; as many as the
limit says, and one more is refused at once with a time to come back. A request that waits longer
than its time to live is refused when that ends. Whatever happens, the end of a request is logged
here, in one line.
"""

import asyncio
import heapq
import itertools
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field

import structlog

from edge_llm.engine.interface import Engine, EngineState
from edge_llm.errors import EdgeLLMError, ExpiredError, QueueFullError, UnknownModelError
from edge_llm.protocol import ChatRequest, Delta, Done, Event, ModelInfo, Started, Timing
from edge_llm.settings import QueueSettings

__all__ = ["QueuedEngine"]

log = structlog.get_logger()

FIRST_GUESS_S = 5.0  # how long a request takes, until one has been seen
SMOOTHING = 0.2  # weight of the newest request in the running mean
RETRY_AFTER_S = (1.0, 120.0)  # openai-python retries by itself within 120 s


@dataclass(order=True, slots=True)
class _Waiting:
    rank: tuple[int, int]  # priority (highest first), then arrival
    turn: asyncio.Future[None] = field(compare=False)


@dataclass(slots=True)
class _Clock:
    """The times of one request, in seconds of the monotonic clock."""

    accepted: float = field(default_factory=time.monotonic)
    started: float | None = None
    first_text: float | None = None
    last_text: float | None = None

    def note(self, event: Event) -> None:
        now = time.monotonic()
        match event:
            case Started():
                self.started = now
            case Delta():
                self.first_text = self.first_text or now
                self.last_text = now
            case Done():
                pass

    def timing(self, completion_tokens: int) -> Timing:
        now = time.monotonic()
        speed = None
        if self.first_text and self.last_text and self.last_text > self.first_text:
            speed = round((completion_tokens - 1) / (self.last_text - self.first_text), 2)
        return Timing(
            queue_s=round((self.started or now) - self.accepted, 4),
            ttft_s=round(self.first_text - self.accepted, 4) if self.first_text else None,
            total_s=round(now - self.accepted, 4),
            tokens_per_s=speed if completion_tokens > 1 else None,
        )


class QueuedEngine:
    """An engine with a bounded queue in front of it."""

    def __init__(self, engine: Engine, settings: QueueSettings) -> None:
        self._engine = engine
        self._limit = settings.limit
        self._waiting: list[_Waiting] = []
        self._arrivals = itertools.count()
        self._running = False
        self._mean_s = FIRST_GUESS_S

    @property
    def state(self) -> EngineState:
        """The state of the engine behind the queue."""
        return self._engine.state

    @property
    def activity(self) -> str:
        """Generating while a request has its turn; else that of the engine behind the queue."""
        return "generating" if self._running and self.state == "ready" else self._engine.activity

    @property
    def models(self) -> tuple[ModelInfo, ...]:
        """The models of the engine behind the queue."""
        return self._engine.models

    @property
    def num_waiting(self) -> int:
        """How many requests wait."""
        return len(self._waiting)

    async def ready(self) -> tuple[ModelInfo, ...]:
        """Wait for the engine behind the queue; see ``Engine.ready``."""
        return await self._engine.ready()

    async def generate(self, request: ChatRequest) -> AsyncGenerator[Event]:
        """Wait for a turn, then generate; see ``Engine.generate``.

        Raises:
            QueueFullError: at once, with ``retry_after_s``.
            ExpiredError: the turn did not come within ``request.ttl_s``.
            UnknownModelError: ``request.model`` is not served here.
        """
        clock = _Clock()
        done: Done | None = None
        try:
            self._check_model(request)
            async with (
                self._turn(request),
                aclosing(self._engine.generate(request)) as events,
            ):
                async for event in events:
                    clock.note(event)
                    self._check_model(request)  # known now, if it was loading before
                    if isinstance(event, Done):
                        done = self._end(event, clock)
                    else:
                        yield event
        except EdgeLLMError as exc:
            log.warning("request.failed", code=exc.code, **_shown(clock.timing(0)))
            raise
        except (asyncio.CancelledError, GeneratorExit):
            log.info("request.cancelled", **_shown(clock.timing(0)))
            raise
        if done:  # out here, so that the next request begins while this one is delivered
            _log_done(done)
            yield done

    def _check_model(self, request: ChatRequest) -> None:
        names = [model.id for model in self.models]
        if names and request.model is not None and request.model not in names:
            raise UnknownModelError(
                f"there is no model {request.model!r} here; there is {', '.join(names)}",
                param="model",
            )

    def _end(self, done: Done, clock: _Clock) -> Done:
        timing = clock.timing(done.usage.completion_tokens)
        self._mean_s += SMOOTHING * (timing.total_s - timing.queue_s - self._mean_s)
        return done.model_copy(update={"timing": timing})

    @asynccontextmanager
    async def _turn(self, request: ChatRequest) -> AsyncGenerator[None]:
        has_turn = False
        try:
            try:
                async with asyncio.timeout(request.ttl_s):
                    if self._running:
                        await self._wait(request)
                    self._running = has_turn = True
                    await self._engine.ready()  # a model that loads keeps one waiting, too
            except TimeoutError as exc:
                raise ExpiredError(
                    f"the request waited for {request.ttl_s} s and its turn did not come"
                ) from exc
            yield
        finally:
            if has_turn:
                self._running = False
                self._call_next()

    async def _wait(self, request: ChatRequest) -> None:
        if len(self._waiting) >= self._limit:
            raise QueueFullError(
                f"{len(self._waiting)} requests are waiting, which is as many as may",
                retry_after_s=self._retry_after_s(),
            )
        turn = asyncio.get_running_loop().create_future()
        waiting = _Waiting((-request.priority, next(self._arrivals)), turn)
        heapq.heappush(self._waiting, waiting)
        try:
            await turn
        except BaseException:
            self._give_up(waiting)
            raise

    def _give_up(self, waiting: _Waiting) -> None:
        if waiting in self._waiting:
            self._waiting.remove(waiting)
            heapq.heapify(self._waiting)
        elif waiting.turn.done() and not waiting.turn.cancelled() and not waiting.turn.exception():
            # The turn was given in the same moment as it was given up: pass it on.
            self._running = False
            self._call_next()

    def _call_next(self) -> None:
        while self._waiting and not self._running:
            turn = heapq.heappop(self._waiting).turn
            if not turn.done():
                # Taken here and not when it wakes, so that no newcomer slips in between.
                self._running = True
                turn.set_result(None)

    def _retry_after_s(self) -> float:
        low, high = RETRY_AFTER_S
        return round(min(max((len(self._waiting) + 1) * self._mean_s, low), high), 1)


def _shown(timing: Timing) -> dict[str, float]:
    return timing.model_dump(exclude_none=True)


def _log_done(done: Done) -> None:
    log.info(
        "request.done",
        finish_reason=done.finish_reason,
        **done.usage.model_dump(),
        **_shown(done.timing),
    )
