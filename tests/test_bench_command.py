"""``edge-llm bench`` as a maker runs it: on the built-in model, and on the virtual card."""

import asyncio
import json
import os
import shutil
import subprocess
from io import StringIO
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from rich.console import Console

from edge_llm.bench import Report, compare, draw, load_report
from edge_llm.bench.asking import ask
from edge_llm.bench.bus_order import BusOrder
from edge_llm.bench.bus_process import ask_for_bus
from edge_llm.bench.holders import find_holders
from edge_llm.bench.plan import SHORT
from edge_llm.bench.reference import compare_with_published
from edge_llm.bench.report import Conditions, Decode, Model, Prefill
from edge_llm.bench.speed import measure_budget, measure_decode, measure_first_sentence
from edge_llm.bench.surroundings import caveats_of
from edge_llm.catalog import find_model
from edge_llm.device.reading import CardProcess, CardsReading
from edge_llm.engine import open_engine
from edge_llm.errors import ConfigurationError, DeviceError
from edge_llm.protocol import ChatRequest
from edge_llm.settings import EngineSettings, PacedSettings, WorkerSettings
from tests.once import made_once
from tests.test_cli import EDGE_LLM
from tests.virtual_ax650.card import Card

TIMEOUT_S = 100.0
BUILT_IN_ROW_BYTES = 2 * 192


def bench(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [EDGE_LLM, "bench", *arguments],
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
        env={**os.environ, **environment},
    )


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A report of the built-in model that was saved, and the table that was shown."""

    def measure(folder: Path) -> None:
        done = bench("--short", "--save", str(folder / "before.json"))
        assert done.returncode == 0, done.stderr
        assert "edge-llm bench: decoding" in done.stderr
        (folder / "shown").write_text(done.stdout)

    folder = made_once(tmp_path_factory, "bench", measure)
    return folder / "before.json", (folder / "shown").read_text()


@pytest.fixture
def card_alone(card: Card, tmp_path: Path) -> dict[str, str]:
    """The environment of a process that has the card; the test's own has loaded its library."""
    library = tmp_path / "alone" / "libaxcl_rt.so"
    library.parent.mkdir()
    shutil.copy(card.path, library)
    return {**card.environment, "EDGE_LLM_ENGINE__WORKER__AXCL_LIBRARY": str(library)}


def test_it_measures_the_built_in_model(saved: tuple[Path, str]) -> None:
    file, shown = saved
    report = load_report(file)
    assert (report.plan, report.simulated, report.model.name) == ("short", False, "edge-llm-tiny")
    assert report.model.runtime == "onnx"
    assert [prompt.length for prompt in report.prefill] == [128, 512]
    for prompt in report.prefill:
        assert prompt.prompt_tokens == pytest.approx(prompt.length, rel=0.05)
        assert prompt.cached_tokens < 8  # a prompt that was there before would cost nothing
        computed = prompt.prompt_tokens - prompt.cached_tokens
        assert prompt.tokens_per_s * prompt.ttft_s == pytest.approx(computed)
    assert report.decode.tokens == SHORT.decode_tokens
    assert report.decode.pieces >= report.decode.tokens / 2
    assert 0 < report.decode.token_ms_p50 <= report.decode.token_ms_p95
    assert 0 < report.first_sentence.ttft_s <= report.first_sentence.sentence_s
    assert report.budget.tokens > report.budget.words > report.budget.sentences > 0
    assert report.budget.took_s < report.budget.budget_s
    assert report.bus is None
    assert "not applicable" in str(report.bus_note)
    assert report.load_s > 0
    assert report.machine.memory_bytes
    for words in ("edge-llm-tiny", "tokens/s", "first sentence", "not applicable", "in 3 s"):
        assert words in shown


def test_what_is_saved_has_the_fields_of_its_schema(saved: tuple[Path, str]) -> None:
    told = json.loads(saved[0].read_text())
    assert told["schema"] == 1
    jsonschema.validate(told, Report.model_json_schema(mode="serialization"))
    assert set(told) == set(Report.model_json_schema(mode="serialization")["properties"])
    assert load_report(saved[0]).model_dump(mode="json") == told


def drawn(report: Report, before: Report | None = None) -> list[str]:
    out = StringIO()
    comparison = compare(report, before) if before else None
    Console(file=out, width=120).print(draw(report, comparison))
    return out.getvalue().splitlines()


def test_heat_and_load_that_have_changed_are_named(saved: tuple[Path, str]) -> None:
    before = load_report(saved[0])
    cool = Conditions(host_celsius=40, card_celsius=45, host_cpu_percent=3, throttled=())
    hot = Conditions(
        host_celsius=42, card_celsius=71, host_cpu_percent=60, throttled=("under_voltage",)
    )
    before = before.model_copy(update={"before": cool, "after": cool})
    now = before.model_copy(update={"before": hot, "after": hot})
    assert compare(before, before).differences == ()
    assert compare(now, before).differences == (
        "the card, °C before the run: 45, now 71",
        "load of the host, % before the run: 3, now 60",
        "held back before the run: no, now under voltage",
        "the card, °C after the run: 45, now 71",
        "held back after the run: no, now under voltage",
    )
    busy, held_back, held_back_after, heat = caveats_of(hot, hot, hot_celsius=70)
    assert "60 % busy" in busy
    assert "under voltage" in held_back
    assert "after the run" in held_back_after
    assert "71 °C" in heat
    assert list(caveats_of(cool, cool, hot_celsius=70)) == []
    assert list(caveats_of(Conditions(), Conditions(), hot_celsius=70)) == []  # nothing is known


@pytest.fixture(scope="module")
def earlier(saved: tuple[Path, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report of another version, of a machine that loads slowly and decodes wonderfully."""
    told = json.loads(saved[0].read_text())
    told["load_s"] *= 40
    told["decode"]["tokens_per_s"] *= 1e3
    told["version"], told["machine"]["name"] = "0.0.1", "another one"
    told["prefill"] = told["prefill"][:1]
    told["a field of a version to come"] = 1
    file = tmp_path_factory.mktemp("earlier") / "earlier.json"
    file.write_text(json.dumps(told))
    return file


def test_it_measures_the_card_and_its_bus_and_compares(
    card_model_dir: Path, card_alone: dict[str, str], tmp_path: Path, earlier: Path
) -> None:
    arguments = ("--short", "--json", "--model", str(card_model_dir), "--compare", str(earlier))
    done = bench(*arguments, **card_alone)
    assert done.returncode == 0, done.stderr
    report = Report.model_validate_json(done.stdout)
    assert report.simulated
    assert "simulated" in report.caveats[0]
    assert str(report.model.runtime).startswith("axcl 3.10.2, queued, rows in place, masks shared")
    assert report.bus is not None, report.bus_note
    # A row of the embedding, a position, and a value of the mask; the logits.
    assert report.bus.up_bytes_per_token == BUILT_IN_ROW_BYTES + 4 + 2
    assert report.bus.down_bytes_per_token == 2 * report.model.vocab_size
    assert report.bus.copies_per_token == 4
    assert min(report.bus.up_mb_per_s, report.bus.down_mb_per_s, report.bus.small_copy_ms) > 0
    counters = dict(line.split() for line in (tmp_path / "stats").read_text().splitlines())
    left = {name: counters[name] for name in ("models", "live_allocations", "leaked_at_reset")}
    assert set(left.values()) == {"0"}, left

    before, comparison = load_report(earlier), json.loads(done.stdout)["comparison"]
    figures = {figure["name"]: figure for figure in comparison["figures"]}
    decode = figures["decode.tokens_per_s"]
    assert decode["now"] == report.decode.tokens_per_s
    assert decode["before"] == before.decode.tokens_per_s
    assert decode["ratio"] == pytest.approx(decode["now"] / decode["before"])
    assert "prefill.128.tokens_per_s" in figures
    assert "prefill.512.tokens_per_s" not in figures  # the earlier run had none
    assert "bus.up_mb_per_s" not in figures
    assert f"edge-llm: 0.0.1, now {report.version}" in comparison["differences"]
    assert f"machine, name: another one, now {report.machine.name}" in comparison["differences"]
    assert f"model, runtime: onnx, now {report.model.runtime}" in comparison["differences"]
    shown = drawn(report, before)
    assert shown[0] == "SIMULATED CARD"
    assert "worse" in next(line for line in shown if line.startswith("decode, tokens/s"))
    assert "better" in next(line for line in shown if line.startswith("load, s"))


async def test_a_card_that_the_service_has_is_refused(
    card_model_dir: Path, card_alone: dict[str, str]
) -> None:
    library = Path(card_alone["EDGE_LLM_ENGINE__WORKER__AXCL_LIBRARY"])
    worker = WorkerSettings(model=card_model_dir, axcl_library=library, self_test=False)
    async with open_engine(EngineSettings(worker=worker)) as engine:
        await engine.ready()
        model = str(card_model_dir)
        done = await asyncio.to_thread(bench, "--short", "--model", model, **card_alone)
    assert done.returncode == 1
    assert done.stdout == ""
    said = done.stderr.splitlines()[-1]
    assert "the card is in use by a worker of edge-llm (process " in said
    assert "systemctl stop edge-llm" in said


def test_whoever_the_vendor_s_tool_names_has_the_card() -> None:
    using = CardProcess(index=0, pid=99_999_999, name="/usr/bin/axllm", cmm_used_kib=900_000)
    cards = CardsReading(driver="V3.10.2", cards=(), processes=(using,))
    library = Path("/nowhere/libaxcl_rt.so")
    assert [str(one) for one in find_holders(library, 0, cards)] == [
        "/usr/bin/axllm (process 99999999)"
    ]
    assert find_holders(library, 1, cards) == []
    assert find_holders(library, 0, None) == []


@pytest.mark.soak
def test_a_card_that_fails_while_it_loads_ends_it(
    card_model_dir: Path, card_alone: dict[str, str], tmp_path: Path
) -> None:
    (tmp_path / "control").write_text("axclrtCreateContext:1+:code=0x80300281")
    done = bench("--short", "--model", str(card_model_dir), **card_alone)
    assert done.returncode == 1
    said = done.stderr.splitlines()[-1]
    assert said.startswith("edge-llm: ")
    assert "axclrtCreateContext" in said
    assert "Traceback" not in done.stderr


async def test_a_bus_that_can_t_be_measured_is_told_and_waited_for_no_longer_than_it_may() -> None:
    nowhere = Path("/nowhere")
    order = BusOrder(
        library="/nowhere/lib.so", device=0, layer=nowhere, post=nowhere, num_layers=1, variant="no"
    )
    answer = await ask_for_bus(order, timeout_s=30, stop_timeout_s=5)
    assert answer.bus is None
    assert "/nowhere/lib.so can't be loaded" in str(answer.error)
    with pytest.raises(DeviceError, match="did not answer within"):
        await ask_for_bus(order, timeout_s=0.01, stop_timeout_s=5)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--compare", "/nowhere.json"], "/nowhere.json can't be read"),
        (["--save", "/nowhere/at/all.json"], "can't be written"),
        (["--model", "/nowhere"], "/nowhere"),
    ],
)
def test_a_mistake_is_told_before_anything_is_measured(arguments: list[str], words: str) -> None:
    done = bench(*arguments)
    assert done.returncode == 1
    assert words in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_a_file_that_is_no_report_is_refused(saved: tuple[Path, str], tmp_path: Path) -> None:
    file = tmp_path / "other.json"
    for text, words in (
        ("{}", "no report"),
        ("not JSON", "no report"),
        (saved[0].read_text().replace('"schema": 1', '"schema": 2'), "newer edge-llm"),
    ):
        file.write_text(text)
        with pytest.raises(ConfigurationError, match=words):
            load_report(file)


async def test_figures_are_those_of_an_engine_whose_speed_is_known() -> None:
    text = "One two three. " + "Then there is more to say of it. " * 100
    paced = PacedSettings(text=text, ttft_s=0.2, tokens_per_s=200.0)
    async with open_engine(EngineSettings(kind="paced", paced=paced)) as engine:
        decode = await measure_decode(engine, SHORT, lambda text: None)
        first = await measure_first_sentence(engine, SHORT, lambda text: None)
        budget = await measure_budget(engine, SHORT, decode, first, lambda text: None)
        stopped = await ask(
            engine, ChatRequest(prompt="Go on."), lambda answer: answer.took_s > 0.3
        )
    assert 20 < decode.tokens_per_s <= 220
    assert 4.5 < decode.token_ms_p50 < 50
    assert 0.2 <= first.ttft_s < 2
    assert first.ttft_s < first.sentence_s < 3
    assert first.chars == len("One two three.")
    assert budget.finish_reason in ("time_budget", "length")
    assert 1 < budget.took_s < 4
    assert budget.sentences > 5
    assert 40 < budget.tokens <= budget.tokens_at_speed * 1.1
    assert stopped.done is None
    assert 1 < stopped.num_tokens < 100


def model(name: str, **sizes: Any) -> Model:
    return Model(
        name=name,
        runtime="axcl",
        quantization=None,
        context_len=1024,
        vocab_size=151_669,
        **sizes,
    )


def test_published_figures_are_found_by_name_and_by_size() -> None:
    prefill = (
        Prefill(
            length=128, prompt_tokens=130, cached_tokens=0, ttft_s=0.5, tokens_per_s=260, rounds=1
        ),
    )
    decode = Decode(tokens=9, tokens_per_s=20.0, token_ms_p50=50, token_ms_p95=50, pieces=9)
    known = find_model("qwen3-0.6b")
    assert known is not None
    by_name = compare_with_published(model("Qwen3-0.6B"), 18.0, prefill, decode)
    assert len(by_name) == len(known.speeds)
    assert all(one.is_same and one.model == "qwen3-0.6b" for one in by_name)
    assert by_name[0].tokens_per_s_ratio == pytest.approx(20.0 / known.speeds[0].tokens_per_s)
    assert known.load_s is not None
    assert by_name[0].load_ratio == pytest.approx(18.0 / known.load_s)
    of_chunk = next(one for one in by_name if one.source == "DOM")
    assert of_chunk.ttft_s is not None
    assert of_chunk.ttft_ratio == pytest.approx(0.5 / of_chunk.ttft_s)
    of_short = next(one for one in by_name if one.ttft_s == 0.670)  # of 12 tokens
    assert of_short.ttft_ratio is None
    sizes = {"num_layers": 28, "embedding_bytes": 151_936 * 1024 * 2}
    by_size = compare_with_published(model("mine", **sizes), 18.0, prefill, decode)
    assert {one.model for one in by_size} == {"qwen3-0.6b"}
    assert not any(one.is_same for one in by_size)
    other = {"num_layers": 6, "embedding_bytes": 2048 * BUILT_IN_ROW_BYTES}
    assert compare_with_published(model("mine", **other), 18.0, prefill, decode) == ()
    # As many bytes as 1024 wide rows of another vocabulary would have.
    narrow = {"num_layers": 24, "embedding_bytes": 151_936 * 896 * 2}
    found = compare_with_published(model("mine", **narrow), 18.0, prefill, decode)
    assert {one.model for one in found} == {"qwen2.5-0.5b-int4"}


def test_published_figures_are_shown_with_their_source(saved: tuple[Path, str]) -> None:
    report = load_report(saved[0])
    published = compare_with_published(
        model("qwen3-0.6b"), report.load_s, report.prefill, report.decode
    )
    shown = "\n".join(drawn(report.model_copy(update={"published": published})))
    assert "12.88" in shown
    assert "M5Stack, pi5" in shown
