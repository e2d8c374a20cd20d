"""Other programs that tests run: found, installed where that is allowed, stopped."""

import fcntl
import os
import shutil
import socket
import subprocess
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NoReturn

import pytest

HOST = "127.0.0.1"
START_TIMEOUT_S = 30.0
STOP_TIMEOUT_S = 5.0
POLL_S = 0.01


def require_program(name: str, package: str) -> str:
    """Return the path of a program, and install Debian's package for it if that is allowed.

    Without it the test is skipped; with CI=true it fails, so that CI can't be green by accident.
    """
    path = _find(name)
    if path is None:
        with one_at_a_time("install"):
            if not _find(name):  # another test may have installed it meanwhile
                _install(package)
            path = _find(name)
    return path or do_without(f"{name} is not installed (Debian: apt-get install {package})")


def _find(name: str) -> str | None:
    return shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")


def _install(package: str) -> None:
    apt = shutil.which("apt-get")
    if apt is None:
        return
    become_root = [] if os.geteuid() == 0 else ["sudo", "-n"]
    install = [apt, "install", "-y", "--no-install-recommends", package]
    with suppress(OSError, subprocess.SubprocessError):  # no sudo, no network
        for command in ([apt, "update"], install):  # a new machine has no list of packages yet
            subprocess.run([*become_root, *command], capture_output=True, check=True, timeout=90)


def require_npm(package: str, version: str) -> Path:
    """Return the directory of an npm package, and install it if that is allowed; else as above.

    It stays in the user's cache, as installing it takes longer than most tests.
    """
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    directory = cache / "edge-llm-tests" / f"{package}-{version}"
    installed = directory / "node_modules" / package
    npm = shutil.which("npm") or require_program("npm", "npm")
    with one_at_a_time(f"{package}-{version}"):
        if not (directory / "complete").exists():
            directory.mkdir(parents=True, exist_ok=True)
            command = [npm, "install", "--no-audit", "--no-fund", f"{package}@{version}"]
            with suppress(OSError, subprocess.SubprocessError):
                subprocess.run(command, cwd=directory, capture_output=True, check=True, timeout=110)
                (directory / "complete").touch()
    if not (directory / "complete").exists():
        do_without(f"{package} is not installed (npm install {package}@{version})")
    return installed


@contextmanager
def one_at_a_time(name: str) -> Iterator[None]:
    """Keep other test processes out meanwhile: they want the same thing installed."""
    name = f"edge-llm-tests-{os.getuid()}-{name.replace('/', '_')}.lock"
    path = Path(tempfile.gettempdir()) / name
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def do_without(reason: str) -> NoReturn:
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)


@contextmanager
def running(
    command: Sequence[str], log: Path, is_ready: Callable[[], bool], env: dict[str, str] | None
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a program until the context is left; its output goes to a file."""
    with log.open("ab") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output, env=env)
    try:
        wait_until(is_ready, process, log)
        yield process
    finally:
        if process.poll() is None:
            process.terminate()
        try:
            process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def wait_until(is_ready: Callable[[], bool], process: "subprocess.Popen[bytes]", log: Path) -> None:
    """Wait for a program that was started; it fails with the end of its output."""
    deadline = time.monotonic() + START_TIMEOUT_S
    while not is_ready():
        if process.poll() is not None or time.monotonic() > deadline:
            pytest.fail(f"{process.args!r} did not start: {log.read_text()[-2000:]}")
        time.sleep(POLL_S)


def free_port() -> int:
    """Return a TCP port that was free a moment ago."""
    with socket.socket() as sock:
        sock.bind((HOST, 0))
        return int(sock.getsockname()[1])


def serves_http(url: str) -> bool:
    """Tell whether a GET of this URL is answered with success."""
    try:
        with urllib.request.urlopen(url, timeout=1):
            return True
    except OSError:
        return False


def accepts(port: int) -> bool:
    """Tell whether somebody listens on a port."""
    try:
        socket.create_connection((HOST, port), timeout=0.5).close()
    except OSError:
        return False
    return True
