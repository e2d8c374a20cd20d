"""The card as a PCI device, and its driver: files of the kernel's."""

import os
from collections.abc import Iterable, Iterator

from edge_llm.device.pcie import read_link
from edge_llm.doctor.case import Case
from edge_llm.doctor.finding import Finding, fail, ok, skip, warn
from edge_llm.doctor.machine import SERVICE_USER, Machine, User
from edge_llm.doctor.model_paths import model_directory
from edge_llm.errors import ModelError

__all__ = [
    "LIBRARY",
    "NO_CARD",
    "REBOOT_CARD",
    "examine_driver",
    "examine_link",
    "find_cards",
    "has_card",
    "wants_card",
]

DEVICES = "sys/bus/pci/devices"
VENDOR, DEVICE = "0x1f4b", "0x0650"  # lspci -nn: Axera Semiconductor, AX650
MODULES = ("ax_pcie_host_dev", "ax_pcie_msg", "ax_pcie_mmb", "axcl_host")
"""In the order in which they are loaded (facts 4.6)."""
FILES = ("dev/axcl_host", "dev/msg_userdev", "dev/ax_mmb_dev")
FIRMWARE = "lib/firmware/axcl/ax650_card.pac"
LIBRARY = "usr/lib/axcl/libaxcl_rt.so"
GEN1_GTS, GEN2_GTS = 2.5, 5.0

NO_CARD = "no AX650 card is in this machine, and none is asked for"
REBOOT_CARD = "echo y | sudo /usr/bin/axcl/axcl-smi reboot"
"""The whole path, as sudo knows no other."""
REINSTALL = "reinstall the vendor's package: sudo apt install --reinstall axclhost"


def wants_card(case: Case) -> bool:
    """Whether the settings name a model or a runtime that needs a card."""
    engine = case.settings.engine
    if engine.kind != "worker":
        return False
    if engine.worker.runtime != "auto":  # axengine is for boards that are an AX650 themselves
        return engine.worker.runtime == "axcl"
    try:
        directory = model_directory(case)
    except ModelError:
        return False
    return next(directory.glob("*.axmodel"), None) is not None


def find_cards(machine: Machine) -> list[str]:
    """Return the bus addresses of the cards that the kernel sees."""
    return [
        device.name
        for device in sorted(machine.path(DEVICES).glob("*"))
        if machine.line(f"{DEVICES}/{device.name}/vendor") == VENDOR
        and machine.line(f"{DEVICES}/{device.name}/device") == DEVICE
    ]


def has_card(case: Case) -> bool:
    """Whether there is a card, or something of one, or one is needed: else nothing is examined."""
    machine = case.machine
    traces = (*FILES, FIRMWARE, LIBRARY, "usr/bin/axcl/axcl-smi")
    return (
        case.settings.device.axcl_smi is not None
        or bool(find_cards(machine))
        or any(machine.path(trace).exists() for trace in traces)
        or wants_card(case)  # at last, as the model may be on a disk that hangs
    )


def examine_link(case: Case) -> Iterable[Finding]:
    """Whether the card is on the bus, and how wide and fast its link is."""
    if not has_card(case):
        yield skip("card.present", NO_CARD)
        return
    cards = find_cards(case.machine)
    if not cards:
        yield fail("card.present", "no AX650 is on the PCI bus", _cure_absent(case.machine))
        return
    yield ok("card.present", f"on the PCI bus as {', '.join(cards)}")
    for card in cards:
        yield _judge_link(case.machine, card)


def _judge_link(machine: Machine, card: str) -> Finding:
    name = "card.link"
    speed, width = read_link(card, machine.path(DEVICES))
    if speed is None or width is None:
        what = "the kernel can't tell its width: the card has dropped off the bus, or sleeps"
        return fail(name, what, "power off, wait 10 s, power on; then see the cable and the slot")
    found = f"x{width} at {speed:g} GT/s"
    if speed < GEN2_GTS:
        cure = "reseat the ribbon cable and the card, and power off and on"
        if _is_pi(machine):
            cure = f"put 'dtparam=pciex1' into /boot/firmware/config.txt, reboot; if so: {cure}"
        found += f" (Gen1); the card can do {GEN2_GTS:g}, and models load at half the speed"
        return warn(name, found, cure)
    wider = _width_of(machine, card)
    if width < wider:
        what = f"{found}, where card and slot have x{wider}"
        return warn(name, what, "power off, clean its contacts, and reseat the card")
    return ok(name, f"{found}, as it should be on this machine")


def _width_of(machine: Machine, card: str) -> int:
    """Return how many lanes card and slot both have; 0 if that is not known."""
    below = machine.path(DEVICES) / card
    slot = below.resolve().parent
    widths = []
    for directory in (below, slot):
        try:
            widths.append(int((directory / "max_link_width").read_text()))
        except (OSError, ValueError):
            return 0
    return min(widths)


def _is_pi(machine: Machine) -> bool:
    return "Raspberry Pi" in (machine.line("proc/device-tree/model") or "")


def _cure_absent(machine: Machine) -> str:
    cure = "power off, reseat the card and its cable, power on, and see 'lspci'"
    config = machine.read("boot/firmware/config.txt") or ""
    is_on = any(line.strip() == "dtparam=pciex1" for line in config.splitlines())
    if _is_pi(machine) and not is_on:
        return f"put 'dtparam=pciex1' into /boot/firmware/config.txt and reboot; else {cure}"
    return f"{cure}; a weak power supply does this, too: 27 W for a Pi 5 with the card"


def examine_driver(case: Case) -> Iterable[Finding]:
    """Whether the driver is loaded, its files are there and open, and so is the library."""
    if not has_card(case):
        return
    yield _judge_modules(case.machine)
    yield _judge_files(case.machine)
    if not case.machine.path(FIRMWARE).exists():
        what = f"/{FIRMWARE}, which the driver sends to the card, is missing"
        yield fail("card.firmware", what, REINSTALL)
    yield from _judge_library(case)


def _judge_modules(machine: Machine) -> Finding:
    name = "card.driver"
    loaded = {line.split()[0] for line in (machine.read("proc/modules") or "").splitlines() if line}
    missing = [module for module in MODULES if module not in loaded]
    if not missing:
        version = machine.line("sys/module/axcl_host/version")
        return ok(name, f"its {len(MODULES)} modules are loaded{f', {version}' if version else ''}")
    found = f"{', '.join(missing)} not loaded"
    if _is_built(machine):
        return fail(name, found, "sudo modprobe axcl_host; then 'sudo dmesg | tail'")
    return fail(
        name,
        f"{found}, and not built for this kernel ({machine.kernel})",
        f"sudo apt install linux-headers-{machine.kernel} && sudo dkms autoinstall && sudo "
        f"modprobe axcl_host; else {REINSTALL}",
    )


def _is_built(machine: Machine) -> bool:
    modules = machine.path(f"lib/modules/{machine.kernel}")
    return any(
        next((modules / place).rglob("axcl_host.ko*"), None) for place in ("updates", "extra")
    )


def _judge_files(machine: Machine) -> Finding:
    name = "card.device"
    missing = [f"/{file}" for file in FILES if not machine.path(file).exists()]
    if missing:
        what = f"{', '.join(missing)} missing: without the driver there is no card"
        return fail(name, what, "sudo modprobe axcl_host, and see card.driver")
    user = machine.user
    if user.uid == 0:  # the service is not installed; it will not be root
        user = User(f"the service ({SERVICE_USER})", -1)
    closed = [f"/{file}" for file in FILES if not user.may(machine.path(file).stat(), 6)]
    if closed:
        cure = "sudo adduser $USER edge-llm, and log in anew"
        if os.geteuid() == 0:
            cure = "sudo udevadm control --reload && sudo udevadm trigger"
        return fail(
            name,
            f"{user.name} may not use {', '.join(closed)}",
            f"{cure}; the rules are systemd/edge-llm.udev, which systemd/install.sh installs",
        )
    return ok(name, f"/{FILES[0]} is there and open to {user.name}")


def _judge_library(case: Case) -> Iterator[Finding]:
    name = "card.library"
    named = case.settings.engine.worker.axcl_library
    library = named or case.machine.path(LIBRARY)
    if library.exists():
        yield ok(name, str(named or f"/{LIBRARY}"))
    elif wants_card(case):
        what = f"{named or 'libaxcl_rt.so'} is not there, which runs models on the card"
        yield fail(name, what, "install the vendor's axclhost package (docs/card.md)")
    else:
        yield warn(name, "libaxcl_rt.so is not there", "install the vendor's axclhost package")
