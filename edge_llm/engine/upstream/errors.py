"""What a server's refusal means: statuses and error objects, as one error of ours.

The message says what a maker can do: the server's own words, and which setting is at fault.
"""

import math
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

from edge_llm.errors import (
    ContextOverflowError,
    EdgeLLMError,
    InvalidRequestError,
    QueueFullError,
    UnavailableError,
    UpstreamError,
)

__all__ = ["AgainError", "error_in_stream", "error_of_status", "lasting", "retry_after_s"]

MAX_WORDS = 300  # characters of a server's message; some send a whole page of HTML

OVERFLOW_CODES = ("context_length_exceeded", "exceed_context_size_error", "context_overflow")
"""Of OpenAI, of llama-server, and ours."""

OVERFLOW_WORDS = re.compile(
    r"context (?:length|size|window)|maximum context|max_model_len|prompt (?:is )?too long", re.I
)


class AgainError(Exception):
    """A failure that the next attempt may not have, as long as nothing has been said.

    Attributes:
        error: what to raise if there is no next attempt.
    """

    def __init__(self, error: EdgeLLMError) -> None:
        super().__init__(error.message)
        self.error = error


def lasting(error: UpstreamError) -> UpstreamError:
    """Mark an error as one that stays until somebody changes the settings."""
    error.retryable = False
    return error


def error_of_status(
    status: int, body: object, url: str, headers: Mapping[str, str]
) -> EdgeLLMError | AgainError:
    """Return what a status other than 200 means.

    Args:
        status: of HTTP.
        body: parsed as JSON where it is JSON, else text.
        url: what was asked for.
        headers: of the response, any case.
    """
    words, code = _words(body), _code(body)
    said = f"{url} answered {status}" + (f": {words}" if words else "")
    if status in (408, 429) or status >= 500:
        cls: type[EdgeLLMError] = UpstreamError
        if status == 429 or code == QueueFullError.code:
            cls = QueueFullError
        elif status == 503:
            cls = UnavailableError
        return AgainError(cls(said, retry_after_s=retry_after_s(headers)))
    if status in (400, 413, 422) and _is_overflow(code, words):
        return ContextOverflowError(said)
    if status in (401, 403):
        return lasting(UpstreamError(f"{said}; set engine.openai.api_key to a key of its"))
    if status == 404 and "model" in f"{words} {code}".lower():
        return lasting(UpstreamError(f"{said}; set engine.openai.model to one that it has"))
    if status == 404:
        return lasting(UpstreamError(f"{said}; engine.openai.base_url mostly ends in /v1"))
    return InvalidRequestError(said)


def error_in_stream(body: object) -> EdgeLLMError:
    """Return what an error object means that came instead of the next piece of an answer."""
    words = _words(body)
    if _is_overflow(_code(body), words):
        return ContextOverflowError(f"the server refuses: {words}")
    return UpstreamError(f"the server broke off: {words or 'it does not say why'}")


def retry_after_s(headers: Mapping[str, str]) -> float | None:
    """Return how long the server wants to be left alone, in seconds, if it says so."""
    value = headers.get("Retry-After")
    if value is None:
        return None
    try:
        seconds = float(value)
    except ValueError:
        try:
            seconds = (parsedate_to_datetime(value) - datetime.now(UTC)).total_seconds()
        except (ValueError, TypeError, OverflowError):  # no date, or one without its zone
            return None
    return max(seconds, 0.0) if math.isfinite(seconds) else None


def _is_overflow(code: str, words: str) -> bool:
    return code in OVERFLOW_CODES or bool(OVERFLOW_WORDS.search(words))


def _object(body: object) -> dict[str, Any]:
    """Return the error object, wherever it is: OpenAI has it in "error", FastAPI in "detail"."""
    if not isinstance(body, dict):
        return {"message": body if isinstance(body, str) else ""}
    error = body.get("error") or body.get("detail") or body
    return error if isinstance(error, dict) else {"message": str(error)}


def _words(body: object) -> str:
    words = " ".join(str(_object(body).get("message") or "").split())
    return words if len(words) <= MAX_WORDS else f"{words[:MAX_WORDS]}…"


def _code(body: object) -> str:
    """Return what says most: "type" where it is one that we know, as llama-server's is."""
    error = _object(body)
    codes = [str(error.get(name)) for name in ("code", "type")]
    return next((code for code in codes if code in OVERFLOW_CODES), codes[0])
