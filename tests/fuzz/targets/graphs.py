"""Graphs with some bytes changed, loaded and run in another process, which may die of it.

ONNX Runtime is C++ and is not covered; what matters is that whatever it makes of a broken file
comes out as a ``ModelError``, an ``EdgeLLMError`` of its run, or as the death of that process, and
never as a crash of our code. That is also how a node has it: models are loaded in the worker.
"""

import atexit
import random
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

from tests.fuzz.model_files import edited, names_of, small_copy, swapped
from tests.fuzz.source import Source
from tests.fuzz.target import Target

OURS = ("loaded", "refused", "failed")
ROOT = Path(__file__).parent.parent.parent.parent


class Loader:
    """A process that loads models; a new one where the last has died."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None

    def load(self, path: Path) -> str:
        """Return what came of it: ``loaded``, ``refused``, ``failed``, ``died`` or a traceback."""
        process = self._process
        if process is None or process.poll() is not None:
            process = self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.fuzz.load_model"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                cwd=ROOT,
            )
            atexit.register(process.kill)
        assert process.stdin
        assert process.stdout
        process.stdin.write(f"{path}\n".encode())
        process.stdin.flush()
        said = process.stdout.readline().decode().strip().replace("\\n", "\n")
        if said:
            return said
        print(f"loader died: {process.wait()}", file=sys.stderr)
        return "died"


LOADER = Loader()


def check(data: bytes) -> None:
    source = Source(data)
    path = small_copy()
    graphs = [name for name in names_of(path) if name.endswith(".onnx")]
    file = path / source.choice(graphs)
    with swapped(file, edited(file.read_bytes(), source)):
        said = LOADER.load(path)
    assert said in (*OURS, "died"), said


def seeds() -> Iterable[bytes]:
    for graph in range(3):
        yield bytes([graph, 0])
        for at in (0, 20, 60, 200, 255):
            yield bytes([graph, 1, at, 0, 0, 7, 0])
            yield bytes([graph, 1, at, 1, 0, 3, 1])
            yield bytes([graph, 2, at, 2, 0, 4, 2, 1, 2, 3, 4, at, 9, 0, 2, 3, 9, 9])


def mutate(data: bytes, seed: int) -> bytes:
    """Make other edits: nothing tells which of them lead anywhere."""
    chance = random.Random(seed)
    num_edits = chance.choice((1, 1, 2, 4, 8))
    edits = b"".join(_edit(chance) for _ in range(num_edits))
    return bytes([chance.randrange(3), num_edits]) + edits


def _edit(chance: random.Random) -> bytes:
    at = chance.randrange(9000).to_bytes(3, "little")
    kind, num_bytes = chance.randrange(4), chance.choice((0, 1, 2, 4, 7, 8, 16, 127, 128, 255))
    num_more = {0: 0, 1: 0, 2: num_bytes % 16, 3: num_bytes % 8}[kind]
    more = bytes(chance.choice((0, 1, 8, 10, 18, 34, 127, 128, 255)) for _ in range(num_more))
    return at + bytes([num_bytes, kind]) + more


TARGET = Target(check, seeds, (), max_len=200, mutate=mutate, is_covered=False)
