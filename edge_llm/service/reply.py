"""What goes out for one request: events and deltas if it asked for them, then one final message.

Pure bookkeeping: it makes messages and sends none. Two things hold. The deltas add up to the text
of the final message, exactly, also where that is cut to ``max_bytes``. And a reply in bare text
never holds an error: that goes to ``.../error``, and the preset's fallback line, if there is one,
is what is said instead.
"""

from collections.abc import Iterator
from dataclasses import replace
from typing import NamedTuple, Protocol

from pydantic import BaseModel

from edge_llm.errors import (
    EdgeLLMError,
    ExpiredError,
    InvalidRequestError,
    QueueFullError,
    ReplacedError,
)
from edge_llm.outgoing import Outgoing, ReplyTo
from edge_llm.protocol import (
    Delta,
    DeltaPayload,
    Done,
    ErrorBody,
    Event,
    EventPayload,
    Message,
    MqttRequest,
    Queued,
    Response,
    Started,
    TokenLogprob,
    ToolCallDelta,
    join_tool_calls,
)
from edge_llm.text import (
    FittingText,
    SentenceSplitter,
    WordSplitter,
    cut_to_bytes,
    split_to_bytes,
)

__all__ = ["Ending", "Reply"]

NO_FALLBACK = (ExpiredError, InvalidRequestError, ReplacedError)
"""Errors after which nothing is said: it would be late, or not what somebody asked for."""


class _Splitter(Protocol):
    def add(self, text: str) -> list[str]: ...
    def finish(self) -> list[str]: ...


class _AsItComes:
    """Text in the pieces in which it is generated."""

    def add(self, text: str) -> list[str]:
        return [text] if text else []

    def finish(self) -> list[str]:
        return []


def _make_splitter(request: MqttRequest, language: str | None) -> _Splitter | None:
    match request.stream:
        case "token":
            return _AsItComes()
        case "word":
            return WordSplitter()
        case "sentence":
            return SentenceSplitter(language=language)
    return None


class Ending(NamedTuple):
    """The end of a reply."""

    last: list[Outgoing]
    """Deltas and events; nobody misses them in a copy of the answer."""
    finals: list[Outgoing]
    """Parts and the final message, which comes last."""


class Reply:
    """The reply to one request, as it grows.

    Args:
        to: where it goes.
        request_id: as in the request's topic.
        node: who answers.
        as_json: JSON replies, or bare text.
        request: with what its preset filled in, as far as it could be read.
        language: of the text, for finding its sentences.
        fallback: what is said when there is no answer.
        is_press: of a button; when it is mashed, nothing is said for presses that find the queue
            full, or the fallback line would be heard again and again.
    """

    def __init__(
        self,
        to: ReplyTo,
        request_id: str,
        node: str,
        *,
        as_json: bool,
        request: MqttRequest | None = None,
        language: str | None = None,
        fallback: str | None = None,
        is_press: bool = False,
    ) -> None:
        self._silent = (*NO_FALLBACK, QueueFullError) if is_press else NO_FALLBACK
        self._to, self._id, self._node = to, request_id, node
        self._as_json = as_json
        self._fallback = fallback
        request = request or MqttRequest()
        self._events = request.events
        self._max_bytes = request.max_bytes
        self._parts = request.parts
        self._model = request.model
        self._splitter = _make_splitter(request, language)
        self._fitting: FittingText | None = None
        if self._max_bytes and self._splitter and not self._parts:
            whole = request.stream != "token"
            self._fitting = FittingText(self._max_bytes, whole_pieces=whole)
        self._text = ""
        self._streamed = ""
        self._reasoning = ""
        self._tool_calls: list[ToolCallDelta] = []
        self._logprobs: list[TokenLogprob] = []
        self._seq = 0

    @property
    def message(self) -> Message | None:
        """All that was generated of the answer so far, as a turn; none if that is nothing."""
        calls = join_tool_calls(self._tool_calls) or None
        if not (self._text or calls):
            return None
        return Message(role="assistant", content=self._text, tool_calls=calls)

    def add(self, event: Event) -> Iterator[Outgoing]:
        """Take what the engine says; yield what can be published of it now."""
        match event:
            case Queued():
                yield from self._event(EventPayload(event="queued", position=event.position))
            case Started():
                yield from self._event(EventPayload(event="started"))
            case Delta():
                if event.text and not self._text:
                    yield from self._event(EventPayload(event="first_token"))
                self._text += event.text
                self._reasoning += event.reasoning
                self._tool_calls += event.tool_calls
                self._logprobs += event.logprobs
                if self._splitter:
                    for piece in self._splitter.add(event.text):
                        yield from self._delta(piece)
            case Done():
                pass

    def begin_again(self) -> Iterator[Outgoing]:
        """Say that what was said of the answer so far does not count; its deltas begin anew."""
        event = EventPayload(event="restarted")
        if self._events or self._splitter:
            yield self._make(self._to.below("event"), event, qos=0)

    def finish(self, done: Done | None) -> Ending:
        """Return the last deltas, if there are any left, the parts, and the final message.

        Without ``done`` the request was cancelled, and the text is what there was until then.
        """
        finish_reason = done.finish_reason if done else "cancelled"
        said = (("finish_reason", finish_reason),)
        last = list(self._last_deltas())
        parts = split_to_bytes(self._text, self._max_bytes or 0) if self._parts else []
        finals = [
            self._final(self._to.below(f"part/{number}"), part) for number, part in enumerate(parts)
        ]
        body: Response | str = self._final_text()
        if self._as_json:
            body = Response(
                id=self._id,
                node=self._node,
                model=self._model,
                text=self._final_text(),
                parts=len(parts) or None,
                reasoning=self._reasoning or None,
                tool_calls=join_tool_calls(self._tool_calls) or None,
                logprobs=tuple(self._logprobs) or None,
                finish_reason=finish_reason,
                usage=done.usage if done else None,
                timing=done.timing if done else None,
                dropped_messages=(done.dropped_messages or None) if done else None,
            )
        finals.append(self._final(self._to.response, body, said))
        last.extend(self._event(EventPayload(event="done", finish_reason=finish_reason)))
        return Ending(last, finals)

    def fail(self, error: EdgeLLMError) -> Ending:
        """Return the final message of a request that failed, after what there is to say of that.

        Bare-text clients get ``code: message`` on the error topic, so that no sign ever shows, and
        no loudspeaker says, an error as if it were an answer.
        """
        said = (("error", error.code),)
        fallback = None if isinstance(error, self._silent) else self._fallback
        events = list(self._event(EventPayload(event="error", code=error.code)))
        if self._as_json:
            response = Response(
                id=self._id,
                node=self._node,
                model=self._model,
                text=self._cut(fallback or ""),
                error=ErrorBody.from_error(error),
            )
            return Ending(events, [self._final(self._to.response, response, said)])
        finals = [self._final(self._to.below("error"), f"{error.code}: {error.message}", said)]
        if fallback is not None:
            finals.append(self._final(self._to.response, self._cut(fallback), said))
        return Ending(events, finals)

    def refuse(self, error: EdgeLLMError) -> Outgoing:
        """Return the answer to a request whose id is taken: not on the topic of the other one."""
        said = (("error", error.code),)
        body = ErrorBody.from_error(error)
        payload = body if self._as_json else f"{error.code}: {error.message}"
        return self._final(self._to.below("error"), payload, said)

    def name_model(self, model: str) -> None:
        """Say which model answers, if the request did not choose one."""
        self._model = self._model or model

    def _delta(self, piece: str) -> Iterator[Outgoing]:
        if self._fitting:
            piece = self._fitting.add(piece)
        pieces = split_to_bytes(piece, self._max_bytes) if self._max_bytes else [piece]
        for text in filter(None, pieces):
            self._streamed += text
            seq, self._seq = self._seq, self._seq + 1
            body = DeltaPayload(seq=seq, text=text) if self._as_json else text
            yield self._make(self._to.deltas or self._to.below("delta"), body, qos=0)

    def _last_deltas(self) -> Iterator[Outgoing]:
        if self._splitter:
            for piece in self._splitter.finish():
                yield from self._delta(piece)
        if self._fitting:
            fitting, self._fitting = self._fitting, None
            yield from self._delta(fitting.finish())

    def _final_text(self) -> str:
        if self._splitter and self._max_bytes and not self._parts:
            return self._streamed
        return self._cut(self._text)

    def _cut(self, text: str) -> str:
        return cut_to_bytes(text, self._max_bytes) if self._max_bytes else text

    def _event(self, event: EventPayload) -> Iterator[Outgoing]:
        if self._events:
            yield self._make(self._to.below("event"), event, qos=0)

    def _final(
        self,
        topic: str,
        body: BaseModel | str,
        said: tuple[tuple[str, str], ...] = (),
    ) -> Outgoing:
        if isinstance(body, str):
            body = self._cut(body)
        retain = self._to.retain and topic == self._to.response
        properties = (("node", self._node), *said)
        # A delta would be late when a broker comes back; an answer is still one.
        return replace(
            self._make(topic, body, qos=self._to.qos),
            retain=retain,
            properties=properties,
            keep=True,
        )

    def _make(self, topic: str, body: BaseModel | str, *, qos: int) -> Outgoing:
        if isinstance(body, str):
            payload, content_type = body, "text/plain"
        else:
            payload, content_type = body.model_dump_json(exclude_none=True), "application/json"
        return Outgoing(
            topic=topic,
            payload=payload.encode(),
            content_type=content_type,
            qos=qos,
            correlation=self._to.correlation,
        )
