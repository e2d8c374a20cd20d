"""What lies on the card for a stack: buffers, the inputs of each shape group, layers, post graph.

Buffers are bound at their base and with their exact size, one IO for each graph and shape group:
anything looser failed silently for somebody (woolcoxm, Axera-AX8850-GGUF-Support). The one
exception is ``CardLayer.bind_rows_out``.
"""

import contextlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_llm.npu.axcl import DEVICE_TO_DEVICE, Axcl, CardGraph
from edge_llm.npu.stack import HIDDEN, causal_mask

__all__ = [
    "Buffers",
    "CardLayer",
    "CardPost",
    "GroupInputs",
    "open_groups",
    "slot_bytes",
    "work_bytes",
]

BF16_BYTES = 2
HIDDEN_BITS = int(np.float32(HIDDEN).view(np.uint32) >> 16)
CACHES = ("K_cache", "V_cache")

Upload = Callable[[Any, Any, int], None]
"""Copies so many bytes from the host to the card."""


def slot_bytes(layer: CardGraph, num_layers: int) -> int:
    """Return what the KV cache of one sequence takes on the card."""
    return num_layers * (layer.size("K_cache") + layer.size("V_cache"))


def work_bytes(layer: CardGraph, num_layers: int) -> int:
    """Return what all other buffers of a stack take on the card, at most."""
    groups = range(layer.num_groups)
    rows = sum(
        max(layer.size(name, group) for group in groups) + layer.size(name)
        for name in ("K_cache_out", "V_cache_out")
    )
    inputs = sum(layer.size(name, group) for name in ("mask", "indices") for group in groups)
    per_layer = rows + inputs
    states = sum(2 * layer.size("input", group) for group in groups)
    return num_layers * per_layer + states


class HostArray:
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


class Buffers:
    """Makes memory on the card and on the host, which goes when the stack is closed."""

    def __init__(self, axcl: Axcl, opened: contextlib.ExitStack) -> None:
        self.axcl, self._opened = axcl, opened

    def card(self, size: int) -> Any:
        """Return zeroed memory on the card."""
        memory = self.axcl.malloc(size)
        self._opened.callback(self.axcl.free, memory)
        return memory

    def host(self, shape: tuple[int, ...], dtype: Any) -> HostArray:
        """Return an array that the card's copies can use."""
        return HostArray(self.axcl, self._opened, shape, dtype)


class GroupInputs:
    """The inputs of a shape group: on the host as they are made, on the card as layers see them.

    Attributes:
        states: two buffers; each layer reads one and writes the other.
        num_visible: rows of history that the mask on the card shows; none if that is unknown.
    """

    def __init__(self, buffers: Buffers, layer: CardGraph, group: int, states: list[Any]) -> None:
        inputs = layer.inputs(group)
        _, self.chunk_len, hidden_size = inputs["input"].shape
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

    def make_inputs(self, buffers: Buffers, num_copies: int) -> None:
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

    def upload(self, hidden: NDArray[np.float32], start: int, up: Upload) -> None:
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


def open_groups(buffers: Buffers, layer: CardGraph) -> list[GroupInputs]:
    """Groups of one chunk length share their hidden states."""
    states: dict[int, list[Any]] = {}
    groups = []
    for group in range(layer.num_groups):
        size = layer.size("input", group)
        if size not in states:
            states[size] = [buffers.card(size), buffers.card(size)]
        groups.append(GroupInputs(buffers, layer, group, states[size]))
    return groups


class CardLayer:
    """One graph, its caches for all slots, and an IO for each shape group."""

    def __init__(
        self,
        buffers: Buffers,
        graph: CardGraph,
        index: int,
        groups: Sequence[GroupInputs],
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


class CardPost:
    """The post graph, its logits on the card and on the host."""

    def __init__(self, buffers: Buffers, graph: CardGraph, states: Any) -> None:
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
