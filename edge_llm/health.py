"""How the node is, put together from those who know: device, queue, worker, governor."""

import time
from collections.abc import Callable

from edge_llm.device import DeviceMonitor
from edge_llm.device.reading import CardReading, HostReading
from edge_llm.engine.governor import Governor
from edge_llm.engine.queue import QueuedEngine
from edge_llm.protocol import CardHealth, FleetHealth, HostHealth, NodeHealth

__all__ = ["HealthReporter"]

MIB = 2**20


class HealthReporter:
    """Says how the node is.

    Args:
        node: its name.
        boot_id: of this life of the service.
        queue: the engine, with all that it counts.
        monitor: has the readings.
        governor: knows how hot the card is; None if there is none that we run on.
        index: of the card that is ours.
    """

    def __init__(
        self,
        node: str,
        boot_id: str,
        queue: QueuedEngine,
        monitor: DeviceMonitor,
        *,
        governor: Governor | None,
        index: int,
    ) -> None:
        self._node, self.boot_id = node, boot_id
        self._queue, self._monitor, self._governor = queue, monitor, governor
        self._index = index
        self.fleet: Callable[[], FleetHealth | None] = lambda: None
        """Says how the fleet is that the node is in; whoever brings the node into one sets it."""

    def report(self) -> NodeHealth:
        """Return how the node is now."""
        queue, stats, governor = self._queue, self._queue.stats, self._governor
        reading = self._monitor.latest
        return NodeHealth(
            node=self._node,
            boot_id=self.boot_id,
            uptime_s=round(time.monotonic() - stats.opened_at, 1),
            state=queue.state,
            activity=queue.activity,
            heat=governor.heat if governor else None,
            attention=stats.attention or (governor.attention if governor else None),
            card=self._card(),
            host=_host(reading.host, _age_s(reading.taken_at)) if reading else None,
            queue=queue.health(),
            fleet=self.fleet(),
            tokens_per_s=stats.tokens_per_s,
            counts=stats.counts(),
            last_fault=stats.fault(),
            recovery=stats.recovery(),
        )

    def _card(self) -> CardHealth | None:
        """Return the latest that is known of our card, with its age; nothing newer is known."""
        cards = self._monitor.last_cards
        reading = self._monitor.latest
        card = next((c for c in cards.cards if c.index == self._index), None) if cards else None
        if cards is None or card is None:
            return None
        is_read = reading is not None and reading.cards is not None
        known = card if is_read else CardReading(card.index, card.name, card.bus_id, answers=False)
        return CardHealth(
            answers=known.answers,
            age_s=_age_s(cards.taken_at),
            temperature_celsius=known.temperature_celsius,
            cmm_total_mib=known.cmm_total_mib,
            cmm_used_mib=known.cmm_used_mib,
            cmm_free_mib=known.cmm_free_mib,
            npu_percent=known.npu_percent,
            cpu_percent=known.cpu_percent,
            firmware=known.firmware,
            driver=cards.driver,
            pcie_speed_gts=known.pcie_speed_gts,
            pcie_width=known.pcie_width,
        )


def _host(host: HostReading, age_s: float) -> HostHealth:
    return HostHealth(
        age_s=age_s,
        cpu_percent=_rounded(host.cpu_percent),
        memory_total_mib=_mib(host.memory_total_bytes),
        memory_available_mib=_mib(host.memory_available_bytes),
        disk_free_mib=_mib(host.disk_free_bytes),
        temperature_celsius=_rounded(host.temperature_celsius),
        throttled=host.throttled,
    )


def _mib(value: int | None) -> int | None:
    return None if value is None else value // MIB


def _age_s(taken_at: float) -> float:
    return round(time.monotonic() - taken_at, 1)


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 1)
