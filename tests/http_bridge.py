"""A bridge with an engine that says what a test wants, and clients that look closely."""

import asyncio
import json
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import aiohttp
import openai
from pydantic import BaseModel

from bridges.http import HttpServer, open_http
from edge_llm.engine import EngineState
from edge_llm.plugin import BridgeContext
from edge_llm.protocol import (
    ChatRequest,
    Delta,
    Done,
    Event,
    FinishReason,
    Message,
    ModelInfo,
    Started,
    ToolCallDelta,
    Usage,
)
from edge_llm.settings import HttpSettings

__all__ = [
    "ENDLESS",
    "USAGE",
    "HttpBridge",
    "PlayedEngine",
    "Step",
    "call_piece",
    "checked",
    "open_bridge",
    "talk",
    "user",
]

USAGE = Usage(prompt_tokens=7, cached_tokens=4, completion_tokens=3, reasoning_tokens=1)
Step = Event | Exception | float
ENDLESS: list[Step] = [0.01, Delta(text="b")] * 100_000

Model = TypeVar("Model", bound=BaseModel)


def user(text: str = "Hello") -> dict[str, Any]:
    return {"role": "user", "content": text}


def talk(*texts: str, finish_reason: FinishReason = "stop") -> list[Step]:
    deltas = [Delta(text=text) for text in texts]
    return [Started(), *deltas, Done(finish_reason=finish_reason, usage=USAGE)]


def call_piece(index: int, arguments: str, name: str | None = None) -> Delta:
    """Return the next piece of a call: the first one has a name."""
    call_id = None if name is None else f"call_{index}"
    piece = ToolCallDelta(index=index, id=call_id, name=name, arguments=arguments)
    return Delta(tool_calls=(piece,))


class PlayedEngine:
    """Plays one of its scripts for each request: the last one again and again."""

    def __init__(self, *scripts: list[Step]) -> None:
        self.scripts = list(scripts)
        self.state: EngineState = "ready"
        self.activity = "idle"
        self.models: tuple[ModelInfo, ...] = (
            ModelInfo(id="tiny", context_len=512, vocab_size=1000, quantization="int8"),
        )
        self.asked: list[ChatRequest] = []
        self.num_running = 0
        self.most_running = 0
        self.started = asyncio.Event()
        self.closed_at: float | None = None
        self.closed = asyncio.Event()

    def prepare(self, conversations: Sequence[Sequence[Message]]) -> None:
        """Nothing is prepared."""

    async def generate(self, request: ChatRequest) -> AsyncGenerator[Event]:
        script = self.scripts[min(len(self.asked), len(self.scripts) - 1)]
        self.asked.append(request)
        self.num_running += 1
        self.most_running = max(self.most_running, self.num_running)
        self.started.set()
        try:
            for step in script:
                await asyncio.sleep(step if isinstance(step, float) else 0)
                if isinstance(step, Exception):
                    raise step
                if not isinstance(step, float):
                    yield step
        finally:
            self.num_running -= 1
            self.closed_at = time.perf_counter()
            self.closed.set()

    async def ready(self) -> tuple[ModelInfo, ...]:
        return self.models


class HttpBridge:
    """A running bridge, its engine, and clients of it."""

    def __init__(
        self,
        engine: PlayedEngine,
        server: HttpServer,
        http: aiohttp.ClientSession,
        client: openai.AsyncOpenAI,
    ) -> None:
        self.engine, self.server, self.http, self.openai = engine, server, http, client

    def play(self, *steps: Step) -> None:
        """Let the engine do this from now on."""
        self.engine.scripts = [list(steps)]

    async def post(self, path: str, body: object) -> Any:
        """Return the reply to a request that must succeed."""
        async with self.http.post(path, json=body) as response:
            assert response.status == 200, await response.text()
            return await response.json()

    async def refusal(self, path: str, body: object) -> tuple[int, str, str | None]:
        """Return status, code and parameter of a refusal."""
        async with self.http.post(path, json=body) as response:
            error = (await response.json())["error"]
            assert set(error) == {"type", "message", "param", "code"}
            return response.status, error["code"], error["param"]

    async def frames(self, path: str, body: dict[str, Any]) -> list[str]:
        """Return the data of each event of a stream, and the comments between them."""
        async with self.http.post(path, json=body | {"stream": True}) as response:
            assert response.status == 200, await response.text()
            lines = (await response.text()).split("\n\n")
        assert lines.pop() == ""
        return [line.removeprefix("data: ") for line in lines]

    async def chunks(self, path: str, body: dict[str, Any]) -> list[Any]:
        """Return the objects of a stream that ends as it should."""
        *chunks, end = await self.frames(path, body)
        assert end == "[DONE]"
        return [json.loads(chunk) for chunk in chunks]


@asynccontextmanager
async def open_bridge(engine: PlayedEngine, **settings: Any) -> AsyncGenerator[HttpBridge]:
    """Serve an engine on a free port."""
    options = HttpSettings(port=0, **settings)
    async with (
        open_http(options, BridgeContext("pi5", engine)) as server,
        aiohttp.ClientSession(server.url) as http,
        openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client,
    ):
        yield HttpBridge(engine, server, http, client)


def checked(model: type[Model], body: Any) -> Model:
    """Validate a reply with OpenAI's own type: no field is wrong, unknown or left out by chance.

    Its types let most fields be absent; here one may be absent only where the schema of the API
    calls it optional.
    """
    found = model.model_validate(body, strict=True, extra="forbid")
    _check_required(found, body, model.__name__)
    return found


REQUIRED_BUT_NULLABLE = {
    "ChatCompletionMessage": {"content", "refusal"},
    "Choice": {"logprobs", "finish_reason"},
    "ChoiceLogprobs": {"content", "refusal"},
    "ChatCompletionTokenLogprob": {"bytes", "top_logprobs"},
    "TopLogprob": {"bytes"},
    "CompletionChoice": {"logprobs", "finish_reason"},
    "Response": {"error", "incomplete_details", "instructions", "metadata", "temperature", "top_p"},
    "CompletionUsage": {"completion_tokens_details", "prompt_tokens_details"},
}
"""What the API's schema says must be there; the types of the package have defaults for it."""


def _check_required(found: Any, body: Any, where: str) -> None:
    if isinstance(found, list):
        for index, (part, raw) in enumerate(zip(found, body, strict=True)):
            _check_required(part, raw, f"{where}.{index}")
    if isinstance(found, BaseModel):
        cls = type(found)
        missing = REQUIRED_BUT_NULLABLE.get(cls.__name__, set()) - body.keys()
        assert not missing, f"{where} lacks {missing}"
        for name in cls.model_fields:
            if name in body:
                _check_required(getattr(found, name), body[name], f"{where}.{name}")
