"""Python, and the packages that edge-llm needs."""

import json
import platform
import signal
import struct
import subprocess
import sys
from collections.abc import Iterable, Iterator
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement

from edge_llm import __version__
from edge_llm.doctor.case import Case
from edge_llm.doctor.finding import Finding, fail, ok, skip, warn

__all__ = ["examine_imports", "examine_packages", "examine_version"]

OLDEST = (3, 11)
MODULES = (
    "numpy",
    "onnxruntime",
    "tokenizers",
    "llguidance",
    "_cffi_backend",
    "psutil",
    "pydantic_core",
    "aiohttp",
    "paho.mqtt.client",
)
"""Those with machine code, which a wheel may have for another machine, and those of each start.
transformers is left to its version: to import it takes seconds on a Pi."""

IMPORT = """
import importlib, json, sys
for name in sys.argv[1:]:
    print("begin", name, flush=True)
    try:
        importlib.import_module(name)
    except Exception as exc:
        print("error", json.dumps([name, f"{type(exc).__name__}: {exc}"]), flush=True)
print("end", flush=True)
"""
IMPORT_TIMEOUT_S = 12.0


def examine_version(case: Case) -> Iterable[Finding]:
    """What runs, on what machine."""
    machine = case.machine
    bits = 8 * struct.calcsize("P")
    python = f"Python {platform.python_version()}, {bits} bit, {platform.machine()}"
    text = f"edge-llm {__version__}, {python}"
    if bits != 64:
        cure = "install the 64-bit edition of Raspberry Pi OS: there are no packages for 32 bit"
        yield fail("python.version", text, cure)
    elif sys.version_info < OLDEST:
        cure = "sudo apt install python3.11, and make the virtual environment with it"
        yield fail("python.version", text, cure)
    else:
        yield ok("python.version", text)
    if sys.prefix == sys.base_prefix:
        yield warn(
            "python.environment",
            f"installed into the system's own Python ({sys.prefix}), whose packages apt changes",
            "python3 -m venv /opt/edge-llm && /opt/edge-llm/bin/pip install edge-llm",
        )
    else:
        yield ok("python.environment", f"a virtual environment, {sys.prefix}")
    names = (
        _quoted(machine.read("etc/os-release") or "", "PRETTY_NAME"),
        f"Linux {machine.kernel}",
    )
    model = machine.line("proc/device-tree/model")
    yield ok("python.system", ", ".join(name for name in (model, *names) if name))


def _quoted(text: str, key: str) -> str | None:
    for line in text.splitlines():
        name, _, value = line.partition("=")
        if name == key:
            return value.strip('"')
    return None


def examine_packages(case: Case) -> Iterable[Finding]:
    """Whether the packages are there, in versions that will do."""
    name = "python.packages"
    try:
        required = metadata.requires("edge-llm") or []
    except metadata.PackageNotFoundError:
        what = "edge-llm is not installed, only its files are there"
        yield warn(name, what, f"{_pip()} install edge-llm, or, in a clone: {_pip()} install -e .")
        return
    wrong = [*_wrong_packages(required)]
    for what, requirement in wrong:
        yield fail(name, what, f"{_pip()} install -U '{requirement}'")
    if not wrong:
        yield ok(name, f"the {len([*_needed(required)])} that it needs are there")


def _needed(required: Iterable[str]) -> Iterator[Requirement]:
    for text in required:
        requirement = Requirement(text)
        if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
            yield requirement


def _wrong_packages(required: Iterable[str]) -> Iterator[tuple[str, str]]:
    for requirement in _needed(required):
        plain = f"{requirement.name}{requirement.specifier}"
        try:
            version = metadata.version(requirement.name)
        except metadata.PackageNotFoundError:
            yield f"{requirement.name} is missing", plain
            continue
        if not requirement.specifier.contains(version, prereleases=True):
            yield f"{requirement.name} {version} is installed, {plain} is needed", plain


def examine_imports(case: Case) -> Iterable[Finding]:
    """Whether packages with machine code can be loaded; in a process that may crash."""
    name = "python.imports"
    try:
        done = subprocess.run(
            [sys.executable, "-c", IMPORT, *MODULES],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=IMPORT_TIMEOUT_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as exc:
        yield skip(name, f"they could not be tried: {exc}")
        return
    wrong = [*_read_imports(done.stdout, done.returncode)]
    for module, what in wrong:
        package = module.partition(".")[0].replace("_cffi_backend", "cffi")
        cure = f"{_pip()} install --force-reinstall --no-cache-dir {package}"
        yield fail(name, f"{package} can't be loaded: {what}", cure)
    if not wrong:
        yield ok(name, f"{len(MODULES)} packages can be loaded")


def _read_imports(output: str, code: int) -> Iterator[tuple[str, str]]:
    begun = ""
    for line in output.splitlines():
        word, _, rest = line.partition(" ")
        if word == "begin":
            begun = rest
        elif word == "error":
            module, what = json.loads(rest)
            yield module, what.splitlines()[0][:200]
        elif word == "end":
            return
    what = f"exit code {code}"
    if code < 0:
        what = f"it ends the process by {signal.Signals(-code).name}: made for another processor"
    yield begun, what


def _pip() -> str:
    return f"{Path(sys.executable).parent / 'python'} -m pip"
