"""The virtual card's axcl-smi prints what the vendor's does, reboots the card, and misbehaves."""

import os
import subprocess
import threading
import time
from ctypes import byref, c_void_p
from pathlib import Path

import pytest

from edge_llm.device.axcl_smi import parse_table
from tests.hardware import (
    MIB,
    NO_CONNECT,
    NOT_ACTIVE,
    SMI_TIMEOUT_S,
    allocate,
    card,
    run_smi,
    shared,
    smi,
)
from tests.programs import require_program
from tests.test_virtual_ax650 import code_of
from tests.virtual_ax650.card import Card
from tests.virtual_ax650.schemes import start_runtime
from tests.virtual_ax650.shared import Shared

__all__ = ["card", "shared", "smi"]

SEEN = Path(__file__).parent / "data" / "axcl_smi"


@pytest.fixture(scope="module", autouse=True)
def compiler() -> str:
    return require_program("cc", "build-essential")


def seen(name: str) -> str:
    return (SEEN / f"{name}.stdout.txt").read_text()


def test_the_table_is_to_the_byte_what_the_vendors_tool_prints(
    card: Card, shared: Shared, smi: Path
) -> None:
    assert smi.exists()
    shared.celsius = 49.263
    shared["owner"], shared["cmm_used"] = os.getpid(), 6348 * MIB - shared["cmm_idle"]
    table = run_smi(smi)
    row = table.splitlines()[-1]
    assert row.startswith(f"|    0 {os.getpid():8d}  /")
    assert len(row) == 98
    assert table.replace(row + "\n", "") == seen("table_idle")
    shared["sampled_at_ns"] = time.monotonic_ns() - 1000 * 10**9
    shared["sampled_busy_ns"] = shared["busy_ns"]
    shared["busy_ns"] += 813 * 10**9
    assert run_smi(smi).replace(row + "\n", "") == seen("table_busy")


def test_a_dead_card_is_listed_or_not(smi: Path, tmp_path: Path) -> None:
    (tmp_path / "state").touch()
    assert run_smi(smi) == seen("table_shell_fails_80300181")
    smi.with_suffix(".control").write_text("no_rows")
    assert run_smi(smi) == seen("no_device_driver_present")


def test_single_readings_have_the_vendors_format(shared: Shared, smi: Path) -> None:
    shared.celsius = 49.263
    assert run_smi(smi, "info", "--temp", "-d", "0") == seen("temp_49263")
    assert run_smi(smi, "info", "--cmm", "--device", "0") == seen("cmm_idle")
    assert run_smi(smi, "info", "--npu") == seen("npu_idle")
    shared["npu_percent"], shared["sampled_at_ns"] = 81, time.monotonic_ns() + 10**11
    assert run_smi(smi, "info", "--npu") == seen("npu_81")
    assert run_smi(smi, "-v") == seen("version")
    assert "device index 3 is out of connected devices number 1" in run_smi(
        smi, "info", "--temp", "-d", "3"
    )


@pytest.mark.parametrize("reading", ["temp", "cmm", "npu"])
def test_what_can_not_be_read_has_the_vendors_format(
    smi: Path, tmp_path: Path, reading: str
) -> None:
    (tmp_path / "state").touch()
    assert run_smi(smi, "info", f"--{reading}") == seen(f"{reading}_shell_fails_80300181")


def test_it_says_what_the_service_reads(shared: Shared, smi: Path) -> None:
    shared.celsius = 61.5
    reading = parse_table(run_smi(smi))
    assert reading
    (found,) = reading.cards
    assert (found.temperature_celsius, found.cmm_used_mib, found.cmm_total_mib) == (62, 18, 7040)


def test_it_starts_quickly(smi: Path) -> None:
    run_smi(smi)  # compiles
    began = time.monotonic()
    for _ in range(10):
        run_smi(smi)
    assert (time.monotonic() - began) / 10 < 0.5


@pytest.mark.parametrize("answer", ["n\n", None])
def test_without_a_yes_there_is_no_reboot(shared: Shared, smi: Path, answer: str | None) -> None:
    assert run_smi(smi, "reboot", answer=answer) == "Do you want to reboot device 0 ? (y/n): "
    assert (shared["reboots"], shared["reboot_requests"]) == (0, 0)


def test_a_reboot_ends_what_hangs_and_takes_what_lives(
    card: Card, shared: Shared, smi: Path, tmp_path: Path
) -> None:
    start_runtime(card.axcl)
    allocate(card, MIB)
    (tmp_path / "control").write_text("axclrtMalloc:1:hang,once")
    codes: list[int] = []
    hanging = threading.Thread(
        target=lambda: codes.append(card.axcl.library.axclrtMalloc(c_void_p(), 100, 0))
    )
    hanging.start()
    while not shared["running"]:
        time.sleep(0.01)
    smi.with_suffix(".control").write_text("reboot_s=0.3")
    said = run_smi(smi, "reboot", "-d", "0", answer="y\n")
    assert said == "Do you want to reboot device 0 ? (y/n): reboot device 1 success\n"
    hanging.join(10)
    assert len(codes) == 1
    assert codes[0] in (NO_CONNECT, NOT_ACTIVE, 0x80300284)
    assert code_of(allocate, card, MIB) == NOT_ACTIVE
    assert not (tmp_path / "state").exists()
    assert (shared["reboots"], shared["reboot_requests"], shared["cmm_used"]) == (1, 1, 0)
    card.axcl("axclrtSetDevice", 1)
    allocate(card, MIB)
    assert shared["cmm_used"] == MIB


def test_a_queued_task_that_hangs_is_ended_by_a_reboot(
    tmp_path: Path, card: Card, shared: Shared, smi: Path
) -> None:
    start_runtime(card.axcl)
    stream, target = c_void_p(), allocate(card, 64)
    card.axcl("axclrtCreateStream", byref(stream))
    (tmp_path / "control").write_text("virtual_axcl_task:1:hang,once")
    card.axcl("axclrtMemsetAsync", target, 0, 64, stream)
    smi.with_suffix(".control").write_text("reboot_s=0.1")
    rebooting = threading.Timer(0.2, run_smi, (smi, "reboot"), {"answer": "y\n"})
    rebooting.start()
    assert code_of(card.axcl, "axclrtSynchronizeStream", stream) in (NO_CONNECT, NOT_ACTIVE)
    rebooting.join()
    card.axcl.library.axclrtResetDevice(1)
    card.axcl("axclrtSetDevice", 1)


def test_a_reboot_brings_a_dead_card_back_or_fails(
    shared: Shared, smi: Path, tmp_path: Path
) -> None:
    (tmp_path / "state").touch()
    smi.with_suffix(".control").write_text("reboot=fail reboot_s=0")
    assert run_smi(smi, "reboot", answer="y\n") == "Do you want to reboot device 0 ? (y/n): "
    assert (tmp_path / "state").exists()
    assert (shared["reboots"], shared["reboot_requests"]) == (0, 1)
    smi.with_suffix(".control").write_text("reboot_s=0")
    assert run_smi(smi, "reboot", answer="y\n").endswith("success\n")
    assert not (tmp_path / "state").exists()


def test_it_can_hang_and_only_one_runs_at_a_time(smi: Path) -> None:
    smi.with_suffix(".control").write_text("hang")
    with subprocess.Popen([smi], stdout=subprocess.DEVNULL) as process:
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(0.5)
        process.terminate()
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(0.3)
        smi.with_suffix(".control").write_text("")
        assert "already running" in run_smi(smi)
        process.kill()
    assert parse_table(run_smi(smi))


@pytest.mark.parametrize("mode", ["garbage", "empty", "slow=0.3"])
def test_it_can_be_of_no_use(smi: Path, mode: str) -> None:
    smi.with_suffix(".control").write_text(mode)
    began = time.monotonic()
    done = subprocess.run([smi], capture_output=True, check=True, timeout=SMI_TIMEOUT_S)
    match mode:
        case "garbage":
            assert len(done.stdout) == 3000
            assert parse_table(done.stdout.decode(errors="replace")) is None
        case "empty":
            assert done.stdout == b""
        case _:
            assert time.monotonic() - began > 0.3
            assert parse_table(done.stdout.decode())
