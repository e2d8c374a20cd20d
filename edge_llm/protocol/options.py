"""How to answer: what a request may say, and a preset says for those that don't.

Field names are OpenAI's wherever OpenAI has one.
"""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, WithJsonSchema, field_validator

from edge_llm.protocol.formats import ResponseFormat
from edge_llm.protocol.wire import MAX_PAYLOAD_BYTES, NonEmptyText

__all__ = ["AnswerOptions"]

STRINGS = {"type": "array", "items": {"type": "string", "minLength": 1}, "maxItems": 4}


class AnswerOptions(BaseModel):
    """What holds for one answer; None leaves it to whoever comes next."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    max_tokens: Annotated[int, Field(ge=1, le=1_000_000)] | None = None
    """Most tokens to generate, reasoning included; the node's default otherwise."""
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    """0 is greedy: always the likeliest token."""
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    """Sample from the likeliest tokens that together have this probability."""
    top_k: Annotated[int, Field(ge=0)] | None = None
    """Sample from this many of the likeliest tokens; 0 means all."""
    min_p: Annotated[float, Field(ge=0, le=1)] | None = None
    """Drop tokens below this fraction of the likeliest one's probability."""
    repeat_penalty: Annotated[float, Field(ge=0.01, le=4)] | None = None
    """Divide the logits of recent tokens by this; 1 is off."""
    repeat_last_n: Annotated[int, Field(ge=-1, le=1_000_000)] | None = None
    """How many of the last tokens count as recent; 0 is off, -1 means all."""
    frequency_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    """Subtracted from a logit for each time that its token was generated."""
    presence_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    """Subtracted once from the logit of each token that was generated."""
    seed: Annotated[int, Field(ge=-(2**63), lt=2**64)] | None = None
    """The same seed, request and model give the same text."""
    stop: Annotated[
        Annotated[tuple[NonEmptyText, ...], Field(max_length=4)] | None,
        WithJsonSchema({"anyOf": [{"type": "string", "minLength": 1}, STRINGS, {"type": "null"}]}),
    ] = None
    """Up to 4 strings that end the text; they are not part of it."""
    enable_thinking: bool | None = None
    """Let the model reason first, where it can; the node's default otherwise."""
    thinking_budget: Annotated[int, Field(ge=0, le=1_000_000)] | None = None
    """Most tokens of reasoning; then the model must answer."""
    response_format: ResponseFormat | None = None
    """The form that the answer must have: JSON, JSON of a schema, or what a regex matches."""
    choices: Annotated[tuple[NonEmptyText, ...], Field(min_length=1, max_length=256)] | None = None
    """The answer is one of these, to the letter."""
    ttl_s: Annotated[float, Field(gt=0, le=86_400)] | None = None
    """Seconds the request may wait for its turn before it is answered ``expired``."""
    time_budget_s: Annotated[float, Field(gt=0, le=86_400)] | None = None
    """Seconds from the request's arrival in which the whole answer must be said, waiting included:
    it ends in time, and on a sentence. Deltas are whole sentences then."""
    max_bytes: Annotated[int, Field(ge=16, le=MAX_PAYLOAD_BYTES)] | None = None
    """Generate no more than what fits into this many bytes of UTF-8; a text reply is cut there,
    at a sentence or a word."""

    @field_validator("stop", mode="before")
    @classmethod
    def _stop_as_sequence(cls, value: object) -> object:
        # What a "before" validator returns is strict Python input, where only a tuple is one.
        if isinstance(value, str):
            return (value,)
        return tuple(value) if isinstance(value, list) else value
