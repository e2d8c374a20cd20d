"""The virtual card in a test: its library, its switches, its counters and its faults."""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from ctypes import (
    CDLL,
    POINTER,
    Structure,
    c_char,
    c_char_p,
    c_double,
    c_int,
    c_int32,
    c_int64,
    c_size_t,
    c_uint8,
    c_uint32,
    c_uint64,
    c_void_p,
)
from pathlib import Path
from typing import Any

from tests.virtual_ax650.build import Variant, build

__all__ = [
    "DEVICE_TO_DEVICE",
    "DEVICE_TO_HOST",
    "HOST_TO_DEVICE",
    "HOST_TO_HOST",
    "Axcl",
    "AxclError",
    "Card",
    "DeviceList",
    "DeviceProperties",
    "Dims",
    "open_card",
    "open_library",
]

HOST_TO_HOST, HOST_TO_DEVICE, DEVICE_TO_HOST, DEVICE_TO_DEVICE = range(4)

PREFIX = "VIRTUAL_AXCL_"


class DeviceList(Structure):
    """``axclrtDeviceList``."""

    _fields_ = (("num", c_uint32), ("devices", c_int32 * 256))


class Dims(Structure):
    """``axclrtEngineIODims``."""

    _fields_ = (("dimCount", c_int32), ("dims", c_int32 * 32))


class DeviceProperties(Structure):
    """``axclrtDeviceProperties`` (facts 4.4)."""

    _fields_ = (
        ("swVersion", c_char * 64),
        ("uid", c_uint64),
        ("pciDomain", c_uint32),
        ("pciBusID", c_uint32),
        ("pciDeviceID", c_uint32),
        ("temperature", c_int32),
        ("totalMemSize", c_uint32),
        ("freeMemSize", c_uint32),
        ("totalCmmSize", c_uint32),
        ("freeCmmSize", c_uint32),
        ("cpuLoading", c_uint32),
        ("npuLoading", c_uint32),
        ("reserved", c_uint32 * 32),
    )


OUT = POINTER(c_void_p)
ID = c_uint64
ID_OUT = POINTER(c_uint64)
INT_OUT = POINTER(c_int32)

SIGNATURES: dict[str, tuple[Any, ...]] = {
    "axclInit": (c_char_p,),
    "axclFinalize": (),
    "axclrtGetVersion": (INT_OUT, INT_OUT, INT_OUT),
    "axclrtGetDeviceList": (POINTER(DeviceList),),
    "axclrtGetDeviceCount": (POINTER(c_uint32),),
    "axclrtSetDevice": (c_int32,),
    "axclrtResetDevice": (c_int32,),
    "axclrtGetDevice": (INT_OUT,),
    "axclrtGetDeviceProperties": (c_int32, POINTER(DeviceProperties)),
    "axclrtRebootDevice": (c_int32,),
    "axclrtCreateContext": (OUT, c_int32),
    "axclrtDestroyContext": (c_void_p,),
    "axclrtSetCurrentContext": (c_void_p,),
    "axclrtGetCurrentContext": (OUT,),
    "axclrtGetDefaultContext": (OUT, c_int32),
    "axclrtMalloc": (OUT, c_size_t, c_int),
    "axclrtMallocCached": (OUT, c_size_t, c_int),
    "axclrtFree": (c_void_p,),
    "axclrtMallocHost": (OUT, c_size_t),
    "axclrtFreeHost": (c_void_p,),
    "axclrtMemcpy": (c_void_p, c_void_p, c_size_t, c_int),
    "axclrtMemset": (c_void_p, c_uint8, c_size_t),
    "axclrtMemcmp": (c_void_p, c_void_p, c_size_t),
    "axclrtMemFlush": (c_void_p, c_size_t),
    "axclrtMemInvalidate": (c_void_p, c_size_t),
    "axclrtEngineInit": (c_int,),
    "axclrtEngineGetVNpuKind": (POINTER(c_int),),
    "axclrtEngineFinalize": (),
    "axclrtEngineLoadFromFile": (c_char_p, ID_OUT),
    "axclrtEngineLoadFromMem": (c_void_p, c_uint64, ID_OUT),
    "axclrtEngineUnload": (ID,),
    "axclrtEngineGetUsage": (c_char_p, POINTER(c_int64), POINTER(c_int64)),
    "axclrtEngineGetUsageFromModelId": (ID, POINTER(c_int64), POINTER(c_int64)),
    "axclrtEngineGetIOInfo": (ID, OUT),
    "axclrtEngineDestroyIOInfo": (c_void_p,),
    "axclrtEngineGetShapeGroupsCount": (c_void_p, INT_OUT),
    "axclrtEngineCreateIO": (c_void_p, OUT),
    "axclrtEngineDestroyIO": (c_void_p,),
    "axclrtEngineCreateContext": (ID, ID_OUT),
    "axclrtEngineExecute": (ID, ID, c_uint32, c_void_p),
    "axclrtCreateStream": (OUT,),
    "axclrtDestroyStream": (c_void_p,),
    "axclrtDestroyStreamForce": (c_void_p,),
    "axclrtSynchronizeStream": (c_void_p,),
    "axclrtSynchronizeStreamWithTimeout": (c_void_p, c_int32),
    "axclrtMemcpyAsync": (c_void_p, c_void_p, c_size_t, c_int, c_void_p),
    "axclrtMemsetAsync": (c_void_p, c_uint8, c_size_t, c_void_p),
    "axclrtEngineExecuteAsync": (ID, ID, c_uint32, c_void_p, c_void_p),
}
"""Arguments of what returns an error code; the questions about tensors follow in a loop."""

for _side in ("Input", "Output"):
    SIGNATURES |= {
        f"axclrtEngineGet{_side}Dims": (c_void_p, c_uint32, c_uint32, POINTER(Dims)),
        f"axclrtEngineGet{_side}DataType": (c_void_p, c_uint32, POINTER(c_int)),
        f"axclrtEngineGet{_side}DataLayout": (c_void_p, c_uint32, POINTER(c_int)),
        f"axclrtEngineGet{_side}IndexByName": (c_void_p, c_char_p),
        f"axclrtEngineSet{_side}BufferByIndex": (c_void_p, c_uint32, c_void_p, c_uint64),
        f"axclrtEngineSet{_side}BufferByName": (c_void_p, c_char_p, c_void_p, c_uint64),
        f"axclrtEngineGet{_side}BufferByIndex": (c_void_p, c_uint32, OUT, ID_OUT),
        f"axclrtEngineGet{_side}BufferByName": (c_void_p, c_char_p, OUT, ID_OUT),
    }

RESULTS: dict[str, tuple[Any, tuple[Any, ...]]] = {
    "axclrtGetSocName": (c_char_p, ()),
    "axclrtEngineGetModelCompilerVersion": (c_char_p, (ID,)),
    "axclrtEngineGetNumInputs": (c_uint32, (c_void_p,)),
    "axclrtEngineGetNumOutputs": (c_uint32, (c_void_p,)),
    "axclrtEngineGetInputSizeByIndex": (c_uint64, (c_void_p, c_uint32, c_uint32)),
    "axclrtEngineGetOutputSizeByIndex": (c_uint64, (c_void_p, c_uint32, c_uint32)),
    "axclrtEngineGetInputNameByIndex": (c_char_p, (c_void_p, c_uint32)),
    "axclrtEngineGetOutputNameByIndex": (c_char_p, (c_void_p, c_uint32)),
    "virtual_axcl_power_cycle": (None, ()),
    "virtual_axcl_add_faults": (None, (c_char_p,)),
    "virtual_axcl_clear_faults": (None, ()),
    "virtual_axcl_release": (None, ()),
    "virtual_axcl_die": (None, ()),
    "virtual_axcl_set_cmm": (None, (c_uint64,)),
    "virtual_axcl_set_temperature": (None, (c_int32,)),
    "virtual_axcl_function": (c_char_p, (c_uint32,)),
    "virtual_axcl_calls": (c_uint64, (c_char_p,)),
    "virtual_axcl_counter_name": (c_char_p, (c_uint32,)),
    "virtual_axcl_counter": (c_uint64, (c_char_p,)),
    "virtual_axcl_executes": (c_uint64, (c_uint32,)),
    "virtual_axcl_reset_counters": (None, ()),
    "virtual_axcl_seconds": (c_double, ()),
    "virtual_axcl_set_cost": (None, (c_double, c_double, c_double, c_int)),
    "virtual_axcl_complaint": (c_char_p, ()),
}
"""What returns something else: ``(result, arguments)``."""


def open_library(path: Path) -> CDLL:
    """Load the library, with the types of its functions. Error codes come as unsigned numbers."""
    library = CDLL(str(path))
    for name, arguments in SIGNATURES.items():
        if hasattr(library, name):
            function = getattr(library, name)
            function.argtypes, function.restype = arguments, c_uint32
    for name, (result, arguments) in RESULTS.items():
        function = getattr(library, name)
        function.argtypes, function.restype = arguments, result
    return library


class AxclError(Exception):
    """A call failed."""

    def __init__(self, function: str, code: int) -> None:
        super().__init__(f"{function} failed 0x{code:08x}")
        self.code = code


class Axcl:
    """The vendor's functions, with an exception in place of an error code."""

    def __init__(self, library: CDLL) -> None:
        self.library = library

    def __call__(self, name: str, *arguments: Any) -> None:
        """Call a function that returns an error code.

        Raises:
            AxclError: it is not 0.
        """
        if code := getattr(self.library, name)(*arguments):
            raise AxclError(name, code)

    def malloc(self, size: int) -> int:
        """Allocate memory on the card."""
        memory = c_void_p()
        self("axclrtMalloc", memory, size, 0)
        return int(memory.value or 0)


class Card:
    """A running virtual card: what happened on it, and what is to go wrong.

    Attributes:
        path: the library, for a driver to load.
        axcl: its functions.
        environment: what a process needs to find the library and to have the same switches.
    """

    def __init__(self, path: Path, environment: Mapping[str, str]) -> None:
        self.path = path
        self.environment = dict(environment)
        self._library = open_library(path)
        self.axcl = Axcl(self._library)
        self._library.virtual_axcl_power_cycle()

    def calls(self) -> dict[str, int]:
        """How often each function was called, without those that never were."""
        names = self._names(self._library.virtual_axcl_function)
        calls = {name: int(self._library.virtual_axcl_calls(name.encode())) for name in names}
        return {name: count for name, count in calls.items() if count}

    def counters(self) -> dict[str, int]:
        """Bytes, copies, what lives on the card: see README.md."""
        names = self._names(self._library.virtual_axcl_counter_name)
        return {name: int(self._library.virtual_axcl_counter(name.encode())) for name in names}

    def counter(self, name: str) -> int:
        """One of them."""
        return self.counters()[name]

    def executes(self) -> dict[int, int]:
        """How often each shape group was executed, of layers and logits together."""
        counts = {group: int(self._library.virtual_axcl_executes(group)) for group in range(32)}
        return {group: count for group, count in counts.items() if count}

    def reset_counters(self) -> None:
        """Count from 0, and time too; what is alive stays counted."""
        self._library.virtual_axcl_reset_counters()

    @property
    def seconds(self) -> float:
        """Virtual time that passed, if ``COST`` is on."""
        return float(self._library.virtual_axcl_seconds())

    @property
    def complaint(self) -> str:
        """Why the latest refused call was refused."""
        return str(self._library.virtual_axcl_complaint().decode())

    def fault(self, *faults: str) -> None:
        """Let things go wrong, as ``"axclrtEngineExecute:3:code=0x8030070c"``; see README.md."""
        self._library.virtual_axcl_add_faults("\n".join(faults).encode())

    def clear_faults(self) -> None:
        """Forget the faults to come."""
        self._library.virtual_axcl_clear_faults()

    def release(self) -> None:
        """Let the calls go on that hang."""
        self._library.virtual_axcl_release()

    def die(self) -> None:
        """The card answers nothing from now on, until it is rebooted."""
        self._library.virtual_axcl_die()

    def set_cmm_bytes(self, total: int) -> None:
        """Change how much memory the card has."""
        self._library.virtual_axcl_set_cmm(total)

    def set_temperature(self, celsius: float) -> None:
        """Change the temperature."""
        self._library.virtual_axcl_set_temperature(round(1000 * celsius))

    def close(self) -> None:
        """Take the power away: whatever lives is freed, and calls that hang return."""
        self._library.virtual_axcl_power_cycle()

    @staticmethod
    def _names(function: Any) -> list[str]:
        names: list[str] = []
        while name := function(len(names)):
            names.append(name.decode())
        return names


@contextmanager
def open_card(variant: Variant = "full", **switches: object) -> Iterator[Card]:
    """Give this process a virtual card in its first state, and the environment that belongs to it.

    There is one card per library and process: a second one that is opened inside resets the first.

    Args:
        variant: which library.
        switches: ``ASYNC="late"`` becomes ``VIRTUAL_AXCL_ASYNC=late``, and so on.
    """
    path = build(variant=variant)
    old = {
        name: value
        for name, value in os.environ.items()
        if name.startswith(PREFIX) or name == "LD_LIBRARY_PATH"
    }
    environment = {PREFIX + name: str(value) for name, value in switches.items()}
    paths = [str(path.parent), *filter(None, [old.get("LD_LIBRARY_PATH")])]
    environment["LD_LIBRARY_PATH"] = ":".join(paths)
    for name in old:
        del os.environ[name]
    os.environ.update(environment)
    card = Card(path, environment)
    try:
        yield card
    finally:
        for name in environment:
            del os.environ[name]
        os.environ.update(old)
        card.close()
