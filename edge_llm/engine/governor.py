"""What the card's heat and memory allow: the queue and the worker do less, pause, or begin anew.

Nothing here looks at how long an answer takes: long ones look like trouble, and are none.
"""

import asyncio
import contextlib
import time

import structlog

from edge_llm.device.health import HeatGauge, Leak, LeakWatch
from edge_llm.device.monitor import DeviceMonitor
from edge_llm.device.reading import CardReading, Reading
from edge_llm.engine.queue import QueuedEngine
from edge_llm.engine.worker import WorkerEngine
from edge_llm.errors import EdgeLLMError
from edge_llm.protocol import Heat
from edge_llm.settings import DeviceSettings

__all__ = ["Governor"]

log = structlog.get_logger()

FINISH_SENTENCE_S = 10.0
"""How long a sentence may take when the card is critical; at 4 tokens/s it is 40 tokens."""

DONE = {
    "normal": "everything as usual",
    "warn": "it is read more often",
    "hot": "answers come more slowly and are shorter, low priorities wait",
    "critical": "the sentence in hand is finished, then all wait until it has cooled",
    "emergency": "stopped, and the card is reset",
}


class Governor:
    """Acts on each reading of the device.

    Args:
        queue: gives turns.
        worker: runs on the card.
        monitor: reads it.
        settings: from where on what is done.
        index: of the card that is ours.
    """

    def __init__(
        self,
        queue: QueuedEngine,
        worker: WorkerEngine,
        monitor: DeviceMonitor,
        settings: DeviceSettings,
        index: int,
    ) -> None:
        self._queue, self._worker, self._monitor = queue, worker, monitor
        self._thermal = settings.thermal
        self._index = index
        self._gauge = HeatGauge(settings.thermal)
        self._leaks = LeakWatch(settings.cmm_margin_mib)
        self._loaded: int | None = None  # the process whose load the leaks are counted from
        self._reload: asyncio.Task[None] | None = None
        self.attention: str | None = None
        """What a person should do about heat or memory; None if nothing."""
        monitor.watchers.append(self.note)

    @property
    def heat(self) -> Heat | None:
        """Of the card; None as long as its temperature is not known."""
        return self._gauge.heat

    def note(self, reading: Reading) -> None:
        """Act on a reading."""
        now = time.monotonic()
        card = self._find(reading)
        celsius = card.temperature_celsius if card else None
        if self._gauge.note(celsius, now):
            self._follow_heat(celsius)
        self._follow_memory(card, now)

    def close(self) -> None:
        """Act no more."""
        self._monitor.watchers.remove(self.note)
        if self._reload:
            self._reload.cancel()

    def _find(self, reading: Reading) -> CardReading | None:
        cards = reading.cards.cards if reading.cards else ()
        return next((card for card in cards if card.index == self._index), None)

    def _follow_heat(self, celsius: float | None) -> None:
        heat, thermal = self._gauge.heat, self._thermal
        is_hot = heat in ("hot", "critical", "emergency")
        say = log.info if heat in (None, "normal") else log.warning
        say("device.heat", heat=heat, celsius=celsius, done=DONE.get(heat or "", "unknown"))
        self._monitor.hurry(heat not in (None, "normal"))
        self._worker.pace(self._gauge.duty or thermal.hot_duty)
        if is_hot:
            self._queue.limit(
                max_tokens=thermal.hot_max_tokens, min_priority=thermal.hot_min_priority
            )
        else:
            self._queue.limit()
        if heat == "critical":
            self._queue.hold("cooling", finish_s=FINISH_SENTENCE_S)
        elif heat == "emergency":
            self._queue.hold("cooling", finish_s=0)
            self._worker.order("reboot_card", f"the card is at {celsius:g} °C")
        else:
            self._queue.release("cooling")
        self.attention = "cool the card: fan, heat sink, air" if is_hot else None
        self._queue.stats.tell()

    def _follow_memory(self, card: CardReading | None, now: float) -> None:
        if self._worker.state == "ready" and self._worker.pid != self._loaded:
            self._loaded = self._worker.pid
            self._leaks.loaded(now)
        if leak := self._leaks.note(card.cmm_free_mib if card else None, now):
            log.warning(
                "device.memory_leaks",
                free_mib=leak.free_mib,
                after_load_mib=leak.baseline_mib,
                do="the model is loaded again" if leak.wants_reload else _cure(leak),
            )
            if leak.wants_reload and not self._is_reloading():
                self._reload = asyncio.create_task(self._reload_model(leak), name="governor.reload")

    def _is_reloading(self) -> bool:
        return self._reload is not None and not self._reload.done()

    async def _reload_model(self, leak: Leak) -> None:
        """Let the request in hand end, load the model again, and go on."""
        self._queue.hold("reloading")
        try:
            await self._queue.idle()
            leaked_mib = leak.baseline_mib - leak.free_mib
            self._worker.order("reload", f"{leaked_mib} MiB of the card's memory leaked")
            with contextlib.suppress(EdgeLLMError):  # it is recovering, and says so
                await self._worker.ready()
        finally:
            self._queue.release("reloading")


def _cure(leak: Leak) -> str:
    if leak.is_ours:
        return "it was loaded again within the hour; that is not done so often"
    return "see what else uses the card, as loading the model again did not help"
