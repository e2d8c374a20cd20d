"""Conversations that are kept for clients that send no more than their next sentence.

A client is known by its address, as it has no other name: ports of this node and programs on one
machine share a conversation. They are kept in memory only.
"""

import asyncio
import ipaddress
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing, asynccontextmanager

from aiohttp import web

from bridges.http.bridge import Bridge
from edge_llm.errors import QueueFullError
from edge_llm.protocol import ChatRequest, Delta, Done, Event, Message, Timing, Usage

__all__ = ["KEPT", "Conversation", "Conversations"]

MAX_CLIENTS = 64
"""The one that was heard of least recently goes first."""

MAX_MESSAGES = 200
"""Of one conversation; what the context has no room for goes earlier."""

MAX_CHARS = 500_000
"""Of one conversation; an engine on another machine does not say what it has no room for."""

MAX_WAITING = 8
"""Requests of one client that wait for each other."""

IDLE_EXPIRY_S = 1800.0
"""How long turns are remembered; the system prompt stays, as nobody would say it again."""

RETRY_AFTER_S = 5.0


class Conversation:
    """One client's conversation: one turn at a time, each with what was said before.

    Args:
        system_prompt: before all turns; none if it is blank.
        clock: gives the time, in seconds.
    """

    def __init__(self, system_prompt: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._system = (
            (Message(role="system", content=system_prompt),) if system_prompt.strip() else ()
        )
        self._turns: tuple[Message, ...] = ()
        self._used_at = clock()
        self._turn = asyncio.Lock()
        self._num_inside = 0  # that wait for their turn or have it
        self._running: _Stop | None = None
        self._is_closed = False

    @asynccontextmanager
    async def generate(
        self, bridge: Bridge, chat: ChatRequest
    ) -> AsyncGenerator[AsyncGenerator[Event]]:
        """Give the events of the next turn, once the one before it has ended.

        Raises:
            EdgeLLMError: as ``Bridge.generate``; ``QueueFullError`` if too many wait already.
        """
        if self._num_inside > MAX_WAITING:
            raise QueueFullError(
                f"{MAX_WAITING} requests of this client are waiting for each other, as many as may",
                retry_after_s=RETRY_AFTER_S,
            )
        self._num_inside += 1
        try:
            async with self._turn:
                if self._clock() - self._used_at > IDLE_EXPIRY_S:
                    self._turns = ()
                said = (*self._turns, *chat.conversation)
                full = {"messages": (*self._system, *said), "overflow": "drop_oldest"}
                async with (
                    bridge.generate(chat.model_copy(update=full)) as events,
                    aclosing(self._heard(events, said)) as heard,
                ):
                    yield heard
        finally:
            self._num_inside -= 1

    def stop(self) -> None:
        """End the turn that is being answered: it has said what it has said."""
        if self._running:
            self._running.ask()

    def close(self) -> None:
        """End all turns, also those that wait: there is another conversation now."""
        self._is_closed = True
        self.stop()

    async def _heard(
        self, events: AsyncGenerator[Event], said: tuple[Message, ...]
    ) -> AsyncGenerator[Event]:
        text = ""
        self._running = _Stop(is_asked=self._is_closed)
        try:
            async with aclosing(_until(self._running, events)) as heard:
                async for event in heard:
                    if isinstance(event, Delta):
                        text += event.text
                    if isinstance(event, Done) and text:
                        answer = Message(role="assistant", content=text)
                        kept = (*said, answer)[event.dropped_messages :]
                        self._turns = _newest(kept)
                        self._used_at = self._clock()
                    yield event
        finally:
            self._running = None


def _newest(turns: tuple[Message, ...]) -> tuple[Message, ...]:
    """Return as many of the newest turns as are kept."""
    turns, room = turns[-MAX_MESSAGES:], MAX_CHARS
    for number, turn in enumerate(reversed(turns)):
        room -= len(turn.content)
        if room < 0:
            return turns[len(turns) - number :]
    return turns


class _Stop:
    """Asks for the end of a turn, wherever it is."""

    def __init__(self, *, is_asked: bool) -> None:
        self.is_asked = is_asked
        self.limit: asyncio.Timeout | None = None  # of the wait for the next event

    def ask(self) -> None:
        self.is_asked = True
        if self.limit and self.limit.when() is None:
            self.limit.reschedule(asyncio.get_running_loop().time())


async def _until(stop: _Stop, events: AsyncGenerator[Event]) -> AsyncGenerator[Event]:
    """Pass the events on; after a stop there is only the end, and it is a normal one."""
    begun, num_tokens = time.monotonic(), 0
    while not stop.is_asked:
        try:
            async with asyncio.timeout(None) as stop.limit:
                event = await anext(events)
        except StopAsyncIteration:
            return
        except TimeoutError:
            if not stop.is_asked:
                raise
            break
        finally:
            stop.limit = None
        if isinstance(event, Delta):
            num_tokens += len(event.token_ids)
        yield event
        if isinstance(event, Done):
            return
    yield Done(
        finish_reason="stop",
        usage=Usage(completion_tokens=num_tokens),
        timing=Timing(total_s=time.monotonic() - begun),
    )


class Conversations:
    """The conversations of all clients, by their addresses."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._by_client: dict[str, Conversation] = {}  # heard of least recently first

    def find(self, address: str | None) -> Conversation | None:
        """Return the conversation of a client; none if it has never begun one."""
        client = _client(address)
        found = self._by_client.pop(client, None)
        if found:
            self._by_client[client] = found
        return found

    def reset(self, address: str | None, system_prompt: str) -> None:
        """Begin a client's conversation anew; the turn that is being answered ends."""
        client = _client(address)
        if before := self._by_client.pop(client, None):
            before.close()
        self._by_client[client] = Conversation(system_prompt, self._clock)
        while len(self._by_client) > MAX_CLIENTS:
            self._by_client.pop(next(iter(self._by_client)))


def _client(address: str | None) -> str:
    """Name a client: a machine reaches itself by several addresses."""
    try:
        found = ipaddress.ip_address(address or "")
    except ValueError:  # a UNIX socket
        return address or ""
    mapped = getattr(found, "ipv4_mapped", None)
    found = mapped or found
    return "loopback" if found.is_loopback else str(found)


KEPT = web.AppKey("kept", Conversations)
