"""The line to one worker process: what goes out, and who hears what comes back.

A worker that has something to do and says nothing for too long is taken for hung, and the line is
cut; also when nobody waits for it any more, as it would not do the next request either. So each
request is followed until the worker itself has ended it, or says that it has given it up.
"""

import asyncio
from asyncio.subprocess import Process
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import structlog

from edge_llm.engine.worker.frames import Cancel, Check, Generate, ToWorker, encode
from edge_llm.errors import DeviceLostError, EdgeLLMError
from edge_llm.protocol import ChatRequest, Done, Event

__all__ = ["Asked", "Link", "PausedError", "WorkerDiedError"]

log = structlog.get_logger()


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
        hang_timeout_s: how long a step may take.
    """

    def __init__(
        self, process: Process, writer: asyncio.StreamWriter, hang_timeout_s: float
    ) -> None:
        self.process = process
        self._writer = writer
        self._hang_timeout_s = hang_timeout_s
        self._asked: dict[int, Asked] = {}
        self._in_hand: set[int] = set()  # of the worker: also what it was told to give up
        self._checks: dict[int, asyncio.Future[EdgeLLMError | None]] = {}
        self._last_id = 0
        self._heard_at = 0.0
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
        if not self._in_hand:
            self._heard_at = asyncio.get_running_loop().time()
        self._in_hand.add(asked.id)
        self.send(Generate(id=asked.id, request=request, resume=tuple(resume)))
        if not self._timer:
            self._watch()
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

    def hear_check(self, number: int, error: EdgeLLMError | None) -> None:
        """Take what the worker says of a request that waits."""
        if (told := self._checks.get(number)) and not told.done():
            told.set_result(error)

    def hear(self, request_id: int, answer: Event | Exception | None) -> None:
        """Take what the worker says of a request; None if it has given it up."""
        self._heard_at = asyncio.get_running_loop().time()
        is_last = not answer or isinstance(answer, Done | Exception)
        if is_last:
            self._in_hand.discard(request_id)
        if asked := self._asked.get(request_id):  # else nobody waits for it any more
            asked.is_over = asked.is_over or is_last
            if answer:
                asked.answers.put_nowait(answer)

    def end(self, error: Exception) -> None:
        """Tell all who wait that nothing more comes."""
        self.is_dead = True
        self._in_hand.clear()
        if self._timer:
            self._timer.cancel()
        for number in self._checks:
            self.hear_check(number, None)
        for asked in self._asked.values():
            asked.is_over = True
            asked.answers.put_nowait(error)

    def _watch(self) -> None:
        self._timer = None
        if not self._in_hand:
            return
        loop = asyncio.get_running_loop()
        rest_s = self._heard_at + self._hang_timeout_s - loop.time()
        if rest_s > 0:
            self._timer = loop.call_later(rest_s, self._watch)
            return
        log.error("worker.hung", after_s=self._hang_timeout_s, pid=self.process.pid)
        self.end(
            DeviceLostError(
                f"the engine has not made a step for {self._hang_timeout_s:g} s; its process is "
                "being replaced, try again in a minute"
            )
        )
        self._writer.close()  # so that the process is replaced
