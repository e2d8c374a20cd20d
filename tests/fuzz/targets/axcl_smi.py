"""What the card's tool prints, and the number that a Raspberry Pi's firmware gives."""

import math
import tempfile
from collections.abc import Iterable
from pathlib import Path

from edge_llm.device.axcl_smi import (
    errors_in,
    parse_info,
    parse_reboot,
    parse_table,
    parse_version,
)
from edge_llm.device.host import FLAGS, read_throttled
from tests.fuzz.source import Source
from tests.fuzz.target import Target

CAPTURED = Path(__file__).parent.parent.parent / "data" / "axcl_smi"
INFO = """Device ID                     : 129 (0x81)
temperature                   : 48123
CPU Usage (%)                 : 5%
Load average                  : 0.10 0.20 0.30 1/100 999
engine version                : 1.2.3
NPU                           : 37%
CMM Total                     : 7208960 KiB
CMM Used                      : 18876 KiB
CMM Remain                    : 7190084 KiB
MemTotal                      : 967500 kB
[11-23 08:44:15:330][E][smi][set_devices][0041]: device not found
"""
FOLDER = tempfile.TemporaryDirectory(prefix="fuzz-throttled-")
THROTTLED = Path(FOLDER.name) / "get_throttled"


def check(data: bytes) -> None:
    source = Source(data)
    if source.flag():
        _check_throttled(source.rest())
        return
    text = source.rest().decode(errors="replace")
    _check_table(text)
    _check_info(text)
    assert isinstance(parse_reboot(text), bool)
    version, errors = parse_version(text), errors_in(text)
    assert version is None or version in text
    assert errors is None or errors.isprintable()


def _check_table(text: str) -> None:
    reading = parse_table(text)
    for card in reading.cards if reading else ():
        _check_numbers(card.temperature_celsius, card.cpu_percent, card.npu_percent)
        for used, total in (
            (card.memory_used_mib, card.memory_total_mib),
            (card.cmm_used_mib, card.cmm_total_mib),
        ):
            assert (used is None) == (total is None)
            assert used is None or total is None or 0 <= used <= total
        assert card.index >= 0
        if not card.answers:
            assert card.temperature_celsius is card.cmm_total_mib is None, "numbers of nobody"


def _check_info(text: str) -> None:
    for card in parse_info(text):
        _check_numbers(card.temperature_celsius, card.cpu_percent, *card.npu_percent.values())
        assert card.cmm_free_kib is None or card.cmm_free_kib >= 0
        assert all(kib >= 0 for kib in card.memory_kib.values())


def _check_numbers(*numbers: float | None) -> None:
    assert all(number is None or math.isfinite(number) for number in numbers)


def _check_throttled(data: bytes) -> None:
    THROTTLED.write_bytes(data)
    flags = read_throttled(THROTTLED)
    assert flags is None or set(flags) <= set(FLAGS.values())


def seeds() -> Iterable[bytes]:
    for path in sorted(CAPTURED.glob("*.txt")):
        yield b"\0" + path.read_bytes()
    yield b"\0" + INFO.encode()
    for text in ("AXCL-SMI V3.10.2 BUILD: Nov 1 2025", "reboot device 129 success", "x is running"):
        yield b"\0" + text.encode()
    for text in ("50005", "0", "0x50000\n", "", "-1", "ff_ff"):
        yield b"\1" + text.encode()


TARGET = Target(
    check,
    seeds,
    (
        "AXCL-SMI",
        "Driver ",
        "| ",
        " MiB / ",
        "--",
        "C ",
        "% ",
        "0 MiB",
        "| 0 ",
        "| 1 ",
        "Device ID",
        " : ",
        " KiB",
        "[E]",
        "\x1b[31m",
        "\n",
    ),
    max_len=8192,
)
