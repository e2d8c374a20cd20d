"""Chunks as servers of several makes send them."""

import json
from collections.abc import Sequence
from typing import Any

import pytest

from edge_llm.engine.upstream.chunks import ChunkReader
from edge_llm.errors import ContextOverflowError, UpstreamError
from edge_llm.protocol import Delta, FinishReason, TokenLogprob, ToolCallDelta, TopLogprob, Usage
from tests.misbehaving import chunk


def read(*bodies: dict[str, Any] | str) -> tuple[ChunkReader, list[Delta]]:
    reader = ChunkReader()
    deltas = [reader.read(body if isinstance(body, str) else json.dumps(body)) for body in bodies]
    return reader, [delta for delta in deltas if delta != Delta()]


def calls(*pieces: dict[str, Any]) -> list[ToolCallDelta]:
    _, deltas = read(*(chunk(tool_calls=[piece]) for piece in pieces))
    return [piece for delta in deltas for piece in delta.tool_calls]


def test_an_answer_of_llama_server() -> None:
    reader, deltas = read(
        chunk(role="assistant", content=None),
        chunk("Hel"),
        chunk("lo"),
        chunk(reason="stop"),
        {
            "choices": [],
            "usage": {
                "completion_tokens": 3,
                "prompt_tokens": 20,
                "total_tokens": 23,
                "prompt_tokens_details": {"cached_tokens": 16},
            },
            "timings": {"cache_n": 16},
        },
        "[DONE]",
    )
    assert deltas == [Delta(text="Hel"), Delta(text="lo")]
    assert reader.finish_reason == "stop"
    assert reader.is_over
    assert reader.usage == Usage(prompt_tokens=20, cached_tokens=16, completion_tokens=3)


def test_nulls_and_unknown_fields_lose_nothing() -> None:
    _, deltas = read(
        {"id": None, "object": 5, "usage": None, "choices": None},
        {"choices": [{"delta": None, "finish_reason": None, "logprobs": None}]},
        {"choices": [{"delta": {"content": "a", "tool_calls": None, "refusal": None, "x": 1}}]},
        {"choices": [{"delta": {"content": "b"}, "logprobs": {"content": None}}], "usage": {}},
    )
    assert deltas == [Delta(text="a"), Delta(text="b")]


def test_a_server_that_does_not_count_is_counted_for() -> None:
    reader, _ = read(chunk(role="assistant", content=""), chunk("a"), chunk("b"), "[DONE]")
    assert reader.usage == Usage(completion_tokens=2)
    assert reader.finish_reason == "stop"


@pytest.mark.parametrize("name", ["reasoning", "reasoning_content"])
def test_reasoning_has_two_names(name: str) -> None:
    reader, deltas = read(
        chunk(**{name: "Hm"}),
        chunk("Yes"),
        {"usage": {"completion_tokens": 9, "completion_tokens_details": {"reasoning_tokens": 7}}},
    )
    assert deltas == [Delta(reasoning="Hm"), Delta(text="Yes")]
    assert reader.usage.reasoning_tokens == 7


def test_thinking_tags_in_the_text_are_text() -> None:
    _, deltas = read(chunk("<think>"), chunk("no</think>"))
    assert [delta.text for delta in deltas] == ["<think>", "no</think>"]


def test_two_tool_calls_as_openai_streams_them() -> None:
    first, more, second = calls(
        {"index": 0, "id": "c1", "type": "function", "function": {"name": "f", "arguments": ""}},
        {"index": 0, "function": {"arguments": '{"a":1}'}},
        {"index": 1, "id": "c2", "function": {"name": "g", "arguments": "{}"}},
    )
    assert first == ToolCallDelta(index=0, id="c1", name="f")
    assert more == ToolCallDelta(index=0, arguments='{"a":1}')
    assert second == ToolCallDelta(index=1, id="c2", name="g", arguments="{}")


def test_tool_calls_without_index_or_id_and_with_an_object_are_told_apart() -> None:
    first, more, second = calls(
        {"function": {"name": "f", "arguments": {"a": "ö"}}},
        {"function": {"arguments": ""}},
        {"function": {"name": "f", "arguments": None}},
    )
    assert (first.index, first.name, first.arguments) == (0, "f", '{"a": "ö"}')
    assert (more.index, more.id, more.name) == (0, None, None)
    assert (second.index, second.name, second.arguments) == (1, "f", "")
    assert first.id
    assert second.id
    assert first.id != second.id


def test_a_name_and_id_that_come_with_each_piece_are_told_once() -> None:
    piece = {"index": 0, "id": "c1", "function": {"name": "f", "arguments": "x"}}
    first, more = calls(piece, piece)
    assert first == ToolCallDelta(index=0, id="c1", name="f", arguments="x")
    assert more == ToolCallDelta(index=0, arguments="x")


@pytest.mark.parametrize(
    ("sent", "expected"),
    [
        ("stop", "stop"),
        ("length", "length"),
        ("max_tokens", "length"),
        ("tool_calls", "tool_calls"),
        ("function_call", "tool_calls"),
        ("content_filter", "stop"),
        ("eos", "stop"),
    ],
)
def test_finish_reasons(sent: str, expected: FinishReason) -> None:
    assert read(chunk("a"), chunk(reason=sent))[0].finish_reason == expected


def test_who_calls_a_tool_waits_for_it_whatever_the_server_says() -> None:
    call = {"function": {"name": "f", "arguments": "{}"}}
    assert read(chunk(tool_calls=[call]), chunk(reason="stop"))[0].finish_reason == "tool_calls"
    assert read(chunk(tool_calls=[call], reason="stop"))[0].finish_reason == "tool_calls"
    assert read(chunk(tool_calls=[call]), chunk(reason="length"))[0].finish_reason == "length"


def test_logprobs_with_bytes_and_without() -> None:
    token = {"token": "ö", "logprob": -0.5, "bytes": [195, 182], "top_logprobs": []}
    other = {"token": "é", "logprob": -1.5, "top_logprobs": [{"token": "x", "logprob": -2}]}
    body = chunk("öé")
    body["choices"][0]["logprobs"] = {"content": [token, other], "refusal": None}
    _, [delta] = read(body)
    assert delta.logprobs == (
        TokenLogprob(token="ö", bytes=(195, 182), logprob=-0.5),
        TokenLogprob(
            token="é",
            bytes=(195, 169),
            logprob=-1.5,
            top_logprobs=(TopLogprob(token="x", bytes=(120,), logprob=-2.0),),
        ),
    )


def test_an_answer_that_was_not_streamed() -> None:
    message = {"role": "assistant", "content": "Hi", "tool_calls": None}
    choice = {"index": 0, "message": message, "finish_reason": "length"}
    reader, deltas = read({"choices": [choice], "usage": {"prompt_tokens": 5}})
    assert deltas == [Delta(text="Hi")]
    assert reader.finish_reason == "length"


BROKEN: Sequence[tuple[str, str]] = [
    ("<html>", "no JSON: '<html>'"),
    ('"text"', "broke off: text"),
    ('{"error": {"message": "CUDA died", "type": "server_error"}}', "broke off: CUDA died"),
    ('{"error": "out of memory"}', "broke off: out of memory"),
    ('{"choices": [{"delta": {"content": 5}}]}', r"choices\.0\.delta\.content is wrong"),
    ('{"choices": 5}', "choices is wrong"),
]


@pytest.mark.parametrize(("data", "message"), BROKEN)
def test_what_is_no_chunk_is_an_error(data: str, message: str) -> None:
    with pytest.raises(UpstreamError, match=message):
        read(data)


def test_an_overflow_that_shows_in_the_stream() -> None:
    error = {"message": "request exceeds the available context size", "code": 400}
    with pytest.raises(ContextOverflowError, match="context size"):
        read({"error": error})
