"""The body of a legacy completion: prompts, and how each is to be answered."""

from typing import Annotated, Any, Self

from pydantic import Field, PlainValidator, model_validator

from bridges.http.openai.choices import make_choices
from bridges.http.openai.common_body import MAX_CHOICES, CommonBody
from bridges.http.openai.refusals import refuse_unless_neutral
from edge_llm.errors import InvalidRequestError, UnsupportedFieldError
from edge_llm.protocol import ChatRequest

__all__ = ["CompletionsBody"]

MAX_PROMPTS = 64

NEUTRAL: dict[str, tuple[object, ...]] = {
    "max_bytes": (),
    "echo": (False,),
    "suffix": ("",),
}
"""Fields that this version does not offer, and the values that ask for nothing; null is one."""


def _read_prompts(value: object) -> tuple[str, ...]:
    prompts = value if isinstance(value, list) else [value]
    for prompt in prompts:
        if isinstance(prompt, int | list) and not isinstance(prompt, bool):
            raise UnsupportedFieldError(
                "a prompt of token ids is not offered by this version of edge-llm: send text",
                param="prompt",
            )
        if not isinstance(prompt, str) or not prompt.strip():
            raise InvalidRequestError(
                "prompt: it is a text, or a list of texts, none of them empty", param="prompt"
            )
    if not 1 <= len(prompts) <= MAX_PROMPTS:
        raise InvalidRequestError(f"prompt: 1 to {MAX_PROMPTS} may be sent", param="prompt")
    return tuple(prompts)


class CompletionsBody(CommonBody):
    """The body of ``POST /v1/completions``.

    Models here are trained to chat, so each prompt is one turn of a user, with the chat template
    around it. Reasoning has no place in this reply: the model does none unless asked to, and what
    it does then is left out.
    """

    prompt: Annotated[
        tuple[str, ...], PlainValidator(_read_prompts, json_schema_input_type=str | list[str])
    ]
    """A text, or several of them, each of which is answered."""
    n: Annotated[int, Field(ge=1, le=MAX_CHOICES)] | None = None
    """How many answers to each prompt; each has the next seed."""
    best_of: Annotated[int, Field(ge=1, le=20)] | None = None
    """Refused if it is more than ``n``: no answer is thrown away."""
    logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    """Say how likely each token was, and so many others."""

    # Refused, unless the value is neutral.
    echo: Any = None
    suffix: Any = None

    @property
    def num_choices(self) -> int:
        """How many answers each prompt is given."""
        return self.n or 1

    @model_validator(mode="after")
    def _refuse_later_fields(self) -> Self:
        refuse_unless_neutral({name: getattr(self, name) for name in NEUTRAL}, NEUTRAL)
        if (self.best_of or 1) > self.num_choices:
            raise UnsupportedFieldError(
                "'best_of' is not offered by this version of edge-llm: leave it out",
                param="best_of",
            )
        return self

    def to_chat_requests(self, model: str | None) -> list[ChatRequest]:
        """Make what the engine takes, for a model whose name was looked up; by prompt.

        Raises:
            InvalidRequestError: or one below it; the fields don't go together.
        """
        return [
            chat
            for prompt in self.prompt
            for chat in make_choices(self._to_chat_request(model, prompt), self.num_choices)
        ]

    def _to_chat_request(self, model: str | None, prompt: str) -> ChatRequest:
        chat = self.make_chat_request(
            model=model,
            prompt=prompt,
            logprobs=None if self.logprobs is None else True,
            top_logprobs=self.logprobs,
        )
        if chat.enable_thinking is None:
            return chat.model_copy(update={"enable_thinking": False})
        return chat
