"""The worker process seen from the core: started, watched, replaced.

A request that was in hand when its worker died goes on in the next one: the tokens that came are
handed over, so the text continues where it stopped and nothing of it is said twice. A request that
is paused is taken back in the same way, and goes on in the same worker, which still has its KV
rows if it has slots enough. For that, each request has a seed, also when its sender gave none.
"""

import asyncio
import contextlib
import signal
import socket
import sys
import time
from asyncio.subprocess import Process
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import asynccontextmanager

import structlog

from edge_llm.engine.gate import Gate
from edge_llm.engine.interface import EngineState
from edge_llm.engine.stats import EngineStats
from edge_llm.engine.worker.frames import (
    FROM_WORKER,
    Checked,
    Failed,
    GivenUp,
    Happened,
    Loading,
    Prepare,
    Ready,
    Start,
)
from edge_llm.engine.worker.link import Link, PausedError, WorkerDiedError
from edge_llm.engine.worker.progress import Progress, TimeUpError
from edge_llm.errors import EdgeLLMError, EngineFailedError
from edge_llm.protocol import ChatRequest, Done, Event, Message, ModelInfo
from edge_llm.settings import EngineSettings

__all__ = ["WorkerEngine"]

log = structlog.get_logger()

LONGEST_RESTART_DELAY_S = 30.0
LOADING_LOG_EVERY_S = 5.0
# Bytes; a delta of hundreds of tokens that must come, with what is told of 21 for each, has 1 MB.
LINE_LIMIT = 2**22


class WorkerEngine:
    """An engine in a process of its own; ``run`` keeps that process alive."""

    def __init__(self, settings: EngineSettings, stats: EngineStats | None = None) -> None:
        self._settings = settings
        self._stats = stats or EngineStats()
        self._models: tuple[ModelInfo, ...] = ()
        self._state: EngineState = "loading"
        self._link: asyncio.Future[Link] = asyncio.get_running_loop().create_future()
        self._beginnings = Prepare(conversations=((),))
        self._loaded: tuple[int, int] | None = None
        self._logged_at = time.monotonic()

    @property
    def state(self) -> EngineState:
        """Loading, ready, or recovering from a death."""
        return self._state

    @property
    def activity(self) -> str:
        """Idle, or how far the loading of the model is; see ``Engine.activity``."""
        if self._state == "ready":
            return "idle"
        return "loading {}/{}".format(*self._loaded) if self._loaded else self._state

    @property
    def models(self) -> tuple[ModelInfo, ...]:
        """The one model of the worker; empty until it is loaded for the first time."""
        return self._models

    async def ready(self) -> tuple[ModelInfo, ...]:
        """Wait for the worker; see ``Engine.ready``."""
        await asyncio.shield(self._link)
        return self._models

    @property
    def pid(self) -> int | None:
        """The process id of a worker that is ready."""
        return self._link.result().process.pid if self._is_ready() else None

    def _is_ready(self) -> bool:
        return self._link.done() and not self._link.exception()

    async def run(self) -> None:
        """Start the worker, and replace it when it dies, until cancelled.

        Raises:
            ModelError: the model can't be loaded and has never been.
        """
        delay = self._settings.worker.restart_delay_s
        while True:
            async with _start_process(self._settings.worker.stop_timeout_s) as started:
                process, reader, writer = started
                link = Link(process, writer, self._settings.worker.hang_timeout_s)
                link.send(Start(settings=self._settings))
                try:
                    await self._listen(reader, link)
                finally:
                    link.end(WorkerDiedError())
                    self._end_link()
            if self._state == "ready":
                self._state = "recovering"
                delay = self._settings.worker.restart_delay_s
            elif not self._models and self._link.done() and (error := self._link.exception()):
                raise error
            self._stats.num_restarts += 1
            log.warning("worker.died", exit_code=process.returncode, restart_in_s=delay)
            await asyncio.sleep(delay)
            delay = min(delay * 2, LONGEST_RESTART_DELAY_S)

    async def _listen(self, reader: asyncio.StreamReader, link: Link) -> None:
        with contextlib.suppress(ConnectionResetError):
            while (line := await reader.readline()).endswith(b"\n"):  # else it died in mid-line
                match FROM_WORKER.validate_json(line):
                    case Happened(id=request_id, event=event):
                        link.hear(request_id, event)
                    case Checked(id=number, error=wrong):
                        link.hear_check(number, wrong.to_error() if wrong else None)
                    case GivenUp(id=request_id):
                        link.hear(request_id, None)
                    case Failed(id=None, error=body):
                        self._set_link(body.to_error())
                    case Failed(id=int(request_id), error=body):
                        link.hear(request_id, body.to_error())
                    case Loading(done=done, total=total):
                        self._note_loading(done, total)
                    case Ready(models=models, loaded=loaded):
                        self._models = models
                        self._state, self._loaded = "ready", None
                        link.send(self._beginnings)
                        log.info(
                            "model.loaded", **models[0].model_dump(exclude_none=True), **loaded
                        )
                        self._set_link(link)

    def _note_loading(self, done: int, total: int) -> None:
        """Big models take minutes: say so now and then, but not for one that takes a second."""
        self._loaded = (done, total)
        if time.monotonic() - self._logged_at >= LOADING_LOG_EVERY_S:
            self._logged_at = time.monotonic()
            log.info("model.loading", done=done, total=total)

    def _set_link(self, value: Link | EdgeLLMError) -> None:
        if self._link.done():
            self._link = asyncio.get_running_loop().create_future()
        if isinstance(value, Link):
            self._link.set_result(value)
        else:
            self._link.set_exception(value)
            self._link.exception()  # it is not lost if nobody waits for it

    def _end_link(self) -> None:
        if self._is_ready():
            self._link = asyncio.get_running_loop().create_future()

    def prepare(self, conversations: Sequence[Sequence[Message]]) -> None:
        """Have each worker keep these beginnings ready; see ``Engine.prepare``."""
        self._beginnings = Prepare(conversations=tuple(map(tuple, conversations)))
        if self._is_ready():
            self._link.result().send(self._beginnings)

    async def check(self, request: ChatRequest) -> None:
        """Have the worker look at a request, between two steps; see ``PausableEngine.check``."""
        link = self._link.result() if self._is_ready() else None
        if link and not link.is_dead and (error := await link.check(request)):
            raise error

    async def generate(
        self, request: ChatRequest, gate: Gate | None = None
    ) -> AsyncGenerator[Event]:
        """Generate in the worker, across its deaths and pauses; see ``PausableEngine.generate``.

        Raises:
            ExpiredError: the time budget was over, and nothing had been said.
            EngineFailedError: the worker died ``max_attempts`` times on this request.
            ModelError: a worker was replaced, and the new one can't load the model.
        """
        gate = gate or Gate()
        progress = Progress(request)
        num_deaths = 0
        while num_deaths < self._settings.worker.max_attempts:
            try:
                async with contextlib.aclosing(self._attempt(progress, gate)) as events:
                    async for event in events:
                        for news in progress.take(event):
                            yield news
            except PausedError:
                log.debug("request.paused", completion_tokens=len(progress.token_ids))
            except WorkerDiedError:
                num_deaths += 1
                log.warning("request.interrupted", completion_tokens=len(progress.token_ids))
            else:
                return
        raise EngineFailedError(f"the worker died {num_deaths} times on this request")

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
            link = await asyncio.shield(self._link)
            if link.is_dead:
                self._end_link()
            elif gate.is_open:
                return link


@asynccontextmanager
async def _start_process(
    stop_timeout_s: float,
) -> AsyncIterator[tuple[Process, asyncio.StreamReader, asyncio.StreamWriter]]:
    ours, theirs = socket.socketpair()
    with theirs:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "edge_llm.engine.worker.process",
            str(theirs.fileno()),
            pass_fds=[theirs.fileno()],
            stdin=asyncio.subprocess.DEVNULL,
            start_new_session=True,  # a Ctrl-C in the terminal is for us; we tell the worker
        )
    reader, writer = await asyncio.open_connection(sock=ours, limit=LINE_LIMIT)
    try:
        yield process, reader, writer
    finally:
        writer.close()
        ending = asyncio.ensure_future(_end_process(process, stop_timeout_s))
        try:
            await asyncio.shield(ending)
        except asyncio.CancelledError:  # a stop while a hung worker is being ended
            await ending
            raise


async def _end_process(process: Process, timeout_s: float) -> None:
    """Let the worker end by itself; ask; only then kill.

    Killing a process in mid-execute is the best documented way to hang the card (woolcoxm,
    Axera-AX8850-GGUF-Support), so each wait is long.
    """
    for signal_number in (None, signal.SIGTERM, signal.SIGKILL):
        if signal_number and process.returncode is None:
            log.warning("worker.signalled", signal=signal_number.name, after_s=timeout_s)
            process.send_signal(signal_number)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(process.wait(), timeout_s)
            return
