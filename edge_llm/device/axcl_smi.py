"""The vendor's ``axcl-smi``: run with care, and its table read.

Its exit code is 0 whatever happens, so only the text tells. It has no machine-readable output. A
card that is listed but does not answer has ``--`` for its loads and ``0 MiB`` for its memories,
which is "unknown", not "full". (All of this was seen with the tool of V3.10.2.) With a card that
hangs each start of it waits for up to 50 s in the kernel, so there is never more than one.
"""

import asyncio
import contextlib
import re
import shutil
from asyncio.subprocess import DEVNULL, PIPE, Process
from itertools import pairwise
from pathlib import Path

from edge_llm.device.reading import CardReading, CardsReading

__all__ = ["AxclSmi", "find_axcl_smi", "parse_table"]

WHERE = Path("/usr/bin/axcl/axcl-smi")
"""Where the vendor's package puts it; only login shells have that in their PATH."""

KILL_TIMEOUT_S = 1.0

DRIVER = re.compile(r"Driver +(\S+) *\|")
FIRST = re.compile(r"\| +(\d+) +(\S+) +(\S+) \| (\S+) +\| +(\d+) MiB / +(\d+) MiB \|")
SECOND = re.compile(
    r"\| +\S+ +(--|-?\d+C) +\S+ / \S+ \| (--|\d+%) +(--|\d+%) \| +(\d+) MiB / +(\d+) MiB \|"
)


def find_axcl_smi() -> Path | None:
    """Return the path of the tool, if it is installed."""
    if WHERE.is_file():
        return WHERE
    found = shutil.which("axcl-smi")
    return Path(found) if found else None


def parse_table(text: str) -> CardsReading | None:
    """Read what the tool prints without arguments; None if that is no table of its."""
    driver = DRIVER.search(text)
    if "AXCL-SMI" not in text or not driver:
        return None
    lines = text.splitlines()
    cards = []
    for above, below in pairwise(lines):
        if (first := FIRST.fullmatch(above)) and (second := SECOND.fullmatch(below)):
            cards.append(_card(first.groups(), second.groups()))
    return CardsReading(driver[1], tuple(cards))


def _card(first: tuple[str, ...], second: tuple[str, ...]) -> CardReading:
    index, name, firmware, bus_id, memory_used, memory_total = first
    temperature, cpu, npu, cmm_used, cmm_total = second
    has_memory, has_cmm = int(memory_total) > 0, int(cmm_total) > 0
    return CardReading(
        index=int(index),
        name=name,
        bus_id=bus_id,
        answers=has_memory or has_cmm or temperature != "--",
        firmware=None if firmware == "--" else firmware,
        temperature_c=_number(temperature),
        cpu_percent=_number(cpu),
        npu_percent=_number(npu),
        memory_used_mib=int(memory_used) if has_memory else None,
        memory_total_mib=int(memory_total) if has_memory else None,
        cmm_used_mib=int(cmm_used) if has_cmm else None,
        cmm_total_mib=int(cmm_total) if has_cmm else None,
    )


def _number(text: str) -> float | None:
    return None if text == "--" else float(text.rstrip("C%"))


class AxclSmi:
    """Runs the tool, one at a time.

    Args:
        path: of the tool.
        timeout_s: how long it may take; it asks the card seven times, a second each at most.
    """

    def __init__(self, path: Path, timeout_s: float = 10.0) -> None:
        self._path = path
        self._timeout_s = timeout_s
        self._process: Process | None = None

    @staticmethod
    async def _kill(process: Process) -> None:
        """Kill it, which helps only when the kernel lets it go; that is not waited for."""
        with contextlib.suppress(ProcessLookupError, TimeoutError):
            process.kill()
            await asyncio.wait_for(process.wait(), KILL_TIMEOUT_S)

    async def read(self) -> CardsReading | None:
        """Return what it says; None if it says nothing in time, or an earlier one still hangs."""
        if self._process and self._process.returncode is None:
            return None
        try:
            self._process = process = await asyncio.create_subprocess_exec(
                # No terminal: one that was killed has been seen to leave it unusable.
                self._path, stdin=DEVNULL, stdout=PIPE, stderr=DEVNULL, start_new_session=True,
            )  # fmt: skip
        except OSError:
            return None
        try:
            async with asyncio.timeout(self._timeout_s):
                output, _ = await process.communicate()
        except TimeoutError:
            return None
        finally:
            if process.returncode is None:
                await self._kill(process)
        return parse_table(output.decode(errors="replace"))
