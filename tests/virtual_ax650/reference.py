"""What the virtual card computes, in numpy: the same rounding and the same order of sums.

Written from the architecture, not from ``transformer.c``. A sum of products in float32 has a fixed
order: dot products run in 16 lanes that are then added in halves, all else goes from the first to
the last. Products of bfloat16 values are exact, so nothing depends on fused operations.
"""

from collections.abc import Sequence

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from tests.virtual_ax650.pack import Weights, rope_frequencies

__all__ = ["MASKED", "Reference"]

MASKED = -65536.0
LANES = 16

Floats = NDArray[np.float32]


def rounded(values: Floats) -> Floats:
    """Round to bfloat16."""
    return values.astype(ml_dtypes.bfloat16).astype(np.float32)


def dot(left: Floats, right: Floats) -> Floats:
    """Sum the products along the last axis, in lanes."""
    pad = -left.shape[-1] % LANES
    if pad:
        left = np.concatenate([left, np.zeros((*left.shape[:-1], pad), np.float32)], -1)
        right = np.concatenate([right, np.zeros((*right.shape[:-1], pad), np.float32)], -1)
    products = left * right
    lanes = np.zeros((*products.shape[:-1], LANES), np.float32)
    for start in range(0, products.shape[-1], LANES):
        lanes += products[..., start : start + LANES]
    while (half := lanes.shape[-1] // 2) >= 1:
        lanes = lanes[..., :half] + lanes[..., half:]
    return lanes[..., 0]


def in_order(values: Floats) -> Floats:
    """Sum along the last axis, from the first to the last."""
    sums: Floats = np.add.accumulate(values, axis=-1, dtype=np.float32)
    return sums[..., -1]


class Reference:
    """A model and the KV cache of one sequence; ``feed`` is that of ``tests.forward``."""

    def __init__(self, weights: Weights, last_n: int) -> None:
        self._weights = weights
        self.arch = arch = weights.architecture
        self.last_n = last_n
        self._frequencies = rope_frequencies(arch)
        self.keys = np.zeros((arch.num_layers, last_n, arch.kv_dim), np.float32)
        self.values = np.zeros_like(self.keys)
        self.num_tokens = 0

    def feed(self, token_ids: Sequence[int], chunk_len: int, history_len: int) -> Floats:
        """Take tokens in one padded chunk; returns the logits after the last of them."""
        count, start = len(token_ids), self.num_tokens
        hidden = np.zeros((chunk_len, self.arch.hidden_size), np.float32)
        table = (self.arch.vocab_size, self.arch.hidden_size)
        embedding = self._weights.tensor("model.embed_tokens.weight", *table)
        hidden[:count] = rounded(np.asarray(embedding[list(token_ids)], np.float32))
        positions = np.zeros(chunk_len, np.uint32)
        positions[:count] = np.arange(start, start + count)
        mask = np.full((chunk_len, history_len + chunk_len), MASKED, np.float32)
        mask[:, :start] = 0
        mask[:, history_len:] = np.triu(mask[:, history_len:], 1)
        stop = min(start + count, self.last_n)
        for index in range(self.arch.num_layers):
            history = self.keys[index, :history_len], self.values[index, :history_len]
            keys, values, hidden = self.layer(index, history, positions, hidden, mask)
            self.keys[index, start:stop] = keys[: stop - start]
            self.values[index, start:stop] = values[: stop - start]
        self.num_tokens += count
        return self.post(hidden[count - 1])

    def layer(
        self,
        index: int,
        history: tuple[Floats, Floats],
        positions: NDArray[np.uint32],
        hidden: Floats,
        mask: Floats,
    ) -> tuple[Floats, Floats, Floats]:
        """Compute one layer's new rows of K and V, and its output."""
        arch, name = self.arch, f"model.layers.{index}"
        normed = self._norm(f"{name}.input_layernorm", hidden)
        query = self._heads(f"{name}.self_attn", "q", arch.num_heads, normed, positions)
        keys = self._heads(f"{name}.self_attn", "k", arch.num_kv_heads, normed, positions)
        values = self._project(f"{name}.self_attn.v_proj", normed, arch.kv_dim, arch.qkv_bias)
        attended = self._attend(
            query,
            np.concatenate([history[0], keys]),
            np.concatenate([history[1], values]),
            mask,
        )
        output = self._project(f"{name}.self_attn.o_proj", attended, arch.hidden_size)
        hidden = rounded(hidden + output)
        normed = self._norm(f"{name}.post_attention_layernorm", hidden)
        gate = self._project(f"{name}.mlp.gate_proj", normed, arch.intermediate_size)
        up = self._project(f"{name}.mlp.up_proj", normed, arch.intermediate_size)
        sigmoid = (1 / (1 + np.exp(-gate.astype(np.float64)))).astype(np.float32)
        gated = rounded(rounded(gate * sigmoid) * up)
        output = self._project(f"{name}.mlp.down_proj", gated, arch.hidden_size)
        return keys, values, rounded(hidden + output)

    def post(self, hidden: Floats) -> Floats:
        """Compute the logits of one row."""
        head = "model.embed_tokens" if self.arch.tied else "lm_head"
        normed = self._norm("model.norm", hidden[None])
        logits: Floats = self._project(head, normed, self.arch.vocab_size)[0]
        return logits

    def _tensor(self, name: str, *shape: int) -> Floats:
        return rounded(np.asarray(self._weights.tensor(name, *shape), np.float32))

    def _norm(self, name: str, rows: Floats) -> Floats:
        length = rows.shape[-1]
        mean = in_order(rows * rows) / np.float32(length)
        scale = np.float32(1) / np.sqrt(mean + np.float32(self.arch.rms_norm_eps))
        return rounded(rows * scale[..., None] * self._tensor(f"{name}.weight", length))

    def _project(self, name: str, rows: Floats, out_len: int, bias: bool = False) -> Floats:
        weight = self._tensor(f"{name}.weight", out_len, rows.shape[-1])
        products = np.stack([dot(row[None], weight) for row in rows])
        return rounded(products + self._tensor(f"{name}.bias", out_len) if bias else products)

    def _heads(
        self, name: str, letter: str, num_heads: int, normed: Floats, positions: NDArray[np.uint32]
    ) -> Floats:
        """Project to a query or key, normalize and rotate its heads."""
        head_dim = self.arch.head_dim
        out_len, half = num_heads * head_dim, head_dim // 2
        rows = self._project(f"{name}.{letter}_proj", normed, out_len, self.arch.qkv_bias)
        heads = rows.reshape(len(rows), num_heads, head_dim)
        if self.arch.qk_norm:
            heads = self._norm(f"{name}.{letter}_norm", heads)
        angles = positions.astype(np.float32)[:, None] * self._frequencies
        cosine = np.cos(angles.astype(np.float64)).astype(np.float32)[:, None]
        sine = np.sin(angles.astype(np.float64)).astype(np.float32)[:, None]
        left, right = heads[..., :half], heads[..., half:]
        turned = [left * cosine - right * sine, right * cosine + left * sine]
        return rounded(np.concatenate(turned, -1)).reshape(len(rows), out_len)

    def _attend(self, query: Floats, keys: Floats, values: Floats, mask: Floats) -> Floats:
        """Attend to all rows, through the mask."""
        num_heads, head_dim = self.arch.num_heads, self.arch.head_dim
        shared = num_heads // self.arch.num_kv_heads
        scale = np.float32(1 / np.sqrt(np.float64(head_dim)))
        attended = np.zeros((len(query), num_heads * head_dim), np.float32)
        for head in range(num_heads):
            here = slice(head * head_dim, (head + 1) * head_dim)
            there = slice(head // shared * head_dim, (head // shared + 1) * head_dim)
            scores = np.stack([dot(row[None, here], keys[:, there]) for row in query])
            scores = scores * scale + mask
            shifted = (scores - scores.max(-1, keepdims=True)).astype(np.float64)
            weights = np.exp(shifted).astype(np.float32)
            weights = rounded(weights / in_order(weights)[:, None])
            total = np.zeros((len(query), head_dim), np.float32)
            for row, value in enumerate(values[:, there]):
                total += weights[:, row, None] * value
            attended[:, here] = rounded(total)
        return attended
