"""Legacy completions: a prompt in, a text out."""

from functools import partial

from aiohttp import web

from bridges.http.body import noted_if_refused, read_body
from bridges.http.bridge import BRIDGE, dropped_header
from bridges.http.event_stream import EventStream
from bridges.http.openai.choices import answer_all, stream_all
from bridges.http.openai.completions_body import CompletionsBody
from bridges.http.openai.completions_reply import CompletionMaker, make_completion
from bridges.http.openai.models import asked_model, name_model

__all__ = ["completions"]


async def completions(request: web.Request) -> web.StreamResponse:
    """Answer each prompt, as one turn of a user: the model is one for chatting."""
    bridge = request.app[BRIDGE]
    with noted_if_refused(request):
        body = await read_body(request, CompletionsBody)
        asked = asked_model(request, body.model)
        model = bridge.find_model(asked)
        chats = body.to_chat_requests(model.id if model else None)
    name = partial(name_model, bridge, asked)
    if body.stream:
        async with EventStream(request) as stream:
            maker = CompletionMaker(name, body.num_choices, include_usage=body.include_usage)
            await stream_all(bridge, chats, maker, stream)
        return stream.response
    replies = await answer_all(bridge, chats)
    return web.json_response(
        make_completion(name(), replies, body.num_choices), headers=dropped_header(replies[0].done)
    )
