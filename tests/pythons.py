"""Other versions of Python than the one that runs the tests, for programs that want a newer one."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

from tests.programs import do_without, one_at_a_time

__all__ = ["find_uv", "require_interpreter"]

DEBIAN = {"3.13": "trixie"}  # the release that has it
KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"
TIMEOUT_S = 90.0


def find_uv() -> str:
    """Return the path of uv."""
    return shutil.which("uv") or str(Path(sys.executable).parent / "uv")


def require_interpreter(version: str, cache: Path) -> str:
    """Return a Python of this version: one that is installed, uv's, or a newer Debian's.

    Without one the test is skipped; with CI=true it fails.
    """
    find = (find_uv(), "python", "find", version)
    if found := _run(*find):
        return found
    folder = cache / f"python-{version}-{DEBIAN[version]}"
    with one_at_a_time(folder.name):
        if not (folder / "complete").exists():
            _run(find_uv(), "python", "install", version)
            if found := _run(*find):
                return found
            _unpack_debian(version, folder)
    if not (folder / "complete").exists():
        do_without(f"there is no Python {version}, and neither uv nor apt-get brings one")
    return str(folder / "usr" / "bin" / "python")


def _unpack_debian(version: str, folder: Path) -> None:
    """Unpack the packages of another Debian, with its C library, beside the system's own."""
    apt = folder / "apt"
    (apt / "archives" / "partial").mkdir(parents=True, exist_ok=True)
    (apt / "lists").mkdir(exist_ok=True)
    if not (mirror := _find_mirror()):
        return
    (apt / "sources.list").write_text(
        f"deb [signed-by={KEYRING}] {mirror} {DEBIAN[version]} main\n"
    )
    options = [
        f"Dir::Etc::sourcelist={apt / 'sources.list'}",
        "Dir::Etc::sourceparts=-",
        f"Dir::State::lists={apt / 'lists'}",
        f"Dir::Cache={apt}",
        "Dir::State::status=/dev/null",  # nothing is installed there yet
        "Debug::NoLocking=true",
    ]
    if os.geteuid() == 0:
        options.append("APT::Sandbox::User=root")  # else user _apt, who may not write here
    get = ["apt-get", "-y", *(word for option in options for word in ("-o", option))]
    packages = (f"python{version}-minimal", f"libpython{version}-stdlib")
    _run(*get, "update")
    _run(*get, "install", "--download-only", "--no-install-recommends", *packages)
    for package in (apt / "archives").glob("*.deb"):
        _run("dpkg", "-x", str(package), str(folder))
    loaders = list(folder.glob("usr/lib*/ld-linux-*.so.*"))
    libraries = list(folder.glob("usr/lib/*-linux-gnu*/libc.so.6"))
    if not (loaders and libraries):
        return
    python = folder / "usr" / "bin" / "python"
    python.write_text(
        "#!/bin/sh\n"
        f'exec "{loaders[0]}" --argv0 "$0" --library-path "{libraries[0].parent}" '
        f'"{folder}/usr/bin/python{version}" "$@"\n'
    )
    python.chmod(0o755)
    if _run(str(python), "-c", "import ssl; print(ssl)"):
        shutil.rmtree(apt)
        (folder / "complete").touch()


def _find_mirror() -> str | None:
    """Return where this Debian comes from."""
    said = ("--no-release-info", "--format", "$(REPO_URI) $(CREATED_BY)")
    targets = _run("apt-get", "indextargets", *said)
    found = (line.split()[0] for line in targets.splitlines() if line.endswith(" Packages"))
    return next((uri for uri in found if uri.rstrip("/").endswith("/debian")), None)


def _run(*command: str) -> str:
    """Return what a command says; nothing if it fails."""
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, check=True, timeout=TIMEOUT_S
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.strip()
