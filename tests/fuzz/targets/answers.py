"""Answers in every HTTP dialect: whatever a model says, whole and in pieces, is the same text."""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from bridges.http.bridge import Reply
from bridges.http.ollama.reply import (
    CallCollector,
    Said,
    make_chat_reply,
    make_end,
    make_generate_reply,
)
from bridges.http.openai import chat_reply, completions_reply
from bridges.http.openai.responses_body import ResponsesBody
from bridges.http.openai.responses_stream import ResponseMaker
from edge_llm.protocol import (
    Delta,
    Done,
    Event,
    FinishReason,
    TokenLogprob,
    ToolCallDelta,
    TopLogprob,
    Usage,
)
from tests.fuzz.source import Source, join
from tests.fuzz.target import Target

FINISH_REASONS: Sequence[FinishReason] = (
    "stop",
    "length",
    "tool_calls",
    "time_budget",
    "cancelled",
)
MAX_DELTAS = 12
BODY = ResponsesBody.model_validate({"input": "Hi"})


def check(data: bytes) -> None:
    source = Source(data)
    finish_reason = source.choice(FINISH_REASONS)
    usage = Usage(prompt_tokens=source.byte(), completion_tokens=source.byte())
    done = Done(finish_reason=finish_reason, usage=usage)
    deltas = list(_deltas(source))
    reply = Reply.of(deltas, done)
    _check_chat(deltas, reply)
    _check_completions(deltas, reply)
    _check_responses(deltas, reply)
    _check_ollama(deltas, reply)


def _deltas(source: Source) -> Iterator[Delta]:
    """Yield what an engine might: calls have an index each, and no text comes in the midst."""
    num_calls, is_open = 0, False
    for _ in range(MAX_DELTAS):
        if not source:
            return
        kind = source.byte() % 5
        was_open, is_open = is_open, kind == 1 or (kind == 2 and is_open)
        match kind:
            case 0:
                yield Delta(reasoning=source.text())
            case 1:
                name, arguments = source.text(), source.text()
                yield Delta(
                    tool_calls=(
                        ToolCallDelta(index=num_calls, id=f"c{num_calls}", name="f" + _plain(name)),
                        ToolCallDelta(index=num_calls, arguments=arguments),
                    )
                )
                num_calls += 1
            case 2 if was_open:
                more = ToolCallDelta(index=num_calls - 1, arguments=source.text())
                yield Delta(tool_calls=(more,))
            case 3:
                data = source.part()
                token = data.decode(errors="replace")
                top = TopLogprob(token=token, bytes=tuple(data), logprob=-float(source.byte()))
                chosen = TokenLogprob(**top.model_dump(), top_logprobs=(top, top))
                yield Delta(text=token, logprobs=(chosen,))
            case _:
                yield Delta(text=source.text())


def _events(deltas: Sequence[Delta], reply: Reply) -> list[Event]:
    return [*deltas, reply.done]


def _plain(name: str) -> str:
    return "".join(char for char in name if char.isascii() and char.isalnum())[:32]


def _written(payload: Mapping[str, Any]) -> Any:
    """Return an object as a client reads it; JSON knows no NaN."""
    text = json.dumps(payload, ensure_ascii=False, allow_nan=False)
    assert "\n" not in text, "an event is one line"
    return json.loads(text.encode())


def _check_chat(deltas: Sequence[Delta], reply: Reply) -> None:
    whole = _written(chat_reply.make_completion("tiny", [reply]))["choices"][0]["message"]
    maker = chat_reply.ChunkMaker(lambda: "tiny", include_usage=True)
    chunks = [chunk for event in _events(deltas, reply) for chunk in maker.make(0, event)]
    pieces = [_written(chunk)["choices"][0]["delta"] for chunk in chunks]
    assert "".join(piece.get("content") or "" for piece in pieces) == (whole["content"] or "")
    reasoning = "".join(piece.get("reasoning_content") or "" for piece in pieces)
    assert reasoning == whole.get("reasoning_content", "")
    calls: dict[int, list[str]] = {}
    for piece in (call for each in pieces for call in each.get("tool_calls", ())):
        name, arguments = calls.setdefault(piece["index"], ["", ""])
        function = piece["function"]
        calls[piece["index"]] = [name + function.get("name", ""), arguments + function["arguments"]]
    told = [call["function"] for call in whole.get("tool_calls", ())]
    assert list(calls.values()) == [[each["name"], each["arguments"]] for each in told]
    logprobs = [_written(chunk)["choices"][0]["logprobs"] for chunk in chunks]
    assert sum(len(each["content"]) for each in logprobs if each) == len(reply.logprobs)
    list(map(_written, maker.end()))


def _check_completions(deltas: Sequence[Delta], reply: Reply) -> None:
    whole = _written(completions_reply.make_completion("tiny", [reply], 1))
    maker = completions_reply.CompletionMaker(lambda: "tiny", 1, include_usage=False)
    chunks = [chunk for event in _events(deltas, reply) for chunk in maker.make(0, event)]
    pieces = [_written(chunk)["choices"][0] for chunk in chunks]
    assert "".join(piece["text"] for piece in pieces) == whole["choices"][0]["text"]
    offsets = [at for piece in pieces for at in (piece["logprobs"] or {}).get("text_offset", ())]
    assert offsets == (whole["choices"][0]["logprobs"] or {}).get("text_offset", [])


def _check_responses(deltas: Sequence[Delta], reply: Reply) -> None:
    maker = ResponseMaker(BODY)
    events = list(maker.begin("tiny"))
    events += [each for event in _events(deltas, reply) for each in maker.make(event)]
    told = list(map(_written, events))
    assert [event["sequence_number"] for event in told] == list(range(len(told)))
    text = "".join(
        event["delta"] for event in told if event["type"] == "response.output_text.delta"
    )
    assert text == reply.text
    output = told[-1]["response"]["output"]
    parts = [
        part["text"]
        for item in output
        for part in item.get("content", ())
        if part["type"] == "output_text"
    ]
    assert "".join(parts) == reply.text
    calls = [(item["name"], item["arguments"]) for item in output if "call_id" in item]
    assert calls == [(call.function.name, call.function.arguments) for call in reply.tool_calls]


def _check_ollama(deltas: Sequence[Delta], reply: Reply) -> None:
    collector = CallCollector()
    said = [
        Said(delta.text, delta.reasoning, collector.add(delta), delta.logprobs) for delta in deltas
    ]
    said.append(Said(tool_calls=collector.finish()))
    lines = [_written(make_chat_reply("tiny", each, None)) for each in said]
    whole = _written(make_generate_reply("tiny", Said.all_of(said), make_end(reply.done)))
    assert "".join(line["message"]["content"] for line in lines) == whole["response"] == reply.text
    for call in whole.get("tool_calls", ()):
        assert isinstance(call["function"]["arguments"], dict), "Ollama's clients want an object"


def seeds() -> Iterable[bytes]:
    yield join((0, 5, 3, 4), "Hello ", "\x04there. ünï🦊", b"\x03!", b"\x09")
    yield join((2, 5, 3, 1), "f", '{"a": 1}', b"\x02, ", b"\x01g", "{}")
    yield join((1, 5, 3, 0), "Hm.", b"\x04Yes.\n\nNo.", b"\x01f", "[1]")
    yield join((3, 5, 3, 1), "f", "NaN", "\x04text\u2028", b"\x00again")
    yield join((4, 0, 0), "")


TARGET = Target(
    check,
    seeds,
    ('{"a": 1}', "[]", "null", "NaN", '{"a": "\\ud800"}', "1e999", "\u2028", "\n", "🦊"),
)
