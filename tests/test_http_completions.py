"""Legacy completions over HTTP: prompts in, texts out."""

import math
from collections.abc import AsyncIterator
from typing import Any

import pytest
from openai.types import Completion

from edge_llm.protocol import Delta, Done, FinishReason, Started, TokenLogprob, TopLogprob
from tests.http_bridge import USAGE, HttpBridge, PlayedEngine, checked, open_bridge, talk

PATH = "/v1/completions"
ASK: Any = {"model": "tiny", "prompt": "Once upon a time"}


@pytest.fixture
async def bridge() -> AsyncIterator[HttpBridge]:
    async with open_bridge(PlayedEngine(talk("there ", "", "was."))) as bridge:
        yield bridge


async def test_a_completion_satisfies_the_schema_of_openai(bridge: HttpBridge) -> None:
    body = await bridge.post(PATH, ASK)
    completion = checked(Completion, body)
    assert completion.id.startswith("cmpl-")
    assert body["choices"] == [
        {"index": 0, "text": "there was.", "logprobs": None, "finish_reason": "stop"}
    ]
    assert body["usage"]["total_tokens"] == 10
    asked = bridge.engine.asked[0]
    assert [(turn.role, turn.content) for turn in asked.conversation] == [
        ("user", "Once upon a time")
    ]
    assert asked.enable_thinking is False  # its reasoning would be shown nowhere
    completion = await bridge.openai.completions.create(**ASK)
    assert completion.choices[0].text == "there was."


async def test_a_stream_is_text_then_reason_then_usage(bridge: HttpBridge) -> None:
    *chunks, usage = await bridge.chunks(PATH, ASK | {"stream_options": {"include_usage": True}})
    choices = [chunk["choices"][0] for chunk in chunks]
    assert [(c["text"], c["finish_reason"]) for c in choices] == [
        ("there ", None),
        ("was.", None),
        ("", "stop"),
    ]
    assert all(chunk["usage"] is None for chunk in chunks)
    assert (usage["choices"], usage["usage"]["total_tokens"]) == ([], 10)
    stream = await bridge.openai.completions.create(**ASK, stream=True)
    assert "".join([chunk.choices[0].text async for chunk in stream]) == "there was."


async def test_each_prompt_has_its_choices_and_counts_once(bridge: HttpBridge) -> None:
    ask = ASK | {"prompt": ["One", "Two"], "n": 2, "best_of": 2, "seed": 5}
    body = await bridge.post(PATH, ask)
    checked(Completion, body)
    assert [choice["index"] for choice in body["choices"]] == [0, 1, 2, 3]
    assert [(chat.prompt, chat.seed) for chat in bridge.engine.asked] == [
        ("One", 5),
        ("One", 6),
        ("Two", 5),
        ("Two", 6),
    ]
    assert (body["usage"]["prompt_tokens"], body["usage"]["completion_tokens"]) == (14, 12)
    *_, last = await bridge.chunks(PATH, ask | {"stream_options": {"include_usage": True}})
    assert last["usage"] == body["usage"]


async def test_logprobs_have_the_legacy_shape(bridge: HttpBridge) -> None:
    def token(text: str) -> TokenLogprob:
        top = TopLogprob(token="x", bytes=(120,), logprob=math.log(0.25))
        return TokenLogprob(
            token=text, bytes=tuple(text.encode()), logprob=math.log(0.5), top_logprobs=(top,)
        )

    bridge.play(
        Started(),
        Delta(text="ab", logprobs=(token("a"), token("b"))),
        Delta(text=" c", logprobs=(token(" c"),)),
        Done(finish_reason="stop", usage=USAGE),
    )
    body = await bridge.post(PATH, ASK | {"logprobs": 1})
    checked(Completion, body)
    assert body["choices"][0]["logprobs"] == {
        "tokens": ["a", "b", " c"],
        "token_logprobs": [math.log(0.5)] * 3,
        "top_logprobs": [
            {"x": math.log(0.25), "a": math.log(0.5)},
            {"x": math.log(0.25), "b": math.log(0.5)},
            {"x": math.log(0.25), " c": math.log(0.5)},
        ],
        "text_offset": [0, 1, 2],
    }
    assert bridge.engine.asked[0].top_logprobs == 1
    chunks = await bridge.chunks(PATH, ASK | {"logprobs": 0})
    found = [chunk["choices"][0]["logprobs"] for chunk in chunks]
    assert [logprobs and logprobs["text_offset"] for logprobs in found] == [[0, 1], [2], None]
    assert (bridge.engine.asked[1].logprobs, bridge.engine.asked[1].top_logprobs) == (True, 0)


@pytest.mark.parametrize(
    ("ours", "theirs"), [("stop", "stop"), ("length", "length"), ("time_budget", "length")]
)
async def test_finish_reasons_are_openais(
    bridge: HttpBridge, ours: FinishReason, theirs: str
) -> None:
    bridge.play(*talk("a", finish_reason=ours))
    assert (await bridge.post(PATH, ASK))["choices"][0]["finish_reason"] == theirs


async def test_parameters_reach_the_engine(bridge: HttpBridge) -> None:
    await bridge.openai.completions.create(
        **ASK,
        max_tokens=5,
        temperature=0.5,
        top_p=0.9,
        stop="END",
        seed=1,
        frequency_penalty=0.5,
        presence_penalty=-0.5,
        logit_bias={"42": -100},
        echo=False,
        user="u",
        extra_body={"top_k": 3, "repetition_penalty": 1.2, "enable_thinking": True},
    )
    sent = bridge.engine.asked[0].model_dump(exclude_none=True, exclude_defaults=True)
    assert sent == {
        "model": "tiny",
        "prompt": "Once upon a time",
        "max_tokens": 5,
        "temperature": 0.5,
        "top_p": 0.9,
        "stop": ("END",),
        "seed": 1,
        "frequency_penalty": 0.5,
        "presence_penalty": -0.5,
        "logit_bias": {42: -100},
        "top_k": 3,
        "repeat_penalty": 1.2,
        "enable_thinking": True,
        "overflow": "error",
    }


@pytest.mark.parametrize(
    ("fields", "code", "param"),
    [
        ({"prompt": None}, "invalid_request", "prompt"),
        ({"prompt": ""}, "invalid_request", "prompt"),
        ({"prompt": []}, "invalid_request", "prompt"),
        ({"prompt": ["a", " "]}, "invalid_request", "prompt"),
        ({"prompt": ["a"] * 65}, "invalid_request", "prompt"),
        ({"prompt": [1, 2]}, "unsupported_field", "prompt"),
        ({"prompt": [[1, 2]]}, "unsupported_field", "prompt"),
        ({"n": 9}, "invalid_request", "n"),
        ({"best_of": 2}, "unsupported_field", "best_of"),
        ({"echo": True}, "unsupported_field", "echo"),
        ({"suffix": "The end."}, "unsupported_field", "suffix"),
        ({"max_bytes": 100}, "unsupported_field", "max_bytes"),
        ({"logprobs": True}, "invalid_request", "logprobs"),
        ({"logprobs": 21}, "invalid_request", "logprobs"),
        ({"messages": []}, "unknown_field", "messages"),
        ({"tools": []}, "unknown_field", "tools"),
    ],
)
async def test_a_bad_field_is_named(
    bridge: HttpBridge, fields: dict[str, object], code: str, param: str
) -> None:
    assert await bridge.refusal(PATH, ASK | fields) == (400, code, param)
    assert not bridge.engine.asked


async def test_a_prompt_must_be_there(bridge: HttpBridge) -> None:
    assert await bridge.refusal(PATH, {}) == (400, "invalid_request", "prompt")
