"""People who ask, cards that answer, and who waits for whom: what ``fleet_sim`` is made of."""

import argparse
import heapq
import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edge_llm.catalog.fit import card_speeds
from edge_llm.catalog.published import find_model

__all__ = ["Card", "Crowd", "Seconds", "find_card", "simulate"]

Seconds = NDArray[np.float64]

MIN_TOKENS = 1
UNKNOWN_TTFT_S = 0.5
"""Where nobody has published one."""


@dataclass(frozen=True, slots=True)
class Card:
    """How fast one card answers."""

    name: str
    tokens_per_s: float
    ttft_s: float
    source: str = "given"

    def service_s(self, tokens: NDArray[np.int64]) -> Seconds:
        """Return how long answers take, in seconds, of so many tokens each."""
        return self.ttft_s + (tokens - 1) / self.tokens_per_s


@dataclass(frozen=True, slots=True)
class Crowd:
    """What is asked, and when."""

    per_minute: float = 10.0
    """Requests at random moments."""
    burst: int = 0
    """Requests more in each burst."""
    burst_over_s: float = 30.0
    """How long a burst takes, in seconds; its requests are spread evenly at random."""
    burst_every_s: float = 1800.0
    """From the beginning of a burst to that of the next, in seconds."""
    tokens: float = 60.0
    """Of an answer, on average; log-normal."""
    spread: float = 0.5
    """Standard deviation of the tokens by their mean; 0: all answers are as long."""
    max_tokens: int = 256
    """Longer answers end there."""
    urgent: float = 0.0
    """Share of requests that go before all others."""

    def arrivals(self, duration_s: float, dice: np.random.Generator) -> Seconds:
        """Draw the moments of all requests, in order, in seconds from the beginning."""
        count = dice.poisson(self.per_minute / 60 * duration_s)
        moments = [dice.uniform(0, duration_s, count)]
        if self.burst:
            begins = np.arange(self.burst_every_s / 2, duration_s, self.burst_every_s)
            moments += [begin + dice.uniform(0, self.burst_over_s, self.burst) for begin in begins]
        return np.sort(np.concatenate(moments))

    def lengths(self, count: int, dice: np.random.Generator) -> NDArray[np.int64]:
        """Draw the tokens of so many answers."""
        variance = math.log1p(self.spread**2)
        drawn = dice.lognormal(math.log(self.tokens) - variance / 2, math.sqrt(variance), count)
        return np.clip(np.rint(drawn), MIN_TOKENS, self.max_tokens).astype(np.int64)


def simulate(
    arrivals: Seconds, services: Seconds, first: NDArray[np.bool_] | None = None
) -> tuple[Seconds, NDArray[np.int64]]:
    """Return when each request begins, and on which card.

    Args:
        arrivals: moments, in order, (requests,).
        services: how long each takes on each card, (cards, requests).
        first: which go before all others that wait, (requests,); none if not given.
    """
    begins, used = np.empty_like(arrivals), np.zeros(len(arrivals), np.int64)
    busy: list[tuple[float, int]] = []  # until when, and which card
    free = list(range(len(services)))
    waiting: list[tuple[bool, int]] = []
    is_patient = [True] * len(arrivals) if first is None else (~first).tolist()
    moments = arrivals.tolist()
    coming = 0
    while coming < len(moments) or waiting:
        if busy and (coming == len(moments) or busy[0][0] <= moments[coming]):
            now, card = heapq.heappop(busy)
            free.append(card)
        else:
            now = moments[coming]
            heapq.heappush(waiting, (is_patient[coming], coming))
            coming += 1
        while free and waiting:
            card, (_, number) = free.pop(0), heapq.heappop(waiting)  # who is free longest
            begins[number], used[number] = now, card
            heapq.heappush(busy, (now + float(services[card, number]), card))
    return begins, used


def find_card(text: str) -> Card:
    """Read ``qwen3-0.6b``, a published model, or ``15`` or ``15/0.4``: tokens/s and s to the first.

    Of a published model the first figure on a card counts; where its source has no time to the
    first token, the longest that was published for that model on a card, or else 0.5 s.

    Raises:
        argparse.ArgumentTypeError: it is neither, or nobody has published its speed.
    """
    if model := find_model(text):
        speeds = card_speeds(model)
        if not speeds:
            raise argparse.ArgumentTypeError(f"nobody has published the speed of {model.name}")
        known = [speed.ttft_s for speed in speeds if speed.ttft_s is not None]
        ttft_s = speeds[0].ttft_s
        if ttft_s is None:
            ttft_s = max(known, default=UNKNOWN_TTFT_S)
        return Card(model.name, speeds[0].tokens_per_s, ttft_s, f"{speeds[0].source}, published")
    try:
        speed, _, ttft = text.partition("/")
        card = Card(text, float(speed), float(ttft or UNKNOWN_TTFT_S))
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"{text!r} is no published model (edge-llm model list), and no speed such as 15/0.4"
        ) from None
    if not (0 < card.tokens_per_s < math.inf and 0 <= card.ttft_s < math.inf):
        raise argparse.ArgumentTypeError(f"{text!r}: a speed is above 0, and a time not below")
    return card
