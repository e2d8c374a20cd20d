"""The models of the node, and which of them a request means."""

from typing import Literal

from aiohttp import web
from typing_extensions import TypedDict

from bridges.http.bridge import BRIDGE, Bridge
from edge_llm.errors import UnknownModelError
from edge_llm.protocol import ModelInfo

__all__ = ["ModelList", "ModelObject", "asked_model", "list_models", "name_model", "retrieve_model"]


class ModelObject(TypedDict):
    """A model, with more than OpenAI tells: how much it takes, and what it can do."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    context_length: int
    """Most tokens of prompt and answer together."""
    context_len: int
    """The same, by its name in edge-llm."""
    max_tokens: int | None
    """Most tokens of an answer to a request that does not say."""
    quantization: str | None
    capabilities: list[str]
    """``completion``, and perhaps ``tools`` and ``thinking``."""


class ModelList(TypedDict):
    """All models."""

    object: Literal["list"]
    data: list[ModelObject]


async def list_models(request: web.Request) -> web.Response:
    """List the models of this node; none while the first one loads."""
    bridge = request.app[BRIDGE]
    models: ModelList = {
        "object": "list",
        "data": [_model_object(bridge, model, model.id) for model in bridge.engine.models],
    }
    return web.json_response(models)


async def retrieve_model(request: web.Request) -> web.Response:
    """Show one model, also by a name that an alias lets through."""
    bridge = request.app[BRIDGE]
    name = request.match_info["name"]
    model = bridge.find_model(name)
    if model is None:
        raise UnknownModelError(f"there is no model {name!r} yet: it loads", param="model")
    return web.json_response(_model_object(bridge, model, name))


def asked_model(request: web.Request, in_body: str | None) -> str | None:
    """Return the name of the model that is asked for: Azure's clients have it in the path."""
    return request.match_info.get("deployment", in_body)


def name_model(bridge: Bridge, asked: str | None) -> str:
    """Name the model that answers, which may have been loaded only after the request came."""
    model = bridge.find_model(asked)
    return model.id if model else bridge.node


def _model_object(bridge: Bridge, model: ModelInfo, name: str) -> ModelObject:
    can = {
        "completion": True,
        "tools": model.has_tools is not False,
        "thinking": model.has_thinking is not False,
    }
    return {
        "id": name,
        "object": "model",
        "created": bridge.started_at,
        "owned_by": "edge-llm",
        "context_length": model.context_len,
        "context_len": model.context_len,
        "max_tokens": model.max_tokens,
        "quantization": model.quantization,
        "capabilities": [capability for capability, has_it in can.items() if has_it],
    }
