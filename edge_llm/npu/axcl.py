"""The AXCL runtime of the PCIe card, through cffi in ABI mode.

The declarations are our own, after the vendor's headers (axcl-runtime V3.10.2,
``include/external/axcl_rt*.h``). Functions that some versions lack are looked up before they are
used. One process opens the runtime once, and one thread at a time uses it.
"""

import contextlib
import json
import os
import tempfile
import threading
from collections.abc import Mapping
from ctypes.util import find_library
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Any, Self

import numpy as np

from edge_llm.errors import DeviceError, ModelError
from edge_llm.npu.axcl_codes import error_of
from edge_llm.npu.session import TensorInfo

__all__ = ["Axcl", "CardGraph", "CardMemory", "find_axcl"]

DECLARATIONS = """
typedef int32_t axclError;
typedef void *axclrtContext, *axclrtStream, *axclrtEngineIOInfo, *axclrtEngineIO;
typedef struct { uint32_t num; int32_t devices[256]; } axclrtDeviceList;
typedef struct { int32_t dimCount; int32_t dims[32]; } axclrtEngineIODims;
typedef struct {
    char swVersion[64]; uint64_t uid; uint32_t pciDomain, pciBusID, pciDeviceID;
    int32_t temperature; uint32_t totalMemSize, freeMemSize, totalCmmSize, freeCmmSize;
    uint32_t cpuLoading, npuLoading; uint32_t reserved[32];
} axclrtDeviceProperties;

axclError axclInit(const char *config);
axclError axclFinalize(void);
axclError axclrtGetVersion(int32_t *major, int32_t *minor, int32_t *patch);
axclError axclrtGetDeviceList(axclrtDeviceList *list);
axclError axclrtSetDevice(int32_t device);
axclError axclrtResetDevice(int32_t device);
axclError axclrtGetDeviceProperties(int32_t device, axclrtDeviceProperties *properties);
axclError axclrtCreateContext(axclrtContext *context, int32_t device);
axclError axclrtDestroyContext(axclrtContext context);
axclError axclrtSetCurrentContext(axclrtContext context);
axclError axclrtMalloc(void **memory, size_t size, int policy);
axclError axclrtFree(void *memory);
axclError axclrtMallocHost(void **memory, size_t size);
axclError axclrtFreeHost(void *memory);
axclError axclrtMemcpy(void *to, const void *from, size_t count, int kind);
axclError axclrtMemset(void *memory, uint8_t value, size_t count);
axclError axclrtMemcpyAsync(void *to, const void *from, size_t count, int kind,
                            axclrtStream stream);
axclError axclrtCreateStream(axclrtStream *stream);
axclError axclrtDestroyStream(axclrtStream stream);
axclError axclrtSynchronizeStream(axclrtStream stream);
axclError axclrtSynchronizeStreamWithTimeout(axclrtStream stream, int32_t timeout_ms);
axclError axclrtEngineInit(int kind);
axclError axclrtEngineFinalize(void);
axclError axclrtEngineGetUsage(const char *path, int64_t *sys, int64_t *cmm);
axclError axclrtEngineLoadFromFile(const char *path, uint64_t *model);
axclError axclrtEngineUnload(uint64_t model);
axclError axclrtEngineCreateContext(uint64_t model, uint64_t *context);
axclError axclrtEngineGetIOInfo(uint64_t model, axclrtEngineIOInfo *info);
axclError axclrtEngineDestroyIOInfo(axclrtEngineIOInfo info);
axclError axclrtEngineGetShapeGroupsCount(axclrtEngineIOInfo info, int32_t *count);
uint32_t axclrtEngineGetNumInputs(axclrtEngineIOInfo info);
uint32_t axclrtEngineGetNumOutputs(axclrtEngineIOInfo info);
uint64_t axclrtEngineGetInputSizeByIndex(axclrtEngineIOInfo info, uint32_t group, uint32_t index);
uint64_t axclrtEngineGetOutputSizeByIndex(axclrtEngineIOInfo info, uint32_t group, uint32_t index);
axclError axclrtEngineGetInputDims(axclrtEngineIOInfo info, uint32_t group, uint32_t index,
                                   axclrtEngineIODims *dims);
axclError axclrtEngineGetOutputDims(axclrtEngineIOInfo info, uint32_t group, uint32_t index,
                                    axclrtEngineIODims *dims);
const char *axclrtEngineGetInputNameByIndex(axclrtEngineIOInfo info, uint32_t index);
const char *axclrtEngineGetOutputNameByIndex(axclrtEngineIOInfo info, uint32_t index);
int32_t axclrtEngineGetInputDataType(axclrtEngineIOInfo info, uint32_t index, int *type);
int32_t axclrtEngineGetOutputDataType(axclrtEngineIOInfo info, uint32_t index, int *type);
axclError axclrtEngineCreateIO(axclrtEngineIOInfo info, axclrtEngineIO *io);
axclError axclrtEngineDestroyIO(axclrtEngineIO io);
axclError axclrtEngineSetInputBufferByIndex(axclrtEngineIO io, uint32_t index, const void *memory,
                                            uint64_t size);
axclError axclrtEngineSetOutputBufferByIndex(axclrtEngineIO io, uint32_t index, const void *memory,
                                             uint64_t size);
axclError axclrtEngineExecute(uint64_t model, uint64_t context, uint32_t group, axclrtEngineIO io);
axclError axclrtEngineExecuteAsync(uint64_t model, uint64_t context, uint32_t group,
                                   axclrtEngineIO io, axclrtStream stream);
"""

ASYNC_FUNCTIONS = (
    "axclrtCreateStream",
    "axclrtSynchronizeStream",
    "axclrtMemcpyAsync",
    "axclrtEngineExecuteAsync",
)
PLACES = (Path("/usr/lib/axcl/libaxcl_rt.so"),)
"""Where the vendor's package puts the library (facts 4.3)."""

HOST_TO_DEVICE, DEVICE_TO_HOST, DEVICE_TO_DEVICE = 1, 2, 3
HUGE_FIRST = 0  # as ax-llm allocates; the documents say that the policy is ignored
NO_VNPU = 0
DTYPES: dict[int, np.dtype[Any]] = {
    3: np.dtype(np.int8),
    4: np.dtype(np.uint8),
    7: np.dtype(np.int32),
    8: np.dtype(np.uint32),
    14: np.dtype(np.uint16),  # bfloat16, by its bits
    15: np.dtype(np.float32),
}
DMA_BUFFER_BYTES = 0x400000  # the vendor's default; each process takes it from the host's CMA


def find_axcl(path: Path | None = None) -> str | None:
    """Return the library's path or name; none if it is not installed."""
    if path is not None:
        return str(path)
    named = find_library("axcl_rt")
    return named or next((str(place) for place in PLACES if place.exists()), None)


@dataclass(frozen=True, slots=True)
class CardMemory:
    """What the card's memory for models (CMM) holds, in bytes, and what software it runs."""

    total_bytes: int
    free_bytes: int
    firmware: str


class Axcl:
    """The open runtime, with one device and one context.

    Raises:
        DeviceError: the library is missing, or there is no card, or it does not answer.
    """

    def __init__(self, library: str, *, device_index: int = 0) -> None:
        import cffi

        self.ffi: Any = cffi.FFI()
        self.ffi.cdef(DECLARATIONS)
        try:
            self._library: Any = self.ffi.dlopen(library)
        except OSError as exc:
            raise DeviceError(
                f"{library} can't be loaded ({exc}); install AXERA's axclhost package"
            ) from exc
        self._closing = contextlib.ExitStack()
        self.version = self._read_version()
        self.device = self._open(device_index)

    def _open(self, device_index: int) -> int:
        with contextlib.ExitStack() as opened:
            self.call("axclInit", str(self._write_config(opened)).encode())
            opened.callback(self._quietly, "axclFinalize")
            devices = self.ffi.new("axclrtDeviceList *")
            self.call("axclrtGetDeviceList", devices)
            if device_index >= devices.num:
                raise DeviceError(
                    f"there are {devices.num} cards, so none has the index {device_index}; is it "
                    "powered, and does 'lspci' show it?"
                )
            device = int(devices.devices[device_index])
            self.call("axclrtSetDevice", device)
            # In the vendor's order: a process that ends without it aborts in C++.
            opened.callback(self._quietly, "axclrtResetDevice", device)
            context = self.ffi.new("axclrtContext *")
            self.call("axclrtCreateContext", context, device)
            opened.callback(self._quietly, "axclrtDestroyContext", context[0])
            self._context, self._thread = context[0], threading.get_ident()
            self.call("axclrtEngineInit", NO_VNPU)
            opened.callback(self._quietly, "axclrtEngineFinalize")
            self._closing = opened.pop_all()
        return device

    @staticmethod
    def _write_config(opened: contextlib.ExitStack) -> Path:
        folder = Path(opened.enter_context(tempfile.TemporaryDirectory(prefix="edge-llm-axcl-")))
        log = {"host": {"path": str(folder / "axcl.log"), "level": 2}, "device": {"level": 2}}
        file = folder / "axcl.json"
        file.write_text(json.dumps({"log": log, "dma buf size": hex(DMA_BUFFER_BYTES)}))
        return file

    def _read_version(self) -> str:
        parts = [self.ffi.new("int32_t *") for _ in range(3)]
        if self.has("axclrtGetVersion") and not self._library.axclrtGetVersion(*parts):
            return ".".join(str(part[0]) for part in parts)
        return "unknown"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Give everything back in order: engine, context, device, runtime. Never raises."""
        self.use_thread()
        self._closing.close()

    def has(self, *names: str) -> bool:
        """Whether this version of the runtime exports all these functions."""
        return all(hasattr(self._library, name) for name in names)

    @property
    def has_async(self) -> bool:
        """Whether work can be queued on a stream."""
        return self.has(*ASYNC_FUNCTIONS)

    def function(self, name: str) -> Any:
        """Return a function that raises ours errors, for what is called again and again."""
        call, raise_for = getattr(self._library, name), error_of

        def checked(*args: Any) -> None:
            if code := call(*args):
                raise raise_for(name, code)

        return checked

    def call(self, name: str, *args: Any) -> None:
        """Call a function that returns an error code.

        Raises:
            DeviceError: it returned one; ``DeviceLostError`` if the card is lost by it.
        """
        if code := getattr(self._library, name)(*args):
            raise error_of(name, code)

    def ask(self, name: str, *args: Any) -> Any:
        """Call a function that returns a value."""
        return getattr(self._library, name)(*args)

    def use_thread(self) -> None:
        """Let the calling thread use the card: each thread needs the context (0x80300284)."""
        if threading.get_ident() != self._thread:
            self._quietly("axclrtSetCurrentContext", self._context)
            self._thread = threading.get_ident()

    def _quietly(self, name: str, *args: Any) -> None:
        """Call, and leave it at that: on the way out nobody could do anything about an error."""
        getattr(self._library, name)(*args)

    def memory(self) -> CardMemory:
        """Ask the card how much memory it has; takes up to some seconds (facts 4.4)."""
        properties = self.ffi.new("axclrtDeviceProperties *")
        self.call("axclrtGetDeviceProperties", self.device, properties)
        firmware = self.ffi.string(properties.swVersion).decode(errors="replace")
        return CardMemory(
            properties.totalCmmSize * 1024, properties.freeCmmSize * 1024, firmware or "unknown"
        )

    def usage(self, path: Path) -> int | None:
        """Return the bytes of card memory that a model file will take; none if it can't say."""
        if not self.has("axclrtEngineGetUsage"):
            return None
        sys_bytes, cmm_bytes = self.ffi.new("int64_t *"), self.ffi.new("int64_t *")
        if self._library.axclrtEngineGetUsage(os.fsencode(path), sys_bytes, cmm_bytes):
            return None
        return int(cmm_bytes[0]) or None

    def malloc(self, size: int) -> Any:
        """Return zeroed memory on the card: its bits could be NaN otherwise, which 0 can't mask."""
        memory = self.ffi.new("void **")
        self.call("axclrtMalloc", memory, size, HUGE_FIRST)
        try:
            self.call("axclrtMemset", memory[0], 0, size)
        except DeviceError:
            self.free(memory[0])
            raise
        return memory[0]

    def free(self, memory: Any) -> None:
        """Free memory of the card; an error is of no use to anyone."""
        self._quietly("axclrtFree", memory)

    def offset(self, memory: Any, count: int) -> Any:
        """Return the address so many bytes further."""
        return self.ffi.cast("char *", memory) + count


class CardGraph:
    """A model file on the card: its tensors by shape group, and what it takes to run it.

    Raises:
        ModelError: the card can't load the file.
        DeviceError: the card failed.
    """

    def __init__(self, axcl: Axcl, path: Path) -> None:
        self._axcl, self.path = axcl, path
        ffi, self._closing = axcl.ffi, contextlib.ExitStack()
        model, context = ffi.new("uint64_t *"), ffi.new("uint64_t *")
        info, count = ffi.new("axclrtEngineIOInfo *"), ffi.new("int32_t *")
        try:
            # From the file: LoadFromMem hung with one driver (WOOL, V3.6.5).
            axcl.call("axclrtEngineLoadFromFile", os.fsencode(path), model)
        except DeviceError as exc:
            if exc.is_lost:
                raise
            raise ModelError(
                f"the card can't load {path} ({exc.message}); it is broken, for another chip, or "
                "too big: copy it again, and see 'edge-llm doctor --model'"
            ) from exc
        with contextlib.ExitStack() as opened:
            opened.callback(axcl.ask, "axclrtEngineUnload", model[0])
            axcl.call("axclrtEngineCreateContext", model[0], context)
            axcl.call("axclrtEngineGetIOInfo", model[0], info)
            if axcl.has("axclrtEngineDestroyIOInfo"):
                opened.callback(axcl.ask, "axclrtEngineDestroyIOInfo", info[0])
            axcl.call("axclrtEngineGetShapeGroupsCount", info[0], count)
            self.model, self.context, self._info = int(model[0]), int(context[0]), info[0]
            groups = range(max(count[0], 1))
            self._inputs = [self._tensors("Input", group) for group in groups]
            self._outputs = [self._tensors("Output", group) for group in groups]
            self._closing = opened.pop_all()

    @property
    def num_groups(self) -> int:
        """How many shape groups there are, at least 1."""
        return len(self._inputs)

    def inputs(self, group: int = 0) -> Mapping[str, TensorInfo]:
        """Return the inputs of a group by name, in the file's order."""
        return self._inputs[group]

    def outputs(self, group: int = 0) -> Mapping[str, TensorInfo]:
        """Return the outputs of a group by name, in the file's order."""
        return self._outputs[group]

    def size(self, name: str, group: int = 0) -> int:
        """Return the bytes of a tensor."""
        tensor = self._inputs[group].get(name) or self._outputs[group][name]
        return tensor.dtype.itemsize * int(np.prod(tensor.shape))

    def make_io(self) -> Any:
        """Return a new IO handle; it goes with the graph."""
        io = self._axcl.ffi.new("axclrtEngineIO *")
        self._axcl.call("axclrtEngineCreateIO", self._info, io)
        self._closing.callback(self._axcl.ask, "axclrtEngineDestroyIO", io[0])
        return io[0]

    def bind(self, io: Any, group: int, name: str, memory: Any) -> None:
        """Bind memory of exactly the tensor's size."""
        side, tensors = "Input", self._inputs[group]
        if name not in tensors:
            side, tensors = "Output", self._outputs[group]
        index = list(tensors).index(name)
        self._axcl.call(
            f"axclrtEngineSet{side}BufferByIndex", io, index, memory, self.size(name, group)
        )

    def close(self) -> None:
        """Unload the file."""
        self._closing.close()

    def _tensors(self, side: str, group: int) -> Mapping[str, TensorInfo]:
        axcl, tensors = self._axcl, {}
        dims, dtype = axcl.ffi.new("axclrtEngineIODims *"), axcl.ffi.new("int *")
        for index in range(axcl.ask(f"axclrtEngineGetNum{side}s", self._info)):
            axcl.call(f"axclrtEngineGet{side}Dims", self._info, group, index, dims)
            axcl.call(f"axclrtEngineGet{side}DataType", self._info, index, dtype)
            name = axcl.ffi.string(axcl.ask(f"axclrtEngineGet{side}NameByIndex", self._info, index))
            shape = tuple(dims.dims[i] for i in range(dims.dimCount))
            if dtype[0] not in DTYPES:
                raise ModelError(f"{self.path}: {name.decode()} has the unknown type {dtype[0]}")
            tensor = TensorInfo(name.decode(), shape, DTYPES[dtype[0]])
            size = axcl.ask(f"axclrtEngineGet{side}SizeByIndex", self._info, group, index)
            if size != tensor.dtype.itemsize * int(np.prod(shape)):
                raise ModelError(f"{self.path}: {tensor} takes {size} bytes in group {group}")
            tensors[tensor.name] = tensor
        return MappingProxyType(tensors)
