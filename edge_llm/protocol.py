"""Payloads: what crosses MQTT, the worker's socket and, translated, HTTP.

The wire types are the engine's types: a request that validates here is what ``Engine.generate``
takes, and the events that it yields are what a reply is made of.
"""

from typing import Annotated, Literal, Self, TypeVar

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)

from edge_llm.errors import (
    EdgeLLMError,
    InvalidEncodingError,
    InvalidJSONError,
    InvalidRequestError,
    PayloadTooLargeError,
    UnknownFieldError,
    UnsupportedFieldError,
    error_from_code,
)
from edge_llm.options import MAX_PAYLOAD_BYTES, AnswerOptions, NonEmptyText

__all__ = [
    "PROTOCOL_VERSION",
    "ChatRequest",
    "Delta",
    "DeltaPayload",
    "Done",
    "ErrorBody",
    "Event",
    "EventPayload",
    "FinishReason",
    "Message",
    "ModelInfo",
    "MqttRequest",
    "NodeInfo",
    "Queued",
    "Response",
    "Started",
    "Timing",
    "Usage",
    "is_json",
    "parse_mqtt_request",
    "translate",
    "validate",
]

PROTOCOL_VERSION = 1
"""Raised when a field changes its meaning; fields are only added otherwise."""

MAX_PARAM_CHARS = 64
"""Of a field's name in an error; it comes from whoever sent the request."""

SESSION_NAME = r"^[A-Za-z0-9_.-]{1,64}$"
"""One topic level, as in ``llm/session/<name>/reset``."""

LATER_FIELDS = frozenset(
    {
        "tools",
        "tool_choice",
        "response_format",
        "logprobs",
        "top_logprobs",
        "retain_s",
        "choices",
    }
)
"""Fields of the protocol that this version refuses by name."""

FinishReason = Literal["stop", "length", "time_budget", "cancelled"]


class _Wire(BaseModel):
    # Strict, so that "5" is not a number and 1 is not true; JSON's NaN is refused.
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class Message(_Wire):
    """One turn of a conversation."""

    role: Literal["system", "developer", "user", "assistant"]
    """Who speaks; ``developer`` means the same as ``system``."""
    content: str
    """The text of the turn."""


TokenId = Annotated[int, Field(ge=0)]


class ChatRequest(AnswerOptions, _Wire):
    """What to generate. Field names are OpenAI's wherever OpenAI has one."""

    prompt: str | None = None
    """A single user turn; give this or ``messages``."""
    messages: Annotated[tuple[Message, ...], Field(min_length=1)] | None = None
    """The conversation, oldest turn first, the last one being the turn to answer."""
    model: str | None = None
    """A model of this node; the node's only one by default."""
    logit_bias: dict[TokenId, Annotated[float, Field(ge=-100, le=100)]] | None = None
    """Added to the logits of these token ids."""
    priority: Annotated[int, Field(ge=0, le=9)] = 5
    """A higher one goes ahead of lower ones that wait."""
    preempt: bool = False
    """Pause a running request of lower priority, which goes on afterwards."""
    overflow: Literal["error", "drop_oldest"] = "error"
    """What to do with a conversation that is longer than the context: refuse it, or leave out the
    oldest turns."""

    @field_validator("prompt")
    @classmethod
    def _prompt_says_something(cls, value: str | None) -> str | None:
        if value is not None and not value.strip():
            raise ValueError("the prompt is empty")
        return value

    @field_validator("messages")
    @classmethod
    def _last_message_says_something(
        cls, value: tuple[Message, ...] | None
    ) -> tuple[Message, ...] | None:
        if value is not None and not value[-1].content.strip():
            raise ValueError("the last message is empty")
        return value

    @model_validator(mode="after")
    def _has_one_conversation(self) -> Self:
        if (self.prompt is None) == (self.messages is None):
            raise ValueError("give either 'prompt' or 'messages'")
        return self

    @property
    def conversation(self) -> tuple[Message, ...]:
        """The request as turns, also when it came as a bare prompt."""
        return self.messages or (Message(role="user", content=self.prompt or ""),)


class MqttRequest(ChatRequest):
    """A request as JSON on ``llm/request/<id>``: what to generate, and how to deliver it."""

    preset: NonEmptyText | None = None
    """A persona of this node, which fills in what the request leaves out."""
    session: Annotated[str, Field(pattern=SESSION_NAME)] | None = None
    """A conversation that the node remembers: letters, digits, ``-``, ``_``, ``.``."""
    node: NonEmptyText | None = None
    """Only this node answers; where several listen, the others leave the request alone."""
    stream: Literal[False, "token", "word", "sentence"] = False
    """Publish deltas on ``.../delta``: every piece of text, whole words, or whole sentences."""
    events: bool = False
    """Publish what happens on ``.../event``: queued, started, first token, done."""
    format: Literal["json", "text"] | None = None
    """JSON replies carry usage and timing; text replies are the bare text. As the request came, if
    neither it nor its preset says."""
    parts: bool = False
    """Also publish the whole text on ``.../part/<n>``, in pieces of at most ``max_bytes``."""

    @field_validator("stream", mode="before")
    @classmethod
    def _true_means_token(cls, value: object) -> object:
        return "token" if value is True else value

    @model_validator(mode="after")
    def _has_one_conversation(self) -> Self:
        # It may have none: the preset has a prompt of its own.
        if self.prompt is not None and self.messages is not None:
            raise ValueError("give either 'prompt' or 'messages'")
        return self


class _Told(_Wire):
    # Fields are only added: a newer node's message is read without what we don't know yet.
    model_config = ConfigDict(extra="ignore")


class Usage(_Told):
    """Counts of tokens, as OpenAI names them."""

    prompt_tokens: int = 0
    """Tokens of the rendered conversation."""
    cached_tokens: int = 0
    """How many of those were still in the KV cache."""
    completion_tokens: int = 0
    """Generated tokens, reasoning and the end token included."""


class Timing(_Told):
    """Where the time went, in seconds from the moment the request was accepted."""

    queue_s: float = 0.0
    """Waiting for its turn, and for a worker that loads."""
    ttft_s: float | None = None
    """Until the first text; none if there was no text."""
    total_s: float = 0.0
    """Until the end."""
    tokens_per_s: float | None = None
    """Speed of decoding, the first token left out; none for fewer than two tokens."""


class Queued(_Wire):
    """The request waits; said again when it has moved up."""

    type: Literal["queued"] = "queued"
    position: int
    """1 is next."""


class Started(_Wire):
    """The request's turn has come."""

    type: Literal["started"] = "started"


class Delta(_Wire):
    """The next piece of text, never half a character and never part of a stop string."""

    type: Literal["delta"] = "delta"
    text: str = ""
    """Added to the answer."""
    reasoning: str = ""
    """Added to the reasoning, which is kept apart from the answer."""
    token_ids: tuple[int, ...] = ()
    """All tokens since the last delta: from these a new worker goes on where a dead one ended."""


class Done(_Wire):
    """The end of the text."""

    type: Literal["done"] = "done"
    finish_reason: FinishReason
    """``stop``: the model ended or a stop string came; ``length``: ``max_tokens``, ``max_bytes`` or
    the context; ``time_budget``: the time was up."""
    usage: Usage = Usage()
    timing: Timing = Timing()
    dropped_messages: int = 0
    """Oldest messages that were left out, as the conversation was longer than the context."""


Event = Annotated[Queued | Started | Delta | Done, Field(discriminator="type")]


class ErrorBody(_Told):
    """Why there is no answer."""

    code: str
    """Stable, for machines; ``edge_llm.errors`` lists them all."""
    message: str
    """One sentence for people."""
    param: str | None = None
    """The field at fault."""
    retry_after_s: float | None = None
    """When to try again, in seconds, if that helps."""

    @classmethod
    def from_error(cls, error: EdgeLLMError) -> Self:
        """Put an error on the wire."""
        return cls(
            code=error.code,
            message=error.message,
            param=error.param,
            retry_after_s=error.retry_after_s,
        )

    def to_error(self) -> EdgeLLMError:
        """Take an error from the wire."""
        return error_from_code(
            self.code, self.message, param=self.param, retry_after_s=self.retry_after_s
        )


class Response(_Told):
    """The one final message on ``llm/response/<id>``, as JSON."""

    id: str
    """The request's id, as in its topic."""
    node: str
    """Which node answered."""
    model: str | None = None
    """Which model answered."""
    text: str = ""
    """The whole answer; on failure what the preset says instead, if it does."""
    parts: int | None = None
    """How many parts were sent, if they were asked for."""
    reasoning: str | None = None
    """What the model thought first, if it was allowed to."""
    finish_reason: FinishReason | None = None
    """Why the text ended; none on failure."""
    usage: Usage | None = None
    timing: Timing | None = None
    dropped_messages: int | None = None
    """Oldest messages of the conversation that the context had no room for, if there were any."""
    error: ErrorBody | None = None
    """Present if the request failed."""


class DeltaPayload(_Told):
    """A piece of the answer on ``llm/response/<id>/delta``, as JSON."""

    seq: int
    """Counts from 0 without gaps."""
    text: str


class EventPayload(_Told):
    """What happened to a request, on ``llm/response/<id>/event``."""

    event: Literal["queued", "started", "first_token", "done", "error"]
    position: int | None = None
    """In the queue; 1 is next."""
    finish_reason: FinishReason | None = None
    """Why the text ended."""
    code: str | None = None
    """Of the error."""


class ModelInfo(_Told):
    """A model that a node serves."""

    id: str
    context_len: int
    """Most tokens of prompt and answer together."""
    vocab_size: int
    quantization: str | None = None
    """How the weights are stored, if the model says so."""
    runtime: str | None = None
    """What runs it: ``onnx``, ``axcl`` or ``axengine``, and how."""
    kv_slots: int | None = None
    """How many conversations keep their prefix at a time."""


class NodeInfo(_Told):
    """Retained on ``llm/node/<node>/info``."""

    node: str
    version: str
    """Of edge-llm."""
    protocol: int = PROTOCOL_VERSION
    boot_id: str
    """New at each start of the service."""
    models: tuple[ModelInfo, ...]
    engine: str
    """What generates: ``worker`` or ``paced``."""
    queue_limit: int
    """Most requests that may wait."""
    presets: tuple[str, ...] = ()
    """Personas that requests may name."""
    default_preset: str | None = None
    """The one that those have which name none."""
    max_payload_bytes: int = MAX_PAYLOAD_BYTES


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
    errors = exc.errors(include_url=False, include_context=False)
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
    return InvalidRequestError(f"{param or 'request'}: {first['msg']}", param=param)
