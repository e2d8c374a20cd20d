"""Readings: what could not be read is None, never a number that somebody made up."""

from dataclasses import dataclass

__all__ = ["CardReading", "CardsReading", "HostReading", "Reading"]


@dataclass(frozen=True, slots=True)
class CardReading:
    """One AX650 card.

    Attributes:
        index: counts from 0; not the runtime's device id.
        answers: the card is not only listed, but has said something.
        cmm_used_mib: memory of models and caches in use, in MiB.
    """

    index: int
    name: str
    bus_id: str
    answers: bool
    firmware: str | None = None
    temperature_c: float | None = None
    cpu_percent: float | None = None
    npu_percent: float | None = None
    memory_used_mib: int | None = None
    memory_total_mib: int | None = None
    cmm_used_mib: int | None = None
    cmm_total_mib: int | None = None


@dataclass(frozen=True, slots=True)
class CardsReading:
    """All cards, as the vendor's tool lists them; none if it lists none."""

    driver: str | None
    """The version of the driver."""
    cards: tuple[CardReading, ...]


@dataclass(frozen=True, slots=True)
class HostReading:
    """The machine that the node runs on."""

    cpu_percent: float
    """Of all cores, since the reading before."""
    memory_total_bytes: int
    memory_available_bytes: int
    disk_free_bytes: int
    """Where the root file system is."""
    temperature_c: float | None = None
    """Of the hottest sensor of the processor, if it has one."""
    throttled: tuple[str, ...] | None = None
    """On a Raspberry Pi what holds now: ``under_voltage``, ``frequency_capped``, ``throttled``,
    ``soft_temperature_limit``; unknown elsewhere."""


@dataclass(frozen=True, slots=True)
class Reading:
    """All of it, at one time."""

    host: HostReading
    cards: CardsReading | None
    """Unknown where the vendor's tool is missing, or did not answer."""
    taken_at: float
    """On the monotonic clock, in seconds."""
