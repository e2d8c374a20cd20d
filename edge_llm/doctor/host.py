"""The host: memory, clock, power, heat."""

import ctypes
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

from edge_llm.device.host import FLAGS
from edge_llm.doctor.case import Case
from edge_llm.doctor.finding import Finding, fail, ok, skip, warn
from edge_llm.doctor.machine import Machine, ProgramError
from edge_llm.doctor.pcie import has_card

__all__ = ["examine_clock", "examine_heat", "examine_memory", "examine_power"]

KIB_PER_MIB = 1024
LITTLE_MIB, LOW_MIB = 250, 600
"""The service takes some 250 MiB beside the model, and the worker as much."""
MUCH_SWAP_MIB = 512
DMA_MIB = 12
"""What a process on the card takes of the host's contiguous memory: 3 buffers of 4 MiB (docs of
AXCL, ``dma buf size``)."""
THROTTLED = (
    "sys/devices/platform/soc/soc:firmware/get_throttled",
    "sys/devices/platform/soc@107c000000/soc@107c000000:firmware/get_throttled",
)
"""Of the Raspberry Pi's firmware: up to the Pi 4, and on the Pi 5."""
BEFORE = 16
"""Bits above this one tell what has happened since the start."""
UNSYNCHRONISED, STATUS_OFFSET = 0x40, 40  # adjtimex(2), on 64-bit machines
HOT_CELSIUS = 80.0  # from which a Pi slows down
GOVERNOR = "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"


def _meminfo(machine: Machine) -> dict[str, int]:
    """Return the kernel's figures in MiB."""
    found = {}
    for line in (machine.read("proc/meminfo") or "").splitlines():
        name, _, value = line.partition(":")
        if value.split()[:1] and value.split()[0].isdigit():
            found[name] = int(value.split()[0]) // KIB_PER_MIB
    return found


def examine_memory(case: Case) -> Iterable[Finding]:
    """Memory, swap, and contiguous memory for the card's driver."""
    name, mib = "machine.memory", _meminfo(case.machine)
    available, total = mib.get("MemAvailable"), mib.get("MemTotal")
    if available is None or total is None:
        yield skip(name, "not known")
        return
    found = f"{available} of {total} MiB are available"
    cure = "stop other programs (ps aux --sort -rss | head), or take a smaller model"
    if available < LITTLE_MIB:
        yield fail(name, found, cure)
    elif available < LOW_MIB:
        yield warn(name, found, cure)
    else:
        yield ok(name, found)
    yield _judge_swap(mib, cure)
    if "CmaTotal" in mib and has_card(case):
        yield _judge_cma(mib)


def _judge_swap(mib: dict[str, int], cure: str) -> Finding:
    name, total = "machine.swap", mib.get("SwapTotal", 0)
    used = total - mib.get("SwapFree", 0)
    if total == 0:
        return ok(name, "none")
    found = f"{used} of {total} MiB are used"
    return warn(name, found, cure) if used > MUCH_SWAP_MIB else ok(name, found)


def _judge_cma(mib: dict[str, int]) -> Finding:
    name, free = "machine.cma", mib.get("CmaFree", 0)
    found = f"{free} of {mib['CmaTotal']} MiB of contiguous memory are free"
    if free >= DMA_MIB or mib["CmaTotal"] == 0:
        return ok(name, found)
    return warn(
        name,
        f"{found}; a process on the card takes {DMA_MIB}",
        "sudo reboot; and run one program on the card at a time",
    )


def examine_clock(case: Case) -> Iterable[Finding]:
    """Whether the clock is right: certificates and logs need it."""
    name = "machine.clock"
    built = Path(__file__).stat().st_mtime
    cure = "sudo timedatectl set-ntp true, and let UDP port 123 out; a Pi has no clock of its own"
    if time.time() < built - 86_400:
        when = time.strftime("%Y-%m-%d %H:%M", time.gmtime())
        yield fail(name, f"it says {when} UTC, which is before edge-llm was installed", cure)
        return
    is_right, by = _is_synchronised(case.machine)
    if is_right is None:
        yield skip(name, by)
    elif is_right:
        yield ok(name, f"synchronised ({by})")
    else:
        yield warn(name, f"not synchronised ({by})", cure)


def _is_synchronised(machine: Machine) -> tuple[bool | None, str]:
    """Return whether the clock is held to the time of a server, and who says so."""
    why = ""
    try:
        ran = machine.run("timedatectl", "show", "--property=NTPSynchronized")
    except ProgramError as exc:
        ran, why = None, f"{exc}; "
    if ran and ran.code == 0 and "NTPSynchronized=" in ran.output:
        return "NTPSynchronized=yes" in ran.output, "timedatectl"
    if machine != Machine():
        return None, f"{why}timedatectl does not tell"
    return _ask_kernel()


def _ask_kernel() -> tuple[bool | None, str]:
    timex = ctypes.create_string_buffer(512)  # struct timex is of 208 bytes
    try:
        state = ctypes.CDLL(None).adjtimex(timex)
    except (OSError, AttributeError):
        state = -1
    if state < 0:
        return None, "the kernel does not tell"
    status = int.from_bytes(timex.raw[STATUS_OFFSET : STATUS_OFFSET + 4], sys.byteorder)
    return not status & UNSYNCHRONISED, "the kernel"


def examine_power(case: Case) -> Iterable[Finding]:
    """Whether a Raspberry Pi's power supply is strong enough."""
    name = "machine.power"
    bits = _throttled(case.machine)
    if bits is None:
        yield skip(name, "no flags of a power supply here; only a Raspberry Pi has them")
        return
    now = [flag for bit, flag in FLAGS.items() if bits >> bit & 1]
    before = [flag for bit, flag in FLAGS.items() if bits >> bit + BEFORE & 1]
    cure = "a power supply of 27 W (5 V, 5 A) with its own cable, and a fan; then power off and on"
    if now:
        yield fail(name, f"now: {_words(now)}", cure)
    elif before:
        yield warn(name, f"since the start: {_words(before)}", cure)
    else:
        yield ok(name, "never too low since the start")


def _words(flags: Iterable[str]) -> str:
    return ", ".join(flag.replace("_", " ") for flag in flags)


def _throttled(machine: Machine) -> int | None:
    for path in THROTTLED:
        if (line := machine.line(path)) is not None:
            return _hexadecimal(line)
    ran = machine.run("vcgencmd", "get_throttled")
    return _hexadecimal(ran.output.partition("=")[2]) if ran and ran.code == 0 else None


def _hexadecimal(text: str) -> int | None:
    try:
        return int(text, 16)
    except ValueError:
        return None


def examine_heat(case: Case) -> Iterator[Finding]:
    """Whether the processor is too hot, and how it is clocked."""
    machine = case.machine
    name = "machine.temperature"
    text = machine.line("sys/class/thermal/thermal_zone0/temp")
    if text is None or not text.lstrip("-").isdigit():
        yield skip(name, "not known")
    else:
        celsius = int(text) / 1000
        found = f"{celsius:.0f} °C"
        is_hot = celsius >= HOT_CELSIUS
        cure = "a fan: from 80 °C on the processor slows down"
        yield warn(name, found, cure) if is_hot else ok(name, found)
    governor = machine.line(GOVERNOR)
    if governor and governor != "performance":
        hint = "echo performance | sudo tee /sys/devices/system/cpu/cpu*/cpufreq/scaling_governor"
        why = f"the clock follows the load ({governor}); 'performance' answers faster with a card"
        yield ok("machine.governor", why, hint)
