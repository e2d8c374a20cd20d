"""An installed machine as the documentation speaks of it: where root types commands."""

import os

from tests.debian_root import DebianMachine

__all__ = ["enter_machine"]

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def enter_machine(machine: DebianMachine, folder: str = "/root/edge-llm") -> list[str]:
    """Return what comes before a command that root is to run there, in a clone."""
    kept = [f"{name}={value}" for name, value in os.environ.items() if name.startswith("PIP_")]
    namespaces = ["-m", "-p", "-C", "-n", "-u", "-i"]
    return [
        *("nsenter", "-t", str(machine.machine.pid), *namespaces, "--"),
        *("env", "-i", "-C", folder, "HOME=/root", "LANG=C.UTF-8", f"PATH={PATH}", *kept),
    ]
