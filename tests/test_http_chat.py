"""Chat completions over HTTP, with the real client and the server as it runs."""

import asyncio
import json
import math
import time
from collections.abc import AsyncIterator
from typing import Any

import openai
import pytest
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from pydantic import BaseModel

from edge_llm.protocol import (
    Delta,
    Done,
    FinishReason,
    JsonSchemaFormat,
    Started,
    TokenLogprob,
    TopLogprob,
    Usage,
)
from tests.http_bridge import (
    USAGE,
    HttpBridge,
    PlayedEngine,
    Step,
    checked,
    open_bridge,
    talk,
    user,
)

PATH = "/v1/chat/completions"
ASK: Any = {"model": "tiny", "messages": [user()]}
USAGE_OBJECT = {
    "prompt_tokens": 7,
    "completion_tokens": 3,
    "total_tokens": 10,
    "prompt_tokens_details": {"cached_tokens": 4},
    "completion_tokens_details": {"reasoning_tokens": 1},
}


@pytest.fixture
async def bridge() -> AsyncIterator[HttpBridge]:
    engine = PlayedEngine(talk("Good ", "", "evening."))
    async with open_bridge(engine, model_aliases=("gpt-*",)) as bridge:
        yield bridge


def token(text: str, probability: float, *others: str) -> TokenLogprob:
    def top(word: str) -> TopLogprob:
        return TopLogprob(token=word, bytes=tuple(word.encode()), logprob=math.log(probability))

    return TokenLogprob(
        token=text,
        bytes=tuple(text.encode()),
        logprob=math.log(probability),
        top_logprobs=tuple(map(top, others)),
    )


def deltas(chunks: list[Any]) -> list[tuple[Any, Any]]:
    return [(c["choices"][0]["delta"], c["choices"][0]["finish_reason"]) for c in chunks]


async def test_a_completion_satisfies_the_schema_of_openai(bridge: HttpBridge) -> None:
    body = await bridge.post(PATH, ASK)
    completion = checked(ChatCompletion, body)
    assert completion.id.startswith("chatcmpl-")
    assert completion.model == "tiny"
    assert abs(completion.created - time.time()) < 60
    assert body["choices"] == [
        {
            "index": 0,
            "message": {"role": "assistant", "content": "Good evening.", "refusal": None},
            "logprobs": None,
            "finish_reason": "stop",
        }
    ]
    assert body["usage"] == USAGE_OBJECT
    completion = await bridge.openai.chat.completions.create(**ASK)
    assert completion.choices[0].message.content == "Good evening."


async def test_a_stream_is_role_then_text_then_reason_then_done(bridge: HttpBridge) -> None:
    chunks = await bridge.chunks(PATH, ASK)
    for chunk in chunks:
        checked(ChatCompletionChunk, chunk)
        assert "usage" not in chunk
    assert len({(chunk["id"], chunk["created"], chunk["model"]) for chunk in chunks}) == 1
    assert deltas(chunks) == [
        ({"role": "assistant", "content": None}, None),
        ({"content": "Good "}, None),
        ({"content": "evening."}, None),
        ({}, "stop"),
    ]


async def test_usage_comes_in_a_chunk_of_its_own_if_asked(bridge: HttpBridge) -> None:
    *chunks, usage = await bridge.chunks(PATH, ASK | {"stream_options": {"include_usage": True}})
    assert all(chunk["usage"] is None for chunk in chunks)
    checked(ChatCompletionChunk, usage)
    assert (usage["choices"], usage["usage"]) == ([], USAGE_OBJECT)


async def test_openai_streams(bridge: HttpBridge) -> None:
    bridge.play(*talk("grüß", "\n\n", "dich 👋"))
    stream = await bridge.openai.chat.completions.create(
        **ASK, stream=True, stream_options={"include_usage": True}
    )
    chunks = [chunk async for chunk in stream]
    texts = [chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices]
    assert "".join(texts) == "grüß\n\ndich 👋"
    assert chunks[-1].usage
    assert chunks[-1].usage.total_tokens == 10


async def test_openais_accumulating_stream_agrees(bridge: HttpBridge) -> None:
    async with bridge.openai.chat.completions.stream(**ASK) as stream:
        final = await stream.get_final_completion()
    assert final.choices[0].message.content == "Good evening."
    assert final.choices[0].finish_reason == "stop"


async def test_the_synchronous_client_works_too(bridge: HttpBridge) -> None:
    def ask() -> tuple[str | None, str]:
        url = f"{bridge.server.url}/v1"
        with openai.OpenAI(base_url=url, api_key="none") as client:
            completion: ChatCompletion = client.chat.completions.create(**ASK)
            with client.chat.completions.create(**ASK, stream=True) as stream:
                texts = [chunk.choices[0].delta.content or "" for chunk in stream]
        return completion.choices[0].message.content, "".join(texts)

    assert await asyncio.to_thread(ask) == ("Good evening.", "Good evening.")


async def test_reasoning_is_kept_apart(bridge: HttpBridge) -> None:
    bridge.play(
        Started(),
        Delta(reasoning="Hm"),
        Delta(reasoning=".", text="Yes"),
        Done(finish_reason="stop"),
    )
    completion = await bridge.openai.chat.completions.create(**ASK)
    message = completion.choices[0].message
    assert (message.content, message.model_extra) == ("Yes", {"reasoning_content": "Hm."})
    assert deltas(await bridge.chunks(PATH, ASK))[1:-1] == [
        ({"reasoning_content": "Hm"}, None),
        ({"reasoning_content": ".", "content": "Yes"}, None),
    ]
    history: Any = [*ASK["messages"], message, user("And?")]
    await bridge.openai.chat.completions.create(model="tiny", messages=history)
    conversation = bridge.engine.asked[-1].conversation
    assert [turn.content for turn in conversation] == ["Hello", "Yes", "And?"]


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [("stop", "stop"), ("length", "length"), ("time_budget", "length"), ("cancelled", "length")],
)
async def test_finish_reasons_are_openais(
    bridge: HttpBridge, ours: FinishReason, theirs: str
) -> None:
    bridge.play(*talk("a", finish_reason=ours))
    completion = await bridge.openai.chat.completions.create(**ASK)
    assert completion.choices[0].finish_reason == theirs
    assert deltas(await bridge.chunks(PATH, ASK))[-1] == ({}, theirs)


async def test_several_choices_are_made_one_after_another_from_the_next_seeds(
    bridge: HttpBridge,
) -> None:
    scripts: list[list[Step]] = [
        [Started(), Delta(text=text), Done(finish_reason="stop", usage=usage)]
        for text, usage in (
            ("one", USAGE),
            ("two", Usage(prompt_tokens=7, cached_tokens=6, completion_tokens=4)),
            ("three", Usage(prompt_tokens=7, cached_tokens=6, completion_tokens=5)),
        )
    ]
    bridge.engine.scripts = scripts * 2
    ask = ASK | {"n": 3, "seed": 2**64 - 2}
    body = await bridge.post(PATH, ask)
    checked(ChatCompletion, body)
    assert [(c["index"], c["message"]["content"]) for c in body["choices"]] == [
        (0, "one"),
        (1, "two"),
        (2, "three"),
    ]
    usage = body["usage"]
    assert (usage["prompt_tokens"], usage["completion_tokens"], usage["total_tokens"]) == (
        7,
        12,
        19,
    )
    assert usage["prompt_tokens_details"] == {"cached_tokens": 4}
    assert [chat.seed for chat in bridge.engine.asked] == [2**64 - 2, 2**64 - 1, 0]
    assert bridge.engine.most_running == 1

    *chunks, last = await bridge.chunks(PATH, ask | {"stream_options": {"include_usage": True}})
    assert [c["choices"][0]["index"] for c in chunks] == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert [delta.get("role") for delta, _ in deltas(chunks)[::3]] == ["assistant"] * 3
    assert last["usage"] == usage
    bridge.engine.asked.clear()
    async with bridge.openai.chat.completions.stream(**ASK, n=3) as stream:
        final = await stream.get_final_completion()
    assert [choice.message.content for choice in final.choices] == ["one", "two", "three"]


LIKELY: list[Step] = [
    Started(),
    Delta(logprobs=(token("\ufffd", 0.5),)),
    Delta(text="é", logprobs=(token("\ufffd", 0.25, "x"),)),
    Delta(text=" a", logprobs=(token(" a", 0.5, " a", " b"),)),
    Delta(logprobs=(token("<end>", 0.5),)),
    Done(finish_reason="stop", usage=USAGE),
]


async def test_logprobs_have_bytes_and_alternatives(bridge: HttpBridge) -> None:
    bridge.play(*LIKELY)
    body = await bridge.post(PATH, ASK | {"logprobs": True, "top_logprobs": 2})
    completion = checked(ChatCompletion, body)
    logprobs = completion.choices[0].logprobs
    assert logprobs
    assert logprobs.content
    assert [entry.token for entry in logprobs.content] == ["\ufffd", "\ufffd", " a", "<end>"]
    third = logprobs.content[2]
    assert (third.bytes, third.logprob) == (list(b" a"), math.log(0.5))
    assert [top.token for top in third.top_logprobs] == [" a", " b"]
    assert (bridge.engine.asked[0].logprobs, bridge.engine.asked[0].top_logprobs) == (True, 2)


async def test_streamed_logprobs_come_with_the_text_that_they_are_part_of(
    bridge: HttpBridge,
) -> None:
    bridge.play(*LIKELY)
    chunks = await bridge.chunks(PATH, ASK | {"logprobs": True})
    for chunk in chunks:
        checked(ChatCompletionChunk, chunk)
    found = [(c["choices"][0]["delta"], c["choices"][0]["logprobs"]) for c in chunks]
    assert [(delta, probs and len(probs["content"])) for delta, probs in found] == [
        ({"role": "assistant", "content": None}, None),
        ({"content": "é"}, 2),
        ({"content": " a"}, 1),
        ({}, 1),
    ]
    async with bridge.openai.chat.completions.stream(**ASK, logprobs=True) as stream:
        final = await stream.get_final_completion()
    logprobs = final.choices[0].logprobs
    assert logprobs
    assert len(logprobs.content or ()) == 4


class Place(BaseModel):
    """What an answer is parsed into."""

    city: str
    people: int


async def test_an_answer_is_parsed_into_a_model_of_pydantic(bridge: HttpBridge) -> None:
    text = json.dumps({"city": "Oslo", "people": 700_000})
    bridge.play(*talk(text[:10], text[10:]))
    parsed = await bridge.openai.chat.completions.parse(**ASK, response_format=Place)
    assert parsed.choices[0].message.parsed == Place(city="Oslo", people=700_000)
    sent = bridge.engine.asked[0].response_format
    assert isinstance(sent, JsonSchemaFormat)
    assert sent.json_schema.name == "Place"
    assert sent.json_schema.schema_["required"] == ["city", "people"]
    async with bridge.openai.chat.completions.stream(**ASK, response_format=Place) as stream:
        final = await stream.get_final_completion()
    assert final.choices[0].message.parsed == Place(city="Oslo", people=700_000)


@pytest.mark.parametrize(
    "form",
    [
        {"type": "json_object"},
        {"type": "json_schema", "json_schema": {"name": "a", "schema": {"type": "object"}}},
        {"type": "regex", "regex": "[0-9]+"},
    ],
)
async def test_the_form_of_the_answer_reaches_the_engine(
    bridge: HttpBridge, form: dict[str, Any]
) -> None:
    await bridge.post(PATH, ASK | {"response_format": form})
    sent = bridge.engine.asked[0].response_format
    assert sent
    assert sent.model_dump(exclude_none=True) == form


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("dropped", [0, 3])
async def test_what_was_left_out_of_the_conversation_is_told_in_a_header(
    bridge: HttpBridge, stream: bool, dropped: int
) -> None:
    bridge.play(
        Started(dropped_messages=dropped),
        Delta(text="a"),
        Done(finish_reason="stop", dropped_messages=dropped),
    )
    async with bridge.http.post(PATH, json=ASK | {"stream": stream}) as response:
        assert response.headers.get("X-Dropped-Messages") == (str(dropped) if dropped else None)


@pytest.mark.parametrize("stream", [False, True])
async def test_a_request_keeps_the_name_that_its_client_gave_it(
    bridge: HttpBridge, stream: bool
) -> None:
    completion = await bridge.openai.chat.completions.create(
        **ASK, extra_headers={"X-Request-Id": "press-7"}
    )
    assert completion._request_id == "press-7"
    async with bridge.http.post(PATH, json=ASK | {"stream": stream}) as response:
        assert response.headers["X-Request-Id"].startswith("req_")
