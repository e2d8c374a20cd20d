"""``GET /health``: whether the process lives; ``/health/ready``: whether it can answer now."""

from typing import Any, Literal, NotRequired

from aiohttp import web
from typing_extensions import TypedDict

from bridges.http.bridge import BRIDGE
from bridges.http.endpoint import Endpoint
from edge_llm import __version__

__all__ = ["ENDPOINTS", "routes"]

BUSY = {
    "paused": "it was told to pause",
    "draining": "it was told to take nothing new",
    "cooling": "the card has become too hot, and cools down",
    "reloading": "the model is about to be loaded again",
}
REASONS = {
    "loading": "the model is being loaded",
    "recovering": "the engine or its device failed, and is being brought back",
    "failed": "the device failed for good, and a person is needed",
    "stopping": "the node is being stopped",
    "offline": "what generates is elsewhere, and can't be reached",
}


class HealthReply(TypedDict):
    """How the node is."""

    status: Literal["ok", "unavailable"]
    reason: NotRequired[str]
    """Why it is not available."""
    node: str
    version: str
    state: str
    activity: str
    models: list[dict[str, Any]]


async def live(request: web.Request) -> web.Response:
    """Say that the process answers, and what its engine is doing; always 200."""
    return web.json_response({"status": "ok", **_described(request)})


async def ready(request: web.Request) -> web.Response:
    """Say whether a request would be answered now; 503 with the reason if not."""
    body = _described(request)
    if request.app[BRIDGE].is_stopping:
        body["state"] = "stopping"
    reason = REASONS.get(str(body["state"])) or BUSY.get(str(body["activity"]))
    if reason is None:
        return web.json_response({"status": "ok", **body})
    body = {"status": "unavailable", "reason": reason, **body}
    return web.json_response(body, status=503, headers={"Retry-After": "5"})


ENDPOINTS = (
    Endpoint("GET", "/health", live, HealthReply),
    Endpoint("GET", "/health/ready", ready, HealthReply, error=HealthReply),
)

routes = [endpoint.route for endpoint in ENDPOINTS]


def _described(request: web.Request) -> dict[str, object]:
    bridge = request.app[BRIDGE]
    return {
        "node": bridge.node,
        "version": __version__,
        "state": bridge.engine.state,
        "activity": bridge.engine.activity,
        "models": [model.model_dump() for model in bridge.engine.models],
    }
