"""Tools as OpenAI's two dialects write them: nested in chat completions, flat in responses."""

from collections.abc import Callable
from typing import Any, Literal

from pydantic import ValidationError

from bridges.http.openai.refusals import refusal_inside
from edge_llm.errors import InvalidRequestError, UnsupportedFieldError
from edge_llm.protocol import FunctionDefinition, NamedFunction, NamedTool, Tool, ToolChoice, Wire

__all__ = [
    "MAX_TOOLS",
    "FlatTool",
    "NamedFlatTool",
    "functions_only",
    "nested_choice",
    "read_choice",
]

MAX_TOOLS = 128
"""Most tools in one request, here as at OpenAI."""

CHOICES = ("auto", "none", "required")


class FlatTool(FunctionDefinition):
    """A function as ``/v1/responses`` takes it: type and name side by side."""

    type: Literal["function"]
    defer_loading: bool | None = None
    """Ignored: all tools are shown to the model."""
    allowed_callers: Any = None
    """Ignored: only the model calls."""
    output_schema: Any = None
    """Ignored."""

    def to_tool(self) -> Tool:
        """Return it as the engine takes it."""
        function = FunctionDefinition(
            name=self.name,
            description=self.description,
            parameters=self.parameters,
            strict=self.strict,
        )
        return Tool(type="function", function=function)


class NamedFlatTool(NamedFunction, Wire):
    """The function that must be called, as ``/v1/responses`` names it."""

    type: Literal["function"]


def functions_only(tools: object) -> object:
    """Refuse tools that OpenAI would run itself.

    Raises:
        UnsupportedFieldError: a tool is no function.
    """
    if not isinstance(tools, list):
        return tools
    for index, tool in enumerate(tools):
        kind = tool.get("type") if isinstance(tool, dict) else None
        if isinstance(kind, str) and kind != "function":
            raise UnsupportedFieldError(
                f"tools of type {kind[:32]!r} are not offered by this version of edge-llm: "
                "only functions are",
                param=f"tools.{index}.type",
            )
    return tuple(tools)


def read_choice(named: type[NamedTool | NamedFlatTool]) -> Callable[[object], object]:
    """Make what reads the choice of tools: a word, or the function that must be called.

    Args:
        named: how the dialect names the function.
    """

    def read(choice: object) -> object:
        if choice is None or choice in CHOICES:
            return choice
        kind = choice.get("type") if isinstance(choice, dict) else None
        if not isinstance(kind, str):
            words = ", ".join(map(repr, CHOICES))
            raise InvalidRequestError(
                f"tool_choice: it is {words}, or names a function", param="tool_choice"
            )
        if kind != "function":
            raise UnsupportedFieldError(
                f"tool_choice of type {kind[:32]!r} is not offered by this version of edge-llm",
                param="tool_choice.type",
            )
        try:
            return named.model_validate(choice)
        except ValidationError as exc:
            raise refusal_inside("tool_choice", exc) from exc

    return read


def nested_choice(
    choice: Literal["auto", "none", "required"] | NamedFlatTool | None,
) -> ToolChoice | None:
    """Return the choice of ``/v1/responses`` as the engine takes it."""
    if isinstance(choice, NamedFlatTool):
        return NamedTool(type="function", function=NamedFunction(name=choice.name))
    return choice
