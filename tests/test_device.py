"""Readings of this very host, of its PCIe links, and of what only a Raspberry Pi tells."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest

from edge_llm.device import HostReading
from edge_llm.device.host import Host, read_throttled
from edge_llm.device.pcie import Link, read_link

BUS_ID = "0001:01:00.0"


def test_the_host_is_read() -> None:
    host = Host()
    reading = host.read()
    assert reading.memory_total_bytes
    assert 0 < (reading.memory_available_bytes or 0) < reading.memory_total_bytes
    assert reading.disk_free_bytes
    assert reading.cpu_percent is not None  # at first since the machine was started
    assert 0 <= reading.cpu_percent <= 100
    assert host.read().taken_at > reading.taken_at


def test_the_load_is_that_since_the_reading_before(monkeypatch: pytest.MonkeyPatch) -> None:
    def tell(**seconds: float) -> None:
        cls: Any = type(psutil.cpu_times())
        times = cls(**dict.fromkeys(cls._fields, 0.0) | seconds)
        monkeypatch.setattr(psutil, "cpu_times", lambda: times)

    host = Host()
    tell(user=10, system=10, idle=70, iowait=10)
    assert host.read().cpu_percent == 20
    tell(user=40, system=20, idle=100, iowait=40, guest=15)  # a guest's time is the user's, too
    assert host.read().cpu_percent == 40
    assert host.read().cpu_percent is None  # no time has passed


FAILING = {
    "virtual_memory": {"memory_total_bytes", "memory_available_bytes"},
    "disk_usage": {"disk_free_bytes"},
    "cpu_times": {"cpu_percent"},
    "sensors_temperatures": {"temperature_celsius"},
}
ERRORS = [OSError(5, "Input/output error"), RuntimeError("no"), AttributeError("not here")]


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("name", FAILING)
def test_a_sensor_that_fails_is_unknown_and_the_others_are_not(
    monkeypatch: pytest.MonkeyPatch, name: str, error: Exception
) -> None:
    def fail(*_: object) -> None:
        raise error

    sensors = {"cpu_thermal": [SimpleNamespace(current=51.0)]}  # a virtual machine has none
    monkeypatch.setattr(psutil, "sensors_temperatures", lambda: sensors)
    monkeypatch.setattr(psutil, name, fail)
    reading = Host().read()
    fields = set(HostReading.__dataclass_fields__) - {"throttled", "taken_at"}
    assert {field for field in fields if getattr(reading, field) is None} == FAILING[name]


def test_the_temperature_is_that_of_the_hottest_sensor_of_the_processor(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def sensors() -> dict[str, list[SimpleNamespace]]:
        return {
            "nvme": [SimpleNamespace(current=70.0)],
            "cpu_thermal": [SimpleNamespace(current=celsius) for celsius in (48.2, 51.0)],
        }

    monkeypatch.setattr(psutil, "sensors_temperatures", sensors)
    assert Host().read().temperature_celsius == 51
    monkeypatch.setattr(psutil, "sensors_temperatures", dict)
    assert Host().read().temperature_celsius is None


@pytest.mark.parametrize(
    ("text", "flags"),
    [
        ("0\n", ()),
        ("50000\n", ()),  # it was, but is no more
        ("50005\n", ("under_voltage", "throttled")),
        ("8", ("soft_temperature_limit",)),
        ("", None),
    ],
)
def test_what_holds_a_raspberry_pi_back(
    tmp_path: Path, text: str, flags: tuple[str, ...] | None
) -> None:
    file = tmp_path / "get_throttled"
    file.write_text(text)
    assert read_throttled(file) == flags
    assert read_throttled(tmp_path / "nothing") is None


@pytest.mark.parametrize(
    ("speed", "width", "link"),
    [
        ("5.0 GT/s PCIe\n", "1\n", Link(5.0, 1)),
        ("2.5 GT/s PCIe\n", "2\n", Link(2.5, 2)),
        ("8 GT/s", "4", Link(8.0, 4)),  # as older kernels write it
        ("Unknown\n", "1\n", Link(None, 1)),
        ("Unknown\n", "63\n", Link(None, None)),  # of a card that has dropped off the bus
        ("5.0 GT/s PCIe\n", "0\n", Link(None, None)),
        ("", "", Link(None, None)),
        ("\x00\xff" * 40, "-1", Link(None, None)),
    ],
)
def test_the_link_of_a_card(tmp_path: Path, speed: str, width: str, link: Link) -> None:
    (tmp_path / BUS_ID).mkdir()
    (tmp_path / BUS_ID / "current_link_speed").write_text(speed)
    (tmp_path / BUS_ID / "current_link_width").write_text(width)
    assert read_link(BUS_ID, tmp_path) == link


@pytest.mark.parametrize("bus_id", [None, "", BUS_ID, "..", "../0001:01:00.0", "0001:01:00.0/x"])
def test_without_a_device_there_is_no_link(tmp_path: Path, bus_id: str | None) -> None:
    (tmp_path / "current_link_width").write_text("1")
    (tmp_path / "devices").mkdir()
    assert read_link(bus_id, tmp_path / "devices") == Link()
