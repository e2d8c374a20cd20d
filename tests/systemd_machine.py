"""A systemd of a test's own: process 1 of its own namespaces, with the units that we ship.

It sees the same files, but has its own ``/run``, ``/var/lib`` and control groups, leaves nothing
in ``/tmp``, and may not change the kernel's settings. Where that can't be had (not root, no control
groups of version 2, no overlays), the test is left out, or fails with CI=true.
"""

import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from tests.programs import POLL_S, do_without, require_program

ROOT = Path(__file__).parents[1]
UNITS = ROOT / "systemd"
START_TIMEOUT_S = 30.0

ENTER = """\
set -e
mount --make-rprivate /
mkdir {groups}
mount -t cgroup2 cgroup2 {groups}
mkdir {group}
echo 0 >{group}/cgroup.procs
exec unshare -C sh {boot}
"""
BOOT = """\
set -e
getent passwd edge-llm >/dev/null || {{ cp /etc/passwd /etc/group {directory}
echo edge-llm:x:{uid}:{uid}::/var/lib/edge-llm:/usr/sbin/nologin >>{directory}/passwd
echo edge-llm:x:{uid}: >>{directory}/group
mount --bind {directory}/passwd /etc/passwd
mount --bind {directory}/group /etc/group; }}
mount --bind /proc/sys /proc/sys
mount -o remount,bind,ro /proc/sys
for directory in /run /var/lib /var/tmp; do mount -t tmpfs -o mode=755 tmpfs $directory; done
mkdir -p /run/lock /run/units /run/test /run/tmp/upper /run/tmp/work
mount -t overlay -o lowerdir=/tmp,upperdir=/run/tmp/upper,workdir=/run/tmp/work overlay /tmp
cp -r {files}/. /run/test/
cp -r {units}/. /run/units/
mount -t cgroup2 cgroup2 /sys/fs/cgroup
mount --make-rshared /
export container=lxc SYSTEMD_UNIT_PATH=/run/units
exec {systemd} --unit=test.target
"""
SYSTEMD = (
    "setpriv --bounding-set -sys_module,-sys_time,-sys_boot,-sys_rawio "
    "/lib/systemd/systemd --system --show-status=no --log-target=console"
)
"""Without what would reach beyond the namespaces."""
LEAVE = """\
mount --make-rprivate /
mount -t cgroup2 cgroup2 {groups}
for _ in 1 2 3 4 5; do find {group} -depth -type d -exec rmdir {{}} + && exit; sleep 0.2; done
"""

UID = 60321
"""Of the service's user, which install.sh makes on a real machine; nobody else's."""
TARGETS = ("test", "sysinit", "basic", "shutdown", "paths", "network-online")
TARGET = "[Unit]\nDefaultDependencies=no\nAllowIsolate=yes\n"


class Machine:
    """A running systemd, and what it is told from outside."""

    def __init__(self, pid: int, log: Path) -> None:
        self.pid = pid
        """Of its process 1, as it is numbered outside."""
        self.log = log

    def run(self, *command: str, check: bool = True) -> str:
        """Run a program inside, and return what it prints."""
        inside = ["nsenter", "-t", str(self.pid), "-m", "-p", "-C", "--", *command]
        outcome = subprocess.run(inside, check=False, capture_output=True, text=True, timeout=60)
        assert not (check and outcome.returncode), outcome.stderr + self.log.read_text()[-3000:]
        return outcome.stdout

    def show(self, unit: str, name: str) -> str:
        """Return a property of a unit."""
        return self.run("systemctl", "show", "-P", name, unit).strip()

    def wait_for(self, unit: str, timeout_s: float = 60.0, **properties: str) -> None:
        """Wait until properties of a unit have these values."""
        deadline = time.monotonic() + timeout_s
        while {name: self.show(unit, name) for name in properties} != properties:
            assert time.monotonic() < deadline, self.log.read_text()[-6000:]
            time.sleep(POLL_S * 5)

    def pids(self, unit: str) -> list[int]:
        """Return the processes of a unit, as they are numbered inside."""
        group = self.show(unit, "ControlGroup")
        text = self.run("cat", f"/sys/fs/cgroup{group}/cgroup.procs", check=False)
        return [int(line) for line in text.split()]


def shipped(name: str) -> str:
    """Return a unit of ours as it runs here: with this environment's programs, and test's files."""
    text = (UNITS / name).read_text()
    programs = Path(sys.executable).parent
    return text.replace("/opt/edge-llm/bin", str(programs)).replace("/etc/edge-llm", "/run/test")


def reachable() -> str:
    """Return settings that show the sandbox this checkout and its Python, also in /root or /tmp."""
    paths = " ".join(str(path) for path in sorted({ROOT, Path(sys.prefix), Path(sys.base_prefix)}))
    return (
        f"[Service]\nProtectHome=tmpfs\nBindReadOnlyPaths={paths}\nStandardOutput=append:/run/out\n"
    )


@contextmanager
def systemd_machine(
    directory: Path, units: Mapping[str, str], files: Mapping[str, str] | None = None
) -> Iterator[Machine]:
    """Boot it, until the context is left.

    Args:
        directory: for its files; must not exist.
        units: by file name; drop-ins are ``name.service.d/x.conf``.
        files: what is in ``/run/test``.
    """
    require_program("systemctl", "systemd")
    targets = {f"{name}.target": TARGET for name in TARGETS}
    _write(directory / "units", targets | dict(units))
    _write(directory / "files", files or {})
    boot = BOOT.format(
        directory=directory,
        files=directory / "files",
        units=directory / "units",
        uid=UID,
        systemd=SYSTEMD,
    )
    with booted(directory, boot, "test.target") as machine:
        yield machine


@contextmanager
def booted(
    directory: Path, boot: str, unit: str, *namespaces: str, timeout_s: float = START_TIMEOUT_S
) -> Iterator[Machine]:
    """Run a script in namespaces of its own, which becomes systemd; until the context is left.

    Args:
        directory: for its files.
        boot: sees this machine's files, in a mount namespace, and its own control groups only.
        unit: what must be active; then it has booted.
        namespaces: further ones, as options of unshare.
        timeout_s: for that, in seconds.
    """
    if os.geteuid() != 0:
        do_without("a systemd of one's own needs root")
    groups = directory / "groups"
    group = groups / f"edge-llm-test-{os.urandom(4).hex()}"
    enter, script, log = directory / "enter", directory / "boot", directory / "log"
    enter.write_text(ENTER.format(groups=groups, group=group, boot=script))
    script.write_text(boot)
    unshare = ["unshare", "--fork", "--kill-child", "--mount-proc", "-p", "-m", "-u", "-i"]
    with log.open("wb") as output:
        process = subprocess.Popen(
            [*unshare, *namespaces, "sh", str(enter)], stdout=output, stderr=output
        )
    try:
        yield _wait_for_unit(process, log, unit, timeout_s)
    finally:
        process.kill()  # and with it all that is inside
        process.wait()
        leave = ["unshare", "-m", "sh", "-c", LEAVE.format(groups=groups, group=group)]
        subprocess.run(leave, check=False, capture_output=True)


def _write(folder: Path, texts: Mapping[str, str]) -> None:
    folder.mkdir(parents=True)
    for name, text in texts.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text)


def _wait_for_unit(
    process: subprocess.Popen[bytes], log: Path, unit: str, timeout_s: float
) -> Machine:
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    deadline = time.monotonic() + timeout_s
    while True:
        if process.poll() is not None or time.monotonic() > deadline:
            do_without(f"systemd does not start here: {log.read_text()[-500:]}")
        if pids := children.read_text().split():
            machine = Machine(int(pids[0]), log)
            state = ("systemctl", "show", "-P", "ActiveState", unit)
            if machine.run(*state, check=False).strip() == "active":
                return machine
        time.sleep(POLL_S * 5)
