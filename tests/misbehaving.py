"""A server of chat completions that does what the test says, and mostly the wrong thing."""

import asyncio
import json
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

from tests.programs import free_port

Behaviour = Callable[[web.Request], Awaitable[web.StreamResponse]]
Frame = bytes | dict[str, Any] | asyncio.Event | float | None


@dataclass
class Server:
    """What it was asked, and what it answers: each request takes the next behaviour."""

    url: str
    behaviours: list[Behaviour] = field(default_factory=list)
    models: Any = field(default_factory=lambda: {"data": [{"id": "m1"}]})
    models_status: int = 200
    bodies: list[dict[str, Any]] = field(default_factory=list)
    headers: dict[str, str] = field(default_factory=dict)
    num_left: int = 0
    """Requests whose client went away."""

    async def list_models(self, request: web.Request) -> web.Response:
        self.headers = dict(request.headers)
        return web.json_response(self.models, status=self.models_status)

    async def complete(self, request: web.Request) -> web.StreamResponse:
        self.bodies.append(await request.json())
        behaviour = self.behaviours.pop(0) if len(self.behaviours) > 1 else self.behaviours[0]
        try:
            return await behaviour(request)
        except asyncio.CancelledError:
            self.num_left += 1
            raise


@asynccontextmanager
async def serve(*behaviours: Behaviour, port: int | None = None) -> AsyncGenerator[Server]:
    """Serve until the context is left."""
    port = port or free_port()
    server = Server(f"http://127.0.0.1:{port}/v1", list(behaviours))
    app = web.Application()
    app.router.add_get("/v1/models", server.list_models)
    app.router.add_post("/v1/chat/completions", server.complete)
    runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    try:
        yield server
    finally:
        await runner.cleanup()


def chunk(text: str | None = None, reason: str | None = None, **delta: Any) -> dict[str, Any]:
    """Make a chunk as OpenAI does."""
    said = delta if text is None else {"content": text, **delta}
    return {"choices": [{"index": 0, "delta": said, "finish_reason": reason}]}


def frame(body: dict[str, Any] | str) -> bytes:
    data = body if isinstance(body, str) else json.dumps(body, ensure_ascii=False)
    return f"data: {data}\n\n".encode()


DONE = frame("[DONE]")


def answers(*texts: str, reason: str = "stop", usage: dict[str, Any] | None = None) -> Behaviour:
    """Stream an answer as it should be."""
    counts = [{"choices": [], "usage": usage}] if usage else []
    return streams(*(chunk(text) for text in texts), chunk(reason=reason), *counts, DONE)


def streams(*frames: Frame) -> Behaviour:
    """Send what is given: bytes as they are, objects as events; wait; and break off at None."""

    async def stream(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        for each in frames:
            match each:
                case asyncio.Event():
                    await each.wait()
                case float():
                    await asyncio.sleep(each)
                case None:
                    assert request.transport
                    request.transport.abort()
                    return response
                case _:
                    await response.write(each if isinstance(each, bytes) else frame(each))
                    await asyncio.sleep(0.001)  # a packet of its own
        return response

    return stream


def refuses(status: int, body: Any = None, **headers: str) -> Behaviour:
    """Answer with a status."""

    async def refuse(request: web.Request) -> web.StreamResponse:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        if isinstance(body, str):
            return web.Response(text=body, status=status, headers=named)
        said = {"error": {"message": "no", "type": "x", "code": None}} if body is None else body
        return web.json_response(said, status=status, headers=named)

    return refuse


async def hangs(request: web.Request) -> web.StreamResponse:
    await asyncio.sleep(3600)
    raise AssertionError


async def vanishes(request: web.Request) -> web.StreamResponse:
    """Close the connection without a word."""
    assert request.transport
    request.transport.abort()
    return web.Response()


def says(body: Any) -> Behaviour:
    """Answer whole, whatever was asked for."""

    async def say(request: web.Request) -> web.StreamResponse:
        return web.json_response(body)

    return say
