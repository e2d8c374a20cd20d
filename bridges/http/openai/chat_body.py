"""The body of a chat completion: what is honoured, what is ignored, and what is refused by name."""

from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, ConfigDict, Field, field_validator, model_validator

from bridges.http.openai.common_body import MAX_CHOICES, CommonBody
from bridges.http.openai.content import CONTENT_SCHEMA, join_parts
from bridges.http.openai.refusals import refuse_unless_neutral
from bridges.http.openai.tools import MAX_TOOLS, functions_only, read_choice
from edge_llm.errors import InvalidRequestError, UnsupportedFieldError
from edge_llm.protocol import ChatRequest, Message, NamedTool, Tool, ToolChoice

__all__ = ["ChatBody"]

NEUTRAL: dict[str, tuple[object, ...]] = {
    "max_bytes": (),  # the engine ends there, but only MQTT's replies are cut there
    "functions": ([],),  # the tools of 2023, which OpenAI itself calls deprecated
    "function_call": ("none", "auto"),
    "modalities": (["text"],),
    "audio": (),
    "prediction": (),
    "web_search_options": (),
    "moderation": (),
}
"""Fields that this version does not offer, and the values that ask for nothing; null is one."""

NEUTRAL_IN_MESSAGE: dict[str, tuple[object, ...]] = {"function_call": (), "audio": ()}


def _show_parts(schema: dict[str, Any]) -> None:
    schema["properties"]["content"].update(CONTENT_SCHEMA)
    schema["properties"]["content"].pop("type", None)


class ChatMessage(Message):
    """A turn, with what clients copy into it from the answers that they were given."""

    model_config = ConfigDict(json_schema_extra=_show_parts)

    name: str | None = None
    """Ignored: chat templates have no place for it."""
    refusal: str | None = None
    """Ignored."""
    reasoning_content: str | None = None
    """Ignored: models want earlier turns without their reasoning."""
    annotations: list[Any] | None = None
    """Ignored."""
    function_call: Any = None
    audio: Any = None

    def to_message(self) -> Message:
        """Return what the engine takes of it."""
        return Message(
            role=self.role,
            content=self.content,
            tool_calls=self.tool_calls or None,
            tool_call_id=self.tool_call_id,
        )


class ChatBody(CommonBody):
    """The body of ``POST /v1/chat/completions``, with the extras of ``ChatRequest``."""

    messages: Annotated[tuple[ChatMessage, ...], Field(min_length=1)]
    """The conversation, oldest turn first, the last one being the turn to answer."""
    max_completion_tokens: Annotated[int, Field(ge=1, le=1_000_000)] | None = None
    """The newer name of ``max_tokens``; wins over it."""
    n: Annotated[int, Field(ge=1, le=MAX_CHOICES)] | None = None
    """How many answers; each has the next seed."""
    tools: Annotated[
        Annotated[tuple[Tool, ...], Field(max_length=MAX_TOOLS)] | None,
        BeforeValidator(functions_only),
    ] = None
    """Functions that the model may ask to have called."""
    tool_choice: Annotated[ToolChoice | None, BeforeValidator(read_choice(NamedTool))] = None
    """``auto`` if not given; the arguments of a call always keep to its schema."""
    parallel_tool_calls: bool | None = None
    """False: at most one call in an answer."""
    logprobs: bool | None = None
    """Say how likely each token of the answer was."""
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    """And how likely so many others were; needs ``logprobs``."""
    verbosity: Literal["low", "medium", "high"] | None = None
    """Ignored: no more than a wish."""

    # Refused, unless the value is neutral.
    functions: Any = None
    function_call: Any = None
    modalities: Any = None
    audio: Any = None
    prediction: Any = None
    web_search_options: Any = None
    moderation: Any = None

    @field_validator("messages", mode="before")
    @classmethod
    def _join_content(cls, value: object) -> object:
        if not isinstance(value, list):
            return value
        return tuple(_joined(message, f"messages.{index}") for index, message in enumerate(value))

    @model_validator(mode="after")
    def _refuse_later_fields(self) -> Self:
        refuse_unless_neutral({name: getattr(self, name) for name in NEUTRAL}, NEUTRAL)
        if self.top_logprobs and not self.logprobs:
            raise InvalidRequestError(
                'top_logprobs: it needs "logprobs": true', param="top_logprobs"
            )
        return self

    def to_chat_request(self, model: str | None) -> ChatRequest:
        """Make what the engine takes, for a model whose name was looked up.

        Raises:
            InvalidRequestError: or one below it; the fields don't go together.
        """
        must_call = self.tool_choice not in (None, "auto", "none")
        return self.make_chat_request(
            model=model,
            messages=tuple(message.to_message() for message in self.messages),
            max_tokens=self.max_completion_tokens or self.max_tokens,
            tools=self.tools or None,
            tool_choice=self.tool_choice if self.tools or must_call else None,
            parallel_tool_calls=self.parallel_tool_calls if self.tools else None,
            logprobs=self.logprobs or None,
            top_logprobs=self.top_logprobs if self.logprobs else None,
        )


def _joined(message: object, where: str) -> object:
    """Return a message with its content as one string, and its lists as tuples.

    What a "before" validator returns is strict Python input, where a list is no tuple.
    """
    if not isinstance(message, dict):
        return message
    if message.get("role") == "function":
        raise UnsupportedFieldError(
            "role 'function' is not offered by this version of edge-llm: it is 'tool' now",
            param=f"{where}.role",
        )
    refuse_unless_neutral(message, NEUTRAL_IN_MESSAGE, f"{where}.")
    joined = dict(message)
    if "content" in message:
        joined["content"] = join_parts(message["content"], f"{where}.content")
    if isinstance(message.get("tool_calls"), list):
        joined["tool_calls"] = tuple(message["tool_calls"])
    return joined
