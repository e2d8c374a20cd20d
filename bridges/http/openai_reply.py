"""OpenAI's chat objects, whole and in chunks.

``"content": null`` in the first delta is what llama.cpp sends and its tests demand; OpenAI's own
``""`` is the other choice, and no client minds null.
"""

import time
from uuid import uuid4

from bridges.http.bridge import Reply
from edge_llm.protocol import Delta, Done, Event, FinishReason, Started, Usage

__all__ = ["ChunkMaker", "make_completion", "make_id"]

FINISH_REASONS: dict[FinishReason, str] = {
    "stop": "stop",
    "length": "length",
    "tool_calls": "tool_calls",
    "cancelled": "length",  # the one word of OpenAI's that means "there should be more"
}


def make_id() -> str:
    """Make the id of a completion."""
    return f"chatcmpl-{uuid4().hex}"


def make_completion(request_id: str, model: str, reply: Reply) -> dict[str, object]:
    """Make the answer to a request that did not ask for a stream."""
    message: dict[str, object] = {"role": "assistant", "content": reply.text, "refusal": None}
    if reply.reasoning:
        message["reasoning_content"] = reply.reasoning
    choice = {
        "index": 0,
        "message": message,
        "logprobs": None,
        "finish_reason": FINISH_REASONS[reply.done.finish_reason],
    }
    return {
        "id": request_id,
        "object": "chat.completion",
        "created": int(time.time()),
        "model": model,
        "choices": [choice],
        "usage": _usage(reply.done.usage),
    }


class ChunkMaker:
    """Turns the events of one request into chunks; the first of them names the role."""

    def __init__(self, request_id: str, *, include_usage: bool) -> None:
        self.model = ""
        self._id = request_id
        self._created = int(time.time())
        self._include_usage = include_usage
        self._begun = False

    def make(self, event: Event) -> list[dict[str, object]]:
        """Make the chunks for one event; none for a step that gave no text."""
        chunks = []
        if not self._begun:
            self._begun = True
            chunks.append(self._chunk([_choice({"role": "assistant", "content": None})]))
        match event:
            case Started():
                pass
            case Delta():
                if delta := _delta(event):
                    chunks.append(self._chunk([_choice(delta)]))
            case Done():
                finish_reason = FINISH_REASONS[event.finish_reason]
                chunks.append(self._chunk([_choice({}, finish_reason)]))
                if self._include_usage:
                    chunks.append(self._chunk([]) | {"usage": _usage(event.usage)})
        return chunks

    def _chunk(self, choices: list[dict[str, object]]) -> dict[str, object]:
        chunk: dict[str, object] = {
            "id": self._id,
            "object": "chat.completion.chunk",
            "created": self._created,
            "model": self.model,
            "choices": choices,
        }
        return chunk | {"usage": None} if self._include_usage else chunk


def _delta(event: Delta) -> dict[str, object]:
    delta = {"reasoning_content": event.reasoning, "content": event.text}
    return {name: text for name, text in delta.items() if text}


def _choice(delta: dict[str, object], finish_reason: str | None = None) -> dict[str, object]:
    return {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}


def _usage(usage: Usage) -> dict[str, object]:
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
        "prompt_tokens_details": {"cached_tokens": usage.cached_tokens},
    }
