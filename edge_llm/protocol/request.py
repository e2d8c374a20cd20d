"""Requests: what to generate, and how to deliver it."""

from typing import Annotated, Literal, Self

from pydantic import Field, field_validator, model_validator

from edge_llm.protocol.message import Message
from edge_llm.protocol.options import AnswerOptions
from edge_llm.protocol.tools import NamedTool, Tool, ToolChoice
from edge_llm.protocol.wire import NonEmptyText, Wire

__all__ = ["SESSION_NAME", "ChatRequest", "MqttRequest"]

SESSION_NAME = r"^[A-Za-z0-9_.-]{1,64}$"
"""One topic level, as in ``llm/session/<name>/reset``."""

TokenId = Annotated[int, Field(ge=0)]


class ChatRequest(AnswerOptions, Wire):
    """What to generate. Field names are OpenAI's wherever OpenAI has one."""

    prompt: str | None = None
    """A single user turn; give this or ``messages``."""
    messages: Annotated[tuple[Message, ...], Field(min_length=1)] | None = None
    """The conversation, oldest turn first, the last one being the turn to answer."""
    model: str | None = None
    """A model of this node; the node's only one by default."""
    logit_bias: dict[TokenId, Annotated[float, Field(ge=-100, le=100)]] | None = None
    """Added to the logits of these token ids."""
    tools: Annotated[tuple[Tool, ...], Field(max_length=128)] | None = None
    """Functions that the model may ask to have called."""
    tool_choice: ToolChoice | None = None
    """``auto`` if not given; the arguments of a call always keep to its schema."""
    parallel_tool_calls: bool | None = None
    """False: at most one call in an answer."""
    logprobs: bool | None = None
    """Say how likely each token of the answer was."""
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    """And how likely so many others were; needs ``logprobs``."""
    priority: Annotated[int, Field(ge=0, le=9)] = 5
    """A higher one goes ahead of lower ones that wait."""
    preempt: bool = False
    """Pause a running request of lower priority, which goes on afterwards."""
    overflow: Literal["error", "drop_oldest"] | None = None
    """What to do with a conversation that is longer than the context: refuse it, which is what is
    done if nobody says, or leave out the oldest turns."""

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
        if value is not None and not value[-1].content.strip() and value[-1].role != "tool":
            raise ValueError("the last message is empty")
        return value

    @model_validator(mode="after")
    def _has_one_conversation(self) -> Self:
        if (self.prompt is None) == (self.messages is None):
            raise ValueError("give either 'prompt' or 'messages'")
        return self

    @model_validator(mode="after")
    def _has_one_form(self) -> Self:
        if self.choices is not None and self.response_format is not None:
            raise ValueError("give either 'choices' or 'response_format'")
        if self.top_logprobs is not None and not self.logprobs:
            raise ValueError("'top_logprobs' needs \"logprobs\": true")
        return self

    @model_validator(mode="after")
    def _has_its_tools(self) -> Self:
        names = [tool.function.name for tool in self.tools or ()]
        if len(set(names)) < len(names):
            raise ValueError("tools: two functions have the same name")
        if isinstance(self.tool_choice, NamedTool):
            if self.tool_choice.function.name not in names:
                raise ValueError(
                    f"tool_choice: there is no function {self.tool_choice.function.name!r} in tools"
                )
        elif self.tool_choice == "required" and not names:
            raise ValueError("tool_choice: 'required' needs tools")
        return self

    @property
    def usable_tools(self) -> tuple[Tool, ...]:
        """The tools that the model is shown: none if it must not call any."""
        return () if self.tool_choice == "none" else self.tools or ()

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
    """Publish deltas on ``.../delta``: every piece of text, whole words, or whole sentences;
    ``true`` is ``"token"``."""
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
