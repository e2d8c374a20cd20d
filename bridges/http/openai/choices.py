"""Several answers to one request: generated one after another, each with the next seed."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol

from bridges.http.bridge import Bridge, Reply, dropped_header
from bridges.http.event_stream import EventStream
from edge_llm.protocol import ChatRequest, Event, Started

__all__ = ["answer_all", "make_choices", "stream_all"]

SEEDS = 2**64


def make_choices(chat: ChatRequest, num_choices: int) -> list[ChatRequest]:
    """Make a request for each of several answers; without a seed, each is random anyway."""
    if chat.seed is None:
        return [chat] * num_choices
    return [
        chat.model_copy(update={"seed": _wrapped(chat.seed + index)})
        for index in range(num_choices)
    ]


async def answer_all(bridge: Bridge, chats: Sequence[ChatRequest]) -> list[Reply]:
    """Wait for all answers.

    Raises:
        EdgeLLMError: as for ``Bridge.generate``.
    """
    return [await bridge.answer(chat) for chat in chats]


class _Maker(Protocol):
    """Makes the chunks of a dialect."""

    def make(self, index: int, event: Event, /) -> Iterable[Mapping[str, object]]: ...

    def end(self) -> Iterable[Mapping[str, object]]: ...


async def stream_all(
    bridge: Bridge, chats: Sequence[ChatRequest], maker: _Maker, stream: EventStream
) -> None:
    """Send the chunks of all answers, and the word that ends them.

    Raises:
        EdgeLLMError: as for ``Bridge.generate``.
        ConnectionError: the client has gone, or stopped reading.
    """
    for index, chat in enumerate(chats):
        async with bridge.generate(chat) as events:
            async for event in events:
                if isinstance(event, Started):
                    stream.response.headers.update(dropped_header(event))
                for chunk in maker.make(index, event):
                    await stream.send(chunk)
    for chunk in maker.end():
        await stream.send(chunk)
    await stream.send("[DONE]")


def _wrapped(seed: int) -> int:
    return seed if seed < SEEDS else seed - SEEDS
