"""Python environments for other programs, made with uv where that is allowed, and kept."""

import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from tests.programs import do_without, one_at_a_time, require_program
from tests.pythons import find_uv, require_interpreter

__all__ = ["require_node_modules", "require_python"]

ROOT = Path(__file__).parent.parent
CACHE = Path(os.environ.get("TEST_ENVIRONMENTS") or ROOT / ".cache" / "real_clients")
TIMEOUT_S = 100.0


def require_python(requirements: Path, *, version: str | None = None, only: bool = False) -> Path:
    """Return an interpreter with these packages, and install them if that is allowed.

    Without them the test is skipped; with CI=true it fails.

    Args:
        requirements: the file that lists them.
        version: of Python, if it must be another one than ours.
        only: these packages and none that they ask for.
    """
    uv = find_uv()
    base = require_interpreter(version, CACHE) if version else sys.executable
    made_of = requirements.read_bytes() + (base if version else sys.version).encode()
    directory = _directory(requirements.stem, made_of)
    python = directory / "bin" / "python"
    # Nobody has ten minutes to compile what has no wheel.
    install = [uv, "pip", "install", "--quiet", "--only-binary", ":all:", "--python", str(python)]
    if only:
        install.append("--no-deps")
    _make(
        directory,
        [uv, "venv", "--quiet", "--clear", "--python", base, str(directory)],
        [*install, "--requirement", str(requirements)],
    )
    return python


def require_node_modules(folder: Path) -> Path:
    """Return a directory with the npm packages of a package-lock.json, as above."""
    files = [folder / "package.json", folder / "package-lock.json"]
    npm = require_program("npm", "npm")
    directory = _directory(folder.name, b"".join(file.read_bytes() for file in files))
    directory.mkdir(parents=True, exist_ok=True)
    for file in files:
        shutil.copy(file, directory)
    _make(directory, [npm, "ci", "--no-audit", "--no-fund", "--prefix", str(directory)])
    return directory


def _directory(name: str, content: bytes) -> Path:
    return CACHE / f"{name}-{hashlib.sha256(content).hexdigest()[:12]}"


def _make(directory: Path, *commands: Sequence[str]) -> None:
    complete = directory / "complete"
    with one_at_a_time(directory.name):
        if complete.exists():
            return
        for command in commands:
            try:
                subprocess.run(command, capture_output=True, check=True, timeout=TIMEOUT_S)
            except (OSError, subprocess.SubprocessError) as exc:
                said = getattr(exc, "stderr", None) or str(exc).encode()
                do_without(f"{directory.name} can't be made: {said.decode()[-800:]}")
        complete.touch()
