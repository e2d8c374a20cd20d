"""The stack: a model's layers and its post graph, with the KV caches of some slots.

Row n of a slot's cache belongs to the token at position n. A run takes the rows before its first
token as history, whatever the shape group could see beyond them is masked, and stores the rows of
its own tokens. So keeping a prefix means nothing more than writing the next rows after it.
"""

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

__all__ = ["HIDDEN", "Stack", "causal_mask"]

HIDDEN = -65536.0  # added to a score: exact in bf16, and exp() of it is 0 (ax-llm, LLM_init.cpp)


class Stack(Protocol):
    """Runs hidden states through all layers; not for use by two threads at once."""

    @property
    def num_slots(self) -> int:
        """How many sequences it keeps at a time."""
        ...

    @property
    def call_cost_tokens(self) -> int:
        """What a run costs beyond its tokens, counted in tokens; measured or from facts."""
        ...

    def run(
        self, slot: int, hidden: NDArray[np.float32], start: int, group: int, *, logits: bool
    ) -> NDArray[np.float32] | None:
        """Compute tokens at consecutive positions, and store their rows.

        Args:
            slot: the sequence that they belong to.
            hidden: their rows of the embedding table, ``(n, hidden)``; at most a chunk.
            start: position of the first; so many rows of the slot are history.
            group: the shape group to run.
            logits: whether the logits after the last token are wanted.

        Returns:
            The logits ``(vocab,)``, if they are wanted; valid until the next run.

        Raises:
            DeviceError: the run failed; rows from ``start`` on must be written again.
        """
        ...

    def close(self) -> None:
        """Give back what the device holds."""
        ...


def causal_mask(chunk_len: int, history_len: int) -> NDArray[np.float32]:
    """Return ``(chunk, history + chunk)``: all history hidden, each token sees itself and before.

    The vendor's contract is additive: 0 where a token may look, -65536 elsewhere.
    """
    mask = np.full((chunk_len, history_len + chunk_len), HIDDEN, np.float32)
    mask[:, history_len:] = np.triu(mask[:, history_len:], 1)
    return mask
