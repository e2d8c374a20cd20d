"""What the bodies of all of OpenAI's requests have in common."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from edge_llm.protocol import AnswerOptions, ChatRequest, Wire, translate

__all__ = ["MAX_CHOICES", "CommonBody", "Effort", "StreamOptions"]

MAX_CHOICES = 8
"""They are generated one after another: eight take eight times as long."""

Effort = Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"]


class StreamOptions(BaseModel):
    """How to stream."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    include_usage: bool | None = None
    """Send the counts of tokens in a chunk of their own, before the end."""
    include_obfuscation: bool | None = None
    """Ignored: padding against eavesdroppers on TLS."""


class ChatTemplateKwargs(BaseModel):
    """Arguments of the chat template, as vLLM and llama.cpp take them."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    enable_thinking: bool | None = None
    thinking_budget: int | None = None


class CommonBody(AnswerOptions, Wire):
    """What may be said in every dialect, with the extras of ``ChatRequest``.

    The engine's own type checks the values once more, when a request is made of the body.
    """

    model: str | None = None
    """A model of this node, or a name that an alias lets through."""
    logit_bias: (
        dict[Annotated[int, Field(ge=0)], Annotated[float, Field(ge=-100, le=100)]] | None
    ) = None
    """Added to the logits of these token ids."""
    priority: Annotated[int, Field(ge=0, le=9)] = 5
    """A higher one goes ahead of lower ones that wait."""
    preempt: bool = False
    """Pause a running request of lower priority, which goes on afterwards."""
    overflow: Literal["error", "drop_oldest"] | None = None
    """Refuse a conversation that is longer than the context, or leave out its oldest turns."""
    stream: bool | None = None
    """Send the answer in pieces, as server-sent events."""
    stream_options: StreamOptions | None = None
    repetition_penalty: Annotated[float, Field(ge=0.01, le=4)] | None = None
    """vLLM's name of ``repeat_penalty``, which wins over it."""
    chat_template_kwargs: ChatTemplateKwargs | None = None
    reasoning_effort: Effort | None = None
    """None and minimal mean no thinking, the others mean thinking; ``enable_thinking`` wins."""

    # Ignored: they change nothing in the text, or are no more than a wish.
    user: str | None = None
    metadata: dict[str, str] | None = None
    store: bool | None = None
    service_tier: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
    prompt_cache_options: dict[str, Any] | None = None
    prompt_cache_retention: str | None = None

    @property
    def include_usage(self) -> bool:
        """Whether the stream ends with a chunk of token counts."""
        return bool(self.stream_options and self.stream_options.include_usage)

    def make_chat_request(self, **fields: object) -> ChatRequest:
        """Make what the engine takes.

        Args:
            fields: what differs from the body's field of the same name, or is missing in it.

        Raises:
            InvalidRequestError: or one below it; the fields don't go together.
        """
        names = ChatRequest.model_fields.keys() & type(self).model_fields.keys()
        shared = {name: getattr(self, name) for name in names}
        kwargs = self.chat_template_kwargs or ChatTemplateKwargs()
        shared["repeat_penalty"] = _first(self.repeat_penalty, self.repetition_penalty)
        shared["thinking_budget"] = _first(self.thinking_budget, kwargs.thinking_budget)
        shared["enable_thinking"] = _first(
            self.enable_thinking, kwargs.enable_thinking, thinks(self.reasoning_effort)
        )
        if self.response_format and self.response_format.type == "text":
            shared["response_format"] = None
        try:
            return ChatRequest(**{**shared, **fields})
        except ValidationError as exc:
            error = translate(exc)
            field = error.message.partition(":")[0]  # the one that does not go with another
            error.param = error.param or (field if field in names else None)
            raise error from exc


def thinks(effort: Effort | None) -> bool | None:
    """Tell whether an effort means to reason first."""
    return None if effort is None else effort not in ("none", "minimal")


def _first(*values: Any) -> Any:
    return next((value for value in values if value is not None), None)
