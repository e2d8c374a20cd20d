"""What goes out over MQTT for one request."""

from typing import Literal, Self

from edge_llm.errors import EdgeLLMError, error_from_code
from edge_llm.protocol.event import FinishReason, Timing, TokenLogprob, Usage
from edge_llm.protocol.tools import ToolCall
from edge_llm.protocol.wire import Told

__all__ = ["DeltaPayload", "ErrorBody", "EventPayload", "Response"]


class ErrorBody(Told):
    """Why there is no answer."""

    code: str
    """Stable, for machines; ``edge_llm.errors`` lists them all."""
    message: str
    """One sentence for people."""
    param: str | None = None
    """The field at fault."""
    retry_after_s: float | None = None
    """When to try again, in seconds, if that helps."""

    @classmethod
    def from_error(cls, error: EdgeLLMError) -> Self:
        """Put an error on the wire."""
        return cls(
            code=error.code,
            message=error.message,
            param=error.param,
            retry_after_s=error.retry_after_s,
        )

    def to_error(self) -> EdgeLLMError:
        """Take an error from the wire."""
        return error_from_code(
            self.code, self.message, param=self.param, retry_after_s=self.retry_after_s
        )


class Response(Told):
    """The one final message on ``llm/response/<id>``, as JSON."""

    id: str
    """The request's id, as in its topic."""
    node: str
    """Which node answered."""
    model: str | None = None
    """Which model answered."""
    text: str = ""
    """The whole answer; on failure what the preset says instead, if it does."""
    parts: int | None = None
    """How many parts were sent, if they were asked for."""
    reasoning: str | None = None
    """What the model thought first, if it was allowed to."""
    tool_calls: tuple[ToolCall, ...] | None = None
    """What the model asks to have called, if tools were offered."""
    logprobs: tuple[TokenLogprob, ...] | None = None
    """Of each token of the text, if they were asked for."""
    finish_reason: FinishReason | None = None
    """Why the text ended; none on failure."""
    usage: Usage | None = None
    """How many tokens that were."""
    timing: Timing | None = None
    """Where the time went."""
    dropped_messages: int | None = None
    """Oldest messages of the conversation that the context had no room for, if there were any."""
    error: ErrorBody | None = None
    """Present if the request failed."""


class DeltaPayload(Told):
    """A piece of the answer on ``llm/response/<id>/delta``, as JSON."""

    seq: int
    """Counts from 0 without gaps."""
    text: str
    """All of them together are the text of the answer."""


class EventPayload(Told):
    """What happened to a request, on ``llm/response/<id>/event``."""

    event: Literal["queued", "started", "restarted", "first_token", "done", "error"]
    """It waits, and again whenever it moves up; its turn has come; another node of a fleet begins
    it anew, with deltas from 0; the first text is there; the end."""
    position: int | None = None
    """In the queue; 1 is next."""
    finish_reason: FinishReason | None = None
    """Why the text ended."""
    code: str | None = None
    """Of the error."""
