"""The clients that people have, as they come from PyPI and npm, against a node as it runs.

What each of them does is in ``real_clients``; it runs in an environment of its own.
"""

import os
import shutil
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.environments import require_node_modules, require_python
from tests.programs import free_port, running

SCRIPTS = Path(__file__).parent / "real_clients"
MODEL = "edge-llm-tiny"
TIMEOUT_S = 60.0

pytestmark = pytest.mark.timeout(240)  # the first time, with the packages to be fetched


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Run a node with the built-in model and HTTP only; return where it is."""
    port, folder = free_port(), tmp_path_factory.mktemp("node")
    url = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", "edge_llm", "serve", "--no-mqtt"]
    environment = {**os.environ, "EDGE_LLM_HTTP__PORT": str(port)}
    with running(command, folder / "node.log", lambda: _is_ready(url), environment):
        yield url


def _is_ready(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/health/ready", timeout=1):
            return True
    except OSError:
        return False


def run(*command: str | Path) -> None:
    process = subprocess.run(
        command,
        capture_output=True,
        text=True,
        check=False,
        timeout=TIMEOUT_S,
        env={**os.environ, "NO_PROXY": "127.0.0.1"},
    )
    assert process.returncode == 0, f"{process.stdout[-2000:]}\n{process.stderr[-4000:]}"


@pytest.mark.parametrize("client", sorted(path.stem for path in SCRIPTS.glob("*.py")))
def test_python(client: str, url: str) -> None:
    python = require_python(SCRIPTS / f"{client}.txt")
    # -P: else "import openai" would find openai.py, which is the script.
    run(python, "-P", SCRIPTS / f"{client}.py", url, MODEL)


@pytest.mark.parametrize("client", sorted(path.stem for path in (SCRIPTS / "npm").glob("*.mjs")))
def test_javascript(client: str, url: str) -> None:
    modules = require_node_modules(SCRIPTS / "npm")
    node = shutil.which("node")
    assert node
    # Node looks for packages where the script is.
    script = shutil.copy(SCRIPTS / "npm" / f"{client}.mjs", modules)
    run(node, script, url, MODEL)
