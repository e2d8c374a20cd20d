"""A clone of the repository as whoever reads the documentation has it: to type commands in."""

import os
import shutil
import sys
from pathlib import Path

from tests.docs.blocks import ROOT

__all__ = ["environment_of", "make_clone", "make_fresh_clone"]

LEFT_OUT = shutil.ignore_patterns(".*", "__pycache__", "*.egg-info", "dist", "build")
OWN = ("edge_llm", "pip", "setuptools", "distutils")
"""What an environment has of its own."""
PACKAGES = f"lib/python{sys.version_info[0]}.{sys.version_info[1]}/site-packages"


def make_clone(directory: Path) -> Path:
    """Copy the repository, with the environment that the tests run in as its ``.venv``."""
    clone = directory / "edge-llm"
    shutil.copytree(ROOT, clone, ignore=LEFT_OUT, symlinks=True)
    (clone / ".venv").symlink_to(sys.prefix)
    return clone


def make_fresh_clone(directory: Path) -> Path:
    """Copy the repository without an environment; the one that will be made finds packages here.

    ``pip`` then takes those as installed, and installs no more than this project. That all of them
    can be had is what CI has seen when it made the environment of the tests, from the same lock.
    """
    clone = directory / "edge-llm"
    shutil.copytree(ROOT, clone, ignore=LEFT_OUT, symlinks=True)
    packages = directory / "packages"
    packages.mkdir()
    for entry in (Path(sys.prefix) / PACKAGES).iterdir():
        if not entry.name.lstrip("_").startswith(OWN):
            (packages / entry.name).symlink_to(entry)
    site = clone / ".venv" / PACKAGES
    site.mkdir(parents=True)
    (site / "packages_of_the_tests.pth").write_text(f"{packages}\n")
    return clone


def environment_of(clone: Path) -> dict[str, str]:
    """Return the variables of a shell in a clone, with ``.venv/bin`` on the path."""
    home = clone.parent / "home"
    home.mkdir(exist_ok=True)
    kept = {name: value for name, value in os.environ.items() if _is_kept(name)}
    path = f"{clone}/.venv/bin:{os.environ['PATH']}:/usr/sbin:/sbin"
    return {**kept, "PATH": path, "HOME": str(home), "PIP_CACHE_DIR": str(_pip_cache())}


def _is_kept(name: str) -> bool:
    return not name.upper().startswith(("EDGE_LLM_", "XDG_", "PYTEST_", "VIRTUAL_ENV"))


def _pip_cache() -> Path:
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return Path(os.environ.get("PIP_CACHE_DIR") or cache / "pip")
