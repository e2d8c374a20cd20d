"""A model directory up to its graphs: names, sizes, facts; and the shapes that graphs tell."""

import json
from collections.abc import Iterable, Mapping
from contextlib import suppress

import numpy as np

from edge_llm.engine.model import (
    EMBEDDING_FILE,
    LAYER_INPUTS,
    LAYER_OUTPUTS,
    EmbeddingTable,
    Geometry,
    ModelDirectory,
)
from edge_llm.errors import ModelError
from edge_llm.npu.session import TensorInfo
from tests.fuzz.json_mutation import json_mutator, json_words
from tests.fuzz.model_files import built_in_copy, names_of, swapped
from tests.fuzz.source import Source, join
from tests.fuzz.target import Target

GEOMETRY = Geometry(6, 192, 96, 1023, 1024, 2048, ((1, 1023),))
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"
NUM_KINDS = 5


def check(data: bytes) -> None:
    source = Source(data)
    kind = source.byte() % NUM_KINDS
    path = built_in_copy()
    with suppress(ModelError):
        if kind == 0:
            with swapped(path / "config.json", source.rest()):
                _check_directory()
        elif kind == 1:
            name, content = source.choice(names_of(path)), source.choice((None, b"", POINTER, b"x"))
            with swapped(path / name, content):
                _check_directory()
        elif kind == 2:
            with swapped(path / _file_name(source.text()), source.rest()):
                _check_directory()
        elif kind == 3:
            _check_embedding(source)
        else:
            _check_shapes(source)


def _file_name(text: str) -> str:
    """Return a name that a file in the directory may have."""
    return text.replace("/", "_").replace("\0", "")[:60].strip(".") or "x"


def _check_directory() -> None:
    directory = ModelDirectory(built_in_copy())
    assert all(file.is_file() for file in (*directory.layers, directory.post, directory.embedding))
    assert directory.tokenizer.is_dir()
    facts = directory.facts
    assert facts.name is None or isinstance(facts.name, str)
    assert all(type(token_id) is int for token_id in facts.eos_token_ids)
    assert facts.num_layers in (None, len(directory.layers))
    directory.open_embedding(GEOMETRY)


def _check_embedding(source: Source) -> None:
    size, hidden_size = source.number(0, 4096), source.number(1, 64)
    file = built_in_copy() / EMBEDDING_FILE
    with swapped(file, bytes(size)):
        table = EmbeddingTable(file, hidden_size)
        assert table.num_rows * hidden_size * 2 == size
        ids = [source.number(-2, 100) for _ in range(4)]
        assert table.rows(ids).shape == (4, hidden_size)


class _Told:
    """A graph that tells whatever the input says."""

    def __init__(self, source: Source, is_post: bool) -> None:
        self.num_groups = 1 if is_post else source.byte() % 3 + 1
        names = ("input",) if is_post else LAYER_INPUTS
        outputs = ("output",) if is_post else LAYER_OUTPUTS
        self._inputs = [_tensors(source, names) for _ in range(self.num_groups)]
        self._outputs = [_tensors(source, outputs) for _ in range(self.num_groups)]

    def inputs(self, group: int = 0) -> Mapping[str, TensorInfo]:
        return self._inputs[group]

    def outputs(self, group: int = 0) -> Mapping[str, TensorInfo]:
        return self._outputs[group]


def _tensors(source: Source, names: Iterable[str]) -> Mapping[str, TensorInfo]:
    tensors = {}
    for name in names:
        if (num_axes := source.byte()) == 0xFE:  # it is missing
            continue
        shape = tuple(source.choice((1, 0, 16, 17, 192, 96, 33)) for _ in range(num_axes % 5))
        tensors[name] = TensorInfo(name, shape, np.dtype(np.float32))
    return tensors


def _check_shapes(source: Source) -> None:
    directory = ModelDirectory(built_in_copy())
    layer, post = _Told(source, is_post=False), _Told(source, is_post=True)
    geometry = directory.read_geometry([layer] * len(directory.layers), post)
    assert geometry.history_len >= 1
    assert geometry.vocab_size >= 0


def seeds() -> Iterable[bytes]:
    configs = [
        {"model_name": "a", "quantization": "int8", "context_len": 9, "eos_token_id": [1, 2]},
        {"eos": 1, "axmodel_num": 6, "tokens_embed_size": 192},
        {"axmodel_num": 5},
        {"eos_token_id": None},
        [],
    ]
    for config in configs:
        yield b"\0" + json.dumps(config).encode()
    yield b"\0" + b"[" * 3000
    yield b"\0" + b'{"context_len": ' + b"9" * 5000 + b"}"
    for which in range(10):
        for content in range(4):
            yield bytes([1, which, content])
    names = ("qwen3_p128_l9_together.onnx", "other_p128_l0_together.axmodel", "qwen3_l0.onnx")
    for name in (*names, "tokenizer.json", "qwen3_p128_l99999999999_together.onnx", "._q_l0.onnx"):
        yield join((2,), name, "x")
    yield bytes([3, 0, 4, 15, 0, 3, 0, 1, 0])
    yield bytes([3, 1, 4, 15, 0])
    # Axes and, for each, which size: inputs K_cache, V_cache, indices, input, mask; the outputs.
    shapes = [3, 0, 2, 5, 3, 0, 2, 5, 2, 0, 0, 3, 0, 0, 4, 3, 0, 0, 3]
    yield bytes([4, 0, *shapes, 3, 0, 0, 5, 3, 0, 0, 5, 3, 0, 0, 4, 3, 0, 0, 4, 3, 0, 0, 6])
    yield bytes([4, 1])


TARGET = Target(
    check,
    seeds,
    (
        *json_words("model_name", "quantization", "context_len", "eos_token_id", "axmodel_num"),
        *("qwen3_", "_l0", "_p128", "_together", ".onnx", ".axmodel", "_post", "tokenizer.json"),
    ),
    max_len=6000,
    mutate=json_mutator(1),
)
