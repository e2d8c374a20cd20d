"""Bodies of Ollama's API and AXERA's: bytes in, what the engine takes out, or a refusal."""

import json
from collections.abc import Iterable
from typing import Any

from pydantic import BaseModel

from bridges.http.axera import ResetBody
from bridges.http.body import parse_body
from bridges.http.conversation import Conversations
from bridges.http.errors import error_response
from bridges.http.ollama.body import OllamaChatBody, OllamaGenerateBody
from bridges.http.ollama.models import ShowBody
from edge_llm.errors import EdgeLLMError
from edge_llm.protocol import ModelInfo
from tests.fuzz.json_mutation import json_mutator, json_words
from tests.fuzz.source import Source
from tests.fuzz.target import Target
from tests.fuzz.targets.requests import check_frame

MODELS: tuple[type[BaseModel], ...] = (OllamaChatBody, OllamaGenerateBody, ResetBody, ShowBody)
INFO = ModelInfo(id="tiny", context_len=1024, vocab_size=2048, has_thinking=True, has_tools=True)


def check(data: bytes) -> None:
    source = Source(data)
    model, info = source.choice(MODELS), source.choice((INFO, None))
    try:
        body = parse_body(source.rest(), model)
        if isinstance(body, OllamaChatBody | OllamaGenerateBody):
            assert body.idle_reason in ("load", "unload")
            check_frame(body.to_chat_request(info))
        elif isinstance(body, ResetBody):
            Conversations().reset("192.168.1.2", body.system_prompt)
    except EdgeLLMError as exc:
        response = error_response(exc, "/api/chat")
        assert 400 <= response.status < 500
        json.loads(response.text or "")


def seeds() -> Iterable[bytes]:
    function = {"name": "f", "arguments": {"a": 1}}
    tool = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "", "tool_calls": [{"function": function}]},
        {"role": "tool", "content": "1", "tool_name": "f"},
    ]
    options = {"num_predict": 5, "seed": -1, "top_k": 40.0, "temperature": 0.5, "stop": ["a"]}
    common: dict[str, Any] = {
        "model": "tiny",
        "options": options,
        "keep_alive": "5m",
        "format": "json",
    }
    common |= {"stream": False, "think": "low", "logprobs": True, "top_logprobs": 2}
    chat = {**common, "messages": messages, "tools": [tool], "truncate": True}
    generate = {**common, "prompt": "Hi", "system": "Be brief.", "format": {"type": "object"}}
    bodies: list[dict[str, Any]] = [chat, generate, {"system_prompt": "Hi"}, {"model": "tiny"}]
    for index, body in enumerate(bodies):
        for which in range(2):
            yield bytes([index, which]) + json.dumps(body).encode()
        for name in body:
            yield bytes([index, 0]) + json.dumps({name: body[name]}).encode()
    yield b"\1\0" + b'{"prompt": "Hi", "keep_alive": -1, "context": [], "raw": false}'


WORDS = sorted({name for model in MODELS for name in model.model_fields})
TARGET = Target(
    check,
    seeds,
    json_words(*WORDS, "role", "content", "tool_calls", "num_predict", "seed", "arguments"),
    mutate=json_mutator(2),
)
