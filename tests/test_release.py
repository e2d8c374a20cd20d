"""What is published: one version everywhere, packages with all in them, and that they install."""

import hashlib
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import tarfile
import tempfile
import tomllib
import urllib.request
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from email.parser import Parser
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from edge_llm import __version__
from tests.check_wheels import (
    LOCK,
    NOT_PINNED,
    PYTHONS,
    RASPBERRY_PI,
    ROOT,
    RUNTIME,
    IndexUnreachableError,
    UnresolvableError,
    Wanted,
    find_unpinned,
    resolve,
)
from tests.clients import RawClient
from tests.docs.blocks import read_blocks
from tests.once import made_once
from tests.programs import HOST, do_without, free_port
from tests.pythons import find_uv
from tests.test_demo import Demo

pytestmark = pytest.mark.timeout(240)

BUILD_TIMEOUT_S, INSTALL_TIMEOUT_S = 60.0, 120.0
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
ROOT_S_POWERS = "-dac_override,-dac_read_search,-fowner"
HELD_TO_PERMISSIONS = (
    ["setpriv", f"--bounding-set={ROOT_S_POWERS}", "--inh-caps=-all"] if os.geteuid() == 0 else []
)
"""Root can write everywhere else."""
MADE = {"__pycache__", ".mypy_cache", ".ruff_cache"}
"""What running and checking leave behind in a source tree."""


@dataclass(frozen=True)
class Dist:
    """A source distribution, the wheel that is made of it, and one that is made of the tree."""

    sdist: Path
    wheel: Path
    wheel_of_tree: Path


@pytest.fixture(scope="module")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Dist:
    """What ``uv build`` makes, as in docs/development.md; once for all processes of a run."""

    def build(folder: Path) -> None:
        uv_build("--out-dir", str(folder))
        uv_build("--wheel", "--out-dir", str(folder / "tree"))

    folder = made_once(tmp_path_factory, "dist", build)
    stem = f"edge_llm-{__version__}"
    wheel = folder / f"{stem}-py3-none-any.whl"
    return Dist(folder / f"{stem}.tar.gz", wheel, folder / "tree" / wheel.name)


def uv_build(*arguments: str) -> None:
    uv_or_do_without("build", "--quiet", *arguments, str(ROOT), timeout_s=BUILD_TIMEOUT_S)


def uv_or_do_without(*arguments: str, timeout_s: float) -> str:
    """Return what uv says; without a package index the test is skipped, and fails in CI."""
    command = [find_uv(), *arguments]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=timeout_s, check=False, cwd=ROOT
    )
    if done.returncode:
        said = done.stderr[-1500:]
        if "client error" in said or "error sending request" in said or "timed out" in said:
            do_without(f"the package index can't be reached: {said}")
        pytest.fail(f"{' '.join(command)}: {said}")
    return done.stdout


@contextmanager
def installed(wheel: Path) -> Iterator[Path]:
    """Give the programs of an environment that has the wheel and what it asks for."""
    with tempfile.TemporaryDirectory(prefix="edge-llm-installed-") as name:
        venv = Path(name) / "venv"
        uv_or_do_without(
            "venv", "--quiet", "--python", sys.executable, str(venv), timeout_s=INSTALL_TIMEOUT_S
        )
        uv_or_do_without(
            *("pip", "install", "--quiet", "--python", str(venv / "bin" / "python")),
            *("--constraint", str(ROOT / "requirements.lock"), str(wheel)),
            timeout_s=INSTALL_TIMEOUT_S,
        )
        yield venv / "bin"


@contextmanager
def running_demo(programs: Path, folder: Path, mqtt_port: int, http_port: int) -> Iterator[Demo]:
    """Run the demo where neither the current directory nor the home can be written to."""
    home = folder / "home"
    home.mkdir(mode=0o555)
    environment = {
        "PATH": "/usr/bin:/bin",
        "HOME": str(home),
        "EDGE_LLM_NODE": "stage",
        "EDGE_LLM_MQTT__PORT": str(mqtt_port),
        "EDGE_LLM_HTTP__PORT": str(http_port),
    }
    output = folder / "demo.txt"
    with output.open("w") as file:
        process = subprocess.Popen(
            [*HELD_TO_PERMISSIONS, programs / "edge-llm", "demo"],
            stdout=file,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=home,
            env=environment,
        )
    try:
        yield Demo(process, output)
    finally:
        process.kill()
        process.wait()
    assert list(home.iterdir()) == []


def files_of(wheel: Path) -> dict[str, str]:
    """Return all files of a wheel, each with the digest of its content."""
    with zipfile.ZipFile(wheel) as archive:
        names = [name for name in archive.namelist() if not name.endswith("/")]
        return {name: hashlib.sha256(archive.read(name)).hexdigest() for name in names}


def files_of_tree() -> set[str]:
    """Return all files that belong into the wheel, by their names there."""
    wheel = PYPROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]
    folders = {package: package for package in wheel["packages"]} | wheel.get("force-include", {})
    return {
        f"{folder}/{file.relative_to(ROOT / source)}"
        for source, folder in folders.items()
        for file in (ROOT / source).rglob("*")
        if file.is_file() and not MADE.intersection(file.parts)
    }


def test_the_wheel_has_all_files_of_the_packages(dist: Dist) -> None:
    files = files_of(dist.wheel)
    info = f"edge_llm-{__version__}.dist-info/"
    packaged = {name for name in files if not name.startswith(info)}
    assert packaged == files_of_tree()
    model = {name for name in packaged if name.startswith("edge_llm/tiny/model/")}
    assert "edge_llm/tiny/model/qwen3_post.onnx" in model
    assert "edge_llm/tiny/model/tokenizer/tokenizer.json" in model
    assert "edge_llm/py.typed" in packaged
    assert f"{info}licenses/LICENSE" in files


def test_the_wheel_of_the_source_distribution_is_that_of_the_tree(dist: Dist) -> None:
    assert files_of(dist.wheel) == files_of(dist.wheel_of_tree)


def test_the_source_distribution_has_what_is_needed_to_test_it_and_no_leavings(dist: Dist) -> None:
    with tarfile.open(dist.sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    wanted = {"README.md", "CHANGELOG.md", "LICENSE", "requirements.lock", "tests/test_release.py"}
    assert wanted <= names
    assert "docs/development.md" in names
    hidden = {name.split("/")[0] for name in names if name.startswith(".")}
    assert hidden <= {".gitignore"}
    assert not [name for name in names if MADE.intersection(name.split("/"))]


def test_the_metadata_are_those_of_the_project(dist: Dist) -> None:
    with zipfile.ZipFile(dist.wheel) as archive:
        info = f"edge_llm-{__version__}.dist-info/"
        metadata = Parser().parsestr(archive.read(f"{info}METADATA").decode())
        entry_points = archive.read(f"{info}entry_points.txt").decode()
    assert metadata["Version"] == __version__
    assert metadata["Requires-Python"] == ">=3.11"
    assert metadata["License-Expression"] == "Apache-2.0"
    assert "edge-llm = edge_llm.__main__:main" in entry_points
    for bridge in ("http", "home_assistant", "osc"):
        assert f"{bridge} = bridges.{bridge}:PLUGIN" in entry_points


def test_the_changelog_begins_with_this_version() -> None:
    headings = re.findall(r"^## \[(\S+)\] - (.+)$", (ROOT / "CHANGELOG.md").read_text(), re.M)
    version, when = headings[0]
    assert version == __version__ == str(Version(__version__))
    assert when == "unreleased" or re.fullmatch(r"\d{4}-\d\d-\d\d", when)
    assert all(re.fullmatch(r"\d{4}-\d\d-\d\d", when) for _, when in headings[1:])


def test_the_version_stands_in_one_place_of_the_sources() -> None:
    project = PYPROJECT["project"]
    assert project["dynamic"] == ["version"]
    assert "version" not in project
    places = ("edge_llm", "bridges", "systemd", "pyproject.toml")
    files = [file for place in places for file in (ROOT / place, *(ROOT / place).rglob("*"))]
    sources = [
        file for file in files if file.suffix in {".py", ".sh", ".toml", ".service", ".html"}
    ]
    assert len(sources) > 200
    version = re.compile(rf"(?<![\d.]){re.escape(__version__)}(?![\d.])")
    found = [file for file in sources if version.search(file.read_text())]
    assert [str(file.relative_to(ROOT)) for file in found] == ["edge_llm/__init__.py"]


def test_installer_and_debian_package_find_the_version_there() -> None:
    scripts = [ROOT / "systemd" / "build-deb.sh", ROOT / "systemd" / "install" / "programs.sh"]
    for script in scripts:
        [pattern] = re.findall(r"sed -n '(s/\^__version__[^']*)'", script.read_text())
        said = run("sed", "-n", pattern, ROOT / "edge_llm" / "__init__.py")
        assert said == __version__


async def test_the_installed_wheel_runs_its_demo_from_anywhere_and_tells_one_version(
    dist: Dist, tmp_path: Path
) -> None:
    mqtt_port, http_port = free_port(), free_port()
    with (
        installed(dist.wheel) as programs,
        running_demo(programs, tmp_path, mqtt_port, http_port) as demo,
    ):
        text = demo.wait_for("Ctrl-C stops it.")
        assert text.startswith(f"edge-llm {__version__}: broker on {HOST}:{mqtt_port}")
        assert "tokens/s; " in text  # it has answered
        where = "import edge_llm, bridges; print(edge_llm.__file__)"
        assert run(programs / "python", "-c", where).startswith(str(programs.parent))
        assert run(programs / "edge-llm", "--version") == f"edge-llm {__version__}"
        url = f"http://{HOST}:{http_port}"
        assert get(f"{url}/health")["version"] == __version__
        assert get(f"{url}/openapi.json")["info"]["version"] == __version__
        assert get(f"{url}/api/version")["edge_llm"] == __version__
        async with RawClient(mqtt_port) as client:
            await client.subscribe("llm/node/stage/info")
            [info, *_] = await client.wait_for("llm/node/stage/info")
            assert json.loads(info)["version"] == __version__
        demo.process.send_signal(signal.SIGINT)
        assert demo.process.wait(timeout=20) == 0, demo.text()
        assert "Traceback" not in demo.text()


def run(*command: str | Path) -> str:
    """Return what a program says, run elsewhere than here."""
    environment = {"PATH": "/usr/bin:/bin"}
    done = subprocess.run(
        command, capture_output=True, text=True, check=True, cwd="/", env=environment
    )
    return done.stdout.strip()


def get(url: str) -> Any:
    with urllib.request.urlopen(url, timeout=10) as response:
        return json.load(response)


@pytest.mark.parametrize("python", PYTHONS)
def test_all_that_is_needed_has_a_wheel_for_a_raspberry_pi_and_is_pinned(python: str) -> None:
    resolved = resolved_or_do_without(RUNTIME, python, RASPBERRY_PI)
    assert {"numpy", "onnxruntime", "transformers", "cffi", "python-osc", "onnx"} <= set(resolved)
    assert find_unpinned(resolved, python) == []


def test_the_lock_has_what_the_command_of_the_documentation_finds_and_no_more() -> None:
    """With the versions of the lock, as the newest ones are others every day."""
    page = "docs/development.md"
    shown = [block.code for block in read_blocks(page, (ROOT / page).read_text())]
    [command] = [code for code in shown if code.startswith("uv pip compile")]
    _, *arguments = shlex.split(command)
    arguments += ["--constraint", str(LOCK), "--python", sys.executable]
    found = pins_of(uv_or_do_without(*arguments, timeout_s=BUILD_TIMEOUT_S))
    locked = pins_of(LOCK.read_text())
    assert {pin for pin in found if pin[0] not in NOT_PINNED} == locked


def pins_of(text: str) -> set[tuple[str, str]]:
    pins = [Requirement(line) for line in text.splitlines() if line]
    return {(canonicalize_name(pin.name), str(pin.specifier)) for pin in pins}


def test_what_has_no_wheel_or_no_pin_is_found() -> None:
    source_only = Wanted(extras=None, requirements=("micropython-umqtt.simple==1.1",))
    with pytest.raises(UnresolvableError, match="micropython-umqtt-simple"):
        resolved_or_do_without(source_only, "3.11", RASPBERRY_PI)
    lock = "numpy==2.5.5 ; python_full_version >= '3.12'\n"
    assert find_unpinned({"numpy": "2.4.6"}, "3.11", lock) == ["numpy"]
    assert find_unpinned({"numpy": "2.5.5"}, "3.13", lock) == []


def resolved_or_do_without(
    wanted: Wanted, python: str, platform: str | None = None
) -> dict[str, str]:
    try:
        return resolve(wanted, python, platform)
    except IndexUnreachableError as exc:
        do_without(f"the package index can't be reached: {exc}")
