"""The machine, and what may make it slower than it is, before and after."""

import os
import platform
from collections.abc import Iterator
from pathlib import Path

import psutil

from edge_llm.bench.report import Conditions, Machine
from edge_llm.device.reading import Reading

__all__ = ["caveats_of", "conditions", "read_machine"]

BOARD = Path("/proc/device-tree/model")
PROCESSORS = Path("/proc/cpuinfo")
GOVERNOR = Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")

BUSY_PERCENT = 25.0
"""From this load of all cores on something else takes time that is ours: a core of a Pi's four."""


def read_machine() -> Machine:
    """Say what this machine is; its name on the network is nobody's business."""
    return Machine(
        name=_board() or platform.processor() or platform.machine(),
        architecture=platform.machine(),
        cores=os.cpu_count(),
        memory_bytes=psutil.virtual_memory().total,
        kernel=platform.release(),
        python=platform.python_version(),
        governor=_read(GOVERNOR) or None,
    )


def _board() -> str:
    """Return the board's name, or else the processor's."""
    if board := _read(BOARD).strip("\0"):
        return board
    lines = (line.partition(":") for line in _read(PROCESSORS).splitlines())
    return next((name.strip() for key, _, name in lines if key.strip() == "model name"), "")


def _read(path: Path) -> str:
    try:
        return path.read_text("utf-8", "replace").strip()
    except OSError:
        return ""


def conditions(reading: Reading, device: int | None) -> Conditions:
    """Return what of a reading can make a difference.

    Args:
        reading: of host and cards.
        device: which card; None where there is none in use.
    """
    cards = reading.cards.cards if reading.cards and device is not None else ()
    card = next((card for card in cards if card.index == device), None)
    return Conditions(
        host_cpu_percent=reading.host.cpu_percent,
        host_celsius=reading.host.temperature_celsius,
        card_celsius=card and card.temperature_celsius,
        throttled=reading.host.throttled,
        pcie_speed_gts=card and card.pcie_speed_gts,
        pcie_width=card and card.pcie_width,
    )


def caveats_of(before: Conditions, after: Conditions, hot_celsius: float) -> Iterator[str]:
    """Say in sentences what makes the figures less than they could be.

    Args:
        before: the run.
        after: the run.
        hot_celsius: from which temperature of the card on the service works more slowly.
    """
    if (busy := before.host_cpu_percent) is not None and busy >= BUSY_PERCENT:
        yield (
            f"The processor was {busy:.0f} % busy with something else before the run, so this "
            "machine can do more: stop that, and measure again."
        )
    for when, now in (("before", before), ("after", after)):
        if now.throttled:
            flags = ", ".join(name.replace("_", " ") for name in now.throttled)
            yield (
                f"The machine was held back {when} the run ({flags}): see to its power supply and "
                "its cooling."
            )
    if (celsius := after.card_celsius) is not None and celsius >= hot_celsius:
        yield (
            f"The card has {celsius:.0f} °C after the run; from {hot_celsius:g} °C on the service "
            "works more slowly than this run did."
        )
