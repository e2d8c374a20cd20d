"""What goes out for one request: deltas if it asked for them, then exactly one final message.

Pure bookkeeping: it makes messages and sends none.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from pydantic import BaseModel

from edge_llm.errors import EdgeLLMError
from edge_llm.protocol import (
    Delta,
    DeltaPayload,
    Done,
    ErrorBody,
    MqttRequest,
    Response,
    Topics,
)
from edge_llm.sentences import SentenceSplitter, cut_to_bytes

__all__ = ["Outgoing", "Reply"]


@dataclass(frozen=True, slots=True)
class Outgoing:
    """A message to publish."""

    topic: str
    payload: bytes
    content_type: str


class Reply:
    """The reply to one request, as it grows.

    Args:
        topics: where replies go.
        request_id: as in the request's topic.
        as_json: JSON replies, or bare text.
        request: as far as it could be read.
    """

    def __init__(
        self, topics: Topics, request_id: str, *, as_json: bool, request: MqttRequest | None = None
    ) -> None:
        self._topics = topics
        self._id = request_id
        self._as_json = as_json
        self._stream = request.stream if request else False
        self._max_bytes = request.max_bytes if request else None
        self._model = request.model if request else None
        self._sentences = SentenceSplitter()
        self._text = ""
        self._reasoning = ""
        self._seq = 0

    def add(self, delta: Delta) -> Iterator[Outgoing]:
        """Take a piece of text; yield what can be streamed of it now."""
        self._text += delta.text
        self._reasoning += delta.reasoning
        if self._stream == "token" and delta.text:
            yield self._delta(delta.text)
        elif self._stream == "sentence":
            yield from map(self._delta, self._sentences.add(delta.text))

    def finish(self, done: Done | None) -> Iterator[Outgoing]:
        """Yield the last delta, if there is one left, and the final message.

        Without ``done`` the request was cancelled, and the text is what there was until then.
        """
        yield from map(self._delta, self._sentences.finish())
        text = cut_to_bytes(self._text, self._max_bytes) if self._max_bytes else self._text
        if not self._as_json:
            yield Outgoing(self._topics.response(self._id), text.encode(), "text/plain")
            return
        yield self._json(
            self._topics.response(self._id),
            Response(
                id=self._id,
                node=self._topics.node,
                model=self._model,
                text=text,
                reasoning=self._reasoning or None,
                finish_reason=done.finish_reason if done else "cancelled",
                usage=done.usage if done else None,
                timing=done.timing if done else None,
            ),
        )

    def fail(self, error: EdgeLLMError) -> Outgoing:
        """Return the final message of a request that failed.

        Bare-text clients get ``code: message`` on the error topic, so that no sign ever shows, and
        no loudspeaker says, an error as if it were an answer.
        """
        if self._as_json:
            body = ErrorBody.from_error(error)
            response = Response(id=self._id, node=self._topics.node, model=self._model, error=body)
            return self._json(self._topics.response(self._id), response)
        text = f"{error.code}: {error.message}"
        return Outgoing(self._topics.response(self._id, "error"), text.encode(), "text/plain")

    def refuse(self, error: EdgeLLMError) -> Outgoing:
        """Return the answer to a request whose id is taken: not on the topic of the other one."""
        topic = self._topics.response(self._id, "error")
        if self._as_json:
            return self._json(topic, ErrorBody.from_error(error))
        return Outgoing(topic, f"{error.code}: {error.message}".encode(), "text/plain")

    def name_model(self, model: str) -> None:
        """Say which model answers, if the request did not choose one."""
        self._model = self._model or model

    def _delta(self, text: str) -> Outgoing:
        topic = self._topics.response(self._id, "delta")
        seq, self._seq = self._seq, self._seq + 1
        if self._as_json:
            return self._json(topic, DeltaPayload(seq=seq, text=text))
        return Outgoing(topic, text.encode(), "text/plain")

    @staticmethod
    def _json(topic: str, payload: BaseModel) -> Outgoing:
        body = payload.model_dump_json(exclude_none=True).encode()
        return Outgoing(topic, body, "application/json")
