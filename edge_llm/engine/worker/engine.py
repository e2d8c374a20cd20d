"""The worker process as an engine: requests go through it, across its deaths and pauses.

A request that was in hand when its worker died goes on in the next one: the tokens that came are
handed over, so the text continues where it stopped and nothing of it is said twice. A request that
is paused is taken back in the same way, and goes on in the same worker, which still has its KV
rows if it has slots enough. For that, each request has a seed, also when its sender gave none.
"""

import contextlib
from collections.abc import AsyncGenerator, Sequence

import structlog

from edge_llm.device.card import CardControl
from edge_llm.engine.gate import Gate
from edge_llm.engine.interface import EngineState
from edge_llm.engine.stats import EngineStats
from edge_llm.engine.worker.link import Link, PausedError, WorkerDiedError
from edge_llm.engine.worker.progress import Progress, TimeUpError
from edge_llm.engine.worker.recovery import Recovery
from edge_llm.engine.worker.supervisor import Supervisor
from edge_llm.errors import DeviceError, EdgeLLMError, EngineFailedError
from edge_llm.protocol import ChatRequest, Done, Event, Message, ModelInfo, RecoveryStep
from edge_llm.settings import EngineSettings, RecoverySettings

__all__ = ["WorkerEngine"]

log = structlog.get_logger()


class WorkerEngine:
    """An engine in a process of its own; ``run`` keeps that process alive.

    Args:
        settings: of the engine.
        stats: what is counted and told.
        recovery: how often what is tried when it fails.
        card: what can be done to the card, if it runs on one.
    """

    def __init__(
        self,
        settings: EngineSettings,
        stats: EngineStats | None = None,
        recovery: RecoverySettings | None = None,
        card: CardControl | None = None,
    ) -> None:
        self._settings = settings
        stats, recovery = stats or EngineStats(), recovery or RecoverySettings()
        self._supervisor = Supervisor(
            settings,
            stats,
            Recovery(recovery, settings.worker, card, stats),
            recovery.keepalive_s,
        )

    @property
    def state(self) -> EngineState:
        """How the process is; ``failed`` when a person is needed."""
        return self._supervisor.state

    @property
    def activity(self) -> str:
        """Idle, or how far the loading of the model is; see ``Engine.activity``."""
        if self.state == "ready":
            return "idle"
        if self.state == "loading" and (loaded := self._supervisor.loaded):
            return "loading {}/{}".format(*loaded)
        return self.state

    @property
    def progress_at(self) -> float:
        """When the loading went on last, on the monotonic clock in seconds."""
        return self._supervisor.progress_at

    @property
    def overdue_s(self) -> float:
        """By how long whatever should have come next is late, in seconds; 0 as a rule."""
        return self._supervisor.overdue_s

    @property
    def models(self) -> tuple[ModelInfo, ...]:
        """The one model of the worker; empty until it is loaded for the first time."""
        return self._supervisor.models

    async def ready(self) -> tuple[ModelInfo, ...]:
        """Wait for the worker; see ``Engine.ready``."""
        await self._supervisor.open_link()
        return self.models

    @property
    def pid(self) -> int | None:
        """The process id of a worker that is ready."""
        link = self._supervisor.link
        return link.process.pid if link else None

    async def run(self) -> None:
        """Start the worker, and replace it when it dies, until cancelled.

        Raises:
            ConfigurationError: the model can't be loaded and has never been.
        """
        await self._supervisor.run()

    def pace(self, duty: float) -> None:
        """Work for a part of the time only, 0 to 1, and rest between two steps."""
        self._supervisor.pace(duty)

    def order(self, step: RecoveryStep, reason: str) -> None:
        """Replace the worker after the step that it is in; what it had in hand goes on after."""
        self._supervisor.order(step, reason)

    def prepare(self, conversations: Sequence[Sequence[Message]]) -> None:
        """Have each worker keep these beginnings ready; see ``Engine.prepare``."""
        self._supervisor.prepare(conversations)

    async def check(self, request: ChatRequest) -> None:
        """Have the worker look at a request, between two steps; see ``PausableEngine.check``."""
        link = self._supervisor.link
        if link and (error := await link.check(request)):
            raise error

    async def generate(
        self, request: ChatRequest, gate: Gate | None = None
    ) -> AsyncGenerator[Event]:
        """Generate in the worker, across its deaths and pauses; see ``PausableEngine.generate``.

        Raises:
            ExpiredError: the time budget was over, and nothing had been said.
            EngineFailedError: the worker died ``max_attempts`` times on this request.
            DeviceError: the card failed as often.
            DeviceUnavailableError: there is no worker any more, and no step left to get one.
        """
        gate = gate or Gate()
        progress = Progress(request)
        for number in range(1, self._settings.worker.max_attempts + 1):
            try:
                async with contextlib.aclosing(self._go_on(progress, gate)) as events:
                    async for event in events:
                        yield event
            except (WorkerDiedError, EdgeLLMError) as exc:
                fault = _fault_of_engine(exc)
                if fault is None:
                    raise
                log.warning(
                    "request.interrupted", completion_tokens=len(progress.token_ids), fault=fault
                )
                if number == self._settings.worker.max_attempts:
                    raise _last(exc, number) from exc
            else:
                return

    async def _go_on(self, progress: Progress, gate: Gate) -> AsyncGenerator[Event]:
        """Yield what is news, until the end; a pause is no end."""
        while True:
            try:
                async with contextlib.aclosing(self._attempt(progress, gate)) as events:
                    async for event in events:
                        for news in progress.take(event):
                            yield news
            except PausedError:
                log.debug("request.paused", completion_tokens=len(progress.token_ids))
            else:
                return

    async def _attempt(self, progress: Progress, gate: Gate) -> AsyncGenerator[Event]:
        """Yield what a worker says until it has said all, or until the time budget is over."""
        try:
            async with progress.in_time():
                link = await self._open_link(gate)
            request = progress.remaining_request()
            with (
                link.asking(request, progress.token_ids) as asked,
                gate.watched(asked.pause),
            ):
                event: Event | None = None
                while not isinstance(event, Done):
                    async with progress.in_time():
                        answer = await asked.answers.get()
                    if isinstance(answer, Exception):
                        raise answer
                    event = answer
                    yield event
        except TimeUpError:
            yield progress.end_late()

    async def _open_link(self, gate: Gate) -> Link:
        """Wait until the gate is open and a worker is there."""
        while True:
            await gate.wait_until_open()
            link = await self._supervisor.open_link()
            if gate.is_open:
                return link


def _fault_of_engine(exc: WorkerDiedError | EdgeLLMError) -> str | None:
    """Return what failed, if it is no fault of the request, which may then be run again."""
    if isinstance(exc, WorkerDiedError):
        return "worker_died"
    is_ours = isinstance(exc, DeviceError) or type(exc) is EdgeLLMError
    return exc.code if is_ours else None


def _last(exc: WorkerDiedError | EdgeLLMError, number: int) -> EdgeLLMError:
    if isinstance(exc, EdgeLLMError):
        return exc
    return EngineFailedError(f"the worker died {number} times on this request")
