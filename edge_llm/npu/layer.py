"""One transformer layer that keeps its KV cache in the host's memory, over any Session.

The graph contract is the vendor's (ax-llm, LLM_decode.cpp): K and V of the tokens before are fed
with each run, the rows of the new tokens come out, and the caller stores them. Rows beyond the
filled ones are hidden by the mask, so keeping a prefix means nothing more than writing the next
rows after it.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_llm.npu.session import Session

__all__ = ["Chunk", "HostLayer"]


@dataclass(frozen=True, slots=True)
class Chunk:
    """The tokens of one run, padded to the chunk length of a shape group.

    Attributes:
        group: the shape group to run.
        start: position of the first token; so many rows of the cache are history.
        num_tokens: how many of the tokens are real.
        positions: ``(1, chunk)`` uint32, 0 in the padding.
        mask: ``(1, chunk, history + chunk)``, 0 where a token may look, -65536 elsewhere.
    """

    group: int
    start: int
    num_tokens: int
    positions: NDArray[np.uint32]
    mask: NDArray[Any]


class HostLayer:
    """A layer and its cache of ``(1, history, kv_dim)`` rows each of K and V."""

    def __init__(self, session: Session) -> None:
        self._session = session
        info = session.inputs(0)["K_cache"]
        # Zeroed: a NaN in a hidden row would still reach the sum, as NaN times 0.
        self._keys = np.zeros(info.shape, info.dtype)
        self._values = np.zeros(info.shape, info.dtype)
        self._history_lens = [
            session.inputs(group)["K_cache"].shape[1] for group in range(session.num_groups)
        ]

    def run(self, hidden: NDArray[Any], chunk: Chunk) -> NDArray[Any]:
        """Compute the layer for ``(1, chunk, hidden)`` states, and store the new rows."""
        history_len = self._history_lens[chunk.group]
        out = self._session.run(
            {
                "K_cache": self._keys[:, :history_len],
                "V_cache": self._values[:, :history_len],
                "indices": chunk.positions,
                "input": hidden,
                "mask": chunk.mask,
            },
            chunk.group,
        )
        # The last position of the context has no row: nothing comes after it.
        stop = min(chunk.start + chunk.num_tokens, self._keys.shape[1])
        rows = slice(chunk.start, stop)
        self._keys[0, rows] = out["K_cache_out"][0, : stop - chunk.start]
        self._values[0, rows] = out["V_cache_out"][0, : stop - chunk.start]
        return out["output"]
