"""``GET /health``: whether the node can answer now, for load balancers and people."""

from aiohttp import web

from bridges.http.bridge import BRIDGE
from edge_llm import __version__

__all__ = ["routes"]

routes = web.RouteTableDef()


@routes.get("/health")
async def health(request: web.Request) -> web.Response:
    """Say what the engine is doing; 503 in every state but ``ready``."""
    bridge = request.app[BRIDGE]
    state = bridge.engine.state
    body = {
        "status": "ok" if state == "ready" else "unavailable",
        "node": bridge.node,
        "version": __version__,
        "state": state,
        "models": [model.model_dump() for model in bridge.engine.models],
    }
    return web.json_response(body, status=200 if state == "ready" else 503)
