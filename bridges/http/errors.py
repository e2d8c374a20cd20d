"""Errors as HTTP: the status of each class, and the error object of each dialect.

Ollama's is a sentence, below ``/api/``; OpenAI's is everywhere else.

``X-Should-Retry`` is what OpenAI's own clients obey before any status: without it they would send
a request that killed the worker (500) twice more.
"""

import math

import structlog
from aiohttp import web
from aiohttp.typedefs import Handler

from edge_llm.errors import (
    AuthenticationError,
    DeviceLostError,
    EdgeLLMError,
    ExpiredError,
    InvalidRequestError,
    PayloadTooLargeError,
    RateLimitedError,
    UnavailableError,
    UnknownModelError,
    UpstreamError,
)

__all__ = [
    "OLLAMA_ROOT",
    "as_error",
    "client_has_gone",
    "error_body",
    "error_middleware",
    "error_response",
]

log = structlog.get_logger()

STATUSES: dict[type[EdgeLLMError], int] = {  # a class without an entry has its parent's
    EdgeLLMError: 500,
    InvalidRequestError: 400,
    PayloadTooLargeError: 413,
    AuthenticationError: 401,
    UnknownModelError: 404,
    ExpiredError: 410,  # not 408 or 504, which clients repeat: nobody waits for it any more
    UnavailableError: 503,
    RateLimitedError: 429,
    UpstreamError: 502,
    DeviceLostError: 503,
}

KINDS = {401: "authentication_error", 429: "rate_limit_error"}
"""OpenAI's types of errors, where the status alone doesn't say."""

OLLAMA_ROOT = "/api/"

RETRY_AFTER_S = 5.0
"""When to come back if the error doesn't say: about as long as a restart takes."""


def as_error(exc: Exception) -> EdgeLLMError:
    """Return an error that can be shown; a crash is logged with its traceback and not shown."""
    if isinstance(exc, EdgeLLMError):
        return exc
    log.error("request.crashed", exc_info=exc)
    return EdgeLLMError("the node made a mistake; its log says which")


def error_body(error: EdgeLLMError, path: str = "") -> dict[str, object]:
    """Make the error object of the dialect that is spoken on a path."""
    return _body(path, _status(error), error.code, error.message, error.param)


def error_response(error: EdgeLLMError, path: str = "") -> web.Response:
    """Make the answer to a request that failed before any of its text was sent."""
    headers = {"X-Should-Retry": str(error.retryable).lower()}
    if error.retryable:
        wait_s = RETRY_AFTER_S if error.retry_after_s is None else error.retry_after_s
        headers["Retry-After"] = str(max(1, math.ceil(wait_s)))
    return web.json_response(error_body(error, path), status=_status(error), headers=headers)


@web.middleware
async def error_middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Answer every failure in its dialect's shape, also where a path or method does not exist."""
    try:
        return await handler(request)
    except web.HTTPException as exc:
        return _refuse_route(request, exc)
    except Exception as exc:
        if client_has_gone(request):
            raise
        return error_response(as_error(exc), request.path)


def client_has_gone(request: web.Request) -> bool:
    """Tell whether nobody is left to read an answer."""
    return request.transport is None or request.transport.is_closing()


def _status(error: EdgeLLMError) -> int:
    return next(STATUSES[cls] for cls in type(error).__mro__ if cls in STATUSES)


def _body(path: str, status: int, code: str, message: str, param: str | None) -> dict[str, object]:
    if path.startswith(OLLAMA_ROOT):
        return {"error": message}
    # OpenAI's must have all four keys.
    kind = KINDS.get(status, "invalid_request_error" if status < 500 else "server_error")
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


def _refuse_route(request: web.Request, exc: web.HTTPException) -> web.Response:
    code, message = "http_error", exc.reason
    headers = {}
    if isinstance(exc, web.HTTPNotFound):
        code, message = "unknown_path", f"there is no path {request.path!r}"
    elif isinstance(exc, web.HTTPMethodNotAllowed):
        allowed = ", ".join(sorted(exc.allowed_methods))
        code, message = "method_not_allowed", f"{request.path!r} takes {allowed}"
        headers["Allow"] = allowed
    log.warning("request.rejected", code=code, method=request.method, path=request.path)
    body = _body(request.path, exc.status, code, message, None)
    return web.json_response(body, status=exc.status, headers=headers)
