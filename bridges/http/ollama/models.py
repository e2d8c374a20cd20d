"""The models of this node as Ollama lists and shows them.

What Ollama knows of its files and this node does not of its own is empty or 0: sizes, families.
"""

import hashlib
from datetime import UTC, datetime
from typing import Any

from aiohttp import web
from pydantic import BaseModel, ConfigDict
from typing_extensions import TypedDict

from bridges.http.body import noted_if_refused, read_body
from bridges.http.bridge import BRIDGE, Bridge
from bridges.http.ollama.names import find_model, full_name
from edge_llm import __version__
from edge_llm.errors import InvalidRequestError, UnavailableError
from edge_llm.protocol import ModelInfo

__all__ = [
    "ListedModels",
    "ModelShown",
    "RunningModels",
    "ShowBody",
    "VersionReply",
    "greet",
    "list_models",
    "list_running",
    "show_model",
    "show_version",
]

API_VERSION = "0.12.11"
"""Of Ollama: the version whose requests and replies these are; clients look for what it can do."""

ARCHITECTURE = "edge-llm"
NEVER_S = 100 * 365 * 86_400
"""Until a model is unloaded: a hundred years, as there is no word for never."""


class ModelDetails(TypedDict):
    """What a model is made of."""

    parent_model: str
    format: str
    family: str
    families: list[str]
    parameter_size: str
    quantization_level: str


class ListedModel(TypedDict):
    """A model that can be asked."""

    name: str
    model: str
    modified_at: str
    size: int
    digest: str
    details: ModelDetails


class ListedModels(TypedDict):
    """The models that can be asked."""

    models: list[ListedModel]


class RunningModel(TypedDict):
    """A model that is loaded."""

    name: str
    model: str
    size: int
    digest: str
    details: ModelDetails
    expires_at: str
    size_vram: int
    context_length: int


class RunningModels(TypedDict):
    """The models that are loaded."""

    models: list[RunningModel]


class ModelShown(TypedDict):
    """All that is known of a model."""

    modelfile: str
    parameters: str
    template: str
    details: ModelDetails
    model_info: dict[str, Any]
    capabilities: list[str]
    modified_at: str


class VersionReply(TypedDict):
    """Which versions these are."""

    version: str
    edge_llm: str


class ShowBody(BaseModel):
    """The body of ``POST /api/show``."""

    model_config = ConfigDict(
        extra="ignore", frozen=True, strict=True, use_attribute_docstrings=True
    )

    model: str | None = None
    """With or without ``:latest``."""
    name: str | None = None
    """What ``model`` was called earlier."""


async def greet(request: web.Request) -> web.Response:
    """Answer those who look whether anybody is there; some compare the first words."""
    return web.Response(
        text="Ollama is running: its API, that is, served by edge-llm",
        headers={"Vary": "Accept"},  # whoever asks for HTML gets the status page
    )


async def list_models(request: web.Request) -> web.Response:
    """List the models of this node; none while the first one loads."""
    bridge = request.app[BRIDGE]
    models: list[ListedModel] = [
        {
            "name": full_name(model),
            "model": full_name(model),
            "modified_at": _at(bridge.started_at),
            "size": 0,
            "digest": _digest(model),
            "details": _details(model),
        }
        for model in bridge.engine.models
    ]
    return web.json_response(ListedModels(models=models))


async def list_running(request: web.Request) -> web.Response:
    """List the models that are loaded: they all are, and stay it."""
    bridge = request.app[BRIDGE]
    models: list[RunningModel] = [
        {
            "name": full_name(model),
            "model": full_name(model),
            "size": 0,
            "digest": _digest(model),
            "details": _details(model),
            "expires_at": _at(bridge.started_at + NEVER_S),
            "size_vram": 0,
            "context_length": model.context_len,
        }
        for model in bridge.engine.models
    ]
    return web.json_response(RunningModels(models=models))


async def show_model(request: web.Request) -> web.Response:
    """Show one model: how long its context is, and whether it can reason and call tools."""
    bridge = request.app[BRIDGE]
    with noted_if_refused(request):
        body = await read_body(request, ShowBody)
        name = body.model or body.name
        if not name:
            raise InvalidRequestError("model is required", param="model")
        model = find_model(bridge, name)
        if model is None:
            raise UnavailableError(f"there is no model {name!r} yet: it loads", param="model")
    return web.json_response(_shown(bridge, model))


async def show_version(request: web.Request) -> web.Response:
    """Say which version of Ollama's API this is, and which edge-llm."""
    return web.json_response(VersionReply(version=API_VERSION, edge_llm=__version__))


def _shown(bridge: Bridge, model: ModelInfo) -> ModelShown:
    info = {
        "general.architecture": ARCHITECTURE,
        "general.basename": model.id,
        f"{ARCHITECTURE}.context_length": model.context_len,
        f"{ARCHITECTURE}.vocab_size": model.vocab_size,
        f"{ARCHITECTURE}.runtime": model.runtime,
    }
    can = {
        "completion": True,
        "tools": model.has_tools is not False,
        "thinking": model.has_thinking is not False,
    }
    parameters = {"num_ctx": model.context_len, "num_predict": model.max_tokens}
    return {
        "modelfile": f"# {full_name(model)} is a model of edge-llm, which has no Modelfiles\n",
        "parameters": "\n".join(
            f"{name:<30} {value}" for name, value in parameters.items() if value is not None
        ),
        "template": "",  # it is with the model's tokenizer, in another language
        "details": _details(model),
        "model_info": {name: value for name, value in info.items() if value is not None},
        "capabilities": [name for name, has in can.items() if has],
        "modified_at": _at(bridge.started_at),
    }


def _details(model: ModelInfo) -> ModelDetails:
    return {
        "parent_model": "",
        "format": model.runtime or "",
        "family": ARCHITECTURE,
        "families": [ARCHITECTURE],
        "parameter_size": "",
        "quantization_level": model.quantization or "",
    }


def _digest(model: ModelInfo) -> str:
    """Tell models apart; files are not read for it."""
    return hashlib.sha256(model.model_dump_json().encode()).hexdigest()


def _at(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat().replace("+00:00", "Z")
