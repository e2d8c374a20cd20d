"""QueuedEngine: which request is next, and which is not taken at all.

One request runs at a time; ``turns`` says which. As many may wait as the limit says, and one more
is refused at once with a time to come back. A request that waits longer than its time to live, or
than its time budget, is refused when that ends.

Whatever happens, the end of a request is logged here, in one line.
"""

import asyncio
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import Literal

import structlog

from edge_llm.engine.interface import EngineState, PausableEngine
from edge_llm.engine.queue.request_clock import RequestClock
from edge_llm.engine.queue.turns import Turn, Turns
from edge_llm.engine.stats import EngineStats
from edge_llm.errors import DrainingError, EdgeLLMError, UnknownModelError
from edge_llm.protocol import (
    ChatRequest,
    Delta,
    Done,
    Event,
    Message,
    ModelInfo,
    Queued,
    QueueHealth,
    Timing,
)
from edge_llm.settings import QueueSettings
from edge_llm.text.sentences import ends_sentence

__all__ = ["Hold", "QueuedEngine"]

log = structlog.get_logger()

Hold = Literal["cooling", "paused", "reloading"]
"""Why no request begins; in the order in which it is the activity."""

FIRST_GUESS_S = 5.0  # how long a request takes, until one has been seen
SMOOTHING = 0.2  # weight of the newest request in the running mean
RETRY_AFTER_S = (1.0, 120.0)  # openai-python retries by itself within 120 s
SHORTEST_BUDGET_S = 0.001  # of a request whose time is over when its turn comes


class QueuedEngine:
    """An engine with a bounded queue in front of it."""

    def __init__(
        self, engine: PausableEngine, settings: QueueSettings, stats: EngineStats | None = None
    ) -> None:
        self.stats = stats or EngineStats()
        self._engine = engine
        self._turns = Turns(settings.limit, self._count)
        self._mean_s = FIRST_GUESS_S
        self._is_draining = False
        self._max_tokens: int | None = None
        self._is_idle = asyncio.Event()
        self._is_idle.set()

    @property
    def state(self) -> EngineState:
        """The state of the engine behind the queue."""
        return self._engine.state

    @property
    def activity(self) -> str:
        """What goes on, in a word: of the engine if it is not ready, else of the queue."""
        if self.state != "ready":
            return self._engine.activity
        if self._turns.running:
            return "generating"
        for hold in ("cooling", "paused", "reloading"):
            if hold in self._turns.holds:
                return hold
        if self._is_draining:
            return "draining"
        return "queued" if self._turns.num_waiting else self._engine.activity

    @property
    def models(self) -> tuple[ModelInfo, ...]:
        """The models of the engine behind the queue."""
        return self._engine.models

    @property
    def num_waiting(self) -> int:
        """How many requests wait for their turn; those that are paused have had it."""
        return self._turns.num_waiting

    def health(self) -> QueueHealth:
        """Return how full it is, as it goes on the wire."""
        draining = ("draining",) if self._is_draining else ()
        return QueueHealth(
            waiting=self._turns.num_waiting,
            running=self._turns.num_begun,
            limit=self._turns.limit,
            holds=(*self._turns.holds, *draining),
        )

    async def ready(self) -> tuple[ModelInfo, ...]:
        """Wait for the engine behind the queue; see ``Engine.ready``."""
        return await self._engine.ready()

    def prepare(self, conversations: Sequence[Sequence[Message]]) -> None:
        """Tell the engine behind the queue; see ``Engine.prepare``."""
        self._engine.prepare(conversations)

    def hold(self, reason: Hold, *, finish_s: float | None = None) -> None:
        """Let no request begin until it is released; new ones are taken, and wait.

        Args:
            reason: what for.
            finish_s: the request that runs may end its sentence within this time, and is paused
                then; it may end altogether if None.
        """
        self._turns.hold(reason)
        if (turn := self._turns.running) and finish_s is not None:
            turn.must_pause = True
            asyncio.get_running_loop().call_later(finish_s, self._pause, turn)
        self.stats.tell()

    def release(self, reason: Hold) -> None:
        """Go on, if there is no other reason not to."""
        self._turns.release(reason)
        self.stats.tell()

    def drain(self, *, drain: bool = True) -> None:
        """End what is in hand, and take nothing new; or take requests again."""
        self._is_draining = drain
        self.stats.tell()

    def limit(self, *, max_tokens: int | None = None, min_priority: int = 0) -> None:
        """From now on answer more briefly, and only what is important; by default no longer so."""
        self._max_tokens = max_tokens
        self._turns.require(min_priority)

    async def idle(self) -> None:
        """Wait until no request has the turn."""
        await self._is_idle.wait()

    def _pause(self, turn: Turn) -> None:
        if turn.must_pause and turn is self._turns.running:
            self._turns.pause()

    def _count(self) -> None:
        self.stats.num_waiting, self.stats.num_running = (
            self._turns.num_waiting,
            self._turns.num_begun,
        )
        if self._turns.running:
            self._is_idle.clear()
        else:
            self._is_idle.set()

    async def generate(self, request: ChatRequest) -> AsyncGenerator[Event]:
        """Yield Queued while it waits for a turn, then generate; see ``Engine.generate``.

        Raises:
            QueueFullError: at once, with ``retry_after_s``.
            DrainingError: at once: nothing new is taken.
            DeviceUnavailableError: at once, or later: the device needs a person.
            ExpiredError: the turn did not come within ``request.ttl_s`` or the time budget, or
                the budget was over before the first word.
            UnknownModelError: ``request.model`` is not served here.
        """
        clock = RequestClock()
        done: Done | None = None
        said: list[str] = []
        number = self.stats.take(request)
        try:
            await self._admit(request)
            with self._turns.take(request, self._retry_after_s) as turn:
                async with aclosing(self._wait(turn, request, clock)) as positions:
                    async for queued in positions:
                        self.stats.hear(number, request, queued)
                        yield queued
                async with aclosing(self._run(turn, request, clock, said)) as events:
                    async for event in events:
                        if isinstance(event, Done):
                            done = self._end(event, clock)
                        else:
                            self.stats.hear(number, request, event)
                            yield event
        except EdgeLLMError as exc:
            log.warning("request.failed", code=exc.code, **_shown(clock.timing()))
            self.stats.note(exc.code, clock.timing(), number=number)
            raise
        except (asyncio.CancelledError, GeneratorExit):
            log.info("request.cancelled", **_shown(clock.timing()))
            self.stats.note("cancelled", clock.timing(), number=number)
            raise
        except Exception:  # the door that asked logs it, with its traceback
            self.stats.note(EdgeLLMError.code, clock.timing(), number=number)
            raise
        if done:  # out here, so that the next request begins while this one is delivered
            _log_done(done)
            self.stats.note(done.finish_reason, done.timing, done.usage, "".join(said), number)
            yield done

    async def _admit(self, request: ChatRequest) -> None:
        """Refuse what will not be answered, before it waits for that."""
        if self._is_draining:
            raise DrainingError("the node ends what it has in hand, and takes nothing new")
        if self.state == "failed":
            await self._engine.ready()  # says why
        self._check_model(request)

    def _check_model(self, request: ChatRequest) -> None:
        names = [model.id for model in self.models]
        if names and request.model is not None and request.model not in names:
            raise UnknownModelError(
                f"there is no model {request.model!r} here; there is {', '.join(names)}",
                param="model",
            )

    async def _wait(
        self, turn: Turn, request: ChatRequest, clock: RequestClock
    ) -> AsyncGenerator[Queued]:
        """Yield the position as it changes, and end when the turn has come and can be used."""
        told = 0
        if turn.position:
            async with clock.in_time(request):
                await self._engine.check(request)
        while position := turn.position:
            if position != told:
                told = position
                yield Queued(position=position)
            async with clock.in_time(request):
                await turn.moved.wait()
            turn.moved.clear()
        async with clock.in_time(request):
            await self._engine.ready()  # a model that loads keeps one waiting, too

    async def _run(
        self, turn: Turn, request: ChatRequest, clock: RequestClock, said: list[str]
    ) -> AsyncGenerator[Event]:
        async with aclosing(
            self._engine.generate(self._limited(request, clock), turn.gate)
        ) as all_:
            async for event in all_:
                clock.note(event, turn.gate.closed_s)
                self._check_model(request)  # known now, if it was loading before
                if isinstance(event, Delta):
                    said.append(event.text)
                yield event
                if turn.must_pause and ends_sentence("".join(said)):
                    self._pause(turn)

    def _limited(self, request: ChatRequest, clock: RequestClock) -> ChatRequest:
        """Return the request with what is left of its time, and as brief as it must be now."""
        update: dict[str, float] = {}
        if request.time_budget_s is not None:
            left_s = request.time_budget_s - (time.monotonic() - clock.accepted)
            update["time_budget_s"] = max(left_s, SHORTEST_BUDGET_S)
        if self._max_tokens is not None:
            update["max_tokens"] = min(request.max_tokens or self._max_tokens, self._max_tokens)
        return request.model_copy(update=update) if update else request

    def _end(self, done: Done, clock: RequestClock) -> Done:
        timing = clock.timing(done.usage.completion_tokens)
        self._mean_s += SMOOTHING * (timing.total_s - timing.queue_s - self._mean_s)
        if speed := done.timing.tokens_per_s:  # where text is held back, only the engine knows it
            timing = timing.model_copy(update={"tokens_per_s": round(speed, 2)})
        return done.model_copy(update={"timing": timing})

    def _retry_after_s(self) -> float:
        low, high = RETRY_AFTER_S
        return round(min(max((self.num_waiting + 1) * self._mean_s, low), high), 1)


def _shown(timing: Timing) -> dict[str, float]:
    return timing.model_dump(exclude_none=True)


def _log_done(done: Done) -> None:
    log.info(
        "request.done",
        finish_reason=done.finish_reason,
        **done.usage.model_dump(),
        **_shown(done.timing),
    )
