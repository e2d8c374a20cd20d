"""Responses as objects: what was asked, what came of it, and the items of the output."""

import time
from collections.abc import Sequence
from typing import Any, Literal, NotRequired
from uuid import uuid4

from typing_extensions import TypedDict

from bridges.http.openai.logprobs import TokenObject
from bridges.http.openai.responses_body import FlatJsonSchemaFormat, ResponsesBody
from edge_llm.errors import EdgeLLMError, InvalidRequestError, RateLimitedError
from edge_llm.protocol import Done, Usage

__all__ = [
    "OutputItem",
    "Part",
    "ResponseObject",
    "Status",
    "StreamEvent",
    "begin_response",
    "end_response",
    "fail_response",
    "status_of",
]

Status = Literal["in_progress", "completed", "incomplete", "failed"]
Code = Literal["server_error", "rate_limit_exceeded", "invalid_prompt"]

CODES: dict[type[EdgeLLMError], Code] = {
    RateLimitedError: "rate_limit_exceeded",
    InvalidRequestError: "invalid_prompt",
}
"""What OpenAI calls our errors; all others are ``server_error``."""


class Part(TypedDict):
    """Text, of the answer or of the reasoning before it."""

    type: Literal["output_text", "reasoning_text"]
    text: str
    annotations: NotRequired[list[Any]]
    """Always empty."""
    logprobs: NotRequired[list[TokenObject]]


class OutputItem(TypedDict):
    """A message, reasoning, or the call of a function."""

    id: str
    type: Literal["message", "reasoning", "function_call"]
    status: Status
    role: NotRequired[Literal["assistant"]]
    content: NotRequired[list[Part]]
    summary: NotRequired[list[Any]]
    """Of reasoning; always empty."""
    call_id: NotRequired[str]
    name: NotRequired[str]
    arguments: NotRequired[str]


class InputTokensDetails(TypedDict):
    """What the prompt's tokens were."""

    cached_tokens: int
    cache_write_tokens: int
    """Always 0: writing to the cache costs nothing."""


class OutputTokensDetails(TypedDict):
    """What the answer's tokens were."""

    reasoning_tokens: int


class ResponseUsage(TypedDict):
    """What a request cost."""

    input_tokens: int
    input_tokens_details: InputTokensDetails
    output_tokens: int
    output_tokens_details: OutputTokensDetails
    total_tokens: int


class ResponseError(TypedDict):
    """Why a stream failed after it had begun."""

    code: Code
    message: str


class IncompleteDetails(TypedDict):
    """Why there should be more."""

    reason: Literal["max_output_tokens"]


class ResponseObject(TypedDict):
    """The reply, or how far it has come."""

    id: str
    object: Literal["response"]
    created_at: int
    completed_at: int | None
    status: Status
    background: Literal[False]
    error: ResponseError | None
    incomplete_details: IncompleteDetails | None
    instructions: str | None
    max_output_tokens: int | None
    max_tool_calls: int | None
    metadata: dict[str, str]
    model: str
    output: list[OutputItem]
    parallel_tool_calls: bool
    previous_response_id: None
    prompt_cache_key: str | None
    reasoning: dict[str, str | None]
    safety_identifier: str | None
    service_tier: Literal["default"]
    temperature: float | None
    text: dict[str, Any]
    tool_choice: str | dict[str, str]
    tools: list[dict[str, Any]]
    top_logprobs: int
    top_p: float | None
    truncation: Literal["auto", "disabled"]
    usage: ResponseUsage | None
    user: str | None


class StreamEvent(TypedDict, total=False):
    """One object of a stream; which of the fields there are goes by its type."""

    type: str
    sequence_number: int
    response: ResponseObject
    output_index: int
    item: OutputItem
    item_id: str
    content_index: int
    part: Part
    delta: str
    text: str
    arguments: str
    logprobs: list[Any]


def begin_response(body: ResponsesBody, model: str) -> ResponseObject:
    """Make the object of a response that has just begun: most of it is what was asked."""
    choice = body.tool_choice or "auto"
    return {
        "id": f"resp_{uuid4().hex}",
        "object": "response",
        "created_at": int(time.time()),
        "completed_at": None,
        "status": "in_progress",
        "background": False,
        "error": None,
        "incomplete_details": None,
        "instructions": body.instructions,
        "max_output_tokens": body.max_output_tokens,
        "max_tool_calls": body.max_tool_calls,
        "metadata": body.metadata or {},
        "model": model,
        "output": [],
        "parallel_tool_calls": body.parallel_tool_calls is not False,
        "previous_response_id": None,
        "prompt_cache_key": body.prompt_cache_key,
        "reasoning": {"effort": body.reasoning.effort if body.reasoning else None, "summary": None},
        "safety_identifier": body.safety_identifier,
        "service_tier": "default",
        "temperature": body.temperature,
        "text": {"format": _format(body)},
        "tool_choice": choice if isinstance(choice, str) else choice.model_dump(),
        "tools": [
            {
                "type": "function",
                "name": tool.name,
                "description": tool.description,
                "parameters": tool.parameters,
                "strict": tool.strict,
            }
            for tool in body.tools or ()
        ],
        "top_logprobs": body.top_logprobs or 0,
        "top_p": body.top_p,
        "truncation": body.truncation or "disabled",
        "usage": None,
        "user": body.user,
    }


def status_of(done: Done) -> Literal["completed", "incomplete"]:
    """Tell whether the answer is whole."""
    return "completed" if done.finish_reason in ("stop", "tool_calls") else "incomplete"


def end_response(begun: ResponseObject, output: Sequence[OutputItem], done: Done) -> ResponseObject:
    """Make the object of a response that has ended."""
    ended: ResponseObject = {**begun, "output": list(output), "usage": _usage(done.usage)}
    ended["status"] = status = status_of(done)
    if status == "completed":
        ended["completed_at"] = int(time.time())
    else:
        ended["incomplete_details"] = {"reason": "max_output_tokens"}
    return ended


def fail_response(
    begun: ResponseObject, output: Sequence[OutputItem], error: EdgeLLMError
) -> ResponseObject:
    """Make the object of a response that failed after it had begun."""
    failed: ResponseObject = {**begun, "output": list(output), "status": "failed"}
    failed["error"] = {
        "code": next(
            (code for cls, code in CODES.items() if isinstance(error, cls)), "server_error"
        ),
        "message": f"{error.message} ({error.code})",
    }
    return failed


def _format(body: ResponsesBody) -> dict[str, Any]:
    form = body.text.format if body.text else None
    if isinstance(form, FlatJsonSchemaFormat):
        return {
            "type": "json_schema",
            "name": form.name,
            "description": form.description,
            "schema": form.schema_,
            "strict": form.strict,
        }
    return {"type": form.type if form else "text"}


def _usage(usage: Usage) -> ResponseUsage:
    return {
        "input_tokens": usage.prompt_tokens,
        "input_tokens_details": {"cached_tokens": usage.cached_tokens, "cache_write_tokens": 0},
        "output_tokens": usage.completion_tokens,
        "output_tokens_details": {"reasoning_tokens": usage.reasoning_tokens},
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
    }
