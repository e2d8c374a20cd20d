"""UpstreamEngine: any server that speaks OpenAI's dialect, as the engine of this node.

An attempt that fails before anything of the answer has come is made again, after a while, if the
failure may pass; after the first token there is no second attempt, as it would say something else.
A generator that is closed closes its connection, and servers stop at that.

A request that is paused is not read on, and the server is held once the sockets are full. That is
much later than its next token, so a server with one slot answers whom it was paused for afterwards.
"""

import asyncio
import itertools
import math
import random
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field

import aiohttp
import structlog

from edge_llm import __version__
from edge_llm.engine.gate import Gate
from edge_llm.engine.interface import EngineState
from edge_llm.engine.time_budget import Speed, TimeBudget
from edge_llm.engine.upstream.answer import UpstreamAnswer
from edge_llm.engine.upstream.body import make_body, without_oldest
from edge_llm.engine.upstream.chunks import ChunkReader
from edge_llm.engine.upstream.errors import AgainError
from edge_llm.engine.upstream.server import UpstreamServer
from edge_llm.engine.upstream.sse import EventParser
from edge_llm.errors import ContextOverflowError, EdgeLLMError, UpstreamError
from edge_llm.protocol import (
    ChatRequest,
    Delta,
    Done,
    Event,
    FinishReason,
    Message,
    ModelInfo,
    Started,
    Timing,
)
from edge_llm.settings import EngineSettings, OpenAISettings

__all__ = ["UpstreamEngine", "open_upstream"]

log = structlog.get_logger()

BACKOFF_S = (0.5, 8.0)  # before the second attempt; doubles up to the other, as openai-python's
LONGEST_WAIT_S = 10.0  # if the server wants to be left alone for longer, the client is told so


class TimeUpError(Exception):
    """The time budget is over."""


@dataclass(slots=True)
class _Asked:
    """One request, through all of its attempts."""

    request: ChatRequest
    gate: Gate
    budget: TimeBudget | None
    conversation: tuple[Message, ...]
    num_dropped: int = 0
    has_started: bool = False
    reason: FinishReason = "stop"
    answer: UpstreamAnswer = field(init=False)
    reader: ChunkReader = field(init=False)

    def begin(self) -> None:
        """Begin an attempt."""
        self.answer = UpstreamAnswer(self.request, self.budget)
        self.reader = ChunkReader()

    def drop_oldest(self) -> bool:
        """Leave out the oldest turns, if they may go and there is something left."""
        may_go = self.request.overflow == "drop_oldest"
        kept = without_oldest(self.conversation) if may_go else None
        if kept is None:
            return False
        self.num_dropped += len(self.conversation) - len(kept)
        self.conversation = kept
        return True

    @asynccontextmanager
    async def in_time(self, silence_s: float = math.inf) -> AsyncIterator[None]:
        """Wait no longer than the budget, and no longer than the server may be silent.

        Raises:
            TimeUpError: the budget is over.
            UpstreamError: the server was silent for too long.
        """
        left_s = self.budget.left_s if self.budget else math.inf
        try:
            async with asyncio.timeout(min(left_s, silence_s)):
                yield
        except TimeoutError as exc:
            if left_s <= silence_s:
                raise TimeUpError from exc
            raise UpstreamError(f"the server has said nothing for {silence_s:g} s") from exc

    async def wait_at_gate(self) -> None:
        """Wait while another request is to be answered first."""
        if not self.gate.is_open:
            async with self.in_time():
                await self.gate.wait_until_open()
            if self.budget:
                self.budget.skip()


class UpstreamEngine:
    """A server as an engine; ``open_upstream`` opens it."""

    def __init__(self, settings: EngineSettings, server: UpstreamServer) -> None:
        self._settings = settings
        self._server = server
        self._speed = Speed()

    @property
    def state(self) -> EngineState:
        """Loading until the server has told its models, offline while it can't be reached."""
        return self._server.state

    @property
    def activity(self) -> str:
        """Idle, or the state; see ``Engine.activity``."""
        return "idle" if self.state == "ready" else self.state

    @property
    def models(self) -> tuple[ModelInfo, ...]:
        """The one model that is asked for; empty until the server has been reached."""
        return self._server.models

    async def ready(self) -> tuple[ModelInfo, ...]:
        """Wait until the server has told its models; see ``Engine.ready``.

        Raises:
            UpstreamError: it can't be reached, or refuses us; then nobody waits.
        """
        return await self._server.ready()

    def prepare(self, conversations: Sequence[Sequence[Message]]) -> None:
        """Do nothing: what the server keeps is its own affair. See ``Engine.prepare``."""

    async def check(self, request: ChatRequest) -> None:
        """Say nothing: what the server refuses, it tells when it is asked."""

    async def generate(
        self, request: ChatRequest, gate: Gate | None = None
    ) -> AsyncGenerator[Event]:
        """Generate at the server; see ``PausableEngine.generate``, and for pauses above.

        Raises:
            ContextOverflowError: the server says that the conversation is too long.
            ExpiredError: the time budget was over before the first word.
            InvalidRequestError: the server refuses the request; in its words.
            UnavailableError: it is busy; with ``retry_after_s`` if it says so.
            UpstreamError: it can't be reached, is set up wrongly, fell silent or broke off.
        """
        budget = None
        if request.time_budget_s is not None:
            budget = TimeBudget(request.time_budget_s, self._speed)
        asked = _Asked(request, gate or Gate(), budget, request.conversation)
        asked.begin()
        try:
            async with aclosing(self._attempts(asked)) as events:
                async for event in events:
                    yield event
        except TimeUpError:
            asked.reason = "time_budget"
        if rest := asked.answer.finish(asked.reason):
            yield Delta(text=rest)
        yield Done(
            finish_reason=asked.reason,
            usage=asked.reader.usage,
            timing=Timing(tokens_per_s=budget.tokens_per_s if budget else None),
            dropped_messages=asked.num_dropped,
        )

    async def _attempts(self, asked: _Asked) -> AsyncGenerator[Started | Delta]:
        async with asked.in_time():
            await self.ready()
        for attempt in itertools.count(1):
            try:
                async with aclosing(self._attempt(asked)) as events:
                    async for event in events:
                        yield event
                    return
            except AgainError as exc:
                wait_s = _wait_s(exc.error, attempt)
                is_last = attempt >= self._openai.max_attempts or wait_s > LONGEST_WAIT_S
                if asked.reader.has_begun or is_last:
                    raise exc.error from exc
                log.info("upstream.retried", reason=exc.error.message, wait_s=round(wait_s, 2))
            async with asked.in_time():
                await asyncio.sleep(wait_s)

    async def _attempt(self, asked: _Asked) -> AsyncGenerator[Started | Delta]:
        """Ask once; yield what the answer adds, until it ends or has to."""
        asked.begin()
        async with (
            self._open(asked) as response,
            aclosing(self._events(asked, response)) as events,
        ):
            if not asked.has_started:
                asked.has_started = True
                yield Started(dropped_messages=asked.num_dropped)
            async for data in events:
                delta = asked.answer.add(asked.reader.read(data))
                if delta != Delta():
                    yield delta
                if reason := asked.answer.ended_by():
                    asked.reason = reason
                    return
                if asked.reader.is_over:
                    break
        if asked.reader.finish_reason is None:
            raise AgainError(UpstreamError("the server broke off in the middle of its answer"))
        asked.reason = asked.reader.finish_reason

    @asynccontextmanager
    async def _open(self, asked: _Asked) -> AsyncIterator[aiohttp.ClientResponse]:
        """Ask for the answer, and close the connection on leaving, whatever is still to come."""
        await asked.wait_at_gate()
        model = asked.request.model or self.models[0].id
        while True:
            body = make_body(asked.request, asked.conversation, self._settings, model)
            try:
                async with asked.in_time(self._openai.timeout_s):
                    response = await self._server.post("chat/completions", body)
                break
            except ContextOverflowError:
                if not asked.drop_oldest():
                    raise
        try:
            yield response
        finally:
            response.close()

    async def _events(self, asked: _Asked, response: aiohttp.ClientResponse) -> AsyncGenerator[str]:
        """Yield the data of each event; a server that did not stream has only one."""
        is_stream = response.content_type != "application/json"
        parser = EventParser()
        while True:
            await asked.wait_at_gate()
            async with asked.in_time(self._openai.timeout_s):
                with self._server.translated():
                    piece = await (response.content.readany() if is_stream else response.read())
            for data in parser.feed(piece) if is_stream else (piece.decode(errors="replace"),):
                yield data
                await asked.wait_at_gate()
            if not (piece and is_stream):
                break
        for data in parser.finish():
            yield data

    @property
    def _openai(self) -> OpenAISettings:
        return self._settings.openai


def _wait_s(error: EdgeLLMError, attempt: int) -> float:
    """Return what the server wants, else longer with each attempt, and not all at once."""
    if error.retry_after_s is not None:
        return error.retry_after_s
    first_s, longest_s = BACKOFF_S
    return random.uniform(0.75, 1.0) * min(math.ldexp(first_s, attempt - 1), longest_s)


@asynccontextmanager
async def open_upstream(settings: EngineSettings) -> AsyncIterator[UpstreamEngine]:
    """Look at the server from now on, until the context is left.

    Raises:
        ConfigurationError: the file of its key can't be used.
    """
    openai = settings.openai
    headers = {"User-Agent": f"edge-llm/{__version__}"}
    if key := openai.read_api_key():
        headers["Authorization"] = f"Bearer {key}"
    # How long an answer takes is for `_Asked.in_time` to say.
    timeout = aiohttp.ClientTimeout(total=None, connect=openai.connect_timeout_s)
    # llama-server closes a connection after each stream without having said so: the next request
    # would be written into it, and lost.
    connector = aiohttp.TCPConnector(force_close=True)
    async with (
        aiohttp.ClientSession(headers=headers, timeout=timeout, connector=connector) as http,
        asyncio.TaskGroup() as tasks,
    ):
        server = UpstreamServer(openai, settings.max_tokens, http)
        looking = tasks.create_task(server.run(), name="upstream.looking")
        try:
            yield UpstreamEngine(settings, server)
        finally:
            looking.cancel()
