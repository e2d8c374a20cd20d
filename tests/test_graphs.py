"""The graphs compute what transformers computes, and cost what they should."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray

from edge_llm.engine.export.directory import Quantization, export_model
from edge_llm.engine.model import ModelDirectory
from tests.forward import open_forward
from tests.tiny_random_model import Kind, make_config, make_weights, write_checkpoint

GOLDEN: dict[str, Any] = json.loads((Path(__file__).parent / "data" / "golden.json").read_text())

KINDS: tuple[Kind, ...] = ("qwen3", "qwen2")


@pytest.fixture(scope="module", params=KINDS)
def kind(request: pytest.FixtureRequest) -> Kind:
    return request.param  # type: ignore[no-any-return]  # untyped in pytest


@pytest.fixture(scope="module")
def model(kind: Kind, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp(kind)
    export_model(write_checkpoint(path / "source", kind), path / "model")
    return path / "model"


def tokens(count: int) -> list[int]:
    ids: list[int] = np.random.RandomState(0).randint(3, 288, count).tolist()
    return ids


def cosine(left: NDArray[np.float32], right: NDArray[np.float32]) -> float:
    return float(left @ right / np.sqrt((left @ left) * (right @ right)))


def initializers(path: Path) -> dict[str, onnx.TensorProto]:
    return {tensor.name: tensor for tensor in onnx.load(path).graph.initializer}


@pytest.mark.parametrize("chunk_len", [1, 16, 128])
def test_greedy_tokens_are_those_of_transformers(model: Path, kind: Kind, chunk_len: int) -> None:
    golden = GOLDEN["models"][kind]

    for case in golden["cases"]:
        completion = open_forward(model).complete(case["prompt"], chunk_len, 24)
        assert completion == case["completion"]


def test_prefill_and_decode_agree(model: Path) -> None:
    prompt = tokens(150)

    decoded = open_forward(model).prefill(prompt, 1)

    for chunk_len in (16, 128):
        prefilled = open_forward(model).prefill(prompt, chunk_len)
        np.testing.assert_allclose(prefilled, decoded, rtol=1e-4, atol=1e-4)


def test_rows_past_the_end_of_the_history_do_not_count(model: Path) -> None:
    clean, dirty = open_forward(model), open_forward(model)
    dirty.keys[:] = dirty.values[:] = 100.0

    prompt = tokens(20)

    assert np.array_equal(clean.prefill(prompt, 16), dirty.prefill(prompt, 16))


def test_the_graphs_are_valid_onnx(model: Path) -> None:
    for file in model.glob("*.onnx"):
        onnx.checker.check_model(onnx.load(file), full_check=True)


def test_bfloat16_weights_are_stored_as_they_are_under_their_names(tmp_path: Path) -> None:
    source = write_checkpoint(tmp_path / "source", "qwen3", dtype="float32")
    weights = make_weights(make_config("qwen3"))

    export_model(source, tmp_path / "model")

    for name, value in weights.items():
        if name == "model.embed_tokens.weight":
            continue
        part = f"l{name.split('.')[2]}_together" if "layers" in name else "post"
        (file,) = (tmp_path / "model").glob(f"*{part}.onnx")
        tensor = initializers(file)[name]
        assert tensor.data_type == onnx.TensorProto.BFLOAT16
        assert np.array_equal(onnx.numpy_helper.to_array(tensor).astype("f4").T, value)


def test_weights_that_bfloat16_can_not_hold_stay_float32(tmp_path: Path) -> None:
    config = make_config("qwen3")
    weights = make_weights(config)
    name = "model.layers.0.mlp.up_proj.weight"
    weights[name][0, 0] = np.float32(1 / 3)
    source = write_checkpoint(tmp_path / "source", "qwen3", dtype="float32", weights=weights)

    export_model(source, tmp_path / "model")

    stored = initializers(tmp_path / "model" / "qwen3_p128_l0_together.onnx")
    assert stored[name].data_type == onnx.TensorProto.FLOAT
    assert np.array_equal(onnx.numpy_helper.to_array(stored[name]).T, weights[name])
    down = stored["model.layers.0.mlp.down_proj.weight"]
    assert down.data_type == onnx.TensorProto.BFLOAT16


@pytest.mark.parametrize(("quantize", "floor"), [("int8", 0.999), ("int4", 0.95)])
@pytest.mark.parametrize("hidden_size", [96, 72])  # whole blocks of 32, and a padded one
def test_quantized_logits_stay_near(
    tmp_path: Path, quantize: Quantization, floor: float, hidden_size: int
) -> None:
    source = write_checkpoint(
        tmp_path / "source", "qwen3", hidden_size=hidden_size, num_hidden_layers=1
    )
    export_model(source, tmp_path / "fp32")
    export_model(source, tmp_path / quantize, quantize=quantize)

    exact, near = (
        open_forward(tmp_path / name).prefill(tokens(20), 16) for name in ("fp32", quantize)
    )

    assert cosine(exact, near) > floor
    assert ModelDirectory(tmp_path / quantize).facts.quantization == quantize


def test_transformers_5_rope_parameters_are_read(tmp_path: Path) -> None:
    source = write_checkpoint(tmp_path / "source", "qwen3")
    config = make_config("qwen3", rope_parameters={"rope_type": "default", "rope_theta": 1e6})
    del config["rope_theta"]
    (source / "config.json").write_text(json.dumps(config))
    export_model(source, tmp_path / "model")
    case = GOLDEN["models"]["qwen3"]["cases"][5]

    assert open_forward(tmp_path / "model").complete(case["prompt"], 16, 24) == case["completion"]


def test_the_history_is_not_copied(model: Path, kind: Kind, tmp_path: Path) -> None:
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    onnxruntime.InferenceSession(model / f"{kind}_p128_l0_together.onnx", options)

    nodes = onnx.load(tmp_path / "optimized.onnx").graph.node

    # Reshape gives a view; of the transposes only those of the query and of the result are left,
    # the four of K and V being fused into their products.
    assert [node.op_type for node in nodes].count("Transpose") == 2
    for name in ("K_cache", "V_cache"):
        assert {node.op_type for node in nodes if name in node.input} <= {"Reshape", "Shape"}


def test_weights_are_widened_at_load_not_in_each_call(
    model: Path, kind: Kind, tmp_path: Path
) -> None:
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    options.log_severity_level = 3
    onnxruntime.InferenceSession(model / f"{kind}_p128_l0_together.onnx", options)

    graph = onnx.load(tmp_path / "optimized.onnx").graph

    assert [node.input[0] for node in graph.node if node.op_type == "Cast"] == ["indices"]
