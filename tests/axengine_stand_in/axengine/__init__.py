"""A stand-in for AXERA's PyAXEngine over the virtual card: a simulation, written from facts.

It has the public names of PyAXEngine 0.1.3 and does what facts 2.1 to 2.3 report of them, quirks
included: what a caller must work around is here too. None of its code is the vendor's.

Reported: which provider is taken; ImportError where there is no library; ``[INFO]`` on stdout;
``axclInit`` without a configuration at the first session, and the end of all sessions at exit,
without ``axclrtResetDevice``; one IO with buffers of the largest size; a run that copies each fed
tensor as it lies in memory, executes, and copies each output; which exceptions there are, and that
a code is only in those of allocations, of the IO and of the run; ``__del__`` that trips over a
constructor that failed; a context manager that ends nothing; options of ``(name, options)`` that
are ignored.

Assumed: that ``NodeArg.dtype`` is a numpy dtype; that the first of ``provider_options`` counts;
how codes are written (``axclError`` is a signed number there, so 0x8030070c is "0x-7fcff8f4");
the words of messages. The library's path is looked up in ``LD_LIBRARY_PATH``: its name would give
whichever variant the process loaded first. The board's provider only has its name.
"""

import atexit
import os
from collections.abc import Mapping, Sequence
from ctypes import byref, c_char_p, c_int, c_int32, c_uint64, c_void_p
from ctypes.util import find_library
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from tests.virtual_ax650.card import (
    DEVICE_TO_HOST,
    HOST_TO_DEVICE,
    DeviceList,
    Dims,
    open_library,
)

__all__ = [
    "InferenceSession",
    "NodeArg",
    "SessionOptions",
    "axclrt_provider_name",
    "axengine_provider_name",
    "get_all_providers",
    "get_available_providers",
]

axengine_provider_name = "AxEngineExecutionProvider"
axclrt_provider_name = "AXCLRTExecutionProvider"

NORMAL_ONLY = 2
NO_VNPU = 0
DTYPES: dict[int, np.dtype[Any]] = {
    3: np.dtype(np.int8),
    4: np.dtype(np.uint8),
    5: np.dtype(np.int16),
    6: np.dtype(np.uint16),
    7: np.dtype(np.int32),
    8: np.dtype(np.uint32),
    14: np.dtype(ml_dtypes.bfloat16),
    15: np.dtype(np.float32),
}


def _find_providers() -> list[str]:
    libraries = {axclrt_provider_name: "axcl_rt", axengine_provider_name: "ax_engine"}
    found = [name for name, library in libraries.items() if find_library(library)]
    if len(found) > 1 and not Path("/dev/axcl_host").exists():
        found.reverse()
    return found


_providers = _find_providers()
if not _providers:
    raise ImportError("No providers found: neither axcl_rt nor ax_engine is installed.")
print(f"[INFO] Available providers:  {_providers}")


def get_all_providers() -> list[str]:
    """Return the names of all providers."""
    return [axengine_provider_name, axclrt_provider_name]


def get_available_providers() -> list[str]:
    """Return the names of the providers whose library is there, the default one first."""
    return _providers


class NodeArg:
    """An input or output."""

    def __init__(self, name: str, dtype: np.dtype[Any], shape: list[int]) -> None:
        self.name, self.dtype, self.shape = name, dtype, shape


class SessionOptions:
    """Nothing."""


class InferenceSession:
    """A model file, loaded."""

    def __init__(
        self,
        path_or_bytes: str | bytes,
        sess_options: SessionOptions | None = None,
        providers: str | Sequence[str | tuple[str, Mapping[str, Any]]] | None = None,
        provider_options: Sequence[Mapping[str, Any]] | None = None,
        **_kwargs: Any,
    ) -> None:
        self._options = sess_options
        wanted = [providers] if isinstance(providers, str) else providers or _providers[:1]
        names = [name if isinstance(name, str) else name[0] for name in wanted]
        self._provider = next((name for name in names if name in _providers), "")
        if not self._provider:
            raise ValueError(f"Selected provider(s): {names} is(are) not available.")
        print(f"[INFO] Using provider: {self._provider}")
        if self._provider != axclrt_provider_name:
            raise NotImplementedError("the stand-in has no board")
        device = (provider_options or [{}])[0].get("device_id", 0)
        self._session = _CardSession(path_or_bytes, device)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        pass

    def get_session_options(self) -> SessionOptions | None:
        """Return what the constructor was given."""
        return self._options

    def get_providers(self) -> str:
        """Return the name of the one that is used."""
        return self._provider

    def get_inputs(self, shape_group: int = 0) -> list[NodeArg]:
        """Return the inputs of a shape group."""
        return self._session.nodes("Input", shape_group)

    def get_outputs(self, shape_group: int = 0) -> list[NodeArg]:
        """Return the outputs of a shape group."""
        return self._session.nodes("Output", shape_group)

    def run(
        self,
        output_names: Sequence[str] | None,
        input_feed: Mapping[str, NDArray[Any]],
        run_options: object = None,
        shape_group: int = 0,
    ) -> list[NDArray[Any]]:
        """Compute the outputs."""
        return self._session.run(output_names, input_feed, shape_group)


class _Runtime:
    """The library, from the first session to the end of the process."""

    def __init__(self) -> None:
        folders = map(Path, os.environ.get("LD_LIBRARY_PATH", "").split(":"))
        paths = (folder / "libaxcl_rt.so" for folder in folders)
        self.library = open_library(next(path for path in paths if path.is_file()))
        self.sessions: list[_CardSession] = []
        if code := self.library.axclInit(None):
            raise RuntimeError(f"Failed to initialize axcl runtime. {_signed(code)}.")

    def close(self) -> None:
        for session in self.sessions:
            session.unload()
        self.library.axclrtEngineFinalize()
        self.library.axclFinalize()


_runtimes: list[_Runtime] = []


def _runtime() -> _Runtime:
    if not _runtimes:
        _runtimes.append(_Runtime())
    return _runtimes[0]


@atexit.register
def _finalize() -> None:
    while _runtimes:
        _runtimes.pop().close()


def _signed(code: int) -> int:
    return code - (1 << 32) if code >> 31 else code


def _hex(code: int) -> str:
    return f"0x{_signed(code):08x}"


class _CardSession:
    """What the provider for the card does."""

    def __init__(self, path_or_bytes: str | bytes, device_index: int) -> None:
        self._runtime = _runtime()
        self._library = self._runtime.library
        self._context = self._open_device(device_index)
        self._model, self._engine_context = c_uint64(), c_uint64()
        print("[INFO] VNPU type: VNPUType.DISABLED")
        self._load(path_or_bytes)
        version = self._library.axclrtEngineGetModelCompilerVersion(self._model)
        print(f"[INFO] Compiler version: {version.decode()}")
        self._info = c_void_p()
        self._call("axclrtEngineGetIOInfo", self._model, byref(self._info))
        count = c_int32()
        self._call("axclrtEngineGetShapeGroupsCount", self._info, byref(count))
        self._nodes = {side: self._read(side, count.value) for side in ("Input", "Output")}
        self._memory: dict[str, list[c_void_p]] = {"Input": [], "Output": []}
        self._io: c_void_p | None = self._make_io(count.value)
        self._runtime.sessions.append(self)

    def __del__(self) -> None:
        self.unload()
        self._runtime.sessions.remove(self)

    def _call(self, name: str, *arguments: Any) -> None:
        if getattr(self._library, name)(*arguments):
            raise RuntimeError(f"{name} failed.")

    def _open_device(self, index: int) -> c_void_p:
        devices, context = DeviceList(), c_void_p()
        code = self._library.axclrtGetDeviceList(byref(devices))
        if code or not devices.num:
            raise RuntimeError(
                f"Get AXCL device failed {_hex(code)}, find total {devices.num} device."
            )
        if index >= devices.num:
            raise RuntimeError(f"Device index {index} is out of range, total {devices.num} device.")
        if code := self._library.axclrtSetDevice(devices.devices[index]):
            raise RuntimeError(f"Set AXCL device failed {_hex(code)}.")
        if self._library.axclrtEngineInit(NO_VNPU):
            raise AttributeError("cdata 'axclrtEngineVNpuKind *' has no field 'value'")
        print(f"[INFO] SOC Name: {self._library.axclrtGetSocName().decode()}")
        self._call("axclrtGetCurrentContext", byref(context))
        return context

    def _load(self, path_or_bytes: str | bytes) -> None:
        if isinstance(path_or_bytes, str):
            path = c_char_p(path_or_bytes.encode())
            self._call("axclrtEngineLoadFromFile", path, byref(self._model))
        elif isinstance(path_or_bytes, bytes):
            memory, size = c_void_p(), len(path_or_bytes)
            self._call("axclrtMalloc", byref(memory), size, NORMAL_ONLY)
            self._call("axclrtMemcpy", memory, path_or_bytes, size, HOST_TO_DEVICE)
            self._call("axclrtEngineLoadFromMem", memory, size, byref(self._model))
            self._library.axclrtFree(memory)
        else:
            raise TypeError(f"Unable to load model from type '{type(path_or_bytes)}'")
        self._call("axclrtEngineCreateContext", self._model, byref(self._engine_context))

    def _read(self, side: str, num_groups: int) -> list[list[NodeArg]]:
        count = getattr(self._library, f"axclrtEngineGetNum{side}s")(self._info)
        return [[self._node(side, group, i) for i in range(count)] for group in range(num_groups)]

    def _node(self, side: str, group: int, index: int) -> NodeArg:
        kind, dims = c_int(), Dims()
        name = getattr(self._library, f"axclrtEngineGet{side}NameByIndex")(self._info, index)
        self._call(f"axclrtEngineGet{side}DataType", self._info, index, byref(kind))
        self._call(f"axclrtEngineGet{side}Dims", self._info, group, index, byref(dims))
        if kind.value not in DTYPES:
            raise ValueError(f"Unsupported data type '{kind.value}'.")
        return NodeArg(name.decode(), DTYPES[kind.value], dims.dims[: dims.dimCount])

    def _make_io(self, num_groups: int) -> c_void_p:
        io = c_void_p()
        if code := self._library.axclrtEngineCreateIO(self._info, byref(io)):
            raise RuntimeError(f"axclrtEngineCreateIO failed {_hex(code)}.")
        for side, memory in self._memory.items():
            size_of = getattr(self._library, f"axclrtEngineGet{side}SizeByIndex")
            bind = f"axclrtEngineSet{side}BufferByIndex"
            for index in range(len(self._nodes[side][0])):
                size = max(size_of(self._info, group, index) for group in range(num_groups))
                memory.append(c_void_p())
                what = f"for {side.lower()} {index}."
                if code := self._library.axclrtMalloc(byref(memory[-1]), size, NORMAL_ONLY):
                    raise RuntimeError(f"axclrtMalloc failed {_hex(code)} {what}")
                if code := getattr(self._library, bind)(io, index, memory[-1], size):
                    raise RuntimeError(f"{bind} failed {_hex(code)} {what}")
        return io

    def nodes(self, side: str, group: int) -> list[NodeArg]:
        groups = self._nodes[side]
        if group > len(groups):  # the vendor's comparison: one past the last is an IndexError
            raise ValueError(f"Shape group '{group}' is out of range, total {len(groups)}.")
        return groups[group]

    def run(
        self, output_names: Sequence[str] | None, feed: Mapping[str, NDArray[Any]], group: int
    ) -> list[NDArray[Any]]:
        self._validate(output_names, feed)
        self._call("axclrtSetCurrentContext", self._context)
        inputs, outputs = self.nodes("Input", group), self.nodes("Output", group)
        for index, node in enumerate(inputs):
            self._copy_in(index, node, feed[node.name])
        code = self._library.axclrtEngineExecute(self._model, self._engine_context, group, self._io)
        # Where another order is asked for, this is the inverse of it; fewer are an error.
        own = [node.name for node in outputs]
        ranks = [list(output_names or own).index(name) for name in own]
        if code:
            raise RuntimeError(f"axclrtEngineExecute failed {_hex(code)}")
        return [self._copy_out(index, outputs[index]) for index in ranks]

    def _validate(
        self, output_names: Sequence[str] | None, feed: Mapping[str, NDArray[Any]]
    ) -> None:
        if missing := [node.name for node in self.nodes("Input", 0) if node.name not in feed]:
            raise ValueError(f"Required inputs ({missing}) are missing from input feed ({feed}).")
        known = [node.name for node in self.nodes("Output", 0)]
        for name in output_names or ():
            if name not in known:
                raise ValueError(f"Output name '{name}' is not in model outputs name list.")

    def _copy_in(self, index: int, node: NodeArg, values: NDArray[Any]) -> None:
        assert node.shape == list(values.shape), f"{node.name}: shape {values.shape}"
        assert node.dtype == values.dtype, f"{node.name}: dtype {values.dtype}"
        if not (values.flags.c_contiguous or values.flags.f_contiguous):
            values = np.ascontiguousarray(values)
        memory, address = self._memory["Input"][index], c_void_p(values.ctypes.data)
        if self._library.axclrtMemcpy(memory, address, values.nbytes, HOST_TO_DEVICE):
            raise RuntimeError(f"axclrtMemcpy failed for input {index}.")

    def _copy_out(self, index: int, node: NodeArg) -> NDArray[Any]:
        values = np.zeros(node.shape, node.dtype)
        memory, address = self._memory["Output"][index], c_void_p(values.ctypes.data)
        if self._library.axclrtMemcpy(address, memory, values.nbytes, DEVICE_TO_HOST):
            raise RuntimeError(f"axclrtMemcpy failed for output {index}.")
        return values

    def unload(self) -> None:
        if self._io is None:
            return
        for memory in (*self._memory["Input"], *self._memory["Output"]):
            self._library.axclrtFree(memory)
        self._library.axclrtEngineDestroyIO(self._io)
        self._library.axclrtEngineUnload(self._model)
        self._io = None
