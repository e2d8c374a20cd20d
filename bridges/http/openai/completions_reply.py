"""Legacy completions as objects, whole and in chunks, which have the same shape."""

import time
from collections.abc import Callable, Iterator, Sequence
from typing import Literal, NotRequired
from uuid import uuid4

from typing_extensions import TypedDict

from bridges.http.bridge import Reply
from bridges.http.openai.logprobs import LegacyLogprobs, make_legacy_logprobs
from bridges.http.openai.usage import UsageObject, make_usage
from edge_llm.protocol import Delta, Done, Event, FinishReason, TokenLogprob, Usage

__all__ = ["Completion", "CompletionMaker", "make_completion"]

Finish = Literal["stop", "length"]


class CompletionChoice(TypedDict):
    """One of the answers, or its next piece."""

    index: int
    text: str
    logprobs: LegacyLogprobs | None
    finish_reason: Finish | None


class Completion(TypedDict):
    """The reply, or one object of a stream."""

    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    choices: list[CompletionChoice]
    usage: NotRequired[UsageObject | None]


def make_completion(model: str, replies: Sequence[Reply], per_prompt: int) -> Completion:
    """Make the reply of all answers, ``per_prompt`` to each prompt."""
    return {
        "id": _make_id(),
        "object": "text_completion",
        "created": int(time.time()),
        "model": model,
        "choices": [
            {
                "index": index,
                "text": reply.text,
                "logprobs": _logprobs(reply.logprobs, 0),
                "finish_reason": _finish(reply.done.finish_reason),
            }
            for index, reply in enumerate(replies)
        ],
        "usage": make_usage([reply.done.usage for reply in replies], per_prompt),
    }


class CompletionMaker:
    """Turns the events of one request into chunks.

    Args:
        name_model: gives the name of the model that answers, which is known once it has begun.
        per_prompt: how many answers each prompt has.
        include_usage: add the counts of tokens, in a chunk of its own.
    """

    def __init__(
        self, name_model: Callable[[], str], per_prompt: int, *, include_usage: bool
    ) -> None:
        self._name_model = name_model
        self._per_prompt = per_prompt
        self._include_usage = include_usage
        self._id = _make_id()
        self._created = int(time.time())
        self._usages: list[Usage] = []
        self._tokens: list[TokenLogprob] = []
        self._offset = 0

    def make(self, index: int, event: Event) -> Iterator[Completion]:
        """Make the chunk for one event; none for a step that gave no text."""
        match event:
            case Delta():
                self._tokens += event.logprobs
                if event.text:
                    yield self._chunk(index, event.text)
            case Done():
                self._usages.append(event.usage)
                yield self._chunk(index, "", _finish(event.finish_reason))
                self._offset = 0

    def end(self) -> Iterator[Completion]:
        """Make what comes after the last choice."""
        if self._include_usage:
            chunk = self._wrap([])
            chunk["usage"] = make_usage(self._usages, self._per_prompt)
            yield chunk

    def _chunk(self, index: int, text: str, finish_reason: Finish | None = None) -> Completion:
        logprobs = _logprobs(self._tokens, self._offset)
        self._offset += sum(len(token.token) for token in self._tokens)
        self._tokens = []
        return self._wrap(
            [{"index": index, "text": text, "logprobs": logprobs, "finish_reason": finish_reason}]
        )

    def _wrap(self, choices: list[CompletionChoice]) -> Completion:
        chunk: Completion = {
            "id": self._id,
            "object": "text_completion",
            "created": self._created,
            "model": self._name_model(),
            "choices": choices,
        }
        if self._include_usage:
            chunk["usage"] = None
        return chunk


def _make_id() -> str:
    return f"cmpl-{uuid4().hex}"


def _finish(reason: FinishReason) -> Finish:
    return "stop" if reason in ("stop", "tool_calls") else "length"


def _logprobs(tokens: Sequence[TokenLogprob], offset: int) -> LegacyLogprobs | None:
    return make_legacy_logprobs(tokens, offset) if tokens else None
