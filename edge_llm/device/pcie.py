"""The link that a card is on, as the kernel tells."""

import re
from pathlib import Path
from typing import NamedTuple

__all__ = ["DEVICES", "Link", "read_link"]

DEVICES = Path("/sys/bus/pci/devices")
BUS_ID = re.compile(r"[0-9a-f]{4,8}:[0-9a-f]{2}:[0-9a-f]{2}\.[0-7]")
SPEED = re.compile(r"([0-9]{1,3}(?:\.[0-9])?) GT/s(?: PCIe)?")
"""``5.0 GT/s PCIe``; older kernels leave the last word out, and ``Unknown`` is also one."""
WIDTHS = {str(width): width for width in (1, 2, 4, 8, 12, 16, 32)}
"""Of a card that has dropped off the bus all bits are read as ones, which makes 63 lanes."""


class Link(NamedTuple):
    """As it is now, which may be less than card and slot can do."""

    speed_gts: float | None = None
    """In GT/s per lane."""
    width: int | None = None
    """Lanes in use."""


def read_link(bus_id: str | None, devices: Path = DEVICES) -> Link:
    """Read the link of a device by its address, as ``0001:01:00.0``; what is unknown is None."""
    if not bus_id or not BUS_ID.fullmatch(bus_id):  # it becomes part of a path
        return Link()
    speed = SPEED.fullmatch(_read(devices / bus_id / "current_link_speed"))
    width = WIDTHS.get(_read(devices / bus_id / "current_link_width"))
    return Link(float(speed[1]) if speed and width else None, width)


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii").strip()
    except (OSError, ValueError):
        return ""
