"""What the card says of itself, through the vendor's tool."""

import asyncio
from collections.abc import AsyncGenerator, Iterator
from pathlib import Path

from edge_llm.device.axcl_smi.tool import AxclSmi, Unreadable, find_axcl_smi
from edge_llm.device.reading import CardReading, CardsReading
from edge_llm.doctor.case import Case
from edge_llm.doctor.finding import Finding, fail, ok, skip, warn
from edge_llm.doctor.machine import Machine
from edge_llm.doctor.pcie import REBOOT_CARD, has_card
from edge_llm.doctor.threads import in_thread

__all__ = ["HANGS", "SMI_TIMEOUT_S", "examine_card", "read_cards"]

SMI_TIMEOUT_S = 8.0
"""For a tool that asks the card seven things; with a card that hangs it takes 50 s and more."""
BUSY_S = 2.0  # a node reads the card, too, and the tool runs once at a time
SMI = "usr/bin/axcl/axcl-smi"
IDLE_MIB = 64
"""What the card's own system takes of the memory for models is 18 MiB."""
HANGS = (
    "the card hangs: sudo systemctl stop edge-llm, then power off, wait 10 s and power on; a "
    "reboot alone may leave the card as it is"
)
NO_ANSWER = (
    f"{REBOOT_CARD}, and wait 15 s; else power off, wait 10 s and power on. A Pi 5 on which the "
    "card never answered wants 'dtoverlay=pciex1-compat-pi5,no-mip' in "
    "/boot/firmware/config.txt"
)


async def read_cards(case: Case) -> CardsReading | Unreadable | None:
    """Return what the tool says; None where there is none."""
    place = await in_thread(lambda: _find(case))
    if place is None:
        return None
    tool = AxclSmi(place, SMI_TIMEOUT_S, pause_s=0.0)
    reading = await tool.read()
    if _error_of(reading).startswith("axcl-smi is already running"):
        await asyncio.sleep(BUSY_S)
        reading = await tool.read()
    return reading


def _find(case: Case) -> Path | None:
    if case.settings.device.axcl_smi:
        return case.settings.device.axcl_smi
    place = case.machine.path(SMI)
    if place.is_file():
        return place
    return find_axcl_smi() if case.machine == Machine() else None


def _error_of(reading: CardsReading | Unreadable | None) -> str:
    if isinstance(reading, Unreadable):
        return reading.reason
    return (reading and reading.error) or ""


async def examine_card(case: Case) -> AsyncGenerator[Finding]:
    """What the card says of its versions, its memory and its temperature."""
    name = "card.answers"
    if not await in_thread(lambda: has_card(case)):
        return
    reading = await case.once(read_cards)
    if reading is None:
        yield skip(name, "axcl-smi is not installed", "install the vendor's axclhost package")
        return
    if isinstance(reading, Unreadable):
        cure = HANGS if "did not end" in reading.reason else "sudo /usr/bin/axcl/axcl-smi"
        yield fail(name, reading.reason, cure)
        return
    if not reading.cards:
        what = reading.error or "the driver knows no card"
        yield fail(name, what, "see card.present and card.driver; else power off, 10 s, power on")
        return
    for card in reading.cards:
        for finding in _examine(case, reading, card):
            yield finding


def _examine(case: Case, reading: CardsReading, card: CardReading) -> Iterator[Finding]:
    if not card.answers:
        yield fail("card.answers", f"card {card.index} is there and does not answer", NO_ANSWER)
        return
    yield ok("card.answers", f"card {card.index}, {card.name}, at {card.bus_id or 'unknown'}")
    yield _judge_versions(case, reading, card)
    yield _judge_heat(case, card)
    yield _judge_memory(case, reading, card)


def _judge_versions(case: Case, reading: CardsReading, card: CardReading) -> Finding:
    name = "card.versions"
    driver, firmware = reading.driver, card.firmware
    if not (driver and firmware):
        return skip(name, "the card does not say its firmware")
    found = f"driver {driver}, firmware {firmware}"
    if driver.partition("_")[0] == firmware.partition("_")[0]:
        return ok(name, found)
    return warn(
        name,
        f"{found}: they are of two releases, and not stable together",
        "install one release of axclhost (sudo apt install --reinstall axclhost), power off, wait "
        "10 s, power on",
    )


def _judge_heat(case: Case, card: CardReading) -> Finding:
    name, celsius = "card.temperature", card.temperature_celsius
    if celsius is None:
        return warn(name, "not known", "sudo /usr/bin/axcl/axcl-smi info --temp")
    limits = case.settings.device.thermal
    found, cure = f"{celsius:.0f} °C", "see the fan and the air around the card (docs/health.md)"
    if celsius >= limits.critical_celsius:
        return fail(name, f"{found}: the node pauses from {limits.critical_celsius:g} °C on", cure)
    if celsius >= limits.warn_celsius:
        return warn(name, f"{found}: it gets slow from {limits.hot_celsius:g} °C on", cure)
    return ok(name, found)


def _judge_memory(case: Case, reading: CardsReading, card: CardReading) -> Finding:
    name = "card.memory"
    if card.cmm_total_mib is None or card.cmm_used_mib is None:
        return warn(name, "not known", "sudo /usr/bin/axcl/axcl-smi info --cmm")
    found = f"{card.cmm_free_mib} of {card.cmm_total_mib} MiB (CMM) are free"
    users = [process for process in reading.processes if process.index == card.index]
    if card.cmm_used_mib < IDLE_MIB or users:
        by = ", ".join(f"{process.name.rpartition('/')[2]} ({process.pid})" for process in users)
        return ok(name, f"{found}{f'; used by {by}' if by else ''}")
    return warn(
        name,
        f"{found}, and no process uses the rest: what was killed has left it",
        f"wait a minute; else: sudo systemctl stop edge-llm && {REBOOT_CARD}",
    )
