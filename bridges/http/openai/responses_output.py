"""The items of a response's output: each is opened, grows, and is closed, with an event for each.

A reply that is not streamed goes the same way, and its events are thrown away: so the two can't
differ.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any
from uuid import uuid4

from typing_extensions import override

from bridges.http.openai.logprobs import make_token_objects
from bridges.http.openai.responses_reply import OutputItem, Part, Status, StreamEvent
from edge_llm.protocol import TokenLogprob

__all__ = ["Call", "Message", "Output", "Reasoning"]


class Output(ABC):
    """An item that grows."""

    def __init__(self, prefix: str) -> None:
        self._id = f"{prefix}_{uuid4().hex}"

    def open(self) -> Iterator[StreamEvent]:
        """Make the events of its beginning."""
        item = self.item("in_progress")
        parts = item.get("content", [])
        if parts:
            item["content"] = []
        yield {"type": "response.output_item.added", "item": item}
        yield from self._of_parts("response.content_part.added", parts)

    def close(self, status: Status) -> Iterator[StreamEvent]:
        """Make the events of its end."""
        item = self.item(status)
        yield self._whole()
        yield from self._of_parts("response.content_part.done", item.get("content", []))
        yield {"type": "response.output_item.done", "item": item}

    @abstractmethod
    def item(self, status: Status) -> OutputItem:
        """Make the item as it is by now."""

    @abstractmethod
    def _whole(self) -> StreamEvent:
        """Make the event that says all that the item has."""

    def _of_parts(self, kind: str, parts: Sequence[Part]) -> Iterator[StreamEvent]:
        for index, part in enumerate(parts):
            yield {"type": kind, "item_id": self._id, "content_index": index, "part": part}


class Reasoning(Output):
    """What the model thinks before it answers."""

    def __init__(self) -> None:
        super().__init__("rs")
        self._text = ""

    def add(self, text: str) -> StreamEvent:
        """Make the event of the next piece of text."""
        self._text += text
        return {
            "type": "response.reasoning_text.delta",
            "item_id": self._id,
            "content_index": 0,
            "delta": text,
        }

    @override
    def item(self, status: Status) -> OutputItem:
        return {
            "id": self._id,
            "type": "reasoning",
            "status": status,
            "summary": [],
            "content": [{"type": "reasoning_text", "text": self._text}],
        }

    @override
    def _whole(self) -> StreamEvent:
        return {
            "type": "response.reasoning_text.done",
            "item_id": self._id,
            "content_index": 0,
            "text": self._text,
        }


class Message(Output):
    """The answer."""

    def __init__(self) -> None:
        super().__init__("msg")
        self._text = ""
        self._tokens: list[TokenLogprob] = []

    def add(self, text: str, tokens: Sequence[TokenLogprob]) -> StreamEvent:
        """Make the event of the next piece of text, with the tokens that it is made of."""
        self._text += text
        self._tokens += tokens
        return {
            "type": "response.output_text.delta",
            "item_id": self._id,
            "content_index": 0,
            "delta": text,
            "logprobs": _short_logprobs(tokens),
        }

    @override
    def item(self, status: Status) -> OutputItem:
        return {
            "id": self._id,
            "type": "message",
            "status": status,
            "role": "assistant",
            "content": [
                {
                    "type": "output_text",
                    "text": self._text,
                    "annotations": [],
                    "logprobs": make_token_objects(self._tokens),
                }
            ],
        }

    @override
    def _whole(self) -> StreamEvent:
        return {
            "type": "response.output_text.done",
            "item_id": self._id,
            "content_index": 0,
            "text": self._text,
            "logprobs": _short_logprobs(self._tokens),
        }


class Call(Output):
    """A call that the model asks for."""

    def __init__(self, call_id: str, name: str) -> None:
        super().__init__("fc")
        self._call_id = call_id
        self._name = name
        self._arguments = ""

    def add(self, arguments: str) -> StreamEvent:
        """Make the event of the next piece of the arguments."""
        self._arguments += arguments
        return {
            "type": "response.function_call_arguments.delta",
            "item_id": self._id,
            "delta": arguments,
        }

    @override
    def item(self, status: Status) -> OutputItem:
        return {
            "id": self._id,
            "type": "function_call",
            "status": status,
            "call_id": self._call_id,
            "name": self._name,
            "arguments": self._arguments,
        }

    @override
    def _whole(self) -> StreamEvent:
        return {
            "type": "response.function_call_arguments.done",
            "item_id": self._id,
            "arguments": self._arguments,
        }


def _short_logprobs(tokens: Sequence[TokenLogprob]) -> list[Any]:
    """Describe tokens as events do: without their bytes."""
    return [
        {
            "token": token.token,
            "logprob": token.logprob,
            "top_logprobs": [
                {"token": top.token, "logprob": top.logprob} for top in token.top_logprobs
            ],
        }
        for token in tokens
    ]
