"""``edge-llm demo`` as a newcomer meets it: it talks, and what it prints can be typed."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from edge_llm.demo import QUESTION
from tests.programs import HOST, free_port, require_program

BIN = Path(sys.executable).parent
START_TIMEOUT_S = 60.0


@dataclass
class Demo:
    process: subprocess.Popen[str]
    output: Path

    def text(self) -> str:
        return self.output.read_text()

    def wait_for(self, text: str) -> str:
        deadline = time.monotonic() + START_TIMEOUT_S
        while text not in self.text():
            assert self.process.poll() is None, self.text()
            assert time.monotonic() < deadline, self.text()
            time.sleep(0.05)
        return self.text()


@contextmanager
def running_demo(tmp_path: Path, **environment: str) -> Iterator[Demo]:
    output = tmp_path / "demo.txt"
    with output.open("w") as file:
        process = subprocess.Popen(
            [BIN / "edge-llm", "demo"],
            stdout=file,
            stderr=subprocess.STDOUT,
            text=True,
            env={**os.environ, **environment},
        )
    try:
        yield Demo(process, output)
    finally:
        process.kill()
        process.wait()


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Demo]:
    ports = {
        "EDGE_LLM_MQTT__PORT": str(free_port()),
        "EDGE_LLM_HTTP__PORT": str(free_port()),
    }
    with running_demo(tmp_path_factory.mktemp("demo"), **ports) as demo:
        demo.wait_for("Ctrl-C stops it.")
        yield demo


def printed_command(demo: Demo, first_words: str) -> str:
    """Return a command as the demo prints it, continuation lines included."""
    lines = [line.strip() for line in demo.text().splitlines()]
    start = next(n for n, line in enumerate(lines) if line.startswith(first_words))
    command = lines[start]
    while command.endswith("\\"):
        start += 1
        command = command[:-1] + lines[start]
    return command


def run(command: str) -> str:
    environment = {**os.environ, "PATH": f"{BIN}:{os.environ['PATH']}"}
    done = subprocess.run(
        ["bash", "-ec", command],
        capture_output=True,
        text=True,
        timeout=60,
        env=environment,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_it_asks_itself_a_question_and_shows_the_answer(demo: Demo) -> None:
    answer = demo.text().split(QUESTION)[1].split("tokens/s")[0]
    assert "coyote" in answer or "built-in" in answer or "edge-llm" in answer


def test_the_printed_mosquitto_commands_work(demo: Demo) -> None:
    require_program("mosquitto_pub", "mosquitto-clients")
    subscribe = printed_command(demo, "mosquitto_sub")
    publish = printed_command(demo, "mosquitto_pub")
    # Asked again while nothing came, as a person would: on a loaded machine the subscription may
    # be later than the question.
    ask = (
        f"for _ in 1 2 3 4 5; do sleep 1; {publish}; sleep 2; kill -0 $! 2>/dev/null || break; done"
    )
    answer = run(f"{subscribe}\n{ask}\nwait")
    assert "sea" in answer.lower()


def test_the_printed_curl_command_works(demo: Demo) -> None:
    require_program("curl", "curl")
    answer = json.loads(run(printed_command(demo, "curl")))
    assert "7" in answer["choices"][0]["message"]["content"]


def test_the_printed_openai_command_works(demo: Demo) -> None:
    assert run(printed_command(demo, "python -c")).strip()


def test_the_printed_ask_command_works(demo: Demo) -> None:
    assert run(printed_command(demo, "edge-llm ask")).strip()


def test_taken_ports_are_replaced_by_free_ones_and_named(tmp_path: Path) -> None:
    with socket.create_server((HOST, 0)) as mqtt, socket.create_server((HOST, 0)) as http:
        taken = [sock.getsockname()[1] for sock in (mqtt, http)]
        ports = {"EDGE_LLM_MQTT__PORT": str(taken[0]), "EDGE_LLM_HTTP__PORT": str(taken[1])}
        with running_demo(tmp_path, **ports) as demo:
            text = demo.wait_for("Ctrl-C stops it.")
    assert f"port {taken[0]} is taken" in text
    assert f"port {taken[1]} is taken" in text


def test_ctrl_c_ends_it_within_two_seconds_and_leaves_nothing_running(tmp_path: Path) -> None:
    ports = {
        "EDGE_LLM_MQTT__PORT": str(free_port()),
        "EDGE_LLM_HTTP__PORT": str(free_port()),
    }
    with running_demo(tmp_path, **ports) as demo:
        demo.wait_for("Ctrl-C stops it.")
        children = subprocess.run(
            ["pgrep", "-P", str(demo.process.pid)], capture_output=True, text=True, check=True
        ).stdout.split()
        begin = time.monotonic()
        demo.process.send_signal(signal.SIGINT)
        assert demo.process.wait(timeout=10) == 0, demo.text()
        assert time.monotonic() - begin < 2
        assert children
        assert not any(Path(f"/proc/{child}").exists() for child in children)
        assert "Traceback" not in demo.text()
