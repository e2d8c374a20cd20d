"""The virtual AX650 computes what it should, counts what happens, and forgives nothing."""

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from ctypes import byref, c_char_p, c_int, c_int32, c_int64, c_uint8, c_uint32, c_uint64, c_void_p
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge_llm.engine.export import export_model
from edge_llm.engine.model import ModelDirectory
from edge_llm.tiny import MODEL_DIR
from tests.forward import open_forward
from tests.programs import require_program
from tests.tiny_random_model import write_checkpoint
from tests.virtual_ax650 import cost_check
from tests.virtual_ax650.build import build
from tests.virtual_ax650.card import (
    DEVICE_TO_DEVICE,
    DEVICE_TO_HOST,
    HOST_TO_DEVICE,
    HOST_TO_HOST,
    Axcl,
    AxclError,
    Card,
    DeviceProperties,
    open_card,
)
from tests.virtual_ax650.pack import GEOMETRIES, open_weights, pack, pack_hollow
from tests.virtual_ax650.reference import Reference
from tests.virtual_ax650.schemes import (
    CopyingLoop,
    Graph,
    VendorLayer,
    VendorLoop,
    start_runtime,
    stop_runtime,
)

LAST_N, CHUNK_LEN = 63, 16
LADDER = (1, 32)

NO_CONNECT = 0x80300181
NO_BIND_CONTEXT = 0x80300284
NOT_DEVICE_MEMORY = 0x80300581
MEMORY_ILLEGAL = 0x80300503
MEMORY_EXECUTE_FAIL = 0x8030050C
ENGINE_NULL, ENGINE_ILLEGAL, ENGINE_INVALID_INDEX = 0x80300702, 0x80300703, 0x80300781

HELD_OUT = Path(__file__).parent / "data" / "tiny_held_out.jsonl"


@pytest.fixture(scope="module", autouse=True)
def compiler() -> str:
    return require_program("cc", "build-essential")


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A small random model of each kind: as a checkpoint, as ONNX, and packed."""
    made = {}
    for kind in ("qwen3", "qwen2"):
        folder = tmp_path_factory.mktemp(kind)
        source = write_checkpoint(folder / "hf", kind)
        made[f"{kind}-hf"] = source
        made[kind] = pack(
            source, folder / "packed", last_n=LAST_N, ladder=LADDER, chunk_len=CHUNK_LEN
        )
        export_model(
            source,
            folder / "onnx",
            context_len=LAST_N + 1,
            chunk_len=CHUNK_LEN,
            progress=lambda done, total: None,
        )
        made[f"{kind}-onnx"] = folder / "onnx"
    return made


@pytest.fixture
def card() -> Iterator[Card]:
    with open_card() as card:
        yield card


@pytest.fixture
def axcl(card: Card) -> Axcl:
    """The functions of a started runtime."""
    start_runtime(card.axcl)
    return card.axcl


def code_of(call: Callable[..., object], *arguments: Any) -> int:
    with pytest.raises(AxclError) as caught:
        call(*arguments)
    return caught.value.code


def tokens(count: int, seed: int = 1) -> list[int]:
    return [int(token) for token in np.random.RandomState(seed).randint(3, 280, count)]


def run_python(code: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code, *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
        cwd=Path(__file__).parent.parent,
        env={**os.environ, **environment},
    )


# What it computes


@pytest.mark.parametrize("kind", ["qwen3", "qwen2"])
def test_it_computes_what_the_reference_does_to_the_bit(
    axcl: Axcl, models: dict[str, Path], kind: str
) -> None:
    text, reference = tokens(48), Reference(open_weights(models[f"{kind}-hf"]), LAST_N)
    with VendorLoop(axcl, models[kind]) as loop:
        for start, count, history_len in ((0, 16, 0), (16, 16, 32), (32, 9, 32)):
            chunk = text[start : start + count]
            np.testing.assert_array_equal(
                loop.feed(chunk, CHUNK_LEN), reference.feed(chunk, CHUNK_LEN, history_len)
            )
        for token in text[41:]:
            np.testing.assert_array_equal(loop.feed([token]), reference.feed([token], 1, LAST_N))


@pytest.mark.parametrize("kind", ["qwen3", "qwen2"])
def test_decoding_a_text_gives_what_prefilling_it_gives(
    axcl: Axcl, models: dict[str, Path], kind: str
) -> None:
    text = tokens(40)
    with VendorLoop(axcl, models[kind]) as prefilled, VendorLoop(axcl, models[kind]) as decoded:
        for start in range(0, 40, CHUNK_LEN):
            chunk = text[start : start + CHUNK_LEN]
            logits = prefilled.feed(chunk, CHUNK_LEN)
            for token in chunk:
                single = decoded.feed([token])
            np.testing.assert_array_equal(logits, single)


def test_both_loops_give_the_same_tokens(models: dict[str, Path]) -> None:
    with open_card(IO="loose") as card:  # PyAXEngine binds the largest sizes
        start_runtime(card.axcl)
        with (
            VendorLoop(card.axcl, models["qwen3"]) as vendor,
            CopyingLoop(card.axcl, models["qwen3"]) as copying,
        ):
            completion = vendor.complete(tokens(20), CHUNK_LEN, 44)
            assert completion == copying.complete(tokens(20), CHUNK_LEN, 44)
            assert vendor.num_tokens == LAST_N  # to the end of the context


@pytest.mark.parametrize("kind", ["qwen3", "qwen2"])
def test_the_next_token_is_that_of_onnx_or_a_tie(
    axcl: Axcl, models: dict[str, Path], kind: str
) -> None:
    """An untrained model often has ties: rounding the logits alone changes 0.7 % of its tokens."""
    same = total = 0
    with VendorLoop(axcl, models[kind]) as loop:
        for seed in range(10):
            loop.num_tokens, forward = 0, open_forward(models[f"{kind}-onnx"])
            for token in tokens(LAST_N, seed):
                logits, expected = loop.feed([token]), forward.feed([token], 1)
                same += int(logits.argmax() == expected.argmax())
                total += 1
                assert expected.max() - expected[logits.argmax()] < 0.1 * expected.std()
                assert (logits - expected).std() < 0.06 * expected.std()
    assert same / total >= 0.96


@pytest.fixture(scope="module")
def builtin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return pack(MODEL_DIR, tmp_path_factory.mktemp("builtin"), ladder=(1, 128, 1023))


def test_the_built_in_model_says_what_it_says_on_the_cpu(axcl: Axcl, builtin: Path) -> None:
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(MODEL_DIR / "tokenizer" / "tokenizer.json"))
    same = total = 0
    with VendorLoop(axcl, builtin) as loop:
        for line in HELD_OUT.read_text().splitlines()[:20]:
            text = "".join(
                f"<|im_start|>{message['role']}\n{message['content']}<|im_end|>\n"
                for message in json.loads(line)["messages"]
            )
            loop.num_tokens, forward = 0, open_forward(MODEL_DIR)
            for token in tokenizer.encode(text).ids[:80]:
                logits, expected = loop.feed([token]), forward.feed([token], 1)
                same += int(logits.argmax() == expected.argmax())
                total += 1
                assert expected.max() - expected[logits.argmax()] < 0.25  # else a tie
    assert same / total >= 0.98


def test_the_built_in_model_is_fast_enough_to_test_with(axcl: Axcl, builtin: Path) -> None:
    with VendorLoop(axcl, builtin) as loop:
        loop.feed(tokens(100), 128)
        started = time.perf_counter()
        for token in tokens(30):
            loop.feed([token])
        assert 30 / (time.perf_counter() - started) > 60  # 600 on an idle machine


@pytest.mark.parametrize("cache", ["K_cache", "V_cache"])
def test_a_nan_in_a_hidden_row_leaks(axcl: Axcl, models: dict[str, Path], cache: str) -> None:
    with VendorLoop(axcl, models["qwen3"]) as loop:
        assert np.isfinite(loop.feed(tokens(10), CHUNK_LEN)).all()
        nan = np.full(loop.kv_dim, 0x7FC0, np.uint16)
        row = loop._buffers[0].decode[cache] + 50 * nan.nbytes
        axcl("axclrtMemcpy", row, nan.ctypes.data, nan.nbytes, HOST_TO_DEVICE)
        assert np.isnan(loop.feed([5])).all()


def test_a_new_allocation_is_nan(axcl: Axcl) -> None:
    for size in (1000, 300_000):
        memory, values = axcl.malloc(size), np.zeros(size // 2, np.uint16)
        axcl("axclrtMemcpy", values.ctypes.data, memory, size, DEVICE_TO_HOST)
        assert (values == 0x7FC0).all()


def test_the_mask_is_applied_as_it_is_given(
    axcl: Axcl, models: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    text = tokens(30)
    with VendorLoop(axcl, models["qwen3"]) as loop, VendorLoop(axcl, models["qwen3"]) as other:
        loop.feed(text[:16], CHUNK_LEN), other.feed(text[:16], CHUNK_LEN)
        make = other.chunk

        def hide_the_first(*arguments: Any) -> Any:
            hidden, positions, mask = make(*arguments)
            mask[..., 0] = 0xC780  # -65536
            return hidden, positions, mask

        monkeypatch.setattr(other, "chunk", hide_the_first)
        assert (loop.feed([9]) != other.feed([9])).any()


# What it is


def test_the_directory_is_the_vendors(models: dict[str, Path]) -> None:
    directory = ModelDirectory(models["qwen3"])
    assert (directory.prefix, directory.runtime) == ("qwen3", "axmodel")
    assert directory.layers[2].name == "qwen3_p16_l2_together.axmodel"
    assert (directory.path / "config.json").read_bytes() == b""
    assert directory.tokenizer.name == "qwen3_tokenizer"


def test_tensors_and_groups(axcl: Axcl, models: dict[str, Path]) -> None:
    layer = Graph(axcl, ModelDirectory(models["qwen3"]).layers[0])
    shapes = [{t.name: t.shape for t in [*i, *o]} for i, o in zip(layer.inputs, layer.outputs)]  # noqa: B905
    assert layer.groups == [(1, 63), (16, 0), (16, 32)]
    assert shapes[0] == {
        "K_cache": (1, 63, 32),
        "V_cache": (1, 63, 32),
        "indices": (1, 1),
        "input": (1, 1, 96),
        "mask": (1, 1, 64),
        "K_cache_out": (1, 1, 32),
        "V_cache_out": (1, 1, 32),
        "output": (1, 1, 96),
    }
    assert (shapes[1]["K_cache"], shapes[1]["mask"]) == ((1, 1, 32), (1, 16, 16))
    assert (shapes[2]["K_cache"], shapes[2]["mask"]) == ((1, 32, 32), (1, 16, 48))
    kind = c_int()
    axcl("axclrtEngineGetInputDataType", layer.info, 2, byref(kind))
    assert kind.value == 7 + 1  # UINT32
    axcl("axclrtEngineGetOutputDataType", layer.info, 0, byref(kind))
    assert kind.value == 14  # BF16
    index = axcl.library.axclrtEngineGetInputIndexByName
    assert (index(layer.info, b"mask"), index(layer.info, b"x")) == (4, ENGINE_INVALID_INDEX)


def test_versions_and_properties(card: Card, axcl: Axcl, models: dict[str, Path]) -> None:
    numbers = [c_int32() for _ in range(3)]
    axcl("axclrtGetVersion", *map(byref, numbers))
    assert [number.value for number in numbers] == [3, 10, 2]
    assert axcl.library.axclrtGetSocName() == b"AX650N"
    properties = DeviceProperties()
    card.set_temperature(49.263)
    axcl("axclrtGetDeviceProperties", 1, byref(properties))
    assert properties.temperature == 49263
    assert properties.totalCmmSize == 7_208_960  # KiB, as axcl-smi says
    assert properties.freeCmmSize == 7_190_084
    post = Graph(axcl, ModelDirectory(models["qwen3"]).post)
    assert axcl.library.axclrtEngineGetModelCompilerVersion(post.model)
    sys_bytes, cmm_bytes = c_int64(), c_int64()
    axcl("axclrtEngineGetUsageFromModelId", post.model, byref(sys_bytes), byref(cmm_bytes))
    assert cmm_bytes.value == ModelDirectory(models["qwen3"]).post.stat().st_size


def test_a_library_without_the_asynchronous_functions(models: dict[str, Path]) -> None:
    with open_card("without_async") as card:
        assert not hasattr(card.axcl.library, "axclrtEngineExecuteAsync")
        start_runtime(card.axcl)
        with VendorLoop(card.axcl, models["qwen2"]) as loop:
            assert loop.feed([3]).shape == (288,)


# Strictness: memory


def copy(axcl: Axcl, to: object, source: object, count: int, kind: int) -> int:
    return code_of(axcl, "axclrtMemcpy", to, source, count, kind)


def test_copies_are_checked(axcl: Axcl) -> None:
    memory, other = axcl.malloc(100), axcl.malloc(100)
    host = (c_uint8 * 200)()
    assert copy(axcl, host, memory, 10, HOST_TO_DEVICE) == NOT_DEVICE_MEMORY
    assert copy(axcl, memory, other, 10, HOST_TO_DEVICE) == NOT_DEVICE_MEMORY
    assert copy(axcl, host, host, 10, DEVICE_TO_HOST) == NOT_DEVICE_MEMORY
    assert copy(axcl, memory, host, 10, DEVICE_TO_DEVICE) == NOT_DEVICE_MEMORY
    assert copy(axcl, memory, host, 10, HOST_TO_HOST) == NOT_DEVICE_MEMORY
    assert copy(axcl, memory, host, 101, HOST_TO_DEVICE) == NOT_DEVICE_MEMORY
    assert copy(axcl, memory + 60, host, 41, HOST_TO_DEVICE) == NOT_DEVICE_MEMORY
    assert copy(axcl, memory + 100, host, 1, HOST_TO_DEVICE) == NOT_DEVICE_MEMORY
    assert copy(axcl, memory, host, 0, HOST_TO_DEVICE) == MEMORY_ILLEGAL
    assert copy(axcl, memory, memory + 10, 20, DEVICE_TO_DEVICE) == MEMORY_ILLEGAL
    assert copy(axcl, memory, host, 10, 4) == 0x80300504
    assert copy(axcl, None, host, 10, HOST_TO_DEVICE) == 0x80300502


def test_copies_arrive(axcl: Axcl) -> None:
    memory, other, host = axcl.malloc(100), axcl.malloc(100), (c_uint8 * 50)(*range(50))
    axcl("axclrtMemcpy", memory + 50, host, 50, HOST_TO_DEVICE)
    axcl("axclrtMemcpy", other, memory + 50, 50, DEVICE_TO_DEVICE)
    axcl("axclrtMemset", other + 10, 7, 5)
    axcl("axclrtMemcpy", host, other, 50, DEVICE_TO_HOST)
    assert list(host) == [*range(10), *[7] * 5, *range(15, 50)]
    axcl("axclrtMemcmp", other, memory + 50, 10)
    assert axcl.library.axclrtMemcmp(other, memory + 50, 11) != 0


def test_frees_are_checked(axcl: Axcl) -> None:
    memory = axcl.malloc(100)
    assert code_of(axcl, "axclrtFree", memory + 50) == NOT_DEVICE_MEMORY
    axcl("axclrtFree", memory)
    assert code_of(axcl, "axclrtFree", memory) == NOT_DEVICE_MEMORY
    assert code_of(axcl, "axclrtFree", 4096) == NOT_DEVICE_MEMORY
    assert copy(axcl, memory, (c_uint8 * 1)(), 1, HOST_TO_DEVICE) == NOT_DEVICE_MEMORY
    host = c_void_p()
    axcl("axclrtMallocHost", byref(host), 10)
    axcl("axclrtFreeHost", host)
    assert code_of(axcl, "axclrtFreeHost", host) == MEMORY_ILLEGAL


def test_the_host_can_not_touch_the_cards_memory() -> None:
    done = run_python(
        "import ctypes\n"
        "from tests.virtual_ax650.card import open_card\n"
        "from tests.virtual_ax650.schemes import start_runtime\n"
        "with open_card() as card:\n"
        "    start_runtime(card.axcl)\n"
        "    memory = card.axcl.malloc(100)\n"
        "    print('allocated', flush=True)\n"
        "    ctypes.string_at(memory, 1)\n"
    )
    assert (done.stdout, done.returncode) == ("allocated\n", -11)


def test_memory_is_as_large_as_the_cards(card: Card, axcl: Axcl) -> None:
    gib = 1 << 30
    blocks = [axcl.malloc(gib) for _ in range(6)]  # takes no memory of the host
    assert code_of(axcl.malloc, gib) == MEMORY_EXECUTE_FAIL
    axcl("axclrtFree", blocks[0])
    card.set_cmm_bytes(6 * gib)
    assert code_of(axcl.malloc, gib) == MEMORY_EXECUTE_FAIL  # what the card itself uses counts
    card.set_cmm_bytes(7 * gib)
    axcl.malloc(gib)


def test_models_count_as_the_cards_memory(tmp_path: Path) -> None:
    path = pack_hollow(GEOMETRIES["qwen3-4b"], tmp_path, last_n=1023, ladder=())
    with open_card(CMM_MIB=4500) as card:
        start_runtime(card.axcl)
        assert code_of(lambda: VendorLoop(card.axcl, path)) == MEMORY_EXECUTE_FAIL
        assert card.counter("cmm_used") > 4000 << 20


# Strictness: bindings


@pytest.fixture
def layer(axcl: Axcl, models: dict[str, Path]) -> VendorLayer:
    return VendorLayer(axcl, Graph(axcl, ModelDirectory(models["qwen3"]).layers[0]))


def test_what_is_bound_is_checked(axcl: Axcl, layer: VendorLayer) -> None:
    graph, memory, io = layer.graph, layer.decode, layer.ios[0]
    kv_bytes = 2 * 32

    def refused(side: str, index: int, at: int, size: int) -> int:
        tensors = graph.inputs[0] if side == "Input" else graph.outputs[0]
        graph.bind(io, side, index, at, size)
        code = code_of(graph.execute, io, 0)
        graph.bind(io, side, index, memory[tensors[index].name], tensors[index].size)
        return code

    graph.execute(io, 0)
    spare = axcl.malloc(4096)
    assert refused("Input", 3, memory["input"], 190) == ENGINE_ILLEGAL
    assert refused("Input", 3, spare, 194) == ENGINE_ILLEGAL  # exact sizes
    assert refused("Input", 4, spare + 2, 128) == ENGINE_ILLEGAL  # mask at an offset
    assert refused("Input", 4, spare + 4000, 128) == NOT_DEVICE_MEMORY
    assert refused("Input", 4, 4096, 128) == NOT_DEVICE_MEMORY
    assert refused("Output", 2, memory["input"], 192) == ENGINE_ILLEGAL  # its own input
    assert refused("Output", 0, memory["V_cache"], kv_bytes) == ENGINE_ILLEGAL
    assert refused("Output", 0, memory["V_cache_out"], kv_bytes) == ENGINE_ILLEGAL
    graph.execute(io, 0)
    graph.bind(io, "Output", 0, memory["K_cache"] + 5 * kv_bytes, kv_bytes)
    graph.execute(io, 0)  # a new row in its place
    graph.bind(layer.ios[2], "Output", 0, layer.prefill["K_cache"] + kv_bytes, 16 * kv_bytes)
    assert code_of(graph.execute, layer.ios[2], 2) == ENGINE_ILLEGAL  # but not in prefill
    axcl("axclrtFree", memory["mask"])
    assert code_of(graph.execute, io, 0) == NOT_DEVICE_MEMORY


def test_rows_in_place_can_be_forbidden(models: dict[str, Path]) -> None:
    with open_card(KV_IN_PLACE=0) as card:
        start_runtime(card.axcl)
        graph = Graph(card.axcl, ModelDirectory(models["qwen3"]).layers[0])
        layer = VendorLayer(card.axcl, graph)
        graph.bind(layer.ios[0], "Output", 0, layer.decode["K_cache"], 64)
        assert code_of(graph.execute, layer.ios[0], 0) == ENGINE_ILLEGAL


def test_ids_groups_and_handles_are_checked(
    axcl: Axcl, layer: VendorLayer, models: dict[str, Path]
) -> None:
    graph, io = layer.graph, layer.ios[0]
    other = Graph(axcl, ModelDirectory(models["qwen3"]).layers[1])
    ids = graph.model, graph.context
    assert code_of(graph.execute, io, 3) == ENGINE_ILLEGAL
    assert code_of(graph.execute, io, 1) == ENGINE_ILLEGAL  # sizes of another group
    assert code_of(graph.execute, graph.make_io(), 0) == ENGINE_NULL  # nothing bound
    assert code_of(other.execute, io, 0) == ENGINE_ILLEGAL  # the IO of another model
    assert code_of(axcl, "axclrtEngineExecute", ids[0], other.context, 0, io) == ENGINE_ILLEGAL
    assert code_of(axcl, "axclrtEngineExecute", 0, ids[1], 0, io) == ENGINE_ILLEGAL
    assert code_of(axcl, "axclrtEngineExecute", *ids, 0, None) == ENGINE_NULL
    assert code_of(axcl, "axclrtEngineExecute", *ids, 0, 12345) == ENGINE_ILLEGAL
    assert code_of(graph.bind, io, "Input", 5, layer.decode["mask"], 8) == ENGINE_INVALID_INDEX
    other.close()
    assert code_of(axcl, "axclrtEngineUnload", other.model) == ENGINE_ILLEGAL
    assert code_of(axcl, "axclrtEngineDestroyIOInfo", other.info) == ENGINE_ILLEGAL
    axcl("axclrtEngineDestroyIO", io)
    assert code_of(graph.execute, io, 0) == ENGINE_ILLEGAL


def test_files_that_are_no_models(axcl: Axcl, models: dict[str, Path], tmp_path: Path) -> None:
    good = ModelDirectory(models["qwen3"]).post.read_bytes()
    broken, model = tmp_path / "broken.axmodel", c_uint64()

    def load() -> None:
        axcl("axclrtEngineLoadFromFile", c_char_p(str(broken).encode()), byref(model))

    assert code_of(load) == ENGINE_ILLEGAL
    for text in (good[:-2], good + b"\0", b"x" + good[1:], good[:20], b""):
        broken.write_bytes(text)
        assert code_of(load) == 0x8030070C


def test_a_model_in_the_cards_memory(axcl: Axcl, models: dict[str, Path]) -> None:
    text, model = ModelDirectory(models["qwen3"]).post.read_bytes(), c_uint64()
    memory = axcl.malloc(len(text))
    axcl("axclrtMemcpy", memory, c_char_p(text), len(text), HOST_TO_DEVICE)
    axcl("axclrtEngineLoadFromMem", memory, len(text), byref(model))
    assert (
        code_of(axcl, "axclrtEngineLoadFromMem", c_char_p(text), len(text), byref(model))
        == NOT_DEVICE_MEMORY
    )


# Strictness: the runtime's life


def test_nothing_works_before_the_start(card: Card) -> None:
    assert code_of(card.axcl.malloc, 10) == NO_BIND_CONTEXT
    assert code_of(card.axcl, "axclrtSetDevice", 1) == 0x80300185
    assert code_of(card.axcl, "axclFinalize") == 0x80300185


def test_nothing_works_after_the_end(card: Card) -> None:
    axcl = card.axcl
    device = start_runtime(axcl)
    memory = axcl.malloc(10)
    stop_runtime(axcl, device)
    assert code_of(axcl.malloc, 10) == NO_BIND_CONTEXT
    assert code_of(axcl, "axclrtFree", memory) == NO_BIND_CONTEXT
    assert code_of(axcl, "axclInit", None) == 0x80300106  # once per process
    assert card.counter("leaked_at_reset") == 1


def test_the_engine_is_to_be_started(card: Card, models: dict[str, Path]) -> None:
    axcl, model = card.axcl, c_uint64()
    axcl("axclInit", b"")
    axcl("axclrtSetDevice", 1)
    path = c_char_p(str(ModelDirectory(models["qwen3"]).post).encode())
    assert code_of(axcl, "axclrtEngineLoadFromFile", path, byref(model)) == 0x8030070C
    axcl("axclrtEngineInit", 0)
    axcl("axclrtEngineInit", 0)  # as each session of PyAXEngine does
    axcl("axclrtEngineLoadFromFile", path, byref(model))
    assert code_of(axcl, "axclrtEngineFinalize") == 0x80300706
    assert code_of(axcl, "axclrtEngineInit", 1) == 0x8030070C


def test_the_configuration_is_read(card: Card, tmp_path: Path) -> None:
    path = tmp_path / "axcl.json"
    init = c_char_p(str(path).encode())
    assert code_of(card.axcl, "axclInit", init) == 0x8030060B
    for text in ("{", '{"dma buf size":"0x1000"}', "{} {}"):
        path.write_text(text)
        assert code_of(card.axcl, "axclInit", init) == 0x80300603
    path.write_text('{"log": {"host": {"path": "/tmp/l", "level": 2}}, "dma buf size":"0x400000"}')
    card.axcl("axclInit", init)


def test_a_device_has_an_id_and_not_an_index(card: Card) -> None:
    card.axcl("axclInit", None)
    assert code_of(card.axcl, "axclrtSetDevice", 0) == 0x80300184
    count = c_uint32()
    card.axcl("axclrtGetDeviceCount", byref(count))
    assert count.value == 1


def in_thread(work: Callable[[], object]) -> None:
    failures: list[BaseException] = []

    def run() -> None:
        try:
            work()
        except BaseException as error:  # noqa: BLE001
            failures.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    if failures:
        raise failures[0]


def test_each_thread_needs_a_context(axcl: Axcl) -> None:
    context, default = c_void_p(), c_void_p()
    axcl("axclrtGetCurrentContext", byref(context))
    axcl("axclrtGetDefaultContext", byref(default), 1)
    assert context.value == default.value
    assert code_of(in_thread, lambda: axcl.malloc(10)) == NO_BIND_CONTEXT

    def use_it() -> None:
        axcl("axclrtSetCurrentContext", context)
        axcl.malloc(10)

    in_thread(use_it)
    axcl("axclrtCreateContext", byref(context), 1)
    axcl("axclrtDestroyContext", context)
    assert code_of(axcl.malloc, 10) == NO_BIND_CONTEXT
    assert code_of(axcl, "axclrtSetCurrentContext", context) == 0x80300283
    assert code_of(axcl, "axclrtDestroyContext", default) == 0x80300282


def test_a_card_that_is_not_there() -> None:
    with open_card(DEVICES=0) as card:
        assert code_of(start_runtime, card.axcl) == NO_CONNECT


# Counting


def test_counters_are_exact(tmp_path: Path) -> None:
    path = pack_hollow(GEOMETRIES["qwen3-4b"], tmp_path, last_n=1023, ladder=())
    with open_card() as card:
        start_runtime(card.axcl)
        with CopyingLoop(card.axcl, path) as loop:
            card.reset_counters()
            loop.feed([1])
            counters, calls = card.counters(), card.calls()
        assert counters["h2d_bytes"] == 151_110_800  # facts 2.4
        assert counters["d2h_bytes"] == 36 * (2 * 1024 * 2 + 2560 * 2) + 303_872
        assert (counters["layer_executes"], counters["post_executes"]) == (36, 1)
        assert (calls["axclrtMemcpy"], calls["axclrtEngineExecute"]) == (290, 37)
        assert calls["axclrtSetCurrentContext"] == 37
        assert card.executes() == {0: 37}
        with VendorLoop(card.axcl, path) as vendor:
            card.reset_counters()
            vendor.feed([1])
            counters = card.counters()
        copies = [counters[f"{direction}_copies"] for direction in ("h2d", "d2d", "d2h")]
        assert copies == [73, 108, 1]  # facts 3.2
        assert counters["h2d_bytes"] == 36 * (2 * 1024 + 4) + 2 * 2560
        assert counters["d2h_bytes"] == 303_872


def test_all_memory_comes_back(card: Card, axcl: Axcl, models: dict[str, Path]) -> None:
    with VendorLoop(axcl, models["qwen3"]) as loop:
        loop.complete(tokens(20), CHUNK_LEN, 5)
        assert card.counter("live_bytes") == card.counter("peak_bytes") > 0
    counters = card.counters()
    left = ("live_bytes", "live_allocations", "cmm_used", "models", "ios", "io_infos")
    assert [counters[name] for name in left] == [0] * 6
    stop_runtime(axcl, 1)
    assert card.counter("leaked_at_reset") == card.counter("refusals") == 0


@pytest.mark.parametrize("point", cost_check.POINTS, ids=lambda p: f"{p.model}-{p.loop.__name__}")
def test_the_cost_model_gives_the_published_speeds(point: cost_check.Point, tmp_path: Path) -> None:
    assert abs(cost_check.check(point, tmp_path).error) < cost_check.LIMIT


def test_virtual_time_can_be_waited_for() -> None:
    with open_card(COST="sleep") as card:
        start_runtime(card.axcl)
        memory, host = card.axcl.malloc(35_000_000), np.zeros(35_000_000, np.uint8)
        started = time.perf_counter()
        card.axcl("axclrtMemcpy", memory, host.ctypes.data, host.nbytes, HOST_TO_DEVICE)
        assert time.perf_counter() - started > 0.1
        assert card.seconds == pytest.approx(0.100135)


# Faults


def test_a_call_fails_when_it_is_told_to(card: Card, axcl: Axcl, layer: VendorLayer) -> None:
    card.fault("axclrtEngineExecute:2:code=0x8030070c")
    layer.graph.execute(layer.ios[0], 0)
    assert code_of(layer.graph.execute, layer.ios[0], 0) == 0x8030070C
    layer.graph.execute(layer.ios[0], 0)
    card.fault("axclrtMalloc:1+:code=0x8030050c")
    assert [code_of(axcl.malloc, 1) for _ in range(2)] == [0x8030050C] * 2
    card.clear_faults()
    axcl.malloc(1)


def test_a_call_hangs_until_it_is_released(card: Card, axcl: Axcl) -> None:
    card.fault("axclrtMemset:1:hang,code=0x80300505")
    memory, done = axcl.malloc(10), threading.Event()
    context = c_void_p()
    axcl("axclrtGetCurrentContext", byref(context))

    def hang() -> None:
        axcl("axclrtSetCurrentContext", context)
        assert code_of(axcl, "axclrtMemset", memory, 0, 10) == 0x80300505
        done.set()

    thread = threading.Thread(target=hang)
    thread.start()
    assert not done.wait(0.1)
    axcl.malloc(10)  # other threads go on
    card.release()
    assert done.wait(5)
    thread.join()


def test_a_call_is_slow(card: Card, axcl: Axcl) -> None:
    card.fault("axclrtMalloc:1:hang=0.2")
    started = time.perf_counter()
    axcl.malloc(10)
    assert 0.2 <= time.perf_counter() - started < 2


def test_a_dead_card_answers_nothing_until_it_is_rebooted(
    card: Card, axcl: Axcl, layer: VendorLayer
) -> None:
    card.fault("axclrtEngineExecute:1:die")
    for _ in range(2):
        assert code_of(layer.graph.execute, layer.ios[0], 0) == NO_CONNECT
    assert code_of(axcl, "axclrtSetDevice", 1) == NO_CONNECT
    axcl("axclrtRebootDevice", 1)
    assert code_of(axcl.malloc, 1) == NO_BIND_CONTEXT
    axcl("axclrtSetDevice", 1)
    axcl.malloc(1)
    assert code_of(layer.graph.execute, layer.ios[0], 0) == ENGINE_ILLEGAL  # nothing is left


def test_another_process_can_be_steered_and_counted(tmp_path: Path) -> None:
    control, state, stats = tmp_path / "control", tmp_path / "state", tmp_path / "stats"
    code = (
        "import sys\n"
        "from tests.virtual_ax650.card import Axcl, AxclError, open_library\n"
        "from tests.virtual_ax650.schemes import start_runtime\n"
        "axcl = Axcl(open_library(sys.argv[1]))\n"
        "try:\n"
        "    start_runtime(axcl)\n"
        "    axcl.malloc(100)\n"
        "    print('ready', flush=True)\n"
        "    input()\n"
        "    axcl.malloc(100)\n"
        "except AxclError as error: print(error)\n"
    )
    environment = {
        "VIRTUAL_AXCL_CONTROL": str(control),
        "VIRTUAL_AXCL_STATE": str(state),
        "VIRTUAL_AXCL_STATS": str(stats),
    }
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(build())],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parent.parent,
        env={**os.environ, **environment},
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    control.write_text("axclrtMalloc:1:die\n")
    output, _ = process.communicate("\n", timeout=20)
    assert output == "axclrtMalloc failed 0x80300181\n"
    counted = dict(line.split() for line in stats.read_text().splitlines() if line[0] != "#")
    assert (counted["axclrtMalloc"], counted["allocations"]) == ("2", "1")
    again = run_python(code, str(build()), **environment)  # the card is still dead
    assert again.stdout == "axclrtGetDeviceList failed 0x80300181\n"


# Asynchronous calls


class Queue:
    """A stream, and calls on it."""

    def __init__(self, axcl: Axcl) -> None:
        self._axcl = axcl
        self.handle = c_void_p()
        axcl("axclrtCreateStream", byref(self.handle))

    def copy(self, to: int, source: int, count: int, kind: int) -> None:
        self._axcl("axclrtMemcpyAsync", to, source, count, kind, self.handle)

    def execute(self, graph: Graph, io: int, group: int = 0) -> None:
        self._axcl("axclrtEngineExecuteAsync", graph.model, graph.context, group, io, self.handle)

    def wait(self) -> None:
        self._axcl("axclrtSynchronizeStream", self.handle)


def decode_on_a_stream(loop: VendorLoop, queue: Queue, token: int) -> np.ndarray[Any, Any]:
    """Submit a whole token: layers bound to each other, new rows in their places in the cache."""
    hidden, positions, mask = loop.chunk([token], 0)
    logits = np.zeros(loop.vocab_size, np.uint16)
    first, row_bytes = loop._buffers[0], 2 * loop.kv_dim
    first_input = first.decode["input"]
    queue.copy(first_input, hidden.ctypes.data, hidden.nbytes, HOST_TO_DEVICE)
    following = [*loop._buffers[1:], loop._post]
    for layer, after in zip(loop._buffers, following, strict=True):
        memory, graph, io = layer.decode, layer.graph, layer.ios[0]
        queue.copy(memory["indices"], positions.ctypes.data, 4, HOST_TO_DEVICE)
        queue.copy(memory["mask"], mask.ctypes.data, mask.nbytes, HOST_TO_DEVICE)
        for index, name in enumerate(("K_cache", "V_cache")):
            place = memory[name] + loop.num_tokens * row_bytes
            graph.bind(io, "Output", index, place, row_bytes)
        graph.bind(io, "Output", 2, after.decode["input"], 2 * loop.hidden_size)
        queue.execute(graph, io)
    queue.execute(loop._post.graph, loop._post.ios[0])
    queue.copy(logits.ctypes.data, loop._post.decode["output"], logits.nbytes, DEVICE_TO_HOST)
    loop.num_tokens += 1
    queue.kept = hidden, positions, mask  # type: ignore[attr-defined]
    return logits


@pytest.mark.parametrize("mode", ["eager", "late"])
def test_a_stream_does_things_in_order(models: dict[str, Path], mode: str) -> None:
    with open_card(ASYNC=mode) as card:
        start_runtime(card.axcl)
        with (
            VendorLoop(card.axcl, models["qwen3"]) as loop,
            VendorLoop(card.axcl, models["qwen3"]) as expected,
        ):
            queue = Queue(card.axcl)
            for token in tokens(8):
                logits = decode_on_a_stream(loop, queue, token)
                queue.wait()
                np.testing.assert_array_equal(
                    (logits.astype(np.uint32) << 16).view(np.float32), expected.feed([token])
                )
            card.axcl("axclrtDestroyStream", queue.handle)
        assert card.counter("streams") == 0


def test_a_forgotten_synchronization_shows(models: dict[str, Path]) -> None:
    with open_card(ASYNC="late") as card:
        start_runtime(card.axcl)
        with VendorLoop(card.axcl, models["qwen3"]) as loop:
            queue = Queue(card.axcl)
            logits = decode_on_a_stream(loop, queue, 5)
            time.sleep(0.05)
            assert (logits == 0xFFFF).all()
            assert card.counter("layer_executes") == 0
            queue.wait()
            assert not (logits == 0xFFFF).any()


def test_an_upload_is_read_when_its_turn_comes() -> None:
    with open_card(ASYNC="late") as card:
        start_runtime(card.axcl)
        queue, memory = Queue(card.axcl), card.axcl.malloc(4)
        values, result = np.full(4, 1, np.uint8), np.zeros(4, np.uint8)
        queue.copy(memory, values.ctypes.data, 4, HOST_TO_DEVICE)
        values[:] = 2  # too early
        queue.wait()
        card.axcl("axclrtMemcpy", result.ctypes.data, memory, 4, DEVICE_TO_HOST)
        assert list(result) == [2] * 4


def test_a_queued_failure_comes_with_the_synchronization(card: Card, axcl: Axcl) -> None:
    queue, memory, host = Queue(axcl), axcl.malloc(4), np.zeros(4, np.uint8)
    card.fault("virtual_axcl_task:1:hang=0.1")
    queue.copy(memory, host.ctypes.data, 4, HOST_TO_DEVICE)
    queue.copy(memory, host.ctypes.data, 4, HOST_TO_DEVICE)
    axcl("axclrtFree", memory)  # too early
    assert code_of(axcl, "axclrtSynchronizeStreamWithTimeout", queue.handle, 10) == 0x80300383
    assert code_of(queue.wait) == NOT_DEVICE_MEMORY
    queue.wait()


def test_what_a_stream_can_not_do(axcl: Axcl, models: dict[str, Path]) -> None:
    queue, memory, other = Queue(axcl), axcl.malloc(4), axcl.malloc(4)
    assert code_of(queue.copy, memory, other, 4, DEVICE_TO_DEVICE) == 0x80300504
    with open_card(ASYNC_D2D=1) as card:
        start_runtime(card.axcl)
        queue, memory, other = Queue(card.axcl), card.axcl.malloc(4), card.axcl.malloc(4)
        queue.copy(memory, other, 4, DEVICE_TO_DEVICE)
        queue.wait()


def test_a_stream_that_hangs_ends_with_the_reboot(card: Card, axcl: Axcl) -> None:
    queue, memory, host = Queue(axcl), axcl.malloc(4), np.zeros(4, np.uint8)
    card.fault("virtual_axcl_task:1:hang")
    queue.copy(memory, host.ctypes.data, 4, HOST_TO_DEVICE)
    assert code_of(axcl, "axclrtSynchronizeStreamWithTimeout", queue.handle, 50) == 0x80300383
    axcl("axclrtRebootDevice", 1)
    assert code_of(queue.wait) == NO_BIND_CONTEXT
    assert card.counter("streams") == 0


# Cleanliness

CONVERSATION = """
import sys
from pathlib import Path
from tests.test_virtual_ax650 import Queue, decode_on_a_stream, tokens
from tests.virtual_ax650.card import Axcl, open_library
from tests.virtual_ax650.schemes import VendorLoop, start_runtime, stop_runtime

axcl = Axcl(open_library(Path(sys.argv[1])))
device = start_runtime(axcl)
with VendorLoop(axcl, Path(sys.argv[2])) as loop:
    loop.complete(tokens(20), 16, 20)
    queue = Queue(axcl)
    for token in tokens(5):
        decode_on_a_stream(loop, queue, token)
        queue.wait()
    axcl("axclrtDestroyStream", queue.handle)
stop_runtime(axcl, device)
print("done")
"""


@pytest.mark.parametrize("kind", ["qwen3", "qwen2"])
def test_a_conversation_is_clean(models: dict[str, Path], kind: str) -> None:
    sanitizer = subprocess.run(
        ["cc", "-print-file-name=libasan.so"], capture_output=True, text=True, check=True
    )
    done = run_python(
        CONVERSATION,
        str(build(variant="asan")),
        str(models[kind]),
        LD_PRELOAD=sanitizer.stdout.strip(),
        ASAN_OPTIONS="detect_leaks=0",  # the interpreter's own
    )
    assert (done.stdout, done.stderr) == ("done\n", "")
