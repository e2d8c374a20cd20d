"""What the tool prints for ``info``: a block for each card, a line for each value.

``--`` is unknown. For the NPU it is also printed when that has had nothing to do.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from edge_llm.device.axcl_smi.text import celsius, lines_of, percent, used_of

__all__ = ["CardInfo", "parse_info"]

DEVICE = re.compile(r"([0-9]{1,6}) \(0x[0-9a-f]{1,6}\)")
MILLICELSIUS = re.compile(r"-?[0-9]{1,7}")
KIB = re.compile(r"([0-9]{1,10}) [Kk]i?B")
"""It writes ``KiB``, ``kiB`` and, of the card's ``/proc/meminfo``, ``kB``: 1024 bytes each."""
LOADS = re.compile(r"([0-9]{1,5}\.[0-9]{2}) ([0-9]{1,5}\.[0-9]{2}) ([0-9]{1,5}\.[0-9]{2})\b.*")
CORE = re.compile(r"[0-9]{1,3}(?:\.[0-9]{1,4})?%{1,2}")
CPU = "CPU Usage (%)"


@dataclass(frozen=True, slots=True)
class CardInfo:
    """A card, as far as it was asked for and could be read."""

    device_id: int
    """The runtime's, not the card's index."""
    temperature_celsius: float | None = None
    """To the thousandth."""
    cpu_percent: float | None = None
    load_average: tuple[float, float, float] | None = None
    """Of the card's own system in 1, 5 and 15 minutes."""
    engine_version: str | None = None
    npu_percent: Mapping[str, float] = field(default_factory=dict)
    """By the name of the core: one, or one for each virtual NPU."""
    cmm_total_kib: int | None = None
    cmm_used_kib: int | None = None
    memory_kib: Mapping[str, int] = field(default_factory=dict)
    """Of the card's own system, by the names of ``/proc/meminfo``."""

    @property
    def cmm_free_kib(self) -> int | None:
        """Memory for models and caches that nobody uses, in KiB."""
        if self.cmm_total_kib is None or self.cmm_used_kib is None:
            return None
        return self.cmm_total_kib - self.cmm_used_kib


def parse_info(text: str) -> tuple[CardInfo, ...]:
    """Read all blocks; none where the tool lists no card."""
    return tuple(_card(device_id, values) for device_id, values in _blocks(text))


def _blocks(text: str) -> Iterator[tuple[int, dict[str, str]]]:
    device_id, values = None, dict[str, str]()
    for line in lines_of(text):
        label, colon, value = (part.strip() for part in line.partition(": "))
        if not colon:
            continue
        if label == "Device ID" and (match := DEVICE.fullmatch(value)):
            if device_id is not None:
                yield device_id, values
            device_id, values = int(match[1]), {}
        else:
            values[label] = value
    if device_id is not None:
        yield device_id, values


def _card(device_id: int, values: Mapping[str, str]) -> CardInfo:
    kib = {name: int(match[1]) for name, text in values.items() if (match := KIB.fullmatch(text))}
    cmm_used, cmm_total = used_of(kib.pop("CMM Used", -1), kib.pop("CMM Total", 0))
    kib.pop("CMM Remain", None)  # the difference of the two, also where that is below 0
    engine = values.get("engine version")
    return CardInfo(
        device_id,
        temperature_celsius=_temperature(values.get("temperature", "")),
        cpu_percent=percent(values.get(CPU, "")),
        load_average=_loads(values.get("Load average", "")),
        engine_version=None if engine == "--" else engine,
        npu_percent=dict(_cores(values)),
        cmm_total_kib=cmm_total,
        cmm_used_kib=cmm_used,
        memory_kib=kib,
    )


def _temperature(text: str) -> float | None:
    return celsius(int(text) / 1000) if MILLICELSIUS.fullmatch(text) else None


def _loads(text: str) -> tuple[float, float, float] | None:
    if not (match := LOADS.fullmatch(text)):
        return None
    return float(match[1]), float(match[2]), float(match[3])


def _cores(values: Mapping[str, str]) -> Iterator[tuple[str, float]]:
    for name, text in values.items():
        if name != CPU and CORE.fullmatch(text) and (load := percent(text)) is not None:
            yield name, load
