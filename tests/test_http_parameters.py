"""The parameters of chat completions: what reaches the engine, what is ignored."""

from collections.abc import AsyncIterator
from typing import Any

import pytest

from edge_llm.protocol import ChatRequest
from tests.http_bridge import HttpBridge, PlayedEngine, open_bridge, talk, user

PATH = "/v1/chat/completions"
ASK: Any = {"model": "tiny", "messages": [user()]}


@pytest.fixture
async def bridge() -> AsyncIterator[HttpBridge]:
    async with open_bridge(PlayedEngine(talk("Hi")), model_aliases=("gpt-*",)) as bridge:
        yield bridge


async def test_a_request_that_asks_for_nothing_special_is_nothing_special(
    bridge: HttpBridge,
) -> None:
    await bridge.openai.chat.completions.create(
        **ASK,
        stop="END",
        user="u",
        metadata={"a": "b"},
        store=True,
        service_tier="auto",
        safety_identifier="s",
        prompt_cache_key="k",
        prompt_cache_options={"mode": "implicit"},
        prompt_cache_retention="24h",
        parallel_tool_calls=False,
        verbosity="low",
        prediction=None,
        modalities=["text"],
        logprobs=False,
        top_logprobs=0,
        tools=[],
        tool_choice="auto",
        response_format={"type": "text"},
        stream_options={"include_obfuscation": False},
    )
    asked = bridge.engine.asked[0]
    assert asked == ChatRequest(
        model="tiny", messages=asked.messages, stop=("END",), overflow="error"
    )


async def test_null_is_the_same_as_absent(bridge: HttpBridge) -> None:
    names = """model max_tokens max_completion_tokens temperature top_p stop seed frequency_penalty
    presence_penalty logit_bias stream stream_options n user metadata store service_tier tools
    safety_identifier prompt_cache_key parallel_tool_calls reasoning_effort verbosity modalities
    logprobs top_logprobs tool_choice response_format audio prediction functions function_call
    web_search_options moderation top_k min_p repeat_penalty repeat_last_n enable_thinking
    chat_template_kwargs repetition_penalty thinking_budget"""
    await bridge.post(PATH, {"messages": ASK["messages"]} | dict.fromkeys(names.split()))
    asked = bridge.engine.asked[0]
    assert asked == ChatRequest(model="tiny", messages=asked.messages, overflow="error")


async def test_every_parameter_reaches_the_engine(bridge: HttpBridge) -> None:
    extras = {
        "top_k": 20,
        "min_p": 0.1,
        "repeat_penalty": 1.1,
        "repeat_last_n": 32,
        "priority": 9,
        "preempt": True,
        "ttl_s": 30,
        "time_budget_s": 20,
        "overflow": "drop_oldest",
        "chat_template_kwargs": {"enable_thinking": True, "thinking_budget": 50},
    }
    await bridge.openai.chat.completions.create(
        model="gpt-4o",
        messages=[
            {"role": "developer", "content": "Be brief.", "name": "director"},
            {"role": "system", "content": ""},
            {"role": "user", "content": "Hello"},
        ],
        max_tokens=5,
        max_completion_tokens=6,
        temperature=1,
        top_p=0.9,
        stop=["\n", "END"],
        seed=-3,
        frequency_penalty=0.5,
        presence_penalty=-0.5,
        logit_bias={"42": -100},
        n=1,
        extra_body=extras,
    )
    sent = bridge.engine.asked[0].model_dump(exclude_none=True)
    assert sent.pop("messages") == (
        {"role": "developer", "content": "Be brief."},
        {"role": "system", "content": ""},
        {"role": "user", "content": "Hello"},
    )
    extras.pop("chat_template_kwargs")
    assert sent == extras | {
        "model": "tiny",
        "max_tokens": 6,
        "temperature": 1,
        "top_p": 0.9,
        "stop": ("\n", "END"),
        "seed": -3,
        "frequency_penalty": 0.5,
        "presence_penalty": -0.5,
        "logit_bias": {42: -100},
        "enable_thinking": True,
        "thinking_budget": 50,
    }


@pytest.mark.parametrize(
    ("body", "field", "value"),
    [
        ({}, "enable_thinking", None),
        ({"reasoning_effort": "none"}, "enable_thinking", False),
        ({"reasoning_effort": "minimal"}, "enable_thinking", False),
        ({"reasoning_effort": "low"}, "enable_thinking", True),
        ({"reasoning_effort": "max"}, "enable_thinking", True),
        ({"reasoning_effort": "high", "enable_thinking": False}, "enable_thinking", False),
        (
            {"reasoning_effort": "high", "chat_template_kwargs": {"enable_thinking": False}},
            "enable_thinking",
            False,
        ),
        ({"chat_template_kwargs": {}}, "enable_thinking", None),
        (
            {"enable_thinking": True, "chat_template_kwargs": {"enable_thinking": False}},
            "enable_thinking",
            True,
        ),
        ({"thinking_budget": 0}, "thinking_budget", 0),
        (
            {"thinking_budget": 9, "chat_template_kwargs": {"thinking_budget": 8}},
            "thinking_budget",
            9,
        ),
        ({"repetition_penalty": 1.3}, "repeat_penalty", 1.3),
        ({"repetition_penalty": 1.3, "repeat_penalty": 1.1}, "repeat_penalty", 1.1),
    ],
)
async def test_of_two_words_for_the_same_the_plainest_wins(
    bridge: HttpBridge, body: dict[str, object], field: str, value: object
) -> None:
    await bridge.post(PATH, ASK | body)
    assert getattr(bridge.engine.asked[0], field) == value


async def test_parts_of_text_are_joined_line_by_line(bridge: HttpBridge) -> None:
    parts = [{"type": "text", "text": "Hello"}, {"type": "text", "text": "there"}]
    messages = [
        {"role": "system", "content": parts[:1]},
        {"role": "assistant", "content": [{"type": "refusal", "refusal": "No."}]},
        {"role": "user", "content": parts},
    ]
    await bridge.post(PATH, {"messages": messages})
    turns = bridge.engine.asked[0].conversation
    assert [turn.content for turn in turns] == ["Hello", "No.", "Hello\nthere"]


@pytest.mark.parametrize(
    "part",
    [
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}},
        {"type": "input_audio", "input_audio": {"data": "AA==", "format": "wav"}},
        {"type": "file", "file": {"file_id": "f"}},
    ],
)
async def test_what_is_not_text_is_refused_by_name(
    bridge: HttpBridge, part: dict[str, object]
) -> None:
    messages = [user(), {"role": "user", "content": [{"type": "text", "text": "Look"}, part]}]
    refusal = await bridge.refusal(PATH, {"messages": messages})
    assert refusal == (400, "unsupported_content", "messages.1.content.1")
    assert not bridge.engine.asked
