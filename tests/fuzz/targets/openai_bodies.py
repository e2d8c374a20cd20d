"""Bodies of OpenAI's three dialects: bytes in, what the engine takes out, or a refusal."""

import json
from collections.abc import Iterable

from bridges.http.body import parse_body
from bridges.http.errors import error_response
from bridges.http.openai.chat_body import ChatBody
from bridges.http.openai.choices import make_choices
from bridges.http.openai.completions_body import CompletionsBody
from bridges.http.openai.responses_body import ResponsesBody
from bridges.http.openai.responses_reply import begin_response
from edge_llm.errors import EdgeLLMError
from edge_llm.protocol import ChatRequest
from tests.fuzz.json_mutation import json_mutator, json_words
from tests.fuzz.source import Source
from tests.fuzz.target import Target
from tests.fuzz.targets.requests import check_frame
from tests.test_http_bodies import BODIES

Body = ChatBody | CompletionsBody | ResponsesBody

MODELS: tuple[type[Body], ...] = (ChatBody, CompletionsBody, ResponsesBody)


def check(data: bytes) -> None:
    source = Source(data)
    model = source.choice(MODELS)
    try:
        for chat in _read(model, source.rest()):
            check_frame(chat)
    except EdgeLLMError as exc:
        response = error_response(exc, "/v1/chat/completions")
        assert 400 <= response.status < 500
        json.loads(response.text or "")


def _read(model: type[Body], body: bytes) -> list[ChatRequest]:
    read = parse_body(body, model)
    match read:
        case ChatBody():
            return make_choices(read.to_chat_request("tiny"), read.n or 1)
        case CompletionsBody():
            return read.to_chat_requests("tiny")
        case ResponsesBody():
            json.dumps(begin_response(read, "tiny"))
            return [read.to_chat_request("tiny")]


def seeds() -> Iterable[bytes]:
    for model, body in BODIES:
        index = [each.__name__ for each in MODELS].index(model.__name__)
        yield bytes([index]) + json.dumps(body).encode()
        for name in body:
            less = {key: value for key, value in body.items() if key != name}
            yield bytes([index]) + json.dumps(less).encode()
    user = [{"role": "user", "content": [{"type": "text", "text": "Hi"}]}]
    more = {"stream": True, "seed": 1, "n": 2, "stop": ["a"], "logit_bias": {"5": 1.5}}
    yield b"\0" + json.dumps({"messages": user, **more, "max_tokens": 5, "user": "me"}).encode()
    yield b"\1" + json.dumps({"prompt": ["a", "b"], **more, "logprobs": 2, "echo": False}).encode()
    yield b"\2" + json.dumps({"input": "Hi", "max_output_tokens": 5, "truncation": "auto"}).encode()
    yield b"\0[" + b"[" * 300


WORDS = sorted({name for model in MODELS for name in model.model_fields})
TARGET = Target(
    check,
    seeds,
    json_words(*WORDS, "role", "content", "type", "function", "name", "arguments", "schema"),
    mutate=json_mutator(1),
)
