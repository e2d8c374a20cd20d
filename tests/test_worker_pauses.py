"""Requests in a worker that are held for others, or end with their time, whatever it does."""

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from edge_llm.engine.gate import Gate
from edge_llm.engine.queue import QueuedEngine
from edge_llm.engine.worker import WorkerEngine
from edge_llm.engine.worker.progress import Progress
from edge_llm.errors import ExpiredError
from edge_llm.protocol import ChatRequest, Delta, Done, Event, Message, Started
from edge_llm.settings import EngineSettings, QueueSettings
from edge_llm.tiny import MODEL_DIR
from tests.fakes import CONTROL_IDS, write_model
from tests.test_worker import CONTEXT_LEN, ask, collect, link_of, open_worker, process_of

pytestmark = pytest.mark.timeout(180)

DOTS: dict[str, Any] = {
    "logit_bias": {**dict.fromkeys(CONTROL_IDS, -100.0), 13: 8.0},
    "temperature": 1.0,
}
"""Many sentences, from a random model: 13 is the dot."""


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("pauses") / "model", context_len=CONTEXT_LEN)


async def collect_with_pauses(
    engine: WorkerEngine,
    request: ChatRequest,
    pauses: dict[int, Callable[[], Awaitable[Any]]],
) -> tuple[str, Done]:
    """Return text and end of an answer; after so many deltas close the gate, do this, open it."""
    gate = Gate()
    text = ""
    num_deltas = 0
    async for event in engine.generate(request, gate):
        if isinstance(event, Delta):
            text += event.text
            num_deltas += 1
            if meanwhile := pauses.pop(num_deltas, None):
                gate.close()
                await meanwhile()
                gate.open()
    assert pauses == {}
    assert isinstance(event, Done)
    return text, event


async def test_a_pause_does_not_change_the_text(model_dir: Path) -> None:
    async with open_worker(model_dir, max_attempts=1) as engine:
        for request in (ask(300), ask(300, temperature=0.9, seed=3, frequency_penalty=0.2)):
            undisturbed, end = await collect(engine, request)

            async def meanwhile() -> None:
                text, done = await collect(engine, ask(30, temperature=1.0))
                assert text
                assert done.usage.completion_tokens == 30

            text, done = await collect_with_pauses(
                engine, request, {1: meanwhile, 9: meanwhile, 10: meanwhile, 100: meanwhile}
            )
            assert text == undisturbed
            assert done.usage.completion_tokens == end.usage.completion_tokens
            assert done.finish_reason == end.finish_reason


async def test_a_paused_request_keeps_its_rows(model_dir: Path) -> None:
    async with open_worker(model_dir) as engine:

        async def meanwhile() -> None:
            await collect(engine, ask(5, prompt="Something else altogether?"))

        _, done = await collect_with_pauses(engine, ask(100), {50: meanwhile})
        assert done.usage.cached_tokens == done.usage.prompt_tokens


async def test_a_request_may_be_held_before_it_begins(model_dir: Path) -> None:
    async with open_worker(model_dir, hang_timeout_s=0.5) as engine:
        gate = Gate()
        gate.close()

        async def hear() -> list[Event]:
            return [event async for event in engine.generate(ask(3), gate)]

        held = asyncio.create_task(hear())
        await asyncio.sleep(0.8)  # longer than a hang
        assert not held.done()
        gate.open()
        assert isinstance((await held)[-1], Done)


async def test_a_pause_is_no_hang(model_dir: Path) -> None:
    async with open_worker(model_dir, hang_timeout_s=0.5) as engine:
        pid = engine.pid
        undisturbed, _ = await collect(engine, ask(50))
        text, _ = await collect_with_pauses(engine, ask(50), {5: lambda: asyncio.sleep(0.8)})
        assert text == undisturbed
        assert engine.pid == pid


async def test_a_worker_may_die_during_a_pause(model_dir: Path) -> None:
    async with open_worker(model_dir) as engine:
        undisturbed, _ = await collect(engine, ask(100))

        async def meanwhile() -> None:
            process = process_of(engine)
            process.kill()
            await process.wait()

        with capture_logs() as logs:
            text, _ = await collect_with_pauses(engine, ask(100), {20: meanwhile})
        assert text == undisturbed
        assert "request.interrupted" not in [line["event"] for line in logs]


async def test_a_pause_comes_within_a_step_though_nobody_listens(model_dir: Path) -> None:
    async with open_worker(model_dir) as engine:
        gate = Gate()
        async with contextlib.aclosing(engine.generate(ask(), gate)) as events:
            assert [(await anext(events)).type for _ in range(2)] == ["started", "delta"]
            link = engine._supervisor.link
            assert link
            gate.close()
            for _ in range(100):  # the listener of this request does nothing all the while
                await asyncio.sleep(0.01)
                if not link._in_hand:
                    break
            assert not link._in_hand


async def test_a_paused_request_that_is_cancelled_leaves_no_trace(model_dir: Path) -> None:
    async with open_worker(model_dir) as engine:
        gate = Gate()
        events = engine.generate(ask(), gate)
        for _ in range(3):
            await anext(events)
        gate.close()
        waiting = asyncio.ensure_future(collect_rest(events))
        await asyncio.sleep(0.05)
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        assert link_of(engine)._asked == {}
        assert (await collect(engine, ask(5)))[1].usage.completion_tokens == 5


async def collect_rest(events: AsyncGenerator[Event]) -> list[Event]:
    async with contextlib.aclosing(events):
        return [event async for event in events]


async def test_preemption_through_the_queue(model_dir: Path) -> None:
    async with open_worker(model_dir) as worker:
        engine = QueuedEngine(worker, QueueSettings())
        undisturbed, _ = await collect(worker, ask())
        low = engine.generate(ask(priority=1))
        text = ""
        async with contextlib.aclosing(low):
            async for event in low:
                if isinstance(event, Delta):
                    text += event.text
                    if len(text) > 50:
                        break
            urgent = [e async for e in engine.generate(ask(20, priority=9, preempt=True))]
            assert [e.type for e in urgent if e.type != "delta"] == ["started", "done"]
            async for event in low:
                if isinstance(event, Delta):
                    text += event.text
        assert text == undisturbed
        assert engine.activity == "idle"


def stop(engine: WorkerEngine) -> None:
    """Stop the process as a hanging call would."""
    os.kill(engine.pid or 0, signal.SIGSTOP)


def go_on(pid: int | None) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid or 0, signal.SIGCONT)


async def test_a_worker_that_hangs_is_replaced_also_when_nobody_waits_any_more(
    model_dir: Path,
) -> None:
    async with open_worker(model_dir, hang_timeout_s=1.0, stop_timeout_s=0.1) as engine:
        pid = engine.pid
        events = engine.generate(ask())
        for _ in range(3):
            await anext(events)
        with capture_logs() as logs:
            stop(engine)
            await events.aclose()
            while engine.pid == pid:  # noqa: ASYNC110 - nothing else tells it
                await asyncio.sleep(0.02)
            assert "worker.hung" in [line["event"] for line in logs]
            _, done = await collect(engine, ask(5))
        assert done.usage.completion_tokens == 5


async def test_an_idle_worker_does_not_hang(model_dir: Path) -> None:
    async with open_worker(model_dir, hang_timeout_s=0.5) as engine:
        pid = engine.pid
        await collect(engine, ask(5))
        async with contextlib.aclosing(engine.generate(ask())) as events:
            await anext(events)
        await asyncio.sleep(0.8)
        await collect(engine, ask(5))
        assert engine.pid == pid


async def test_a_time_budget_ends_an_answer_in_the_worker(model_dir: Path) -> None:
    async with open_worker(model_dir) as engine:
        begin = time.monotonic()
        text, done = await collect(engine, ask(1500, time_budget_s=0.5, temperature=1.0))
        assert time.monotonic() - begin < 1.5
        assert done.finish_reason == "time_budget"
        assert done.usage.prompt_tokens > 0
        assert text.rstrip().endswith((".", "!", "?", "…", "。"))


async def test_a_time_budget_holds_across_a_death(model_dir: Path) -> None:
    async with open_worker(model_dir) as engine:
        begin = time.monotonic()
        kills = asyncio.get_running_loop().call_later(
            0.2, lambda: os.kill(engine.pid or 0, signal.SIGKILL)
        )
        try:
            _, done = await collect(engine, ask(1500, temperature=1.0, time_budget_s=1.0))
        except ExpiredError:  # no sentence was whole when it died, and loading took too long
            pass
        else:
            assert done.finish_reason == "time_budget"
        assert kills.when() < asyncio.get_running_loop().time()
        assert time.monotonic() - begin < 1.0 + 1.0


async def held_in_mid_answer(
    engine: WorkerEngine,
    hold: Callable[[], None],
    let_go: Callable[[], None],
    budget_s: float,
    gate: Gate | None = None,
) -> tuple[Done, float]:
    """Hold a worker when something was said; return how its answer ended, and after how long."""
    for _ in range(10):
        begin = time.monotonic()
        # A dot after each word, so that something is said at once.
        async for event in engine.generate(ask(1500, time_budget_s=budget_s, **DOTS), gate):
            if isinstance(event, Delta):
                hold()
            elif isinstance(event, Done) and event.finish_reason != "length":
                let_go()
                return event, time.monotonic() - begin
        let_go()
        # It was done before it could be held: the core was slow to hear of the first word.
    pytest.fail("the worker is too fast to be held")


async def test_a_time_budget_ends_an_answer_of_a_worker_that_hangs(model_dir: Path) -> None:
    async with open_worker(model_dir) as engine:
        pid = engine.pid
        done, elapsed_s = await held_in_mid_answer(
            engine, lambda: stop(engine), lambda: go_on(pid), 1.0
        )
        assert done.finish_reason == "time_budget"
        assert 0.9 < elapsed_s < 2.0
        stop(engine)
        with pytest.raises(ExpiredError, match="before the first sentence"):
            await collect(engine, ask(1500, time_budget_s=0.3))
        go_on(pid)
        assert (await collect(engine, ask(5)))[1].usage.completion_tokens == 5
        assert engine.pid == pid


async def test_a_time_budget_goes_on_during_a_pause(model_dir: Path) -> None:
    async with open_worker(model_dir) as engine:
        gate = Gate()
        done, elapsed_s = await held_in_mid_answer(engine, gate.close, gate.open, 0.5, gate)
        assert done.finish_reason == "time_budget"
        assert elapsed_s < 1.5


def test_the_last_text_is_said_once_though_the_worker_died_before_its_end() -> None:
    """It comes without a token of its own, so it is not among what the next one goes on from."""
    progress = Progress(ask())
    whole, held, last = Delta(text="One.", token_ids=(1,)), Delta(token_ids=(2,)), Delta(text="Tw")
    events: list[Event] = [Started(), whole, held, last]
    said = [news for event in events for news in progress.take(event)]
    assert said == [Started(), Delta(text="One.")]
    assert progress.token_ids == [1, 2]
    progress.remaining_request()
    end = Done(finish_reason="length")
    events = [Started(), last, end]
    assert [news for event in events for news in progress.take(event)] == [last, end]


def test_the_next_attempt_has_what_is_left_of_the_time() -> None:
    progress = Progress(ask(time_budget_s=0.05, seed=None))
    time.sleep(0.02)
    left_s = progress.remaining_request().time_budget_s or 0
    assert 0 < left_s <= 0.03
    time.sleep(0.05)
    request = progress.remaining_request()
    assert request == ChatRequest.model_validate(request.model_dump())
    assert request.seed is not None


PRESETS = [
    (Message(role="system", content=text),)
    for text in (
        "You are a friendly fox in an art installation. Answer briefly and kindly.",
        "You are an old lighthouse keeper who tells short tales of the sea.",
    )
]


async def test_the_first_visitor_waits_no_longer_than_the_tenth() -> None:
    """With the built-in model, and two presets in turn."""
    from edge_llm.engine.prompt import load_prompter

    prompter = load_prompter(MODEL_DIR / "tokenizer")
    lengths = [len(prompter.render_history(preset)) for preset in PRESETS]
    async with open_worker(MODEL_DIR) as engine:
        engine.prepare(PRESETS)
        for n in range(10):
            await asyncio.sleep(0.2)
            question = Message(role="user", content=f"Hello, I am number {n}!")
            request = ChatRequest(messages=(*PRESETS[n % 2], question), max_tokens=20)
            _, done = await collect(engine, request)
            assert done.usage.cached_tokens >= lengths[n % 2]


async def test_a_new_worker_prepares_what_the_old_one_had(model_dir: Path) -> None:
    async with open_worker(model_dir) as engine:
        engine.prepare(PRESETS)
        process = process_of(engine)
        process.kill()
        await process.wait()
        await asyncio.sleep(0.1)
        await engine.ready()
        await asyncio.sleep(0.5)
        for preset in PRESETS:
            messages = (*preset, Message(role="user", content="Hello!"))
            request = ask(5, prompt=None, messages=messages)
            _, done = await collect(engine, request)
            assert done.usage.cached_tokens > 50
            await asyncio.sleep(0.3)


async def test_a_system_prompt_of_the_settings_is_prepared_without_being_asked(
    model_dir: Path,
) -> None:
    worker = {"model": model_dir, "restart_delay_s": 0}
    settings = EngineSettings.model_validate(
        {"system_prompt": PRESETS[0][0].content, "worker": worker}
    )
    engine = WorkerEngine(settings)
    async with asyncio.TaskGroup() as tasks:
        supervisor = tasks.create_task(engine.run())
        await engine.ready()
        for prompt in ("Hello!", "x" * 300, "y" * 300):
            _, done = await collect(engine, ask(5, prompt=prompt))
            assert done.usage.cached_tokens > 50
            await asyncio.sleep(0.3)
        supervisor.cancel()
