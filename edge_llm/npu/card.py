"""A stack whose KV caches stay on the card: a token costs a few KB up, and the logits down.

A step uploads one row of the embedding, what changed in the mask, and one position; runs each
graph with its buffers bound to its neighbours'; leaves the new row of K and V on the card; and
downloads the logits. What the card's documents leave open is a ``Variant``; see ``self_test``.

Buffers are bound at their base and with their exact size, one IO for each graph and shape group:
anything looser failed silently for somebody (woolcoxm, Axera-AX8850-GGUF-Support). The one
exception is ``Variant.kv_in_place``.
"""

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_llm.errors import DeviceError
from edge_llm.npu.axcl import DEVICE_TO_DEVICE, DEVICE_TO_HOST, HOST_TO_DEVICE, Axcl, CardGraph
from edge_llm.npu.stack import HIDDEN, causal_mask

__all__ = ["SAFE", "VARIANTS", "CardStack", "Variant", "slot_bytes", "work_bytes"]

BF16_BYTES = 2
HIDDEN_BITS = int(np.float32(HIDDEN).view(np.uint32) >> 16)
CACHES = ("K_cache", "V_cache")
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


def slot_bytes(layer: CardGraph, num_layers: int) -> int:
    """Return what the KV cache of one sequence takes on the card."""
    return num_layers * (layer.size("K_cache") + layer.size("V_cache"))


def work_bytes(layer: CardGraph, num_layers: int) -> int:
    """Return what all other buffers of a stack take on the card, at most."""
    groups = range(layer.num_groups)
    per_layer = sum(
        max(layer.size(name, group) for group in groups) + layer.size(name)
        for name in ("K_cache_out", "V_cache_out", "mask", "indices")
    )
    states = sum(2 * layer.size("input", group) for group in groups)
    return num_layers * per_layer + states


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
        self._axcl, self._graphs, self._sync_timeout_ms = axcl, layers, int(sync_timeout_s * 1000)
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
            self._buffers = buffers = _Buffers(axcl, self._closing)
            self._groups = _open_groups(buffers, first)
            self._layers = [
                _Layer(buffers, graph, index, self._groups, num_slots)
                for index, graph in enumerate(layers)
            ]
            self._decode = self._groups[0]
            self._post = _Post(buffers, post, self._decode.states[len(layers) % 2])
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

    def _finish(self, shapes: "_Group", num_tokens: int) -> NDArray[np.float32]:
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


class _HostArray:
    """Host memory for copies, made once; page-locked where the runtime can."""

    def __init__(
        self, axcl: Axcl, opened: contextlib.ExitStack, shape: tuple[int, ...], dtype: Any
    ) -> None:
        self.nbytes = int(np.prod(shape)) * np.dtype(dtype).itemsize
        memory = axcl.ffi.new("void **")
        if axcl.has("axclrtMallocHost") and not axcl.ask("axclrtMallocHost", memory, self.nbytes):
            self.pointer = memory[0]
            opened.callback(axcl.ask, "axclrtFreeHost", self.pointer)
        else:
            self._kept = axcl.ffi.new("char[]", self.nbytes)
            self.pointer = axcl.ffi.cast("void *", self._kept)
        buffer = axcl.ffi.buffer(self.pointer, self.nbytes)
        self.values: NDArray[Any] = np.frombuffer(buffer, dtype).reshape(shape)
        self.values[:] = 0


class _Buffers:
    """Makes memory on the card and on the host, which goes when the stack is closed."""

    def __init__(self, axcl: Axcl, opened: contextlib.ExitStack) -> None:
        self.axcl, self._opened = axcl, opened

    def card(self, size: int) -> Any:
        memory = self.axcl.malloc(size)
        self._opened.callback(self.axcl.free, memory)
        return memory

    def host(self, shape: tuple[int, ...], dtype: Any) -> _HostArray:
        return _HostArray(self.axcl, self._opened, shape, dtype)


class _Group:
    """The inputs of a shape group: on the host as they are made, on the card as layers see them.

    Attributes:
        states: two buffers; each layer reads one and writes the other.
        num_visible: rows of history that the mask on the card shows; none if that is unknown.
    """

    def __init__(self, buffers: _Buffers, layer: CardGraph, group: int, states: list[Any]) -> None:
        inputs = layer.inputs(group)
        _, self.chunk_len, hidden_size = inputs["input"].shape
        self.cache_rows = inputs["K_cache"].shape[1]
        self.history_len = inputs["mask"].shape[-1] - self.chunk_len
        self.row_bytes = hidden_size * BF16_BYTES
        self.states = states
        self.num_visible: int | None = None
        self.masks: list[Any] = []
        self.positions: list[Any] = []
        self._axcl = buffers.axcl
        self._hidden = buffers.host((self.chunk_len, hidden_size), np.uint16)
        self._position = buffers.host((self.chunk_len,), np.uint32)
        self._mask = buffers.host((self.chunk_len, self.history_len + self.chunk_len), np.uint16)
        self._mask.values[:] = _halves(causal_mask(self.chunk_len, self.history_len))

    def make_inputs(self, buffers: _Buffers, num_copies: int) -> None:
        """See that there are so many masks and positions: one, or one for each layer."""
        while len(self.masks) < num_copies:
            self.masks.append(buffers.card(self._mask.nbytes))
            self.positions.append(buffers.card(self._position.nbytes))
        self._used_masks, self._used_positions = (
            self.masks[:num_copies],
            self.positions[:num_copies],
        )
        self.num_visible = None

    def inputs_of(self, layer_index: int) -> dict[str, Any]:
        """Return the buffers that a layer reads, beside its cache."""
        index = min(layer_index, len(self._used_masks) - 1)
        return {"mask": self._used_masks[index], "indices": self._used_positions[index]}

    def upload(self, hidden: NDArray[np.float32], start: int, up: Any) -> None:
        """Bring hidden states, positions and what changed in the mask to the card."""
        num_tokens = len(hidden)
        self._hidden.values[:num_tokens] = _halves(hidden)
        self._hidden.values[num_tokens:] = 0
        up(self.states[0], self._hidden.pointer, self._hidden.nbytes)
        self._position.values[:] = 0
        self._position.values[:num_tokens] = np.arange(start, start + num_tokens)
        for memory in self._used_positions:
            up(memory, self._position.pointer, self._position.nbytes)
        visible = min(start, self.history_len)
        if visible == self.num_visible:
            return
        mask = self._mask.values
        mask[:, :visible] = 0
        mask[:, visible : self.history_len] = HIDDEN_BITS
        first, last = 0, mask.shape[1]
        if self.chunk_len == 1 and self.num_visible is not None:
            first, last = sorted((visible, self.num_visible))
        offset, count = first * BF16_BYTES, mask.shape[0] * (last - first) * BF16_BYTES
        self.num_visible = None  # until all is there
        for memory in self._used_masks:
            up(
                self._axcl.offset(memory, offset),
                self._axcl.offset(self._mask.pointer, offset),
                count,
            )
        self.num_visible = visible


def _open_groups(buffers: _Buffers, layer: CardGraph) -> list[_Group]:
    """Groups of one chunk length share their hidden states."""
    states: dict[int, list[Any]] = {}
    groups = []
    for group in range(layer.num_groups):
        size = layer.size("input", group)
        if size not in states:
            states[size] = [buffers.card(size), buffers.card(size)]
        groups.append(_Group(buffers, layer, group, states[size]))
    return groups


class _Layer:
    """One graph, its caches for all slots, and an IO for each shape group."""

    def __init__(
        self,
        buffers: _Buffers,
        graph: CardGraph,
        index: int,
        groups: Sequence[_Group],
        num_slots: int,
    ) -> None:
        self.graph, self._axcl, self._index, self._groups = graph, buffers.axcl, index, groups
        size = graph.size("K_cache")
        self.caches = [{name: buffers.card(size) for name in CACHES} for _ in range(num_slots)]
        self._nothing = buffers.card(graph.size("K_cache_out"))  # for groups without history
        self.ios = [graph.make_io() for _ in groups]
        rows: dict[int, dict[str, Any]] = {}  # groups of one chunk length share them
        for group in range(len(groups)):
            size = graph.size("K_cache_out", group)
            if size not in rows:
                rows[size] = {name: buffers.card(size) for name in CACHES}
        self._rows = [rows[graph.size("K_cache_out", group)] for group in range(len(groups))]
        self._row_bytes = graph.size("K_cache_out")
        self._outputs = [list(graph.outputs()).index(f"{name}_out") for name in CACHES]
        self._set_output = buffers.axcl.function("axclrtEngineSetOutputBufferByIndex")
        self._slot = 0
        for group, shapes in enumerate(groups):
            self._bind(group, "input", shapes.states[index % 2])
            self._bind(group, "output", shapes.states[(index + 1) % 2])
            for name in CACHES:
                self._bind(group, f"{name}_out", self._rows[group][name])

    def _bind(self, group: int, name: str, memory: Any) -> None:
        self.graph.bind(self.ios[group], group, name, memory)

    def bind_cache(self, slot: int) -> None:
        """Let all groups read the rows of a slot."""
        self._slot = slot
        for group, shapes in enumerate(self._groups):
            for name in CACHES:
                memory = self.caches[slot][name] if shapes.history_len else self._nothing
                self._bind(group, name, memory)

    def bind_inputs(self) -> None:
        """Let all groups read masks and positions from where they are now."""
        for group, shapes in enumerate(self._groups):
            for name, memory in shapes.inputs_of(self._index).items():
                self._bind(group, name, memory)

    def bind_rows_out(self, position: int | None = None) -> None:
        """Let decode write its rows to their place in the cache, or to buffers of their own."""
        for index, name in zip(self._outputs, CACHES, strict=True):
            if position is None:
                memory = self._rows[0][name]
            else:
                cache = self.caches[self._slot][name]
                memory = self._axcl.offset(cache, position * self._row_bytes)
            self._set_output(self.ios[0], index, memory, self._row_bytes)

    def store(self, copy: Any, slot: int, group: int, offset: int, num_rows: int) -> None:
        """Copy the new rows to their place in the cache."""
        if num_rows < 1:
            return
        for name in CACHES:
            to = self._axcl.offset(self.caches[slot][name], offset)
            copy(to, self._rows[group][name], num_rows * self._row_bytes, DEVICE_TO_DEVICE)


class _Post:
    """The post graph, its logits on the card and on the host."""

    def __init__(self, buffers: _Buffers, graph: CardGraph, states: Any) -> None:
        self.graph, self.io = graph, graph.make_io()
        (name,) = graph.outputs()
        self.logits = buffers.card(graph.size(name))
        graph.bind(self.io, 0, "input", states)
        graph.bind(self.io, 0, name, self.logits)
        vocab_size = graph.outputs()[name].shape[-1]
        self.halves = buffers.host((vocab_size,), np.uint16)
        self._bits = np.zeros(vocab_size, np.uint32)

    def widened(self) -> NDArray[np.float32]:
        """Return the logits as float32, in an array that the next call writes again."""
        np.left_shift(self.halves.values, 16, out=self._bits, dtype=np.uint32)
        return self._bits.view(np.float32)


def _halves(values: NDArray[np.float32]) -> NDArray[np.uint16]:
    """Return the upper half of each float32: exact, as all come from bfloat16."""
    return np.ascontiguousarray(values).view(np.uint16)[..., 1::2]
