"""ONNX Runtime on the CPU: the card's contract in its executable form.

The graphs have dynamic chunk and history axes. Which lengths are in use is written in the file's
metadata, under ``shape_groups``, as a JSON list of ``[chunk_len, history_len]``; group 0 is
decode. A graph without dynamic axes has one group and needs no list.
"""

import json
import os
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_llm.errors import EdgeLLMError, ModelError
from edge_llm.npu.session import TensorInfo

__all__ = ["CHUNK_AXIS", "HISTORY_AXIS", "SHAPE_GROUPS_KEY", "TOTAL_AXIS", "OnnxSession"]

SHAPE_GROUPS_KEY = "shape_groups"
CHUNK_AXIS = "chunk_len"
HISTORY_AXIS = "history_len"
TOTAL_AXIS = "total_len"
"""The names of the dynamic axes: tokens of the chunk, rows of the history, and their sum."""

DTYPES = {
    "tensor(float)": np.dtype(np.float32),
    "tensor(uint32)": np.dtype(np.uint32),
}
"""What our graphs take and give; ONNX Runtime hands out no numpy dtype itself."""


class OnnxSession:
    """A ``Session`` over one ``.onnx`` file.

    ``run`` keeps nothing between calls, and computes in the caller's thread if ``threads`` is 1.

    Args:
        path: the graph.
        threads: CPU threads per call; those beyond the first sleep while there is nothing to do.
        shape_groups: ``(chunk_len, history_len)`` of each group, instead of the file's own list.

    Raises:
        ModelError: the file is missing, broken, or not such a graph.
    """

    def __init__(
        self,
        path: Path,
        *,
        threads: int = 1,
        shape_groups: Sequence[tuple[int, int]] | None = None,
    ) -> None:
        self._path = path
        self._session = _open_session(path, threads)
        try:
            self._describe(shape_groups)
        except UnicodeDecodeError as exc:
            raise ModelError(f"{path} has a name that is no text; export or copy it again") from exc

    def _describe(self, shape_groups: Sequence[tuple[int, int]] | None) -> None:
        """Note what the graph takes and gives."""
        path = self._path
        nodes_in, nodes_out = self._session.get_inputs(), self._session.get_outputs()
        dynamic = any(isinstance(size, str) for node in nodes_in for size in node.shape)
        groups: Sequence[tuple[int, int]] = [(0, 0)]  # of a graph with nothing to fill in
        if dynamic:
            metadata = self._session.get_modelmeta().custom_metadata_map
            groups = shape_groups or _read_shape_groups(path, metadata)
        self._inputs = [self._tensors(nodes_in, *group) for group in groups]
        self._outputs = [self._tensors(nodes_out, *group) for group in groups]
        # The two lines below are all that run() looks at.
        self._expected = [
            tuple((info.name, info.shape, info.dtype) for info in group.values())
            for group in self._inputs
        ]
        self._output_names = [node.name for node in nodes_out]

    def _tensors(
        self, nodes: Sequence[Any], chunk_len: int, history_len: int
    ) -> Mapping[str, TensorInfo]:
        axes = {
            CHUNK_AXIS: chunk_len,
            HISTORY_AXIS: history_len,
            TOTAL_AXIS: chunk_len + history_len,
        }
        tensors = {}
        for node in nodes:
            try:
                shape = tuple(s if isinstance(s, int) else axes[s] for s in node.shape)
                tensors[node.name] = TensorInfo(node.name, shape, DTYPES[node.type])
            except KeyError as exc:
                raise ModelError(
                    f"{self._path}: tensor '{node.name}' is {node.type} {node.shape}, which this "
                    "runtime can't feed; use a file written by 'edge-llm export'"
                ) from exc
        return MappingProxyType(tensors)

    @property
    def num_groups(self) -> int:
        """How many shape groups there are, at least 1."""
        return len(self._inputs)

    def inputs(self, group: int = 0) -> Mapping[str, TensorInfo]:
        """Return the inputs of a group by name."""
        return self._inputs[group]

    def outputs(self, group: int = 0) -> Mapping[str, TensorInfo]:
        """Return the outputs of a group by name."""
        return self._outputs[group]

    def run(self, feed: Mapping[str, NDArray[Any]], group: int = 0) -> dict[str, NDArray[Any]]:
        """Compute all outputs; blocks. ``feed`` has every input, C-contiguous.

        Raises:
            EdgeLLMError: the feed does not fit the group, or ONNX Runtime failed.
        """
        expected = self._expected[group]
        for name, shape, dtype in expected:
            tensor = feed.get(name)
            if (
                tensor is None
                or tensor.shape != shape
                or tensor.dtype != dtype
                or not tensor.flags.c_contiguous
            ):
                raise self._misfit(feed, group)
        if len(feed) != len(expected):
            raise self._misfit(feed, group)
        try:
            values = self._session.run(self._output_names, feed)
        except _failures() as exc:
            raise EdgeLLMError(f"{self._path}: ONNX Runtime failed: {exc}") from exc
        return dict(zip(self._output_names, values, strict=True))

    def _misfit(self, feed: Mapping[str, NDArray[Any]], group: int) -> EdgeLLMError:
        """Say what is wrong with a feed; the slow path of ``run``."""
        problems = [f"there is no input '{name}'" for name in feed if name not in self._inputs[0]]
        for name, info in self._inputs[group].items():
            tensor = feed.get(name)
            wanted = f"{info.dtype} {info.shape}"
            if tensor is None:
                problems.append(f"'{name}' ({wanted}) is missing")
            elif (tensor.shape, tensor.dtype) != (info.shape, info.dtype):
                problems.append(f"'{name}' is {tensor.dtype} {tensor.shape}, but must be {wanted}")
            elif not tensor.flags.c_contiguous:
                problems.append(f"'{name}' is not C-contiguous")
        return EdgeLLMError(f"{self._path}, shape group {group}: {'; '.join(problems)}")


def _open_session(path: Path, threads: int) -> Any:
    """Load a graph with options for a small, quiet process."""
    # It would tell Microsoft of each session, from a device id that it makes (seen with 1.32).
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"
    import onnxruntime

    if not path.is_file():
        raise ModelError(f"{path} does not exist; export or copy the model again")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.log_severity_level = 3  # errors
    # Each layer is a session of its own: all draw on one arena, so that a prefill's buffers are
    # kept once, and not fetched from the kernel anew for each layer (2.5 times faster with a long
    # history). Weights stay out of it, because it grows in powers of two.
    _share_arena()
    options.add_session_config_entry("session.use_env_allocators", "1")
    options.add_session_config_entry("session.use_device_allocator_for_initializers", "1")
    options.enable_mem_pattern = False  # a pattern per session and shape is memory of its own
    # Waiting threads sleep. Where they spin, two threads on two busy cores decode six times slower.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    try:
        return onnxruntime.InferenceSession(
            path,
            options,
            providers=["CPUExecutionProvider"],
            enable_fallback=False,  # it would print to stdout, and try the same again
        )
    except _failures() as exc:
        raise ModelError(
            f"{path} is not a graph that ONNX Runtime {onnxruntime.__version__} can load; "
            f"export or copy the model again ({exc})"
        ) from exc


@cache
def _share_arena() -> None:
    """Register the arena of this process's sessions with ONNX Runtime."""
    import onnxruntime

    info = onnxruntime.OrtMemoryInfo(
        "Cpu", onnxruntime.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, onnxruntime.OrtMemType.DEFAULT
    )
    onnxruntime.create_and_register_allocator(info, None)


def _failures() -> tuple[type[Exception], ...]:
    """Return ONNX Runtime's exceptions, which have no base class of their own."""
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    classes = (getattr(state, name) for name in dir(state))
    own = (c for c in classes if isinstance(c, type) and issubclass(c, Exception))
    # The builtin ones too: where its C++ throws something else, and where what it says of a broken
    # file has bytes of that file in it.
    return (*own, RuntimeError, UnicodeDecodeError)


def _read_shape_groups(path: Path, metadata: Mapping[str, str]) -> list[tuple[int, int]]:
    """Read the list of groups from a file's metadata."""
    try:
        listed = json.loads(metadata[SHAPE_GROUPS_KEY])
        return [(int(chunk_len), int(history_len)) for chunk_len, history_len in listed]
    except (KeyError, TypeError, ValueError) as exc:
        raise ModelError(
            f"{path}: its metadata has no list of [chunk_len, history_len] under "
            f"'{SHAPE_GROUPS_KEY}'; use a file written by 'edge-llm export'"
        ) from exc
