"""Requests that a web page sends: from anywhere in the world, by the browser of who looks at it.

A browser asks before it sends JSON to another host, but not before it sends text; and what is taken
here is JSON whatever it is called. It says whose page it is, though, and is believed.
"""

from collections.abc import Sequence
from urllib.parse import urlsplit

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from edge_llm.section import is_loopback

__all__ = ["make_origin_middleware"]

READS = ("GET", "HEAD", "OPTIONS")
"""What they change is nothing, and who may read the answer is for CORS to say."""


def make_origin_middleware(origins: Sequence[str]) -> Middleware:
    """Make what refuses requests of pages that may not ask.

    Args:
        origins: of pages that may. Others that may are the node's own, those of the asking machine
            itself, and programs that are no web page, as ``app://`` and ``vscode-webview://``.
    """

    @web.middleware
    async def refuse(request: web.Request, handler: Handler) -> web.StreamResponse:
        origin = request.headers.get("Origin")
        if (
            origin is None
            or request.method in READS
            or "*" in origins
            or origin in origins
            or not _is_foreign(origin, request.host)
        ):
            return await handler(request)
        raise web.HTTPForbidden(reason="pages of this origin may not ask (http.cors_origins)")

    return refuse


def _is_foreign(origin: str, host: str) -> bool:
    try:
        parts = urlsplit(origin)
    except ValueError:
        return True
    if origin == "null":  # a page that hides where it is from
        return True
    is_page = parts.scheme in ("http", "https")
    return is_page and parts.netloc != host and not is_loopback(parts.hostname or "")
