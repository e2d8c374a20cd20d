"""``X-Request-Id``: the name of a request, in its reply and in every line of the log about it."""

import re
from uuid import uuid4

from aiohttp import web
from aiohttp.typedefs import Handler
from structlog.contextvars import bound_contextvars

__all__ = ["HEADER", "add_header", "name_request"]

HEADER = "X-Request-Id"
REQUEST_ID = web.RequestKey("request_id", str)
USABLE = re.compile(r"[!-~]{1,128}")  # printable ASCII: it stands in headers and logs


@web.middleware
async def name_request(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Take the client's name for the request, or make one."""
    given = request.headers.get(HEADER, "")
    name = given if USABLE.fullmatch(given) else f"req_{uuid4().hex}"
    request[REQUEST_ID] = name
    with bound_contextvars(request_id=name):
        return await handler(request)


async def add_header(request: web.Request, response: web.StreamResponse) -> None:
    """Name the request in its reply; to be called when the headers are sent."""
    if REQUEST_ID in request:
        response.headers.setdefault(HEADER, request[REQUEST_ID])
