"""Whether a published model fits a card, and what it says within a time."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from edge_llm.catalog.published import CMM_FREE_MIB, PublishedModel, PublishedSpeed
from edge_llm.errors import ConfigurationError

__all__ = [
    "Budget",
    "SpeedClass",
    "Verdict",
    "answer_s",
    "card_speeds",
    "fits",
    "meets",
    "nearest",
    "speed_class",
    "tokens_within",
]

SpeedClass = Literal["fast", "medium", "slow", "unknown"]
Verdict = Literal["yes", "perhaps", "no", "unknown"]

FAST_TOKENS_PER_S, MEDIUM_TOKENS_PER_S = 20.0, 10.0
"""A reply of 50 words, some 70 tokens, is there in 3.5 s, and in 7 s."""


@dataclass(frozen=True, slots=True)
class Budget:
    """So many tokens within so many seconds, from the request to the last token."""

    tokens: int
    seconds: float

    @classmethod
    def parse(cls, text: str) -> "Budget":
        """Read ``100/3``: 100 tokens in 3 seconds.

        Raises:
            ConfigurationError: it is written otherwise, or one of both is 0.
        """
        if match := re.fullmatch(r"(\d{1,6})/(\d{1,6}(?:\.\d{1,6})?)", text):
            budget = cls(int(match[1]), float(match[2]))
            if budget.tokens and budget.seconds:
                return budget
        raise ConfigurationError(f"{text!r}: write a budget as TOKENS/SECONDS, such as 100/3")


def card_speeds(model: PublishedModel) -> tuple[PublishedSpeed, ...]:
    """Return what is known of it on a card behind PCIe, with what newer figures replaced left out.

    What a board of the chip itself reaches tells little of a card: small models are half as fast
    there, as a token costs dozens of calls over the bus.
    """
    return tuple(s for s in model.speeds if s.host != "native" and not s.is_superseded)


def speed_class(model: PublishedModel) -> SpeedClass:
    """Return how fast it is, by the best figure that is not in doubt."""
    sure = [s.tokens_per_s for s in card_speeds(model) if s.certainty != "doubtful"]
    if not sure:
        return "unknown"
    if max(sure) >= FAST_TOKENS_PER_S:
        return "fast"
    return "medium" if max(sure) >= MEDIUM_TOKENS_PER_S else "slow"


def fits(model: PublishedModel, cmm_free_mib: int = CMM_FREE_MIB) -> bool | None:
    """Tell whether it fits into so much free card memory; None if nobody published what it takes.

    With a prefix cache for several conversations it takes more: ``edge-llm doctor`` says how much.
    """
    return None if model.cmm_mib is None else model.cmm_mib <= cmm_free_mib


def answer_s(model: PublishedModel, tokens: int) -> tuple[float, float] | None:
    """Return the shortest and the longest time that an answer takes by the published figures.

    Seconds from the request to the last of ``tokens``, for a prompt of one chunk. Where a source
    gives no time to the first token the model's shortest one counts, or none at all: then it is a
    bound from below. None if nobody published a speed.
    """
    speeds = card_speeds(model)
    if not speeds:
        return None
    shortest = min(_answer_s(model, speed, tokens, at_best=True) for speed in speeds)
    return shortest, max(_answer_s(model, speed, tokens, at_best=False) for speed in speeds)


def meets(model: PublishedModel, tokens: int, seconds: float) -> Verdict:
    """Tell whether an answer of so many tokens comes within a time.

    ``yes`` if it does by every figure that is not in doubt; ``perhaps`` if it does by one figure
    only, or by one that is in doubt; ``unknown`` if nobody published a speed.
    """
    times = answer_s(model, tokens)
    if times is None:
        return "unknown"
    sure = [s for s in card_speeds(model) if s.certainty != "doubtful"]
    if sure and all(_answer_s(model, s, tokens, at_best=False) <= seconds for s in sure):
        return "yes"
    return "perhaps" if times[0] <= seconds else "no"


def nearest(models: Iterable[PublishedModel], budget: Budget) -> list[PublishedModel]:
    """Return those with a published speed, that which comes nearest to the budget first."""
    timed = [(answer_s(model, budget.tokens), model) for model in models]
    known = [(times, model) for times, model in timed if times is not None]
    return [model for _, model in sorted(known, key=lambda pair: pair[0])]


def tokens_within(model: PublishedModel, seconds: float) -> tuple[int, int] | None:
    """Return how many tokens of an answer a time buys, by the worst figure and by the best.

    As for ``answer_s``, of which it is the reverse. None if nobody published a speed.
    """
    speeds = card_speeds(model)
    if not speeds:
        return None
    bought = [
        (seconds - _ttft_s(model, speed)) * rate
        for speed in speeds
        for rate in (speed.tokens_per_s, speed.up_to_tokens_per_s or speed.tokens_per_s)
    ]
    return max(0, int(min(bought))), max(0, int(max(bought)))


def _answer_s(model: PublishedModel, speed: PublishedSpeed, tokens: int, *, at_best: bool) -> float:
    rate = (at_best and speed.up_to_tokens_per_s) or speed.tokens_per_s
    return _ttft_s(model, speed) + tokens / rate


def _ttft_s(model: PublishedModel, speed: PublishedSpeed) -> float:
    if speed.ttft_s is not None:
        return speed.ttft_s
    return min((s.ttft_s for s in model.speeds if s.ttft_s is not None), default=0.0)
