"""The host, by psutil; and what only a Raspberry Pi tells."""

from pathlib import Path

import psutil

from edge_llm.device.reading import HostReading

__all__ = ["read_host", "read_throttled"]

THROTTLED = Path("/sys/devices/platform/soc/soc:firmware/get_throttled")
"""Of the Raspberry Pi's firmware: a hexadecimal number; the upper half tells of the past."""

FLAGS = {0: "under_voltage", 1: "frequency_capped", 2: "throttled", 3: "soft_temperature_limit"}
"""Bits, as the Raspberry Pi's documentation of ``vcgencmd get_throttled`` has them."""

SENSORS = ("cpu_thermal", "coretemp", "k10temp", "soc_thermal")
"""The processor's, on a Pi and on other machines."""


def read_host() -> HostReading:
    """Read the host; the load is that since the call before, at first since the start."""
    memory = psutil.virtual_memory()
    return HostReading(
        cpu_percent=psutil.cpu_percent(),
        memory_total_bytes=memory.total,
        memory_available_bytes=memory.available,
        disk_free_bytes=psutil.disk_usage("/").free,
        temperature_c=_temperature(),
        throttled=read_throttled(),
    )


def read_throttled(path: Path = THROTTLED) -> tuple[str, ...] | None:
    """Return what holds the Pi back now; None where the kernel does not tell."""
    try:
        bits = int(path.read_text(), 16)
    except (OSError, ValueError):
        return None
    return tuple(name for bit, name in FLAGS.items() if bits >> bit & 1)


def _temperature() -> float | None:
    sensors = psutil.sensors_temperatures()
    found = [reading.current for name in SENSORS for reading in sensors.get(name, ())]
    return max(found, default=None)
