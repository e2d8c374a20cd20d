"""Reading the body of a request, and noting why one was refused."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypeVar

import structlog
from aiohttp import web
from pydantic import BaseModel

from edge_llm.errors import (
    EdgeLLMError,
    InvalidEncodingError,
    InvalidRequestError,
    PayloadTooLargeError,
)
from edge_llm.protocol import MAX_PAYLOAD_BYTES, validate

__all__ = ["noted_if_refused", "parse_body", "read_body"]

log = structlog.get_logger()

READ_TIMEOUT_S = 30.0
"""Nobody needs longer for 256 KiB; who sends a byte now and then would hold a place for ever."""

Model = TypeVar("Model", bound=BaseModel)


@contextmanager
def noted_if_refused(request: web.Request) -> Iterator[None]:
    """Log the refusal of a request that the engine never saw; the engine logs its own."""
    try:
        yield
    except EdgeLLMError as error:
        log.warning("request.rejected", code=error.code, param=error.param, path=request.path)
        raise


async def read_body(request: web.Request, model: type[Model]) -> Model:
    """Parse the body as JSON, whatever content type it claims to have.

    Raises:
        InvalidRequestError: or one below it, for the first thing that is wrong.
    """
    try:
        async with asyncio.timeout(READ_TIMEOUT_S):
            payload = await request.read()
    except TimeoutError as exc:
        raise InvalidRequestError(
            f"the request did not come within {READ_TIMEOUT_S:g} s: its body is shorter than "
            "'Content-Length' says, or the connection is too slow"
        ) from exc
    except web.HTTPRequestEntityTooLarge as exc:
        raise PayloadTooLargeError(
            f"the request is too long; at most {MAX_PAYLOAD_BYTES} bytes are taken"
        ) from exc
    except web.RequestPayloadError as exc:
        raise InvalidRequestError("the body is broken: its transfer coding is wrong") from exc
    return parse_body(payload, model)


def parse_body(payload: bytes, model: type[Model]) -> Model:
    """Parse the bytes of a body.

    Raises:
        InvalidRequestError: or one below it, for the first thing that is wrong.
    """
    try:
        payload.decode()
    except UnicodeDecodeError as exc:
        raise InvalidEncodingError(f"the request is not UTF-8: byte {exc.start} is wrong") from exc
    return validate(model, payload)
