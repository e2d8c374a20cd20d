"""``/api/chat``: a conversation in, its next turn out."""

from aiohttp import web

from bridges.http.body import noted_if_refused, read_body
from bridges.http.bridge import BRIDGE
from bridges.http.ollama.answer import answer_at_once, answer_in_lines
from bridges.http.ollama.body import OllamaChatBody
from bridges.http.ollama.names import find_model, name_asked
from bridges.http.ollama.reply import End, Said, make_chat_reply

__all__ = ["chat"]


async def chat(request: web.Request) -> web.StreamResponse:
    """Answer a conversation; a client that goes away ends it. No messages only load the model."""
    bridge = request.app[BRIDGE]
    with noted_if_refused(request):
        body = await read_body(request, OllamaChatBody)
        model = find_model(bridge, body.model)
        name = name_asked(bridge, body.model)
        if not body.messages:
            end = End(done_reason=body.idle_reason)
            return web.json_response(make_chat_reply(name, Said(), end))
        asked = bridge.generate(body.to_chat_request(model))
    if body.is_streamed:
        return await answer_in_lines(request, asked, name, make_chat_reply)
    return await answer_at_once(asked, name, make_chat_reply)
