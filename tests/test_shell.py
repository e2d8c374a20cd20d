"""What docs/shell.md shows that is no command: lines for cron, and the clients' options."""

import asyncio
import re
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from tests.accounts import open_lan
from tests.brokers import Mosquitto
from tests.programs import HOST, require_program
from tests.stage import open_stage
from tests.test_mqtt_tls import make_authority

TEXT = (Path(__file__).parents[1] / "docs" / "shell.md").read_text()
BLOCKS = re.findall(r"```text\n(.*?)```", TEXT, re.DOTALL)
CLIENTS = ("mosquitto_pub", "mosquitto_sub", "mosquitto_rr")
TIMEOUT_S = 20.0


@pytest.fixture(autouse=True)
def _clients() -> None:
    require_program("mosquitto_rr", "mosquitto-clients")


@pytest.fixture
def mosquitto(tmp_path: Path) -> Iterator[Mosquitto]:
    with Mosquitto(tmp_path) as mosquitto:
        yield mosquitto


def at_home(home: Path, options: str) -> dict[str, str]:
    """Have the clients take options from files, as the page says; the rest is as in cron."""
    (home / ".config").mkdir(parents=True)
    for client in CLIENTS:
        (home / ".config" / client).write_text(options)
    return {"HOME": str(home), "PATH": "/usr/bin:/bin"}


async def sh(command: str, env: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    return await asyncio.to_thread(
        subprocess.run,
        ["/bin/sh", "-c", command],
        env=env,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
    )


async def test_the_lines_for_cron_bring_a_fortune(tmp_path: Path, mosquitto: Mosquitto) -> None:
    publish, write = (
        block.removeprefix("* * * * * ").strip() for block in BLOCKS if block.startswith("* * ")
    )
    assert "%" not in publish + write  # which cron takes for the end of the line
    cron = at_home(tmp_path / "pi", f"-h {HOST}\n-p {mosquitto.port}\n")
    fortune = tmp_path / "pi" / "fortune.txt"
    async with open_stage(mosquitto.broker()) as stage:
        assert (await sh(publish, cron)).returncode == 0
        assert await stage.text("fortune") == "Tell me my fortune."  # which the engine repeats
        done = await sh(write, cron)
        assert done.returncode == 0, done.stderr
        assert await asyncio.to_thread(fortune.read_text) == "Tell me my fortune.\n"
    failed = await sh(write.replace("-W 50", "-W 1"), cron)  # nobody is there
    assert failed.returncode == 27  # as the page says
    assert await asyncio.to_thread(fortune.read_text) == "Tell me my fortune.\n"


async def test_from_another_machine_with_an_account(tmp_path: Path) -> None:
    [options] = (block for block in BLOCKS if block.startswith("-h "))
    authority = make_authority(tmp_path)
    with open_lan(tmp_path, authority) as lan:
        options = (
            options.replace("broker.local", HOST)
            .replace("8883", str(lan.devices))
            .replace("/home/pi/edge-llm-ca.pem", str(lan.authority.ca_file))
        )
        right = at_home(tmp_path / "a", options.replace("PASSWORD", "password of esp1"))
        async with open_stage(lan.node_at_home()):
            ask = "mosquitto_rr -W 5 -q 1 -t llm/request/esp1/7 -e llm/response/esp1/7 -m Hello"
            done = await sh(ask, right)
            assert done.stdout == "Hello\n", done.stderr
            wrong = await sh(ask, at_home(tmp_path / "b", options))
            assert "Not authorized" in wrong.stderr
