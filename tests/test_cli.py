"""The command line: what it teaches, and how it fails."""

import hashlib
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from edge_llm import __version__
from edge_llm.cli import make_parser
from edge_llm.settings import load_settings
from tests.programs import HOST, free_port

EDGE_LLM = Path(sys.executable).parent / "edge-llm"


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [EDGE_LLM, *arguments],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
        env={**os.environ, **environment},
    )


def test_it_says_its_version() -> None:
    assert run("--version").stdout.strip() == f"edge-llm {__version__}"


def test_help_teaches_every_command_and_how_to_set_things(
    capsys: pytest.CaptureFixture[str],
) -> None:
    text = run("--help").stdout
    names = re.findall(r"^    ([a-z-]+)(?: {2,}|$)", text.partition("\ncommands:")[2], re.MULTILINE)
    assert len(names) == 15
    for command in names:
        assert f"edge-llm {command}" in text
        with pytest.raises(SystemExit) as ended:
            make_parser().parse_args([command, "--help"])
        assert ended.value.code == 0
        assert f"usage: edge-llm {command}" in capsys.readouterr().out
    assert "EDGE_LLM_MQTT__HOST" in text


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["serve", "--model", "/nowhere"], "there is no model directory /nowhere"),
        (["serve", "--config", "/nowhere.toml"], "there is no settings file /nowhere.toml"),
        (["serve", "--no-mqtt", "--no-http"], "nothing to serve"),
        (["export", "/nowhere", "/tmp/out"], "/nowhere"),
        (["ask", ""], "empty"),
        (["ask", "hi", "--temperature", "9"], "temperature"),
        (["ask", "hi", "--node", "a/b"], "a/b"),
        (["http", "--node", "#"], "#"),
        (["http", "--http-port", "99999"], "http.port"),
        (["watch", "--port", "0"], "mqtt.port"),
        (["http", "--http-host", "0.0.0.0"], "http.allow_anonymous_on"),
        (["api-key", "lamp", "--per-min", "0"], "requests_per_min"),
    ],
)
def test_a_mistake_is_one_line_that_names_it(arguments: list[str], words: str) -> None:
    ports = {
        "EDGE_LLM_HTTP__PORT": str(free_port()),
        "EDGE_LLM_MQTT__PORT": str(free_port()),
        "EDGE_LLM_LOG__LEVEL": "error",
    }
    done = run(*arguments, **ports)
    assert done.returncode == 1
    assert words in done.stderr
    assert done.stderr.startswith("edge-llm: ")
    assert len(done.stderr.splitlines()) == 1


def test_a_mistyped_variable_is_refused_by_name() -> None:
    assert "EDGE_LLM_MQQT__HOST" in run("serve", EDGE_LLM_MQQT__HOST="x").stderr
    assert "mqtt.hots" in run("serve", EDGE_LLM_MQTT__HOTS="x").stderr


def test_api_key_makes_a_key_and_the_lines_that_let_it_in(tmp_path: Path) -> None:
    done = run("api-key", "lämp", "--per-min", "30")
    file = tmp_path / "edge-llm.toml"
    file.write_text(done.stdout)
    [settings] = load_settings(file).http.key
    key = next(word for word in done.stderr.split() if word.startswith("sk-"))
    assert (settings.name, settings.requests_per_min) == ("lämp", 30)
    assert settings.sha256 == hashlib.sha256(key.encode()).hexdigest()
    assert key not in done.stdout


def test_ask_without_a_broker_says_so() -> None:
    done = run("ask", "hello", "--port", str(free_port()), "--timeout", "0.5")
    assert done.returncode == 1
    assert "does not answer" in done.stderr


def test_a_taken_http_port_is_named_with_the_cure() -> None:
    with socket.create_server((HOST, 0)) as taken:
        port = str(taken.getsockname()[1])
        done = run("serve", "--paced", "--no-mqtt", EDGE_LLM_HTTP__PORT=port)
        bridge = run("http", "--port", str(free_port()), "--http-port", port)
    for process in (done, bridge):
        assert process.returncode == 1
        assert f"{HOST}:{port}" in process.stderr
        assert "EDGE_LLM_HTTP__PORT" in process.stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_serve_without_a_broker_says_so_once_and_stops_cleanly(
    tmp_path: Path, number: signal.Signals
) -> None:
    log = tmp_path / "log"
    with log.open("w") as file:
        process = subprocess.Popen(
            [EDGE_LLM, "serve", "--paced"],
            stderr=file,
            env={
                **os.environ,
                "EDGE_LLM_HTTP__PORT": "0",
                "EDGE_LLM_MQTT__PORT": str(free_port()),
            },
        )
    deadline = time.monotonic() + 20
    while "mqtt.unreachable" not in log.read_text() and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(number)
    assert process.wait(timeout=10) == 0
    assert log.read_text().count("mqtt.unreachable") == 1
    assert "Traceback" not in log.read_text()


def test_a_reader_that_has_seen_enough_ends_it_without_a_word() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [EDGE_LLM, "settings"], stdout=writer, stderr=subprocess.PIPE, timeout=30, check=False
    )
    os.close(writer)
    assert done.returncode == 141
    assert done.stderr == b""
