"""The requests of a node, whichever way they came: those in hand, and the latest that have ended.

``hear`` and ``end`` are called by the engine at each token: they note, and nothing more.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import get_args

from structlog.contextvars import get_contextvars

from bridges.http.page.ring import Ring
from bridges.http.page.status import EndedRequest, RequestInHand
from edge_llm.engine import Ended
from edge_llm.protocol import ChatRequest, Delta, Event, FinishReason, Queued, Started

__all__ = ["InHand", "Requests"]

MAX_ENDED = 50
MAX_IN_HAND = 512
"""A backstop; the queue's limit is far below. The oldest is forgotten then."""
MAX_ID_CHARS = 64
MAX_PROMPT_CHARS = 500
MAX_SAID_CHARS = 16_000
"""Of an answer in hand."""
MAX_ANSWER_CHARS = 2_000
"""Of one that has ended."""
FINISHED = frozenset({*get_args(FinishReason), "cancelled"})


@dataclass(slots=True)
class InHand:
    """A request that waits or is being answered; times are monotonic, in seconds."""

    number: int
    via: str | None
    id: str | None
    prompt: str
    at: float
    position: int | None = None
    started_at: float | None = None
    first_at: float | None = None
    tokens: int = 0
    chars: int = 0
    said: str = ""

    def note(self, event: Event, *, with_text: bool) -> None:
        """Note what happens to it."""
        match event:
            case Queued():
                self.position = event.position
            case Started():
                self.position, self.started_at = None, time.monotonic()
            case Delta():
                self.tokens += len(event.token_ids)
                if event.text:
                    self.first_at = self.first_at or time.monotonic()
                    self.chars += len(event.text)
                    if with_text and len(self.said) < MAX_SAID_CHARS:
                        self.said += event.text


class Requests:
    """Takes down what an engine's ``EngineStats`` tell.

    Args:
        texts: prompts and answers, too; without, they are not even kept.
        on_change: called at each change; True if it is more than another piece of an answer.
        now_s: the page's clock of a monotonic time, in seconds.
    """

    def __init__(
        self, *, texts: bool, on_change: Callable[[bool], None], now_s: Callable[[float], float]
    ) -> None:
        self.in_hand: dict[int, InHand] = {}
        """By number, oldest first."""
        self.ended: Ring[EndedRequest] = Ring(MAX_ENDED)
        self._texts = texts
        self._on_change = on_change
        self._now_s = now_s

    def hear(self, number: int, request: ChatRequest, event: Event | None) -> None:
        """Note what happens to a request."""
        if event is None:
            self.in_hand[number] = self._begin(number, request)
            if len(self.in_hand) > MAX_IN_HAND:
                del self.in_hand[next(iter(self.in_hand))]
        elif entry := self.in_hand.get(number):
            entry.note(event, with_text=self._texts)
        self._on_change(not isinstance(event, Delta))

    def end(self, ended: Ended) -> None:
        """Note that a request has ended."""
        if entry := self.in_hand.pop(ended.number, None):
            self.ended.add(self._ended(entry, ended))
        self._on_change(True)

    def forget_lost(self) -> None:
        """Forget those in hand; for when the engine has none."""
        if self.in_hand:
            self.in_hand.clear()
            self._on_change(True)

    def list_in_hand(self, most: int) -> list[RequestInHand]:
        """Return those that are being answered, then those that wait, in their order."""
        entries = sorted(self.in_hand.values(), key=_order)
        return [self._shown(entry) for entry in entries[:most]]

    def _begin(self, number: int, request: ChatRequest) -> InHand:
        bound = get_contextvars()
        via = bound.get("via") or ("http" if "request_id" in bound else None)
        name = str(bound["request_id"])[:MAX_ID_CHARS] if via in ("mqtt", "osc") else None
        prompt = request.conversation[-1].content[:MAX_PROMPT_CHARS] if self._texts else ""
        return InHand(number, via, name, prompt, time.monotonic())

    def _shown(self, entry: InHand) -> RequestInHand:
        return {
            "number": entry.number,
            "via": entry.via,
            "id": entry.id,
            "at_s": self._now_s(entry.at),
            "position": entry.position,
            "started_at_s": entry.started_at and self._now_s(entry.started_at),
            "first_at_s": entry.first_at and self._now_s(entry.first_at),
            "tokens": entry.tokens,
            "chars": entry.chars,
        }

    def _ended(self, entry: InHand, ended: Ended) -> EndedRequest:
        usage, timing = ended.usage, ended.timing
        shown: EndedRequest = {
            "number": entry.number,
            "via": entry.via,
            "id": entry.id,
            "at_s": self._now_s(entry.at),
            "ended_at_s": self._now_s(time.monotonic()),
            "outcome": ended.outcome,
            "has_failed": ended.outcome not in FINISHED,
            "prompt_tokens": usage.prompt_tokens,
            "cached_tokens": usage.cached_tokens,
            "completion_tokens": usage.completion_tokens,
            "queue_s": timing.queue_s,
            "ttft_s": timing.ttft_s,
            "total_s": timing.total_s,
            "tokens_per_s": timing.tokens_per_s,
        }
        if self._texts:
            shown["prompt"] = entry.prompt
            shown["answer"] = (ended.text or entry.said)[:MAX_ANSWER_CHARS]
        return shown


def _order(entry: InHand) -> tuple[bool, int, int]:
    return (entry.started_at is None, entry.position or 0, entry.number)
