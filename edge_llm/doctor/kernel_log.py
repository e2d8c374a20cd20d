"""What the kernel complained of since the machine was started: the card, the power, the disk.

The card's lines are those of the vendor's driver (axcl-runtime, ``axcl_pcie_host.c``) and of people
whose cards hung.
"""

import re
from collections.abc import AsyncGenerator, Iterator, Sequence
from dataclasses import dataclass

from edge_llm.doctor.case import Case
from edge_llm.doctor.finding import Finding, fail, ok, skip, warn
from edge_llm.doctor.machine import Machine, ProgramError
from edge_llm.doctor.pcie import REBOOT_CARD, has_card
from edge_llm.doctor.threads import in_thread

__all__ = ["examine_card_log", "examine_machine_log"]

POWER_CYCLE = (
    "sudo systemctl stop edge-llm, then power off, wait 10 s and power on; a reboot alone may "
    "leave the card as it is"
)
MORE = "sudo usermod -aG systemd-journal $USER and log in anew, or sudo edge-llm doctor"
LONGEST = 120
MOST_LINES = "20000"


@dataclass(frozen=True, slots=True)
class _Complaint:
    pattern: re.Pattern[str]
    what: str
    cure: str
    is_bad: bool = True


CARD = (
    _Complaint(
        re.compile(r"ax_sglist_alloc_mem .*fail|cma_alloc: .*fail|cma: .*alloc failed"),
        "the host's contiguous memory (CMA) ran out",
        "sudo reboot; and run one program on the card at a time. 'cma=' in cmdline.txt kept a Pi "
        "from starting: leave it alone",
    ),
    _Complaint(
        re.compile(r"port ack timeout|port create fail|request ports from device \d+ fail"),
        "the card did not take a new connection",
        POWER_CYCLE,
    ),
    _Complaint(
        re.compile(
            r"recv dma size \d+ is not equal|send.* 0 bytes sent|device \d+ is not connected"
        ),
        "the card broke off in mid-transfer, as when a process on it is killed",
        f"{REBOOT_CARD}; else {POWER_CYCLE}",
    ),
    _Complaint(
        re.compile(r"PCIe Bus Error: severity=(?!Correct)|AER: (?:Uncorrect|Multiple Uncorrect)"),
        "errors on the PCIe link",
        "power off, reseat the ribbon cable and the card; a shorter cable",
    ),
)
MACHINE = (
    _Complaint(
        re.compile(r"[Uu]nder-?voltage detected"),
        "the supply's voltage was too low",
        "a power supply of 27 W (5 V, 5 A) with its own cable",
        is_bad=False,
    ),
    _Complaint(
        re.compile(r"Out of memory: Killed process|oom-kill:"),
        "memory ran out, and a process was killed",
        "take a smaller model, or stop other programs: see machine.memory",
        is_bad=False,
    ),
    _Complaint(
        re.compile(
            r"mmcblk\d.*error|EXT4-fs error|I/O error, dev (?:mmcblk|sd|nvme)|"
            r"Remounting filesystem read-only"
        ),
        "the SD card or disk fails",
        "save what is on it, and replace it",
    ),
)
DEAD, ALIVE = re.compile(r"device \d+: dead!"), re.compile(r"device \d+: alive!")


async def read_log(case: Case) -> Sequence[str] | str:
    """Return the kernel's lines since the start; or why they can't be read."""
    return await in_thread(lambda: _read(case.machine))


def _read(machine: Machine) -> Sequence[str] | str:
    """Ask the journal, which keeps all of it, and then the kernel, which may have lost some."""
    why = "neither journalctl nor dmesg is there"
    tries = (
        ("journalctl", "-k", "-b", "--no-pager", "--quiet", "-o", "short", "-n", MOST_LINES),
        ("dmesg",),
    )
    for program, *arguments in tries:
        try:
            ran = machine.run(program, *arguments)
        except ProgramError as exc:
            why = str(exc)
            continue
        if ran is None:
            continue
        if ran.code == 0 and ran.output.strip():
            return ran.output.splitlines()
        why = f"{program}: {(ran.error.strip().splitlines() or ['it says nothing'])[-1]}"
    return why


async def examine_card_log(case: Case) -> AsyncGenerator[Finding]:
    """What the card's driver complained of."""
    if not await in_thread(lambda: has_card(case)):
        return
    name = "card.log"
    lines = await case.once(read_log)
    if isinstance(lines, str):
        yield skip(name, f"the kernel's log can't be read: {lines}", MORE)
        return
    found = [*_judge_deaths(name, lines), *_judge(name, CARD, _since_reset(lines))]
    for finding in found:
        yield finding
    if not found:
        yield ok(name, "the kernel complains of nothing about the card")


async def examine_machine_log(case: Case) -> AsyncGenerator[Finding]:
    """What the kernel complained of beside the card."""
    name = "machine.log"
    lines = await case.once(read_log)
    if isinstance(lines, str):
        yield skip(name, f"the kernel's log can't be read: {lines}", MORE)
        return
    found = [*_judge(name, MACHINE, lines)]
    for finding in found:
        yield finding
    if not found:
        yield ok(name, "the kernel complains of no power, memory or disk")


def _judge_deaths(name: str, lines: Sequence[str]) -> Iterator[Finding]:
    deaths = [number for number, line in enumerate(lines) if DEAD.search(line)]
    lives = [number for number, line in enumerate(lines) if ALIVE.search(line)]
    if not deaths:
        return
    if lives and lives[-1] > deaths[-1]:
        what = "the card died, and came back"
        yield warn(name, what, "if it happens again: power supply, heat, the card's cable")
    else:
        what = f"the card is dead: {_shown(lines[deaths[-1]])}"
        yield fail(name, what, POWER_CYCLE)


def _since_reset(lines: Sequence[str]) -> Sequence[str]:
    """Leave out what the card's latest reset has mended."""
    for number in range(len(lines) - 1, -1, -1):
        if ALIVE.search(lines[number]):
            return lines[number + 1 :]
    return lines


def _judge(name: str, complaints: Sequence[_Complaint], lines: Sequence[str]) -> Iterator[Finding]:
    for complaint in complaints:
        hits = [line for line in lines if complaint.pattern.search(line)]
        if hits:
            times = f"{len(hits)} times, the latest: " if len(hits) > 1 else ""
            what = f"{complaint.what} ({times}{_shown(hits[-1])})"
            yield (fail if complaint.is_bad else warn)(name, what, complaint.cure)


def _shown(line: str) -> str:
    return line.strip()[:LONGEST]
