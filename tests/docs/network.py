"""A network of a test's own, so that the ports of the documentation can be taken at their word."""

import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from tests.programs import do_without, require_program

__all__ = ["Network", "private_network"]

HOLD = "ip link set lo up && echo up && exec sleep infinity"


@dataclass(frozen=True, slots=True)
class Network:
    """It has nothing but loopback, with every port free."""

    pid: int
    """Of a process that is in it as long as it is there."""
    is_root: bool

    @property
    def enter(self) -> list[str]:
        """What comes before a command that is to run in it."""
        user = [] if self.is_root else ["-U", "--preserve-credentials"]
        return ["nsenter", "-t", str(self.pid), "-n", *user, "--"]

    def kill_all(self) -> None:
        """Kill all that was started in it and is left."""
        own = _network_of(self.pid)
        pids = (int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit())
        for pid in pids:
            if pid != self.pid and own is not None and _network_of(pid) == own:
                with suppress(OSError):
                    os.kill(pid, signal.SIGKILL)


@contextmanager
def private_network() -> Iterator[Network]:
    """Make one until the context is left; where it can't be the test is skipped, or fails in CI."""
    for program, package in (("unshare", "util-linux"), ("ip", "iproute2")):
        require_program(program, package)
    is_root = os.geteuid() == 0
    command = ["unshare", "-n" if is_root else "-rn", "sh", "-c", HOLD]
    environment = {**os.environ, "PATH": f"{os.environ['PATH']}:/usr/sbin:/sbin"}
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment
    )
    try:
        said = process.stdout.readline() if process.stdout else ""
        if said != "up\n":
            do_without(f"no network namespace can be made here: {said.strip()}")
        network = Network(process.pid, is_root)
        try:
            yield network
        finally:
            network.kill_all()
    finally:
        process.kill()
        process.communicate()


def _network_of(pid: int) -> str | None:
    try:
        return str(Path(f"/proc/{pid}/ns/net").readlink())
    except OSError:  # it has ended, or is somebody else's
        return None
