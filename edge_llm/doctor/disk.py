"""Room on the disks, where something is written or read."""

import os
from collections.abc import Callable, Iterable
from pathlib import Path

from edge_llm.doctor.case import Case
from edge_llm.doctor.finding import Finding, fail, ok, skip, warn
from edge_llm.doctor.machine import SERVICE_USER
from edge_llm.doctor.model_paths import models_dir
from edge_llm.store import store_path

__all__ = ["examine_broker_disk", "examine_models_disk", "examine_store", "examine_system_disk"]

MIB = 1024 * 1024
FULL_BYTES = 100 * MIB
LOW_BYTES = 1024 * MIB
FEW_FILES = 1000
CURE = "df -h, and delete what is not needed: sudo journalctl --vacuum-size=50M; sudo apt clean"
STATE = Path("/var/lib/edge-llm")
"""The service's StateDirectory."""


def examine_system_disk(case: Case) -> Iterable[Finding]:
    """Room where the system is."""
    yield _judge("disk.system", case.machine.path("/"), "/")


def examine_broker_disk(case: Case) -> Iterable[Finding]:
    """Room where a broker of this machine writes down what it keeps."""
    place = case.machine.path("var/lib/mosquitto")
    if place.exists():
        yield _judge("disk.broker", place, "/var/lib/mosquitto")


def examine_models_disk(case: Case) -> Iterable[Finding]:
    """Room where models are downloaded to."""
    place = models_dir(case)
    yield _judge("disk.models", _nearest(place), str(place))


def examine_store(case: Case) -> Iterable[Finding]:
    """Room for finished answers and conversations, and whether they can be written."""
    name = "disk.store"
    if case.settings_error:
        yield skip(name, "the settings can't be read")
        return
    machine = case.machine
    place = store_path(case.settings.store, case.settings.node).parent
    installed = machine.path(STATE)
    if case.settings.store.directory is None and machine.is_service and installed.is_dir():
        place = installed  # as systemd tells it
    there = _nearest(place)
    if not machine.user.may(there.stat(), 3):
        yield fail(
            name,
            f"{machine.user.name} may not write to {there}",
            f"sudo chown {SERVICE_USER} {place}, or another store.directory",
        )
        return
    yield _judge(name, there, str(place))


def _nearest(place: Path) -> Path:
    """Return a directory, or what it would be made in."""
    while not place.exists() and place != place.parent:
        place = place.parent
    return place


def _judge(name: str, place: Path, shown: str) -> Finding:
    found = os.statvfs(place)
    free, size = found.f_bavail * found.f_frsize, found.f_blocks * found.f_frsize
    text = f"{shown}: {_size(free)} of {_size(size)} are free"
    if found.f_flag & os.ST_RDONLY and name != "disk.models":
        cure = "sudo dmesg | tail: a failing SD card is made read-only; replace it"
        return fail(name, f"{shown} is read-only", cure)
    judge: Callable[[str, str, str], Finding] | None = None
    if free < FULL_BYTES:
        judge = fail
    elif free < LOW_BYTES:
        judge = warn
    elif found.f_files > 0 and found.f_favail < FEW_FILES:
        text, judge = f"{shown}: room for {found.f_favail} files only", fail
    return judge(name, text, CURE) if judge else ok(name, text)


def _size(number: int) -> str:
    return f"{number / 1e9:.1f} GB" if number >= 1e9 else f"{number / 1e6:.0f} MB"
