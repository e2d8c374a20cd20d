"""The readings of the device as metrics; what is unknown is left out."""

from collections.abc import Iterator

from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from edge_llm.device import CardReading, DeviceMonitor, HostReading

__all__ = ["DeviceCollector"]

MIB = 2**20
PERCENT = 0.01

CARD = {
    "temperature_celsius": ("edge_llm_card_temperature_celsius", "Temperature of the card", 1),
    "cpu_percent": ("edge_llm_card_cpu_ratio", "Load of the card's processor, 0 to 1", PERCENT),
    "npu_percent": ("edge_llm_card_npu_ratio", "Load of its NPU, 0 to 1", PERCENT),
    "memory_used_mib": ("edge_llm_card_memory_used_bytes", "Memory of its system in use", MIB),
    "memory_total_mib": ("edge_llm_card_memory_bytes", "Memory of its system", MIB),
    "cmm_used_mib": ("edge_llm_card_cmm_used_bytes", "Memory of models and caches in use", MIB),
    "cmm_total_mib": ("edge_llm_card_cmm_bytes", "Memory of models and caches", MIB),
    "pcie_speed_gts": (
        "edge_llm_card_pcie_gigatransfers_per_second",
        "Speed of its link, per lane",
        1,
    ),
    "pcie_width": ("edge_llm_card_pcie_lanes", "Lanes of its link in use", 1),
}
HOST = {
    "cpu_percent": ("edge_llm_host_cpu_ratio", "Load of the host, 0 to 1", PERCENT),
    "memory_total_bytes": ("edge_llm_host_memory_bytes", "Memory of the host", 1),
    "memory_available_bytes": ("edge_llm_host_memory_available_bytes", "What of it is free", 1),
    "disk_free_bytes": ("edge_llm_host_disk_free_bytes", "Free on the root file system", 1),
    "temperature_celsius": ("edge_llm_host_temperature_celsius", "Temperature of its processor", 1),
}


class DeviceCollector(Collector):
    """Tells the latest reading of a monitor."""

    def __init__(self, monitor: DeviceMonitor) -> None:
        self._monitor = monitor

    def collect(self) -> Iterator[Metric]:
        """Yield what is known."""
        reading = self._monitor.latest
        if reading is None:
            return
        age = "Age of the latest reading of the host"
        yield GaugeMetricFamily("edge_llm_device_reading_age_seconds", age, self._monitor.age_s)
        yield from _host(reading.host)
        if (cards_age_s := self._monitor.cards_age_s) is not None:
            age = "Age of the latest reading of the cards"
            yield GaugeMetricFamily("edge_llm_card_reading_age_seconds", age, cards_age_s)
        if reading.cards:
            yield from _cards(reading.cards.cards)


def _host(host: HostReading) -> Iterator[Metric]:
    for field, (name, what, factor) in HOST.items():
        if (value := getattr(host, field)) is not None:
            yield GaugeMetricFamily(name, what, value * factor)
    if host.throttled is not None:
        what = "What holds the Raspberry Pi back now"
        throttled = GaugeMetricFamily("edge_llm_host_throttled", what, labels=("reason",))
        for reason in host.throttled:
            throttled.add_metric((reason,), 1)
        yield throttled


def _cards(cards: tuple[CardReading, ...]) -> Iterator[Metric]:
    answers = GaugeMetricFamily(
        "edge_llm_card_answers", "1 if the card answers", labels=("card", "name", "firmware")
    )
    for card in cards:
        answers.add_metric((str(card.index), card.name, card.firmware or ""), float(card.answers))
    yield answers
    for field, (name, what, factor) in CARD.items():
        metric = GaugeMetricFamily(name, what, labels=("card",))
        for card in cards:
            if (value := getattr(card, field)) is not None:
                metric.add_metric((str(card.index),), value * factor)
        yield metric
