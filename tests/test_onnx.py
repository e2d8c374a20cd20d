"""The ONNX Runtime session keeps the contract of a compiled graph."""

from pathlib import Path

import numpy as np
import onnx
import pytest

from edge_llm.engine.export import export_model
from edge_llm.errors import EdgeLLMError, ModelError
from edge_llm.npu.onnx import SHAPE_GROUPS_KEY, OnnxSession
from edge_llm.npu.session import Session
from tests.tiny_random_model import write_checkpoint

LAYER = "qwen3_p32_l0_together.onnx"
POST = "qwen3_post.onnx"

Feed = dict[str, np.ndarray]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("onnx")
    source = write_checkpoint(path / "source", "qwen3", num_hidden_layers=1)
    export_model(source, path / "model", context_len=300, chunk_len=32)
    return path / "model"


def make_feed(session: Session, group: int = 0) -> Feed:
    return {name: np.zeros(info.shape, info.dtype) for name, info in session.inputs(group).items()}


def test_the_groups_are_those_of_the_file(model: Path) -> None:
    session = OnnxSession(model / LAYER)

    shapes = [
        (session.inputs(group)["input"].shape[1], session.inputs(group)["K_cache"].shape[1])
        for group in range(session.num_groups)
    ]

    assert shapes == [
        (1, 299),
        *[(chunk_len, history_len) for chunk_len in (16, 32) for history_len in (1, 128, 256, 299)],
    ]


def test_inputs_and_outputs_are_the_cards(model: Path) -> None:
    session = OnnxSession(model / LAYER)
    group = 6  # a chunk of 32 after 128 rows

    assert {
        name: (info.shape, str(info.dtype)) for name, info in session.inputs(group).items()
    } == {
        "K_cache": ((1, 128, 32), "float32"),
        "V_cache": ((1, 128, 32), "float32"),
        "indices": ((1, 32), "uint32"),
        "input": ((1, 32, 96), "float32"),
        "mask": ((1, 32, 160), "float32"),
    }
    assert {name: info.shape for name, info in session.outputs(group).items()} == {
        "K_cache_out": (1, 32, 32),
        "V_cache_out": (1, 32, 32),
        "output": (1, 32, 96),
    }


def test_what_comes_out_has_the_promised_shapes_in_every_group(model: Path) -> None:
    session = OnnxSession(model / LAYER)

    for group in range(session.num_groups):
        out = session.run(make_feed(session, group), group)
        promised = session.outputs(group).values()
        assert {(name, value.shape, value.dtype) for name, value in out.items()} == {
            (info.name, info.shape, info.dtype) for info in promised
        }


def test_the_post_graph_has_one_group_whatever_the_caller_says(model: Path) -> None:
    session = OnnxSession(model / POST, shape_groups=[(1, 10), (4, 10)])

    assert session.num_groups == 1
    assert session.run(make_feed(session))["output"].shape == (1, 1, 320)


def test_the_caller_may_choose_other_groups(model: Path) -> None:
    session = OnnxSession(model / LAYER, shape_groups=[(1, 7), (3, 5)])

    assert session.run(make_feed(session, 1), 1)["output"].shape == (1, 3, 96)


def test_threads_do_not_change_the_result(model: Path) -> None:
    feed = make_feed(OnnxSession(model / LAYER), 4)
    feed["input"] = np.random.RandomState(0).standard_normal(feed["input"].shape).astype("f4")

    one, two = (OnnxSession(model / LAYER, threads=n).run(feed, 4)["output"] for n in (1, 2))

    np.testing.assert_allclose(one, two, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "value", "complaint"),
    [
        ("mask", None, "'mask' (float32 (1, 1, 300)) is missing"),
        ("mask", np.zeros((1, 1, 299), np.float32), "'mask' is float32 (1, 1, 299), but must be"),
        ("indices", np.zeros((1, 1), np.int64), "'indices' is int64 (1, 1), but must be uint32"),
        ("K_cache", np.zeros((1, 32, 299), "f4").swapaxes(1, 2), "'K_cache' is not C-contiguous"),
        ("position", np.zeros((1, 1), np.uint32), "there is no input 'position'"),
    ],
)
def test_a_feed_that_does_not_fit_is_refused_by_name(
    model: Path, name: str, value: np.ndarray | None, complaint: str
) -> None:
    session = OnnxSession(model / LAYER)
    feed = make_feed(session)
    feed.pop(name, None)
    if value is not None:
        feed[name] = value

    with pytest.raises(EdgeLLMError) as caught:
        session.run(feed)

    assert complaint in caught.value.message
    assert f"{LAYER}, shape group 0" in caught.value.message


@pytest.mark.parametrize("content", [b"", b"not a graph", None])
def test_a_file_that_is_no_graph_is_named(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "broken.onnx"
    if content is not None:
        path.write_bytes(content)

    with pytest.raises(ModelError, match=r"broken\.onnx .*export or copy the model again"):
        OnnxSession(path)


def test_a_file_cut_short_is_named(model: Path, tmp_path: Path) -> None:
    path = tmp_path / "short.onnx"
    whole = (model / LAYER).read_bytes()
    path.write_bytes(whole[: len(whole) // 2])

    with pytest.raises(ModelError, match=r"short\.onnx"):
        OnnxSession(path)


@pytest.mark.parametrize("groups", [None, "[]x", "[[1]]", "5"])
def test_a_graph_without_a_list_of_groups_is_named(
    model: Path, tmp_path: Path, groups: str | None
) -> None:
    graph = onnx.load(model / LAYER)
    del graph.metadata_props[:]
    if groups is not None:
        onnx.helper.set_model_props(graph, {SHAPE_GROUPS_KEY: groups})
    onnx.save(graph, tmp_path / "layer.onnx")

    with pytest.raises(ModelError, match=r"layer\.onnx: its metadata has no list"):
        OnnxSession(tmp_path / "layer.onnx")


def test_a_graph_with_axes_of_its_own_is_refused(tmp_path: Path) -> None:
    info = onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["batch"])
    out = onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, ["batch"])
    node = onnx.helper.make_node("Identity", ["x"], ["y"])
    graph = onnx.helper.make_graph([node], "other", [info], [out])
    opset = onnx.helper.make_opsetid("", 21)
    onnx.save(
        onnx.helper.make_model(graph, opset_imports=[opset], ir_version=10), tmp_path / "o.onnx"
    )

    with pytest.raises(ModelError, match="'x' is tensor"):
        OnnxSession(tmp_path / "o.onnx", shape_groups=[(1, 1)])
