"""Which way to drive this card: the fastest that agrees with the safest.

The vendor's documents leave open whether rows may be written in place, whether layers may share a
mask, and what may be queued; reports differ. So the same tokens are computed by prefill in the safe
way, and then by decode and by prefill in each faster way, until one gives the same logits. Wrong
rows anywhere, in any layer, change the logits after the last token, which looks at all of them.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edge_llm.errors import DeviceError
from edge_llm.npu.card import SAFE, VARIANTS, CardStack, Variant

__all__ = ["NUM_TOKENS", "SelfTest", "choose_variant"]

NUM_TOKENS = 200
LARGEST_DIFFERENCE = 0.05
"""Of the logits' norm. Rounding in another order differs by less than 0.01, a lost row by more."""


@dataclass(frozen=True, slots=True)
class SelfTest:
    """What came of it.

    Attributes:
        variant: the way that the stack goes now.
        rejected: ways that were faster, and why they were not taken.
        num_tokens: how many tokens were compared.
        duration_s: how long it took.
    """

    variant: Variant
    rejected: tuple[tuple[Variant, str], ...]
    num_tokens: int
    duration_s: float


def choose_variant(
    stack: CardStack,
    hidden: NDArray[np.float32],
    groups: Sequence[tuple[int, int]],
    report: Callable[[], None] = lambda: None,
) -> SelfTest:
    """Try the variants, and leave the stack with the fastest that is right.

    Args:
        stack: its first slot is overwritten.
        hidden: rows of the embedding table, ``(n, hidden)``, n at most the history.
        groups: ``(chunk_len, history_len)`` of each shape group.
        report: called between runs; may raise to give up.

    Raises:
        DeviceError: not even the safe way works.
    """
    began = time.monotonic()
    stack.use(SAFE)
    wanted = _prefill(stack, hidden, groups, report)
    rejected: list[tuple[Variant, str]] = []
    for variant in VARIANTS:
        if (why := _try(stack, variant, hidden, groups, wanted, report)) is None:
            break
        rejected.append((variant, why))
    else:
        raise DeviceError(
            f"prefill and decode disagree on {len(hidden)} tokens in every way of driving the "
            f"card ({rejected[-1][1]}): the model files or the driver are broken"
        )
    return SelfTest(variant, tuple(rejected), len(hidden), time.monotonic() - began)


def _try(  # noqa: PLR0917
    stack: CardStack,
    variant: Variant,
    hidden: NDArray[np.float32],
    groups: Sequence[tuple[int, int]],
    wanted: NDArray[np.float32],
    report: Callable[[], None],
) -> str | None:
    """Return why a variant is not right; None if it is."""
    try:
        stack.use(variant)
        for name, compute in (("decode", _decode), ("prefill", _prefill)):
            difference = _difference(compute(stack, hidden, groups, report), wanted)
            if not difference <= LARGEST_DIFFERENCE:  # NaN too
                return f"{name} differs by {difference:.1%}"
    except DeviceError as exc:
        if exc.is_lost:
            raise
        return exc.message
    return None


def _decode(
    stack: CardStack,
    hidden: NDArray[np.float32],
    groups: Sequence[tuple[int, int]],
    report: Callable[[], None],
) -> NDArray[np.float32]:
    for position in range(len(hidden) - 1):
        stack.run(0, hidden[position : position + 1], position, 0, logits=False)
        report()
    return _logits(stack, hidden[-1:], len(hidden) - 1, 0)


def _prefill(
    stack: CardStack,
    hidden: NDArray[np.float32],
    groups: Sequence[tuple[int, int]],
    report: Callable[[], None],
) -> NDArray[np.float32]:
    start = 0
    while True:
        able = [
            (-chunk_len, history_len, group)
            for group, (chunk_len, history_len) in enumerate(groups)
            if history_len >= start
        ]
        length, _, group = min(able)
        chunk = hidden[start : start - length]
        if start + len(chunk) == len(hidden):
            return _logits(stack, chunk, start, group)
        stack.run(0, chunk, start, group, logits=False)
        start += len(chunk)
        report()


def _logits(
    stack: CardStack, hidden: NDArray[np.float32], start: int, group: int
) -> NDArray[np.float32]:
    logits = stack.run(0, hidden, start, group, logits=True)
    assert logits is not None
    return logits.copy()


def _difference(logits: NDArray[np.float32], wanted: NDArray[np.float32]) -> float:
    return float(np.linalg.norm(logits - wanted) / np.linalg.norm(wanted))
