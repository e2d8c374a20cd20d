"""Ollama's answers: one line for each piece of text, and a last one that counts."""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, NotRequired

from typing_extensions import TypedDict

from edge_llm.protocol import Delta, Done, FinishReason, TokenLogprob, TopLogprob

__all__ = [
    "CallCollector",
    "ChatReply",
    "End",
    "GenerateReply",
    "MakeReply",
    "Said",
    "made_at",
    "make_chat_reply",
    "make_end",
    "make_generate_reply",
]

DONE_REASONS: dict[FinishReason, str] = {
    "stop": "stop",
    "length": "length",
    "tool_calls": "stop",
    "time_budget": "length",  # the word for "there could be more"
    "cancelled": "length",
}


class CalledFunction(TypedDict):
    """Which function is to be called, with what."""

    index: int
    name: str
    arguments: dict[str, Any]


class CallObject(TypedDict):
    """A call that the model asks for."""

    id: str
    function: CalledFunction


class LikelyToken(TypedDict):
    """A token, and the natural logarithm of its probability."""

    token: str
    logprob: float
    bytes: list[int]


class ChosenToken(LikelyToken):
    """A token of the answer, and what else might have been."""

    top_logprobs: NotRequired[list[LikelyToken]]


class MessageObject(TypedDict):
    """The answer, or a piece of it."""

    role: str
    content: str
    thinking: NotRequired[str]
    tool_calls: NotRequired[list[CallObject]]


class End(TypedDict, total=False):
    """Why the answer ended, and what it took; durations in nanoseconds."""

    done_reason: str
    total_duration: int
    load_duration: int
    prompt_eval_count: int
    prompt_eval_duration: int
    eval_count: int
    eval_duration: int


class ChatReply(End):
    """An answer to ``/api/chat``, or a piece of it."""

    model: str
    created_at: str
    message: MessageObject
    done: bool
    logprobs: NotRequired[list[ChosenToken]]


class GenerateReply(End):
    """An answer to ``/api/generate``, or a piece of it."""

    model: str
    created_at: str
    response: str
    done: bool
    thinking: NotRequired[str]
    tool_calls: NotRequired[list[CallObject]]
    logprobs: NotRequired[list[ChosenToken]]


@dataclass(frozen=True, slots=True)
class Said:
    """A piece of an answer, or all of it."""

    text: str = ""
    thinking: str = ""
    tool_calls: Sequence[CallObject] = ()
    logprobs: Sequence[TokenLogprob] = ()

    def __bool__(self) -> bool:
        return bool(self.text or self.thinking or self.tool_calls or self.logprobs)

    @classmethod
    def all_of(cls, pieces: Sequence["Said"]) -> "Said":
        """Put the pieces together."""
        return cls(
            text="".join(piece.text for piece in pieces),
            thinking="".join(piece.thinking for piece in pieces),
            tool_calls=[call for piece in pieces for call in piece.tool_calls],
            logprobs=[token for piece in pieces for token in piece.logprobs],
        )


MakeReply = Callable[[str, Said, End | None], Mapping[str, object]]
"""Makes a line, or the whole answer, of the model's name, what was said, and the end if it is."""


def made_at() -> str:
    """Return the time of day, as Ollama writes it."""
    return datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


def make_chat_reply(model: str, said: Said, end: End | None) -> ChatReply:
    """Make an answer to ``/api/chat``."""
    message: MessageObject = {"role": "assistant", "content": said.text}
    if said.thinking:
        message["thinking"] = said.thinking
    if said.tool_calls:
        message["tool_calls"] = list(said.tool_calls)
    reply: ChatReply = {
        "model": model,
        "created_at": made_at(),
        "message": message,
        "done": end is not None,
    }
    _put(reply, end)
    if said.logprobs:
        reply["logprobs"] = [_chosen(token) for token in said.logprobs]
    return reply


def make_generate_reply(model: str, said: Said, end: End | None) -> GenerateReply:
    """Make an answer to ``/api/generate``."""
    reply: GenerateReply = {
        "model": model,
        "created_at": made_at(),
        "response": said.text,
        "done": end is not None,
    }
    _put(reply, end)
    if said.thinking:
        reply["thinking"] = said.thinking
    if said.tool_calls:
        reply["tool_calls"] = list(said.tool_calls)
    if said.logprobs:
        reply["logprobs"] = [_chosen(token) for token in said.logprobs]
    return reply


def make_end(done: Done) -> End:
    """Say why it ended. Waiting counts as loading, as it does at Ollama's."""
    usage, timing = done.usage, done.timing
    first_s = timing.total_s if timing.ttft_s is None else timing.ttft_s
    end = End(
        done_reason=DONE_REASONS[done.finish_reason],
        total_duration=_ns(timing.total_s),
        load_duration=_ns(timing.queue_s),
        prompt_eval_duration=_ns(first_s - timing.queue_s),
        eval_count=usage.completion_tokens,
        eval_duration=_ns(timing.total_s - first_s),
    )
    if usage.prompt_tokens:  # not known of an answer that was stopped
        end["prompt_eval_count"] = usage.prompt_tokens
    return end


class CallCollector:
    """Tool calls from their pieces: whole ones are all that Ollama has."""

    def __init__(self) -> None:
        self._call: CallObject | None = None
        self._arguments = ""

    def add(self, delta: Delta) -> list[CallObject]:
        """Take the next pieces; return the calls that are now whole."""
        whole: list[CallObject] = []
        for piece in delta.tool_calls:
            if piece.name is not None:
                whole += self.finish()
                function = CalledFunction(index=piece.index, name=piece.name, arguments={})
                self._call = CallObject(id=piece.id or f"call_{piece.index}", function=function)
            self._arguments += piece.arguments
        return whole

    def finish(self) -> list[CallObject]:
        """Return the last call; none if it was cut short."""
        call, text = self._call, self._arguments or "{}"
        self._call, self._arguments = None, ""
        if call is None:
            return []
        arguments = _read_object(text)
        if arguments is None:  # the answer ended at ``num_predict``, and says so
            return []
        call["function"]["arguments"] = arguments
        return [call]


def _read_object(text: str) -> dict[str, Any] | None:
    """Read arguments; None if they are no object, or would be no JSON to the client.

    The model's own always are an object, once they are whole. A server behind this node may send
    anything, and Python reads what others don't: NaN, or half of a surrogate pair.
    """
    try:
        arguments = json.loads(text)
        json.dumps(arguments, ensure_ascii=False, allow_nan=False).encode()
    except (ValueError, RecursionError):
        return None
    return arguments if isinstance(arguments, dict) else None


def _put(reply: End, end: End | None) -> None:
    if end:
        reply.update(end)


def _chosen(token: TokenLogprob) -> ChosenToken:
    chosen = ChosenToken(token=token.token, logprob=token.logprob, bytes=list(token.bytes))
    if token.top_logprobs:
        chosen["top_logprobs"] = _likely(token.top_logprobs)
    return chosen


def _likely(tokens: Iterable[TopLogprob]) -> list[LikelyToken]:
    return [
        LikelyToken(token=token.token, logprob=token.logprob, bytes=list(token.bytes))
        for token in tokens
    ]


def _ns(duration_s: float) -> int:
    """Convert to nanoseconds; never 0, as clients divide by it."""
    return max(1, round(duration_s * 1e9))
