"""Ollama's turns and tools: calls with arguments as objects, results without the calls' ids."""

import json
from collections.abc import Iterator, Sequence
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from edge_llm.errors import UnsupportedContentError
from edge_llm.protocol import FunctionCall, FunctionDefinition, Message, Tool, ToolCall
from edge_llm.protocol.tools import FunctionName

__all__ = ["OllamaMessage", "OllamaTool", "refuse_images", "to_messages"]

LENIENT = ConfigDict(
    extra="ignore", frozen=True, strict=True, allow_inf_nan=False, use_attribute_docstrings=True
)


class OllamaFunctionCall(BaseModel):
    """Which function, with what."""

    model_config = LENIENT

    name: FunctionName
    arguments: dict[str, Any] | str = Field(default_factory=dict)
    """An object; JSON as text is taken too, as OpenAI has it."""

    @property
    def as_text(self) -> str:
        """The arguments as JSON, spaced as models write it, so that the KV cache is of use."""
        if isinstance(self.arguments, str):
            return self.arguments
        return json.dumps(self.arguments, ensure_ascii=False)


class OllamaToolCall(BaseModel):
    """A call that the model has asked for."""

    model_config = LENIENT

    id: str | None = None
    function: OllamaFunctionCall


class OllamaMessage(BaseModel):
    """One turn of a conversation."""

    model_config = LENIENT

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | None = None
    """The text of the turn."""
    thinking: str | None = None
    """Ignored: models want earlier turns without their reasoning."""
    images: tuple[Any, ...] | None = None
    """Refused: models here read text."""
    tool_calls: tuple[OllamaToolCall, ...] | None = None
    """What the assistant asked to have called."""
    tool_name: str | None = None
    """Of role ``tool``: which function this is the result of."""
    tool_call_id: str | None = None
    """Of role ``tool``: which call this is the result of."""


class OllamaFunction(BaseModel):
    """A function that can be called."""

    model_config = LENIENT

    name: FunctionName
    description: str | None = None
    parameters: dict[str, Any] | None = None
    """JSON schema of its arguments."""


class OllamaTool(BaseModel):
    """Something that the model may use."""

    model_config = LENIENT

    type: Literal["function"] = "function"
    function: OllamaFunction

    def to_tool(self) -> Tool:
        """Return it as the engine takes it."""
        function = self.function
        return Tool(
            type="function",
            function=FunctionDefinition(
                name=function.name,
                description=function.description,
                parameters=function.parameters,
            ),
        )


def refuse_images(images: Sequence[object] | None, param: str) -> None:
    """Refuse pictures; an empty list of them is none.

    Raises:
        UnsupportedContentError: there are some.
    """
    if images:
        raise UnsupportedContentError(
            "this node's models read text only: leave out 'images'", param=param
        )


def to_messages(messages: Sequence[OllamaMessage]) -> tuple[Message, ...]:
    """Return a conversation as the engine takes it, with an id for each call and its result.

    Raises:
        UnsupportedContentError: a turn has images.
    """
    for index, message in enumerate(messages):
        refuse_images(message.images, f"messages.{index}.images")
    return tuple(_converted(messages))


def _converted(messages: Sequence[OllamaMessage]) -> Iterator[Message]:
    open_calls: list[ToolCall] = []  # that have no result yet
    num_calls = 0
    for message in messages:
        calls: tuple[ToolCall, ...] = ()
        call_id = None
        if message.tool_calls and message.role == "assistant":
            calls = tuple(
                ToolCall(
                    id=call.id or f"call_{num_calls + index}",
                    function=FunctionCall(name=call.function.name, arguments=call.function.as_text),
                )
                for index, call in enumerate(message.tool_calls)
            )
            num_calls += len(calls)
            open_calls = list(calls)
        elif message.role == "tool":
            call_id = message.tool_call_id or _take(open_calls, message.tool_name)
        yield Message(
            role=message.role,
            content=message.content or "",
            tool_calls=calls or None,
            tool_call_id=call_id,
        )


def _take(open_calls: list[ToolCall], name: str | None) -> str | None:
    """Find the call that a result is of: by its name, or else the first that has none yet."""
    for call in open_calls:
        if name in (None, "", call.function.name):
            open_calls.remove(call)
            return call.id
    return None
