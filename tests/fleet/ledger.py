"""What was asked, what was heard of it, and whether that is right."""

import json
import statistics
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

__all__ = ["Asked", "Ledger"]


@dataclass(slots=True)
class Asked:
    """One request. Times are on the monotonic clock, in seconds.

    Attributes:
        at: when it was published.
        payload: of the request.
        started: when a node said that it began; at QoS 0, so some are missing.
        finals: final messages.
    """

    id: str
    at: float
    payload: bytes = b""
    started: list[float] = field(default_factory=list)
    finals: list[tuple[float, bytes]] = field(default_factory=list)

    @property
    def answer(self) -> dict[str, Any]:
        """The first final message."""
        answer: dict[str, Any] = json.loads(self.finals[0][1])
        return answer

    @property
    def ended_at(self) -> float:
        """When the first final message came."""
        return self.finals[0][0]

    @property
    def took_s(self) -> float:
        """From the question to its answer."""
        return self.ended_at - self.at


class Ledger:
    """All requests of a run."""

    def __init__(self) -> None:
        self.asked: dict[str, Asked] = {}
        self.strangers = 0
        """Final messages that nobody asked for."""

    def ask(self, request_id: str) -> Asked:
        """Note that a request is about to be published."""
        asked = self.asked[request_id] = Asked(request_id, time.monotonic())
        return asked

    def hear(self, suffix: str, payload: bytes) -> Asked | None:
        """Note a message below ``llm/response/``; return the request that it was final for."""
        now = time.monotonic()
        if suffix.endswith("/event"):
            asked = self.asked.get(suffix.removesuffix("/event"))
            if asked and json.loads(payload)["event"] == "started":
                asked.started.append(now)
            return None
        asked = self.asked.get(suffix)
        if asked is None:
            self.strangers += 1
            return None
        asked.finals.append((now, payload))
        return asked

    @property
    def lost(self) -> list[str]:
        """Requests without any final message."""
        return [asked.id for asked in self.asked.values() if not asked.finals]

    @property
    def repeated(self) -> int:
        """How many were told the same more than once, as QoS 1 allows."""
        return sum(len(asked.finals) > 1 for asked in self.asked.values())

    @property
    def contradicted(self) -> list[str]:
        """Requests with two final messages that differ in any byte."""
        return [
            asked.id
            for asked in self.asked.values()
            if len({payload for _, payload in asked.finals}) > 1
        ]

    @property
    def answered(self) -> list[Asked]:
        """Requests with a final message."""
        return [asked for asked in self.asked.values() if asked.finals]

    @property
    def errors(self) -> Counter[str]:
        """Final messages that are none that was wanted, by code."""
        answers = (asked.answer for asked in self.answered)
        return Counter(answer["error"]["code"] for answer in answers if "error" in answer)

    @property
    def by_node(self) -> Counter[str]:
        """How many answers each node gave."""
        return Counter(asked.answer.get("node", "") for asked in self.answered)

    def takeovers(self, blows: Sequence[float]) -> list[float]:
        """Return how long after a node was gone each request that it held began again, in seconds.

        Args:
            blows: when nodes went.
        """
        return [took_s for _, took_s in self.takeovers_at(blows)]

    def takeovers_at(self, blows: Sequence[float]) -> list[tuple[float, float]]:
        """Return the same with the time of each blow before it."""
        times = []
        for asked in self.answered:
            if len(asked.started) < 2 or "error" in asked.answer:
                continue
            first, again = asked.started[0], asked.started[-1]
            # Who held it is not told: the earliest blow since then, so never too short a time.
            if between := [at for at in blows if first <= at <= again]:
                times.append((min(between), again - min(between)))
        return times

    def summary(self, blows: Sequence[float] = ()) -> dict[str, Any]:
        """Return the figures of a run."""
        times = sorted(asked.took_s for asked in self.answered) or [0.0]
        takeovers = sorted(self.takeovers(blows))
        return {
            "asked": len(self.asked),
            "answered": len(self.answered),
            "lost": len(self.lost),
            "contradicted": len(self.contradicted),
            "repeated": self.repeated,
            "errors": dict(self.errors),
            "median_s": round(statistics.median(times), 3),
            "longest_s": round(times[-1], 3),
            "takeovers": len(takeovers),
            "takeover_median_s": round(statistics.median(takeovers), 3) if takeovers else None,
            "takeover_longest_s": round(takeovers[-1], 3) if takeovers else None,
            "by_node": dict(sorted(self.by_node.items())),
        }
