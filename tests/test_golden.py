"""Greedy tokens are those of transformers' own models on the same weights.

``tests/data/make_golden.py`` made them with torch; nothing here needs it.
"""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from edge_llm.engine.export import export_model
from edge_llm.engine.generation import ModelRunner
from edge_llm.engine.model import ModelDirectory
from edge_llm.npu.host import HostStack
from edge_llm.npu.onnx import OnnxSession
from edge_llm.tiny import MODEL_DIR
from tests.tiny_random_model import write_checkpoint

GOLDEN: dict[str, Any] = json.loads((Path(__file__).parent / "data" / "golden.json").read_text())
MODELS = ("builtin", "qwen3", "qwen2")


@pytest.fixture(scope="module")
def directories(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    made = {"builtin": MODEL_DIR}
    for name in ("qwen3", "qwen2"):
        model = GOLDEN["models"][name]
        folder = tmp_path_factory.mktemp(name)
        source = write_checkpoint(folder / "hf", model["kind"], seed=model["seed"])
        export_model(source, folder / "model", progress=lambda done, total: None)
        made[name] = folder / "model"
    return made


def open_runner(path: Path, chunk_len: int) -> ModelRunner:
    """Load a model with one chunk length, for any history; 1 means that it can only decode."""
    directory = ModelDirectory(path)
    history_len = OnnxSession(directory.layers[0]).inputs()["K_cache"].shape[1]
    groups = [(1, history_len)]
    if chunk_len > 1:
        groups += [(chunk_len, 1), (chunk_len, 128), (chunk_len, history_len)]
    layers = [OnnxSession(file, shape_groups=groups) for file in directory.layers]
    post = OnnxSession(directory.post)
    geometry = directory.read_geometry(layers, post)
    return ModelRunner(
        stack=HostStack(layers, post),
        embedding=directory.open_embedding(geometry),
        geometry=geometry,
    )


def greedy(runner: ModelRunner, prompt: Sequence[int], num_tokens: int) -> list[int]:
    logits = last(runner.prefill(prompt))
    token_ids = [int(logits.argmax())]
    while len(token_ids) < num_tokens:
        token_ids.append(int(runner.decode(token_ids[-1]).argmax()))
    return token_ids


def last(steps: Iterator[Any]) -> Any:
    *_, logits = steps
    return logits


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("chunk_len", [1, 16, 128])
def test_tokens_are_those_of_transformers(
    directories: dict[str, Path], name: str, chunk_len: int
) -> None:
    runner = open_runner(directories[name], chunk_len)
    cases = GOLDEN["models"][name]["cases"]
    assert len(cases) == (50 if name == "builtin" else 10)
    for case in cases:
        runner.cached_ids.clear()
        assert greedy(runner, case["prompt"], 24) == case["completion"]


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("chunk_len", [1, 16, 128])
def test_a_reused_prefix_does_not_change_the_tokens(
    directories: dict[str, Path], name: str, chunk_len: int
) -> None:
    runner = open_runner(directories[name], chunk_len)
    for number, case in enumerate(GOLDEN["models"][name]["cases"]):
        prompt = case["prompt"]
        kept = (number * 37) % len(prompt)  # any number of tokens, not whole chunks
        other = [*prompt[:kept], (prompt[kept] + 1) % runner.geometry.vocab_size]
        runner.cached_ids.clear()
        greedy(runner, other, 3)
        assert runner.shared_prefix_len(prompt) == min(kept, len(prompt) - 1)
        assert greedy(runner, prompt, 24) == case["completion"]


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("chunk_len", [1, 16, 128])
def test_a_cancelled_request_does_not_change_the_tokens(
    directories: dict[str, Path], name: str, chunk_len: int
) -> None:
    runner = open_runner(directories[name], chunk_len)
    cases = GOLDEN["models"][name]["cases"]
    for number, case in enumerate(cases):
        given_up = cases[-1 - number]["prompt"]
        next(runner.prefill(given_up))  # one chunk of it, and no more
        if number % 2:
            greedy(runner, given_up, 2)  # or two tokens of the answer
        assert greedy(runner, case["prompt"], 24) == case["completion"]
