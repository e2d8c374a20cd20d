"""The host, by psutil; and what only a Raspberry Pi tells."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import psutil

from edge_llm.device.reading import HostReading

__all__ = ["Host", "read_throttled"]

T = TypeVar("T")

THROTTLED = Path("/sys/devices/platform/soc/soc:firmware/get_throttled")
"""Of the Raspberry Pi's firmware: a hexadecimal number; the upper half tells of the past."""

FLAGS = {0: "under_voltage", 1: "frequency_capped", 2: "throttled", 3: "soft_temperature_limit"}
"""Bits, as the Raspberry Pi's documentation of ``vcgencmd get_throttled`` has them."""

SENSORS = ("cpu_thermal", "coretemp", "k10temp", "soc_thermal")
"""The processor's, on a Pi and on other machines."""


class Host:
    """The machine that the node runs on.

    It keeps the processor's times of the reading before: ``psutil.cpu_percent`` does so for each
    thread, and says 0 where a thread asks for the first time.
    """

    def __init__(self) -> None:
        self._busy_s, self._all_s = 0.0, 0.0

    def read(self) -> HostReading:
        """Read all that can be read; what fails is None.

        It asks every sensor of the machine, and some are slow: call it in a thread.
        """
        memory = _known(psutil.virtual_memory)
        disk = _known(lambda: psutil.disk_usage("/"))
        return HostReading(
            cpu_percent=_known(self._cpu_percent),
            memory_total_bytes=memory and memory.total,
            memory_available_bytes=memory and memory.available,
            disk_free_bytes=disk and disk.free,
            temperature_celsius=_known(_temperature),
            throttled=_known(read_throttled),
        )

    def _cpu_percent(self) -> float | None:
        busy_s, all_s = _cpu_times(psutil.cpu_times())
        busy_delta, all_delta = busy_s - self._busy_s, all_s - self._all_s
        self._busy_s, self._all_s = busy_s, all_s
        if all_delta <= 0:  # no tick of the kernel's clock since
            return None
        return round(min(max(100 * busy_delta / all_delta, 0.0), 100.0), 1)


def read_throttled(path: Path = THROTTLED) -> tuple[str, ...] | None:
    """Return what holds the Pi back now; None where the kernel does not tell."""
    try:
        bits = int(path.read_text(), 16)
    except (OSError, ValueError):
        return None
    return tuple(name for bit, name in FLAGS.items() if bits >> bit & 1)


def _cpu_times(times: Any) -> tuple[float, float]:
    """Return the time that the processors were busy, and all of their time, in seconds."""
    idle = times.idle + getattr(times, "iowait", 0.0)
    # Linux counts the guests' time in the users', too.
    guests = getattr(times, "guest", 0.0) + getattr(times, "guest_nice", 0.0)
    total = sum(times) - guests
    return total - idle, total


def _temperature() -> float | None:
    sensors = psutil.sensors_temperatures()
    found = [reading.current for name in SENSORS for reading in sensors.get(name, ())]
    return max(found, default=None)


def _known(read: Callable[[], T]) -> T | None:
    try:
        return read()
    except Exception:  # noqa: BLE001 - whatever a sensor does, only it is unknown
        return None
