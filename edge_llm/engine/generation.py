"""Token ids to logits: chunked prefill, decode, and the prefixes that stay in the KV caches.

Row n of a slot's cache belongs to the token at position n, and ``cached_ids`` says which tokens
the rows hold. A new prompt keeps the rows of the longest prefix that it shares with them, to the
token; the last token of a prompt is always computed, because its logits are needed. A row counts
only when all layers have stored it, so a run that was given up, or that failed half way, leaves
nothing behind but rows that will be written again.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from edge_llm.engine.model import EmbeddingTable, Geometry
from edge_llm.npu.stack import Stack

__all__ = ["ModelRunner"]


@dataclass(slots=True)
class _Slot:
    """What the rows of one of the stack's slots belong to."""

    index: int
    cached_ids: list[int] = field(default_factory=list)
    last_used: int = 0

    def shared_prefix_len(self, token_ids: Sequence[int]) -> int:
        longest = max(min(len(self.cached_ids), len(token_ids) - 1), 0)
        return next((n for n in range(longest) if self.cached_ids[n] != token_ids[n]), longest)


class ModelRunner:
    """Runs a stack for one conversation after another.

    Args:
        stack: layers, post graph and caches.
        embedding: token ids to ``(n, hidden)`` rows.
        geometry: as read from the graphs.
    """

    def __init__(self, stack: Stack, embedding: EmbeddingTable, geometry: Geometry) -> None:
        self.geometry = geometry
        self._stack, self._embedding = stack, embedding
        self._slots = [_Slot(index) for index in range(stack.num_slots)]
        self._slot = self._slots[0]
        self._num_prompts = 0

    @property
    def cached_ids(self) -> list[int]:
        """The tokens whose rows the slot in use holds."""
        return self._slot.cached_ids

    def shared_prefix_len(self, token_ids: Sequence[int]) -> int:
        """Return how many tokens of a prompt need not be computed again."""
        return self._slot_for(token_ids).shared_prefix_len(token_ids)

    def prefill(self, token_ids: Sequence[int]) -> Iterator[NDArray[np.float32] | None]:
        """Compute a prompt, chunk by chunk; stop iterating to give it up.

        Yields:
            None after each chunk but the last; the logits ``(vocab,)`` of the last token then,
            valid until the next run.
        """
        self._slot = self._slot_for(token_ids)
        self._num_prompts += 1
        self._slot.last_used = self._num_prompts
        start = self._slot.shared_prefix_len(token_ids)
        while start < len(token_ids):
            group, num_tokens = self._choose_group(start, len(token_ids) - start)
            stop = start + num_tokens
            yield self._run(token_ids[start:stop], start, group, logits=stop == len(token_ids))
            start = stop

    def decode(self, token_id: int) -> NDArray[np.float32]:
        """Compute one more token; return the logits ``(vocab,)``, valid until the next run."""
        logits = self._run([token_id], len(self._slot.cached_ids), 0, logits=True)
        assert logits is not None
        return logits

    def close(self) -> None:
        """Give back what the device holds."""
        self._stack.close()

    def _slot_for(self, token_ids: Sequence[int]) -> _Slot:
        """Return the slot with the longest common prefix.

        But one that would lose more than it keeps is left alone: a free slot takes its place, or
        the one that was used least recently.
        """
        best = max(self._slots, key=lambda slot: slot.shared_prefix_len(token_ids))
        if 2 * best.shared_prefix_len(token_ids) >= len(best.cached_ids):
            return best
        return min(self._slots, key=lambda slot: slot.last_used)  # 0 while it is free

    def _choose_group(self, start: int, num_tokens: int) -> tuple[int, int]:
        """Return the shape group for the next tokens, and how many of them it takes.

        The longest chunk while it can be filled; for the rest the length that costs least with
        its padding. Of the groups of that length the one with the smallest history that reaches
        back to the beginning. Group 0 always qualifies.
        """
        able: dict[int, tuple[int, int]] = {}
        for group, (chunk_len, history_len) in enumerate(self.geometry.groups):
            if history_len >= start:
                able[chunk_len] = min(
                    able.get(chunk_len, (history_len, group)), (history_len, group)
                )
        chunk_len = max(able)
        if num_tokens < chunk_len:
            chunk_len = min(able, key=lambda length: (self._cost(num_tokens, length), -length))
        return able[chunk_len][1], min(num_tokens, chunk_len)

    def _cost(self, num_tokens: int, chunk_len: int) -> int:
        """Return what so many tokens cost in chunks of this length, counted in tokens."""
        num_chunks = -(-num_tokens // chunk_len)
        return num_chunks * (chunk_len + self._stack.call_cost_tokens)

    def _run(
        self, token_ids: Sequence[int], start: int, group: int, *, logits: bool
    ) -> NDArray[np.float32] | None:
        cached_ids = self._slot.cached_ids
        del cached_ids[start:]
        hidden = self._embedding.rows(token_ids)
        result = self._stack.run(self._slot.index, hidden, start, group, logits=logits)
        cached_ids.extend(token_ids)
        return result
