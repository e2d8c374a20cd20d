"""Readings: what could not be read is None, never a number that somebody made up."""

import time
from dataclasses import dataclass, field

__all__ = [
    "CardProcess",
    "CardReading",
    "CardsReading",
    "HostReading",
    "Reading",
    "is_plausible",
]

PLAUSIBLE_CELSIUS = (-40.0, 150.0)  # the card resets itself at 120 °C


def is_plausible(celsius: float) -> bool:
    """Whether a card can have this temperature; NaN it can't."""
    lowest, highest = PLAUSIBLE_CELSIUS
    return lowest <= celsius <= highest


@dataclass(frozen=True, slots=True)
class CardReading:
    """One AX650 card.

    Attributes:
        index: counts from 0; not the runtime's device id.
        bus_id: of the PCI device, as the kernel writes it.
        answers: the card is not only listed, but has said something.
        temperature_celsius: of the chip, in whole degrees.
        cpu_percent: load of the card's own processor.
        memory_used_mib: of the card's own system, in MiB.
        cmm_used_mib: memory of models and caches in use, in MiB.
        pcie_speed_gts: of the link as it is now, in GT/s per lane.
        pcie_width: lanes in use.
    """

    index: int
    name: str
    bus_id: str | None
    answers: bool
    firmware: str | None = None
    temperature_celsius: float | None = None
    cpu_percent: float | None = None
    npu_percent: float | None = None
    memory_used_mib: int | None = None
    memory_total_mib: int | None = None
    cmm_used_mib: int | None = None
    cmm_total_mib: int | None = None
    pcie_speed_gts: float | None = None
    pcie_width: int | None = None

    @property
    def cmm_free_mib(self) -> int | None:
        """Memory for models and caches that nobody uses, in MiB."""
        if self.cmm_total_mib is None or self.cmm_used_mib is None:
            return None
        return self.cmm_total_mib - self.cmm_used_mib


@dataclass(frozen=True, slots=True)
class CardProcess:
    """A process of the host that uses a card."""

    index: int
    """Of the card."""
    pid: int
    name: str
    """Path of its program, of which the tool prints 66 characters."""
    cmm_used_kib: int


@dataclass(frozen=True, slots=True)
class CardsReading:
    """All cards, as the vendor's tool lists them; none if it lists none."""

    driver: str | None
    """The version that the tool calls the driver's. It is built into the tool, which prints it
    where no driver is loaded, too."""
    cards: tuple[CardReading, ...]
    processes: tuple[CardProcess, ...] = ()
    error: str | None = None
    """What the tool complained of meanwhile."""
    taken_at: float = field(default_factory=time.monotonic, compare=False)
    """On the monotonic clock, in seconds."""


@dataclass(frozen=True, slots=True)
class HostReading:
    """The machine that the node runs on."""

    cpu_percent: float | None = None
    """Of all cores, since the reading before; at first since the machine was started."""
    memory_total_bytes: int | None = None
    memory_available_bytes: int | None = None
    disk_free_bytes: int | None = None
    """Where the root file system is."""
    temperature_celsius: float | None = None
    """Of the hottest sensor of the processor, if it has one."""
    throttled: tuple[str, ...] | None = None
    """On a Raspberry Pi what holds now: ``under_voltage``, ``frequency_capped``, ``throttled``,
    ``soft_temperature_limit``; unknown elsewhere."""
    taken_at: float = field(default_factory=time.monotonic, compare=False)
    """On the monotonic clock, in seconds."""


@dataclass(frozen=True, slots=True)
class Reading:
    """All of it, as far as it could be read this time."""

    host: HostReading
    cards: CardsReading | None
    """Unknown where the vendor's tool is missing, or did not answer; never those of an earlier
    reading, but for one that is younger than the tool may be run again."""
    taken_at: float = field(default_factory=time.monotonic, compare=False)
    """On the monotonic clock, in seconds; the cards' own is in ``cards``."""
    error: str | None = None
    """Why the cards are unknown, or what the tool complained of."""
