"""Bytes to requests: nothing leaves it open what is wrong."""

from typing import TypeVar

from pydantic import BaseModel, ValidationError

from edge_llm.errors import (
    InvalidEncodingError,
    InvalidJSONError,
    InvalidRequestError,
    PayloadTooLargeError,
    UnknownFieldError,
    UnsupportedFieldError,
)
from edge_llm.protocol.request import MqttRequest
from edge_llm.protocol.wire import MAX_PAYLOAD_BYTES

__all__ = ["LATER_FIELDS", "is_json", "parse_mqtt_request", "translate", "validate"]

MAX_PARAM_CHARS = 64
"""Of a field's name in an error; it comes from whoever sent the request."""

LATER_FIELDS = frozenset({"retain_s"})
"""Fields of the protocol that this version refuses by name."""


def parse_mqtt_request(payload: bytes) -> MqttRequest:
    """Read a request: an object is JSON, anything else is the prompt; nothing leaves it open.

    Raises:
        InvalidRequestError: or one below it; exactly one, for the first thing that is wrong.
    """
    if len(payload) > MAX_PAYLOAD_BYTES:
        raise PayloadTooLargeError(
            f"the request has {len(payload)} bytes; at most {MAX_PAYLOAD_BYTES} are taken"
        )
    try:
        text = payload.decode()
    except UnicodeDecodeError as exc:
        raise InvalidEncodingError(f"the request is not UTF-8: byte {exc.start} is wrong") from exc
    if is_json(payload):
        return validate(MqttRequest, payload)
    return MqttRequest(prompt=text) if text.strip() else MqttRequest()


def is_json(payload: bytes) -> bool:
    """Tell whether a request is JSON, also a broken one: its sender reads JSON replies."""
    return payload.lstrip().startswith(b"{")


Model = TypeVar("Model", bound=BaseModel)


def validate(model: type[Model], payload: bytes | str) -> Model:
    """Parse JSON into a model, and turn what pydantic says into one error of ours.

    Raises:
        InvalidJSONError: not JSON, or not an object.
        UnknownFieldError: a field that the model does not have.
        UnsupportedFieldError: a field of a later version.
        InvalidRequestError: a value that is missing, wrong or out of range.
    """
    try:
        return model.model_validate_json(payload)
    except ValidationError as exc:
        raise translate(exc) from exc


def translate(exc: ValidationError) -> InvalidRequestError:
    """Make one sentence of the first thing that pydantic found wrong."""
    # Unknown names first: a mistyped field is the likeliest reason for all the others.
    errors = exc.errors(include_url=False, include_input=False)
    first = min(errors, key=lambda error: error["type"] != "extra_forbidden")
    path = ".".join(str(part) for part in first["loc"] if part != "[key]")
    param = (path if len(path) <= MAX_PARAM_CHARS else f"{path[:MAX_PARAM_CHARS]}…") or None
    match first["type"]:
        case "json_invalid":
            return InvalidJSONError(f"not JSON: {first['msg'].removeprefix('Invalid JSON: ')}")
        case "model_type" if param is None:
            return InvalidJSONError("the request is JSON, but not an object")
        case "extra_forbidden" if str(first["loc"][-1]) in LATER_FIELDS:
            return UnsupportedFieldError(
                f"{param!r} is not offered by this version of edge-llm", param=param
            )
        case "extra_forbidden":
            return UnknownFieldError(f"there is no field {param!r}", param=param)
        case "value_error":
            return InvalidRequestError(first["msg"].removeprefix("Value error, "), param=param)
    text = first["msg"]
    if first["type"] == "union_tag_invalid":  # pydantic's words repeat what was sent
        text = f"its type is none of {first['ctx']['expected_tags']}"
    return InvalidRequestError(f"{param or 'request'}: {text}", param=param)
