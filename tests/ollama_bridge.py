"""A bridge whose engine says what a test wants, as Ollama's clients see it."""

import json
from typing import Any

from edge_llm.protocol import ModelInfo
from tests.http_bridge import HttpBridge, PlayedEngine, talk, user

__all__ = ["ASK", "TINY", "lines", "make_engine", "refusal"]

TINY = ModelInfo(
    id="tiny",
    context_len=512,
    vocab_size=1000,
    quantization="int8",
    runtime="onnx",
    max_tokens=256,
    has_tools=True,
    has_thinking=True,
)
ASK: dict[str, Any] = {"model": "tiny", "messages": [user()]}


def make_engine() -> PlayedEngine:
    """Return an engine that says good evening, and whose model can all that there is."""
    engine = PlayedEngine(talk("Good ", "", "evening."))
    engine.models = (TINY,)
    return engine


async def lines(bridge: HttpBridge, path: str, body: dict[str, Any]) -> list[Any]:
    """Return the objects of a stream."""
    async with bridge.http.post(path, json=body) as response:
        assert response.status == 200, await response.text()
        assert response.headers["Content-Type"] == "application/x-ndjson"
        text = await response.text()
    assert text.endswith("\n")
    return [json.loads(line) for line in text.splitlines()]


async def refusal(bridge: HttpBridge, path: str, body: object) -> tuple[int, str]:
    """Return status and sentence of a refusal in Ollama's shape."""
    async with bridge.http.post(path, json=body) as response:
        error = await response.json()
    assert set(error) == {"error"}
    return response.status, error["error"]
