"""``examples/python``: the scripts as they are shipped, at a real broker and a real node."""

import asyncio
import os
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from edge_llm.errors import EdgeLLMError
from edge_llm.protocol import Started
from tests.brokers import Mosquitto
from tests.clients import eventually
from tests.http_bridge import ENDLESS, PlayedEngine, open_bridge, talk
from tests.programs import HOST
from tests.stage import open_stage

EXAMPLES = Path(__file__).parent.parent / "examples" / "python"
STORY = "Once there was a fox in the hall. It was red, and it was tired of walking. The end came."
TIMEOUT_S = 30


@asynccontextmanager
async def running(
    script: str, *args: str, **environment: str
) -> AsyncGenerator[asyncio.subprocess.Process]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, str(EXAMPLES / script), *args),
        env=os.environ | environment,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def run(script: str, *args: str, **environment: str) -> tuple[int | None, list[str], str]:
    """Return its exit code, the lines that it printed, and what it complained of."""
    async with running(script, *args, **environment) as process:
        output, errors = await asyncio.wait_for(process.communicate(), TIMEOUT_S)
        return process.returncode, output.decode().splitlines(), errors.decode()


@pytest.mark.parametrize("script", ["ask.py", "ask_paho.py"])
async def test_asked_over_mqtt_it_answers_by_sentences_and_whole(
    mosquitto: Mosquitto, script: str
) -> None:
    where = {"MQTT_HOST": HOST, "MQTT_PORT": str(mosquitto.port)}
    async with open_stage(mosquitto.broker()) as stage:
        code, lines, errors = await run(script, f"say {STORY}", **where)
        assert (code, errors) == (0, "")
        assert STORY in lines
        assert " ".join(line[2:] for line in lines if line.startswith("> ")) == STORY
        assert len([line for line in lines if line.startswith("> ")]) >= 2
        assert set(stage.engine.asked) == {f"say {STORY}"}
        code, lines, errors = await run(script, "fail now", **where)
        assert (code, lines, errors) == (1, [], "no answer: internal: it was told to fail\n")


async def test_an_answer_is_spoken_while_it_is_generated(tmp_path: Path) -> None:
    spoken = tmp_path / "spoken"
    spoken.touch()
    speaker = tmp_path / "speaker"
    speaker.write_text(f"#!/bin/sh\ncat >> {spoken}\n")
    speaker.chmod(0o755)
    said = ("He is 3.", "5 years old. 'Really", "?' The end", " came")
    first = ["He is 3.5 years old.", "'Really?'"]
    engine = PlayedEngine([*talk(*said)[:-1], *ENDLESS])
    async with open_bridge(engine) as bridge:
        where = {"EDGE_LLM_URL": bridge.server.url, "SPEAK": str(speaker)}
        async with running("speak.py", "How old is he?", **where):
            await eventually(lambda: spoken.read_text().splitlines() == first, TIMEOUT_S)
            assert engine.num_running == 1, "it is still being generated"
        assert engine.asked[-1].conversation[-1].content == "How old is he?"

        spoken.write_text("")
        bridge.play(*talk(*said))
        assert await run("speak.py", **where) == (0, [], "")
        assert spoken.read_text().splitlines() == [*first, "The end came"]

        bridge.play(Started(), EdgeLLMError("it was told to fail"))
        code, lines, errors = await run("speak.py", **where)
        assert (code, lines) == (1, [])
        assert "it was told to fail" in errors
