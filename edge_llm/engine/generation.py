"""Token ids to logits: chunked prefill, decode, and the prefix that stays in the KV cache.

Row n of the cache belongs to the token at position n, and ``cached_ids`` says which tokens the
rows hold. A new prompt keeps the rows of the longest prefix that it shares with them, to the
token; the last token of a prompt is always computed, because its logits are needed. A row counts
only when all layers have stored it, so a run that was given up, or that failed half way, leaves
nothing behind but rows that will be written again.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_llm.engine.model import EmbeddingTable, Geometry
from edge_llm.npu.layer import Chunk, HostLayer
from edge_llm.npu.session import Session

__all__ = ["ModelRunner"]

CALL_COST_TOKENS = 8  # what a run costs beyond its tokens; measured on the CPU at 128, 16 and 1
HIDDEN = -65536.0  # added to a score: exact in bf16, and exp() of it is 0 (ax-llm, LLM_init.cpp)


@dataclass
class ModelRunner:
    """Runs a model's graphs for one conversation after another.

    Args:
        layers: in order, each with its own cache.
        post: final norm and lm_head, ``(1, 1, hidden)`` to ``(1, 1, vocab)``.
        embedding: token ids to ``(n, hidden)`` rows.
        geometry: as read from the graphs.
    """

    layers: Sequence[HostLayer]
    post: Session
    embedding: EmbeddingTable
    geometry: Geometry
    cached_ids: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        info = self.post.inputs(0)["input"]
        self._dtype = info.dtype
        self._history_masks: dict[int, NDArray[Any]] = {}

    def shared_prefix_len(self, token_ids: Sequence[int]) -> int:
        """Return how many tokens of a prompt need not be computed again."""
        longest = min(len(self.cached_ids), len(token_ids) - 1)
        return next(
            (n for n in range(longest) if self.cached_ids[n] != token_ids[n]), max(longest, 0)
        )

    def prefill(self, token_ids: Sequence[int]) -> Iterator[NDArray[np.float32] | None]:
        """Compute a prompt, chunk by chunk; stop iterating to give it up.

        Yields:
            None after each chunk but the last; the logits ``(vocab,)`` of the last token then.
        """
        start = self.shared_prefix_len(token_ids)
        while start < len(token_ids):
            group, num_tokens = self._choose_group(start, len(token_ids) - start)
            stop = start + num_tokens
            hidden = self._run_layers(token_ids[start:stop], start, group)
            start = stop
            yield self._logits(hidden, num_tokens - 1) if stop == len(token_ids) else None

    def decode(self, token_id: int) -> NDArray[np.float32]:
        """Compute one more token; return the logits ``(vocab,)`` of the next."""
        return self._logits(self._run_layers([token_id], len(self.cached_ids), 0), 0)

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
            chunk_len = min(able, key=lambda length: (_cost(num_tokens, length), -length))
        return able[chunk_len][1], min(num_tokens, chunk_len)

    def _run_layers(self, token_ids: Sequence[int], start: int, group: int) -> NDArray[Any]:
        del self.cached_ids[start:]
        chunk_len, _ = self.geometry.groups[group]
        num_tokens = len(token_ids)
        hidden = np.zeros((1, chunk_len, self.geometry.hidden_size), self._dtype)
        hidden[0, :num_tokens] = self.embedding.rows(token_ids)
        positions = np.zeros((1, chunk_len), np.uint32)
        positions[0, :num_tokens] = np.arange(start, start + num_tokens)
        chunk = Chunk(group, start, num_tokens, positions, self._mask(group, start))
        for layer in self.layers:
            hidden = layer.run(hidden, chunk)
        self.cached_ids.extend(token_ids)
        return hidden

    def _mask(self, group: int, start: int) -> NDArray[Any]:
        chunk_len, history_len = self.geometry.groups[group]
        mask = self._history_masks.get(group)
        if mask is None:
            mask = np.full((1, chunk_len, history_len + chunk_len), HIDDEN, self._dtype)
            mask[0, :, history_len:] = np.triu(mask[0, :, history_len:], 1)  # causal
            self._history_masks[group] = mask
        mask[..., :start] = 0
        mask[..., start:history_len] = HIDDEN
        return mask

    def _logits(self, hidden: NDArray[Any], row: int) -> NDArray[np.float32]:
        last = np.ascontiguousarray(hidden[:, row : row + 1])
        logits = self.post.run({"input": last})["output"]
        return np.asarray(logits, np.float32).reshape(-1)


def _cost(num_tokens: int, chunk_len: int) -> int:
    """Return what so many tokens cost in chunks of this length, counted in tokens."""
    num_chunks = -(-num_tokens // chunk_len)
    return num_chunks * (chunk_len + CALL_COST_TOKENS)
