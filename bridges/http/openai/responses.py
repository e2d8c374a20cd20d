"""Responses: a conversation as items in, the items of its next turn out; nothing is stored."""

from aiohttp import web

from bridges.http.body import noted_if_refused, read_body
from bridges.http.bridge import BRIDGE, Bridge, dropped_header
from bridges.http.openai.models import asked_model, name_model
from bridges.http.openai.responses_body import ResponsesBody
from bridges.http.openai.responses_stream import ResponseMaker, ResponseStream, make_response
from edge_llm.protocol import ChatRequest, Started

__all__ = ["responses"]


async def responses(request: web.Request) -> web.StreamResponse:
    """Answer a conversation; the next request must bring all of it again."""
    bridge = request.app[BRIDGE]
    with noted_if_refused(request):
        body = await read_body(request, ResponsesBody)
        asked = asked_model(request, body.model)
        model = bridge.find_model(asked)
        chat = body.to_chat_request(model.id if model else None)
    if body.stream:
        maker = ResponseMaker(body)
        async with ResponseStream(request, maker) as stream:
            await _stream(bridge, asked, chat, maker, stream)
        return stream.response
    reply = await bridge.answer(chat)
    response = make_response(body, name_model(bridge, asked), reply)
    return web.json_response(response, headers=dropped_header(reply.done))


async def _stream(
    bridge: Bridge,
    asked: str | None,
    chat: ChatRequest,
    maker: ResponseMaker,
    stream: ResponseStream,
) -> None:
    async with bridge.generate(chat) as events:
        async for event in events:
            if isinstance(event, Started):
                stream.response.headers.update(dropped_header(event))
            if maker.response is None:
                for made in maker.begin(name_model(bridge, asked)):
                    await stream.send(made)
            for made in maker.make(event):
                await stream.send(made)
