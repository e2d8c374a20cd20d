"""Whether a Raspberry Pi can install all that is needed: ``python -m tests.check_wheels``.

A Pi has neither the compilers nor the patience to build what has no wheel for it. So everything is
resolved as on Raspberry Pi OS, for both Pythons that it comes with, with wheels alone; and what
comes of it must be pinned in ``requirements.lock``, or it is another one next week. Nothing is
downloaded but what packages say of themselves.
"""

import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.pythons import find_uv

__all__ = [
    "LOCK",
    "NOT_PINNED",
    "PYTHONS",
    "RASPBERRY_PI",
    "RUNTIME",
    "IndexUnreachableError",
    "UnresolvableError",
    "Wanted",
    "find_unpinned",
    "resolve",
]

ROOT = Path(__file__).parent.parent
LOCK = ROOT / "requirements.lock"
PYTHONS = ("3.11", "3.13")
"""Of Raspberry Pi OS Bookworm and Trixie."""
RASPBERRY_PI = "aarch64-manylinux_2_36"
"""As uv calls it: glibc 2.36 is Bookworm's, Trixie has 2.41."""
NOT_PINNED = {"atheris"}
"""Each release has wheels for a few Pythons only, and for x86-64 alone."""
TIMEOUT_S = 90.0


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is to be installed.

    Attributes:
        requirements: beside, or in the place of, those of the project.
        extras: of the project; None if it is left out altogether.
    """

    extras: tuple[str, ...] | None = ()
    requirements: tuple[str, ...] = ()


RUNTIME = Wanted(extras=("fleet", "osc", "export"))


class IndexUnreachableError(Exception):
    """The package index does not answer."""


class UnresolvableError(Exception):
    """Something can't be installed; the message is uv's."""


def resolve(wanted: Wanted, python: str, platform: str | None = None) -> dict[str, str]:
    """Return name and version of all that would be installed.

    Args:
        wanted: what for.
        python: its version.
        platform: where, in uv's words, and then with wheels alone; this machine otherwise.

    Raises:
        UnresolvableError: a version that is pinned, or any at all, is missing; or its wheel is.
        IndexUnreachableError: nobody can tell.
    """
    command = [find_uv(), "pip", "compile", "--quiet", "--no-header", "--no-annotate"]
    command += ["--python-version", python, "--constraint", str(LOCK)]
    command += ["--python", sys.executable]  # else uv looks for one of that version for seconds
    if platform:
        command += ["--python-platform", platform, "--only-binary", ":all:"]
    if wanted.extras is not None:
        command.append(str(ROOT / "pyproject.toml"))
        command += [f"--extra={extra}" for extra in wanted.extras]
    if wanted.requirements:
        command.append("-")
    try:
        done = subprocess.run(
            command,
            input="\n".join(wanted.requirements),
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired as exc:
        raise IndexUnreachableError(f"uv did not end within {TIMEOUT_S:g} s") from exc
    if done.returncode == 1:
        raise UnresolvableError(done.stderr.strip())
    if done.returncode:
        raise IndexUnreachableError(done.stderr.strip())
    found = re.findall(r"^([A-Za-z0-9._-]+)==([^\s;]+)", done.stdout, re.MULTILINE)
    return {canonicalize_name(name): version for name, version in found}


def find_unpinned(resolved: dict[str, str], python: str, lock: str | None = None) -> list[str]:
    """Return what the lock has no version of for this Python.

    Args:
        resolved: as ``resolve`` returns it.
        python: its version.
        lock: the text of the lock file, if it is another one.
    """
    where = {"python_version": python, "python_full_version": f"{python}.0"}
    lines = (LOCK.read_text() if lock is None else lock).splitlines()
    pins = [Requirement(line) for line in lines if line and not line.startswith("#")]
    pinned = {
        canonicalize_name(pin.name)
        for pin in pins
        if pin.marker is None or pin.marker.evaluate(dict(where))
    }
    return sorted(set(resolved) - pinned - NOT_PINNED)


def main() -> int:
    """Check both Pythons, and say what came of it; 1 if something is missing."""
    is_bad = False
    for python in PYTHONS:
        try:
            resolved = resolve(RUNTIME, python, RASPBERRY_PI)
        except UnresolvableError as exc:
            print(f"Python {python}: not installable on {RASPBERRY_PI}: {exc}")
            is_bad = True
            continue
        except IndexUnreachableError as exc:
            print(f"Python {python}: not checked, as the package index can't be reached: {exc}")
            is_bad |= os.environ.get("CI") == "true"
            continue
        print(f"Python {python}: all {len(resolved)} packages have wheels for {RASPBERRY_PI}")
        if unpinned := find_unpinned(resolved, python):
            print(f"Python {python}: not pinned in {LOCK.name}: {', '.join(unpinned)}")
            is_bad = True
    return int(is_bad)


if __name__ == "__main__":
    sys.exit(main())
