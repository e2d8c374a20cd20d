"""What payloads say, as far as a line shows it; whatever can't be read is shown as it came."""

import json
from typing import TypeVar

from pydantic import BaseModel, ValidationError

from edge_llm.protocol import DeltaPayload, ErrorBody, EventPayload, Response, is_json
from edge_llm.watch.seen import ReplySeen
from edge_llm.watch.text import harmless, one_line

__all__ = [
    "MAX_CHARS",
    "read",
    "read_delta",
    "read_error",
    "read_final",
    "read_prompt",
    "read_state",
]

MAX_CHARS = 400
"""Of a text that is kept: more than a line of a wide terminal."""

Model = TypeVar("Model", bound=BaseModel)


def read(model: type[Model], payload: bytes) -> Model | None:
    """Return a message, if it is one of this kind."""
    try:
        return model.model_validate_json(payload)
    except ValidationError:
        return None


def short(text: str) -> str:
    """Return the beginning of a text."""
    return one_line(text[:MAX_CHARS])


def read_prompt(payload: bytes) -> str:
    """Say what a request asks: its preset, and its prompt or last turn."""
    text = payload.decode(errors="replace")
    body = None
    if is_json(payload):
        try:
            body = json.loads(text)
        except (ValueError, RecursionError):
            return short(text)
    if not isinstance(body, dict):
        return short(text)
    preset, prompt, turns = body.get("preset"), body.get("prompt"), body.get("messages")
    if isinstance(turns, list) and turns and isinstance(turns[-1], dict):
        prompt = turns[-1].get("content")
    return short(" ".join(str(part) for part in (f"[{preset}]" if preset else "", prompt or "")))


def read_state(payload: bytes) -> str | None:
    """Say in what state a request is after an event; None if the final message says it."""
    event = read(EventPayload, payload)
    match event.event if event else None:
        case "queued":
            return f"queued {event.position}" if event and event.position else "queued"
        case "started":
            return "started"
        case "first_token":
            return "speaking"
    return None


def read_delta(payload: bytes) -> str:
    """Return what a delta adds."""
    delta = read(DeltaPayload, payload) if is_json(payload) else None
    return harmless(delta.text if delta else payload.decode(errors="replace"))


def read_error(payload: bytes) -> tuple[str, str]:
    """Return code and message."""
    if body := read(ErrorBody, payload):
        return short(body.code), short(body.message)
    code, _, message = payload.decode(errors="replace").partition(": ")
    return short(code), short(message)


def read_final(request_id: str, payload: bytes, now: float, took_s: float | None) -> ReplySeen:
    """Return a final message."""
    response = read(Response, payload) if is_json(payload) else None
    if response is None:
        text = payload.decode(errors="replace")
        return ReplySeen(request_id, now, "text", short(text), took_s=took_s, num_chars=len(text))
    if response.error:
        code, message = short(response.error.code), short(response.error.message)
        return ReplySeen(request_id, now, code, message, is_error=True, took_s=took_s)
    if took_s is None and response.timing:
        took_s = response.timing.total_s
    return ReplySeen(
        request_id,
        now,
        response.finish_reason or "stop",
        short(response.text),
        took_s=took_s,
        num_tokens=response.usage.completion_tokens if response.usage else None,
        num_chars=len(response.text),
    )
