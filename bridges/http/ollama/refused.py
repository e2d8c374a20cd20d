"""What Ollama can do and this node can't: said clearly, with 501."""

import structlog
from aiohttp import web

__all__ = ["routes"]

log = structlog.get_logger()

FIXED = "a node's model is set where it is started (engine.worker.model), not over HTTP"
REASONS = {
    ("POST", "/api/embed"): "this node has no model for embeddings",
    ("POST", "/api/embeddings"): "this node has no model for embeddings",
    ("POST", "/api/pull"): FIXED,
    ("POST", "/api/push"): FIXED,
    ("POST", "/api/create"): FIXED,
    ("POST", "/api/copy"): FIXED,
    ("DELETE", "/api/delete"): FIXED,
    ("POST", "/api/blobs/{digest}"): FIXED,
    ("HEAD", "/api/blobs/{digest}"): FIXED,
    ("GET", "/api/generate_provider"): (
        "answers are not polled for here: /api/generate streams them, or gives them whole with "
        '"stream": false'
    ),
}


async def refuse(request: web.Request) -> web.Response:
    """Say why not."""
    resource = request.match_info.route.resource
    path = resource.canonical if resource else request.path
    log.warning("request.rejected", code="unsupported", method=request.method, path=request.path)
    return web.json_response({"error": REASONS[request.method, path]}, status=501)


routes = [web.route(method, path, refuse) for method, path in REASONS]
