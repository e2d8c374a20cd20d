"""What the committed weights were trained on: the grammar's text for these seeds, and no other."""

from collections.abc import Iterator
from typing import NamedTuple

from edge_llm.tiny.grammar import make_dialogues

__all__ = ["ROUNDS", "Round", "training_dialogues"]

LONG_SHARE = 0.01
"""Dialogues of 8 to 26 turns, so that far positions are learned too."""


class Round(NamedTuple):
    """One rise and fall of the learning rate, over text that was not seen before."""

    seed: int
    num_dialogues: int
    num_steps: int
    peak: float
    """Share of the full learning rate."""

    def dialogues(self) -> Iterator[list[dict[str, str]]]:
        """Return the text of the round; the same on every machine."""
        return make_dialogues(self.seed, self.num_dialogues, LONG_SHARE)


ROUNDS = (
    Round(seed=1, num_dialogues=240_000, num_steps=3900, peak=1.0),
    Round(seed=2, num_dialogues=120_000, num_steps=1900, peak=0.5),
)


def training_dialogues() -> Iterator[list[dict[str, str]]]:
    """Return the text of all rounds."""
    for each in ROUNDS:
        yield from each.dialogues()
