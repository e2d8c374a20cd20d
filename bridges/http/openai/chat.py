"""Chat completions: a conversation in, its next turn out."""

from functools import partial

from aiohttp import web

from bridges.http.body import noted_if_refused, read_body
from bridges.http.bridge import BRIDGE, dropped_header
from bridges.http.event_stream import EventStream
from bridges.http.openai.chat_body import ChatBody
from bridges.http.openai.chat_reply import ChunkMaker, make_completion
from bridges.http.openai.choices import answer_all, make_choices, stream_all
from bridges.http.openai.models import asked_model, name_model

__all__ = ["chat_completions"]


async def chat_completions(request: web.Request) -> web.StreamResponse:
    """Answer a conversation; a client that goes away ends it."""
    bridge = request.app[BRIDGE]
    with noted_if_refused(request):
        body = await read_body(request, ChatBody)
        asked = asked_model(request, body.model)
        model = bridge.find_model(asked)
        chats = make_choices(body.to_chat_request(model.id if model else None), body.n or 1)
    name = partial(name_model, bridge, asked)
    if body.stream:
        async with EventStream(request) as stream:
            maker = ChunkMaker(name, include_usage=body.include_usage)
            await stream_all(bridge, chats, maker, stream)
        return stream.response
    replies = await answer_all(bridge, chats)
    return web.json_response(
        make_completion(name(), replies), headers=dropped_header(replies[0].done)
    )
