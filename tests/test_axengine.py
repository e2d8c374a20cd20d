"""Sessions over a stand-in for axengine: the same tokens as a reference, and clear errors."""

import gc
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge_llm.engine import stacks
from edge_llm.engine.generation import ModelRunner
from edge_llm.engine.model import ModelDirectory
from edge_llm.engine.stacks import OpenStack, open_stack
from edge_llm.errors import ConfigurationError, DeviceError, DeviceLostError, ModelError
from edge_llm.npu.axengine import AxEngineSession
from edge_llm.npu.session import Session
from edge_llm.npu.stack import causal_mask
from edge_llm.settings import WorkerSettings
from tests.programs import require_program
from tests.test_card import expected, greedy, tokens
from tests.tiny_random_model import Kind, write_checkpoint
from tests.virtual_ax650.card import Card, open_card
from tests.virtual_ax650.pack import pack

STAND_IN = Path(__file__).parent / "axengine_stand_in"
LAST_N, CHUNK_LEN = 127, 16
LADDERS = {"prefill": (1, 32, 64), "decode": ()}
KINDS: tuple[Kind, ...] = ("qwen3", "qwen2")

# As with the vendor's, a constructor that fails leaves a __del__ that fails.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    require_program("cc", "build-essential")
    return {kind: write_checkpoint(tmp_path_factory.mktemp(kind) / "hf", kind) for kind in KINDS}


@pytest.fixture(scope="module")
def models(
    sources: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> dict[tuple[str, str], Path]:
    return {
        (kind, name): pack(
            source,
            tmp_path_factory.mktemp("packed") / kind,
            last_n=LAST_N,
            ladder=ladder,
            chunk_len=CHUNK_LEN,
        )
        for kind, source in sources.items()
        for name, ladder in LADDERS.items()
    }


@pytest.fixture
def model(models: dict[tuple[str, str], Path]) -> Path:
    return models["qwen3", "prefill"]


@pytest.fixture
def card(monkeypatch: pytest.MonkeyPatch) -> Iterator[Card]:
    """A card, and an axengine that was not imported yet, as in a new process."""
    monkeypatch.setattr(sys, "path", [str(STAND_IN), *sys.path])
    monkeypatch.delitem(sys.modules, "axengine", raising=False)
    with open_card(IO="loose") as card:
        yield card
        card.clear_faults()
        if axengine := sys.modules.pop("axengine", None):
            gc.collect()  # sessions that failed go before their library is closed
            axengine._finalize()


def load(path: Path, **settings: Any) -> OpenStack:
    directory = ModelDirectory(path)
    return open_stack(directory, WorkerSettings(**settings), lambda done, total: None)


def runner_of(path: Path) -> ModelRunner:
    loaded, directory = load(path, runtime="axengine"), ModelDirectory(path)
    return ModelRunner(loaded.stack, directory.open_embedding(loaded.geometry), loaded.geometry)


def layer_of(path: Path) -> AxEngineSession:
    return AxEngineSession(ModelDirectory(path).layers[0])


def make_feed(layer: Session, group: int = 0) -> dict[str, Any]:
    rng = np.random.RandomState(1)
    inputs = layer.inputs(group)
    feed = {
        name: rng.standard_normal(inputs[name].shape).astype(inputs[name].dtype)
        for name in ("K_cache", "V_cache", "input")
    }
    _, chunk_len, total_len = inputs["mask"].shape
    mask = causal_mask(chunk_len, total_len - chunk_len)
    feed["mask"] = mask[None].astype(inputs["mask"].dtype)
    feed["mask"][..., :5] = 0
    feed["indices"] = np.arange(5, 5 + chunk_len, dtype=inputs["indices"].dtype)[None]
    return feed


@pytest.mark.usefixtures("card")
@pytest.mark.parametrize("ladder", LADDERS)
@pytest.mark.parametrize("kind", KINDS)
def test_it_gives_the_references_tokens(
    kind: str, ladder: str, models: dict[tuple[str, str], Path], sources: dict[str, Path]
) -> None:
    runner = runner_of(models[kind, ladder])
    for length in (1, 17, 90, 127):
        prompt = tokens(length, seed=length)
        room = min(4, LAST_N + 1 - length)
        assert greedy(runner, prompt, room) == expected(sources[kind], prompt, room), length


def test_prompts_go_through_the_prefill_groups(card: Card, model: Path) -> None:
    runner = runner_of(model)
    card.reset_counters()
    greedy(runner, tokens(60), 2)
    assert list(card.executes()) == [0, 1, 2, 3]


@pytest.mark.usefixtures("card")
def test_sizes_and_types_are_those_of_the_file(model: Path) -> None:
    layer = layer_of(model)
    assert layer.num_groups == 1 + len(LADDERS["prefill"])
    assert [layer.inputs(group)["mask"].shape[-1] for group in range(4)] == [128, 16, 48, 80]
    assert str(layer.inputs()["K_cache"].dtype) == "bfloat16"
    assert layer.inputs()["indices"].dtype == np.uint32
    assert list(layer.outputs()) == ["K_cache_out", "V_cache_out", "output"]


@pytest.mark.usefixtures("card")
def test_types_may_be_given_by_name(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    by_type = layer_of(model)
    axengine = sys.modules["axengine"]
    make = axengine.NodeArg
    monkeypatch.setattr(
        axengine, "NodeArg", lambda name, dtype, shape: make(name, str(dtype), tuple(shape))
    )
    by_name = layer_of(model)
    assert by_name.inputs(1) == by_type.inputs(1)
    assert by_name.outputs(1) == by_type.outputs(1)


@pytest.mark.usefixtures("card")
@pytest.mark.parametrize("group", [0, 2])
def test_arrays_in_any_order_are_right(group: int, model: Path) -> None:
    layer = layer_of(model)
    feed = make_feed(layer, group)
    right = layer.run(feed, group)
    in_columns = {name: np.asfortranarray(values) for name, values in feed.items()}
    sliced = {name: np.repeat(values, 2, axis=-1)[..., ::2] for name, values in feed.items()}
    for other in (in_columns, sliced):
        for name, values in layer.run(other, group).items():
            np.testing.assert_array_equal(values, right[name], err_msg=name)
    # It takes the adapter: the library itself would have copied the columns as if they were rows.
    *_, output = layer._session.run(None, in_columns, shape_group=group)
    assert not np.array_equal(output, right["output"])


@pytest.mark.usefixtures("card")
def test_nothing_is_printed_to_stdout(model: Path, capfd: pytest.CaptureFixture[str]) -> None:
    greedy(runner_of(model), tokens(20), 2)
    printed = capfd.readouterr()
    assert printed.out == ""
    assert "[INFO] Using provider: AXCLRTExecutionProvider" in printed.err


def test_a_run_that_fails_says_with_which_code(
    card: Card, model: Path, sources: dict[str, Path]
) -> None:
    runner, prompt = runner_of(model), tokens(30)
    card.fault("axclrtEngineExecute:3:code=0x8030070c")
    with pytest.raises(DeviceError, match=r"0x8030070c .ENGINE_EXECUTE_FAIL") as caught:
        greedy(runner, prompt, 2)
    assert caught.value.device_code == 0x8030070C
    assert not caught.value.is_lost
    assert greedy(runner, prompt, 2) == expected(sources["qwen3"], prompt, 2)


@pytest.mark.parametrize(
    "fault", ["axclrtEngineExecute:3:code=0x80300181", "axclrtEngineExecute:3:die", "*:1:die"]
)
def test_a_dead_card_is_lost(fault: str, card: Card, model: Path) -> None:
    runner = runner_of(model)
    card.fault(fault)
    with pytest.raises(DeviceLostError):
        greedy(runner, tokens(30), 2)


def test_a_copy_that_fails_says_so_without_a_code(card: Card, model: Path) -> None:
    layer = layer_of(model)
    feed = make_feed(layer)
    card.fault("axclrtMemcpy:2:code=0x80300505")
    with pytest.raises(DeviceLostError, match=r"Memcpy failed for input 1\.; the card"):
        layer.run(feed)


@pytest.mark.usefixtures("card")
def test_a_wrong_feed_is_refused(model: Path) -> None:
    layer = layer_of(model)
    feed = make_feed(layer)
    wrong = [
        feed | {"mask": feed["mask"][..., 1:]},
        feed | {"indices": feed["indices"].astype(np.int32)},
        feed | {"input": feed["input"].astype(np.float32)},
        {name: values for name, values in feed.items() if name != "V_cache"},
    ]
    for bad in wrong:
        with pytest.raises(DeviceError, match=r"_l0_together\.axmodel, shape group 0"):
            layer.run(bad)
    with pytest.raises(DeviceError, match="shape group 4"):
        layer.run(feed, 4)
    assert set(layer.run(feed)) == {"K_cache_out", "V_cache_out", "output"}


@pytest.mark.usefixtures("card")
def test_a_broken_file_is_named(model: Path, tmp_path: Path) -> None:
    file = tmp_path / "broken.axmodel"
    file.write_bytes(ModelDirectory(model).layers[0].read_bytes()[:-100])
    for path in (file, tmp_path / "missing.axmodel"):
        with pytest.raises(ModelError, match=path.name):
            AxEngineSession(path)


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("axclInit:1:code=0x80300181", "runtime. 0x80300181. .DEVICE_NO_CONNECT"),
        ("axclrtGetDeviceList:1:code=0x80300180", "0x80300180, find total 0 device. .DEVICE_QUERY"),
        ("axclrtEngineInit:1:code=0x80300706", "can't start the NPU"),
        ("axclrtMalloc:2:code=0x8030050c", "0x8030050c for input 1. .MEMORY_EXECUTE_FAIL"),
    ],
)
def test_a_device_that_fails_while_loading_is_no_broken_file(
    fault: str, message: str, card: Card, model: Path
) -> None:
    card.fault(fault)
    with pytest.raises(DeviceError, match=message):
        layer_of(model)


@pytest.mark.usefixtures("card")
def test_only_a_card_that_is_there_can_be_chosen(model: Path) -> None:
    with pytest.raises(DeviceError, match="Device index 1 is out of range"):
        load(model, runtime="axengine", device=1)


def test_without_axengine_it_says_what_to_install(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "axengine", None)
    with pytest.raises(ConfigurationError, match="install the wheel from https"):
        layer_of(model)


def test_without_a_runtime_it_says_so(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [str(STAND_IN), *sys.path])
    monkeypatch.delitem(sys.modules, "axengine", raising=False)
    monkeypatch.setattr("ctypes.util.find_library", lambda name: None)
    with pytest.raises(ConfigurationError, match=r"No providers found.*runtime of the board"):
        load(model, runtime="axengine")


@pytest.mark.usefixtures("card")
def test_it_is_taken_where_there_is_no_library_for_a_card(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stacks, "find_axcl", lambda path: None)
    loaded = load(model, runtime="auto")
    assert loaded.runtime == "axengine"
    assert loaded.geometry.groups == ((1, 127), (16, 0), (16, 32), (16, 64))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigurationError, match="its runtime is not installed"):
        load(model, runtime="auto")


PROGRAM = """
import json, sys
from pathlib import Path
from tests.test_axengine import greedy, runner_of, tokens

print(json.dumps(greedy(runner_of(Path(sys.argv[1])), tokens(20), 3)))
"""


def test_a_process_gives_everything_back(
    model: Path, sources: dict[str, Path], tmp_path: Path
) -> None:
    stats = tmp_path / "stats"
    with open_card(IO="loose", STATS=stats) as card:
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM, str(model)],
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
            cwd=STAND_IN.parent.parent,
            env={**os.environ, **card.environment, "PYTHONPATH": str(STAND_IN)},
        )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == expected(sources["qwen3"], tokens(20), 3)
    counters = dict(line.rsplit(" ", 1) for line in stats.read_text().splitlines())
    assert counters["leaked_at_reset"] == "0"
