"""As many requests at a time as the settings say: each holds memory, also one that only waits."""

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from bridges.http.auth import OPEN_PATHS
from edge_llm.errors import UnavailableError

__all__ = ["make_limit_middleware"]

RETRY_AFTER_S = 5.0


def make_limit_middleware(max_concurrent: int) -> Middleware:
    """Make what refuses one request too many; health checks don't count."""
    num_inside = 0

    @web.middleware
    async def limit(request: web.Request, handler: Handler) -> web.StreamResponse:
        nonlocal num_inside
        if request.path in OPEN_PATHS:
            return await handler(request)
        if num_inside >= max_concurrent:
            raise UnavailableError(
                f"{max_concurrent} requests are in hand, as many as may (http.max_concurrent)",
                retry_after_s=RETRY_AFTER_S,
            )
        num_inside += 1
        try:
            return await handler(request)
        finally:
            num_inside -= 1

    return limit
