"""OpenAI's chat request: what is honoured, what is ignored, and what is refused by name."""

import json
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from edge_llm.errors import UnsupportedFieldError
from edge_llm.protocol import ChatRequest, Message

__all__ = ["OpenAIChatBody"]

NEUTRAL: dict[str, tuple[object, ...]] = {
    "n": (1,),
    "max_bytes": (),  # the engine ends there, but only MQTT's replies are cut there
    "tools": ([],),
    "tool_choice": ("none", "auto"),
    "functions": ([],),
    "function_call": ("none", "auto"),
    "response_format": ({"type": "text"},),
    "logprobs": (False,),
    "top_logprobs": (0,),
    "modalities": (["text"],),
    "audio": (),
    "prediction": (),
    "web_search_options": (),
}
"""Fields that this version does not offer, and the values that ask for nothing; null is one."""

NEUTRAL_IN_MESSAGE: dict[str, tuple[object, ...]] = {
    "tool_calls": ([],),
    "function_call": (),
    "audio": (),
}

UNSUPPORTED_ROLES = ("tool", "function")


class OpenAIMessage(Message):
    """A turn, with what clients copy into it from the answers that they were given."""

    name: str | None = None
    """Ignored: chat templates have no place for it."""
    refusal: str | None = None
    """Ignored."""
    reasoning_content: str | None = None
    """Ignored: models want earlier turns without their reasoning."""
    annotations: list[Any] | None = None
    """Ignored."""
    tool_calls: Any = None
    function_call: Any = None
    audio: Any = None


class StreamOptions(BaseModel):
    """How to stream."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    include_usage: bool | None = None
    """Send the counts of tokens in a chunk of their own, before the end."""
    include_obfuscation: bool | None = None
    """Ignored: padding against eavesdroppers on TLS."""


class ChatTemplateKwargs(BaseModel):
    """Arguments of the chat template, as vLLM and llama.cpp take them."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    enable_thinking: bool | None = None


class OpenAIChatBody(ChatRequest):
    """The body of ``POST /v1/chat/completions``, with the extras of ``ChatRequest``."""

    messages: Annotated[tuple[OpenAIMessage, ...], Field(min_length=1)]
    max_completion_tokens: Annotated[int, Field(ge=1, le=1_000_000)] | None = None
    """The newer name of ``max_tokens``; wins over it."""
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    chat_template_kwargs: ChatTemplateKwargs | None = None
    reasoning_effort: Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"] | None = (
        None
    )
    """None and minimal mean no thinking, the others mean thinking; ``enable_thinking`` wins."""

    # Ignored: they change nothing in the text, or are no more than a wish.
    user: str | None = None
    metadata: dict[str, str] | None = None
    store: bool | None = None
    service_tier: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
    prompt_cache_retention: str | None = None
    parallel_tool_calls: bool | None = None
    verbosity: Literal["low", "medium", "high"] | None = None

    # Refused, unless the value is neutral.
    n: Annotated[int, Field(ge=1, le=128)] | None = None
    tools: Any = None
    tool_choice: Any = None
    functions: Any = None
    function_call: Any = None
    response_format: Any = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    modalities: Any = None
    audio: Any = None
    prediction: Any = None
    web_search_options: Any = None

    @field_validator("messages", mode="before")
    @classmethod
    def _refuse_later_messages(cls, value: object) -> object:
        if not isinstance(value, list):
            return value
        for index, message in enumerate(value):
            if isinstance(message, dict):
                _refuse_later_message(message, f"messages.{index}")
        return tuple(value)

    @model_validator(mode="after")
    def _refuse_later_fields(self) -> Self:
        _refuse_unless_neutral({name: getattr(self, name) for name in NEUTRAL}, NEUTRAL)
        return self

    @property
    def include_usage(self) -> bool:
        """Whether the stream ends with a chunk of token counts."""
        return bool(self.stream_options and self.stream_options.include_usage)

    def to_chat_request(self, model: str | None) -> ChatRequest:
        """Make what the engine takes, for a model whose name was looked up."""
        fields = {name: getattr(self, name) for name in ChatRequest.model_fields}
        fields["model"] = model
        fields["messages"] = tuple(
            Message(role=message.role, content=message.content) for message in self.messages
        )
        fields["max_tokens"] = self.max_completion_tokens or self.max_tokens
        fields["enable_thinking"] = self._thinking()
        return ChatRequest(**fields)

    def _thinking(self) -> bool | None:
        if self.enable_thinking is not None:
            return self.enable_thinking
        if self.chat_template_kwargs and self.chat_template_kwargs.enable_thinking is not None:
            return self.chat_template_kwargs.enable_thinking
        if self.reasoning_effort is not None:
            return self.reasoning_effort not in ("none", "minimal")
        return None


def _refuse_later_message(message: dict[str, Any], where: str) -> None:
    if message.get("role") in UNSUPPORTED_ROLES:
        raise UnsupportedFieldError(
            f"role {message['role']!r} is not offered by this version of edge-llm",
            param=f"{where}.role",
        )
    if isinstance(message.get("content"), list):
        raise UnsupportedFieldError(
            "content parts are not offered by this version of edge-llm: send the text as a string",
            param=f"{where}.content",
        )
    values = {name: message.get(name) for name in NEUTRAL_IN_MESSAGE}
    _refuse_unless_neutral(values, NEUTRAL_IN_MESSAGE, f"{where}.")


def _refuse_unless_neutral(
    values: dict[str, object], neutral: dict[str, tuple[object, ...]], where: str = ""
) -> None:
    for name, value in values.items():
        if value is not None and value not in neutral[name]:
            instead = " or ".join(["leave it out", *map(json.dumps, neutral[name])])
            raise UnsupportedFieldError(
                f"'{where}{name}' is not offered by this version of edge-llm: {instead}",
                param=f"{where}{name}",
            )
