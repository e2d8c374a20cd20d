"""The table of Ollama's paths."""

from aiohttp import web

from bridges.http.endpoint import Endpoint
from bridges.http.ollama import refused
from bridges.http.ollama.body import OllamaChatBody, OllamaGenerateBody
from bridges.http.ollama.chat import chat
from bridges.http.ollama.generate import generate
from bridges.http.ollama.models import (
    ListedModels,
    ModelShown,
    RunningModels,
    ShowBody,
    VersionReply,
    greet,
    list_models,
    list_running,
    show_model,
    show_version,
)
from bridges.http.ollama.reply import ChatReply, GenerateReply

__all__ = ["ENDPOINTS", "routes"]

ENDPOINTS = (
    Endpoint("POST", "/api/chat", chat, ChatReply, OllamaChatBody, ChatReply),
    Endpoint("POST", "/api/generate", generate, GenerateReply, OllamaGenerateBody, GenerateReply),
    Endpoint("GET", "/api/tags", list_models, ListedModels),
    Endpoint("GET", "/api/ps", list_running, RunningModels),
    Endpoint("POST", "/api/show", show_model, ModelShown, ShowBody),
    Endpoint("GET", "/api/version", show_version, VersionReply),
)

routes = [
    *(endpoint.route for endpoint in ENDPOINTS),
    web.get("/", greet),
    web.head("/api/tags", list_models),
    web.head("/api/version", show_version),
    *refused.routes,
]
