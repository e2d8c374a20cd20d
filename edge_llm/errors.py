"""Everything that can go wrong, as one tree; each class has a stable code that goes on the wire.

EdgeLLMError                     internal
├── InvalidRequestError          invalid_request: a value is missing, wrong or out of range
│   ├── InvalidEncodingError     invalid_utf8
│   ├── InvalidJSONError         invalid_json
│   ├── UnknownFieldError        unknown_field
│   ├── UnsupportedFieldError    unsupported_field: known, but not offered by this version
│   ├── InvalidIdError           invalid_id
│   ├── DuplicateIdError         duplicate_id: a request with this id is still being answered
│   ├── RetainedRequestError     retained_request
│   ├── ForbiddenTopicError      forbidden_topic: a reply may not go there
│   ├── UnknownPresetError       preset_not_found
│   ├── PayloadTooLargeError     payload_too_large
│   ├── UnsupportedContentError  unsupported_content: images, audio
│   ├── UnsupportedSchemaError   unsupported_schema: an answer can't be held to it
│   └── ContextOverflowError     context_overflow
├── AuthenticationError          unauthorized: no key, or a wrong one
├── UnknownModelError            model_not_found
├── ExpiredError                 expired: the request's time to live ended before its turn came
├── ReplacedError                replaced: a newer press of the same button took its place
├── UnavailableError             unavailable
│   ├── QueueFullError           queue_full
│   ├── RateLimitedError         rate_limited: this key has asked too often
│   ├── ShuttingDownError        shutting_down
│   ├── DrainingError            draining: it ends what it has, and takes nothing new
│   ├── DeviceUnavailableError   device_unavailable: the device failed for good; a person is needed
│   ├── NodeOfflineError         node_offline
│   └── BrokerError              broker_unavailable
├── UpstreamError                upstream_error: the server that generates for us failed
├── EngineFailedError            engine_failed: the worker died too often on this request
├── DeviceError                  device_error: the accelerator failed a call
│   └── DeviceLostError          device_lost: and does nothing more until it is reset
└── ConfigurationError           configuration: settings or command line
    └── ModelError               model_error: a model directory that cannot be used
"""

from collections.abc import Iterator

__all__ = [
    "AuthenticationError",
    "BrokerError",
    "ConfigurationError",
    "ContextOverflowError",
    "DeviceError",
    "DeviceLostError",
    "DeviceUnavailableError",
    "DrainingError",
    "DuplicateIdError",
    "EdgeLLMError",
    "EngineFailedError",
    "ExpiredError",
    "ForbiddenTopicError",
    "InvalidEncodingError",
    "InvalidIdError",
    "InvalidJSONError",
    "InvalidRequestError",
    "ModelError",
    "NodeOfflineError",
    "PayloadTooLargeError",
    "QueueFullError",
    "RateLimitedError",
    "ReplacedError",
    "RetainedRequestError",
    "ShuttingDownError",
    "UnavailableError",
    "UnknownFieldError",
    "UnknownModelError",
    "UnknownPresetError",
    "UnsupportedContentError",
    "UnsupportedFieldError",
    "UnsupportedSchemaError",
    "UpstreamError",
    "error_from_code",
]


class EdgeLLMError(Exception):
    """Base of all errors of this package.

    Attributes:
        code: stable, on the wire.
        retryable: the same request may succeed later.
        message: one sentence for a person: what is wrong, and what to do.
        param: the field that is at fault, if one is.
        retry_after_s: when to try again, in seconds, if that is known.
    """

    code = "internal"
    retryable = False

    def __init__(
        self, message: str, *, param: str | None = None, retry_after_s: float | None = None
    ) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.retry_after_s = retry_after_s

    @classmethod
    def tree(cls) -> Iterator[type["EdgeLLMError"]]:
        """Yield this class and all below it."""
        yield cls
        for below in cls.__subclasses__():
            yield from below.tree()


class InvalidRequestError(EdgeLLMError):
    """A value is missing, of the wrong type or out of range."""

    code = "invalid_request"


class InvalidEncodingError(InvalidRequestError):
    """The payload is not UTF-8."""

    code = "invalid_utf8"


class InvalidJSONError(InvalidRequestError):
    """The payload begins with ``{`` but is not a JSON object."""

    code = "invalid_json"


class UnknownFieldError(InvalidRequestError):
    """The request has a field that does not exist."""

    code = "unknown_field"


class UnsupportedFieldError(InvalidRequestError):
    """The field exists, but this version does not offer it."""

    code = "unsupported_field"


class InvalidIdError(InvalidRequestError):
    """The request id can't be answered: control characters, too long, or a reserved level."""

    code = "invalid_id"


class DuplicateIdError(InvalidRequestError):
    """A request with this id is still being answered."""

    code = "duplicate_id"


class RetainedRequestError(InvalidRequestError):
    """The request was published with the retain flag, and would run again at every reconnect."""

    code = "retained_request"


class ForbiddenTopicError(InvalidRequestError):
    """The response topic is not among those that the node may publish on for others."""

    code = "forbidden_topic"


class UnknownPresetError(InvalidRequestError):
    """The request names a preset that this node does not have."""

    code = "preset_not_found"


class PayloadTooLargeError(InvalidRequestError):
    """The request has more bytes than the node takes."""

    code = "payload_too_large"


class ContextOverflowError(InvalidRequestError):
    """The prompt does not fit into the model's context; the message names both counts."""

    code = "context_overflow"


class UnsupportedContentError(InvalidRequestError):
    """A message has an image, sound or a file; models here read text."""

    code = "unsupported_content"


class UnsupportedSchemaError(InvalidRequestError):
    """A JSON schema, regex or tool that an answer can't be held to; the message says why."""

    code = "unsupported_schema"


class AuthenticationError(EdgeLLMError):
    """The request has no key, or a wrong one."""

    code = "unauthorized"


class UnknownModelError(EdgeLLMError):
    """The request names a model that this node does not have."""

    code = "model_not_found"


class ExpiredError(EdgeLLMError):
    """The request's time to live, or its time budget, ended before there was an answer."""

    code = "expired"


class ReplacedError(EdgeLLMError):
    """A newer press of the same button took the request's place."""

    code = "replaced"


class UnavailableError(EdgeLLMError):
    """Not now; try again later."""

    code = "unavailable"
    retryable = True


class QueueFullError(UnavailableError):
    """As many requests as the queue may hold are waiting; see ``retry_after_s``."""

    code = "queue_full"


class RateLimitedError(UnavailableError):
    """This key, or this client, has asked too often; see ``retry_after_s``."""

    code = "rate_limited"


class ShuttingDownError(UnavailableError):
    """The node is stopping."""

    code = "shutting_down"


class DrainingError(UnavailableError):
    """The node ends what it has in hand, and takes nothing new until it is resumed."""

    code = "draining"


class DeviceUnavailableError(UnavailableError):
    """All that could be tried has been tried; a person is needed, and the message says for what."""

    code = "device_unavailable"


class NodeOfflineError(UnavailableError):
    """No node answers on this broker."""

    code = "node_offline"


class BrokerError(UnavailableError):
    """The broker can't be reached or refuses us."""

    code = "broker_unavailable"


class EngineFailedError(EdgeLLMError):
    """The worker process died too often while it was working on this request."""

    code = "engine_failed"


class UpstreamError(EdgeLLMError):
    """The OpenAI-compatible server behind this node failed; the message has its words."""

    code = "upstream_error"
    retryable = True


class DeviceError(EdgeLLMError):
    """The accelerator failed a call; the next one may succeed.

    Attributes:
        device_code: what its runtime returned, as an unsigned number; 0 if nothing was called.
        is_lost: the device does nothing more until it is reset.
    """

    code = "device_error"
    retryable = True
    is_lost = False

    def __init__(
        self,
        message: str,
        *,
        param: str | None = None,
        retry_after_s: float | None = None,
        device_code: int = 0,
    ) -> None:
        super().__init__(message, param=param, retry_after_s=retry_after_s)
        self.device_code = device_code


class DeviceLostError(DeviceError):
    """The accelerator is dead, or hangs, until it is reset."""

    code = "device_lost"
    is_lost = True


class ConfigurationError(EdgeLLMError):
    """The settings, the environment or the command line are wrong."""

    code = "configuration"


class ModelError(ConfigurationError):
    """A model directory can't be used; the message names the file and the cure."""

    code = "model_error"


def error_from_code(
    code: str, message: str, *, param: str | None = None, retry_after_s: float | None = None
) -> EdgeLLMError:
    """Rebuild the error that another process put on the wire; unknown codes give the base class."""
    classes = {cls.code: cls for cls in EdgeLLMError.tree()}
    error = classes.get(code, EdgeLLMError)(message, param=param, retry_after_s=retry_after_s)
    if error.code != code:  # a newer peer's code is kept, so that it can be shown
        error.code = code
    return error
