"""Responses over HTTP: items in, items out, and a typed event for each step between."""

import asyncio
import json
import math
from collections.abc import AsyncIterator
from typing import Any

import openai
import pytest
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import BaseModel, TypeAdapter

from bridges.http import event_stream
from edge_llm.errors import ContextOverflowError, EngineFailedError
from edge_llm.protocol import (
    ChatRequest,
    Delta,
    Done,
    FinishReason,
    JsonSchemaFormat,
    NamedTool,
    Started,
    TokenLogprob,
    TopLogprob,
)
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

PATH = "/v1/responses"
ASK: Any = {"model": "tiny", "input": "Hello"}
TOOL: dict[str, Any] = {
    "type": "function",
    "name": "light",
    "description": "Turns on.",
    "parameters": {"type": "object", "properties": {"room": {"type": "string"}}},
    "strict": True,
}
TOOLS: Any = [TOOL]
EVENTS: TypeAdapter[Any] = TypeAdapter(ResponseStreamEvent)
ALL: list[Step] = [
    Started(),
    Delta(reasoning="Hm"),
    Delta(reasoning="."),
    Delta(text="Sure"),
    Delta(text="."),
    call_piece(0, "", name="light"),
    call_piece(0, '{"room": '),
    call_piece(0, '"hall"}'),
    call_piece(1, "{}", name="light"),
    Done(finish_reason="tool_calls", usage=USAGE),
]


@pytest.fixture
async def bridge() -> AsyncIterator[HttpBridge]:
    async with open_bridge(PlayedEngine(talk("Good ", "", "evening."))) as bridge:
        yield bridge


async def events(bridge: HttpBridge, body: dict[str, Any]) -> list[Any]:
    """Return the events of a stream, each checked with OpenAI's own type."""
    found = []
    for number, frame in enumerate(await bridge.frames(PATH, body)):
        head, _, data = frame.partition("\ndata: ")
        event = json.loads(data)
        assert head == f"event: {event['type']}"
        assert event["sequence_number"] == number
        EVENTS.validate_python(event, extra="forbid")
        found.append(event)
    return found


async def test_a_response_satisfies_the_schema_of_openai(bridge: HttpBridge) -> None:
    body = await bridge.post(PATH, ASK | {"instructions": "Be kind.", "metadata": {"a": "b"}})
    response = checked(Response, body)
    assert response.id.startswith("resp_")
    assert response.output_text == "Good evening."
    assert (response.status, response.model) == ("completed", "tiny")
    assert (response.instructions, response.metadata) == ("Be kind.", {"a": "b"})
    (message,) = body["output"]
    assert message.pop("id").startswith("msg_")
    assert message == {
        "type": "message",
        "status": "completed",
        "role": "assistant",
        "content": [
            {"type": "output_text", "text": "Good evening.", "annotations": [], "logprobs": []}
        ],
    }
    assert body["usage"] == {
        "input_tokens": 7,
        "input_tokens_details": {"cached_tokens": 4, "cache_write_tokens": 0},
        "output_tokens": 3,
        "output_tokens_details": {"reasoning_tokens": 1},
        "total_tokens": 10,
    }
    assert [(turn.role, turn.content) for turn in bridge.engine.asked[0].conversation] == [
        ("system", "Be kind."),
        ("user", "Hello"),
    ]
    assert (await bridge.openai.responses.create(**ASK)).output_text == "Good evening."


async def test_reasoning_text_and_calls_are_items(bridge: HttpBridge) -> None:
    bridge.play(*ALL)
    body = await bridge.post(PATH, ASK | {"tools": [TOOL]})
    response = checked(Response, body)
    assert [item.type for item in response.output] == [
        "reasoning",
        "message",
        "function_call",
        "function_call",
    ]
    reasoning, message, call, _ = body["output"]
    assert reasoning["content"] == [{"type": "reasoning_text", "text": "Hm."}]
    assert message["content"][0]["text"] == "Sure."
    assert (call["call_id"], call["name"], call["arguments"]) == (
        "call_0",
        "light",
        '{"room": "hall"}',
    )
    assert body["tools"] == [TOOL]


TYPES = """created in_progress
output_item.added content_part.added reasoning_text.delta reasoning_text.delta
reasoning_text.done content_part.done output_item.done
output_item.added content_part.added output_text.delta output_text.delta
output_text.done content_part.done output_item.done
output_item.added function_call_arguments.delta function_call_arguments.delta
function_call_arguments.done output_item.done
output_item.added function_call_arguments.delta function_call_arguments.done output_item.done
completed"""


async def test_a_stream_opens_fills_and_closes_each_item(bridge: HttpBridge) -> None:
    bridge.play(*ALL)
    found = await events(bridge, ASK | {"tools": [TOOL]})
    assert [event["type"] for event in found] == [f"response.{name}" for name in TYPES.split()]
    assert found[0]["response"]["status"] == "in_progress"
    items = [event["item"] for event in found if event["type"] == "response.output_item.done"]
    last = found[-1]["response"]
    checked(Response, last)
    assert last["output"] == items
    places = [event["output_index"] for event in found if "output_index" in event]
    assert places == sorted(places)
    assert set(places) == {0, 1, 2, 3}
    added = [event for event in found if event["type"] == "response.output_item.added"]
    assert [event["item"]["id"] for event in added] == [item["id"] for item in items]
    whole = await bridge.post(PATH, ASK | {"tools": [TOOL]})
    for item in [*whole["output"], *items]:
        item.pop("id")
    assert whole["output"] == items


@pytest.mark.parametrize("script", [ALL, talk("Good ", "evening."), talk()])
async def test_openais_accumulating_stream_agrees(bridge: HttpBridge, script: list[Step]) -> None:
    bridge.play(*script)
    async with bridge.openai.responses.stream(**ASK, tools=TOOLS) as stream:
        async for _ in stream:
            pass
        final = await stream.get_final_response()
    whole = await bridge.openai.responses.create(**ASK)
    assert final.output_text == whole.output_text
    assert [item.type for item in final.output] == [item.type for item in whole.output]
    assert final.usage == whole.usage


async def test_the_synchronous_client_works_too(bridge: HttpBridge) -> None:
    def ask() -> str:
        with openai.OpenAI(base_url=f"{bridge.server.url}/v1", api_key="none") as client:
            with client.responses.create(**ASK, stream=True) as stream:
                kinds = [event.type for event in stream]
            assert kinds[-1] == "response.completed"
            return str(client.responses.create(**ASK).output_text)

    assert await asyncio.to_thread(ask) == "Good evening."


class Place(BaseModel):
    """What an answer is parsed into."""

    city: str


async def test_an_answer_is_parsed_into_a_model_of_pydantic(bridge: HttpBridge) -> None:
    bridge.play(*talk('{"city": ', '"Oslo"}'))
    parsed = await bridge.openai.responses.parse(**ASK, text_format=Place)
    assert parsed.output_parsed == Place(city="Oslo")
    sent = bridge.engine.asked[0].response_format
    assert isinstance(sent, JsonSchemaFormat)
    assert sent.json_schema.schema_["required"] == ["city"]
    async with bridge.openai.responses.stream(**ASK, text_format=Place) as stream:
        final = await stream.get_final_response()
    assert final.output_parsed == Place(city="Oslo")


async def test_logprobs_come_if_asked(bridge: HttpBridge) -> None:
    top = TopLogprob(token="b", bytes=(98,), logprob=math.log(0.25))
    first = TokenLogprob(token="a", bytes=(97,), logprob=math.log(0.5), top_logprobs=(top,))
    bridge.play(
        Started(),
        Delta(text="a", logprobs=(first,)),
        Delta(logprobs=(first,)),
        Done(finish_reason="stop"),
    )
    ask = ASK | {"include": ["message.output_text.logprobs"], "top_logprobs": 1}
    body = await bridge.post(PATH, ask)
    checked(Response, body)
    assert [entry["bytes"] for entry in body["output"][0]["content"][0]["logprobs"]] == [[97]] * 2
    assert (bridge.engine.asked[0].logprobs, bridge.engine.asked[0].top_logprobs) == (True, 1)
    found = await events(bridge, ask)
    counts = {event["type"]: len(event["logprobs"]) for event in found if "logprobs" in event}
    assert counts == {"response.output_text.delta": 1, "response.output_text.done": 2}


@pytest.mark.parametrize("reason", ["length", "time_budget", "cancelled"])
async def test_an_answer_that_was_cut_is_incomplete(
    bridge: HttpBridge, reason: FinishReason
) -> None:
    bridge.play(*talk("Good", finish_reason=reason))
    body = await bridge.post(PATH, ASK)
    checked(Response, body)
    assert (body["status"], body["output"][0]["status"]) == ("incomplete", "incomplete")
    assert body["incomplete_details"] == {"reason": "max_output_tokens"}
    assert (await events(bridge, ASK))[-1]["type"] == "response.incomplete"


async def test_a_conversation_goes_back_with_its_calls_and_results(bridge: HttpBridge) -> None:
    bridge.play(*ALL)
    first = await bridge.openai.responses.create(**ASK, tools=TOOLS)
    results = [
        {"type": "function_call_output", "call_id": item.call_id, "output": "done"}
        for item in first.output
        if item.type == "function_call"
    ]
    history: Any = [user(), *first.output, *results]
    bridge.play(*talk("It is light."))
    await bridge.openai.responses.create(model="tiny", input=history, tools=TOOLS)
    question, called, *told = bridge.engine.asked[-1].conversation
    assert (question.role, question.content) == ("user", "Hello")
    assert (called.role, called.content) == ("assistant", "Sure.")
    assert called.tool_calls
    assert [(c.id, c.function.arguments) for c in called.tool_calls] == [
        ("call_0", '{"room": "hall"}'),
        ("call_1", "{}"),
    ]
    assert [(t.role, t.tool_call_id, t.content) for t in told] == [
        ("tool", "call_0", "done"),
        ("tool", "call_1", "done"),
    ]


async def test_parts_are_joined_and_bare_calls_are_a_turn(bridge: HttpBridge) -> None:
    items = [
        {"role": "developer", "content": [{"type": "input_text", "text": "Be brief."}]},
        {
            "type": "message",
            "role": "user",
            "content": [
                {"type": "input_text", "text": "Hello"},
                {"type": "input_text", "text": "there"},
            ],
        },
        {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"},
        {
            "type": "function_call_output",
            "call_id": "c",
            "output": [{"type": "input_text", "text": "1"}],
        },
    ]
    await bridge.post(PATH, {"input": items})
    turns = bridge.engine.asked[0].conversation
    assert [(turn.role, turn.content) for turn in turns] == [
        ("developer", "Be brief."),
        ("user", "Hello\nthere"),
        ("assistant", ""),
        ("tool", "1"),
    ]


async def test_parameters_reach_the_engine(bridge: HttpBridge) -> None:
    await bridge.openai.responses.create(
        **ASK,
        max_output_tokens=5,
        temperature=0.5,
        top_p=0.9,
        tools=TOOLS,
        tool_choice={"type": "function", "name": "light"},
        parallel_tool_calls=False,
        text={"format": {"type": "json_object"}, "verbosity": "low"},
        reasoning={"effort": "low", "summary": "auto"},
        truncation="auto",
        store=True,
        background=False,
        include=["reasoning.encrypted_content"],
        extra_body={"top_k": 3, "seed": 7, "thinking_budget": 9},
    )
    asked = bridge.engine.asked[0]
    assert isinstance(asked.tool_choice, NamedTool)
    assert asked.tools
    assert asked.tools[0].function.model_dump() == {
        name: value for name, value in TOOL.items() if name != "type"
    }
    sent = asked.model_dump(
        exclude_none=True,
        exclude_defaults=True,
        exclude={"messages", "tools", "tool_choice"},
    )
    assert sent == {
        "model": "tiny",
        "max_tokens": 5,
        "temperature": 0.5,
        "top_p": 0.9,
        "top_k": 3,
        "seed": 7,
        "parallel_tool_calls": False,
        "response_format": {"type": "json_object"},
        "enable_thinking": True,
        "thinking_budget": 9,
        "overflow": "drop_oldest",
    }


async def test_null_is_the_same_as_absent(bridge: HttpBridge) -> None:
    names = """model instructions max_output_tokens temperature top_p tools tool_choice text
    reasoning include top_logprobs truncation max_tool_calls previous_response_id conversation
    prompt background store stream stream_options metadata user service_tier safety_identifier
    prompt_cache_key parallel_tool_calls context_management moderation"""
    await bridge.post(PATH, {"input": "Hello"} | dict.fromkeys(names.split()))
    asked = bridge.engine.asked[0]
    assert asked == ChatRequest(model="tiny", messages=asked.messages, overflow="error")


@pytest.mark.parametrize(
    ("fields", "code", "param"),
    [
        ({"input": None}, "invalid_request", "input"),
        ({"input": []}, "invalid_request", "input"),
        ({"input": " "}, "invalid_request", "messages"),
        ({"input": ["Hello"]}, "invalid_request", "input.0"),
        ({"input": [{"role": "banana", "content": "a"}]}, "invalid_request", "input.0.role"),
        ({"input": [{"role": "user"}]}, "invalid_request", "input.0.content"),
        ({"input": [user() | {"mood": "happy"}]}, "unknown_field", "input.0.mood"),
        (
            {"input": [{"role": "user", "content": [{"type": "input_image"}]}]},
            "unsupported_content",
            "input.0.content.0",
        ),
        ({"input": [{"type": "item_reference", "id": "x"}]}, "unsupported_field", "input.0.type"),
        ({"input": [{"type": "web_search_call"}]}, "unsupported_content", "input.0.type"),
        ({"previous_response_id": "resp_1"}, "unsupported_field", "previous_response_id"),
        ({"conversation": "conv_1"}, "unsupported_field", "conversation"),
        ({"prompt": {"id": "p"}}, "unsupported_field", "prompt"),
        ({"background": True}, "unsupported_field", "background"),
        ({"tools": [{"type": "web_search"}]}, "unsupported_field", "tools.0.type"),
        ({"tool_choice": {"type": "mcp"}}, "unsupported_field", "tool_choice.type"),
        ({"text": {"format": {"type": "yaml"}}}, "invalid_request", "text.format"),
        ({"max_tokens": 5}, "unknown_field", "max_tokens"),
        ({"response_format": {"type": "text"}}, "unknown_field", "response_format"),
        ({"reasoning_effort": "low"}, "unknown_field", "reasoning_effort"),
        ({"messages": []}, "unknown_field", "messages"),
        ({"n": 2}, "unknown_field", "n"),
    ],
)
async def test_a_bad_field_is_named(
    bridge: HttpBridge, fields: dict[str, object], code: str, param: str
) -> None:
    assert await bridge.refusal(PATH, ASK | fields) == (400, code, param)
    assert not bridge.engine.asked


async def test_an_engines_refusal_has_a_status_of_its_own_also_for_streams(
    bridge: HttpBridge,
) -> None:
    bridge.play(ContextOverflowError("600 > 512"))
    with pytest.raises(openai.BadRequestError) as info:
        await bridge.openai.responses.create(**ASK, stream=True)
    assert info.value.code == "context_overflow"


async def test_a_failure_in_mid_stream_is_an_event_and_the_last(bridge: HttpBridge) -> None:
    bridge.play(Started(), Delta(text="Hi"), EngineFailedError("died"))
    found = await events(bridge, ASK)
    assert [event["type"] for event in found][-1] == "response.failed"
    failed = found[-1]["response"]
    checked(Response, failed)
    assert failed["error"] == {"code": "server_error", "message": "died (engine_failed)"}
    assert failed["status"] == "failed"


async def test_a_late_refusal_after_a_ping_is_an_error(
    bridge: HttpBridge, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(event_stream, "PING_S", 0.02)
    bridge.play(0.05, ContextOverflowError("600 > 512"))
    frames = await bridge.frames(PATH, ASK)
    assert frames[0] == ": ping"
    with pytest.raises(openai.APIError, match="600 > 512"):
        async for _ in await bridge.openai.responses.create(**ASK, stream=True):
            pass


@pytest.mark.parametrize("stream", [False, True])
async def test_what_was_left_out_of_the_conversation_is_told_in_a_header(
    bridge: HttpBridge, stream: bool
) -> None:
    bridge.play(Started(dropped_messages=2), Done(finish_reason="stop", dropped_messages=2))
    async with bridge.http.post(PATH, json=ASK | {"stream": stream}) as response:
        assert response.headers["X-Dropped-Messages"] == "2"
