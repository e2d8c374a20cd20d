"""Keeps the latest reading at hand, so that whoever asks never waits for a device."""

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import structlog

from edge_llm.device.axcl_smi import AxclSmi, Unreadable, find_axcl_smi
from edge_llm.device.host import Host
from edge_llm.device.pcie import DEVICES, read_link
from edge_llm.device.reading import CardReading, CardsReading, Reading
from edge_llm.settings import DeviceSettings

__all__ = ["FAST_INTERVAL_S", "DeviceMonitor"]

log = structlog.get_logger()

FAST_INTERVAL_S = 10.0
"""Between two readings while something is amiss; more often than this the tool is never run."""

TROUBLES = {
    "device.unreadable": "run axcl-smi by hand; if it hangs, the card does: see 'dmesg'",
    "device.no_card": "see 'lspci' and 'dmesg': the card is not there, or its driver is not loaded",
    "device.no_answer": "the card is there and does not answer: see 'dmesg'",
}


class DeviceMonitor:
    """Reads card and host now and then.

    Args:
        settings: how often, and by which tool.
        pci: where the kernel tells of the PCI devices.
    """

    def __init__(self, settings: DeviceSettings, pci: Path = DEVICES) -> None:
        self.thermal = settings.thermal
        """At what temperatures of the card something is done."""
        self._interval_s = settings.interval_s
        self._fast_interval_s = min(settings.interval_s, FAST_INTERVAL_S)
        self._pci = pci
        self._host = Host()
        self._is_hurried = False
        self._hurried = asyncio.Event()
        self._trouble: str | None = None
        path = settings.axcl_smi or find_axcl_smi()
        self.smi = AxclSmi(path, settings.timeout_s, self._fast_interval_s) if path else None
        """The vendor's tool, which also reboots a card; none where it is not installed."""
        self.watchers: list[Callable[[Reading], None]] = []
        """Called with each reading, on the event loop; they must not block."""
        self.latest: Reading | None = None
        """None before the first reading."""
        self.last_cards: CardsReading | None = None
        """The latest that the tool told of the cards, however long ago."""

    @property
    def age_s(self) -> float | None:
        """How old the latest reading is, in seconds; that is also the age of the host's."""
        return time.monotonic() - self.latest.taken_at if self.latest else None

    @property
    def cards_age_s(self) -> float | None:
        """How old ``last_cards`` is, in seconds."""
        return time.monotonic() - self.last_cards.taken_at if self.last_cards else None

    @property
    def interval_s(self) -> float:
        """Seconds from one reading to the next, as it is now."""
        return self._fast_interval_s if self._is_hurried else self._interval_s

    def hurry(self, is_hurried: bool = True) -> None:
        """Read every 10 s, or as often as the settings say again."""
        self._is_hurried = is_hurried
        self._hurried.set()

    async def run(self) -> None:
        """Read, and read again, for ever; nothing that goes wrong here is worth a node."""
        while True:
            try:
                await self.read()
            except Exception:
                log.exception("device.reading_failed")
            await self._rest()

    async def _rest(self) -> None:
        """Wait until the next one is due, which may change meanwhile."""
        begin = time.monotonic()
        while (left_s := begin + self.interval_s - time.monotonic()) > 0:
            self._hurried.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(left_s):
                    await self._hurried.wait()

    async def read(self) -> Reading:
        """Take a reading now.

        The host is read at each call. The cards are left alone for a while after they were read;
        within that it is their last reading, with its own time, or its failure.
        """
        cards = await self._read_cards()
        error = cards.reason if isinstance(cards, Unreadable) else cards.error
        known = None if isinstance(cards, Unreadable) else cards
        host = await asyncio.to_thread(self._host.read)
        reading = Reading(host, known, error=error)
        self.latest = reading
        self.last_cards = known or self.last_cards
        self._say(reading)
        for watcher in tuple(self.watchers):
            try:
                watcher(reading)
            except Exception:
                log.exception("device.watcher_failed")
        return reading

    async def _read_cards(self) -> CardsReading | Unreadable:
        if not self.smi:
            return Unreadable("axcl-smi is not installed")
        try:
            cards = await self.smi.read()
            if isinstance(cards, Unreadable):
                return cards
            return replace(cards, cards=await asyncio.to_thread(self._with_links, cards.cards))
        except Exception:  # so that the host is read all the same
            log.exception("device.reading_failed")
            return Unreadable("reading it failed here; see the log")

    def _with_links(self, cards: tuple[CardReading, ...]) -> tuple[CardReading, ...]:
        links = [read_link(card.bus_id, self._pci) for card in cards]
        return tuple(
            replace(card, pcie_speed_gts=link.speed_gts, pcie_width=link.width)
            for card, link in zip(cards, links, strict=True)
        )

    def _say(self, reading: Reading) -> None:
        """Log a trouble with the card, once until it changes."""
        trouble = _trouble(reading.cards) if self.smi else None
        if trouble == self._trouble:
            return
        self._trouble = trouble
        if trouble:
            log.warning(trouble, reason=reading.error, do=TROUBLES[trouble])
        elif reading.cards:
            log.info("device.read_again", cards=len(reading.cards.cards))


def _trouble(reading: CardsReading | None) -> str | None:
    if reading is None:
        return "device.unreadable"
    if not reading.cards:
        return "device.no_card"
    return None if all(card.answers for card in reading.cards) else "device.no_answer"
