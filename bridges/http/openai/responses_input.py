"""The input of a response: items of a conversation, made into the engine's turns."""

from collections.abc import Iterable
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, ValidationError

from bridges.http.openai.content import CONTENT_SCHEMA, join_parts
from bridges.http.openai.refusals import refusal_inside
from edge_llm.errors import InvalidRequestError, UnsupportedContentError, UnsupportedFieldError
from edge_llm.protocol import FunctionCall, Message, ToolCall, Wire
from edge_llm.protocol.tools import FunctionName

__all__ = ["InputItem", "read_input"]

NOT_KEPT = ("item_reference",)
"""Items that point at what OpenAI stores; nothing is stored here."""


class _Item(Wire):
    """What items have that was copied from an output; all of it is ignored."""

    id: str | None = None
    status: str | None = None
    phase: str | None = None
    caller: Any = None
    namespace: str | None = None


class MessageItem(_Item):
    """A turn, as text or as parts of text."""

    type: Literal["message"] = "message"
    role: Literal["system", "developer", "user", "assistant"]
    content: Annotated[str, Field(json_schema_extra=CONTENT_SCHEMA)]


class FunctionCallItem(_Item):
    """A call that the model asked for."""

    type: Literal["function_call"]
    call_id: str
    name: FunctionName
    arguments: str


class FunctionCallOutputItem(_Item):
    """The result of a call, as text or as parts of text."""

    type: Literal["function_call_output"]
    call_id: str
    name: str | None = None
    output: Annotated[str, Field(json_schema_extra=CONTENT_SCHEMA)]


class ReasoningItem(_Item):
    """Ignored: models want earlier turns without their reasoning."""

    model_config = ConfigDict(extra="ignore")

    type: Literal["reasoning"]


InputItem = MessageItem | FunctionCallItem | FunctionCallOutputItem | ReasoningItem

ITEMS: dict[str, tuple[type[InputItem], str | None]] = {
    "message": (MessageItem, "content"),
    "function_call": (FunctionCallItem, None),
    "function_call_output": (FunctionCallOutputItem, "output"),
    "reasoning": (ReasoningItem, None),
}
"""The model of each type of item, and the field that may be parts."""


def read_input(value: object) -> tuple[Message, ...]:
    """Make the turns of a conversation from a text, or from items.

    Raises:
        InvalidRequestError: or one below it; names the item.
    """
    if isinstance(value, str):
        return (Message(role="user", content=value),)
    if not isinstance(value, list) or not value:
        raise InvalidRequestError("input: it is a text, or a list of items", param="input")
    items = [_read_item(item, f"input.{index}") for index, item in enumerate(value)]
    return tuple(_turns(items))


def _read_item(item: object, where: str) -> InputItem:
    if not isinstance(item, dict):
        raise InvalidRequestError(f"{where}: an item is an object", param=where)
    kind = item.get("type") or "message"
    if kind in NOT_KEPT:
        raise UnsupportedFieldError(
            f"items of type {kind!r} are not offered: nothing is stored here, send the item itself",
            param=f"{where}.type",
        )
    if not isinstance(kind, str) or kind not in ITEMS:
        raise UnsupportedContentError(
            f"{where}: an item of type {str(kind)[:32]!r} can't be read", param=f"{where}.type"
        )
    model, parts = ITEMS[kind]
    if parts and parts in item:
        item = {**item, parts: join_parts(item[parts], f"{where}.{parts}")}
    try:
        return model.model_validate({**item, "type": kind})
    except ValidationError as exc:
        raise refusal_inside(where, exc) from exc


def _turns(items: Iterable[InputItem]) -> list[Message]:
    """Put calls into the turn of the assistant that they belong to; leave out reasoning."""
    turns: list[Message] = []
    for item in items:
        match item:
            case MessageItem():
                turns.append(Message(role=item.role, content=item.content))
            case FunctionCallItem():
                call = _call(item)
                if turns and turns[-1].role == "assistant":
                    turns[-1] = turns[-1].model_copy(
                        update={"tool_calls": (*(turns[-1].tool_calls or ()), call)}
                    )
                else:
                    turns.append(Message(role="assistant", content="", tool_calls=(call,)))
            case FunctionCallOutputItem():
                turns.append(Message(role="tool", content=item.output, tool_call_id=item.call_id))
    return turns


def _call(item: FunctionCallItem) -> ToolCall:
    return ToolCall(
        id=item.call_id, function=FunctionCall(name=item.name, arguments=item.arguments)
    )
