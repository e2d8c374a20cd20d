"""The reply to one request, as its messages come in: events out of them, each word once.

A reply may be told more than once: when a node dies, its broker gives the request to the node's
next life, which begins anew. What was yielded before is compared with what is told now, and only
what goes beyond it is yielded. Deltas travel at QoS 0 and may get lost; after a gap no delta is
yielded, and the rest comes with the final message, which has the whole text.
"""

from pydantic import ValidationError

from edge_llm.errors import DuplicateIdError, EdgeLLMError, EngineFailedError, error_from_code
from edge_llm.protocol import (
    Delta,
    DeltaPayload,
    Done,
    ErrorBody,
    Event,
    EventPayload,
    Queued,
    Response,
    Started,
    Timing,
    ToolCallDelta,
    Usage,
)

__all__ = ["Reading"]


class Reading:
    """What was read of a reply so far."""

    def __init__(self) -> None:
        self.is_over = False
        """Whether the final message has come."""
        self._has_started = False
        self._said = ""  # what was yielded
        self._told = ""  # what this telling came to, up to its first gap
        self._next_seq = 0
        self._has_gap = False

    def read(self, level: str, payload: bytes) -> list[Event]:
        """Take a message; return what it adds.

        Args:
            level: what stands below the response topic; nothing for the final message.
            payload: as it came.

        Raises:
            EngineFailedError: the text does not go on from what was yielded of it, or can't be
                read.
            EdgeLLMError: the request failed; as the node says.
        """
        match level:
            case "":
                return self._read_final(payload)
            case "delta":
                return self._read_delta(payload)
            case "event":
                return self._read_event(payload)
            case "error":
                error = _error_of(payload)
                # It refuses the second copy of a request that it has in hand: all is well.
                if not isinstance(error, DuplicateIdError):
                    self.is_over = True
                    raise error
        return []

    def expect_anew(self) -> None:
        """Skip deltas until a telling begins, as the node may have been restarted."""
        self._has_gap = True

    def _read_event(self, payload: bytes) -> list[Event]:
        try:
            event = EventPayload.model_validate_json(payload)
        except ValidationError:  # one that only a newer node has
            return []
        if event.event == "queued" and not self._has_started:
            return [Queued(position=event.position or 1)]
        return self._start() if event.event in ("started", "first_token") else []

    def _read_delta(self, payload: bytes) -> list[Event]:
        try:
            delta = DeltaPayload.model_validate_json(payload)
        except ValidationError:
            self._has_gap = True
            return []
        if delta.seq == 0:
            self._told, self._next_seq, self._has_gap = "", 0, False
        self._has_gap |= delta.seq != self._next_seq
        if self._has_gap:
            return self._start()
        self._next_seq += 1
        self._told += delta.text
        if self._said.startswith(self._told):
            return self._start()  # told again, or nothing
        return [*self._start(), Delta(text=self._go_on(self._told))]

    def _read_final(self, payload: bytes) -> list[Event]:
        self.is_over = True
        try:
            response = Response.model_validate_json(payload)
        except ValidationError as exc:
            raise EngineFailedError("the node's answer can't be read; is it a newer one?") from exc
        if response.error:
            raise response.error.to_error()
        events = self._start()
        calls = enumerate(response.tool_calls or ())
        rest = Delta(
            text=self._go_on(response.text),
            reasoning=response.reasoning or "",
            tool_calls=tuple(
                ToolCallDelta(
                    index=index,
                    id=call.id,
                    name=call.function.name,
                    arguments=call.function.arguments,
                )
                for index, call in calls
            ),
            logprobs=response.logprobs or (),
        )
        if rest != Delta():
            events.append(rest)
        done = Done(
            finish_reason=response.finish_reason or "stop",
            usage=response.usage or Usage(),
            timing=response.timing or Timing(),
            dropped_messages=response.dropped_messages or 0,
        )
        return [*events, done]

    def _start(self) -> list[Event]:
        if self._has_started:
            return []
        self._has_started = True
        return [Started()]

    def _go_on(self, text: str) -> str:
        if not text.startswith(self._said):
            raise EngineFailedError(
                "the answer began anew with other words, and what was said can't be taken back; "
                "with a seed it would have been the same"
            )
        rest = text[len(self._said) :]
        self._said = text
        return rest


def _error_of(payload: bytes) -> EdgeLLMError:
    try:
        return ErrorBody.model_validate_json(payload).to_error()
    except ValidationError:  # as they who read bare text are told it
        code, _, message = payload.decode(errors="replace").partition(": ")
        return error_from_code(code, message)
