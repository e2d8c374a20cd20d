"""One worker after another: each is started, listened to, and replaced when it has ended.

Why it has ended decides what comes before the next one; see ``recovery``. An order to end it, as
for a reload, is no failure: its requests go on in the next one.
"""

import asyncio
import contextlib
import signal
import time
from asyncio.subprocess import Process
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

import structlog

from edge_llm.engine.stats import EngineStats
from edge_llm.engine.worker.frames import (
    FROM_WORKER,
    Checked,
    Failed,
    FromWorker,
    GivenUp,
    Happened,
    Loading,
    Pace,
    Prepare,
    Probed,
    Ready,
    Start,
)
from edge_llm.engine.worker.link import Link, PausedError, WorkerDiedError
from edge_llm.engine.worker.recovery import Recovery
from edge_llm.engine.worker.spawn import open_process
from edge_llm.engine.worker.step_clock import StepClock
from edge_llm.errors import ConfigurationError, EdgeLLMError, EngineFailedError
from edge_llm.protocol import EngineState, Message, ModelInfo, RecoveryStep
from edge_llm.settings import EngineSettings

__all__ = ["Supervisor"]

log = structlog.get_logger()

LOADING_LOG_EVERY_S = 5.0
MARGIN_S = 60.0  # for the machine to be slow in, before the supervisor itself is in doubt


@dataclass(frozen=True, slots=True)
class _Order:
    step: RecoveryStep
    reason: str


class Supervisor:
    """Keeps a worker alive, and knows how it is.

    Args:
        settings: of the engine.
        stats: what is counted and told.
        recovery: what is done about failures.
        keepalive_s: after how long without work a worker is asked for a token.
    """

    def __init__(
        self,
        settings: EngineSettings,
        stats: EngineStats,
        recovery: Recovery,
        keepalive_s: float,
    ) -> None:
        self.state: EngineState = "loading"
        self.models: tuple[ModelInfo, ...] = ()
        self.loaded: tuple[int, int] | None = None
        """How many files of the model, and of how many."""
        self.progress_at = time.monotonic()
        """When the loading went on last, on the monotonic clock."""
        self._settings, self._stats = settings, stats
        self._recovery, self._keepalive_s = recovery, keepalive_s
        self._ready: asyncio.Future[Link] = asyncio.get_running_loop().create_future()
        self._link: Link | None = None
        self._load_error: EdgeLLMError | None = None
        self._order: _Order | None = None
        self._beginnings = Prepare(conversations=((),))
        self._duty = 1.0
        self._logged_at = time.monotonic()
        self._due_at = 0.0
        self._expect(0.0)

    @property
    def overdue_s(self) -> float:
        """By how long whatever should have come next is late, in seconds; 0 as a rule."""
        return max(0.0, time.monotonic() - self._due_at)

    def _expect(self, within_s: float) -> None:
        """Take it that something will happen within this time, or after a worker's last one."""
        worker = self._settings.worker
        silence_s = max(worker.load_timeout_s, self._keepalive_s + StepClock().limit_s)
        self._due_at = (
            time.monotonic() + within_s + silence_s + 3 * worker.stop_timeout_s + MARGIN_S
        )

    @property
    def link(self) -> Link | None:
        """The line to a worker that is ready and well."""
        is_there = self._ready.done() and not self._ready.exception()
        link = self._ready.result() if is_there else None
        return link if link and not link.is_dead else None

    async def open_link(self) -> Link:
        """Wait for a worker.

        Raises:
            DeviceUnavailableError: none will come before a person has done something.
            ModelError: the model can't be loaded.
        """
        while True:
            link = await asyncio.shield(self._ready)
            if not link.is_dead:
                return link
            self._forget_link()

    def prepare(self, conversations: Sequence[Sequence[Message]]) -> None:
        """Have this worker and those after it keep these beginnings ready."""
        self._beginnings = Prepare(conversations=tuple(map(tuple, conversations)))
        if self.link:
            self.link.send(self._beginnings)

    def pace(self, duty: float) -> None:
        """Have this worker and those after it work for a part of the time only, 0 to 1."""
        self._duty = duty
        if self.link:
            self.link.send(Pace(duty=duty))

    def order(self, step: RecoveryStep, reason: str) -> None:
        """End the worker after the step that it is in, do this, and start the next one."""
        self._order = _Order(step, reason)
        self._recovery.wake()
        if self._link:
            self._link.close()

    async def run(self) -> None:
        """Start a worker, and replace it when it has ended, until cancelled.

        Raises:
            ConfigurationError: the model can't be loaded, has never been, and no device is at
                fault.
        """
        while True:
            while order := self._order:  # also one that came while there was no worker to end
                self._order = None
                self._expect(self._recovery.longest_step_s)
                await self._recovery.carry_out(order.step, order.reason)
            fault = await self._live()
            if self._order:
                continue
            if isinstance(fault, ConfigurationError) and not self.models:
                raise fault
            await self._recover(fault)

    async def _recover(self, fault: EdgeLLMError) -> None:
        self._stats.num_restarts += 1
        attempt = self._recovery.decide(fault)
        if error := self._recovery.error:
            self._set(error)
        self._set_state("failed" if error else "recovering")
        self._expect(attempt.wait_s + self._recovery.longest_step_s)
        await self._recovery.attempt(attempt)

    def _set_state(self, state: EngineState) -> None:
        if state != self.state:
            self.state = state
            self._stats.tell()

    async def _live(self) -> EdgeLLMError:
        """Be with one worker from its start to its end; return why it has ended."""
        timeout_s = self._settings.worker.stop_timeout_s
        async with open_process(timeout_s) as (process, reader, writer):
            worker = self._settings.worker
            self._link = link = Link(
                process,
                writer,
                StepClock(worker.hang_timeout_s),
                worker.load_timeout_s,
                self._recovery.succeed,
            )
            self._load_error = None
            link.send(Start(settings=self._settings))
            link.hear_loading()
            try:
                async with self._kept_alive(link):
                    await self._listen(reader, link)
                if self.state == "ready":  # before its process is ended, which may take long
                    is_reload = self._order is not None and self._order.step == "reload"
                    self._set_state("loading" if is_reload else "recovering")
            finally:
                self._link = None
                link.end(PausedError() if self._order else WorkerDiedError())
                self._forget_link()
        return link.fault or self._load_error or EngineFailedError(_describe(process))

    @asynccontextmanager
    async def _kept_alive(self, link: Link) -> AsyncIterator[None]:
        """Ask a worker that has had nothing to do for a while for a token."""

        async def ask() -> None:
            while True:
                await asyncio.sleep(max(self._keepalive_s - link.idle_s, 1.0))
                if link is self.link and link.idle_s >= self._keepalive_s:
                    link.probe()

        asking = asyncio.create_task(ask(), name="worker.keepalive")
        try:
            yield
        finally:
            asking.cancel()

    async def _listen(self, reader: asyncio.StreamReader, link: Link) -> None:
        with contextlib.suppress(ConnectionResetError):
            while (line := await reader.readline()).endswith(b"\n"):  # else it died in mid-line
                self._hear(FROM_WORKER.validate_json(line), link)

    def _hear(self, frame: FromWorker, link: Link) -> None:
        self._expect(0.0)
        match frame:
            case Happened(id=number, event=event):
                link.hear(number, event)
            case Checked(id=number, error=wrong):
                link.hear_check(number, wrong.to_error() if wrong else None)
            case Probed(id=number):
                link.hear_probe(number)
            case GivenUp(id=number):
                link.hear(number, None)
            case Failed(id=None, error=body):
                self._load_error = body.to_error()
                if isinstance(self._load_error, ConfigurationError) and not self.models:
                    self._set(self._load_error)
            case Failed(id=int(number), error=body):
                link.hear(number, body.to_error())
            case Loading(done=done, total=total):
                link.hear_loading()
                self._note_loading(done, total)
            case Ready():
                self._begin(frame, link)

    def _begin(self, ready: Ready, link: Link) -> None:
        link.hear_ready()
        self.models, self.loaded = ready.models, None
        link.send(self._beginnings)
        if self._duty != 1:
            link.send(Pace(duty=self._duty))
        log.info("model.loaded", **ready.models[0].model_dump(exclude_none=True), **ready.loaded)
        self._set(link)
        self.state = "ready"
        self._stats.note_ready()

    def _note_loading(self, done: int, total: int) -> None:
        """Big models take minutes: say so now and then, but not for one that takes a second."""
        if (done, total) != self.loaded:
            self.progress_at = time.monotonic()
        self.loaded = (done, total)
        if time.monotonic() - self._logged_at >= LOADING_LOG_EVERY_S:
            self._logged_at = time.monotonic()
            log.info("model.loading", done=done, total=total)

    def _set(self, value: Link | EdgeLLMError) -> None:
        if self._ready.done():
            self._ready = asyncio.get_running_loop().create_future()
        if isinstance(value, Link):
            self._ready.set_result(value)
        else:
            self._ready.set_exception(value)
            self._ready.exception()  # it is not lost if nobody waits for it

    def _forget_link(self) -> None:
        """Let those who come wait for the next one."""
        if self._ready.done() and not self._ready.exception() and self._ready.result().is_dead:
            self._ready = asyncio.get_running_loop().create_future()


def _describe(process: Process) -> str:
    code = process.returncode
    if code is not None and code < 0:
        return f"the engine's process was ended by {signal.Signals(-code).name}"
    return f"the engine's process ended by itself, with code {code}"
