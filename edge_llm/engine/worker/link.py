"""The line to one worker process: what goes out, and who hears what comes back.

A worker that has something to do and says nothing for too long is taken for hung, and the line is
cut; also when nobody waits for it any more, as it would not do the next request either. So each
request is followed until the worker itself has ended it, or says that it has given it up.
"""

import asyncio
import time
from asyncio.subprocess import Process
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import structlog

from edge_llm.engine.worker.frames import Cancel, Check, Generate, Probe, ToWorker, encode
from edge_llm.engine.worker.step_clock import StepClock
from edge_llm.errors import DeviceLostError, EdgeLLMError
from edge_llm.protocol import ChatRequest, Done, Event

__all__ = ["Asked", "Link", "PausedError", "WorkerDiedError"]

log = structlog.get_logger()

LOADING = 0  # in place of the number of a request
LOOK_EVERY_S = 1.0  # as the limit may have become shorter


class WorkerDiedError(Exception):
    """The process ended before the request did."""


class PausedError(Exception):
    """The request was taken back, for another one to run first."""


@dataclass(slots=True)
class Asked:
    """A request that a worker has in hand."""

    id: int
    link: "Link"
    answers: asyncio.Queue[Event | Exception] = field(default_factory=asyncio.Queue)
    is_over: bool = False
    """The worker has ended it, or was told to."""

    def cancel(self) -> None:
        """Let the worker give it up before its next step; nothing to do if it is over."""
        if not self.is_over:
            self.is_over = True
            self.link.send(Cancel(id=self.id))

    def pause(self) -> None:
        """Cancel it, and say so to whoever reads the answers, after those that came before."""
        self.cancel()
        self.answers.put_nowait(PausedError())


class Link:
    """A live worker.

    Args:
        process: ends soon after the line is cut.
        writer: our end of the socket.
        clock: how long a step may take.
        load_timeout_s: how long a file of the model may take.
        on_proof: called when the worker has shown that it works: an answer, a token on request.
    """

    def __init__(
        self,
        process: Process,
        writer: asyncio.StreamWriter,
        clock: StepClock,
        load_timeout_s: float,
        on_proof: Callable[[], None] = lambda: None,
    ) -> None:
        self.process = process
        self.fault: EdgeLLMError | None = None
        """Why it is of no use any more, if it or we know."""
        self._writer = writer
        self._clock = clock
        self._load_timeout_s = load_timeout_s
        self._on_proof = on_proof
        self._asked: dict[int, Asked] = {}
        self._in_hand: set[int] = set()  # of the worker: also what it was told to give up
        self._checks: dict[int, asyncio.Future[EdgeLLMError | None]] = {}
        self._last_id = 0
        self._heard_at = time.monotonic()
        self._timer: asyncio.TimerHandle | None = None
        self.is_dead = False
        """Whether it is of no use any more."""

    def send(self, frame: ToWorker) -> None:
        """Write a frame."""
        self._writer.write(encode(frame))

    @contextmanager
    def asking(self, request: ChatRequest, resume: Sequence[int]) -> Iterator[Asked]:
        """Send a request, and hear its answers until the context is left; that cancels it."""
        self._last_id += 1
        asked = self._asked[self._last_id] = Asked(self._last_id, self)
        self._follow(asked.id)
        self.send(Generate(id=asked.id, request=request, resume=tuple(resume)))
        try:
            yield asked
        finally:
            del self._asked[asked.id]
            asked.cancel()

    async def check(self, request: ChatRequest) -> EdgeLLMError | None:
        """Ask what is wrong with a request; None also if the worker dies over it."""
        self._last_id += 1
        number = self._last_id
        told: asyncio.Future[EdgeLLMError | None] = asyncio.get_running_loop().create_future()
        self._checks[number] = told
        self.send(Check(id=number, request=request))
        try:
            return await told
        finally:
            del self._checks[number]

    def hear_loading(self) -> None:
        """Take it that the loading of the model goes on, or begins."""
        self._follow(LOADING)
        self._heard_at = time.monotonic()

    def hear_ready(self) -> None:
        """Take it that the model is loaded."""
        self._in_hand.discard(LOADING)
        self._heard_at = time.monotonic()

    @property
    def idle_s(self) -> float:
        """How long it has had nothing to do, in seconds."""
        return 0.0 if self._in_hand else time.monotonic() - self._heard_at

    def probe(self) -> None:
        """Have it compute a token for nobody; its silence would be noticed."""
        self._last_id += 1
        self._follow(self._last_id)
        self.send(Probe(id=self._last_id))

    def close(self) -> None:
        """Have the process end by itself, after the step that it is in."""
        self.is_dead = True
        self._writer.close()

    def hear_probe(self, number: int) -> None:
        """Take it that the worker has computed a token."""
        self._note_step()
        self._in_hand.discard(number)
        self._on_proof()

    def hear_check(self, number: int, error: EdgeLLMError | None) -> None:
        """Take what the worker says of a request that waits."""
        if (told := self._checks.get(number)) and not told.done():
            told.set_result(error)

    def hear(self, request_id: int, answer: Event | Exception | None) -> None:
        """Take what the worker says of a request; None if it has given it up."""
        self._note_step()
        is_last = not answer or isinstance(answer, Done | Exception)
        if is_last:
            self._in_hand.discard(request_id)
        if isinstance(answer, Done):
            self._on_proof()
        if isinstance(answer, DeviceLostError):
            self.fault = answer
            self.close()  # it ends itself, or is ended if the card lets it not
        if asked := self._asked.get(request_id):  # else nobody waits for it any more
            asked.is_over = asked.is_over or is_last
            if answer:
                asked.answers.put_nowait(answer)

    def end(self, error: Exception) -> None:
        """Tell all who wait that nothing more comes from this worker."""
        self.is_dead = True
        self._in_hand.clear()
        if self._timer:
            self._timer.cancel()
        for number in self._checks:
            self.hear_check(number, None)
        for asked in self._asked.values():
            asked.is_over = True
            asked.answers.put_nowait(error)

    def _follow(self, number: int) -> None:
        """Expect a sign of life until the worker has ended this."""
        if not self._in_hand:
            self._heard_at = time.monotonic()
        self._in_hand.add(number)
        if not self._timer:
            self._watch()

    def _note_step(self) -> None:
        now = time.monotonic()
        if self._in_hand:
            self._clock.note(now - self._heard_at)
        self._heard_at = now

    def _watch(self) -> None:
        self._timer = None
        if not self._in_hand:
            return
        limit_s = self._load_timeout_s if LOADING in self._in_hand else self._clock.limit_s
        rest_s = self._heard_at + limit_s - time.monotonic()
        if rest_s > 0:
            self._timer = asyncio.get_running_loop().call_later(
                min(rest_s, LOOK_EVERY_S), self._watch
            )
            return
        log.error("worker.hung", after_s=round(limit_s, 1), pid=self.process.pid)
        self.fault = DeviceLostError(
            f"the engine has not made a step for {limit_s:.3g} s; its process is being replaced"
        )
        self.end(self.fault)
        self._writer.close()  # so that the process is replaced
