"""A model directory says what it is, or what is wrong with it."""

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from numpy.typing import NDArray

from edge_llm.engine.model import EMBEDDING_FILE, EmbeddingTable, Geometry, ModelDirectory
from edge_llm.errors import ModelError
from edge_llm.npu.session import TensorInfo

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 118051703\n"


def write_directory(path: Path, suffix: str = ".axmodel", num_layers: int = 3) -> Path:
    """Write what looks like the vendor's directory."""
    (path / "qwen3_tokenizer").mkdir(parents=True)
    (path / "qwen3_tokenizer" / "tokenizer.json").write_text("{}")
    for index in range(num_layers):
        (path / f"qwen3_p128_l{index}_together{suffix}").write_bytes(b"graph")
    (path / f"qwen3_post{suffix}").write_bytes(b"graph")
    (path / EMBEDDING_FILE).write_bytes(bytes(4 * 8 * 2))
    (path / "config.json").write_bytes(b"")
    return path


@dataclass
class Shapes:
    """A session that only knows its shapes."""

    tensors_in: list[dict[str, tuple[int, ...]]]
    tensors_out: dict[str, tuple[int, ...]]

    @property
    def num_groups(self) -> int:
        return len(self.tensors_in)

    def inputs(self, group: int = 0) -> Mapping[str, TensorInfo]:
        return infos(self.tensors_in[group])

    def outputs(self, group: int = 0) -> Mapping[str, TensorInfo]:
        return infos(self.tensors_out)

    def run(self, feed: Mapping[str, NDArray[Any]], group: int = 0) -> dict[str, NDArray[Any]]:
        raise NotImplementedError


def infos(shapes: dict[str, tuple[int, ...]]) -> dict[str, TensorInfo]:
    return {
        name: TensorInfo(name, shape, np.dtype(ml_dtypes.bfloat16))
        for name, shape in shapes.items()
    }


def make_layer(hidden: int = 8, kv: int = 4) -> Shapes:
    def group(chunk_len: int, history_len: int, cache_rows: int) -> dict[str, tuple[int, ...]]:
        return {
            "K_cache": (1, cache_rows, kv),
            "V_cache": (1, cache_rows, kv),
            "indices": (1, chunk_len),
            "input": (1, chunk_len, hidden),
            "mask": (1, chunk_len, history_len + chunk_len),
        }

    out: dict[str, tuple[int, ...]] = {
        "K_cache_out": (1, 1, kv),
        "V_cache_out": (1, 1, kv),
        "output": (1, 1, hidden),
    }
    # The vendor's group without history has a dummy row (facts/ax650.md, 1.4).
    return Shapes([group(1, 1023, 1023), group(128, 0, 1), group(128, 128, 128)], out)


def make_post(hidden: int = 8, vocab: int = 4) -> Shapes:
    return Shapes([{"input": (1, 1, hidden)}], {"output": (1, 1, vocab)})


@pytest.mark.parametrize("suffix", [".axmodel", ".onnx"])
def test_the_files_are_found_by_their_names(tmp_path: Path, suffix: str) -> None:
    path = write_directory(tmp_path / "model", suffix, num_layers=12)

    directory = ModelDirectory(path)

    assert directory.prefix == "qwen3"
    assert directory.runtime == suffix[1:]
    assert [file.name for file in directory.layers] == [
        f"qwen3_p128_l{index}_together{suffix}" for index in range(12)
    ]
    assert directory.post == path / f"qwen3_post{suffix}"
    assert directory.embedding == path / EMBEDDING_FILE
    assert directory.tokenizer == path / "qwen3_tokenizer"


def test_an_empty_config_is_no_facts(tmp_path: Path) -> None:
    facts = ModelDirectory(write_directory(tmp_path / "model")).facts

    assert (facts.name, facts.quantization, facts.context_len) == (None, None, None)
    assert facts.eos_token_ids == ()


def test_facts_are_read_where_there_are_any(tmp_path: Path) -> None:
    path = write_directory(tmp_path / "model")
    config = {"model_name": "tiny", "context_len": "long", "eos_token_id": [7, 8], "other": {}}
    (path / "config.json").write_text(json.dumps(config))

    facts = ModelDirectory(path).facts

    assert (facts.name, facts.context_len, facts.eos_token_ids) == ("tiny", None, (7, 8))


def test_ax_llms_single_end_token_is_read(tmp_path: Path) -> None:
    path = write_directory(tmp_path / "model")
    (path / "config.json").write_text('{"eos": 151645}')

    assert ModelDirectory(path).facts.eos_token_ids == (151645,)


@pytest.mark.parametrize("content", ["{", "[1]"])
def test_a_broken_config_is_named(tmp_path: Path, content: str) -> None:
    path = write_directory(tmp_path / "model")
    (path / "config.json").write_text(content)

    with pytest.raises(ModelError, match=r"config\.json is not .*; mend or delete it"):
        ModelDirectory(path)


def test_a_missing_directory_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"there is no model directory .*/nowhere"):
        ModelDirectory(tmp_path / "nowhere")


def test_a_directory_without_layers_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"there are no layers .* in .*; point"):
        ModelDirectory(tmp_path)


def test_a_gap_in_the_layers_is_named(tmp_path: Path) -> None:
    path = write_directory(tmp_path / "model")
    (path / "qwen3_p128_l1_together.axmodel").unlink()

    with pytest.raises(ModelError, match=r"/qwen3_p128_l1_together\.axmodel is missing"):
        ModelDirectory(path)


def test_two_models_in_one_directory_are_named(tmp_path: Path) -> None:
    path = write_directory(tmp_path / "model")
    (path / "qwen2_p128_l0_together.axmodel").write_bytes(b"graph")

    with pytest.raises(ModelError, match=r"qwen2\*\.axmodel and qwen3\*\.axmodel"):
        ModelDirectory(path)


@pytest.mark.parametrize(
    "name", ["qwen3_post.axmodel", EMBEDDING_FILE, "qwen3_p128_l2_together.axmodel"]
)
@pytest.mark.parametrize(
    ("content", "complaint"),
    [(b"", "is empty"), (POINTER, "is a Git LFS pointer.*git lfs pull")],
)
def test_what_a_broken_download_left_is_named(
    tmp_path: Path, name: str, content: bytes, complaint: str
) -> None:
    path = write_directory(tmp_path / "model")
    (path / name).write_bytes(content)

    with pytest.raises(ModelError, match=f"{name} {complaint}"):
        ModelDirectory(path)


@pytest.mark.parametrize("name", ["qwen3_post.axmodel", EMBEDDING_FILE])
def test_a_missing_file_is_named(tmp_path: Path, name: str) -> None:
    path = write_directory(tmp_path / "model")
    (path / name).unlink()

    with pytest.raises(ModelError, match=f"/{name} is missing"):
        ModelDirectory(path)


def test_a_missing_tokenizer_is_named(tmp_path: Path) -> None:
    path = write_directory(tmp_path / "model")
    shutil.rmtree(path / "qwen3_tokenizer")

    with pytest.raises(ModelError, match=r"no tokenizer folder .* in .*/model; copy it"):
        ModelDirectory(path)


def test_a_tokenizer_that_is_a_pointer_is_named(tmp_path: Path) -> None:
    path = write_directory(tmp_path / "model")
    (path / "qwen3_tokenizer" / "tokenizer.json").write_bytes(POINTER)

    with pytest.raises(ModelError, match=r"tokenizer\.json is a Git LFS pointer"):
        ModelDirectory(path)


def test_the_tokenizer_may_be_vocab_and_merges(tmp_path: Path) -> None:
    path = write_directory(tmp_path / "model")
    (path / "qwen3_tokenizer" / "tokenizer.json").rename(path / "qwen3_tokenizer" / "vocab.json")
    (path / "qwen3_tokenizer" / "merges.txt").write_text("#version: 0.2")

    assert ModelDirectory(path).tokenizer.name == "qwen3_tokenizer"


def test_the_tokenizer_may_lie_beside_the_model_as_in_the_vendors_clone(tmp_path: Path) -> None:
    path = write_directory(tmp_path / "qwen3-4b-ax650")
    (path / "qwen3_tokenizer").rename(tmp_path / "qwen3_tokenizer")
    shutil.copytree(tmp_path / "qwen3_tokenizer", tmp_path / "qwen2.5_tokenizer")

    assert ModelDirectory(path).tokenizer == tmp_path / "qwen3_tokenizer"


def test_several_tokenizers_are_named(tmp_path: Path) -> None:
    path = write_directory(tmp_path / "model")
    shutil.copytree(path / "qwen3_tokenizer", path / "qwen3_tokenizer_old")

    with pytest.raises(ModelError, match=r"several tokenizers .*qwen3_tokenizer_old"):
        ModelDirectory(path)


def test_the_geometry_is_read_from_the_graphs(tmp_path: Path) -> None:
    directory = ModelDirectory(write_directory(tmp_path / "model"))

    assert directory.read_geometry([make_layer()] * 3, make_post()) == Geometry(
        num_layers=3,
        hidden_size=8,
        kv_dim=4,
        history_len=1023,
        context_len=1024,
        vocab_size=4,
        groups=((1, 1023), (128, 0), (128, 128)),
    )


def test_a_layer_of_another_model_is_named(tmp_path: Path) -> None:
    directory = ModelDirectory(write_directory(tmp_path / "model"))

    with pytest.raises(ModelError, match=r"l2_together\.axmodel has other shapes"):
        directory.read_geometry([make_layer(), make_layer(), make_layer(kv=2)], make_post())


def test_a_graph_that_is_no_layer_is_named(tmp_path: Path) -> None:
    directory = ModelDirectory(write_directory(tmp_path / "model", num_layers=1))
    layer = make_layer()
    del layer.tensors_in[0]["mask"]

    with pytest.raises(ModelError, match=r"l0_together\.axmodel is not a layer.*'mask'"):
        directory.read_geometry([layer], make_post())


def test_a_vision_model_is_named(tmp_path: Path) -> None:
    directory = ModelDirectory(write_directory(tmp_path / "model", num_layers=1))
    layer = make_layer()
    layer.tensors_in[1]["indices"] = (3, 128)

    with pytest.raises(ModelError, match="a vision model"):
        directory.read_geometry([layer], make_post())


def test_a_layer_that_can_not_decode_is_named(tmp_path: Path) -> None:
    directory = ModelDirectory(write_directory(tmp_path / "model", num_layers=1))
    layer = make_layer()

    with pytest.raises(ModelError, match="does not decode"):
        directory.read_geometry([replace(layer, tensors_in=layer.tensors_in[1:])], make_post())


def test_a_post_graph_that_samples_is_named(tmp_path: Path) -> None:
    directory = ModelDirectory(write_directory(tmp_path / "model", num_layers=1))
    post = replace(make_post(), tensors_out={"indices": (1, 10), "probabilities": (1, 10)})

    with pytest.raises(ModelError, match=r"qwen3_post\.axmodel .*--post_topk"):
        directory.read_geometry([make_layer()], post)


def test_a_post_graph_of_another_model_is_named(tmp_path: Path) -> None:
    directory = ModelDirectory(write_directory(tmp_path / "model", num_layers=1))

    with pytest.raises(ModelError, match=r"qwen3_post\.axmodel takes hidden size 16"):
        directory.read_geometry([make_layer()], make_post(hidden=16))


def test_embedding_rows_are_the_files_bfloat16(tmp_path: Path) -> None:
    values = np.random.RandomState(0).standard_normal((5, 8)).astype(ml_dtypes.bfloat16)
    (tmp_path / "table.bin").write_bytes(values.tobytes())

    table = EmbeddingTable(tmp_path / "table.bin", 8)
    rows = table.rows([4, 0, 4])

    assert table.num_rows == 5
    assert rows.dtype == np.float32
    assert np.array_equal(rows, values.astype(np.float32)[[4, 0, 4]])
    assert table.rows([]).shape == (0, 8)


@pytest.mark.parametrize("token_id", [5, -1])
def test_a_token_id_past_the_embedding_table_is_an_error(tmp_path: Path, token_id: int) -> None:
    (tmp_path / "table.bin").write_bytes(bytes(5 * 8 * 2))

    with pytest.raises(ModelError, match=rf"table\.bin has 5 rows, .* token id {token_id}"):
        EmbeddingTable(tmp_path / "table.bin", 8).rows([1, token_id])


def test_an_embedding_table_cut_short_is_named(tmp_path: Path) -> None:
    (tmp_path / "table.bin").write_bytes(bytes(5 * 8 * 2 - 2))

    with pytest.raises(ModelError, match=r"table\.bin has 78 bytes, .* 16 bytes"):
        EmbeddingTable(tmp_path / "table.bin", 8)


def test_an_embedding_table_smaller_than_the_vocabulary_is_named(tmp_path: Path) -> None:
    directory = ModelDirectory(write_directory(tmp_path / "model", num_layers=1))
    geometry = directory.read_geometry([make_layer()], make_post(vocab=9))

    with pytest.raises(ModelError, match=f"{EMBEDDING_FILE} has 4 rows, .* 9 tokens"):
        directory.open_embedding(geometry)
