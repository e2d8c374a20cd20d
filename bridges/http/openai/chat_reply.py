"""Chat completions as objects, whole and in chunks.

``"content": null`` in the first delta is what llama.cpp sends and its tests demand; OpenAI's own
``""`` is the other choice, and no client minds null. A tool call begins with a chunk of its own
that has its id and name, and no arguments; the chunks after that have only its index and a piece
of the arguments, which is what llama.cpp's tests and OpenAI's accumulators count on.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from typing import Literal, NotRequired
from uuid import uuid4

from typing_extensions import TypedDict

from bridges.http.bridge import Reply
from bridges.http.openai.logprobs import TokenObject, make_token_objects
from bridges.http.openai.usage import UsageObject, make_usage
from edge_llm.protocol import (
    Delta,
    Done,
    Event,
    FinishReason,
    TokenLogprob,
    ToolCall,
    ToolCallDelta,
    Usage,
)

__all__ = [
    "FINISH_REASONS",
    "ChatCompletion",
    "ChatCompletionChunk",
    "ChunkMaker",
    "make_completion",
]

Finish = Literal["stop", "length", "tool_calls"]

FINISH_REASONS: dict[FinishReason, Finish] = {
    "stop": "stop",
    "length": "length",
    "tool_calls": "tool_calls",
    "time_budget": "length",  # the one word of OpenAI's that means "there should be more"
    "cancelled": "length",
}


class FunctionObject(TypedDict):
    """Which function is to be called, with what."""

    name: str
    arguments: str


class ToolCallObject(TypedDict):
    """A call that the model asks for."""

    id: str
    type: Literal["function"]
    function: FunctionObject


class AssistantMessage(TypedDict):
    """The answer."""

    role: Literal["assistant"]
    content: str | None
    refusal: None
    reasoning_content: NotRequired[str]
    tool_calls: NotRequired[list[ToolCallObject]]


class Logprobs(TypedDict):
    """How likely the tokens of the answer were."""

    content: list[TokenObject]
    refusal: None


class Choice(TypedDict):
    """One of the answers."""

    index: int
    message: AssistantMessage
    logprobs: Logprobs | None
    finish_reason: Finish


class ChatCompletion(TypedDict):
    """The reply to a request that did not ask for a stream."""

    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    choices: list[Choice]
    usage: UsageObject


class FunctionPiece(TypedDict):
    """A function's name, or a piece of its arguments."""

    name: NotRequired[str]
    arguments: str


class ToolCallPiece(TypedDict):
    """The next piece of a call."""

    index: int
    id: NotRequired[str]
    type: NotRequired[Literal["function"]]
    function: FunctionPiece


class DeltaObject(TypedDict, total=False):
    """The next piece of an answer."""

    role: Literal["assistant"]
    content: str | None
    reasoning_content: str
    tool_calls: list[ToolCallPiece]


class ChunkChoice(TypedDict):
    """The next piece of one of the answers."""

    index: int
    delta: DeltaObject
    logprobs: Logprobs | None
    finish_reason: Finish | None


class ChatCompletionChunk(TypedDict):
    """One object of a stream."""

    id: str
    object: Literal["chat.completion.chunk"]
    created: int
    model: str
    choices: list[ChunkChoice]
    usage: NotRequired[UsageObject | None]


def make_completion(model: str, replies: Sequence[Reply]) -> ChatCompletion:
    """Make the reply of all answers."""
    return {
        "id": _make_id(),
        "object": "chat.completion",
        "created": int(time.time()),
        "model": model,
        "choices": [
            {
                "index": index,
                "message": _message(reply),
                "logprobs": _logprobs(reply.logprobs),
                "finish_reason": FINISH_REASONS[reply.done.finish_reason],
            }
            for index, reply in enumerate(replies)
        ],
        "usage": make_usage([reply.done.usage for reply in replies], len(replies)),
    }


class ChunkMaker:
    """Turns the events of one request into chunks; the first one of each choice names the role.

    Args:
        name_model: gives the name of the model that answers, which is known once it has begun.
        include_usage: add the counts of tokens, in a chunk of its own.
    """

    def __init__(self, name_model: Callable[[], str], *, include_usage: bool) -> None:
        self._name_model = name_model
        self._id = _make_id()
        self._created = int(time.time())
        self._model: str | None = None
        self._include_usage = include_usage
        self._usages: list[Usage] = []
        self._begun = -1
        self._tokens: list[TokenLogprob] = []

    def make(self, index: int, event: Event) -> Iterator[ChatCompletionChunk]:
        """Make the chunks for one event; none for a step that gave no text."""
        if self._begun < index:
            self._begun = index
            yield self._chunk(index, {"role": "assistant", "content": None})
        match event:
            case Delta():
                yield from self._pieces(index, event)
            case Done():
                self._usages.append(event.usage)
                yield self._chunk(index, {}, FINISH_REASONS[event.finish_reason])

    def end(self) -> Iterator[ChatCompletionChunk]:
        """Make what comes after the last choice."""
        if self._include_usage:
            chunk = self._wrap([])
            chunk["usage"] = make_usage(self._usages, len(self._usages))
            yield chunk

    def _pieces(self, index: int, event: Delta) -> Iterator[ChatCompletionChunk]:
        self._tokens += event.logprobs
        delta: DeltaObject = {}
        if event.reasoning:
            delta["reasoning_content"] = event.reasoning
        if event.text:
            delta["content"] = event.text
        if delta:
            yield self._chunk(index, delta)
        for call in event.tool_calls:
            for piece in _call_pieces(call):
                yield self._chunk(index, {"tool_calls": [piece]})

    def _chunk(
        self, index: int, delta: DeltaObject, finish_reason: Finish | None = None
    ) -> ChatCompletionChunk:
        # Tokens wait for the text that they are a part of, or for the end.
        logprobs = None
        if self._tokens and ("content" in delta or finish_reason):
            logprobs = _logprobs(self._tokens)
            self._tokens = []
        return self._wrap(
            [{"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": finish_reason}]
        )

    def _wrap(self, choices: list[ChunkChoice]) -> ChatCompletionChunk:
        if self._model is None:
            self._model = self._name_model()
        chunk: ChatCompletionChunk = {
            "id": self._id,
            "object": "chat.completion.chunk",
            "created": self._created,
            "model": self._model,
            "choices": choices,
        }
        if self._include_usage:
            chunk["usage"] = None
        return chunk


def _make_id() -> str:
    return f"chatcmpl-{uuid4().hex}"


def _message(reply: Reply) -> AssistantMessage:
    message: AssistantMessage = {
        "role": "assistant",
        "content": None if reply.tool_calls and not reply.text else reply.text,
        "refusal": None,
    }
    if reply.reasoning:
        message["reasoning_content"] = reply.reasoning
    if reply.tool_calls:
        message["tool_calls"] = [_call(call) for call in reply.tool_calls]
    return message


def _call(call: ToolCall) -> ToolCallObject:
    return {
        "id": call.id,
        "type": "function",
        "function": {"name": call.function.name, "arguments": call.function.arguments},
    }


def _call_pieces(call: ToolCallDelta) -> Iterator[ToolCallPiece]:
    if call.name is not None:
        yield {
            "index": call.index,
            "id": call.id or "",
            "type": "function",
            "function": {"name": call.name, "arguments": ""},
        }
    if call.arguments:
        yield {"index": call.index, "function": {"arguments": call.arguments}}


def _logprobs(tokens: Sequence[TokenLogprob]) -> Logprobs | None:
    return {"content": make_token_objects(tokens), "refusal": None} if tokens else None
