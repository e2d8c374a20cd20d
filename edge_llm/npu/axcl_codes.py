"""What the numbers mean that the AXCL runtime returns.

``0x80000000 | module << 24 | 0x30 << 16 | part << 8 | error`` (axcl-runtime, ``axcl_def.h`` and
``axcl_rt_*.h``). Codes of another pattern come from the card's NPU engine.
"""

import re

from edge_llm.errors import DeviceError, DeviceLostError

__all__ = ["error_in", "error_of", "is_fatal", "name_of"]

PARTS = [
    "DEVICE",
    "CONTEXT",
    "STREAM",
    "TASK",
    "MEMORY",
    "CONFIG",
    "ENGINE",
    "SYSLOG",
    "SYSCTRL",
    "LATENCY",
    "P2P",
    "USRWORK",
]
COMMON = [
    "FAIL",
    "NULL_POINTER",
    "ILLEGAL_PARAMETER",
    "UNSUPPORTED",
    "TIMEOUT",
    "BUSY",
    "NO_MEMORY",
    "ENCODE",
    "DECODE",
    "UNEXPECTED_RESPONSE",
    "OPEN",
    "EXECUTE_FAIL",
]
OWN = {
    0x180: "QUERY",
    0x181: "NO_CONNECT",
    0x182: "PROBE",
    0x183: "NOT_ACTIVE",
    0x184: "INVALID_ID",
    0x185: "NO_ACTIVE_DEVICE",
    0x186: "PORT_ALLOCATE",
    0x187: "REBOOT",
    0x188: "PORT_DESTROY",
    0x281: "CREATE",
    0x282: "DESTROY",
    0x283: "BIND_THREAD",
    0x284: "NO_BIND_CONTEXT",
    0x381: "CREATE",
    0x382: "DESTROY",
    0x383: "SYNC_TIMEOUT",
    0x481: "SUBMIT",
    0x581: "NOT_DEVICE_MEMORY",
    0x781: "INVALID_INDEX",
}
FATAL = {0x181, 0x183, 0x186, 0x187, 0x10B, 0x383}
FATAL_ANYWHERE = {0x05, 0x08, 0x09, 0x0A}
"""Timeouts, and messages to the card that got lost or garbled (judged by reports: facts 4.5)."""

CURES = {
    0x10B: "/dev/axcl_host can't be opened: is the driver installed for this kernel?",
    0x181: "the card is not connected: check power and 'lspci'",
    0x186: "the card gives no connection, as after a process that was killed: reboot the card",
}


def name_of(code: int) -> str:
    """Return the name of a code, as ``DEVICE_NO_CONNECT``."""
    part, error = code >> 8 & 0xFF, code & 0xFF
    if not _is_runtimes(code):
        return "NPU_ENGINE"
    place = PARTS[part - 1] if 0 < part <= len(PARTS) else f"PART_{part:02X}"
    common = COMMON[error - 1] if 0 < error <= len(COMMON) else f"ERROR_{error:02X}"
    return f"{place}_{OWN.get(code & 0xFFFF, common)}"


def is_fatal(code: int) -> bool:
    """Whether the card will do nothing more until it is reset."""
    return _is_runtimes(code) and (code & 0xFFFF in FATAL or code & 0xFF in FATAL_ANYWHERE)


def error_of(function: str, code: int) -> DeviceError:
    """Return the error for a code that a function returned."""
    code &= 0xFFFFFFFF
    return _error(f"{function} failed: 0x{code:08X} {name_of(code)}", code)


def error_in(text: str) -> DeviceError:
    """Return the error for a message of another library that may have the code in it."""
    found = re.search(r"0x8[0-9a-fA-F]{7}", text)
    if found is None:
        return DeviceError(text)
    code = int(found[0], 16)
    return _error(f"{text} ({name_of(code)})", code)


def _error(text: str, code: int) -> DeviceError:
    kind = DeviceLostError if is_fatal(code) else DeviceError
    cure = CURES.get(code & 0xFFFF) if _is_runtimes(code) else None
    return kind(f"{text}; {cure}" if cure else text, device_code=code)


def _is_runtimes(code: int) -> bool:
    return code >> 16 & 0xFF == 0x30
