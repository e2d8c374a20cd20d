"""The service on the virtual card: it loads, answers, reports, and fails with a clear error."""

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest

from edge_llm.engine.model import ModelDirectory
from edge_llm.engine.queue import QueuedEngine
from edge_llm.engine.stacks import memory_needed, plan_memory
from edge_llm.engine.worker import WorkerEngine
from edge_llm.errors import ModelError
from edge_llm.npu.axcl import Axcl, CardGraph
from edge_llm.npu.card import VARIANTS
from edge_llm.protocol import ChatRequest, Delta, Done, Message
from edge_llm.settings import EngineSettings, QueueSettings, WorkerSettings
from edge_llm.tiny import MODEL_DIR
from tests.clients import eventually
from tests.test_cli import run
from tests.virtual_ax650.card import Card, open_card
from tests.virtual_ax650.pack import GEOMETRIES, pack_hollow

pytestmark = pytest.mark.timeout(180)


def settings(model: Path, card: Card, **worker: Any) -> EngineSettings:
    return EngineSettings(
        worker=WorkerSettings(
            model=model, axcl_library=card.path, restart_delay_s=0, stop_timeout_s=5, **worker
        )
    )


@contextlib.asynccontextmanager
async def open_worker(model: Path, card: Card, **worker: Any) -> AsyncIterator[WorkerEngine]:
    engine = WorkerEngine(settings(model, card, **worker))
    async with asyncio.TaskGroup() as tasks:
        supervisor = tasks.create_task(engine.run())
        try:
            yield engine
        finally:
            supervisor.cancel()


async def answer(engine: Any, *turns: str, **fields: Any) -> tuple[str, Done]:
    roles = ("user", "assistant")
    messages = tuple(
        Message(role=roles[number % 2], content=text)  # type: ignore[arg-type]
        for number, text in enumerate(turns)
    )
    text = ""
    request = ChatRequest(messages=messages, temperature=0.0, **fields)
    async with aclosing(engine.generate(request)) as events:
        async for event in events:
            if isinstance(event, Delta):
                text += event.text
    assert isinstance(event, Done)
    return text, event


def read_stats() -> dict[str, int]:
    """What the card of a process that has ended counted."""
    lines = Path(os.environ["VIRTUAL_AXCL_STATS"]).read_text().splitlines()
    return {name: int(count) for name, count in (line.split() for line in lines)}


def inject(faults: str) -> None:
    Path(os.environ["VIRTUAL_AXCL_CONTROL"]).write_text(faults + "\n")


async def test_the_built_in_model_answers_on_the_card(card_model_dir: Path, card: Card) -> None:
    async with open_worker(card_model_dir, card, kv_slots=3) as engine:
        (info,) = await engine.ready()
        assert info.kv_slots == 3
        assert info.runtime is not None
        assert str(VARIANTS[0]) in info.runtime
        text, done = await answer(engine, "What is 3 plus 4?")
        assert "7" in text or "seven" in text.lower()
        assert done.usage.completion_tokens > 1


async def test_a_conversation_keeps_nine_tenths_of_its_prompt(
    card_model_dir: Path, card: Card
) -> None:
    system = "You are a coyote in an art installation. Answer briefly. " * 12
    async with open_worker(card_model_dir, card) as engine:
        await engine.ready()
        for thinking in (False, True):
            turns = [system + "Who are you?"]
            shares = []
            for question in ("What do you do all day?", "Where do you live?", "Tell me a poem."):
                text, done = await answer(engine, *turns, enable_thinking=thinking)
                shares.append(done.usage.cached_tokens / done.usage.prompt_tokens)
                await asyncio.sleep(1)  # the visitor reads
                turns += [text, question]
            assert min(shares[1:]) >= 0.9, shares


async def test_loading_is_told_and_requests_wait_for_it(card_model_dir: Path, card: Card) -> None:
    inject("axclrtEngineLoadFromFile:1+:hang=0.3")
    async with open_worker(card_model_dir, card, self_test=False) as worker:
        engine = QueuedEngine(worker, QueueSettings())
        waiting = asyncio.ensure_future(answer(engine, "Hello!"))
        seen = []
        while not waiting.done():
            if engine.activity not in seen:
                seen.append(engine.activity)
            await asyncio.sleep(0.02)
        assert (await waiting)[0]
        assert [f"loading {done}/7" for done in range(1, 7)] == [
            word for word in seen if word in {f"loading {done}/7" for done in range(1, 7)}
        ]
        assert "generating" in seen


async def test_a_stop_while_loading_gives_all_back(card_model_dir: Path, card: Card) -> None:
    inject("axclrtEngineLoadFromFile:1+:hang=0.3")
    async with open_worker(card_model_dir, card) as engine:
        await eventually(lambda: engine.activity == "loading 2/7")
    counters = read_stats()
    assert counters["models"] == counters["live_allocations"] == counters["leaked_at_reset"] == 0


async def test_a_stop_gives_all_back(card_model_dir: Path, card: Card) -> None:
    async with open_worker(card_model_dir, card) as engine:
        await engine.ready()
        await answer(engine, "Hello!")
    counters = read_stats()
    assert counters["models"] == counters["live_allocations"] == counters["leaked_at_reset"] == 0


async def test_a_model_that_does_not_fit_is_refused_before_it_is_loaded(
    tmp_path: Path, card_model_dir: Path
) -> None:
    big = pack_hollow(
        GEOMETRIES["qwen3-4b"], tmp_path / "big", tokenizer=MODEL_DIR / "tokenizer", ladder=(1, 128)
    )
    with open_card(CMM_MIB=4000, STATS=tmp_path / "stats") as card:
        async with open_worker(big, card) as engine:
            with pytest.raises(ModelError, match=r"needs \d+ MiB .* only 3981 of 4000 MiB"):
                await engine.ready()
            engine._settings = settings(card_model_dir, card)  # so that the supervisor can end
        assert read_stats()["load_bytes"] == 0


def test_the_doctor_says_what_a_model_needs(
    card_model_dir: Path, card: Card, tmp_path: Path
) -> None:
    config = tmp_path / "edge-llm.toml"
    config.write_text(f'[engine.worker]\naxcl_library = "{card.path}"\n')
    done = run(
        "doctor",
        "--load",
        "--config",
        str(config),
        "--model",
        str(card_model_dir),
        EDGE_LLM_MQTT__ENABLED="false",
        EDGE_LLM_HTTP__PORT="0",
        **card.environment,
    )
    assert "  ok    self-test" in done.stdout, done.stdout + done.stderr
    for words in (
        "6 layers",
        "hidden 192, K and V rows of 64, vocabulary 2048",
        "1024 tokens; prompts by chunks of 128 up to token 1023, token by token after that",
        "for each conversation that is kept: 4 will be",
        "tokens/s",
        f"  ok    runtime       axcl 3.10.2, {VARIANTS[0]}",
        "200 tokens agree",
    ):
        assert words in done.stdout, done.stdout


def test_the_doctor_without_a_card_says_what_it_can(card_model_dir: Path) -> None:
    done = run("doctor", "--model", str(card_model_dir))
    assert done.returncode == 1  # nothing here can run it
    assert "axclhost" in done.stdout
    assert "hidden 192, vocabulary 2048" in done.stdout, done.stdout


@pytest.mark.parametrize(("cmm_mib", "num_slots"), [(7040, 4), (5100, 2), (4800, 1), (4600, 0)])
def test_as_many_conversations_are_kept_as_memory_allows(
    cmm_mib: int, num_slots: int, tmp_path: Path
) -> None:
    path = pack_hollow(GEOMETRIES["qwen3-4b"], tmp_path / "big", ladder=(1, 128))
    directory = ModelDirectory(path)
    with open_card(CMM_MIB=cmm_mib) as card, Axcl(str(card.path)) as axcl:
        memory, graphs_bytes = axcl.memory(), memory_needed(directory, axcl)
        layer = CardGraph(axcl, directory.layers[0])
        plan = plan_memory(directory, layer, graphs_bytes, memory, WorkerSettings())
        layer.close()
    assert plan.num_slots == num_slots
    assert plan.slot_bytes == 36 * 2 * 1023 * 1024 * 2
