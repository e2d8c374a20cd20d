"""Bodies of ``/api/chat`` and ``/api/generate``: what is honoured, ignored, and refused by name."""

import re
from typing import Annotated, Any, Literal, get_args

import structlog
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from bridges.http.ollama.message import OllamaMessage, OllamaTool, refuse_images, to_messages
from bridges.http.ollama.options import OllamaOptions
from edge_llm.errors import UnsupportedFieldError
from edge_llm.protocol import (
    ChatRequest,
    JsonObjectFormat,
    JsonSchema,
    JsonSchemaFormat,
    Message,
    ModelInfo,
    ResponseFormat,
    translate,
)

__all__ = ["OllamaBody", "OllamaChatBody", "OllamaGenerateBody"]

log = structlog.get_logger()

ThinkLevel = Literal["low", "medium", "high", "max"]

DURATION = r"^([+-]?([0-9]+(\.[0-9]*)?(ns|us|µs|ms|s|m|h))+|[+-]?[0-9]+(\.[0-9]*)?|)$"
"""Go's, or seconds, or nothing."""
NOTHING = re.compile(r"[+-]?[0.a-zµ]*")  # "0", "0s", "0.0", "0h0m"


class OllamaBody(BaseModel):
    """What the two have in common."""

    model_config = ConfigDict(
        extra="allow",  # to name in the log what is ignored
        frozen=True,
        strict=True,
        allow_inf_nan=False,
        use_attribute_docstrings=True,
    )

    model: str | None = None
    """A model of this node, with or without ``:latest``; the node's only one by default."""
    stream: bool | None = None
    """False: one object; lines of JSON otherwise."""
    format: Literal["", "json"] | dict[str, Any] | None = None
    """``json``, or a JSON schema."""
    think: bool | ThinkLevel | None = None
    """Let the model reason first; ``low``, ``medium``, ``high`` and ``max`` all mean yes. The
    node's default otherwise."""
    options: OllamaOptions | None = None
    keep_alive: float | Annotated[str, Field(pattern=DURATION)] | None = None
    """Ignored: a model stays loaded. With nothing to answer, 0 is answered ``unload``."""
    logprobs: bool | None = None
    """Say how likely each token of the answer was."""
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    """And how likely so many others were; only with ``logprobs``."""
    truncate: bool | None = None
    """Leave out the oldest turns of a conversation that is longer than the context, or refuse it;
    the node's default otherwise."""

    @field_validator("think", mode="before")
    @classmethod
    def _think_at_a_level(cls, value: object) -> object:
        levels = get_args(ThinkLevel)
        if isinstance(value, str) and value not in levels:
            known = ", ".join(f'"{level}"' for level in levels)
            raise ValueError(f"invalid think value: {value!r} (must be {known}, true or false)")
        return value

    @field_validator("format", mode="before")
    @classmethod
    def _json_or_a_schema(cls, value: object) -> object:
        if isinstance(value, str) and value not in ("", "json"):
            raise ValueError(f'invalid format: {value!r}; expected "json" or a JSON schema')
        return value

    @field_validator("keep_alive", mode="before")
    @classmethod
    def _is_a_duration(cls, value: object) -> object:
        if isinstance(value, str) and not re.match(DURATION, value):
            raise ValueError(f'keep_alive: {value!r} is no duration, as "5m" or -1 is')
        return value

    @property
    def is_streamed(self) -> bool:
        """Whether the answer comes in lines."""
        return self.stream is not False

    @property
    def idle_reason(self) -> str:
        """What is said to a request that asks nothing."""
        kept = self.keep_alive
        if isinstance(kept, str):
            return "unload" if kept and NOTHING.fullmatch(kept) else "load"
        return "unload" if kept == 0 else "load"

    def _to_chat_request(
        self,
        model: ModelInfo | None,
        messages: tuple[Message, ...],
        tools: tuple[OllamaTool, ...] | None = None,
    ) -> ChatRequest:
        self._refuse_what_it_cant(model, tools)
        if self.model_extra:
            log.debug("request.fields_ignored", fields=sorted(self.model_extra))
        fields = (self.options or OllamaOptions()).answer_fields(model)
        if (answer_format := self._response_format()) is not None:
            fields["response_format"] = answer_format
        if self.think is not None:
            fields["enable_thinking"] = bool(self.think)
        if self.truncate is not None:
            fields["overflow"] = "drop_oldest" if self.truncate else "error"
        try:
            return ChatRequest(
                **fields,
                model=model.id if model else None,
                messages=messages,
                tools=tuple(tool.to_tool() for tool in tools) if tools else None,
                logprobs=self.logprobs or None,
                top_logprobs=self.top_logprobs if self.logprobs else None,
            )
        except ValidationError as exc:
            raise translate(exc) from exc

    def _response_format(self) -> ResponseFormat | None:
        if isinstance(self.format, dict):
            return JsonSchemaFormat(type="json_schema", json_schema=JsonSchema(schema=self.format))
        return JsonObjectFormat(type="json_object") if self.format == "json" else None

    def _refuse_what_it_cant(
        self, model: ModelInfo | None, tools: tuple[OllamaTool, ...] | None
    ) -> None:
        """Refuse in the words that Ollama's clients look for, to ask again without."""
        if model and self.think and model.has_thinking is False:
            raise UnsupportedFieldError(f'"{model.id}" does not support thinking', param="think")
        if model and tools and model.has_tools is False:
            raise UnsupportedFieldError(f'"{model.id}" does not support tools', param="tools")


class OllamaChatBody(OllamaBody):
    """The body of ``POST /api/chat``."""

    messages: tuple[OllamaMessage, ...] | None = None
    """The conversation, oldest turn first; without any, the model is only to be loaded."""
    tools: tuple[OllamaTool, ...] | None = None
    """Functions that the model may ask to have called."""

    def to_chat_request(self, model: ModelInfo | None) -> ChatRequest:
        """Make what the engine takes.

        Raises:
            InvalidRequestError: or one below it.
        """
        return self._to_chat_request(model, to_messages(self.messages or ()), self.tools)


class OllamaGenerateBody(OllamaBody):
    """The body of ``POST /api/generate``."""

    prompt: str | None = None
    """What to answer; without it, the model is only to be loaded."""
    system: str | None = None
    """The system turn before it."""
    images: tuple[Any, ...] | None = None
    """Refused: models here read text."""
    suffix: str | None = None
    """Refused: models here don't fill gaps."""
    template: str | None = None
    """Refused: the model's own chat template is used."""
    raw: bool | None = None
    """Refused if true: the prompt always goes through the chat template."""
    context: tuple[int, ...] | None = None
    """Refused if not empty: no answer has one. ``/api/chat`` takes whole conversations."""

    @property
    def is_bare(self) -> bool:
        """Whether there is nothing but a prompt, which may go on with a conversation."""
        return not (self.system or self.template or self.raw or self.suffix or self.context)

    def to_chat_request(self, model: ModelInfo | None) -> ChatRequest:
        """Make what the engine takes.

        Raises:
            InvalidRequestError: or one below it.
        """
        refuse_images(self.images, "images")
        self._refuse(model)
        system = (Message(role="system", content=self.system),) if self.system else ()
        return self._to_chat_request(
            model, (*system, Message(role="user", content=self.prompt or ""))
        )

    def _refuse(self, model: ModelInfo | None) -> None:
        name = model.id if model else self.model
        reasons = {
            "suffix": f"\"{name}\" does not support insert: leave out 'suffix'",
            "template": "the model's own chat template is used: leave out 'template'",
            "raw": "the prompt always goes through the model's chat template: leave out 'raw'",
            "context": "answers have no 'context' here: send the conversation to /api/chat",
        }
        for field, reason in reasons.items():
            if getattr(self, field):
                raise UnsupportedFieldError(reason, param=field)
