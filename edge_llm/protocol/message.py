"""Turns of a conversation."""

from typing import Annotated, Literal, Self

from pydantic import BeforeValidator, Field, ValidationInfo, model_validator

from edge_llm.protocol.tools import ToolCall
from edge_llm.protocol.wire import Wire

__all__ = ["Message", "Role"]

Role = Literal["system", "developer", "user", "assistant", "tool"]


def _or_nothing(content: object, info: ValidationInfo) -> object:
    return "" if content is None and info.data.get("role") == "assistant" else content


class Message(Wire):
    """One turn of a conversation."""

    role: Role
    """Who speaks; ``developer`` means the same as ``system``, ``tool`` brings a call's result."""
    content: Annotated[str, BeforeValidator(_or_nothing), Field(validate_default=True)] = None  # type: ignore[assignment]  # which only the assistant may leave out
    """The text of the turn."""
    tool_calls: tuple[ToolCall, ...] | None = None
    """What the assistant asked to have called."""
    tool_call_id: str | None = None
    """Of role ``tool``: which call this is the result of."""

    @model_validator(mode="after")
    def _calls_as_it_may(self) -> Self:
        if self.tool_calls and self.role != "assistant":
            raise ValueError("only the assistant has tool_calls")
        return self
