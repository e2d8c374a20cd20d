"""The vendor's ``axcl-smi`` for the virtual card: what it prints, and how it goes wrong.

The formats are those of V3.10.2 (facts/axcl_smi). As with the real one the exit code is always 0.
``write_smi`` makes a program of it, which tests steer by the words in the file beside it,
``axcl-smi.control``; README.md lists them. It starts in some 20 ms, so nothing is imported here
that takes long.
"""

import fcntl
import os
import signal
import sys
import time

from tests.virtual_ax650.shared import Shared

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pathlib import Path

    from tests.virtual_ax650.card import Card

__all__ = ["main", "write_smi"]

VERSION = "V3.10.2_20251215140224"
BUILT = "Dec 15 2025 14:29:02"
LINE = "+" + "-" * 96 + "+"
CARD_LINE = f"+{'-' * 41}+{'-' * 14}+{'-' * 39}+"
HEAD = f"""\
{LINE}
| AXCL-SMI  {VERSION:<54}Driver  {VERSION} |
{CARD_LINE}
| Card  Name                     Firmware | Bus-Id       |                          Memory-Usage |
| Fan   Temp                Pwr:Usage/Cap | CPU      NPU |                             CMM-Usage |
|{"=" * 41}+{"=" * 14}+{"=" * 39}|
"""
FOOT = f"""
{LINE}
| Processes:                                                                                     |
| Card      PID  Process Name                                                   NPU Memory Usage |
|{"=" * 96}|
"""
DEVICE_ID = 1
CPU_PERCENT = 2
MEMORY_KIB, MEMORY_USED_KIB = 968356, 148 * 1024  # of the card's own Linux, as the library has it
MIB, KIB = 1024 * 1024, 1024
REBOOT_S = 1.0

PROGRAM = """\
#!{python} -SE
import sys
sys.path.insert(0, {root!r})
from tests.virtual_ax650.smi import main
main({shared!r}, {state!r}, {control!r})
"""


def write_smi(folder: "Path", card: "Card") -> "Path":
    """Make the program in a folder, for a card with ``SHARED`` and ``STATE``; return its path."""
    path = folder / "axcl-smi"
    text = PROGRAM.format(
        python=sys.executable,
        root=os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))),
        shared=card.environment["VIRTUAL_AXCL_SHARED"],
        state=card.environment["VIRTUAL_AXCL_STATE"],
        control=str(path.with_suffix(".control")),
    )
    path.write_text(text)
    path.chmod(0o755)
    return path


class _Tool:
    def __init__(self, shared: Shared, state: str, modes: dict[str, str]) -> None:
        self.shared, self.state, self.modes = shared, state, modes

    @property
    def is_dead(self) -> bool:
        return os.path.exists(self.state)

    def table(self) -> str:
        rows = "" if "no_rows" in self.modes else self._rows()
        return HEAD + rows + FOOT + ("" if "no_rows" in self.modes else self._process())

    def _rows(self) -> str:
        if self.is_dead:
            firmware, heat, cpu, npu = ("--",) * 4
            sizes = (0, 0, 0, 0)
        else:
            firmware, heat = "V3.10.2", f"{round(self.shared.celsius)}C"
            cpu, npu = f"{CPU_PERCENT}%", f"{self.shared.read_npu_percent(time.monotonic_ns())}%"
            memory = (MEMORY_USED_KIB // KIB, MEMORY_KIB // KIB)
            sizes = (*memory, self.shared.cmm_used_bytes // MIB, self.shared["cmm_total"] // MIB)
        return (
            f"| {0:4d}  {'AX650N':<16} {firmware:>16} | {'0001:01:00.0':>12} |"
            f"           {sizes[0]:8d} MiB / {sizes[1]:8d} MiB |\n"
            f"| {'--':>4}  {heat:>4} {'-- / --':>28} | {cpu:<6}{npu:>6} |"
            f"           {sizes[2]:8d} MiB / {sizes[3]:8d} MiB |\n"
            f"{CARD_LINE}\n"
        )

    def _process(self) -> str:
        if self.is_dead or not self.shared.has_owner:
            return ""
        pid = self.shared["owner"]
        try:
            name = os.readlink(f"/proc/{pid}/exe")
        except OSError:
            name = "?"
        return f"| {0:4d} {pid:8d}  {name:<66} {self.shared['cmm_used'] // KIB:8d} KiB |\n"

    def info(self, flags: list[str]) -> str:
        parts = "".join(getattr(self, "_" + flag)() for flag in flags)
        return f"Device ID           : {DEVICE_ID} (0x{DEVICE_ID:x})\n{parts}\n"

    def _temp(self) -> str:
        value = "--" if self.is_dead else self.shared["millidegrees"]
        return f"temperature         : {value}\n"

    def _cmm(self) -> str:
        if self.is_dead:
            return "CMM Usage           : --\n"
        total, used = self.shared["cmm_total"] // KIB, self.shared.cmm_used_bytes // KIB
        return (
            f"CMM Total           : {total:8d} KiB\n"
            f"CMM Used            : {used:8d} KiB\n"
            f"CMM Remain          : {total - used:8d} kiB\n"
        )

    def _npu(self) -> str:
        percent = 0 if self.is_dead else self.shared.read_npu_percent(time.monotonic_ns())
        usage = f"vnpu-Non            : {percent}%%" if percent else "NPU Usage (%)       : --"
        return f"engine version      : 2.12.0s\n{usage}\n"

    def _cpu(self) -> str:
        if self.is_dead:
            return "CPU Usage (%)       : --\n"
        return (
            f"CPU Usage (%)       : {CPU_PERCENT:.2f}%\n"
            "CPU                 : 1.1% usr  0.8% sys  0.0% nic 98.0% idle  0.0% io  0.0% irq"
            "  0.1% sirq\n"
            "Load average        : 3.03 3.06 3.02 1/153 890\n"
        )

    def _mem(self) -> str:
        if self.is_dead:
            return "MEM Usage           : --\n"
        free = MEMORY_KIB - MEMORY_USED_KIB
        rows = {"MemTotal": MEMORY_KIB, "MemFree": free, "MemAvailable": free}
        return "".join(f"{name:<20}: {value:8d} kB\n" for name, value in rows.items())

    def reboot(self) -> None:
        _print(f"Do you want to reboot device {0} ? (y/n): ")
        if sys.stdin.readline()[:1] not in ("y", "Y"):
            return
        self.shared["reboot_requests"] += 1
        seconds = float(self.modes.get("reboot_s", REBOOT_S))
        if self.modes.get("reboot") == "fail":
            time.sleep(seconds)
            return
        open(self.state, "wb").close()
        self.shared.start_reboot()
        time.sleep(seconds)
        os.unlink(self.state)
        _print(f"reboot device {DEVICE_ID} success\n")


def _print(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()


def _read_modes(control: str) -> dict[str, str]:
    try:
        with open(control) as file:
            words = file.read().split()
    except OSError:
        return {}
    return {name: value for name, _, value in (word.partition("=") for word in words)}


def _misbehave(modes: dict[str, str]) -> bool:
    """Do what is wrong with the tool itself; return whether that was all."""
    if "hang" in modes:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        while True:
            time.sleep(60)
    time.sleep(float(modes.get("slow", 0)))
    if "garbage" in modes:
        os.write(1, os.urandom(3000))
    return "garbage" in modes or "empty" in modes


def _error(text: str) -> None:
    _print(f"\x1b[1;30;31m[01-01 00:00:00:000][E][smi]{text}\x1b[0m\n")


def _run(arguments: list[str], tool: _Tool) -> None:
    index, words, rest = 0, [], iter(arguments)
    for word in rest:
        if word in ("-d", "--device"):
            index = int(next(rest, "0"))
        else:
            words.append(word)
    if words[:1] in (["-v"], ["--version"]):
        _print(f"AXCL-SMI {VERSION} BUILD: {BUILT}\n")
    elif "no_rows" in tool.modes and words:
        _error(f"[set_devices][0041]: device index {index} is out of connected devices number 0")
    elif index != 0:
        _error(f"[set_devices][0041]: device index {index} is out of connected devices number 1")
    elif not words:
        _print(tool.table())
    elif words[0] == "reboot":
        tool.reboot()
    elif words[0] == "info" and all(word in INFO for word in words[1:]):
        _print(tool.info([word[2:] for word in words[1:] or INFO]))
    else:
        sys.stderr.write(f"Unknown command: {words[0]}\n")
        _print(tool.table())


INFO = ("--temp", "--mem", "--cmm", "--cpu", "--npu")


def main(shared: str, state: str, control: str) -> None:
    """Be the program, with the arguments of this process.

    Args:
        shared: the card's page.
        state: the file that exists while the card is dead.
        control: the file of words that say what goes wrong.
    """
    modes = _read_modes(control)
    guard = os.open(shared, os.O_RDONLY)
    try:
        fcntl.flock(guard, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        _print("axcl-smi is already running, please try later.\n")
        return
    if not _misbehave(modes):
        _run(sys.argv[1:], _Tool(Shared(shared), state, modes))
