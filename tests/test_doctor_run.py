"""The command: what it prints, how it ends, and that nothing keeps it from ending."""

import contextlib
import io
import json
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from edge_llm.doctor import Case, Machine, Report, configuration, diagnose, open_case
from edge_llm.doctor.finding import fail, ok
from edge_llm.settings import Settings
from tests.ailing import Pi, open_dead_share
from tests.brokers import Mosquitto
from tests.clients import RawClient
from tests.hardware import MIB, allocate, card, shared, smi
from tests.programs import HOST, accepts, do_without, free_port, running
from tests.virtual_ax650.card import Card
from tests.virtual_ax650.schemes import start_runtime
from tests.virtual_ax650.shared import Shared

__all__ = ["card", "shared", "smi"]

EDGE_LLM = Path(sys.executable).parent / "edge-llm"
SLEEPS = "exec sleep 60"


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the doctor to its end."""
    return subprocess.run(
        [EDGE_LLM, "doctor", *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={**os.environ, **environment},
    )


def by_check(output: str) -> dict[str, dict[str, Any]]:
    """Read what it prints with ``--json``; of a check that says several things the worst."""
    order = ("skip", "ok", "warn", "fail")
    listed = json.loads(output)
    return {f["check"]: f for f in sorted(listed, key=lambda f: order.index(f["status"]))}


@pytest.fixture
def pi(tmp_path: Path) -> Pi:
    return Pi(tmp_path / "pi")


@contextlib.contextmanager
def black_hole() -> Iterator[int]:
    """Give a port where nobody takes what knocks: as behind a firewall that says nothing."""
    with socket.socket() as sock, contextlib.ExitStack() as knocking:
        sock.bind((HOST, 0))
        sock.listen(0)
        port = int(sock.getsockname()[1])
        for _ in range(4):  # fill the queue; further ones are dropped
            client = knocking.enter_context(socket.socket())
            client.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                client.connect((HOST, port))
        yield port


def test_when_everything_hangs_it_says_so_in_20_s(
    pi: Pi, smi: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    smi.with_suffix(".control").write_text("hang")
    for program in ("timedatectl", "vcgencmd", "journalctl", "dmesg", "systemctl"):
        pi.program(f"usr/bin/{program}", SLEEPS)
    for path in ("proc/meminfo", "proc/modules", "sys/class/thermal/thermal_zone0/temp"):
        pi.path(path).unlink()
        os.mkfifo(pi.path(path))  # a file that nobody writes to: reading it hangs
    pi.path("sys/devices/platform/soc@107c000000/soc@107c000000:firmware/get_throttled").unlink()
    with (
        black_hole() as broker,
        socket.create_server((HOST, 0)) as silent,
        open_dead_share(tmp_path / "share") as is_dead,
    ):
        config = tmp_path / "edge-llm.toml"
        config.write_text(
            f'[mqtt]\nhost = "{HOST}"\nport = {broker}\n'
            f"[http]\nport = {silent.getsockname()[1]}\n"
            f'[device]\naxcl_smi = "{smi}"\n'
            f'[engine.worker]\nmodel = "{tmp_path}/share/model"\n'
            f'models_dir = "{tmp_path}/share"\n'
            f'[store]\ndirectory = "{tmp_path}/share/store"\n'
        )
        began = time.monotonic()
        done = run("--json", "--root", str(pi.root), "--config", str(config))
        duration_s = time.monotonic() - began
    with capsys.disabled():
        print(f"\n  the doctor took {duration_s:.1f} s of 20, when everything hangs")
    assert done.returncode == 1, done.stderr
    found = by_check(done.stdout)
    hangs = {check for check, f in found.items() if "hangs: no answer within" in f["found"]}
    assert {"card.driver", "machine.memory", "machine.temperature"} <= hangs
    if is_dead:
        assert {"model.directory", "disk.models", "disk.store"} <= hangs
        assert "network share" in found["model.directory"]["cure"]
    assert "timed out" in found["broker.reachable"]["found"]
    assert "firewall" in found["broker.reachable"]["cure"]
    assert found["card.answers"]["found"] == "axcl-smi did not end within 8 s"
    assert "power off, wait 10 s" in found["card.answers"]["cure"]
    assert "did not end within 2.5 s" in found["machine.log"]["found"]
    assert "did not end within 2.5 s" in found["services.edge-llm"]["found"]
    assert "is taken by" in found["ports.http"]["found"]
    assert all(f["cure"] for f in found.values() if f["status"] in ("warn", "fail"))
    assert duration_s < 30


async def test_settings_on_a_dead_share_are_a_finding(
    pi: Pi, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(configuration, "READ_TIMEOUT_S", 0.2)
    with open_dead_share(tmp_path / "share") as is_dead:
        if not is_dead:
            do_without("no file system may be mounted here")
        case = await open_case(tmp_path / "share" / "edge-llm.toml", Machine(pi.root))
        found = [f async for f in diagnose(case, ("settings.", "broker.", "model."))]
    assert [f.check for f in found if f.status == "fail"] == ["settings.file"]
    assert "its disk or share does not answer" in found[0].found
    assert {f.status for f in found[1:]} == {"skip"}


async def test_the_virtual_card_is_told_as_it_is(
    pi: Pi, card: Card, shared: Shared, smi: Path, card_model_dir: Path
) -> None:
    values = {
        "device": {"axcl_smi": smi},
        "engine": {"worker": {"model": card_model_dir, "axcl_library": card.path}},
    }
    case = Case(Settings.model_validate(values), machine=Machine(pi.root))

    async def told(check: str) -> str:
        case._found.clear()
        found = [f async for f in diagnose(case, ("card.answers", "model.memory"))]
        return next(f"{f.status}: {f.found}" for f in found if f.check == check)

    assert (await told("card.memory")).startswith("ok: 7022 of 7040 MiB (CMM) are free")
    start_runtime(card.axcl)
    memory = allocate(card, 6900 * MIB)
    assert "used by" in await told("card.memory")
    assert (await told("model.memory")).startswith("fail: it takes some")
    card.axcl("axclrtFree", memory)
    shared.celsius = 83.0
    assert (await told("card.temperature")).startswith("fail: 83 °C")
    smi.with_name("state").touch()
    assert await told("card.answers") == "fail: card 0 is there and does not answer"
    smi.with_suffix(".control").write_text("no_rows")
    assert await told("card.answers") == "fail: the driver knows no card"


def test_json_names_broken_packages_and_has_a_schema_and_no_secrets(pi: Pi, tmp_path: Path) -> None:
    for name, version in (("structlog", "20.1.0"), ("psutil", "5.0.0")):
        metadata = tmp_path / f"{name}-{version}.dist-info" / "METADATA"
        metadata.parent.mkdir()
        metadata.write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    (tmp_path / "onnxruntime.py").write_text("raise ImportError('wrong ELF class: ELFCLASS32')\n")
    (tmp_path / "tokenizers.py").write_text("import os; os.kill(os.getpid(), 4)\n")
    pi.write(
        "etc/edge-llm/edge-llm.toml",  # which nobody names: it is the installed one
        f'node = "stage"\n[mqtt]\nport = {free_port()}\nusername = "u"\npassword = "hush"\n'
        '[engine]\nkind = "openai"\n'
        f'[engine.openai]\nbase_url = "http://{HOST}:{free_port()}/v1"\napi_key = "hush"\n',
    )
    environment = {"PYTHONPATH": str(tmp_path), "EDGE_LLM_HTTP__PORT": "0"}
    done = run("--json", "--root", str(pi.root), **environment)
    assert done.returncode == 1, done.stderr
    assert "hush" not in done.stdout + done.stderr
    listed = json.loads(done.stdout)
    for finding in listed:
        assert list(finding) == ["check", "status", "found", "cure"]
        assert re.fullmatch(r"[a-z]+\.[a-z-]+", finding["check"])
        assert finding["status"] in ("ok", "warn", "fail", "skip")
        assert finding["cure"] or finding["status"] in ("ok", "skip")

    found = by_check(done.stdout)
    assert f"{pi.root}/etc/edge-llm/edge-llm.toml" in found["settings.file"]["found"]
    assert "EDGE_LLM_HTTP__PORT" in found["settings.file"]["found"]
    assert found["broker.reachable"]["status"] == found["model.server"]["status"] == "fail"

    python = [f for f in listed if f["check"].startswith("python.")]
    wrong = {f["found"]: f["cure"] for f in python if f["status"] == "fail"}
    old = "structlog 20.1.0 is installed, structlog>=24.4 is needed"
    assert wrong.pop(old) == f"{EDGE_LLM.parent}/python -m pip install -U 'structlog>=24.4'"
    assert wrong.pop("psutil 5.0.0 is installed, psutil>=5.9 is needed")
    [(elf, _), (crash, cure)] = sorted(wrong.items())
    assert elf == "onnxruntime can't be loaded: ImportError: wrong ELF class: ELFCLASS32"
    assert crash.startswith("tokenizers can't be loaded: it ends the process by SIGILL")
    assert "--force-reinstall" in cure


def test_it_is_for_reading(pi: Pi, tmp_path: Path) -> None:
    pi.program("usr/bin/timedatectl", "echo NTPSynchronized=no")
    environment = {"EDGE_LLM_MQTT__ENABLED": "false", "EDGE_LLM_HTTP__PORT": "0"}
    done = run("--root", str(pi.root), **environment)
    assert done.returncode == 0, done.stdout + done.stderr  # a warning is no failure
    assert not done.stderr
    lines = done.stdout.splitlines()
    assert [line for line in lines if line[:1].isalpha()] == [
        "Python", "Settings", "Broker", "Card", "Model", "Machine", "Disk", "Ports", "Services",
    ]  # fmt: skip
    assert "  warn  clock         not synchronised (timedatectl)" in lines
    assert " -> sudo timedatectl set-ntp true" in done.stdout
    assert re.fullmatch(r"\d+ ok, 1 warn, 0 fail, \d+ skipped, in \d+\.\d s", lines[-1])
    assert "\x1b" not in done.stdout
    assert not any(line != line.rstrip() for line in lines)


def test_a_terminal_has_colours_and_short_lines() -> None:
    output = io.StringIO()
    report = Report(Console(file=output, force_terminal=True, width=70, highlight=False))
    words = "the card \x1b]0;is\x07 dead: " + "device 1: dead! " * 8
    for finding in (ok("card.link", "x1"), fail("card.log", words, "power off " * 9)):
        report.add(finding)
    report.flush()
    text = output.getvalue()
    assert "\x1b[32mok" in text
    assert "\x1b]" not in text
    lines = re.sub(r"\x1b\[[0-9;]*m", "", text).splitlines()
    assert len(lines) > 6
    assert all(len(line) <= 70 for line in lines)
    assert all(line.startswith(" " * 22) for line in lines[3:])


async def test_a_node_is_not_disturbed(tmp_path: Path) -> None:
    with Mosquitto(tmp_path) as broker:
        http = free_port()
        environment = {
            **os.environ,
            "EDGE_LLM_NODE": "stage",
            "EDGE_LLM_MQTT__PORT": str(broker.port),
            "EDGE_LLM_HTTP__PORT": str(http),
            "EDGE_LLM_STORE__DIRECTORY": str(tmp_path / "store"),
        }
        log = tmp_path / "node.log"
        command = [str(EDGE_LLM), "serve", "--paced"]
        with running(command, log, lambda: accepts(http), environment):
            async with RawClient(broker.port, protocol="5") as client:
                await client.subscribe("llm/#")
                await client.wait_for("llm/node/stage/health")
                for protocol in ("5", "3.1.1"):
                    mqtt = {"host": HOST, "port": broker.port, "protocol": protocol}
                    values = {"node": "stage", "mqtt": mqtt, "http": {"port": http}}
                    case = Case(Settings.model_validate(values))
                    found = [f async for f in diagnose(case, ("broker.", "ports."))]
                    said = {f.check: (f.status, f.found) for f in found}
                    assert not [f for f in found if f.status in ("warn", "fail")]
                    assert said["broker.name"] == ("ok", "'stage' is online, and runs here")
                    assert said["ports.http"] == ("ok", f"this node serves on {HOST}:{http}")
        assert client.payloads("llm/node/stage/status") == [b"online"]
        assert not client.payloads("llm/node/stage/error")
        assert "warning" not in log.read_text()
        assert "error" not in log.read_text()
