"""``/api/generate``: a prompt in, its answer out; or the next turn of a kept conversation."""

from aiohttp import web

from bridges.http.body import noted_if_refused, read_body
from bridges.http.bridge import BRIDGE
from bridges.http.conversation import KEPT
from bridges.http.ollama.answer import answer_at_once, answer_in_lines
from bridges.http.ollama.body import OllamaGenerateBody
from bridges.http.ollama.names import find_model, name_asked
from bridges.http.ollama.reply import End, Said, make_generate_reply

__all__ = ["generate"]


async def generate(request: web.Request) -> web.StreamResponse:
    """Answer a prompt; a client that goes away ends it. No prompt only loads the model."""
    bridge = request.app[BRIDGE]
    with noted_if_refused(request):
        body = await read_body(request, OllamaGenerateBody)
        model = find_model(bridge, body.model)
        name = name_asked(bridge, body.model)
        if not body.prompt:
            end = End(done_reason=body.idle_reason)
            return web.json_response(make_generate_reply(name, Said(), end))
        chat = body.to_chat_request(model)
    kept = request.app[KEPT].find(request.remote) if body.is_bare else None
    asked = kept.generate(bridge, chat) if kept else bridge.generate(chat)
    if body.is_streamed:
        return await answer_in_lines(request, asked, name, make_generate_reply)
    return await answer_at_once(asked, name, make_generate_reply)
