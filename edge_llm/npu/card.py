"""A stack whose KV caches stay on the card: a token costs a few KB up, and the logits down.

A step uploads one row of the embedding, what changed in the mask, and one position; runs each
graph with its buffers bound to its neighbours'; leaves the new row of K and V on the card; and
downloads the logits. What the card's documents leave open is a ``Variant``; see ``self_test``.
"""

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_llm.errors import DeviceError
from edge_llm.npu.axcl import DEVICE_TO_DEVICE, DEVICE_TO_HOST, HOST_TO_DEVICE, Axcl, CardGraph
from edge_llm.npu.card_layer import Buffers, CardLayer, CardPost, GroupInputs, open_groups

__all__ = ["SAFE", "VARIANTS", "CardStack", "Variant"]

CALL_COST_TOKENS = 149
"""A chunk of 128 takes 1.85 times as long as one token (Qwen3-4B: 11.1 and 6.0 ms a layer)."""


@dataclass(frozen=True, slots=True)
class Variant:
    """How the card is driven, where that is open."""

    is_async: bool
    """Queue all graphs of a token on one stream, and wait once, which saves 0.3 ms for each."""
    kv_in_place: bool
    """Let decode write K and V rows to their place in the cache, which saves two copies."""
    shared_inputs: bool
    """One mask and one position for all layers, not one for each, which saves two uploads."""

    def __str__(self) -> str:
        return (
            f"{'queued' if self.is_async else 'synchronous'}, "
            f"rows {'in place' if self.kv_in_place else 'copied'}, "
            f"masks {'shared' if self.shared_inputs else 'per layer'}"
        )


SAFE = Variant(is_async=False, kv_in_place=False, shared_inputs=False)
VARIANTS = (
    Variant(is_async=True, kv_in_place=True, shared_inputs=True),
    Variant(is_async=True, kv_in_place=False, shared_inputs=True),
    Variant(is_async=False, kv_in_place=True, shared_inputs=True),
    Variant(is_async=False, kv_in_place=False, shared_inputs=True),
    SAFE,
)
"""From the fastest to the safest, which does what ax-llm does."""


class CardStack:
    """A ``Stack`` on the card.

    Args:
        axcl: the open runtime; closed with the stack, as are the graphs.
        layers: in order, all of one geometry.
        post: final norm and lm_head.
        num_slots: sequences whose caches are kept on the card.
        sync_timeout_s: when queued work that does not end is given up.

    Raises:
        DeviceError: there is not enough memory, or the card failed.
    """

    call_cost_tokens = CALL_COST_TOKENS

    def __init__(
        self,
        axcl: Axcl,
        layers: Sequence[CardGraph],
        post: CardGraph,
        *,
        num_slots: int = 1,
        sync_timeout_s: float = 30.0,
    ) -> None:
        self.num_slots = num_slots
        self._axcl, self._sync_timeout_ms = axcl, int(sync_timeout_s * 1000)
        self._copy = axcl.function("axclrtMemcpy")
        self._execute = axcl.function("axclrtEngineExecute")
        first = layers[0]
        self._history_len, self._kv_row = (
            first.inputs()["K_cache"].shape[1],
            first.size("K_cache_out"),
        )
        self._closing = contextlib.ExitStack()
        self._closing.callback(axcl.close)
        for graph in (*layers, post):
            self._closing.callback(graph.close)
        try:
            self._buffers = buffers = Buffers(axcl, self._closing)
            self._groups = open_groups(buffers, first)
            self._layers = [
                CardLayer(buffers, graph, index, self._groups, num_slots)
                for index, graph in enumerate(layers)
            ]
            self._decode = self._groups[0]
            self._post = CardPost(buffers, post, self._decode.states[len(layers) % 2])
            self._open_stream()
            self.use(SAFE)
            self._select(0)
        except BaseException:
            self.close()
            raise

    def _open_stream(self) -> None:
        self._stream: Any = None
        if self._axcl.has_async:
            stream = self._axcl.ffi.new("axclrtStream *")
            self._axcl.call("axclrtCreateStream", stream)
            self._stream = stream[0]
            self._closing.callback(self._axcl.ask, "axclrtDestroyStream", self._stream)
            self._copy_async = self._axcl.function("axclrtMemcpyAsync")
            self._execute_async = self._axcl.function("axclrtEngineExecuteAsync")

    def use(self, variant: Variant) -> None:
        """Drive the card in another way from the next run on.

        Raises:
            DeviceError: this version of the runtime can't.
        """
        if variant.is_async and self._stream is None:
            raise DeviceError("this version of the AXCL runtime has no streams")
        self._axcl.use_thread()
        num_copies = 1 if variant.shared_inputs else len(self._layers)
        for group in self._groups:
            group.make_inputs(self._buffers, num_copies)
        for layer in self._layers:
            layer.bind_inputs()
            layer.bind_rows_out()
        self.variant = variant

    def run(
        self, slot: int, hidden: NDArray[np.float32], start: int, group: int, *, logits: bool
    ) -> NDArray[np.float32] | None:
        """Compute tokens; see ``Stack.run``."""
        self._axcl.use_thread()
        shapes, is_async = self._groups[group], self.variant.is_async
        num_rows = min(len(hidden), self._history_len - start)  # the last position has no row
        in_place = self.variant.kv_in_place and group == 0 and num_rows > 0
        try:
            if slot != self._slot:
                self._select(slot)
            shapes.upload(hidden, start, self._upload_async if is_async else self._upload)
            for layer in self._layers:
                if group == 0 and self.variant.kv_in_place:
                    layer.bind_rows_out(start if in_place else None)
                self._run_graph(layer.graph, group, layer.ios[group])
            if is_async and (group or not logits):
                self._synchronize()
            result = self._finish(shapes, len(hidden)) if logits else None
            if not in_place:
                for layer in self._layers:
                    layer.store(self._copy, slot, group, start * self._kv_row, num_rows)
        except DeviceError as exc:
            self._recover(exc)
            raise
        return result

    def _run_graph(self, graph: CardGraph, group: int, io: Any) -> None:
        if self.variant.is_async:
            self._execute_async(graph.model, graph.context, group, io, self._stream)
        else:
            self._execute(graph.model, graph.context, group, io)

    def _finish(self, shapes: "GroupInputs", num_tokens: int) -> NDArray[np.float32]:
        """Run the post graph on the last token, and fetch the logits."""
        post, ends_at = self._post, len(self._layers) % 2
        if shapes is not self._decode:
            row = (num_tokens - 1) * shapes.row_bytes
            source = self._axcl.offset(shapes.states[ends_at], row)
            self._copy(self._decode.states[ends_at], source, shapes.row_bytes, DEVICE_TO_DEVICE)
        self._run_graph(post.graph, 0, post.io)
        if self.variant.is_async:
            self._copy_async(
                post.halves.pointer, post.logits, post.halves.nbytes, DEVICE_TO_HOST, self._stream
            )
            self._synchronize()
        else:
            self._copy(post.halves.pointer, post.logits, post.halves.nbytes, DEVICE_TO_HOST)
        return post.widened()

    def _upload(self, to: Any, source: Any, count: int) -> None:
        self._copy(to, source, count, HOST_TO_DEVICE)

    def _upload_async(self, to: Any, source: Any, count: int) -> None:
        self._copy_async(to, source, count, HOST_TO_DEVICE, self._stream)

    def _synchronize(self) -> None:
        if self._axcl.has("axclrtSynchronizeStreamWithTimeout"):
            timeout_ms = self._sync_timeout_ms
            self._axcl.call("axclrtSynchronizeStreamWithTimeout", self._stream, timeout_ms)
        else:
            self._axcl.call("axclrtSynchronizeStream", self._stream)

    def _select(self, slot: int) -> None:
        """Bind the caches of another slot; copies nothing."""
        for layer in self._layers:
            layer.bind_cache(slot)
        self._slot = slot

    def _recover(self, error: DeviceError) -> None:
        """After a failure nobody knows what reached the card: let it end, and upload all anew."""
        for group in self._groups:
            group.num_visible = None
        self._slot = -1
        if self._stream is not None and not error.is_lost:
            with contextlib.suppress(DeviceError):
                self._synchronize()

    def close(self) -> None:
        """Give all back: buffers, graphs, runtime."""
        self._axcl.use_thread()
        self._closing.close()
