"""The worker process seen from the core: started, watched, replaced.

A request that was in hand when its worker died goes on in the next one: the tokens that came are
handed over, so the text continues where it stopped and nothing of it is said twice. For that, each
request has a seed, also when its sender gave none.
"""

import asyncio
import contextlib
import random
import signal
import socket
import sys
import time
from asyncio.subprocess import Process
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import structlog

from edge_llm.engine.frames import (
    FROM_WORKER,
    Cancel,
    Failed,
    Generate,
    Happened,
    Loading,
    Ready,
    Start,
    encode,
)
from edge_llm.engine.interface import EngineState
from edge_llm.errors import DeviceLostError, EdgeLLMError, EngineFailedError
from edge_llm.protocol import ChatRequest, Delta, Done, Event, ModelInfo, Started
from edge_llm.settings import EngineSettings

__all__ = ["WorkerEngine"]

log = structlog.get_logger()

LONGEST_RESTART_DELAY_S = 30.0
LOADING_LOG_EVERY_S = 5.0
LINE_LIMIT = 2**20  # bytes; asyncio's default of 64 KiB is less than one long delta may have


class _WorkerDiedError(Exception):
    """The process ended before the request did."""


@dataclass(slots=True)
class _Link:
    """A live worker: where to write, and who waits for what it says."""

    process: Process
    writer: asyncio.StreamWriter
    streams: dict[int, asyncio.Queue[Event | Exception]] = field(default_factory=dict)

    def send(self, frame: Start | Generate | Cancel) -> None:
        self.writer.write(encode(frame))

    def end_streams(self, error: Exception) -> None:
        for stream in self.streams.values():
            stream.put_nowait(error)


class WorkerEngine:
    """An engine in a process of its own; ``run`` keeps that process alive."""

    def __init__(self, settings: EngineSettings) -> None:
        self._settings = settings
        self._models: tuple[ModelInfo, ...] = ()
        self._state: EngineState = "loading"
        self._link: asyncio.Future[_Link] = asyncio.get_running_loop().create_future()
        self._last_id = 0
        self._loaded: tuple[int, int] | None = None
        self._logged_at = time.monotonic()

    @property
    def state(self) -> EngineState:
        """Loading, ready, or restarting after a death."""
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
                link = _Link(process, writer)
                link.send(Start(settings=self._settings))
                try:
                    await self._listen(reader, link)
                finally:
                    link.end_streams(_WorkerDiedError())
                    self._end_link()
            if self._state == "ready":
                self._state = "restarting"
                delay = self._settings.worker.restart_delay_s
            elif not self._models and self._link.done() and (error := self._link.exception()):
                raise error
            log.warning("worker.died", exit_code=process.returncode, restart_in_s=delay)
            await asyncio.sleep(delay)
            delay = min(delay * 2, LONGEST_RESTART_DELAY_S)

    async def _listen(self, reader: asyncio.StreamReader, link: _Link) -> None:
        with contextlib.suppress(ConnectionResetError):
            while (line := await reader.readline()).endswith(b"\n"):  # else it died in mid-line
                match FROM_WORKER.validate_json(line):
                    case Happened(id=request_id, event=event):
                        self._tell(link, request_id, event)
                    case Failed(id=None, error=body):
                        self._set_link(body.to_error())
                    case Failed(id=int(request_id), error=body):
                        self._tell(link, request_id, body.to_error())
                    case Loading(done=done, total=total):
                        self._note_loading(done, total)
                    case Ready(models=models, loaded=loaded):
                        self._models = models
                        self._state, self._loaded = "ready", None
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

    @staticmethod
    def _tell(link: _Link, request_id: int, event: Event | Exception) -> None:
        if stream := link.streams.get(request_id):  # else it was cancelled
            stream.put_nowait(event)

    def _set_link(self, value: _Link | EdgeLLMError) -> None:
        if self._link.done():
            self._link = asyncio.get_running_loop().create_future()
        if isinstance(value, _Link):
            self._link.set_result(value)
        else:
            self._link.set_exception(value)
            self._link.exception()  # it is not lost if nobody waits for it

    def _end_link(self) -> None:
        if self._is_ready():
            self._link = asyncio.get_running_loop().create_future()

    async def generate(self, request: ChatRequest) -> AsyncGenerator[Event]:
        """Generate in the worker, across its deaths; see ``Engine.generate``.

        Raises:
            EngineFailedError: the worker died ``max_attempts`` times on this request.
            ModelError: a worker was replaced, and the new one can't load the model.
        """
        if request.seed is None:
            request = request.model_copy(update={"seed": random.getrandbits(63)})
        resume: list[int] = []
        started = False
        for _ in range(self._settings.worker.max_attempts):
            link = await asyncio.shield(self._link)
            try:
                async with contextlib.aclosing(self._attempt(link, request, resume)) as events:
                    async for event in events:
                        if isinstance(event, Delta):
                            resume.extend(event.token_ids)
                            if event.text or event.reasoning:
                                yield event.model_copy(update={"token_ids": ()})
                        elif not (started and isinstance(event, Started)):
                            started = started or isinstance(event, Started)
                            yield event
                return
            except _WorkerDiedError:
                log.warning("request.interrupted", completion_tokens=len(resume))
        raise EngineFailedError(
            f"the worker died {self._settings.worker.max_attempts} times on this request"
        )

    async def _attempt(
        self, link: _Link, request: ChatRequest, resume: list[int]
    ) -> AsyncGenerator[Event]:
        self._last_id += 1
        request_id = self._last_id
        stream: asyncio.Queue[Event | Exception] = asyncio.Queue()
        link.streams[request_id] = stream
        link.send(Generate(id=request_id, request=request, resume=tuple(resume)))
        event: Event | Exception | None = None
        try:
            while not isinstance(event, Done):
                event = await self._next(link, stream)
                if isinstance(event, Exception):
                    raise event
                yield event
        finally:
            del link.streams[request_id]
            if not isinstance(event, Done | Exception):
                link.send(Cancel(id=request_id))

    async def _next(
        self, link: _Link, stream: asyncio.Queue[Event | Exception]
    ) -> Event | Exception:
        """Return what comes next; a worker that does not say anything is taken for hung."""
        timeout_s = self._settings.worker.hang_timeout_s
        try:
            return await asyncio.wait_for(stream.get(), timeout_s)
        except TimeoutError:
            log.error("worker.hung", after_s=timeout_s, pid=link.process.pid)
            link.writer.close()  # `run` replaces the process
            return DeviceLostError(
                f"the engine has not made a step for {timeout_s:g} s; its process is being "
                "replaced, try again in a minute"
            )


@asynccontextmanager
async def _start_process(
    stop_timeout_s: float,
) -> AsyncIterator[tuple[Process, asyncio.StreamReader, asyncio.StreamWriter]]:
    ours, theirs = socket.socketpair()
    with theirs:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "edge_llm.engine.worker_process",
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
