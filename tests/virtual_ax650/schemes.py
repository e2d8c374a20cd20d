"""Two ways to drive the card, over the raw library, to count what they cost.

``CopyingLoop`` does what the vendor's Python example does with PyAXEngine (facts 2.2): the host
keeps the cache and each run copies every tensor. ``VendorLoop`` does what ax-llm's C++ does (facts
3.1 to 3.3): the cache stays on the card, and rows are moved there.
"""

from collections.abc import Sequence
from ctypes import byref, c_char_p, c_int32, c_uint64, c_void_p
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from edge_llm.engine.model import EmbeddingTable, ModelDirectory
from tests.virtual_ax650.card import (
    DEVICE_TO_DEVICE,
    DEVICE_TO_HOST,
    HOST_TO_DEVICE,
    Axcl,
    DeviceList,
    Dims,
)

__all__ = ["CopyingLoop", "Graph", "Loop", "VendorLoop", "start_runtime", "stop_runtime"]

MASKED = -65536.0

Halves = NDArray[np.uint16]
"""bfloat16, as the card has it."""


def narrow(values: NDArray[np.float32]) -> Halves:
    """Round to bfloat16."""
    return values.astype(ml_dtypes.bfloat16).view(np.uint16)


def widen(values: Halves) -> NDArray[np.float32]:
    """From bfloat16."""
    return (values.astype(np.uint32) << 16).view(np.float32)


def start_runtime(axcl: Axcl) -> int:
    """Start the runtime and the engine; returns the device's id."""
    devices = DeviceList()
    axcl("axclInit", None)
    axcl("axclrtGetDeviceList", byref(devices))
    device = int(devices.devices[0])
    axcl("axclrtSetDevice", device)
    axcl("axclrtEngineInit", 0)
    return device


def stop_runtime(axcl: Axcl, device: int) -> None:
    """Stop in the order that the vendor asks for."""
    axcl("axclrtEngineFinalize")
    axcl("axclrtResetDevice", device)
    axcl("axclFinalize")


@dataclass(frozen=True, slots=True)
class Tensor:
    """A tensor of one shape group."""

    name: str
    shape: tuple[int, ...]
    size: int


class Graph:
    """A loaded ``.axmodel``: its ids and its tensors by group."""

    def __init__(self, axcl: Axcl, path: Path) -> None:
        self._axcl = axcl
        model, context, info, count = c_uint64(), c_uint64(), c_void_p(), c_int32()
        axcl("axclrtEngineLoadFromFile", c_char_p(str(path).encode()), byref(model))
        axcl("axclrtEngineCreateContext", model, byref(context))
        axcl("axclrtEngineGetIOInfo", model, byref(info))
        axcl("axclrtEngineGetShapeGroupsCount", info, byref(count))
        self.model, self.context, self.info = model.value, context.value, info.value
        groups = range(count.value)
        self.inputs = [self._tensors("Input", group) for group in groups]
        self.outputs = [self._tensors("Output", group) for group in groups]

    def _tensors(self, side: str, group: int) -> list[Tensor]:
        library, tensors = self._axcl.library, []
        for index in range(getattr(library, f"axclrtEngineGetNum{side}s")(self.info)):
            dims = Dims()
            self._axcl(f"axclrtEngineGet{side}Dims", self.info, group, index, byref(dims))
            name = getattr(library, f"axclrtEngineGet{side}NameByIndex")(self.info, index)
            size = getattr(library, f"axclrtEngineGet{side}SizeByIndex")(self.info, group, index)
            shape = tuple(dims.dims[: dims.dimCount])
            tensors.append(Tensor(name.decode(), shape, size))
        return tensors

    @property
    def groups(self) -> list[tuple[int, int]]:
        """``(chunk_len, history_len)`` of each group of a layer."""
        shapes = [{tensor.name: tensor.shape for tensor in group} for group in self.inputs]
        chunks = [shape["input"][1] for shape in shapes]
        return [
            (chunk, shape["mask"][-1] - chunk) for chunk, shape in zip(chunks, shapes, strict=True)
        ]

    def make_io(self) -> int:
        """Create an IO object."""
        io = c_void_p()
        self._axcl("axclrtEngineCreateIO", self.info, byref(io))
        return int(io.value or 0)

    def bind(self, io: int, side: str, index: int, memory: int, size: int) -> None:
        """Bind a buffer to a tensor."""
        self._axcl(f"axclrtEngineSet{side}BufferByIndex", io, index, memory, size)

    def execute(self, io: int, group: int) -> None:
        """Run a shape group, and wait for it."""
        self._axcl("axclrtEngineExecute", self.model, self.context, group, io)

    def close(self) -> None:
        """Unload."""
        self._axcl("axclrtEngineDestroyIOInfo", self.info)
        self._axcl("axclrtEngineUnload", self.model)


class Loop:
    """What both loops share: the files, one sequence, and the inputs of a chunk."""

    def __init__(self, axcl: Axcl, path: Path) -> None:
        self.axcl = axcl
        self.directory = ModelDirectory(path)
        self.layers = [Graph(axcl, file) for file in self.directory.layers]
        self.post = Graph(axcl, self.directory.post)
        self.groups = self.layers[0].groups
        self.last_n = self.groups[0][1]
        self.hidden_size = self.layers[0].inputs[0][3].shape[-1]
        self.kv_dim = self.layers[0].inputs[0][0].shape[-1]
        self.vocab_size = self.post.outputs[0][0].shape[-1]
        self.embedding = EmbeddingTable(self.directory.embedding, self.hidden_size)
        self.num_tokens = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if error is None:
            self.close()

    def feed(self, token_ids: Sequence[int], chunk_len: int = 1) -> NDArray[np.float32]:
        """Take tokens in one padded chunk; returns the logits after the last of them."""
        raise NotImplementedError

    def close(self) -> None:
        """Free what is on the card."""
        for graph in (*self.layers, self.post):
            graph.close()

    def group_for(self, chunk_len: int) -> int:
        """Find the smallest group that holds the tokens so far."""
        fitting = [
            (history_len, group)
            for group, (length, history_len) in enumerate(self.groups)
            if length == chunk_len and history_len >= self.num_tokens
        ]
        return min(fitting)[1]

    def chunk(
        self, token_ids: Sequence[int], group: int
    ) -> tuple[Halves, NDArray[np.uint32], Halves]:
        """Return hidden states, positions and mask."""
        (chunk_len, history_len), start = self.groups[group], self.num_tokens
        count = len(token_ids)
        hidden = np.zeros((1, chunk_len, self.hidden_size), np.uint16)
        hidden[0, :count] = narrow(self.embedding.rows(token_ids))
        positions = np.zeros((1, chunk_len), np.uint32)
        positions[0, :count] = np.arange(start, start + count)
        mask = np.full((1, chunk_len, history_len + chunk_len), MASKED, np.float32)
        mask[:, :, :start] = 0
        mask[0, :, history_len:] = np.triu(mask[0, :, history_len:], 1)
        return hidden, positions, narrow(mask)

    def complete(self, token_ids: Sequence[int], chunk_len: int, count: int) -> list[int]:
        """Return the greedy completion of a prompt, which is prefilled in chunks."""
        for start in range(0, len(token_ids), chunk_len):
            logits = self.feed(token_ids[start : start + chunk_len], chunk_len)
        completion = [int(logits.argmax())]
        while len(completion) < count:
            completion.append(int(self.feed(completion[-1:]).argmax()))
        return completion


class PyaxSession:
    """PyAXEngine's session: one IO of the largest sizes, and copies of everything (facts 2.2)."""

    def __init__(self, axcl: Axcl, graph: Graph) -> None:
        self._axcl, self.graph = axcl, graph
        self._context = c_void_p()
        axcl("axclrtGetCurrentContext", byref(self._context))
        self._io = graph.make_io()
        self._memory: list[int] = []
        for side, groups in (("Input", graph.inputs), ("Output", graph.outputs)):
            for index, tensors in enumerate(zip(*groups, strict=True)):
                size = max(tensor.size for tensor in tensors)
                self._memory.append(axcl.malloc(size))
                graph.bind(self._io, side, index, self._memory[-1], size)

    def run(self, feed: Sequence[NDArray[np.generic]], group: int) -> list[Halves]:
        """Copy all in, execute, copy all out."""
        axcl, outputs = self._axcl, []
        memory, size = c_void_p(), c_uint64()
        axcl("axclrtSetCurrentContext", self._context)
        for index, values in enumerate(feed):
            axcl("axclrtEngineGetInputBufferByIndex", self._io, index, byref(memory), byref(size))
            axcl("axclrtMemcpy", memory, values.ctypes.data, values.nbytes, HOST_TO_DEVICE)
        self.graph.execute(self._io, group)
        for index, tensor in enumerate(self.graph.outputs[group]):
            axcl("axclrtEngineGetOutputBufferByIndex", self._io, index, byref(memory), byref(size))
            output = np.zeros(tensor.shape, np.uint16)
            axcl("axclrtMemcpy", output.ctypes.data, memory, tensor.size, DEVICE_TO_HOST)
            outputs.append(output)
        return outputs

    def close(self) -> None:
        """Free the buffers."""
        for memory in self._memory:
            self._axcl("axclrtFree", memory)
        self._axcl("axclrtEngineDestroyIO", self._io)


class CopyingLoop(Loop):
    """The cache on the host; with prefill groups the card must allow loose bindings."""

    def __init__(self, axcl: Axcl, path: Path) -> None:
        super().__init__(axcl, path)
        self._sessions = [PyaxSession(axcl, layer) for layer in self.layers]
        self._post = PyaxSession(axcl, self.post)
        shape = (len(self.layers), 1, self.last_n, self.kv_dim)
        self._keys, self._values = np.zeros(shape, np.uint16), np.zeros(shape, np.uint16)

    def feed(self, token_ids: Sequence[int], chunk_len: int = 1) -> NDArray[np.float32]:
        """Take tokens in one padded chunk; returns the logits after the last of them."""
        group, count, start = self.group_for(chunk_len), len(token_ids), self.num_tokens
        rows = max(self.groups[group][1], 1)
        stop = min(start + count, self.last_n)
        hidden, positions, mask = self.chunk(token_ids, group)
        for index, session in enumerate(self._sessions):
            keys, values = self._keys[index], self._values[index]
            history = [np.ascontiguousarray(keys[:, :rows]), np.ascontiguousarray(values[:, :rows])]
            new_keys, new_values, hidden = session.run([*history, positions, hidden, mask], group)
            keys[:, start:stop] = new_keys[:, : stop - start]
            values[:, start:stop] = new_values[:, : stop - start]
        self.num_tokens += count
        last = np.ascontiguousarray(hidden[:, count - 1 : count])
        return widen(self._post.run([last], 0)[0][0, 0])

    def close(self) -> None:
        """Free what is on the card."""
        for session in (*self._sessions, self._post):
            session.close()
        super().close()


class VendorLayer:
    """Buffers and IOs of a layer: decode has its own, prefill groups share theirs and the cache."""

    def __init__(self, axcl: Axcl, graph: Graph) -> None:
        self._axcl, self.graph = axcl, graph
        self.decode = {tensor.name: self._zeros(tensor.size) for tensor in self._all(0)}
        self.prefill = {
            name: self.decode[name]
            if name in {"K_cache", "V_cache"}
            else self._zeros(max(size for tensor in tensors for size in [tensor.size]))
            for name, tensors in self._prefill_tensors().items()
        }
        self.ios = []
        for group in range(len(graph.inputs)):
            memory, io = self.prefill if group else self.decode, graph.make_io()
            for side, tensors in (("Input", graph.inputs), ("Output", graph.outputs)):
                for index, tensor in enumerate(tensors[group]):
                    graph.bind(io, side, index, memory[tensor.name], tensor.size)
            self.ios.append(io)

    def _all(self, group: int) -> list[Tensor]:
        return self.graph.inputs[group] + self.graph.outputs[group]

    def _prefill_tensors(self) -> dict[str, list[Tensor]]:
        tensors: dict[str, list[Tensor]] = {}
        for group in range(1, len(self.graph.inputs)):
            for tensor in self._all(group):
                tensors.setdefault(tensor.name, []).append(tensor)
        return tensors

    def _zeros(self, size: int) -> int:
        memory = self._axcl.malloc(size)
        self._axcl("axclrtMemset", memory, 0, size)
        return memory

    def close(self) -> None:
        """Free the buffers."""
        for io in self.ios:
            self._axcl("axclrtEngineDestroyIO", io)
        for memory in {*self.decode.values(), *self.prefill.values()}:
            self._axcl("axclrtFree", memory)


class VendorLoop(Loop):
    """The cache on the card; rows, hidden states and masks as ax-llm moves them."""

    def __init__(self, axcl: Axcl, path: Path) -> None:
        super().__init__(axcl, path)
        self._buffers = [VendorLayer(axcl, layer) for layer in self.layers]
        self._post = VendorLayer(axcl, self.post)

    def feed(self, token_ids: Sequence[int], chunk_len: int = 1) -> NDArray[np.float32]:
        """Take tokens in one padded chunk; returns the logits after the last of them."""
        hidden, positions, mask = self.chunk(token_ids, group := self.group_for(chunk_len))
        if group == 0:
            self._decode(hidden, positions, mask)
        else:
            self._prefill(hidden, positions, mask, group, len(token_ids))
        self.num_tokens += len(token_ids)
        logits = np.zeros(self.vocab_size, np.uint16)
        self._post.graph.execute(self._post.ios[0], 0)
        self._copy(logits.ctypes.data, self._post.decode["output"], logits.nbytes, DEVICE_TO_HOST)
        return widen(logits)

    def _decode(self, hidden: Halves, positions: NDArray[np.uint32], mask: Halves) -> None:
        self._up(self._buffers[0].decode["input"], hidden)
        following = [*self._buffers[1:], self._post]
        for layer, after in zip(self._buffers, following, strict=True):
            memory = layer.decode
            self._up(memory["indices"], positions)
            self._up(memory["mask"], mask)
            layer.graph.execute(layer.ios[0], 0)
            self._store(layer, memory, 1)
            self._copy(
                after.decode["input"], memory["output"], 2 * self.hidden_size, DEVICE_TO_DEVICE
            )

    def _prefill(
        self,
        hidden: Halves,
        positions: NDArray[np.uint32],
        mask: Halves,
        group: int,
        count: int,
    ) -> None:
        for layer in self._buffers:
            memory = layer.prefill
            self._up(memory["indices"], positions)
            self._up(memory["mask"], mask)
            self._up(memory["input"], hidden)
            layer.graph.execute(layer.ios[group], group)
            self._store(layer, memory, count)
            hidden = np.zeros_like(hidden)
            self._copy(hidden.ctypes.data, memory["output"], hidden.nbytes, DEVICE_TO_HOST)
        self._up(self._post.decode["input"], np.ascontiguousarray(hidden[:, count - 1]))

    def _store(self, layer: VendorLayer, memory: dict[str, int], count: int) -> None:
        """Move the new rows to the cache; the last position of the context has none."""
        row_bytes = 2 * self.kv_dim
        rows = min(count, self.last_n - self.num_tokens)
        if rows < 1:
            return
        for name in ("K_cache", "V_cache"):
            to = layer.decode[name] + self.num_tokens * row_bytes
            self._copy(to, memory[f"{name}_out"], rows * row_bytes, DEVICE_TO_DEVICE)

    def _up(self, memory: int, values: NDArray[np.generic]) -> None:
        self._copy(memory, values.ctypes.data, values.nbytes, HOST_TO_DEVICE)

    def _copy(self, to: int, source: int, count: int, kind: int) -> None:
        self.axcl("axclrtMemcpy", to, source, count, kind)

    def close(self) -> None:
        """Free what is on the card."""
        for layer in (*self._buffers, self._post):
            layer.close()
        super().close()
