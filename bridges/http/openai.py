"""OpenAI's dialect: chat completions, and the list of models."""

from aiohttp import web
from structlog.contextvars import bound_contextvars

from bridges.http.body import noted_if_refused, read_body
from bridges.http.bridge import BRIDGE, Bridge
from bridges.http.event_stream import EventStream
from bridges.http.openai_body import OpenAIChatBody
from bridges.http.openai_reply import ChunkMaker, make_completion, make_id
from edge_llm.errors import UnknownModelError
from edge_llm.protocol import ChatRequest, ModelInfo

__all__ = ["routes"]

routes = web.RouteTableDef()


@routes.post("/v1/chat/completions")
async def chat_completions(request: web.Request) -> web.StreamResponse:
    """Answer a conversation; a client that goes away ends it."""
    bridge = request.app[BRIDGE]
    with noted_if_refused(request):
        body = await read_body(request, OpenAIChatBody)
        model = bridge.find_model(body.model)
        chat = body.to_chat_request(model.id if model else None)
    request_id = make_id()
    headers = {"X-Request-Id": request_id}
    with bound_contextvars(request_id=request_id):
        if body.stream:
            maker = ChunkMaker(request_id, include_usage=body.include_usage)
            async with EventStream(request, headers) as stream:
                await _stream(bridge, body, chat, maker, stream)
            return stream.response
        reply = await bridge.answer(chat)
    completion = make_completion(request_id, _name(bridge, body), reply)
    return web.json_response(completion, headers=headers)


async def _stream(
    bridge: Bridge, body: OpenAIChatBody, chat: ChatRequest, maker: ChunkMaker, stream: EventStream
) -> None:
    async with bridge.generate(chat) as events:
        async for event in events:
            maker.model = maker.model or _name(bridge, body)
            for chunk in maker.make(event):
                await stream.send(chunk)
    await stream.send("[DONE]")


def _name(bridge: Bridge, body: OpenAIChatBody) -> str:
    """Name the model that answers, which may have been loaded only after the request came."""
    model = bridge.find_model(body.model)
    return model.id if model else bridge.node


@routes.get("/v1/models")
async def list_models(request: web.Request) -> web.Response:
    """List the models of this node; none while the first one loads."""
    bridge = request.app[BRIDGE]
    models = [_model_object(bridge, model, model.id) for model in bridge.engine.models]
    return web.json_response({"object": "list", "data": models})


@routes.get("/v1/models/{name:.+}")
async def retrieve_model(request: web.Request) -> web.Response:
    """Show one model, also by a name that an alias lets through."""
    bridge = request.app[BRIDGE]
    name = request.match_info["name"]
    model = bridge.find_model(name)
    if model is None:
        raise UnknownModelError(f"there is no model {name!r} yet: it loads", param="model")
    return web.json_response(_model_object(bridge, model, name))


def _model_object(bridge: Bridge, model: ModelInfo, name: str) -> dict[str, object]:
    return {
        "id": name,
        "object": "model",
        "created": bridge.started_at,
        "owned_by": "edge-llm",
        "context_len": model.context_len,
        "quantization": model.quantization,
    }
