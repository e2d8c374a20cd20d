"""A stack whose KV caches lie in the host's memory, over any Session.

The graph contract is the vendor's (ax-llm, LLM_decode.cpp): K and V of the tokens before are fed
with each run, the rows of the new tokens come out, and the caller stores them.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_llm.npu.session import Session
from edge_llm.npu.stack import HIDDEN, causal_mask

__all__ = ["HostStack"]


class HostStack:
    """A ``Stack``; each slot takes two arrays of ``(1, history, kv_dim)`` per layer.

    Args:
        layers: in order.
        post: final norm and lm_head, ``(1, 1, hidden)`` to ``(1, 1, vocab)``.
        num_slots: sequences to keep.
        call_cost_tokens: see ``Stack``.
    """

    def __init__(
        self,
        layers: Sequence[Session],
        post: Session,
        *,
        num_slots: int = 1,
        call_cost_tokens: int = 8,  # ONNX Runtime on the CPU, measured at 128, 16 and 1
    ) -> None:
        self.num_slots, self.call_cost_tokens = num_slots, call_cost_tokens
        self._layers, self._post = layers, post
        first = layers[0]
        self._dtype = first.inputs()["input"].dtype
        self._groups = [_Group(first, group) for group in range(first.num_groups)]
        shape, dtype = first.inputs()["K_cache"].shape, first.inputs()["K_cache"].dtype
        # Zeroed: a NaN in a hidden row would still reach the sum, as NaN times 0.
        self._caches = [
            [(np.zeros(shape, dtype), np.zeros(shape, dtype)) for _ in layers]
            for _ in range(num_slots)
        ]

    def run(
        self, slot: int, hidden: NDArray[np.float32], start: int, group: int, *, logits: bool
    ) -> NDArray[np.float32] | None:
        """Compute tokens; see ``Stack.run``."""
        num_tokens, shapes = len(hidden), self._groups[group]
        states = np.zeros((1, shapes.chunk_len, hidden.shape[1]), self._dtype)
        states[0, :num_tokens] = hidden
        positions = np.zeros((1, shapes.chunk_len), np.uint32)
        positions[0, :num_tokens] = np.arange(start, start + num_tokens)
        mask = shapes.mask_for(start)
        for layer, (keys, values) in zip(self._layers, self._caches[slot], strict=True):
            out = layer.run(
                {
                    "K_cache": keys[:, : shapes.cache_rows],
                    "V_cache": values[:, : shapes.cache_rows],
                    "indices": positions,
                    "input": states,
                    "mask": mask,
                },
                group,
            )
            # The last position of the context has no row: nothing comes after it.
            stop = min(start + num_tokens, keys.shape[1])
            keys[0, start:stop] = out["K_cache_out"][0, : stop - start]
            values[0, start:stop] = out["V_cache_out"][0, : stop - start]
            states = out["output"]
        if not logits:
            return None
        last = np.ascontiguousarray(states[:, num_tokens - 1 : num_tokens])
        (output,) = self._post.run({"input": last}).values()
        return np.asarray(output, np.float32).reshape(-1)

    def close(self) -> None:
        """Do nothing: sessions end with their last reference, or with the process (axengine)."""


class _Group:
    """The sizes of a shape group, and its mask."""

    def __init__(self, layer: Session, group: int) -> None:
        inputs = layer.inputs(group)
        self.chunk_len = inputs["input"].shape[1]
        self.cache_rows = inputs["K_cache"].shape[1]  # one more than none, in the vendor's files
        self._history_len = inputs["mask"].shape[-1] - self.chunk_len
        self._dtype = inputs["mask"].dtype
        self._mask: NDArray[Any] | None = None

    def mask_for(self, start: int) -> NDArray[Any]:
        if self._mask is None:
            mask = causal_mask(self.chunk_len, self._history_len)
            self._mask = np.ascontiguousarray(mask[None], self._dtype)
        self._mask[..., :start] = 0
        self._mask[..., start : self._history_len] = HIDDEN
        return self._mask
