"""Whatever stands in a field: it is taken or refused, and never a crash."""

import json
from typing import Any

import pytest

from bridges.http.openai.chat_body import ChatBody
from bridges.http.openai.common_body import CommonBody
from bridges.http.openai.completions_body import CompletionsBody
from bridges.http.openai.responses_body import ResponsesBody
from edge_llm.errors import InvalidRequestError
from edge_llm.protocol import validate

ODD: list[Any] = [
    *(None, True, False, 0, 1, -1, 2.5, 10**30, float("inf"), "", "a", "\x00", "auto", "x" * 300),
    *([], [None], [[]], [{}], ["a"], [1], [{"type": "function"}], [{"type": []}], [{"type": 5}]),
    *({}, {"type": None}, {"type": "function"}, {"type": "text"}, {"a": {"b": []}}, {"5": 5}),
]
USER: dict[str, Any] = {"role": "user", "content": "Hello"}
CALL: dict[str, Any] = {
    "id": "call_0",
    "type": "function",
    "function": {"name": "f", "arguments": "{}"},
}
TOOL: dict[str, Any] = {"type": "function", "function": {"name": "f", "parameters": {}}}
ITEMS: list[Any] = [
    USER,
    {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"},
    {"type": "function_call_output", "call_id": "c", "output": "1"},
]
BODIES: list[tuple[type[CommonBody], dict[str, Any]]] = [
    (
        ChatBody,
        {
            "messages": [
                USER,
                {"role": "assistant", "content": None, "tool_calls": [CALL]},
                {
                    "role": "tool",
                    "tool_call_id": "call_0",
                    "content": [{"type": "text", "text": "1"}],
                },
            ],
            "tools": [TOOL],
            "tool_choice": {"type": "function", "function": {"name": "f"}},
            "response_format": {"type": "json_schema", "json_schema": {"schema": {}}},
            "logprobs": True,
            "top_logprobs": 1,
        },
    ),
    (CompletionsBody, {"prompt": ["Hello"], "logprobs": 1, "n": 2}),
    (
        ResponsesBody,
        {
            "input": ITEMS,
            "tools": [{"type": "function", "name": "f"}],
            "tool_choice": {"type": "function", "name": "f"},
            "text": {"format": {"type": "json_schema", "name": "a", "schema": {}}},
            "reasoning": {"effort": "low"},
        },
    ),
]


def places(value: object) -> list[tuple[Any, ...]]:
    """Return the path to everything in a body."""
    found: list[tuple[Any, ...]] = []
    pairs = value.items() if isinstance(value, dict) else []
    for key, below in enumerate(value) if isinstance(value, list) else pairs:
        found += [(key,), *((key, *rest) for rest in places(below))]
    return found


def changed(body: dict[str, Any], path: tuple[Any, ...], value: object) -> dict[str, Any]:
    copy: dict[str, Any] = json.loads(json.dumps(body))
    inside: Any = copy
    for key in path[:-1]:
        inside = inside[key]
    inside[path[-1]] = value
    return copy


def read(model: type[CommonBody], body: dict[str, Any]) -> None:
    """Do with a body all that is done before the engine is asked."""
    found = validate(model, json.dumps(body))
    if isinstance(found, CompletionsBody):
        assert found.to_chat_requests("tiny")
    elif isinstance(found, ChatBody | ResponsesBody):
        assert found.to_chat_request("tiny")


@pytest.mark.parametrize(
    ("model", "body"), BODIES, ids=lambda value: getattr(value, "__name__", "")
)
def test_an_odd_value_is_taken_or_refused_by_name(
    model: type[CommonBody], body: dict[str, Any]
) -> None:
    read(model, body)
    paths = {(name,) for name in model.model_fields} | set(places(body))
    num_refused = 0
    for path in sorted(paths, key=str):
        for value in ODD:
            try:
                read(model, changed(body, path, value))
            except InvalidRequestError:
                num_refused += 1
    assert num_refused > 1000
