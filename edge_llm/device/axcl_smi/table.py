"""The table that the tool prints without arguments.

A card has two rows. One that is listed but does not answer has ``--`` for its loads and ``0 MiB``
for its memories, which is "unknown", not "full". Without a card, and without a driver, the heads
are there and no rows are; in a text that is cut off, or of another form, cards may be missing that
are there, so that is no reading at all.
"""

import re

from edge_llm.device.axcl_smi.text import celsius, errors_in, lines_of, percent, used_of
from edge_llm.device.reading import CardProcess, CardReading, CardsReading

__all__ = ["parse_table"]

HEAD = re.compile(r"\| AXCL-SMI +\S+ +Driver +(\S+) +\|")
END_OF_HEAD = "|="
PROCESSES = "| Processes:"

MIB = r"(-?[0-9]{1,10}) MiB"
FIRST = re.compile(rf"\| +([0-9]{{1,4}}) +(\S+) +(\S+) \| +(\S+) +\| +{MIB} / +{MIB} \|")
LOAD = r"(--|-?[0-9]{1,10}%)"
SECOND = re.compile(
    rf"\| +\S+ +(--|-?[0-9]{{1,6}}C) +\S+ / \S+ \| {LOAD} *{LOAD} +\| +{MIB} / +{MIB} \|"
)
PROCESS = re.compile(r"\| +([0-9]{1,4}) +([0-9]{1,10})  (.*?) +([0-9]{1,10}) KiB \|")


def parse_table(text: str) -> CardsReading | None:
    """Read the table; None if that is none, or not a whole one."""
    rows = [line for line in lines_of(text) if line.startswith("|")]
    ends = [index for index, row in enumerate(rows) if row.startswith(END_OF_HEAD)]
    if len(ends) != 2 or not rows[ends[1] - 2].startswith(PROCESSES):
        return None
    head = HEAD.fullmatch(rows[0])
    cards = _cards(rows[ends[0] + 1 : ends[1] - 2])
    if not head or cards is None:
        return None
    processes = [PROCESS.fullmatch(row) for row in rows[ends[1] + 1 :]]
    return CardsReading(
        driver=head[1],
        cards=cards,
        processes=tuple(_process(match) for match in processes if match),
        error=errors_in(text),
    )


def _cards(rows: list[str]) -> tuple[CardReading, ...] | None:
    if len(rows) % 2:
        return None
    cards = []
    for above, below in zip(rows[::2], rows[1::2], strict=True):
        first, second = FIRST.fullmatch(above), SECOND.fullmatch(below)
        if not first or not second:
            return None
        cards.append(_card(first.groups(), second.groups()))
    return tuple(cards)


def _card(first: tuple[str, ...], second: tuple[str, ...]) -> CardReading:
    index, name, firmware, bus_id, *memory = first
    temperature, cpu, npu, *cmm = second
    memory_used, memory_total = used_of(*map(int, memory))
    cmm_used, cmm_total = used_of(*map(int, cmm))
    said = {firmware, temperature, cpu, npu} != {"--"}
    return CardReading(
        index=int(index),
        name=name,
        bus_id=None if bus_id == "--" else bus_id.lower(),  # the tool writes A to F large
        answers=said or memory_total is not None or cmm_total is not None,
        firmware=None if firmware == "--" else firmware,
        temperature_celsius=None if temperature == "--" else celsius(float(temperature[:-1])),
        cpu_percent=percent(cpu),
        npu_percent=percent(npu),
        memory_used_mib=memory_used,
        memory_total_mib=memory_total,
        cmm_used_mib=cmm_used,
        cmm_total_mib=cmm_total,
    )


def _process(match: re.Match[str]) -> CardProcess:
    return CardProcess(int(match[1]), int(match[2]), match[3], int(match[4]))
