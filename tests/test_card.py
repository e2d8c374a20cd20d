"""A stack on the virtual card: the same tokens as a reference, few bytes, nothing left behind."""

import shutil
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge_llm.engine.export import export_model
from edge_llm.engine.generation import ModelRunner
from edge_llm.errors import DeviceError, DeviceLostError
from edge_llm.npu.card import SAFE, VARIANTS, Variant
from edge_llm.npu.card_layer import CardLayer
from edge_llm.npu.self_test import choose_variant
from edge_llm.tiny import MODEL_DIR
from edge_llm.tiny.grammar import make_dialogues
from tests.bench.bench_card import count
from tests.cards import open_model
from tests.forward import open_forward
from tests.programs import require_program
from tests.tiny_random_model import Kind, write_checkpoint
from tests.virtual_ax650.card import open_card
from tests.virtual_ax650.pack import GEOMETRIES, open_weights, pack
from tests.virtual_ax650.reference import Reference

DATA = Path(__file__).parent / "data"
LAST_N, CHUNK_LEN = 127, 16
LADDER = (1, 32, 64)
KINDS: tuple[Kind, ...] = ("qwen3", "qwen2")


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    require_program("cc", "build-essential")
    return {kind: write_checkpoint(tmp_path_factory.mktemp(kind) / "hf", kind) for kind in KINDS}


@pytest.fixture(scope="module")
def models(sources: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {
        kind: pack(
            source,
            tmp_path_factory.mktemp("packed") / kind,
            last_n=LAST_N,
            ladder=LADDER,
            chunk_len=CHUNK_LEN,
        )
        for kind, source in sources.items()
    }


def tokens(count: int, seed: int = 1) -> list[int]:
    return [int(token) for token in np.random.RandomState(seed).randint(3, 280, count)]


def last(steps: Iterator[Any]) -> Any:
    *_, logits = steps
    return logits


def greedy(runner: ModelRunner, prompt: Sequence[int], num_tokens: int) -> list[int]:
    token_ids = [int(last(runner.prefill(prompt)).argmax())]
    while len(token_ids) < num_tokens:
        token_ids.append(int(runner.decode(token_ids[-1]).argmax()))
    return token_ids


def expected(source: Path, prompt: Sequence[int], num_tokens: int) -> list[int]:
    reference = Reference(open_weights(source), LAST_N)
    token_ids = [int(reference.feed(prompt, len(prompt), 0).argmax())]
    while len(token_ids) < num_tokens:
        token_ids.append(int(reference.feed(token_ids[-1:], 1, LAST_N).argmax()))
    return token_ids


@pytest.mark.parametrize("variant", VARIANTS, ids=str)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("late", ["eager", "late"])
def test_every_variant_gives_the_references_tokens(
    kind: str, variant: Variant, late: str, models: dict[str, Path], sources: dict[str, Path]
) -> None:
    with open_model(models[kind], variant=variant, num_slots=2, ASYNC=late) as model:
        runner = model.runner()
        for length in (1, 16, 17, 90, 127):
            prompt = tokens(length, seed=length)
            room = min(8, LAST_N + 1 - length)
            assert greedy(runner, prompt, room) == expected(sources[kind], prompt, room), length


def test_slots_keep_conversations_apart(models: dict[str, Path], sources: dict[str, Path]) -> None:
    with open_model(models["qwen3"], variant=VARIANTS[0], num_slots=2) as model:
        runner = model.runner()
        first, second = tokens(60, seed=3), tokens(40, seed=4)
        answers = [greedy(runner, prompt, 5) for prompt in (first, second)]
        longer = [*first, *answers[0], *tokens(10, seed=5)]
        assert runner.shared_prefix_len(longer) >= 64
        model.card.reset_counters()
        assert greedy(runner, longer, 5) == expected(sources["qwen3"], longer, 5)
        # The other slot's caches are bound, not copied: only rows of one chunk and 4 tokens move.
        assert model.card.counter("d2d_bytes") < 2 * len(model.geometry.groups) * 20_000
        assert runner.shared_prefix_len([*second, 1]) == 40
        assert greedy(runner, second, 5) == answers[1]


def test_it_goes_on_rightly_after_a_cancel_and_after_a_failed_run(
    models: dict[str, Path], sources: dict[str, Path]
) -> None:
    for variant in (VARIANTS[0], SAFE):
        with open_model(models["qwen3"], variant=variant) as model:
            runner, prompt = model.runner(), tokens(90, seed=6)
            right = expected(sources["qwen3"], prompt, 6)
            next(iter(runner.prefill(tokens(80, seed=7))))  # one chunk of another, then given up
            assert greedy(runner, prompt, 6) == right
            for nth in (1, 2, 3, 5):
                task = "virtual_axcl_task" if variant.is_async else "axclrtEngineExecute"
                model.card.fault(f"{task}:{nth}:code=0x8030070c")
                with pytest.raises(DeviceError, match="0x8030070C ENGINE_EXECUTE_FAIL"):
                    greedy(runner, tokens(50, seed=8 + nth), 4)
                model.card.clear_faults()
                assert greedy(runner, prompt, 6) == right
            model.card.fault("axclrtMemcpy:1:code=0x8030050c")
            with pytest.raises(DeviceError, match="MEMORY_EXECUTE_FAIL"):
                greedy(runner, tokens(50, seed=9), 4)
            model.card.clear_faults()
            assert greedy(runner, prompt, 6) == right


def test_a_step_moves_little_and_allocates_nothing(models: dict[str, Path]) -> None:
    with open_model(models["qwen3"], variant=VARIANTS[0]) as model:
        runner = model.runner()
        greedy(runner, tokens(20), 2)
        model.card.reset_counters()
        runner.decode(5)
        counters, hidden, vocab = (
            model.card.counters(),
            model.geometry.hidden_size,
            model.geometry.vocab_size,
        )
        assert counters["h2d_bytes"] == 2 * hidden + 4 + 2  # a row, a position, one mask column
        assert counters["d2h_bytes"] == 2 * vocab
        assert counters["d2d_bytes"] == 0
        assert counters["allocations"] == 0
        assert "axclrtMallocHost" not in model.card.calls()
        assert (
            counters["layer_executes"] + counters["post_executes"] == model.geometry.num_layers + 1
        )


def test_nothing_is_left_on_the_card(models: dict[str, Path]) -> None:
    with open_card() as card:
        before = card.counters()
    for variant in VARIANTS:
        with open_model(models["qwen2"], variant=variant, num_slots=3) as model:
            greedy(model.runner(), tokens(70), 3)
            model.stack.close()
            after = model.card.counters()
            for name in ("live_allocations", "live_bytes", "models", "ios", "io_infos", "streams"):
                assert after[name] == 0, name
            assert after["leaked_at_reset"] == before["leaked_at_reset"]
            assert not after["refusals"]


@pytest.mark.parametrize(
    "num_requests", [200, pytest.param(10_000, marks=[pytest.mark.soak, pytest.mark.timeout(3600)])]
)
def test_many_requests_and_cancels_leave_nothing(
    num_requests: int, models: dict[str, Path]
) -> None:
    rng = np.random.RandomState(1)
    with open_model(models["qwen3"], variant=VARIANTS[0], num_slots=2) as model:
        runner = model.runner()
        greedy(runner, tokens(20), 2)
        live = model.card.counter("live_bytes")
        for number in range(num_requests):
            prompt = tokens(int(rng.randint(1, 100)), seed=number % 50)
            for step, _ in enumerate(runner.prefill(prompt)):
                if step == rng.randint(0, 3):
                    break
            else:
                runner.decode(1)
        assert model.card.counter("live_bytes") == live
        assert not model.card.counter("refusals")


def rows(model: Any, count: int) -> Any:
    return model.embedding.rows(tokens(count, seed=11))


@pytest.mark.parametrize(
    ("switches", "chosen"),
    [
        ({}, VARIANTS[0]),
        ({"KV_IN_PLACE": 0}, VARIANTS[1]),
        ({"ASYNC": "late"}, VARIANTS[0]),
    ],
    ids=str,
)
def test_the_self_test_takes_the_fastest_way_that_works(
    switches: dict[str, Any], chosen: Variant, models: dict[str, Path]
) -> None:
    with open_model(models["qwen3"], **switches) as model:
        result = choose_variant(model.stack, rows(model, 100), model.geometry.groups)
        assert result.variant == model.stack.variant == chosen
        assert [variant for variant, _ in result.rejected] == list(
            VARIANTS[: VARIANTS.index(chosen)]
        )


def test_the_self_test_notices_rows_that_are_lost(
    models: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    with open_model(models["qwen3"]) as model:
        # A card that writes rows in place without saying so, and to somewhere else.
        bind = CardLayer.bind_rows_out
        monkeypatch.setattr(
            CardLayer,
            "bind_rows_out",
            lambda layer, position=None: bind(layer, position and position // 2),
        )
        result = choose_variant(model.stack, rows(model, 60), model.geometry.groups)
        assert result.variant == VARIANTS[1]
        assert "decode differs by" in result.rejected[0][1]


def test_without_streams_the_synchronous_way_is_taken(models: dict[str, Path]) -> None:
    with open_model(models["qwen3"], library="without_async") as model:
        result = choose_variant(model.stack, rows(model, 60), model.geometry.groups)
        assert result.variant == VARIANTS[2]
        assert "has no streams" in result.rejected[0][1]


def test_a_dead_card_is_lost_and_says_so(models: dict[str, Path]) -> None:
    with open_model(models["qwen3"], variant=VARIANTS[0]) as model:
        runner = model.runner()
        greedy(runner, tokens(20), 2)
        model.card.die()
        with pytest.raises(DeviceLostError, match="NO_CONNECT"):
            runner.decode(1)


def test_a_queue_that_hangs_is_given_up_in_time(models: dict[str, Path]) -> None:
    with open_model(models["qwen3"], variant=VARIANTS[0], sync_timeout_s=0.3) as model:
        runner = model.runner()
        greedy(runner, tokens(20), 2)
        model.card.fault("virtual_axcl_task:3:hang")
        with pytest.raises(DeviceLostError, match="SYNC_TIMEOUT"):
            runner.decode(1)
        model.card.release()


def test_any_thread_may_run_it(models: dict[str, Path]) -> None:
    with open_model(models["qwen3"], variant=VARIANTS[0]) as model, ThreadPoolExecutor(1) as pool:
        runner, prompt = model.runner(), tokens(30)
        here = greedy(runner, prompt, 3)
        assert pool.submit(greedy, runner, [*prompt, 9], 3).result()
        assert greedy(runner, prompt, 3) == here


@pytest.fixture(scope="module")
def taught(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Models that have learned something, of both families, with their sources."""
    made = {"qwen3-source": MODEL_DIR}
    made["qwen2-source"] = tmp_path_factory.mktemp("qwen2") / "hf"
    shutil.copytree(MODEL_DIR / "tokenizer", made["qwen2-source"])
    shutil.copytree(DATA / "tiny_qwen2", made["qwen2-source"], dirs_exist_ok=True)
    made["qwen2-onnx"] = tmp_path_factory.mktemp("qwen2") / "onnx"
    export_model(made["qwen2-source"], made["qwen2-onnx"], progress=lambda done, total: None)
    made["qwen3-onnx"] = MODEL_DIR
    for kind in KINDS:
        folder = tmp_path_factory.mktemp(kind) / "packed"
        made[kind] = pack(
            made[f"{kind}-source"], folder, last_n=1023, ladder=(1, 128, 256, 512, 895)
        )
    return made


def text_ids() -> list[int]:
    """A page of what visitors and the model say, as token ids."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(MODEL_DIR / "tokenizer" / "tokenizer.json"))
    ids: list[int] = []
    for dialogue in make_dialogues(seed=77, count=30):
        for message in dialogue:
            text = f"<|im_start|>{message['role']}\n{message['content']}<|im_end|>\n"
            ids += tokenizer.encode(text).ids
    return ids


@pytest.mark.parametrize("kind", KINDS)
def test_fifty_prompts_give_the_references_tokens(kind: str, taught: dict[str, Path]) -> None:
    """Through slots that change, cancels and failed runs in between."""
    weights, rng, text = (
        open_weights(taught[f"{kind}-source"]),
        np.random.RandomState(1),
        text_ids(),
    )
    lengths = [1, 2, 127, 128, 129, 900, *(int(n) for n in rng.geometric(1 / 90, 44))]
    with open_model(taught[kind], variant=VARIANTS[0], num_slots=3) as model:
        runner = model.runner()
        for number, length in enumerate(lengths):
            begin = int(rng.randint(0, len(text) - 900)) if number % 3 else 0  # some share a prefix
            prompt = text[begin : begin + min(length, 900)]
            if number % 5 == 0:
                next(iter(runner.prefill(text[5:200])))  # given up
            if number % 7 == 0:
                model.card.fault("virtual_axcl_task:4:code=0x8030070c")
                with pytest.raises(DeviceError):
                    last(runner.prefill(text[number : number + 40]))
                model.card.clear_faults()
            reference = Reference(weights, 1023)
            wanted = [int(reference.feed(prompt, len(prompt), 0).argmax())]
            while len(wanted) < 4:
                wanted.append(int(reference.feed(wanted[-1:], 1, 1023).argmax()))
            assert greedy(runner, prompt, 4) == wanted, (number, length)


@pytest.mark.parametrize("kind", KINDS)
def test_next_tokens_are_those_of_the_cpu(kind: str, taught: dict[str, Path]) -> None:
    """At least 98 of 100; bf16 decides near-ties another way."""
    text = text_ids()[:900]
    forward = open_forward(taught[f"{kind}-onnx"])
    same = 0
    with open_model(taught[kind], variant=VARIANTS[0]) as model:
        runner = model.runner()
        logits = last(runner.prefill(text[:1]))
        wanted = forward.feed(text[:1], 1)
        for token in text[1:]:
            same += int(logits.argmax() == wanted.argmax())
            logits, wanted = runner.decode(token), forward.feed([token], 1)
    assert same / (len(text) - 1) >= 0.98, same


@pytest.mark.parametrize(
    ("name", "last_n", "copied_mb", "tokens_per_s"),
    [
        ("qwen3-4b", 1023, 151, 4.0),
        ("qwen3-4b", 2047, 302, 4.0),
        ("qwen3-1.7b", 1023, 117, 8.5),
        ("qwen3-0.6b", 1023, 117, 18.0),
    ],
)
def test_a_token_of_a_published_model_moves_kilobytes(
    name: str, last_n: int, copied_mb: int, tokens_per_s: float
) -> None:
    """Beside the usual Python loop and the vendor's scheme; the speeds are the cost model's."""
    counts = count(name, last_n)
    ours = counts[f"edge-llm, {VARIANTS[0]}"]
    assert ours["h2d_bytes"] <= 12_000
    assert ours["d2h_bytes"] <= 310_000
    assert ours["d2d_bytes"] == ours["allocations"] == 0
    assert ours["executes"] == GEOMETRIES[name].num_layers + 1
    assert 1 / ours["predicted_s"] >= tokens_per_s
    assert counts["copying Python loop"]["h2d_bytes"] // 10**6 == copied_mb
    vendors = counts["vendor's C++ scheme"]["predicted_s"]
    assert ours["predicted_s"] < counts[f"edge-llm, {SAFE}"]["predicted_s"] < vendors
