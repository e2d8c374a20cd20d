"""Keeps the latest reading at hand, so that whoever asks never waits for a device."""

import asyncio
import time

import structlog

from edge_llm.device.axcl_smi import AxclSmi, find_axcl_smi
from edge_llm.device.host import read_host
from edge_llm.device.reading import Reading
from edge_llm.settings import DeviceSettings

__all__ = ["DeviceMonitor"]

log = structlog.get_logger()


class DeviceMonitor:
    """Reads the device now and then.

    Args:
        settings: how often, and by which tool.
    """

    def __init__(self, settings: DeviceSettings) -> None:
        self._settings = settings
        path = settings.axcl_smi or find_axcl_smi()
        self._smi = AxclSmi(path, settings.timeout_s) if path else None
        self._was_read = True
        self.latest: Reading | None = None
        """None before the first reading."""

    @property
    def age_s(self) -> float | None:
        """How old the latest reading is, in seconds."""
        return time.monotonic() - self.latest.taken_at if self.latest else None

    async def run(self) -> None:
        """Read, and read again, for ever; nothing that goes wrong here is worth a node."""
        while True:
            try:
                await self.read()
            except Exception:
                log.exception("device.reading_failed")
            await asyncio.sleep(self._settings.interval_s)

    async def read(self) -> Reading:
        """Take a reading now."""
        cards = await self._smi.read() if self._smi else None
        if self._smi and bool(cards) != self._was_read:  # said once, until it changes
            self._was_read = bool(cards)
            if cards:
                log.info("device.read_again", cards=len(cards.cards))
            else:
                log.warning(
                    "device.unreadable",
                    do="run axcl-smi by hand; if it hangs, the card does: see 'dmesg'",
                )
        self.latest = Reading(read_host(), cards, time.monotonic())
        return self.latest
