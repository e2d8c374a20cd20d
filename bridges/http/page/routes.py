"""``GET /status``: how the node is; and ``POST /status/try``, for the page's box to try it."""

import asyncio
from collections.abc import Mapping
from typing import Any, Literal, NotRequired

from aiohttp import web
from pydantic import BaseModel, ConfigDict
from typing_extensions import TypedDict

from bridges.http.body import noted_if_refused, read_body
from bridges.http.bridge import BRIDGE
from bridges.http.endpoint import Endpoint
from bridges.http.event_stream import EventStream
from bridges.http.page.feed import PACE_S, Cursor
from bridges.http.page.page import Page
from bridges.http.page.status import Status, StatusUpdate
from edge_llm.protocol import (
    ChatRequest,
    Delta,
    Done,
    Event,
    FinishReason,
    MqttRequest,
    Started,
    Timing,
    Usage,
)

__all__ = ["ENDPOINTS", "PAGE", "routes"]

PAGE = web.AppKey("page", Page)
EVENTS = "text/event-stream"


class TryBody(BaseModel):
    """What to try."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, use_attribute_docstrings=True
    )

    prompt: str = ""
    """A user turn; may be empty if the preset has a prompt."""
    preset: str | None = None
    """A persona of the node; the default one if not given."""


class TryReply(TypedDict):
    """The answer."""

    text: str
    reasoning: str
    finish_reason: FinishReason
    usage: Usage
    timing: Timing


class TryChunk(TypedDict):
    """A piece of a streamed answer."""

    type: Literal["started", "delta", "done"]
    text: NotRequired[str]
    reasoning: NotRequired[str]
    finish_reason: NotRequired[FinishReason]
    usage: NotRequired[Usage]
    timing: NotRequired[Timing]


async def status(request: web.Request) -> web.StreamResponse:
    """Say how the node is and was; as ``text/event-stream``, all that changes, too."""
    feed = request.app[PAGE].feed
    if not _wants_events(request):
        return web.json_response(text=feed.update()[0], headers={"Cache-Control": "no-store"})
    async with feed.reading(), EventStream(request) as stream:
        text, cursor = feed.update(Cursor())
        await stream.send(text)
        while not feed.is_over:
            await asyncio.sleep(PACE_S)
            await feed.wait(cursor)
            text, cursor = feed.update(cursor)
            await stream.send(text)
    return stream.response


async def try_it(request: web.Request) -> web.StreamResponse:
    """Answer a prompt as a preset would; as ``text/event-stream``, piece by piece."""
    bridge = request.app[BRIDGE]
    with noted_if_refused(request):
        body = await read_body(request, TryBody)
        chat = _make_chat(request.app[PAGE], body)
    if not _wants_events(request):
        reply = await bridge.answer(chat)
        return web.json_response(
            {
                "text": reply.text,
                "reasoning": reply.reasoning,
                "finish_reason": reply.done.finish_reason,
                "usage": reply.done.usage.model_dump(),
                "timing": reply.done.timing.model_dump(),
            }
        )
    async with EventStream(request) as stream, bridge.generate(chat) as events:
        async for event in events:
            if chunk := _make_chunk(event):
                await stream.send(chunk)
    return stream.response


def _make_chat(page: Page, body: TryBody) -> ChatRequest:
    """Fill in what the preset says; how to deliver it is not for HTTP."""
    asked = MqttRequest(prompt=body.prompt if body.prompt.strip() else None)
    request = page.context.presets().find(body.preset).complete(asked)
    said = {name: getattr(request, name) for name in ChatRequest.model_fields}
    return ChatRequest.model_validate(said)


def _make_chunk(event: Event) -> Mapping[str, Any] | None:
    match event:
        case Started():
            return {"type": "started"}
        case Delta() if event.text or event.reasoning:
            return {"type": "delta", "text": event.text, "reasoning": event.reasoning}
        case Done():
            return event.model_dump(mode="json", exclude={"dropped_messages"})
    return None


def _wants_events(request: web.Request) -> bool:
    return EVENTS in request.headers.get("Accept", "")


ENDPOINTS = (
    Endpoint("GET", "/status", status, Status, chunk=StatusUpdate),
    Endpoint("POST", "/status/try", try_it, TryReply, TryBody, TryChunk),
)

routes = [endpoint.route for endpoint in ENDPOINTS]
