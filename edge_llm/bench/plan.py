"""How much is measured, and for how long at most."""

from dataclasses import dataclass
from typing import Literal

__all__ = ["FULL", "SHORT", "Plan"]


@dataclass(frozen=True, slots=True)
class Plan:
    """The extent of a run; on a slow machine the limits of time come first.

    Attributes:
        lengths: prompts to measure, in tokens; those that the context has no room for are not.
        rounds: how often each is measured, and how many answers the rest is the middle of.
        prefill_s: no further prompt is begun after this, in seconds; one is always measured.
        decode_tokens: how many tokens to decode.
        decode_s: no further answer is begun, and none goes on, after this.
    """

    name: Literal["full", "short"]
    lengths: tuple[int, ...]
    rounds: int
    prefill_s: float
    decode_tokens: int
    decode_s: float


FULL = Plan("full", (32, 128, 512, 1024), 3, prefill_s=60.0, decode_tokens=256, decode_s=60.0)
SHORT = Plan("short", (128, 512), 1, prefill_s=10.0, decode_tokens=48, decode_s=12.0)
