"""An export is the vendor's layout; a failed one names its reason and leaves nothing."""

import errno
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import pytest

from edge_llm.engine.export import directory as export
from edge_llm.engine.export.directory import export_model, shape_groups
from edge_llm.engine.model import EMBEDDING_FILE, ModelDirectory
from edge_llm.errors import ConfigurationError, ModelError
from tests.forward import open_forward
from tests.tiny_random_model import Kind, make_config, make_weights, write_checkpoint

KINDS: tuple[Kind, ...] = ("qwen3", "qwen2")

PROMPT = [3, 14, 159, 26, 53, 58, 97, 93, 238]


@pytest.fixture(scope="module", params=KINDS)
def kind(request: pytest.FixtureRequest) -> Kind:
    return request.param  # type: ignore[no-any-return]  # untyped in pytest


@pytest.fixture(scope="module")
def model(kind: Kind, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp(kind)
    export_model(write_checkpoint(path / "source", kind), path / "model")
    return path / "model"


def test_the_layout_is_the_vendors(model: Path, kind: Kind) -> None:
    directory = ModelDirectory(model)

    assert {file.name for file in model.iterdir()} == {
        *(f"{kind}_p128_l{index}_together.onnx" for index in range(len(directory.layers))),
        f"{kind}_post.onnx",
        EMBEDDING_FILE,
        "tokenizer",
        "config.json",
    }
    assert directory.facts.name == "source"
    assert directory.facts.quantization == "fp32"
    assert directory.facts.context_len == 512
    assert directory.facts.eos_token_ids == (1, 2)
    assert (directory.tokenizer / "generation_config.json").is_file()


@pytest.mark.parametrize(
    ("context_len", "chunk_len", "groups"),
    [
        (1024, 128, [(1, 1023), *[(c, h) for c in (16, 128) for h in (1, 128, 256, 512, 1023)]]),
        (129, 16, [(1, 128), (16, 1), (16, 128)]),
        (40, 1, [(1, 39)]),
        (2, 2, [(1, 1), (2, 1)]),
        (40, 8, [(1, 39), (8, 1), (8, 39)]),
    ],
)
def test_groups_are_decode_and_a_ladder_of_histories(
    context_len: int, chunk_len: int, groups: list[tuple[int, int]]
) -> None:
    assert list(shape_groups(context_len, chunk_len)) == groups


def test_the_context_is_at_most_2048_by_default(tmp_path: Path) -> None:
    source = write_checkpoint(tmp_path / "source", "qwen3", max_position_embeddings=40960)

    export_model(source, tmp_path / "model")

    assert open_forward(tmp_path / "model").geometry.context_len == 2048


def test_embedding_rows_are_rounded_to_the_nearest_even(tmp_path: Path) -> None:
    config = make_config("qwen3")
    weights = make_weights(config)
    halves = np.array([0x3F808000, 0x3F818000, 0x3F808001], np.uint32).view(np.float32)
    weights["model.embed_tokens.weight"][7, :3] = halves
    source = write_checkpoint(tmp_path / "source", "qwen3", dtype="float32", weights=weights)

    export_model(source, tmp_path / "model")

    table = np.fromfile(tmp_path / "model" / EMBEDDING_FILE, np.uint16).reshape(320, 96)
    assert table[7, :3].tolist() == [0x3F80, 0x3F82, 0x3F81]
    rounded = weights["model.embed_tokens.weight"].astype(ml_dtypes.bfloat16)
    assert np.array_equal(table, rounded.view(np.uint16))


def test_float16_checkpoints_are_read(tmp_path: Path) -> None:
    whole = write_checkpoint(tmp_path / "f32", "qwen2", dtype="float32")
    half = write_checkpoint(tmp_path / "f16", "qwen2", dtype="float16")
    for source in (whole, half):
        export_model(source, tmp_path / f"{source.name}.model")

    one, two = (
        open_forward(tmp_path / f"{name}.model").prefill(PROMPT, 16) for name in ("f32", "f16")
    )

    np.testing.assert_allclose(one, two, rtol=1e-3, atol=1e-3)


def test_shards_give_the_same_files_as_one(tmp_path: Path) -> None:
    for name, num_shards in (("one", 1), ("three", 3)):
        source = write_checkpoint(tmp_path / f"{name}.hf", "qwen3", num_shards=num_shards)
        export_model(source, tmp_path / name, name="same")

    for file in (tmp_path / "one").glob("*.*"):
        assert file.read_bytes() == (tmp_path / "three" / file.name).read_bytes()


def test_large_graphs_keep_their_weights_beside_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = write_checkpoint(tmp_path / "source", "qwen3")
    export_model(source, tmp_path / "small")
    monkeypatch.setattr(export, "MAX_GRAPH_BYTES", 50_000)
    export_model(source, tmp_path / "large")

    assert (tmp_path / "large" / "qwen3_post.onnx.data").is_file()
    one, two = (open_forward(tmp_path / n).prefill(PROMPT, 16) for n in ("small", "large"))
    assert np.array_equal(one, two)


def test_progress_is_told_for_each_graph(tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    source = write_checkpoint(tmp_path / "source", "qwen2")

    export_model(
        source, tmp_path / "model", progress=lambda done, total: told.append((done, total))
    )

    assert told == [(1, 3), (2, 3), (3, 3)]


def test_exporting_needs_no_torch(tmp_path: Path) -> None:
    source = write_checkpoint(tmp_path / "source", "qwen2")
    code = (
        "import sys; sys.modules['torch'] = sys.modules['transformers'] = None\n"
        "from pathlib import Path\n"
        "from edge_llm.engine.export import export_model\n"
        f"export_model(Path({str(source)!r}), Path({str(tmp_path / 'model')!r}))"
    )

    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)

    assert ModelDirectory(tmp_path / "model").layers


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"model_type": "llama"}, "model_type 'llama' can't be exported"),
        ({"rope_scaling": {"type": "yarn", "factor": 4.0}}, "RoPE scaling 'yarn'"),
        ({"rope_parameters": {"rope_type": "llama3"}}, "RoPE scaling 'llama3'"),
        ({"use_sliding_window": True}, "sliding window attention"),
        ({"attention_bias": True}, "attention_bias"),
        ({"hidden_act": "gelu"}, "hidden_act 'gelu'"),
        ({"quantization_config": {"bits": 4}}, "the checkpoint is quantized"),
        ({"rms_norm_eps": None}, "wrong value"),
    ],
)
def test_what_can_not_be_exported_is_refused_by_name(
    tmp_path: Path, changes: dict[str, Any], complaint: str
) -> None:
    source = write_checkpoint(tmp_path / "source", "qwen3")
    config = {**make_config("qwen3"), **changes}
    (source / "config.json").write_text(json.dumps(config))

    with pytest.raises(ModelError, match=complaint):
        export_model(source, tmp_path / "model")


def test_a_missing_tensor_is_named(tmp_path: Path) -> None:
    weights = make_weights(make_config("qwen3"))
    del weights["model.layers.1.self_attn.k_norm.weight"]
    source = write_checkpoint(tmp_path / "source", "qwen3", weights=weights)

    with pytest.raises(
        ModelError, match=r"no tensor 'model\.layers\.1\.self_attn\.k_norm\.weight'"
    ):
        export_model(source, tmp_path / "model")

    assert [path.name for path in tmp_path.iterdir()] == ["source"]


def test_a_tensor_of_another_shape_is_named(tmp_path: Path) -> None:
    source = write_checkpoint(tmp_path / "source", "qwen3")
    config = make_config("qwen3", intermediate_size=161)
    (source / "config.json").write_text(json.dumps(config))

    with pytest.raises(
        ModelError, match=r"'model\.layers\.0\.mlp\.gate_proj\.weight' has the shape"
    ):
        export_model(source, tmp_path / "model")


@pytest.mark.parametrize(
    ("name", "content", "complaint"),
    [
        ("config.json", None, r"can't read .*config\.json"),
        ("config.json", b"{", r"config\.json is not JSON"),
        ("config.json", b'{"model_type": "qwen3"}', r"config\.json has no 'num_hidden_layers'"),
        ("model.safetensors.index.json", b"{}", r"index\.json has no weight_map"),
        ("model.safetensors", None, r"there is no model\.safetensors"),
        ("model.safetensors", b"version https://git-lfs", r"model\.safetensors is broken"),
        ("tokenizer.json", None, r"there is no tokenizer\.json"),
    ],
)
def test_a_broken_source_names_its_file(
    tmp_path: Path, name: str, content: bytes | None, complaint: str
) -> None:
    source = write_checkpoint(tmp_path / "source", "qwen3")
    (source / name).unlink(missing_ok=True)
    if content is not None:
        (source / name).write_bytes(content)

    with pytest.raises(ModelError, match=complaint):
        export_model(source, tmp_path / "model")


def test_a_missing_shard_is_named(tmp_path: Path) -> None:
    source = write_checkpoint(tmp_path / "source", "qwen3", num_shards=3)
    (source / "model-00002-of-00003.safetensors").unlink()

    with pytest.raises(ModelError, match=r"model-00002-of-00003\.safetensors is missing"):
        export_model(source, tmp_path / "model")


def test_a_missing_source_says_how_to_get_one(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="hf download"):
        export_model(tmp_path / "nowhere", tmp_path / "model")


@pytest.mark.parametrize(("context_len", "chunk_len"), [(513, 128), (1, 1), (64, 65), (64, 0)])
def test_lengths_out_of_range_are_refused(tmp_path: Path, context_len: int, chunk_len: int) -> None:
    source = write_checkpoint(tmp_path / "source", "qwen3")

    with pytest.raises(ConfigurationError, match="tokens"):
        export_model(source, tmp_path / "model", context_len=context_len, chunk_len=chunk_len)


def test_a_directory_that_is_in_use_is_kept(tmp_path: Path) -> None:
    source = write_checkpoint(tmp_path / "source", "qwen2")
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "diary.txt").write_text("mine")

    with pytest.raises(ConfigurationError, match="is not empty"):
        export_model(source, tmp_path / "model")
    with pytest.raises(ConfigurationError, match="is not a model directory"):
        export_model(source, tmp_path / "model", overwrite=True)

    assert (tmp_path / "model" / "diary.txt").read_text() == "mine"


def test_a_model_directory_can_be_overwritten(tmp_path: Path) -> None:
    export_model(write_checkpoint(tmp_path / "qwen2", "qwen2"), tmp_path / "model")
    source = write_checkpoint(tmp_path / "qwen3", "qwen3")

    export_model(source, tmp_path / "model", overwrite=True)

    assert ModelDirectory(tmp_path / "model").prefix == "qwen3"


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left"), KeyboardInterrupt()])
def test_an_interrupted_export_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    source = write_checkpoint(tmp_path / "source", "qwen2")
    saved: list[Path] = []

    def save(_: object, path: Path, **__: object) -> None:
        if saved:
            raise error
        saved.append(path)

    monkeypatch.setattr(onnx, "save_model", save)

    with pytest.raises((ConfigurationError, KeyboardInterrupt)) as caught:
        export_model(source, tmp_path / "model")

    assert "No space left" in str(caught.value) or caught.type is KeyboardInterrupt
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


def test_what_a_killed_export_left_is_swept_away(tmp_path: Path) -> None:
    source = write_checkpoint(tmp_path / "source", "qwen2")
    (tmp_path / ".model.partial").mkdir()
    (tmp_path / ".model.partial" / "half").write_text("")

    export_model(source, tmp_path / "model")

    assert {path.name for path in tmp_path.iterdir()} == {"source", "model"}
