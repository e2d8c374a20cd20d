"""Readings of the card, from what the vendor's tool was seen to print; and of this very host."""

import asyncio
import time
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from edge_llm.device import CardReading, CardsReading, DeviceMonitor
from edge_llm.device.axcl_smi import AxclSmi, parse_table
from edge_llm.device.host import read_host, read_throttled
from edge_llm.settings import DeviceSettings

SEEN = Path(__file__).parent / "data" / "axcl_smi"
DRIVER = "V3.10.2_20251215140224"
BUSY = CardReading(
    index=0,
    name="AX650N",
    bus_id="0001:01:00.0",
    answers=True,
    firmware="V3.10.2",
    temperature_c=49,
    cpu_percent=2,
    npu_percent=81,
    memory_used_mib=148,
    memory_total_mib=945,
    cmm_used_mib=6348,
    cmm_total_mib=7040,
)


def seen(name: str) -> str:
    return (SEEN / f"{name}.stdout.txt").read_text()


def tool(tmp_path: Path, script: str) -> Path:
    path = tmp_path / "axcl-smi"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return path


def test_a_busy_card() -> None:
    assert parse_table(seen("table_busy")) == CardsReading(DRIVER, (BUSY,))


def test_an_idle_card_is_not_unknown() -> None:
    reading = parse_table(seen("table_idle"))
    assert reading
    assert reading.cards[0].npu_percent == 0


def test_two_cards() -> None:
    reading = parse_table(seen("table_two_cards"))
    assert reading
    assert [(card.index, card.name) for card in reading.cards] == [(0, "AX8850"), (1, "AX8850")]


@pytest.mark.parametrize("code", ["80300181", "80300305", "8030050a"])
def test_a_card_that_does_not_answer_is_unknown_and_not_full(code: str) -> None:
    reading = parse_table(seen(f"table_shell_fails_{code}"))
    assert reading
    assert reading.cards == (CardReading(0, "AX650N", "0001:01:00.0", answers=False),)


@pytest.mark.parametrize("name", ["no_device_driver_present", "no_driver_table"])
def test_without_a_device_there_are_no_cards(name: str) -> None:
    reading = parse_table(seen(name))
    assert reading
    assert reading.cards == ()


def test_each_table_that_was_seen_is_read() -> None:
    tables = list(SEEN.glob("*.stdout.txt"))
    assert len(tables) >= 8
    assert all(parse_table(table.read_text()) for table in tables)


@pytest.mark.parametrize("text", ["", "Segmentation fault", "\x00" * 100, "AXCL-SMI"])
def test_what_is_no_table_is_unknown(text: str) -> None:
    assert parse_table(text) is None


async def test_the_tool_is_run_without_a_terminal(tmp_path: Path) -> None:
    path = tool(tmp_path, f"cat; cat {SEEN}/table_busy.stdout.txt")  # cat ends: stdin is closed
    assert await AxclSmi(path, timeout_s=5).read() == CardsReading(DRIVER, (BUSY,))


async def test_a_tool_that_hangs_is_given_up_and_not_run_twice(tmp_path: Path) -> None:
    path = tool(tmp_path, f"echo x >> {tmp_path}/runs; exec sleep 60")
    smi = AxclSmi(path, timeout_s=0.2)
    begin = time.monotonic()
    assert await smi.read() is None
    assert time.monotonic() - begin < 3
    assert smi._process
    assert (smi._process.returncode or 0) < 0  # it was killed, as it could be


async def test_one_that_can_not_be_killed_keeps_others_from_starting(tmp_path: Path) -> None:
    path = tool(tmp_path, f"echo x >> {tmp_path}/runs; exec sleep 60")
    smi = AxclSmi(path, timeout_s=0.2)
    reading = asyncio.create_task(smi.read())
    await asyncio.sleep(0.1)
    assert await smi.read() is None
    assert await reading is None
    assert (tmp_path / "runs").read_text() == "x\n"


async def test_a_missing_tool_is_unknown(tmp_path: Path) -> None:
    assert await AxclSmi(tmp_path / "nothing").read() is None


async def test_the_monitor_says_once_that_the_card_can_not_be_read(tmp_path: Path) -> None:
    path = tool(tmp_path, "true")
    monitor = DeviceMonitor(DeviceSettings(axcl_smi=path))
    with capture_logs() as logs:
        for _ in range(3):
            reading = await monitor.read()
            assert reading.cards is None
        tool(tmp_path, f"cat {SEEN}/table_busy.stdout.txt")
        for _ in range(2):
            reading = await monitor.read()
            assert reading.cards
    assert [entry["event"] for entry in logs] == ["device.unreadable", "device.read_again"]
    assert monitor.age_s is not None
    assert monitor.age_s < 5


def test_the_host_is_read() -> None:
    host = read_host()
    assert 0 < host.memory_available_bytes < host.memory_total_bytes
    assert host.disk_free_bytes > 0
    assert 0 <= host.cpu_percent <= 100


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
