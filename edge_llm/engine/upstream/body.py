"""A request as the body of OpenAI's chat completions, for servers that may know less than ours.

What OpenAI does not have, and what the node's settings don't name, is sent only if the request says
it: strict servers refuse a field that they don't know.
"""

from collections.abc import Sequence
from typing import Any

from edge_llm.protocol import ChatRequest, Message, TextFormat
from edge_llm.settings import EngineSettings

__all__ = ["make_body", "without_oldest"]

OWN_DEFAULTS = ("temperature", "top_p", "top_k", "min_p", "repeat_penalty", "repeat_last_n")
"""Fields for which the settings may have a value; it counts if somebody wrote it there."""

SAID = (
    "frequency_penalty", "presence_penalty", "seed", "stop", "logit_bias", "thinking_budget",
    "parallel_tool_calls", "logprobs", "top_logprobs",
)  # fmt: skip
"""Fields that are passed on as they are."""


def make_body(
    request: ChatRequest, conversation: Sequence[Message], settings: EngineSettings, model: str
) -> dict[str, Any]:
    """Make the body of a streamed completion of this conversation."""
    body: dict[str, Any] = {
        "model": model,
        "messages": [_message(message) for message in _with_system_turn(conversation, settings)],
        "stream": True,
        "stream_options": {"include_usage": True},
        # The older name: axllm, StackFlow and the RKLLM demo know no other.
        "max_tokens": request.max_tokens or settings.max_tokens,
    }
    for name in OWN_DEFAULTS:
        if (value := _said(name, request, settings)) is not None:
            body[name] = value
    body |= request.model_dump(mode="json", include=set(SAID), exclude_none=True)
    body |= _tools(request) | _form(request) | _thinking(request, settings)
    return body


def without_oldest(conversation: Sequence[Message]) -> tuple[Message, ...] | None:
    """Return a conversation without the older half of its turns; none if only one is left."""
    starts = [index for index, message in enumerate(conversation) if message.role == "user"]
    if len(starts) < 2:
        return None
    start = starts[len(starts) // 2]
    return tuple(
        message
        for index, message in enumerate(conversation)
        if index >= start or message.role in ("system", "developer")
    )


def _said(name: str, request: ChatRequest, settings: EngineSettings) -> Any:
    value = getattr(request, name)
    if value is None and name in settings.model_fields_set:
        value = getattr(settings, name)
    return value


def _with_system_turn(
    conversation: Sequence[Message], settings: EngineSettings
) -> Sequence[Message]:
    system = settings.system_prompt
    if system and not any(turn.role in ("system", "developer") for turn in conversation):
        return (Message(role="system", content=system), *conversation)
    return conversation


def _message(message: Message) -> dict[str, Any]:
    told = message.model_dump(mode="json", exclude_none=True)
    if message.role == "developer":  # which few chat templates know
        told["role"] = "system"
    return told


def _tools(request: ChatRequest) -> dict[str, Any]:
    if not request.usable_tools:
        return {}
    return request.model_dump(
        mode="json", include={"tools", "tool_choice"}, exclude_none=True, by_alias=True
    )


def _form(request: ChatRequest) -> dict[str, Any]:
    if request.choices is not None:
        # Nobody else has choices; a JSON string that is one of them is the same with quotes.
        schema = {"type": "string", "enum": list(request.choices)}
        named = {"name": "choice", "schema": schema, "strict": True}
        return {"response_format": {"type": "json_schema", "json_schema": named}}
    form = request.response_format
    if form is None or isinstance(form, TextFormat):
        return {}
    return {"response_format": form.model_dump(mode="json", exclude_none=True, by_alias=True)}


def _thinking(request: ChatRequest, settings: EngineSettings) -> dict[str, Any]:
    thinking = _said("enable_thinking", request, settings)
    if thinking is None:
        return {}
    # llama-server, vLLM, axllm and we read the template's argument, Ollama reads the effort.
    body: dict[str, Any] = {"chat_template_kwargs": {"enable_thinking": thinking}}
    return body if thinking else body | {"reasoning_effort": "none"}
