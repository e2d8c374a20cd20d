"""``examples/arduino``: the sketch runs on Linux, at a real broker and a node.

There is no board here, and neither Arduino's core nor PubSubClient can be had from where our other
packages come: ``tests/real_clients/arduino`` stands in for both. What the sketch says of sizes is
checked by a client that counts every byte.
"""

import ast
import asyncio
import os
import subprocess
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, fields
from pathlib import Path

import pytest

from edge_llm.errors import EdgeLLMError
from edge_llm.preset import Preset, Presets
from edge_llm.service import Rules
from tests.boards import Board
from tests.brokers import Mosquitto
from tests.clients import eventually
from tests.programs import require_program, running
from tests.small_client import BUFFER_BYTES, SmallClient
from tests.stage import open_stage

SKETCH = Path(__file__).parent.parent / "examples" / "arduino" / "button" / "button.ino"
STAND_INS = Path(__file__).parent / "real_clients" / "arduino"
SENTENCE = "Die alte Fähre grüßt den müden Mond über der Brücke, und niemand sieht ihr dabei zu. "
LONG = ", und noch einmal über die weite, müde Brücke" * 12
STORY = f"{SENTENCE * 4}Es ist nicht zu Ende{LONG}."
PRESET = Preset(prompt=f"say {STORY}", fallback="The oracle sleeps.")


def compile_sketch(source: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Compile a sketch as Arduino does, with the core's header first; every warning counts."""
    compiler = require_program("g++", "build-essential")
    (folder / "sketch.cpp").write_text(source)
    command = [compiler, "-std=gnu++11", "-Wall", "-Wextra", "-Werror", f"-I{STAND_INS}"]
    command += ["-include", "Arduino.h", str(folder / "sketch.cpp")]
    command += [*map(str, sorted(STAND_INS.glob("*.cpp"))), "-o", str(folder / "sketch")]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@dataclass(frozen=True)
class Declared:
    """What the sketch's #defines stand for, by the preprocessor."""

    device: str
    request: str
    question: str
    response: str
    delta: str
    failure: str
    buffer_bytes: int
    max_bytes: int


def declared() -> Declared:
    names = ", ".join(field.name.upper() for field in fields(Declared))
    command = [require_program("g++", "build-essential"), "-E", "-P", "-x", "c++", f"-I{STAND_INS}"]
    source = f"{SKETCH.read_text()}\n({names})\n"
    preprocessed = subprocess.run(
        [*command, "-include", "Arduino.h", "-"],
        input=source,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    # Literals that stand side by side are one: in C++ as in Python.
    return Declared(*ast.literal_eval(preprocessed.strip().splitlines()[-1]))


@asynccontextmanager
async def board(port: int, folder: Path) -> AsyncGenerator[Board]:
    compiled = await asyncio.to_thread(compile_sketch, SKETCH.read_text(), folder)
    assert compiled.returncode == 0, compiled.stderr
    run = f"cd {folder} && exec ./sketch"  # its button is the file "button" there
    environment = os.environ | {"MQTT_PORT": str(port)}
    board = Board(folder)
    with running(["sh", "-c", run], board.log, lambda: True, environment):
        yield board


@pytest.mark.usefixtures("reconnects_quickly")
async def test_the_sketch_asks_and_prints_the_answer_whatever_breaks(
    mosquitto: Mosquitto, tmp_path: Path
) -> None:
    rules = Rules(Presets({"": PRESET}, ""))
    async with (
        open_stage(mosquitto.broker("3.1.1"), rules=rules) as stage,
        board(mosquitto.port, tmp_path) as button,
    ):
        await button.prints("connected\n")
        await button.press()
        await button.prints(f"{STORY}\n")
        assert len(stage.engine.asked) == 1

        stage.engine.error = EdgeLLMError("it was told to fail")
        await button.press()
        await button.prints("\nno answer: internal: it was told to fail\n")
        stage.engine.error = None

        button.set_wifi(is_there=False)
        mosquitto.stop()
        await button.press()
        await button.prints("no connection\n")
        assert "no broker" not in button.printed
        button.set_wifi(is_there=True)
        await button.prints("no broker: -2\n")
        mosquitto.start()
        await button.prints("connected\n", 2)
        await eventually(stage.client.paho.is_connected)
        await button.press()
        await button.prints(f"{STORY}\n", 2)


async def test_every_packet_fits_the_buffer_that_the_sketch_declares(mosquitto: Mosquitto) -> None:
    sketch = declared()
    assert sketch.buffer_bytes == BUFFER_BYTES
    rules = Rules(Presets({"": PRESET}, ""))
    async with (
        open_stage(mosquitto.broker("3.1.1"), rules=rules) as stage,
        SmallClient(mosquitto.port, sketch.device) as client,
    ):

        def heard(topic: str) -> list[bytes]:
            return [payload for name, payload in client.messages if name == topic]

        for topic in (sketch.response, sketch.delta, sketch.failure):
            await client.subscribe(topic, qos=0)
        client.publish(sketch.request, sketch.question.encode())
        await eventually(lambda: heard(sketch.response))
        said = heard(sketch.delta)
        assert b"".join(said).decode() == STORY
        assert max(map(len, said)) > sketch.max_bytes - 60, "nothing came near the limit"
        stage.engine.error = EdgeLLMError("it was told to fail, " * 20)
        client.publish(sketch.request, sketch.question.encode())
        await eventually(lambda: heard(sketch.failure))
        assert client.num_discarded == 0
        assert client.largest <= sketch.buffer_bytes


def test_sizes_that_do_not_fit_are_not_compiled(tmp_path: Path) -> None:
    source = SKETCH.read_text()
    assert "#define MAX_BYTES 200\n" in source
    compiled = compile_sketch(source.replace("MAX_BYTES 200", "MAX_BYTES 230"), tmp_path)
    assert "an answer would not fit" in compiled.stderr
