"""A Raspberry Pi with a card, as a folder of files: healthy, until a test breaks it."""

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.card_tools import SEEN

__all__ = ["Pi", "open_dead_share"]

KERNEL = "6.6.74+rpt-rpi-2712"
CARD = "0001:01:00.0"
SLOT = "0001:00:00.0"

MEMINFO = """\
MemTotal:        8256128 kB
MemFree:         5256128 kB
MemAvailable:    6256128 kB
SwapTotal:        204784 kB
SwapFree:         204784 kB
CmaTotal:          65536 kB
CmaFree:           60000 kB
"""
MODULES = """\
ax_pcie_p2p_rc 16384 0 - Live 0x0000000000000000 (O)
axcl_host 65536 0 - Live 0x0000000000000000 (O)
ax_pcie_mmb 24576 0 - Live 0x0000000000000000 (O)
ax_pcie_msg 40960 2 ax_pcie_mmb,axcl_host, Live 0x0000000000000000 (O)
ax_pcie_host_dev 36864 3 axcl_host,ax_pcie_msg,ax_pcie_mmb, Live 0x0000000000000000 (O)
"""
LOG = """\
[    0.000000] Booting Linux on physical CPU 0x0000000000 [0x414fd0b1]
[    9.401234] axcl_host: device 1: alive!
"""
UNIT = """\
LoadState=loaded
ActiveState=active
SubState=running
UnitFileState=enabled
Result=success
NRestarts=0
"""
FILES = {
    "etc/os-release": 'PRETTY_NAME="Debian GNU/Linux 12 (bookworm)"\n',
    "etc/passwd": "root:x:0:0::/root:/bin/sh\nedge-llm:x:990:990::/var/lib/edge-llm:/bin/false\n",
    "etc/group": "root:x:0:\nedge-llm:x:990:pi\n",
    "proc/device-tree/model": "Raspberry Pi 5 Model B Rev 1.0\0",
    "proc/sys/kernel/osrelease": KERNEL + "\n",
    "proc/uptime": "90000.00 350000.00\n",
    "proc/meminfo": MEMINFO,
    "proc/modules": MODULES,
    "boot/firmware/config.txt": "dtparam=audio=on\ndtparam=pciex1\n",
    "lib/firmware/axcl/ax650_card.pac": "firmware",
    f"lib/modules/{KERNEL}/updates/dkms/axcl_host.ko.xz": "module",
    "usr/lib/axcl/libaxcl_rt.so": "library",
    "dev/axcl_host": "",
    "dev/msg_userdev": "",
    "dev/ax_mmb_dev": "",
    "sys/devices/platform/soc@107c000000/soc@107c000000:firmware/get_throttled": "0\n",
    "sys/class/thermal/thermal_zone0/temp": "48200\n",
    "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor": "ondemand\n",
    "run/systemd/system/.keep": "",
    "var/lib/edge-llm/models/.keep": "",
    "var/lib/mosquitto/.keep": "",
}
LINK = {
    "vendor": "0x1f4b",
    "device": "0x0650",
    "current_link_speed": "5.0 GT/s PCIe",
    "current_link_width": "1",
    "max_link_speed": "5.0 GT/s PCIe",
    "max_link_width": "2",
}


class Pi:
    """The machine's files, below a folder."""

    def __init__(self, root: Path) -> None:
        self.root = root
        for path, text in FILES.items():
            self.write(path, text)
        bus = f"sys/devices/pci0001:00/{SLOT}"
        for name, text in LINK.items():
            self.write(f"{bus}/{CARD}/{name}", text + "\n")
        self.write(f"{bus}/max_link_width", "1\n")
        devices = root / "sys/bus/pci/devices"
        devices.mkdir(parents=True)
        (devices / CARD).symlink_to(root / bus / CARD)
        for file in ("axcl_host", "msg_userdev", "ax_mmb_dev"):
            (root / "dev" / file).chmod(0o666)
        (root / "var/lib/edge-llm").chmod(0o777)
        self.program("usr/bin/axcl/axcl-smi", f"cat {SEEN}/table_idle.stdout.txt")
        self.card(used_mib=18)
        self.program("usr/bin/timedatectl", "echo NTPSynchronized=yes")
        self.log("")
        self.unit()

    def path(self, path: str) -> Path:
        """Where a file of the machine is."""
        return self.root / path

    def write(self, path: str, text: str) -> Path:
        """Write a file, and the folders above."""
        file = self.root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        return file

    def edit(self, path: str, old: str, new: str) -> None:
        """Change a file where it says something."""
        text = (self.root / path).read_text()
        assert old in text
        self.write(path, text.replace(old, new))

    def program(self, path: str, script: str) -> Path:
        """Make a program of lines for the shell."""
        file = self.write(path, f"#!/bin/sh\n{script}\n")
        file.chmod(0o755)
        return file

    def card(self, *, used_mib: int, celsius: int = 49, firmware: str = "V3.10.2") -> None:
        """Have the tool say other things of the card, in the vendor's form."""
        table = (SEEN / "table_idle.stdout.txt").read_text()
        table = table.replace("6348 MiB", f"{used_mib:4d} MiB").replace(" 49C", f"{celsius:3d}C")
        table = table.replace(f"{'V3.10.2':>26} | 0001", f"{firmware:>26} | 0001")
        self.write("table", table)
        self.program("usr/bin/axcl/axcl-smi", f"cat {self.root}/table")

    def log(self, lines: str) -> None:
        """Have the kernel's log end with these lines; the journal has none."""
        self.program("usr/bin/journalctl", 'echo "No journal files were found." >&2; exit 1')
        file = self.write("log", LOG + lines)
        self.program("usr/bin/dmesg", f"cat {file}")

    def unit(self, **changes: str) -> None:
        """Have systemd say other things of all units."""
        values = dict(line.split("=") for line in UNIT.split()) | changes
        text = "\n".join(f"{name}={value}" for name, value in values.items())
        self.program("usr/bin/systemctl", f"cat <<'END'\n{text}\nEND")

    def process(self, pid: int, *arguments: str, age_s: float = 100.0) -> None:
        """Have a process run."""
        self.write(f"proc/{pid}/cmdline", "".join(f"{argument}\0" for argument in arguments))
        ticks = round(100 * (90_000 - age_s))
        self.write(f"proc/{pid}/stat", f"{pid} (a name) S {'0 ' * 18}{ticks} 0\n")


@contextmanager
def open_dead_share(place: Path) -> Iterator[bool]:
    """Mount a file system at a folder that never answers; give whether that is allowed here.

    It is one of FUSE's, whose server does not read what it is asked. When that goes, so do the
    calls that wait for it.
    """
    place.mkdir()
    libc = ctypes.CDLL(None, use_errno=True)
    try:
        fuse = os.open("/dev/fuse", os.O_RDWR)
    except OSError:
        yield False
        return
    options = f"fd={fuse},rootmode=40755,user_id={os.getuid()},group_id={os.getgid()}"
    done = libc.mount(b"dead", os.fsencode(place), b"fuse", 0, options.encode())
    try:
        yield done == 0
    finally:
        os.close(fuse)
        if done == 0:
            libc.umount2(os.fsencode(place), 2)
