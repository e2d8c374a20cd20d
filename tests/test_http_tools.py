"""Tools over HTTP: what the engine is told of them, and how its calls are told to clients."""

import json
from collections.abc import AsyncIterator
from typing import Any

import openai
import pytest
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from pydantic import BaseModel

from edge_llm.protocol import ChatRequest, Delta, Done, NamedTool, Started
from tests.http_bridge import (
    USAGE,
    HttpBridge,
    PlayedEngine,
    Step,
    call_piece,
    checked,
    open_bridge,
    talk,
    user,
)

PATH = "/v1/chat/completions"
PARAMETERS = {"type": "object", "properties": {"room": {"type": "string"}}, "required": ["room"]}
TOOL: dict[str, Any] = {
    "type": "function",
    "function": {"name": "light", "description": "Turns on.", "parameters": PARAMETERS},
}
ASK: Any = {"model": "tiny", "messages": [user("Light, please")], "tools": [TOOL]}
CALLS: list[Step] = [
    Started(),
    call_piece(0, "", name="light"),
    call_piece(0, '{"room": '),
    call_piece(0, '"hall"}'),
    call_piece(1, '{"room": "attic"}', name="light"),
    Done(finish_reason="tool_calls", usage=USAGE),
]


@pytest.fixture
async def bridge() -> AsyncIterator[HttpBridge]:
    async with open_bridge(PlayedEngine(CALLS)) as bridge:
        yield bridge


async def test_a_message_of_calls_has_no_content(bridge: HttpBridge) -> None:
    body = await bridge.post(PATH, ASK)
    checked(ChatCompletion, body)
    assert body["choices"][0] == {
        "index": 0,
        "message": {
            "role": "assistant",
            "content": None,
            "refusal": None,
            "tool_calls": [
                {
                    "id": "call_0",
                    "type": "function",
                    "function": {"name": "light", "arguments": '{"room": "hall"}'},
                },
                {
                    "id": "call_1",
                    "type": "function",
                    "function": {"name": "light", "arguments": '{"room": "attic"}'},
                },
            ],
        },
        "logprobs": None,
        "finish_reason": "tool_calls",
    }


async def test_a_call_begins_with_its_name_and_goes_on_with_its_arguments(
    bridge: HttpBridge,
) -> None:
    chunks = await bridge.chunks(PATH, ASK)
    for chunk in chunks:
        checked(ChatCompletionChunk, chunk)
    deltas = [chunk["choices"][0]["delta"] for chunk in chunks]
    assert deltas[0] == {"role": "assistant", "content": None}
    assert [delta["tool_calls"] for delta in deltas[1:-1]] == [
        [_beginning(0)],
        [{"index": 0, "function": {"arguments": '{"room": '}}],
        [{"index": 0, "function": {"arguments": '"hall"}'}}],
        [_beginning(1)],
        [{"index": 1, "function": {"arguments": '{"room": "attic"}'}}],
    ]
    assert deltas[-1] == {}
    assert chunks[-1]["choices"][0]["finish_reason"] == "tool_calls"


def _beginning(index: int) -> dict[str, Any]:
    return {
        "index": index,
        "id": f"call_{index}",
        "type": "function",
        "function": {"name": "light", "arguments": ""},
    }


async def test_text_before_a_call_is_content(bridge: HttpBridge) -> None:
    bridge.play(Started(), Delta(text="Sure. "), *CALLS[1:])
    completion = await bridge.openai.chat.completions.create(**ASK)
    message = completion.choices[0].message
    assert message.content == "Sure. "
    assert len(message.tool_calls or ()) == 2
    deltas = [chunk["choices"][0]["delta"] for chunk in await bridge.chunks(PATH, ASK)]
    assert deltas[1] == {"content": "Sure. "}


async def test_openais_accumulating_stream_puts_calls_together(bridge: HttpBridge) -> None:
    async with bridge.openai.chat.completions.stream(**ASK) as stream:
        events = [event.type async for event in stream]
        final = await stream.get_final_completion()
    calls = final.choices[0].message.tool_calls or []
    assert [json.loads(call.function.arguments)["room"] for call in calls] == ["hall", "attic"]
    assert events.count("tool_calls.function.arguments.done") == 2


class Light(BaseModel):
    """A function's arguments."""

    room: str


async def test_arguments_are_parsed_into_a_model_of_pydantic(bridge: HttpBridge) -> None:
    tools = [openai.pydantic_function_tool(Light, name="light")]
    parsed = await bridge.openai.chat.completions.parse(
        model="tiny", messages=ASK["messages"], tools=tools
    )
    calls = parsed.choices[0].message.tool_calls or []
    assert [call.function.parsed_arguments for call in calls] == [
        Light(room="hall"),
        Light(room="attic"),
    ]
    sent = bridge.engine.asked[0].tools
    assert sent
    assert sent[0].function.strict is True
    assert sent[0].function.parameters


async def test_the_results_of_calls_go_back_to_the_engine(bridge: HttpBridge) -> None:
    completion = await bridge.openai.chat.completions.create(**ASK)
    message = completion.choices[0].message
    results: Any = [
        {"role": "tool", "tool_call_id": call.id, "content": [{"type": "text", "text": "done"}]}
        for call in message.tool_calls or ()
    ]
    bridge.play(*talk("It is light."))
    history: Any = [*ASK["messages"], message, *results]
    await bridge.openai.chat.completions.create(**ASK | {"messages": history})
    _, called, first, second = bridge.engine.asked[-1].conversation
    assert called.content == ""
    assert called.tool_calls
    assert [call.id for call in called.tool_calls] == ["call_0", "call_1"]
    assert called.tool_calls[0].function.arguments == '{"room": "hall"}'
    assert [(t.role, t.tool_call_id, t.content) for t in (first, second)] == [
        ("tool", "call_0", "done"),
        ("tool", "call_1", "done"),
    ]


@pytest.mark.parametrize(
    "choice",
    ["auto", "none", "required", {"type": "function", "function": {"name": "light"}}],
)
async def test_the_choice_of_tools_reaches_the_engine(bridge: HttpBridge, choice: Any) -> None:
    await bridge.post(PATH, ASK | {"tool_choice": choice, "parallel_tool_calls": False})
    asked: ChatRequest = bridge.engine.asked[0]
    sent = asked.tool_choice
    assert (sent.model_dump() if isinstance(sent, NamedTool) else sent) == choice
    assert asked.parallel_tool_calls is False
    assert asked.tools
    assert asked.tools[0].model_dump(exclude_none=True) == TOOL


@pytest.mark.parametrize(
    ("fields", "code", "param"),
    [
        ({"tools": [{"type": "custom", "custom": {}}]}, "unsupported_field", "tools.0.type"),
        ({"tools": [{"type": "function"}]}, "invalid_request", "tools.0.function"),
        ({"tools": [{"function": {"name": "f"}}]}, "invalid_request", "tools.0.type"),
        ({"tools": [TOOL, TOOL]}, "invalid_request", "tools"),
        ({"tools": "light"}, "invalid_request", "tools"),
        ({"tool_choice": "banana"}, "invalid_request", "tool_choice"),
        ({"tool_choice": 5}, "invalid_request", "tool_choice"),
        ({"tool_choice": {"type": "allowed_tools"}}, "unsupported_field", "tool_choice.type"),
        (
            {"tool_choice": {"type": "function", "function": {"name": "dark"}}},
            "invalid_request",
            "tool_choice",
        ),
        ({"tool_choice": {"type": "function"}}, "invalid_request", "tool_choice.function"),
        ({"tools": [], "tool_choice": "required"}, "invalid_request", "tool_choice"),
        ({"parallel_tool_calls": "no"}, "invalid_request", "parallel_tool_calls"),
        ({"functions": [{"name": "f"}]}, "unsupported_field", "functions"),
        ({"function_call": {"name": "f"}}, "unsupported_field", "function_call"),
    ],
)
async def test_tools_that_can_not_be_offered_are_refused_by_name(
    bridge: HttpBridge, fields: dict[str, object], code: str, param: str | None
) -> None:
    assert await bridge.refusal(PATH, ASK | fields) == (400, code, param)
    assert not bridge.engine.asked
