"""The body of a response: what is honoured, what is ignored, and what is refused by name."""

from typing import Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainValidator,
    model_validator,
)

from bridges.http.openai.common_body import CommonBody, Effort, thinks
from bridges.http.openai.refusals import refuse_unless_neutral
from bridges.http.openai.responses_input import InputItem, read_input
from bridges.http.openai.tools import (
    MAX_TOOLS,
    FlatTool,
    NamedFlatTool,
    functions_only,
    nested_choice,
    read_choice,
)
from edge_llm.errors import UnknownFieldError
from edge_llm.protocol import (
    ChatRequest,
    JsonObjectFormat,
    JsonSchema,
    JsonSchemaFormat,
    Message,
    ResponseFormat,
    TextFormat,
)

__all__ = ["FlatJsonSchemaFormat", "ResponsesBody"]

NEUTRAL: dict[str, tuple[object, ...]] = {
    "max_bytes": (),
    "previous_response_id": (),  # nothing is stored: the conversation comes whole each time
    "conversation": (),
    "prompt": (),
    "background": (False,),
    "context_management": ([],),
    "moderation": (),
}
"""Fields that this version does not offer, and the values that ask for nothing; null is one."""

RENAMED = {
    "max_tokens": "max_output_tokens",
    "response_format": "text.format",
    "reasoning_effort": "reasoning.effort",
}
"""Fields of chat completions, and what they are called here."""

LOGPROBS = "message.output_text.logprobs"


class FlatJsonSchemaFormat(JsonSchema):
    """JSON that a schema allows, as ``/v1/responses`` writes it: type and schema side by side."""

    type: Literal["json_schema"]

    def to_format(self) -> JsonSchemaFormat:
        """Return it as the engine takes it."""
        schema = JsonSchema(
            name=self.name, description=self.description, schema=self.schema_, strict=self.strict
        )
        return JsonSchemaFormat(type="json_schema", json_schema=schema)


class TextOptions(BaseModel):
    """The form of the text."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    format: Annotated[
        TextFormat | JsonObjectFormat | FlatJsonSchemaFormat | None, Field(discriminator="type")
    ] = None
    """Text, JSON, or JSON of a schema."""
    verbosity: Literal["low", "medium", "high"] | None = None
    """Ignored: no more than a wish."""


class ReasoningOptions(BaseModel):
    """Whether to reason first."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    effort: Effort | None = None
    """None and minimal mean no thinking, the others mean thinking; ``enable_thinking`` wins."""
    summary: str | None = None
    """Ignored: reasoning is given whole."""
    generate_summary: str | None = None
    """Ignored."""
    context: str | None = None
    """Ignored."""
    mode: str | None = None
    """Ignored."""


class ResponsesBody(CommonBody):
    """The body of ``POST /v1/responses``, with the extras of ``ChatRequest``; nothing is stored."""

    input: Annotated[
        tuple[Message, ...],
        PlainValidator(read_input, json_schema_input_type=str | list[InputItem]),
    ]
    """A text, or the items of a conversation: messages, calls and their results."""
    instructions: str | None = None
    """What the model is to be, before the conversation."""
    max_output_tokens: Annotated[int, Field(ge=1, le=1_000_000)] | None = None
    """Most tokens to generate, reasoning included."""
    tools: Annotated[
        Annotated[tuple[FlatTool, ...], Field(max_length=MAX_TOOLS)] | None,
        BeforeValidator(functions_only),
    ] = None
    """Functions that the model may ask to have called."""
    tool_choice: Annotated[
        Literal["auto", "none", "required"] | NamedFlatTool | None,
        BeforeValidator(read_choice(NamedFlatTool)),
    ] = None
    """``auto`` if not given; the arguments of a call always keep to its schema."""
    parallel_tool_calls: bool | None = None
    """False: at most one call in an answer."""
    text: TextOptions | None = None
    reasoning: ReasoningOptions | None = None
    include: tuple[str, ...] | None = None
    """``message.output_text.logprobs`` is honoured, the others are ignored."""
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    """Say how likely each token was, and so many others."""
    truncation: Literal["auto", "disabled"] | None = None
    """``auto`` leaves out the oldest turns of what is longer than the context."""
    max_tool_calls: int | None = None
    """Ignored: it is about tools that OpenAI would run itself."""

    # Refused, unless the value is neutral.
    previous_response_id: Any = None
    conversation: Any = None
    prompt: Any = None
    background: Any = None
    context_management: Any = None
    moderation: Any = None

    @model_validator(mode="after")
    def _refuse_later_fields(self) -> Self:
        refuse_unless_neutral({name: getattr(self, name) for name in NEUTRAL}, NEUTRAL)
        for theirs, ours in RENAMED.items():
            if getattr(self, theirs) is not None:
                raise UnknownFieldError(
                    f"there is no field '{theirs}' in a response: it is '{ours}'", param=theirs
                )
        return self

    def to_chat_request(self, model: str | None) -> ChatRequest:
        """Make what the engine takes, for a model whose name was looked up.

        Raises:
            InvalidRequestError: or one below it; the fields don't go together.
        """
        instructions = (
            (Message(role="system", content=self.instructions),) if self.instructions else ()
        )
        must_call = self.tool_choice not in (None, "auto", "none")
        has_logprobs = bool(self.top_logprobs) or LOGPROBS in (self.include or ())
        return self.make_chat_request(
            model=model,
            prompt=None,
            messages=(*instructions, *self.input),
            max_tokens=self.max_output_tokens,
            tools=tuple(tool.to_tool() for tool in self.tools) if self.tools else None,
            tool_choice=nested_choice(self.tool_choice) if self.tools or must_call else None,
            parallel_tool_calls=self.parallel_tool_calls if self.tools else None,
            response_format=self._format(),
            logprobs=has_logprobs or None,
            top_logprobs=self.top_logprobs if has_logprobs else None,
            overflow=self.overflow or ("drop_oldest" if self.truncation == "auto" else None),
            **self._thinking(),
        )

    def _thinking(self) -> dict[str, bool]:
        effort = thinks(self.reasoning.effort) if self.reasoning else None
        plainer = self.enable_thinking is not None or (
            self.chat_template_kwargs and self.chat_template_kwargs.enable_thinking is not None
        )
        return {} if effort is None or plainer else {"enable_thinking": effort}

    def _format(self) -> ResponseFormat | None:
        form = self.text.format if self.text else None
        if isinstance(form, FlatJsonSchemaFormat):
            return form.to_format()
        return form if isinstance(form, JsonObjectFormat) else None
