"""The monitor: what it says of readings that fail, that it goes on, and how often it reads."""

import asyncio
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import psutil
import pytest
from structlog.testing import capture_logs

from edge_llm.device import DeviceMonitor, Reading, monitor
from edge_llm.settings import DeviceSettings
from tests.card_tools import make_tool, outliving
from tests.clients import eventually
from tests.test_axcl_smi import BUSY, INIT, OPEN, SILENT

TABLE = "cat $seen/table_busy.stdout.txt"


def make(folder: Path, script: str = TABLE, interval_s: float = 0.0, **more: Any) -> DeviceMonitor:
    """Make a monitor that reads as often as it is asked, and sees no PCI devices but its own."""
    settings = DeviceSettings.model_construct(
        axcl_smi=make_tool(folder, script), interval_s=interval_s, **more
    )
    return DeviceMonitor(settings, pci=folder / "pci")


def link(folder: Path, speed: str, width: str) -> None:
    device = folder / "pci" / str(BUSY.bus_id)
    device.mkdir(parents=True, exist_ok=True)
    (device / "current_link_speed").write_text(f"{speed}\n")
    (device / "current_link_width").write_text(f"{width}\n")


async def test_a_reading_has_card_link_and_host(tmp_path: Path) -> None:
    link(tmp_path, "5.0 GT/s PCIe", "1")
    watched = make(tmp_path)
    assert (watched.latest, watched.age_s, watched.cards_age_s) == (None, None, None)
    reading = await watched.read()
    assert reading.cards
    (card,) = reading.cards.cards
    assert (card.temperature_celsius, card.cmm_free_mib) == (49, 692)
    assert (card.pcie_speed_gts, card.pcie_width) == (5.0, 1)
    assert reading.error is None
    assert reading.host.memory_total_bytes
    assert watched.latest is reading
    assert watched.last_cards is reading.cards
    assert 0 <= (watched.age_s or 0) <= (watched.cards_age_s or 0) < 10


async def test_a_reading_that_fails_is_unknown_and_the_last_one_gets_older(tmp_path: Path) -> None:
    watched = make(tmp_path)
    good = await watched.read()
    make_tool(tmp_path, "cat $seen/index_out_of_range.stdout.txt")
    for _ in range(2):
        reading = await watched.read()
        assert reading.cards is None
        assert reading.error == "device index 3 is out of connected devices number 1"
        assert reading.host.memory_total_bytes
    assert watched.latest is reading
    assert watched.last_cards is good.cards
    assert (watched.cards_age_s or 0) > (watched.age_s or 0) > 0


async def test_a_card_that_does_not_answer_is_told_so(tmp_path: Path) -> None:
    reading = await make(tmp_path, "cat $seen/table_shell_fails_80300181.stdout.txt").read()
    assert reading.cards
    assert reading.cards.cards == (SILENT,)


async def test_no_driver_is_told_with_its_reason(tmp_path: Path) -> None:
    reading = await make(tmp_path, "cat $seen/no_driver_table.stdout.txt").read()
    assert reading.cards
    assert reading.cards.cards == ()
    assert reading.error == f"{INIT}; {OPEN}"


async def test_without_a_tool_the_host_is_read_and_nothing_is_said(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(monitor, "find_axcl_smi", lambda: None)
    watched = DeviceMonitor(DeviceSettings())
    with capture_logs() as logs:
        reading = await watched.read()
    assert watched.smi is None
    assert reading.cards is None
    assert reading.error == "axcl-smi is not installed"
    assert reading.host.memory_total_bytes
    assert not logs


async def test_within_the_pause_the_cards_keep_their_own_time(tmp_path: Path) -> None:
    watched = make(tmp_path, f"echo >> $folder/runs; {TABLE}", interval_s=30.0)
    first, second = await watched.read(), await watched.read()
    assert first.cards
    assert second.cards == first.cards
    assert second.cards.taken_at == first.cards.taken_at < first.taken_at < second.taken_at
    assert len((tmp_path / "runs").read_text()) == 1


async def test_each_trouble_is_logged_once_until_it_changes(tmp_path: Path) -> None:
    watched = make(tmp_path)
    scripts = {
        "true": "device.unreadable",
        "cat $seen/no_driver_table.stdout.txt": "device.no_card",
        "cat $seen/table_shell_fails_80300305.stdout.txt": "device.no_answer",
        TABLE: "device.read_again",
    }
    with capture_logs() as logs:
        for script in (TABLE, *scripts):
            make_tool(tmp_path, script)
            for _ in range(2):
                await watched.read()
    assert [entry["event"] for entry in logs] == list(scripts.values())
    assert [entry.get("reason") for entry in logs] == [
        "axcl-smi printed nothing",
        f"{INIT}; {OPEN}",
        None,
        None,
    ]


async def test_it_survives_whatever_the_tool_does(tmp_path: Path) -> None:
    readings: list[Reading] = []

    def fail(_reading: Reading) -> None:
        raise RuntimeError("a watcher")

    async def until(error: str | None) -> None:
        """Wait for a reading that fails so, or for one that doesn't."""
        readings.clear()
        await eventually(
            lambda: any(
                error in (reading.error or "") if error else reading.cards for reading in readings
            ),
            timeout_s=10,
        )
        assert all(reading.host.memory_total_bytes for reading in readings)

    watched = make(tmp_path, interval_s=0.02, timeout_s=0.5)
    watched.watchers += [fail, readings.append]
    running = asyncio.create_task(watched.run())
    with capture_logs() as logs:
        for script, error in (
            ("trap '' TERM; sleep 60", "did not end"),
            ("head -c 50000 /dev/urandom", "no table"),
            ("exec yes", "256 KiB"),
            ("exit 1", "printed nothing"),
        ):
            make_tool(tmp_path, script)
            await until(error)
            make_tool(tmp_path, TABLE)
            await until(None)
        with outliving(tmp_path) as outlives:
            make_tool(tmp_path, outlives)
            await until("still hangs")
        make_tool(tmp_path, TABLE)
        await until(None)
        (tmp_path / "axcl-smi").unlink()
        await until("can't be run")
        make_tool(tmp_path, TABLE)
        await until(None)
    running.cancel()
    events = {entry["event"] for entry in logs}
    assert events == {"device.unreadable", "device.read_again", "device.watcher_failed"}


async def test_a_mistake_of_ours_costs_the_cards_and_not_the_host(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("a mistake")

    monkeypatch.setattr(monitor, "read_link", fail)
    watched = make(tmp_path)
    with capture_logs() as logs:
        reading = await watched.read()
    assert reading.cards is None
    assert reading.host.memory_total_bytes
    assert [entry["event"] for entry in logs] == ["device.reading_failed", "device.unreadable"]


async def test_while_something_is_amiss_it_reads_every_ten_seconds(tmp_path: Path) -> None:
    watched = DeviceMonitor(DeviceSettings(axcl_smi=make_tool(tmp_path, TABLE)))
    assert watched.interval_s == 30
    watched.hurry()
    assert watched.interval_s == 10
    watched.hurry(False)
    assert watched.interval_s == 30
    often = make(tmp_path, interval_s=3.0)
    often.hurry()
    assert often.interval_s == 3


async def test_to_hurry_ends_the_wait_for_the_next_reading(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(monitor, "FAST_INTERVAL_S", 0.05)
    watched = make(tmp_path, interval_s=1000.0)
    readings: list[Reading] = []
    watched.watchers.append(readings.append)
    running = asyncio.create_task(watched.run())
    await eventually(lambda: readings)
    await asyncio.sleep(0.1)
    assert len(readings) == 1
    watched.hurry()
    await eventually(lambda: len(readings) > 2)
    watched.hurry(False)
    await asyncio.sleep(0.1)  # one may be under way
    num_readings = len(readings)
    await asyncio.sleep(0.1)
    assert len(readings) == num_readings
    assert all(later.taken_at - one.taken_at > 0.05 for one, later in pairwise(readings))
    running.cancel()


async def test_a_reading_does_not_block_the_loop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def hang(*_: object) -> None:
        time.sleep(0.5)

    monkeypatch.setattr(psutil, "virtual_memory", hang)
    reading = asyncio.create_task(make(tmp_path).read())
    num_turns = 0
    while not reading.done():
        await asyncio.sleep(0.01)
        num_turns += 1
    assert num_turns > 10


async def test_a_card_is_rebooted_by_the_tool_that_reads_it(tmp_path: Path) -> None:
    script = f"""\
if [ "$1" = reboot ]; then
  read answer
  sleep 0.3
  cat $seen/reboot_yes.stdout.txt
else
  {TABLE}
fi"""
    watched = make(tmp_path, script)
    assert watched.smi
    rebooting = asyncio.create_task(watched.smi.reboot(0, 30))
    await asyncio.sleep(0)
    reading = await watched.read()
    assert (reading.cards, reading.error) == (None, "the card is being rebooted")
    assert await rebooting
    assert (await watched.read()).cards
