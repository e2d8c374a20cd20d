"""The virtual card as other processes see it: its page, its deaths, its heat."""

import math
import os
import signal
import subprocess
import sys
import time
from ctypes import byref
from pathlib import Path
from typing import Any

import pytest

from tests.hardware import MIB, NO_CONNECT, NOT_ACTIVE, allocate, card, run_smi, shared
from tests.programs import require_program
from tests.test_virtual_ax650 import code_of
from tests.virtual_ax650.build import build
from tests.virtual_ax650.card import Card, DeviceProperties, open_card
from tests.virtual_ax650.pack import GEOMETRIES, pack_hollow
from tests.virtual_ax650.plant import Plant
from tests.virtual_ax650.schemes import VendorLoop, start_runtime, stop_runtime
from tests.virtual_ax650.shared import FIELDS, MAGIC, Shared
from tests.virtual_ax650.smi import write_smi

__all__ = ["card", "shared"]

ROOT = Path(__file__).parent.parent
MEMORY_EXECUTE_FAIL = 0x8030050C


@pytest.fixture(scope="module", autouse=True)
def compiler() -> str:
    return require_program("cc", "build-essential")


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
