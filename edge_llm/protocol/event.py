"""What an engine yields while it answers: the wire types are the engine's types."""

from collections.abc import Iterable
from typing import Annotated, Literal

from pydantic import Field

from edge_llm.protocol.tools import FunctionCall, ToolCall
from edge_llm.protocol.wire import Told, Wire

__all__ = [
    "Delta",
    "Done",
    "Event",
    "FinishReason",
    "Queued",
    "Started",
    "Timing",
    "TokenLogprob",
    "ToolCallDelta",
    "TopLogprob",
    "Usage",
    "join_tool_calls",
]

FinishReason = Literal["stop", "length", "tool_calls", "time_budget", "cancelled"]


class Usage(Told):
    """Counts of tokens, as OpenAI names them."""

    prompt_tokens: int = 0
    """Tokens of the rendered conversation."""
    cached_tokens: int = 0
    """How many of those were still in the KV cache."""
    completion_tokens: int = 0
    """Generated tokens, reasoning and the end token included."""
    reasoning_tokens: int = 0
    """How many of those were reasoning."""


class Timing(Told):
    """Where the time went, in seconds from the moment the request was accepted."""

    queue_s: float = 0.0
    """Waiting for its turn, and for a worker that loads."""
    ttft_s: float | None = None
    """Until the first text; none if there was no text."""
    total_s: float = 0.0
    """Until the end."""
    tokens_per_s: float | None = None
    """Speed of decoding, the first token left out; none for fewer than two tokens."""


class TopLogprob(Told):
    """A token that might have been chosen."""

    token: str
    """Its text; bytes that are no whole character are U+FFFD here."""
    bytes: tuple[int, ...]
    """Its bytes, 0 to 255."""
    logprob: float
    """Natural logarithm of its probability before temperature, penalties and constraints."""


class TokenLogprob(TopLogprob):
    """A token that was chosen, and what else might have been."""

    top_logprobs: tuple[TopLogprob, ...] = ()
    """The likeliest tokens, the likeliest one first."""


class ToolCallDelta(Told):
    """The next piece of a tool call."""

    index: int
    """Which call of this answer; counts from 0."""
    id: str | None = None
    """In its first piece only."""
    name: str | None = None
    """In its first piece only: the whole name."""
    arguments: str = ""
    """Added to the arguments, a JSON object as text."""


def join_tool_calls(pieces: Iterable[ToolCallDelta]) -> tuple[ToolCall, ...]:
    """Put calls together from their pieces; the last one may not be whole."""
    calls: dict[int, list[ToolCallDelta]] = {}
    for piece in pieces:
        calls.setdefault(piece.index, []).append(piece)
    return tuple(
        ToolCall(
            id=first.id or f"call_{first.index}",
            function=FunctionCall(
                name=first.name, arguments=first.arguments + "".join(p.arguments for p in rest)
            ),
        )
        for first, *rest in calls.values()
        if first.name
    )


class Queued(Wire):
    """The request waits; said again when it has moved up."""

    type: Literal["queued"] = "queued"
    position: int
    """1 is next."""


class Started(Wire):
    """The request's turn has come."""

    type: Literal["started"] = "started"
    dropped_messages: int = 0
    """Oldest messages that were left out, as the conversation was longer than the context."""


class Delta(Wire):
    """The next piece of text, never half a character and never part of a stop string."""

    type: Literal["delta"] = "delta"
    text: str = ""
    """Added to the answer."""
    reasoning: str = ""
    """Added to the reasoning, which is kept apart from the answer."""
    tool_calls: tuple[ToolCallDelta, ...] = ()
    """Added to the tool calls."""
    logprobs: tuple[TokenLogprob, ...] = ()
    """Of the tokens of the answer since the last delta, if they were asked for."""
    token_ids: tuple[int, ...] = ()
    """All tokens since the last delta: from these a new worker goes on where a dead one ended."""


class Done(Wire):
    """The end of the text."""

    type: Literal["done"] = "done"
    finish_reason: FinishReason
    """``stop``: the model ended or a stop string came; ``length``: ``max_tokens``, ``max_bytes`` or
    the context; ``tool_calls``: it waits for the results of its calls; ``time_budget``: the time
    was up."""
    usage: Usage = Usage()
    timing: Timing = Timing()
    dropped_messages: int = 0
    """Oldest messages that were left out, as the conversation was longer than the context."""


Event = Annotated[Queued | Started | Delta | Done, Field(discriminator="type")]
