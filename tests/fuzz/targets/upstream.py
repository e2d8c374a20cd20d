"""Streams of other servers: events from pieces of bytes, chunks from events, errors."""

import json
from collections.abc import Iterable
from contextlib import suppress

from edge_llm.engine.upstream.answer import UpstreamAnswer
from edge_llm.engine.upstream.chunks import ChunkReader
from edge_llm.engine.upstream.errors import AgainError, error_of_status
from edge_llm.engine.upstream.parse import parse_json
from edge_llm.engine.upstream.server import _model_info, _models_in
from edge_llm.engine.upstream.sse import EventParser
from edge_llm.errors import EdgeLLMError
from edge_llm.protocol import ChatRequest, Delta, ErrorBody, join_tool_calls
from tests.fuzz.json_mutation import json_words
from tests.fuzz.source import Source, join
from tests.fuzz.target import Target
from tests.misbehaving import chunk

NUM_HEAD = 6
STATUSES = (200, 400, 401, 404, 413, 422, 429, 500, 503, 302)
REQUESTS = (
    ChatRequest(prompt="Hi"),
    ChatRequest(prompt="Hi", stop=("END", "\n\n"), max_bytes=64),
    ChatRequest(prompt="Hi", choices=("yes", "no")),
)


def check(data: bytes) -> None:
    source = Source(data)
    status, request = source.choice(STATUSES), source.choice(REQUESTS)
    size, retry_after = source.byte() + 1, source.text()
    stream = source.rest()
    if status != 200:
        _check_status(status, stream, retry_after)
        _check_models(stream)
        return
    pieces = [stream[start : start + size] for start in range(0, len(stream), size)]
    events = _events(pieces)
    assert events == _events([stream]), "the borders of the pieces must not matter"
    with suppress(EdgeLLMError):
        _check_answer(request, events)


def _events(pieces: list[bytes]) -> list[str]:
    parser = EventParser()
    return [event for piece in pieces for event in parser.feed(piece)] + list(parser.finish())


def _check_answer(request: ChatRequest, events: list[str]) -> None:
    reader, answer = ChunkReader(), UpstreamAnswer(request, None)
    said: list[Delta] = []
    for event in events:
        delta = answer.add(reader.read(event))
        assert Delta.model_validate_json(delta.model_dump_json()) == delta
        said.append(delta)
        if reader.is_over or answer.ended_by():
            break
    text = "".join(delta.text for delta in said) + answer.finish(reader.finish_reason or "stop")
    assert not any(stop in text for stop in request.stop or ())
    join_tool_calls(piece for delta in said for piece in delta.tool_calls)
    reader.usage.model_dump_json()


def _check_status(status: int, body: bytes, retry_after: str) -> None:
    text = body.decode(errors="replace")
    parsed: object = text
    with suppress(ValueError):
        parsed = parse_json(text)
    found = error_of_status(status, parsed, "http://a/v1", {"Retry-After": retry_after})
    error = found.error if isinstance(found, AgainError) else found
    assert len(error.message) < 1000
    ErrorBody.from_error(error).model_dump_json()
    assert error.retry_after_s is None or error.retry_after_s >= 0


def _check_models(body: bytes) -> None:
    for told in _models_in(body.decode(errors="replace")):
        _model_info(told, 256).model_dump_json()


def seeds() -> Iterable[bytes]:
    call = {"index": 0, "id": "c", "function": {"name": "f", "arguments": '{"a": 1}'}}
    token = {"token": "ö", "logprob": -0.5, "bytes": [195, 182], "top_logprobs": []}
    likely = chunk("ö")
    likely["choices"][0]["logprobs"] = {"content": [token]}
    bodies = [
        [chunk(role="assistant", content=None), chunk("Hel"), chunk("lo"), chunk(reason="stop")],
        [chunk(tool_calls=[call]), chunk(tool_calls=[{"function": {"arguments": {"a": "b"}}}])],
        [chunk(reasoning="Hm"), chunk("Yes EN"), chunk("D no")],
        [likely, {"choices": [], "usage": {"prompt_tokens": 5, "completion_tokens": 3}}],
        [{"choices": [{"message": {"content": '"yes"'}, "finish_reason": "length"}]}],
        [{"error": {"message": "context length", "code": 400}}],
    ]
    for index, each in enumerate(bodies):
        stream = "".join(f"data: {json.dumps(body)}\n\n" for body in each) + "data: [DONE]\n\n"
        yield join((0, index % 3, index), "", stream)
        yield join((0, 2, 255), "", ": ping\r\n\r\n" + stream.replace("\n", "\r\n"))
    yield join((0, 0, 255), "", 'data: {"choices": ' + "[" * 2000)
    error = json.dumps({"error": {"message": "no such model", "type": "not_found", "code": None}})
    for index in range(1, len(STATUSES)):
        yield join((index, 0, 0), "2.5", error)
    models = [{"id": "a", "meta": {"n_ctx": 4096, "n_vocab": 9}, "capabilities": ["tools"]}]
    yield join((1, 0, 0), "", json.dumps({"data": models}))
    yield join((1, 0, 0), "", json.dumps([{"id": "a", "context_length": True}]))
    yield join((6, 0, 0), "Fri, 27 Nov 2026 07:00:00 GMT", "<html>")


WORDS = ("choices", "delta", "content", "reasoning", "tool_calls", "logprobs", "usage", "error")
TARGET = Target(
    check,
    seeds,
    (*json_words(*WORDS, "function", "arguments", "index"), "data: ", "\n\n", "\r\n", "[DONE]"),
)
