"""The bridge of docs/writing-a-bridge.md, installed and asked as the page says."""

import asyncio
import os
import re
import subprocess
import sys
from pathlib import Path

from edge_llm.plugin import BridgeContext
from tests.programs import HOST, do_without, free_port, running
from tests.pythons import find_uv

PAGE = (Path(__file__).parents[1] / "docs" / "writing-a-bridge.md").read_text()
FILE = re.compile(
    r"^`([\w./-]+)` [^\n]*(?:\n[^\n`]+)*\n\n```\w+\n(.*?)```", re.MULTILINE | re.DOTALL
)


def files_of_the_page() -> dict[str, str]:
    return dict(FILE.findall(PAGE))


def install(folder: Path) -> Path:
    """Install the package as pip would, into a folder of its own."""
    site = folder / "site"
    command = [find_uv(), "pip", "install", "--quiet", "--no-deps", "--python", sys.executable]
    made = subprocess.run(
        [*command, "--target", str(site), str(folder / "line-bridge")],
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )
    return site if made.returncode == 0 else do_without(f"the bridge can't be built: {made.stderr}")


def test_it_has_forty_lines() -> None:
    code = files_of_the_page()["line-bridge/line_bridge.py"]
    assert len([line for line in code.splitlines() if line.strip()]) <= 40


def test_what_it_says_of_the_node_is_there() -> None:
    for name in re.findall(r"`node\.(\w+)", PAGE):
        assert name in BridgeContext.__dataclass_fields__


async def test_it_answers(tmp_path: Path) -> None:
    for name, text in files_of_the_page().items():
        file = tmp_path / name
        file.parent.mkdir(exist_ok=True)
        file.write_text(text)
    port = free_port()
    settings = tmp_path / "edge-llm.toml"
    settings.write_text(settings.read_text().replace("7000", str(port)))
    command = [sys.executable, "-m", "edge_llm", "serve", "--no-mqtt", "--config", str(settings)]
    env = os.environ | {
        "PYTHONPATH": os.pathsep.join([str(install(tmp_path)), str(Path(__file__).parents[1])]),
        "EDGE_LLM_HTTP__PORT": str(free_port()),
    }
    log = tmp_path / "log"
    with running(command, log, lambda: b"http.started" in log.read_bytes(), env):
        async with asyncio.timeout(20):
            reader, writer = await asyncio.open_connection(HOST, port)
            writer.write(b"What is 3 plus 4?\n")
            assert b"7" in await reader.readline()
            writer.write(b"\xff\xfe\n" + b"x " * 3000 + b"\n")
            assert await reader.readline()
            assert b"! context_overflow" in await reader.readline()
            writer.close()
