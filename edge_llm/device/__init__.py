"""What the hardware says of itself: the card by its vendor's tool, the host by the kernel."""

from edge_llm.device.axcl_smi import AxclSmi
from edge_llm.device.monitor import DeviceMonitor
from edge_llm.device.reading import (
    CardProcess,
    CardReading,
    CardsReading,
    HostReading,
    Reading,
)

__all__ = [
    "AxclSmi",
    "CardProcess",
    "CardReading",
    "CardsReading",
    "DeviceMonitor",
    "HostReading",
    "Reading",
]
