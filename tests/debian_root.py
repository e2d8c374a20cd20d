"""A Debian of a test's own: made by Debian's tools, with its own systemd, network and devices.

``fresh_machine`` is Debian as it comes, with this checkout in /root/edge-llm; ``installed_machine``
is one in which ``systemd/install.sh`` has been run, once for all tests of these sources. Each has a
layer of its own above what it shares with others, and its own ports, so the defaults can be used.
Inside, pip and apt reach what they reach outside. Where that can't be had (not root, no network),
the test is left out, or fails with CI=true.
"""

import fcntl
import functools
import hashlib
import json
import os
import re
import shutil
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from tests.environments import CACHE
from tests.programs import POLL_S, do_without, one_at_a_time, require_program
from tests.systemd_machine import ROOT, SYSTEMD, Machine, booted

__all__ = [
    "INSTALL",
    "DebianMachine",
    "Installation",
    "copy_sources",
    "debian_machine",
    "fresh_machine",
    "installed_machine",
    "require_installation",
]

SUITE = "bookworm"
PACKAGES = "systemd,systemd-sysv,dbus,udev,ca-certificates"
"""What a minimal Debian lacks, and one that somebody has booted has."""
BOOT_TIMEOUT_S = 60.0
NAMESPACES = ("-m", "-p", "-C", "-n", "-u", "-i")
RUN_TIMEOUT_S = 600.0
SOURCES = (
    *("edge_llm", "bridges", "systemd", "mosquitto"),
    *("pyproject.toml", "requirements.lock", "README.md", "CHANGELOG.md", "LICENSE"),
)
"""What a clone has that installing needs."""
INSTALL = "edge-llm/systemd/install.sh"
"""In root's home directory."""
ASK = (
    "mosquitto_sub -R -t llm/response/button7 -C 1 -W 60 & sleep 1; "
    "mosquitto_pub -t llm/request/button7 -m 'Who are you?'; wait"
)

BOOT = """\
set -e
ip link set lo up
mount -t overlay -o lowerdir={lower},upperdir={upper},workdir={work} overlay {root}
cd {root}
mount -t proc proc proc
mount --bind proc/sys proc/sys
echo debian | tee etc/hostname >proc/sys/kernel/hostname
printf '127.0.0.1 localhost\\n127.0.1.1 debian\\n::1 localhost ip6-localhost\\n' >etc/hosts
mount -o remount,bind,ro proc/sys
mount -t sysfs -o ro sysfs sys
mount -t cgroup2 cgroup2 sys/fs/cgroup
mount -t tmpfs -o mode=755 tmpfs dev
mknod -m 666 dev/null c 1 3
mknod -m 666 dev/zero c 1 5
mknod -m 666 dev/full c 1 7
mknod -m 666 dev/random c 1 8
mknod -m 666 dev/urandom c 1 9
mknod -m 666 dev/tty c 5 0
mkdir dev/pts dev/shm
mount -t devpts -o newinstance,ptmxmode=0666,mode=620 devpts dev/pts
ln -s pts/ptmx dev/ptmx
ln -s /proc/self/fd dev/fd
for directory in run tmp; do mount -t tmpfs -o mode=1777 tmpfs $directory; done
chmod 755 run
{binds}
pivot_root . mnt
umount -l mnt
mount --make-rshared /
exec env -i container=lxc PATH=/usr/sbin:/usr/bin:/sbin:/bin {systemd} --unit=multi-user.target
"""

VARIABLES = re.compile(r"(?i)(PIP_.*|.*_proxy|.*_CA_BUNDLE|SSL_CERT_(FILE|DIR))")
"""Of the environment: what tells pip, and what is below it, how to reach an index."""


@dataclass(frozen=True)
class Installation:
    """What came of running install.sh in a Debian as it comes, and asking what it installed."""

    seconds: float
    """From the first command to the answer, in seconds."""
    output: str
    """What install.sh printed."""
    answer: str


class DebianMachine:
    """A running Debian, and what is typed there."""

    def __init__(self, machine: Machine, directory: Path) -> None:
        self.machine = machine
        """Its systemd."""
        self.directory = directory
        self.files = Path(f"/proc/{machine.pid}/root")
        """Its root directory, as it is seen from here."""

    def run(
        self, command: str, *, check: bool = True, timeout_s: float = RUN_TIMEOUT_S
    ) -> subprocess.CompletedProcess[str]:
        """Run a shell command as root in root's home directory.

        Args:
            command: for bash.
            check: fail the test if it fails.
            timeout_s: for the command, in seconds.
        """
        environment = {
            "HOME": "/root",
            "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            "LANG": "C.UTF-8",
            "TERM": "dumb",
        } | {name: value for name, value in os.environ.items() if VARIABLES.fullmatch(name)}
        enter = ["nsenter", "-t", str(self.machine.pid), *NAMESPACES, "--"]
        shell = ["bash", "-c", f"cd /root; {command}"]
        outcome = subprocess.run(
            [*enter, *shell],
            check=False,
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
            env=environment,
            timeout=timeout_s,
        )
        told = f"{command}\n{outcome.stdout[-3000:]}\n{outcome.stderr[-3000:]}"
        assert not (check and outcome.returncode), told
        return outcome

    def ask(self) -> str:
        """Ask the node that runs here, as docs/deployment.md shows; return what it answers."""
        return self.run(ASK, timeout_s=90).stdout.strip()


@contextmanager
def debian_machine(
    directory: Path, *layers: Path, suite: str = SUITE, upper: Path | None = None
) -> Iterator[DebianMachine]:
    """Boot a Debian, until the context is left.

    Args:
        directory: for what it changes; must not exist.
        layers: what lies above Debian as it comes, the topmost first.
        suite: which Debian.
        upper: where its changes go; below ``directory`` if None.
    """
    require_program("ip", "iproute2")
    network = require_program("slirp4netns", "slirp4netns")
    lower = [*layers, _require_debian(suite)]
    directory.mkdir(parents=True)
    upper = upper or directory / "upper"
    root, work = directory / "root", upper.with_name(upper.name + ".work")
    for each in (root, upper, work):
        each.mkdir()
    upper.chmod(0o755)  # it becomes the root directory
    boot = BOOT.format(
        lower=":".join(map(str, lower)),
        upper=upper,
        work=work,
        root=root,
        binds="\n".join(_binds()),
        systemd=SYSTEMD,
    )
    with ExitStack() as stack:
        unit = "multi-user.target"
        machine = stack.enter_context(booted(directory, boot, unit, "-n", timeout_s=BOOT_TIMEOUT_S))
        connect = [network, "--configure", "--mtu=65520", str(machine.pid), "tap0"]
        log = stack.enter_context((directory / "network.log").open("wb"))
        process = subprocess.Popen(connect, stdout=log, stderr=log)
        stack.callback(process.wait)
        stack.callback(process.kill)
        debian = DebianMachine(machine, directory)
        (debian.files / "etc" / "resolv.conf").unlink(missing_ok=True)
        (debian.files / "etc" / "resolv.conf").write_text("nameserver 10.0.2.3\n")  # slirp4netns'
        while "tap0" not in (debian.files / "proc/1/net/route").read_text():
            if process.poll() is not None:
                do_without(f"no network: {(directory / 'network.log').read_text()}")
            time.sleep(POLL_S)
        yield debian


@contextmanager
def fresh_machine(directory: Path, suite: str = SUITE) -> Iterator[DebianMachine]:
    """Boot Debian as it comes, with this checkout in /root/edge-llm."""
    with debian_machine(directory, suite=suite) as machine:
        copy_sources(machine.files / "root" / "edge-llm")
        yield machine


@contextmanager
def installed_machine(directory: Path) -> Iterator[DebianMachine]:
    """Boot a Debian in which edge-llm is installed and runs; its clone is in /root/edge-llm."""
    with _installed_layer() as layer, debian_machine(directory, layer / "upper") as machine:
        machine.run("systemctl is-active --quiet edge-llm mosquitto")
        yield machine


def require_installation() -> Installation:
    """Return what came of the installation that ``installed_machine`` has; make it if need be."""
    with _installed_layer() as layer:
        return Installation(**json.loads((layer / "complete").read_text()))


def copy_sources(directory: Path) -> None:
    """Copy what a clone of this repository has, as far as installing needs it."""
    directory.mkdir(parents=True)
    for name in SOURCES:
        if (ROOT / name).is_dir():
            ignored = shutil.ignore_patterns("__pycache__")
            shutil.copytree(ROOT / name, directory / name, ignore=ignored)
        else:
            shutil.copy(ROOT / name, directory)


# -- Made once


def _require_debian(suite: str) -> Path:
    """Return the root directory of a Debian as it comes."""
    program = require_program("mmdebstrap", "mmdebstrap")
    directory = CACHE / f"debian-{suite}-{_digest(PACKAGES.encode())}"
    with one_at_a_time(directory.name):
        if not (directory / "complete").exists():
            shutil.rmtree(directory, ignore_errors=True)
            directory.mkdir(parents=True)
            # Nobody needs to be sure that it survives a power cut, or to read its manuals.
            spare = ["doc", "man", "locale", "info"]
            options = [f"--dpkgopt=path-exclude=/usr/share/{name}/*" for name in spare]
            acquire = subprocess.run(
                ["apt-config", "dump", "Acquire"], check=True, capture_output=True, text=True
            ).stdout
            (directory / "apt.conf").write_text(acquire)
            make = [
                *(program, "--quiet", "--variant=minbase", "--format=directory"),
                *("--dpkgopt=force-unsafe-io", *options, f"--aptopt={directory / 'apt.conf'}"),
                *(f"--include={PACKAGES}", suite, str(directory / "root"), *_mirrors(suite)),
            ]
            try:
                subprocess.run(make, check=True, capture_output=True, timeout=RUN_TIMEOUT_S)
            except (OSError, subprocess.SubprocessError) as exc:
                said = getattr(exc, "stderr", None) or str(exc).encode()
                do_without(f"Debian {suite} can't be made: {said.decode()[-800:]}")
            (directory / "complete").touch()
    return directory / "root"


def _mirrors(suite: str) -> list[str]:
    """Return where this machine's apt gets Debian from, as lines of a sources.list."""
    form = "$(REPO_URI) $(RELEASE) $(COMPONENT)"
    targets = subprocess.run(
        ["apt-get", "indextargets", "--format", form, "Created-By: Packages"],
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    here = re.search(r"^VERSION_CODENAME=(\w+)", Path("/etc/os-release").read_text(), re.M)
    lines = [
        f"deb {uri} {release.replace(here[1], suite)} main"
        for uri, release, component in (line.split() for line in targets.splitlines())
        if here and release.startswith(here[1]) and component == "main"
    ]
    return lines or [f"deb http://deb.debian.org/debian {suite} main"]


@contextmanager
def _installed_layer() -> Iterator[Path]:
    """Hold the layer of an installed machine; whoever comes first makes it."""
    layer = CACHE / f"debian-installed-{_sources_digest()}"
    CACHE.mkdir(parents=True, exist_ok=True)
    with one_at_a_time("debian-installed"):
        if not (layer / "complete").exists():
            _forget_layers()
            shutil.rmtree(layer, ignore_errors=True)
            layer.mkdir()
            _install(layer)
        used = (layer / "complete").open()
        fcntl.flock(used, fcntl.LOCK_SH)
    with used:
        yield layer


def _forget_layers() -> None:
    """Remove those of other sources, if no test uses them any more; each has 600 MB."""
    for layer in CACHE.glob("debian-installed-*"):
        complete = layer / "complete"
        try:
            with complete.open() as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(layer)
        except FileNotFoundError:
            shutil.rmtree(layer)
        except BlockingIOError:
            continue


def _install(layer: Path) -> None:
    with debian_machine(layer / "machine", upper=layer / "upper") as machine:
        copy_sources(machine.files / "root" / "edge-llm")
        began = time.monotonic()
        output = machine.run(INSTALL).stdout
        answer = machine.ask()
        seconds = time.monotonic() - began
        machine.run("systemctl stop edge-llm mosquitto")
    made = Installation(seconds, output, answer)
    (layer / "complete").write_text(json.dumps(asdict(made)))


@functools.cache
def _sources_digest() -> str:
    """Return it once, also if somebody goes on editing."""
    return _digest(*_contents())


def _contents() -> Iterator[bytes]:
    yield Path(__file__).read_bytes()
    for name in SOURCES:
        path = ROOT / name
        for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
            if file.is_file() and "__pycache__" not in file.parts:
                yield str(file.relative_to(ROOT)).encode()
                yield file.read_bytes()


def _digest(*contents: bytes) -> str:
    return hashlib.sha256(b"\0".join(contents)).hexdigest()[:12]


# -- What the machine sees of this one, so that pip works as it does here


def _binds() -> Iterator[str]:
    """Return shell lines that show pip's settings, and the files and directories they name."""
    home = Path.home() / ".config" / "pip" / "pip.conf"
    configs = {Path("/etc/pip.conf"): "etc/pip.conf", home: "root/.config/pip/pip.conf"}
    texts = [value for name, value in os.environ.items() if VARIABLES.fullmatch(name)]
    texts += [path.read_text() for path in configs if path.is_file()]
    yield from (_bind(path, inside) for path, inside in configs.items() if path.is_file())
    for path in _outermost(_paths(texts)):
        yield _bind(path, str(path).lstrip("/"))


def _paths(texts: Sequence[str]) -> Iterator[Path]:
    for text in texts:
        for scheme, name in re.findall(r"(?:(?<=\s)|(?<==)|^)(file://)?(/[^\s,\"']+)", text):
            path = Path(name)
            # An index refers to files that lie beside it.
            path = path.parent if scheme and path.name == "simple" else path
            if path.exists():
                yield path.resolve()


def _outermost(paths: Iterator[Path]) -> list[Path]:
    found = set(paths)
    return sorted(path for path in found if not found & set(path.parents))


def _bind(path: Path, inside: str) -> str:
    make = f"mkdir -p {inside}" if path.is_dir() else f"mkdir -p $(dirname {inside}); : >>{inside}"
    return f"{make}; mount --bind {path} {inside}; mount -o remount,bind,ro {inside}"
