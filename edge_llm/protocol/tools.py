"""Tools as OpenAI writes them: functions that the model may ask its caller to call."""

from typing import Annotated, Any, Literal

from pydantic import StringConstraints

from edge_llm.protocol.wire import Wire

__all__ = [
    "FunctionCall",
    "FunctionDefinition",
    "FunctionName",
    "NamedFunction",
    "NamedTool",
    "Tool",
    "ToolCall",
    "ToolChoice",
]

FunctionName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_.:/-]{1,128}$")]


class FunctionDefinition(Wire):
    """A function that can be called."""

    name: FunctionName
    """What the model calls it."""
    description: str | None = None
    """What it does, and when to call it."""
    parameters: dict[str, Any] | None = None
    """JSON schema of its arguments, an object; none takes an empty object."""
    strict: bool | None = None
    """Ignored: arguments always keep to the schema."""


class Tool(Wire):
    """Something that the model may use; only functions exist."""

    type: Literal["function"]
    function: FunctionDefinition


class NamedFunction(Wire):
    """The name of a function."""

    name: FunctionName


class NamedTool(Wire):
    """The tool that must be called."""

    type: Literal["function"]
    function: NamedFunction


ToolChoice = Literal["auto", "none", "required"] | NamedTool
"""Whether tools are called: as the model likes, never, at least once, or this one."""


class FunctionCall(Wire):
    """Which function, with what."""

    name: FunctionName
    arguments: str
    """A JSON object, as text."""


class ToolCall(Wire):
    """A call that the model has asked for."""

    id: str
    """Names the call in the message that brings its result."""
    type: Literal["function"] = "function"
    function: FunctionCall
