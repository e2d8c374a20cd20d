"""Asking the engine, and telling the answer in Ollama's way: in lines, or all at once."""

from collections.abc import AsyncGenerator
from contextlib import AbstractAsyncContextManager

from aiohttp import web

from bridges.http.bridge import dropped_header
from bridges.http.line_stream import LineStream
from bridges.http.ollama.reply import CallCollector, MakeReply, Said, make_end
from edge_llm.errors import EngineFailedError
from edge_llm.protocol import Delta, Done, Event, Started

__all__ = ["answer_at_once", "answer_in_lines"]

Asked = AbstractAsyncContextManager[AsyncGenerator[Event]]
"""The events of one request; leaving it frees the engine."""


async def answer_in_lines(
    request: web.Request, asked: Asked, name: str, make: MakeReply
) -> web.StreamResponse:
    """Send a line for each piece, and a last one.

    Args:
        request: to reply to.
        asked: what the engine says.
        name: of the model, as the request has it.
        make: makes the lines.
    """
    async with LineStream(request) as lines:
        hearing = _Hearing()
        async with asked as events:
            async for event in events:
                said = hearing.take(event)
                if isinstance(event, Started):
                    lines.response.headers.update(dropped_header(event))
                if said:
                    await lines.send(make(name, said, None))
        await lines.send(make(name, Said(), make_end(hearing.done)))
    return lines.response


async def answer_at_once(asked: Asked, name: str, make: MakeReply) -> web.Response:
    """Wait for the whole answer; the arguments are those of ``answer_in_lines``."""
    hearing = _Hearing()
    async with asked as events:
        said = [hearing.take(event) async for event in events]
    done = hearing.done
    reply = make(name, Said.all_of(said), make_end(done))
    return web.json_response(reply, headers=dropped_header(done))


class _Hearing:
    """Turns events into what is said, to the end: else the engine would see a cancel."""

    def __init__(self) -> None:
        self._calls = CallCollector()
        self._done: Done | None = None

    @property
    def done(self) -> Done:
        """The end.

        Raises:
            EngineFailedError: there was none.
        """
        if self._done is None:
            raise EngineFailedError("the engine ended without a word about why")
        return self._done

    def take(self, event: Event) -> Said:
        match event:
            case Delta():
                return Said(
                    text=event.text,
                    thinking=event.reasoning,
                    tool_calls=self._calls.add(event),
                    logprobs=event.logprobs,
                )
            case Done():
                self._done = event
                return Said(tool_calls=self._calls.finish())
        return Said()
