"""The virtual card as other processes see it: its page, its axcl-smi, its heat, its reboots."""

import math
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from ctypes import byref, c_void_p
from pathlib import Path
from typing import Any

import pytest

from edge_llm.device.axcl_smi import parse_table
from tests.programs import require_program
from tests.test_virtual_ax650 import code_of
from tests.virtual_ax650.build import build
from tests.virtual_ax650.card import Card, DeviceProperties, open_card
from tests.virtual_ax650.pack import GEOMETRIES, pack_hollow
from tests.virtual_ax650.plant import Plant
from tests.virtual_ax650.schemes import VendorLoop, start_runtime, stop_runtime
from tests.virtual_ax650.shared import FIELDS, MAGIC, Shared
from tests.virtual_ax650.smi import write_smi

ROOT = Path(__file__).parent.parent
SEEN = Path(__file__).parent / "data" / "axcl_smi"
MIB = 1024 * 1024
NO_CONNECT, NOT_ACTIVE, MEMORY_EXECUTE_FAIL = 0x80300181, 0x80300183, 0x8030050C
SMI_TIMEOUT_S = 20


@pytest.fixture(scope="module", autouse=True)
def compiler() -> str:
    return require_program("cc", "build-essential")


@pytest.fixture
def shared(tmp_path: Path) -> Iterator[Shared]:
    shared = Shared.create(tmp_path / "shared")
    yield shared
    shared.close()


@pytest.fixture
def card(tmp_path: Path, shared: Shared) -> Iterator[Card]:
    files = {name: tmp_path / name.lower() for name in ("CONTROL", "STATE")}
    with open_card("full", SHARED=shared.path, **files) as card:
        yield card


@pytest.fixture
def smi(tmp_path: Path, card: Card) -> Path:
    return write_smi(tmp_path, card)


def run_smi(smi: Path, *arguments: str, answer: str | None = None) -> str:
    """Run the program as a service would: without a terminal, and with an exit code of 0."""
    done = subprocess.run(
        [smi, *arguments],
        input=answer,
        stdin=None if answer else subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=True,
        timeout=SMI_TIMEOUT_S,
    )
    return done.stdout


def allocate(card: Card, num_bytes: int) -> c_void_p:
    memory = c_void_p()
    card.axcl("axclrtMalloc", byref(memory), num_bytes, 0)
    return memory


def free_cmm_bytes(card: Card) -> int:
    properties = DeviceProperties()
    card.axcl("axclrtGetDeviceProperties", 1, byref(properties))
    return int(properties.freeCmmSize) * 1024


# The page


def test_the_page_tells_what_the_library_uses(card: Card, shared: Shared) -> None:
    assert not shared.has_owner
    assert shared.cmm_used_bytes == 18876 * 1024
    device = start_runtime(card.axcl)
    assert (shared["owner"], shared["cmm_used"]) == (os.getpid(), 0)
    memory = allocate(card, 3 * MIB)
    assert shared["cmm_used"] == 3 * MIB
    card.axcl("axclrtFree", memory)
    assert shared["cmm_used"] == 0
    allocate(card, MIB)
    stop_runtime(card.axcl, device)
    assert shared["cmm_used"] == 0


def test_a_leak_takes_memory_until_another_process_begins(card: Card, shared: Shared) -> None:
    device = start_runtime(card.axcl)
    before = free_cmm_bytes(card)
    shared.leak(6000 * MIB)
    assert before - free_cmm_bytes(card) == 6000 * MIB
    assert shared.cmm_used_bytes == 18876 * 1024 + 6000 * MIB
    assert code_of(allocate, card, 2000 * MIB) == MEMORY_EXECUTE_FAIL
    stop_runtime(card.axcl, device)
    code = OTHER_PROCESS + "print(shared['cmm_leaked'])"
    assert run_other(code, card, str(shared.path)) == "0\n"


OTHER_PROCESS = """\
import os, sys
from pathlib import Path
from tests.virtual_ax650.card import Axcl, open_library
from tests.virtual_ax650.schemes import start_runtime
from tests.virtual_ax650.shared import Shared
axcl = Axcl(open_library(Path(os.environ["LIBRARY"])))
start_runtime(axcl)
shared = Shared(sys.argv[1])
"""


def run_other(code: str, card: Card, *arguments: str, **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        cwd=ROOT,
        env={**os.environ, **card.environment, "LIBRARY": str(card.path), **environment},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_what_a_killed_process_had_is_free_again(card: Card, shared: Shared) -> None:
    code = OTHER_PROCESS + "axcl.malloc(5 << 20); os.kill(os.getpid(), 9)"
    with pytest.raises(AssertionError):
        run_other(code, card, str(shared.path))
    assert shared["owner"] not in (0, os.getpid())
    assert not shared.has_owner
    assert shared["cmm_used"] == 5 * MIB  # as the page was left
    assert shared.cmm_used_bytes == 18876 * 1024
    start_runtime(card.axcl)
    assert shared["owner"] == os.getpid()
    assert shared["cmm_used"] == 0


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (None, "can't be opened"),
        (MAGIC, "another size"),
        (b"VIRTUAL-AX650-S0".ljust(4096, b"\0"), "another layout"),
    ],
)
def test_a_page_of_another_layout_is_refused(
    tmp_path: Path, content: bytes | None, why: str
) -> None:
    path = tmp_path / "page"
    if content is not None:
        path.write_bytes(content)
        with pytest.raises(ValueError, match="another layout"):
            Shared(path)
    done = subprocess.run(
        [sys.executable, "-c", "import ctypes, sys; ctypes.CDLL(sys.argv[1])", str(build())],
        env={**os.environ, "VIRTUAL_AXCL_SHARED": str(path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == -signal.SIGABRT
    assert why in done.stderr


def test_work_is_counted_also_if_it_is_only_charged(tmp_path: Path, shared: Shared) -> None:
    model = pack_hollow(GEOMETRIES["qwen3-0.6b"], tmp_path / "model")
    with open_card(SHARED=shared.path, COST="on") as card:
        start_runtime(card.axcl)
        with VendorLoop(card.axcl, model) as loop:
            before = shared.busy_s
            loop.feed([1])
            charged_s = sum(GEOMETRIES["qwen3-0.6b"].timing.decode_ms for _ in range(28)) / 1000
            assert charged_s < shared.busy_s - before < charged_s + 1


def test_the_temperature_is_that_of_the_page(card: Card, shared: Shared) -> None:
    start_runtime(card.axcl)
    shared.celsius = 83.25
    properties = DeviceProperties()
    card.axcl("axclrtGetDeviceProperties", 1, byref(properties))
    assert properties.temperature == 83250


# Death and return


def test_a_card_that_is_dead_at_first_comes_back_by_itself(card: Card, tmp_path: Path) -> None:
    (tmp_path / "state").touch()
    card.axcl("axclInit", None)
    assert code_of(card.axcl, "axclrtSetDevice", 1) == NO_CONNECT
    (tmp_path / "state").unlink()
    card.axcl("axclrtSetDevice", 1)


def test_a_card_that_was_away_has_forgotten_its_processes(card: Card, tmp_path: Path) -> None:
    start_runtime(card.axcl)
    (tmp_path / "state").touch()
    assert code_of(allocate, card, MIB) == NO_CONNECT
    (tmp_path / "state").unlink()
    assert code_of(allocate, card, MIB) == NOT_ACTIVE
    card.axcl("axclrtSetDevice", 1)
    allocate(card, MIB)


def test_a_fault_for_once_is_not_met_by_the_next_process(card: Card, tmp_path: Path) -> None:
    start_runtime(card.axcl)
    (tmp_path / "control").write_text("axclrtMalloc:2+:code=0x80300105,once")
    allocate(card, MIB)
    assert code_of(allocate, card, MIB) == 0x80300105
    assert (tmp_path / "control").read_text() == ""
    allocate(card, MIB)


def killed_in_mid_execute(card: Card, shared: Shared, tmp_path: Path) -> None:
    (tmp_path / "control").write_text("axclrtMalloc:1:hang")
    process = subprocess.Popen(
        [sys.executable, "-c", OTHER_PROCESS + "axcl.malloc(100)", shared.path],
        cwd=ROOT,
        env={**os.environ, **card.environment, "LIBRARY": str(card.path)},
    )
    deadline = time.monotonic() + 20
    while not shared["running"]:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.kill()
    process.wait()
    (tmp_path / "control").write_text("")


@pytest.mark.parametrize("wedges", [False, True])
def test_a_kill_in_mid_execute_can_wedge_the_card(
    tmp_path: Path, shared: Shared, wedges: bool
) -> None:
    files = {name: tmp_path / name.lower() for name in ("CONTROL", "STATE")}
    with open_card("full", SHARED=shared.path, WEDGE=int(wedges), **files) as card:
        killed_in_mid_execute(card, shared, tmp_path)
        card.axcl("axclInit", None)
        if not wedges:
            card.axcl("axclrtSetDevice", 1)
            return
        assert code_of(card.axcl, "axclrtSetDevice", 1) == NO_CONNECT
        assert run_smi(write_smi(tmp_path, card), "reboot", answer="y\n").endswith("success\n")
        card.axcl("axclrtSetDevice", 1)


# axcl-smi


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
    shared["sampled_at_ns"] = time.monotonic_ns() - 10**10
    shared["sampled_busy_ns"] = shared["busy_ns"]
    shared["busy_ns"] += int(8.15 * 10**9)
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


# Heat


def test_the_plant_follows_its_equation(shared: Shared) -> None:
    plant = Plant(shared, ambient=40, heat_k=50, tau_s=60)
    celsius = 40.0
    for second in range(60):
        celsius = plant.step(celsius, 1.0, float(second), 1.0)
    assert celsius == pytest.approx(40 + 50 * (1 - math.exp(-1)), abs=0.01)
    assert plant.step(celsius, 0.0, 60, 6000) == pytest.approx(40)


def test_work_heats_and_rest_cools(shared: Shared) -> None:
    shared.celsius = 40
    with Plant(shared, ambient=lambda _s: 40, heat_k=60, scale=300, period_s=0.01) as plant:
        began = time.monotonic()
        while plant.highest_celsius < 60 and time.monotonic() - began < 10:
            shared["busy_ns"] += 20_000_000  # a card that works all the time, or nearly
            time.sleep(0.02)
        assert plant.highest_celsius >= 60
        while shared.celsius > 45 and time.monotonic() - began < 20:
            time.sleep(0.02)
        assert shared.celsius <= 45
    assert max(moment.celsius for moment in plant.history) == plant.highest_celsius
    assert 0.1 < max(moment.duty for moment in plant.history) <= 1
    seconds = [moment.plant_s for moment in plant.history]
    assert seconds == sorted(seconds)


def test_the_layout_is_that_of_the_library() -> None:
    source = (ROOT / "tests/virtual_ax650/shared.c").read_text()
    struct = source.partition("struct page {")[2].partition("};")[0]
    names = [
        word.strip(" ,;\n")
        for line in struct.splitlines()[2:]
        for word in line.partition("/*")[0].replace("uint64_t", "").replace("int64_t", "").split()
    ]
    assert tuple(names) == FIELDS[: len(names)]
    assert len(names) == 9


def test_all_of_it_is_documented() -> None:
    readme = (ROOT / "tests/virtual_ax650/README.md").read_text()
    words: list[Any] = [*FIELDS, "hang", "garbage", "empty", "slow", "reboot", "no_rows", "WEDGE"]
    assert [word for word in words if f"`{word}" not in readme] == []
