"""What the vendor's tool was seen to print, with what is read of it; and what it never printed."""

import dataclasses
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_llm.device import CardProcess, CardReading, CardsReading
from edge_llm.device.axcl_smi import (
    CardInfo,
    errors_in,
    parse_info,
    parse_reboot,
    parse_table,
    parse_version,
)
from tests.card_tools import SEEN, seen

DRIVER = "V3.10.2_20251215140224"
INIT = "axcl init fail, ret = 0x8030010b"
OPEN = "open /dev/axcl_host fail, errno: 2 No such file or directory"
BUSY = CardReading(
    index=0,
    name="AX650N",
    bus_id="0001:01:00.0",
    answers=True,
    firmware="V3.10.2",
    temperature_celsius=49,
    cpu_percent=2,
    npu_percent=81,
    memory_used_mib=148,
    memory_total_mib=945,
    cmm_used_mib=6348,
    cmm_total_mib=7040,
)
SILENT = CardReading(0, "AX650N", "0001:01:00.0", answers=False)
PAIR = dataclasses.replace(BUSY, name="AX8850")


def table(*cards: CardReading, error: str | None = None) -> dict[str, Any]:
    return {"table": CardsReading(DRIVER, cards, error=error), "errors": error}


def info(**values: Any) -> dict[str, Any]:
    return {"info": (CardInfo(1, **values),)}


NO_TABLE: dict[str, Any] = {
    "table": None,
    "info": (),
    "version": None,
    "rebooted": False,
    "errors": None,
}
SILENT_NPU = info(engine_version="2.12.0s")
EXPECTED = {
    "cmm_4b_loaded": info(cmm_total_kib=7208960, cmm_used_kib=6500352),
    "cmm_idle": info(cmm_total_kib=7208960, cmm_used_kib=18876),
    "cmm_shell_fails_80300181": info(),
    "cmm_shell_fails_80300305": info(),
    "cmm_shell_fails_8030050a": info(),
    "cpu": info(cpu_percent=2.4, load_average=(3.03, 3.06, 3.02)),
    "index_out_of_range": {"errors": "device index 3 is out of connected devices number 1"},
    "mem": info(
        memory_kib={
            "MemTotal": 968356,
            "MemFree": 815876,
            "MemAvailable": 798544,
            "Buffers": 0,
            "Cached": 32296,
        }
    ),
    "no_device_driver_present": table(),
    "no_driver_table": table(error=f"{INIT}; {OPEN}"),
    "no_driver_temp": {
        "errors": f"{OPEN}; {INIT}; device index 0 is out of connected devices number 0"
    },
    "npu_81": info(engine_version="2.12.0s", npu_percent={"vnpu-Non": 81}),
    "npu_idle": SILENT_NPU,
    "npu_shell_fails_80300181": SILENT_NPU,
    "npu_shell_fails_80300305": SILENT_NPU,
    "npu_shell_fails_8030050a": SILENT_NPU,
    "npu_two_cores": info(
        engine_version="2.12.0s", npu_percent={"vnpu-Std-0": 27, "vnpu-Std-1": 30}
    ),
    "reboot_no_answer": {},
    "reboot_yes": {"rebooted": True},
    "reboot_yes_fails": {},
    "table_busy": table(BUSY),
    "table_idle": table(dataclasses.replace(BUSY, npu_percent=0)),
    "table_shell_fails_80300181": table(SILENT),
    "table_shell_fails_80300305": table(SILENT),
    "table_shell_fails_8030050a": table(SILENT),
    "table_two_cards": table(PAIR, dataclasses.replace(PAIR, index=1)),
    "temp_-1": info(),  # no temperature, but what the card said for want of one
    "temp_36890": info(temperature_celsius=36.89),
    "temp_49263": info(temperature_celsius=49.263),
    "temp_70000": info(temperature_celsius=70),
    "temp_84999": info(temperature_celsius=84.999),
    "temp_shell_fails_80300181": info(),
    "temp_shell_fails_80300305": info(),
    "temp_shell_fails_8030050a": info(),
    "unknown_command": table(error=f"{INIT}; {OPEN}"),
    "unknown_command.stderr": {"errors": "Unknown command: bogus"},
    "version": {"version": DRIVER},
}


@pytest.mark.parametrize("name", sorted(path.name for path in SEEN.iterdir()))
def test_all_that_was_seen_is_read(name: str) -> None:
    text = (SEEN / name).read_text()
    read = {
        "table": parse_table(text),
        "info": parse_info(text),
        "version": parse_version(text),
        "rebooted": parse_reboot(text),
        "errors": errors_in(text),
    }
    assert read == NO_TABLE | EXPECTED[name.removesuffix(".txt").removesuffix(".stdout")]


def test_nothing_that_was_seen_is_missing() -> None:
    names = {path.name.removesuffix(".txt").removesuffix(".stdout") for path in SEEN.iterdir()}
    assert names == set(EXPECTED)


def test_free_memory_is_unknown_if_one_of_two_is() -> None:
    assert BUSY.cmm_free_mib == 692
    assert SILENT.cmm_free_mib is None
    (idle,) = parse_info(seen("cmm_idle"))
    assert idle.cmm_free_kib == 7190084  # as the tool prints it, too


def test_the_table_of_an_older_version_with_a_process() -> None:
    name = "/home/axera/samples/qwen3-4b/main_axcl_aarch64"
    row = f"|    0    84643  {name:<66}  4894032 KiB |"
    reading = parse_table(seen("table_busy").replace(DRIVER, "V3.6.4_20250805020145") + row)
    assert reading
    assert reading.driver == "V3.6.4_20250805020145"
    assert reading.processes == (CardProcess(0, 84643, name, 4894032),)


def test_an_address_is_as_the_kernel_writes_it() -> None:
    reading = parse_table(seen("table_busy").replace("0001:01:00.0", "0001:0A:00.0"))
    assert reading
    assert reading.cards[0].bus_id == "0001:0a:00.0"


@pytest.mark.parametrize(
    ("old", "new", "unknown"),
    [
        ("  49C ", "   0C ", "temperature_celsius"),  # what atoi makes of no number
        ("  49C ", " 900C ", "temperature_celsius"),
        (" 81% ", "999% ", "npu_percent"),
        ("6348 MiB /     7040", "7041 MiB /     7040", "cmm_used_mib"),
        (" 148 MiB", "-148 MiB", "memory_used_mib"),
        ("0001:01:00.0", "          --", "bus_id"),
    ],
)
def test_what_can_not_be_is_unknown(old: str, new: str, unknown: str) -> None:
    text = seen("table_busy")
    assert old in text
    reading = parse_table(text.replace(old, new))
    assert reading
    assert reading.cards[0].answers
    assert getattr(reading.cards[0], unknown) is None


@pytest.mark.parametrize(
    "text",
    [
        "",
        "Segmentation fault",
        "\x00" * 100,
        "AXCL-SMI",
        seen("table_busy").replace("  49C ", "49 °C "),
        seen("table_busy").replace("|   --   49C", "    --   49C"),
        seen("table_busy") * 2,
    ],
)
def test_what_is_no_table_of_a_known_form_is_unknown(text: str) -> None:
    assert parse_table(text) is None


@pytest.mark.parametrize("name", ["table_two_cards", "no_device_driver_present"])
def test_a_table_that_is_cut_off_is_unknown_and_not_without_cards(name: str) -> None:
    text = seen(name)
    whole = text.rindex("|")  # the end of the last head
    readings = [parse_table(text[:length]) for length in range(whole)]
    expected = parse_table(text)
    assert expected
    assert all(reading is None or reading == expected for reading in readings)
    assert readings[len(text) // 2] is None


def test_a_complaint_within_the_table_does_not_hide_a_card() -> None:
    lines = seen("table_busy").splitlines()
    complaint = seen("index_out_of_range").strip()
    lines.insert(7, complaint)  # between its two rows
    reading = parse_table("\n".join(lines))
    assert reading
    assert reading.cards == (BUSY,)
    assert reading.error == "device index 3 is out of connected devices number 1"


def test_another_one_is_running() -> None:
    text = "axcl-smi is already running, please try later.\n"
    assert errors_in(text) == text.strip()


def test_two_cards_have_two_blocks() -> None:
    text = seen("temp_49263") + seen("temp_70000").replace("1 (0x1)", "129 (0x81)")
    assert parse_info(text) == (
        CardInfo(1, temperature_celsius=49.263),
        CardInfo(129, temperature_celsius=70),
    )


def test_a_complaint_can_be_shown_and_is_short() -> None:
    text = "".join(f"[x][E][y]: \x07{number} failed\x00\n" for number in range(1000))
    errors = errors_in(text)
    assert errors
    assert errors.isprintable()
    assert len(errors) <= 300


_pieces = st.sampled_from(
    [line for path in sorted(SEEN.iterdir()) for line in path.read_text().splitlines(True)]
)
_changed = st.tuples(_pieces, st.integers(0, 98), st.text(max_size=4)).map(
    lambda parts: parts[0][: parts[1]] + parts[2] + parts[0][parts[1] + len(parts[2]) :]
)
_texts = st.lists(_pieces | _changed | st.text(max_size=30), max_size=25).map("".join)
_outputs = st.binary(max_size=2000) | _texts.map(lambda text: text.encode(errors="replace"))


def read_all(text: str) -> CardsReading | None:
    reading = parse_table(text)
    infos = parse_info(text)
    parse_reboot(text)
    parse_version(text)
    assert "\x1b" not in (errors_in(text) or "")
    cards = reading.cards if reading else ()
    temperatures = [card.temperature_celsius for card in cards]
    for celsius in temperatures + [info.temperature_celsius for info in infos]:
        assert celsius is None or -40 <= celsius <= 150
    for card in cards:
        assert card.cmm_free_mib is None or card.cmm_free_mib >= 0
        assert card.answers or card.cmm_total_mib is None
        for load in (card.cpu_percent, card.npu_percent):
            assert load is None or 0 <= load <= 100
    return reading


@given(_outputs)
@settings(max_examples=400, deadline=None)
def test_whatever_comes_is_a_reading_or_none(output: bytes) -> None:
    read_all(output.decode(errors="replace"))


@given(st.lists(st.tuples(st.integers(0, 1500), st.characters()), max_size=6))
@settings(max_examples=400, deadline=None)
def test_a_table_with_wrong_characters_is_a_reading_or_none(
    changes: list[tuple[int, str]],
) -> None:
    text = seen("table_busy")
    for place, character in changes:
        text = text[:place] + character + text[place + 1 :]
    reading = read_all(text)
    if len(changes) == 1:  # it takes two to hide both rows of a card
        assert reading is None or len(reading.cards) == 1


@pytest.mark.parametrize("part", ["| ", "9", "Driver ", "\x1b[", "[E]", " : ", "a\n", " "])
@pytest.mark.timeout(20)
def test_a_flood_is_read_in_no_time(part: str) -> None:
    line = part * (256 * 1024 // len(part))
    read_all(line)
    assert read_all(f"{seen('table_busy')}| 0 1  {line}x\n")  # where processes are listed
