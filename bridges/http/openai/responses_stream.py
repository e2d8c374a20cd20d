"""The typed events of a response, in their order and with their numbers."""

from collections.abc import Iterator, Mapping

from aiohttp import web

from bridges.http.bridge import Reply
from bridges.http.errors import error_body
from bridges.http.event_stream import EventStream
from bridges.http.openai.responses_body import ResponsesBody
from bridges.http.openai.responses_output import Call, Message, Output, Reasoning
from bridges.http.openai.responses_reply import (
    OutputItem,
    ResponseObject,
    Status,
    StreamEvent,
    begin_response,
    end_response,
    fail_response,
    status_of,
)
from edge_llm.errors import EdgeLLMError
from edge_llm.protocol import Delta, Done, Event, TokenLogprob, ToolCallDelta

__all__ = ["ResponseMaker", "ResponseStream", "make_response"]


class ResponseMaker:
    """Turns the engine's events into those of a response, and keeps the response.

    Args:
        body: what was asked.
    """

    def __init__(self, body: ResponsesBody) -> None:
        self.response: ResponseObject | None = None
        """As far as it has come; none before it has begun."""
        self._body = body
        self._number = 0
        self._open: Output | None = None
        self._output: list[OutputItem] = []
        self._tokens: list[TokenLogprob] = []

    def begin(self, model: str) -> Iterator[StreamEvent]:
        """Make the events that say that the engine has taken the request."""
        self.response = begin_response(self._body, model)
        yield self._numbered({"type": "response.created", "response": self.response})
        yield self._numbered({"type": "response.in_progress", "response": self.response})

    def make(self, event: Event) -> Iterator[StreamEvent]:
        """Make the events for one of the engine's; none for a step that gave no text."""
        match event:
            case Delta():
                yield from self._grow(event)
            case Done():
                yield from self._end(event)

    def fail(self, error: EdgeLLMError) -> Mapping[str, object]:
        """Make the last event of a stream that fails."""
        if self.response is None:  # only pings were sent, and it will never be created
            return {"type": "error", "sequence_number": self._number, **error_body(error)}
        failed = fail_response(self.response, self._output, error)
        return self._numbered({"type": "response.failed", "response": failed})

    def _grow(self, event: Delta) -> Iterator[StreamEvent]:
        self._tokens += event.logprobs
        if event.reasoning:
            reasoning = self._open if isinstance(self._open, Reasoning) else Reasoning()
            yield from self._turn_to(reasoning)
            yield self._placed(reasoning.add(event.reasoning))
        if event.text:
            message = self._open if isinstance(self._open, Message) else Message()
            yield from self._turn_to(message)
            tokens, self._tokens = self._tokens, []
            yield self._placed(message.add(event.text, tokens))
        for piece in event.tool_calls:
            yield from self._call(piece)

    def _call(self, piece: ToolCallDelta) -> Iterator[StreamEvent]:
        if piece.name is not None:
            yield from self._turn_to(Call(piece.id or "", piece.name))
        if piece.arguments and isinstance(self._open, Call):
            yield self._placed(self._open.add(piece.arguments))

    def _turn_to(self, item: Output) -> Iterator[StreamEvent]:
        """Close what is open, and open the next item, unless that is the one that is open."""
        if item is not self._open:
            yield from self._close("completed")
            self._open = item
            yield from map(self._placed, item.open())

    def _close(self, status: Status) -> Iterator[StreamEvent]:
        if self._open:
            yield from map(self._placed, self._open.close(status))
            self._output.append(self._open.item(status))
            self._open = None

    def _end(self, done: Done) -> Iterator[StreamEvent]:
        if self.response is None:
            return
        if isinstance(self._open, Message):
            self._open.add("", self._tokens)  # those that have no text of their own
        elif not self._open:
            yield from self._turn_to(Message())
        status = status_of(done)
        yield from self._close(status)
        self.response = end_response(self.response, self._output, done)
        yield self._numbered({"type": f"response.{status}", "response": self.response})

    def _placed(self, event: StreamEvent) -> StreamEvent:
        event["output_index"] = len(self._output)
        return self._numbered(event)

    def _numbered(self, event: StreamEvent) -> StreamEvent:
        event["sequence_number"] = self._number
        self._number += 1
        return event


class ResponseStream(EventStream):
    """A stream of typed events, whose failure is an event as well."""

    def __init__(self, request: web.Request, maker: ResponseMaker) -> None:
        super().__init__(request)
        self._maker = maker

    def describe(self, error: EdgeLLMError) -> Mapping[str, object]:
        """Make the event that says that the response failed."""
        return self._maker.fail(error)

    def frame(self, payload: Mapping[str, object] | str) -> bytes:
        """Name the event's type in a line of its own as well, as OpenAI does."""
        kind = "" if isinstance(payload, str) else f"event: {payload['type']}\n"
        return kind.encode() + super().frame(payload)


def make_response(body: ResponsesBody, model: str, reply: Reply) -> ResponseObject:
    """Make the reply to a request that did not ask for a stream."""
    calls = tuple(
        ToolCallDelta(
            index=index, id=call.id, name=call.function.name, arguments=call.function.arguments
        )
        for index, call in enumerate(reply.tool_calls)
    )
    whole = Delta(
        text=reply.text, reasoning=reply.reasoning, tool_calls=calls, logprobs=reply.logprobs
    )
    maker = ResponseMaker(body)
    begun = begin_response(body, model)
    maker.response = begun
    for event in (whole, reply.done):
        for _ in maker.make(event):
            pass
    return maker.response
