"""A plain forward pass over a model directory's sessions, for tests of the graphs."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edge_llm.engine.model import EmbeddingTable, Geometry, ModelDirectory
from edge_llm.npu.onnx import OnnxSession

__all__ = ["MASKED", "Forward", "open_forward"]

MASKED = -65536.0


@dataclass
class Forward:
    """A model and the KV cache of one sequence."""

    geometry: Geometry
    embedding: EmbeddingTable
    layers: list[OnnxSession]
    post: OnnxSession
    keys: NDArray[np.float32]
    values: NDArray[np.float32]
    num_tokens: int = 0

    def feed(self, token_ids: Sequence[int], chunk_len: int) -> NDArray[np.float32]:
        """Take tokens in one padded chunk; returns the logits after the last of them."""
        count, start = len(token_ids), self.num_tokens
        group = self._group(chunk_len)
        history_len = self.geometry.groups[group][1]
        hidden = np.zeros((1, chunk_len, self.geometry.hidden_size), np.float32)
        hidden[0, :count] = self.embedding.rows(token_ids)
        indices = np.zeros((1, chunk_len), np.uint32)
        indices[0, :count] = np.arange(start, start + count)
        mask = np.full((1, chunk_len, history_len + chunk_len), MASKED, np.float32)
        mask[:, :, :start] = 0
        mask[0, :, history_len:] = np.triu(mask[0, :, history_len:], 1)
        for index, layer in enumerate(self.layers):
            out = layer.run(
                {
                    "K_cache": np.ascontiguousarray(self.keys[index, :, :history_len]),
                    "V_cache": np.ascontiguousarray(self.values[index, :, :history_len]),
                    "indices": indices,
                    "input": hidden,
                    "mask": mask,
                },
                group,
            )
            hidden = out["output"]
            self.keys[index, :, start : start + count] = out["K_cache_out"][:, :count]
            self.values[index, :, start : start + count] = out["V_cache_out"][:, :count]
        self.num_tokens += count
        last = np.ascontiguousarray(hidden[:, count - 1 : count])
        logits: NDArray[np.float32] = self.post.run({"input": last})["output"][0, 0]
        return logits

    def prefill(self, token_ids: Sequence[int], chunk_len: int) -> NDArray[np.float32]:
        """Take a prompt in chunks; returns the logits after its last token."""
        for start in range(0, len(token_ids), chunk_len):
            logits = self.feed(token_ids[start : start + chunk_len], chunk_len)
        return logits

    def complete(self, token_ids: Sequence[int], chunk_len: int, count: int) -> list[int]:
        """Return the greedy completion of a prompt."""
        completion = [int(self.prefill(token_ids, chunk_len).argmax())]
        while len(completion) < count:
            completion.append(int(self.feed(completion[-1:], 1).argmax()))
        return completion

    def _group(self, chunk_len: int) -> int:
        """Find the smallest group that holds the tokens so far."""
        fitting = [
            (history_len, group)
            for group, (length, history_len) in enumerate(self.geometry.groups)
            if length == chunk_len and history_len >= self.num_tokens
        ]
        return min(fitting)[1]


def open_forward(path: Path, shape_groups: Sequence[tuple[int, int]] | None = None) -> Forward:
    """Load a model directory of ONNX graphs."""
    directory = ModelDirectory(path)
    layers = [OnnxSession(file, shape_groups=shape_groups) for file in directory.layers]
    post = OnnxSession(directory.post)
    geometry = directory.read_geometry(layers, post)
    cache = np.zeros((2, len(layers), 1, geometry.history_len, geometry.kv_dim), np.float32)
    return Forward(geometry, directory.open_embedding(geometry), layers, post, *cache)
