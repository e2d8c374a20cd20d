"""Admission: who may wait, and whose turn it is.

One request runs at a time. The others wait in order of priority, then of arrival; as many as the
limit says, and one more is refused at once with a time to come back. A request that waits longer
than its time to live, or than its time budget, is refused when that ends.

A request that may preempt does not wait for one of lower priority: that one is paused, and goes on
when no request of a higher priority waits any more. So those that are paused are a stack, the
highest priority on top, and whoever runs has a higher one than all of them.

Whatever happens, the end of a request is logged here, in one line.
"""

import asyncio
import bisect
import itertools
import time
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import aclosing, asynccontextmanager, contextmanager
from dataclasses import dataclass, field

import structlog

from edge_llm.engine.gate import Gate
from edge_llm.engine.interface import EngineState, PausableEngine
from edge_llm.engine.stats import EngineStats
from edge_llm.errors import EdgeLLMError, ExpiredError, QueueFullError, UnknownModelError
from edge_llm.protocol import (
    ChatRequest,
    Delta,
    Done,
    Event,
    Message,
    ModelInfo,
    Queued,
    Started,
    Timing,
)
from edge_llm.settings import QueueSettings

__all__ = ["QueuedEngine"]

log = structlog.get_logger()

FIRST_GUESS_S = 5.0  # how long a request takes, until one has been seen
SMOOTHING = 0.2  # weight of the newest request in the running mean
RETRY_AFTER_S = (1.0, 120.0)  # openai-python retries by itself within 120 s
SHORTEST_BUDGET_S = 0.001  # of a request whose time is over when its turn comes


@dataclass(order=True, slots=True)
class _Turn:
    """One request on its way: it waits, it runs, or it is paused."""

    rank: tuple[int, int]  # priority (highest first), then arrival
    gate: Gate = field(default_factory=Gate, compare=False)
    position: int = field(default=0, compare=False)  # 0 from when its turn has come
    moved: asyncio.Event = field(default_factory=asyncio.Event, compare=False)

    @property
    def priority(self) -> int:
        return -self.rank[0]

    def move_to(self, position: int) -> None:
        if position != self.position:
            self.position = position
            self.moved.set()


@dataclass(slots=True)
class _Clock:
    """The times of one request, in seconds of the monotonic clock."""

    accepted: float = field(default_factory=time.monotonic)
    started: float | None = None
    first_text: float | None = None
    decoding_from: float | None = None  # these two without the time in which it was paused
    decoding_to: float | None = None

    def note(self, event: Event, paused_s: float) -> None:
        now = time.monotonic()
        match event:
            case Started():
                self.started = now
            case Delta():
                if self.first_text is None:
                    self.first_text, self.decoding_from = now, now - paused_s
                self.decoding_to = now - paused_s

    def timing(self, completion_tokens: int = 0) -> Timing:
        now = time.monotonic()
        speed = None
        if self.decoding_from and self.decoding_to and self.decoding_to > self.decoding_from:
            speed = round((completion_tokens - 1) / (self.decoding_to - self.decoding_from), 2)
        return Timing(
            queue_s=round((self.started or now) - self.accepted, 4),
            ttft_s=round(self.first_text - self.accepted, 4) if self.first_text else None,
            total_s=round(now - self.accepted, 4),
            tokens_per_s=speed if completion_tokens > 1 else None,
        )


class QueuedEngine:
    """An engine with a bounded queue in front of it."""

    def __init__(
        self, engine: PausableEngine, settings: QueueSettings, stats: EngineStats | None = None
    ) -> None:
        self.stats = stats or EngineStats()
        self._engine = engine
        self._limit = settings.limit
        self._waiting: list[_Turn] = []  # in the order of their turns
        self._paused: list[_Turn] = []
        self._running: _Turn | None = None
        self._arrivals = itertools.count()
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
        """How many requests wait for their turn; those that are paused have had it."""
        return len(self._waiting)

    async def ready(self) -> tuple[ModelInfo, ...]:
        """Wait for the engine behind the queue; see ``Engine.ready``."""
        return await self._engine.ready()

    def prepare(self, conversations: Sequence[Sequence[Message]]) -> None:
        """Tell the engine behind the queue; see ``Engine.prepare``."""
        self._engine.prepare(conversations)

    async def generate(self, request: ChatRequest) -> AsyncGenerator[Event]:
        """Yield Queued while it waits for a turn, then generate; see ``Engine.generate``.

        Raises:
            QueueFullError: at once, with ``retry_after_s``.
            ExpiredError: the turn did not come within ``request.ttl_s`` or the time budget, or
                the budget was over before the first word.
            UnknownModelError: ``request.model`` is not served here.
        """
        clock = _Clock()
        done: Done | None = None
        try:
            self._check_model(request)
            with self._turn(request) as turn:
                async with aclosing(self._wait(turn, request, clock)) as positions:
                    async for queued in positions:
                        yield queued
                async with aclosing(self._run(turn, request, clock)) as events:
                    async for event in events:
                        if isinstance(event, Done):
                            done = self._end(event, clock)
                        else:
                            yield event
        except EdgeLLMError as exc:
            log.warning("request.failed", code=exc.code, **_shown(clock.timing()))
            self.stats.note(exc.code, clock.timing())
            raise
        except (asyncio.CancelledError, GeneratorExit):
            log.info("request.cancelled", **_shown(clock.timing()))
            self.stats.note("cancelled", clock.timing())
            raise
        if done:  # out here, so that the next request begins while this one is delivered
            _log_done(done)
            self.stats.note(done.finish_reason, done.timing, done.usage)
            yield done

    def _check_model(self, request: ChatRequest) -> None:
        names = [model.id for model in self.models]
        if names and request.model is not None and request.model not in names:
            raise UnknownModelError(
                f"there is no model {request.model!r} here; there is {', '.join(names)}",
                param="model",
            )

    @contextmanager
    def _turn(self, request: ChatRequest) -> Iterator[_Turn]:
        turn = _Turn((-request.priority, next(self._arrivals)))
        if self._running and request.preempt and turn.priority > self._running.priority:
            self._running.gate.close()
            self._paused.append(self._running)
            self._running = None
        elif self._running and len(self._waiting) >= self._limit:
            raise QueueFullError(
                f"{len(self._waiting)} requests are waiting, which is as many as may",
                retry_after_s=self._retry_after_s(),
            )
        bisect.insort(self._waiting, turn)
        self._call_next()
        try:
            yield turn
        finally:
            self._leave(turn)

    def _leave(self, turn: _Turn) -> None:
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
        if not self._running:
            if self._paused and not (
                self._waiting and self._waiting[0].priority > self._paused[-1].priority
            ):
                self._running = self._paused.pop()
                self._running.gate.open()
            elif self._waiting:
                self._running = self._waiting.pop(0)
                self._running.move_to(0)
        self.stats.num_waiting = len(self._waiting)
        self.stats.num_running = len(self._paused) + bool(self._running)
        for place, turn in enumerate(self._waiting, 1):
            turn.move_to(place + sum(turn.priority <= paused.priority for paused in self._paused))

    async def _wait(
        self, turn: _Turn, request: ChatRequest, clock: _Clock
    ) -> AsyncGenerator[Queued]:
        """Yield the position as it changes, and end when the turn has come and can be used."""
        told = 0
        if turn.position:
            async with _in_time(request, clock):
                await self._engine.check(request)
        while position := turn.position:
            if position != told:
                told = position
                yield Queued(position=position)
            async with _in_time(request, clock):
                await turn.moved.wait()
            turn.moved.clear()
        async with _in_time(request, clock):
            await self._engine.ready()  # a model that loads keeps one waiting, too

    async def _run(self, turn: _Turn, request: ChatRequest, clock: _Clock) -> AsyncGenerator[Event]:
        if request.time_budget_s is not None:
            left_s = request.time_budget_s - (time.monotonic() - clock.accepted)
            request = request.model_copy(update={"time_budget_s": max(left_s, SHORTEST_BUDGET_S)})
        async with aclosing(self._engine.generate(request, turn.gate)) as events:
            async for event in events:
                clock.note(event, turn.gate.closed_s)
                self._check_model(request)  # known now, if it was loading before
                yield event

    def _end(self, done: Done, clock: _Clock) -> Done:
        timing = clock.timing(done.usage.completion_tokens)
        self._mean_s += SMOOTHING * (timing.total_s - timing.queue_s - self._mean_s)
        if speed := done.timing.tokens_per_s:  # where text is held back, only the engine knows it
            timing = timing.model_copy(update={"tokens_per_s": round(speed, 2)})
        return done.model_copy(update={"timing": timing})

    def _retry_after_s(self) -> float:
        low, high = RETRY_AFTER_S
        return round(min(max((len(self._waiting) + 1) * self._mean_s, low), high), 1)


@asynccontextmanager
async def _in_time(request: ChatRequest, clock: _Clock) -> AsyncGenerator[None]:
    """Give up what keeps a request waiting for longer than it may; not for use around a yield."""
    limits = [s for s in (request.ttl_s, request.time_budget_s) if s is not None]
    if not limits:
        yield
        return
    try:
        async with asyncio.timeout(min(limits) - (time.monotonic() - clock.accepted)):
            yield
    except TimeoutError as exc:
        raise ExpiredError(
            f"the request waited for {min(limits)} s and its turn did not come"
        ) from exc


def _shown(timing: Timing) -> dict[str, float]:
    return timing.model_dump(exclude_none=True)


def _log_done(done: Done) -> None:
    log.info(
        "request.done",
        finish_reason=done.finish_reason,
        **done.usage.model_dump(),
        **_shown(done.timing),
    )
