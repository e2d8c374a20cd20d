"""The AXCL runtime as we open it: declared as the vendor does, and refusals say what to do."""

import json
import re
import subprocess
from pathlib import Path

import pytest

from edge_llm.errors import DeviceError, DeviceLostError
from edge_llm.npu.axcl import ASYNC_FUNCTIONS, DECLARATIONS, Axcl, find_axcl
from tests.programs import require_program
from tests.virtual_ax650.card import open_card

HEADER = Path(__file__).parent / "virtual_ax650" / "axcl.h"


@pytest.fixture(scope="module", autouse=True)
def compiler() -> str:
    return require_program("cc", "build-essential")


def test_our_declarations_are_those_of_the_header(tmp_path: Path, compiler: str) -> None:
    """A function that is declared twice, and differently, is an error to any C compiler."""
    functions = re.findall(r"^\w[\w *]*\baxcl\w+\([^;{}]*\);", DECLARATIONS, re.MULTILINE)
    assert len(functions) >= 45
    source = tmp_path / "both.c"
    source.write_text(f'#include "{HEADER}"\n' + "\n".join(functions))
    check = [compiler, "-fsyntax-only", "-Werror", str(source)]
    assert subprocess.run(check, check=False).returncode == 0
    source.write_text(source.read_text().replace("uint32_t group", "uint64_t group", 1))
    assert subprocess.run(check, check=False, stderr=subprocess.DEVNULL).returncode != 0


def test_our_structures_have_the_headers_sizes(tmp_path: Path, compiler: str) -> None:
    import cffi

    ffi = cffi.FFI()
    ffi.cdef(DECLARATIONS)
    names = ("axclrtDeviceList", "axclrtEngineIODims", "axclrtDeviceProperties")
    source = tmp_path / "sizes.c"
    asserts = [f'_Static_assert(sizeof({name}) == {ffi.sizeof(name)}, "");' for name in names]
    source.write_text(f'#include "{HEADER}"\n' + "\n".join(asserts))
    subprocess.run([compiler, "-fsyntax-only", str(source)], check=True)


def test_it_opens_once_and_gives_all_back() -> None:
    with open_card() as card:
        with Axcl(str(card.path)) as axcl:
            assert axcl.version == "3.10.2"
            assert axcl.has_async
            memory = axcl.memory()
            assert memory.total_bytes == 7040 * 2**20
            assert 0 < memory.free_bytes < memory.total_bytes
        calls = card.calls()
        order = [
            "axclrtEngineFinalize",
            "axclrtDestroyContext",
            "axclrtResetDevice",
            "axclFinalize",
        ]
        assert [calls[name] for name in order] == [1, 1, 1, 1]
        assert not card.counter("refusals")


def test_what_a_version_lacks_is_known() -> None:
    with open_card("without_async") as card, Axcl(str(card.path)) as axcl:
        assert not axcl.has_async
        assert not any(axcl.has(name) for name in ASYNC_FUNCTIONS)
        assert axcl.has("axclrtMalloc")


def test_a_missing_library_says_what_to_install(tmp_path: Path) -> None:
    with pytest.raises(DeviceError, match="axclhost"):
        Axcl(str(tmp_path / "libaxcl_rt.so"))


def test_a_library_that_is_named_is_taken(tmp_path: Path) -> None:
    assert find_axcl(tmp_path / "libaxcl_rt.so") == str(tmp_path / "libaxcl_rt.so")


@pytest.mark.parametrize(("devices", "index"), [(0, 0), (1, 1)])
def test_a_card_that_is_not_there_is_said(devices: int, index: int) -> None:
    with (
        open_card(DEVICES=devices) as card,
        pytest.raises(DeviceError, match=f"none has the index {index}|NO_CONNECT|QUERY"),
    ):
        Axcl(str(card.path), device_index=index)


def test_a_failure_half_way_gives_back_what_was_opened() -> None:
    with open_card() as card:
        card.fault("axclrtEngineInit:1:code=0x80300705")
        with pytest.raises(DeviceLostError, match="ENGINE_TIMEOUT"):
            Axcl(str(card.path))
        calls = card.calls()
        assert calls["axclFinalize"] == calls["axclrtResetDevice"] == 1
        assert "axclrtEngineFinalize" not in calls


def test_memory_of_the_card_is_zero_when_it_is_given_out() -> None:
    """It is not when the card gives it: NaN would go through every mask."""
    with open_card() as card, Axcl(str(card.path)) as axcl:
        memory = axcl.malloc(64)
        seen = axcl.ffi.new("char[]", b"x" * 64)
        axcl.call("axclrtMemcpy", seen, memory, 64, 2)
        assert axcl.ffi.buffer(seen, 64)[:] == bytes(64)
        axcl.free(memory)
        assert card.counter("live_allocations") == 0


def test_our_settings_file_is_the_vendors_form(monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[str] = []
    dumps = json.dumps

    def listen(value: object) -> str:
        written.append(dumps(value))
        return written[-1]

    monkeypatch.setattr(json, "dumps", listen)
    with open_card() as card, Axcl(str(card.path)):
        (config,) = (json.loads(text) for text in written)
    assert config["dma buf size"] == "0x400000"
    assert set(config["log"]) == {"host", "device"}
