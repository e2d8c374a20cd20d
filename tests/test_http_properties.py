"""Whatever OpenAPI says may be sent is answered as it says: thousands of requests made up by
schemathesis, right and wrong ones, and none of them is a mistake of ours."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.environments import require_python
from tests.programs import free_port, running, serves_http

REQUIREMENTS = Path(__file__).parent / "data" / "schemathesis" / "schemathesis.txt"
MOST_PER_OPERATION = 150
SEED = "20261125"
"""CI must not fail for what a change did not do; chance has its turn in the long form."""
LEAST_CASES = 2000


@pytest.mark.timeout(400)
def test_thousands_of_made_up_requests_are_answered_as_described(tmp_path: Path) -> None:
    make_up(tmp_path, MOST_PER_OPERATION, "--seed", SEED)


@pytest.mark.soak
@pytest.mark.timeout(2000)
def test_tens_of_thousands_are_too(tmp_path: Path) -> None:
    make_up(tmp_path, 10 * MOST_PER_OPERATION)


def make_up(tmp_path: Path, most_per_operation: int, *options: str) -> None:
    python = require_python(REQUIREMENTS)
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    node = [sys.executable, "-m", "edge_llm", "serve", "--no-mqtt"]
    environment = {
        **os.environ,
        "EDGE_LLM_HTTP__PORT": str(port),
        "EDGE_LLM_ENGINE__MAX_TOKENS": "16",
        "EDGE_LLM_HTTP__MODEL_ALIASES": '["a*", "gpt-*"]',
    }
    command: list[str | Path] = [
        *(python.with_name("schemathesis"), "run", f"{url}/openapi.json"),
        *("--phases", "fuzzing", "--max-examples", str(most_per_operation), *options),
        *("--workers", "2", "--no-color", "--continue-on-failure"),
        # A body may fit its schema and still be refused: a last message that is empty, say.
        *("--exclude-checks", "positive_data_acceptance"),
    ]
    with running(node, tmp_path / "log", lambda: serves_http(f"{url}/health/ready"), environment):
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, timeout=1900, cwd=tmp_path
        )
    print(done.stdout[-40_000:])  # one failure may show a body of many thousand characters
    assert done.returncode == 0, done.stderr[-2000:]
    [numbers] = re.findall(r"(\d+) generated, (\d+) passed", done.stdout)
    assert numbers[0] == numbers[1]
    assert int(numbers[0]) >= LEAST_CASES
    assert '"request.crashed"' not in (tmp_path / "log").read_text()
