"""Whose turn it is, who may wait, and one line in the log for each request, however it ends."""

import asyncio
import contextlib
import random
import time
from collections.abc import AsyncGenerator, AsyncIterator, MutableMapping
from typing import Any

import pytest
from structlog.testing import capture_logs

from edge_llm.engine.gate import Gate
from edge_llm.engine.queue import QueuedEngine
from edge_llm.engine.queue.turns import Turn
from edge_llm.errors import (
    ContextOverflowError,
    EdgeLLMError,
    ExpiredError,
    QueueFullError,
    UnknownModelError,
)
from edge_llm.protocol import (
    ChatRequest,
    Delta,
    Done,
    Event,
    Message,
    Queued,
    Started,
    Timing,
    Usage,
)
from edge_llm.settings import QueueSettings
from tests.fakes import ScriptedEngine

Line = MutableMapping[str, Any]

DONE = Done(
    finish_reason="stop", usage=Usage(prompt_tokens=5, cached_tokens=2, completion_tokens=3)
)


class Gated(ScriptedEngine):
    """Holds each request after it has begun, until the gate is opened."""

    def __init__(self) -> None:
        self.gate = asyncio.Event()
        super().__init__([Started(), self.gate, Delta(text="a"), Delta(text="b"), DONE])


@pytest.fixture
async def gated() -> AsyncIterator[Gated]:
    """An engine that must be quiet in the end: nothing runs, and no task is left."""
    engine = Gated()
    yield engine
    engine.gate.set()
    await settle()
    assert engine.num_running == 0
    assert engine.most_running <= 1
    assert asyncio.all_tasks() == {asyncio.current_task()}


def ask(name: str = "x", **fields: Any) -> ChatRequest:
    return ChatRequest(prompt=name, **fields)


def queued(engine: ScriptedEngine, limit: int = 16) -> QueuedEngine:
    return QueuedEngine(engine, QueueSettings(limit=limit))


async def collect(engine: QueuedEngine, request: ChatRequest) -> list[Event]:
    return [event async for event in engine.generate(request)]


def start(engine: QueuedEngine, name: str = "x", **fields: Any) -> asyncio.Task[list[Event]]:
    return asyncio.create_task(collect(engine, ask(name, **fields)), name=name)


async def settle() -> None:
    """Let all tasks go as far as they can."""
    for _ in range(40):
        await asyncio.sleep(0)


async def given(turn: Turn) -> None:
    """Wait until a turn is given, and not a moment longer."""
    for _ in range(40):
        if turn.position == 0:
            return
        await asyncio.sleep(0)
    raise AssertionError("nobody gave it")


def order(engine: ScriptedEngine) -> str:
    return "".join(request.prompt or "?" for request in engine.requests)


async def test_events_pass_through_and_the_end_gets_its_times() -> None:
    events = await collect(queued(ScriptedEngine()), ask())
    assert events[:-1] == [Started(), Delta(text="Hello"), Delta(text=" there.")]
    assert isinstance(events[-1], Done)


async def test_one_runs_at_a_time_in_order_of_arrival(gated: Gated) -> None:
    engine = queued(gated)
    tasks = [start(engine, name) for name in "abcde"]
    await settle()
    assert order(gated) == "a"
    assert engine.num_waiting == 4
    gated.gate.set()
    await asyncio.gather(*tasks)
    assert order(gated) == "abcde"
    assert engine.num_waiting == 0


async def test_priority_goes_first_and_arrival_among_equals(gated: Gated) -> None:
    engine = queued(gated)
    tasks = [
        start(engine, name, priority=priority)
        for name, priority in (("a", 0), ("b", 5), ("c", 0), ("d", 9), ("e", 5), ("f", 9))
    ]
    await settle()
    gated.gate.set()
    await asyncio.gather(*tasks)
    assert order(gated) == "adfbec"


async def test_one_more_than_may_wait_is_refused_at_once(gated: Gated) -> None:
    engine = queued(gated, limit=2)
    tasks = [start(engine) for _ in range(3)]
    await settle()
    with pytest.raises(QueueFullError) as error:
        await collect(engine, ask(priority=9))
    assert error.value.retryable
    assert error.value.retry_after_s == 15.0  # three requests at the first guess of 5 s
    gated.gate.set()
    await asyncio.gather(*tasks)
    assert len(await collect(engine, ask())) == 4


async def test_a_queue_of_none_takes_one_request(gated: Gated) -> None:
    engine = queued(gated, limit=0)
    task = start(engine)
    await settle()
    with pytest.raises(QueueFullError):
        await collect(engine, ask())
    gated.gate.set()
    await task


async def test_the_time_to_come_back_learns_and_stays_in_bounds(gated: Gated) -> None:
    engine = queued(gated, limit=1)
    gated.gate.set()
    for _ in range(30):
        await collect(engine, ask())
    gated.gate.clear()
    tasks = [start(engine), start(engine)]
    await settle()
    with pytest.raises(QueueFullError) as error:
        await collect(engine, ask())
    assert error.value.retry_after_s == 1.0
    engine._mean_s = 1e6
    with pytest.raises(QueueFullError) as error:
        await collect(engine, ask())
    assert error.value.retry_after_s == 120.0
    gated.gate.set()
    await asyncio.gather(*tasks)


async def test_a_request_whose_turn_does_not_come_in_time_expires(gated: Gated) -> None:
    engine = queued(gated)
    running, waiting, last = (
        start(engine, "a"),
        start(engine, "b", ttl_s=0.02),
        start(engine, "c"),
    )
    with pytest.raises(ExpiredError, match=r"0\.02 s"):
        await waiting
    assert engine.num_waiting == 1
    gated.gate.set()
    await asyncio.gather(running, last)
    assert order(gated) == "ac"


@pytest.mark.parametrize(("ttl_s", "time_budget_s"), [(None, 0.02), (9, 0.02), (0.02, 9)])
async def test_whichever_ends_first_ends_the_waiting(
    gated: Gated, ttl_s: float | None, time_budget_s: float
) -> None:
    engine = queued(gated)
    running = start(engine)
    with pytest.raises(ExpiredError, match=r"0\.02 s"):
        await start(engine, ttl_s=ttl_s, time_budget_s=time_budget_s)
    gated.gate.set()
    await running


async def test_the_engine_is_given_what_is_left_of_a_time_budget(gated: Gated) -> None:
    engine = queued(gated)
    running, waiting = start(engine, time_budget_s=9), start(engine, time_budget_s=9)
    await asyncio.sleep(0.05)
    gated.gate.set()
    await asyncio.gather(running, waiting)
    first, second = (request.time_budget_s or 0 for request in gated.requests)
    assert 8.9 < first < 9
    assert 8.5 < second < 8.96


async def test_a_turn_that_comes_with_the_last_moment_of_a_budget_is_a_valid_request() -> None:
    scripted = ScriptedEngine()
    engine = queued(scripted)
    events = engine.generate(ask(time_budget_s=0.001))
    scripted.ready = late  # type: ignore[method-assign]
    [event async for event in events]
    (request,) = scripted.requests
    ChatRequest.model_validate(request.model_dump())


async def late() -> Any:
    time.sleep(0.01)  # noqa: ASYNC251 - the loop sees no timeout in it


async def test_time_to_live_ends_with_the_turn(gated: Gated) -> None:
    engine = queued(gated)
    task = start(engine, ttl_s=0.01)
    await asyncio.sleep(0.03)
    gated.gate.set()
    assert isinstance((await task)[-1], Done)


async def cancel(task: asyncio.Task[Any]) -> None:
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_cancelled_while_waiting(gated: Gated) -> None:
    engine = queued(gated)
    running, waiting, last = (start(engine, name) for name in "abc")
    await settle()
    await cancel(waiting)
    assert engine.num_waiting == 1
    gated.gate.set()
    await asyncio.gather(running, last)
    assert order(gated) == "ac"


async def test_those_that_give_up_do_not_disturb_the_order(gated: Gated) -> None:
    dice = random.Random(1)
    for _ in range(20):
        gated.gate.clear()
        gated.requests.clear()
        engine = queued(gated)
        running = start(engine, "0")
        await settle()
        waiting = [(dice.randrange(10), n) for n in range(12)]
        tasks = [start(engine, f"{n},", priority=priority) for priority, n in waiting]
        await settle()
        gone = set(dice.sample(range(12), 5))
        for n in gone:
            tasks[n].cancel()
        await settle()
        gated.gate.set()
        await asyncio.gather(running, *tasks, return_exceptions=True)
        left = sorted((-priority, n) for priority, n in waiting if n not in gone)
        assert order(gated) == "0" + "".join(f"{n}," for _, n in left)


async def test_cancelled_while_running_makes_room_for_the_next(gated: Gated) -> None:
    engine = queued(gated)
    running, waiting = start(engine, "a"), start(engine, "b")
    await settle()
    await cancel(running)
    await settle()
    assert order(gated) == "ab"
    assert gated.num_closed == 1
    gated.gate.set()
    await waiting


async def test_cancelled_in_the_very_moment_the_turn_is_given(gated: Gated) -> None:
    engine = queued(gated)
    running, waiting, last = (start(engine, name) for name in "abc")
    await settle()
    waiting_turn = engine._turns._waiting[0]
    running.cancel()
    await given(waiting_turn)
    waiting.cancel()  # the turn is its own, but it has not woken yet
    await settle()
    assert waiting.cancelled()
    assert order(gated) == "ac"
    gated.gate.set()
    await last
    assert engine.num_waiting == 0


async def test_cancelled_just_before_the_turn_is_given(gated: Gated) -> None:
    engine = queued(gated)
    running, waiting, last = (start(engine, name) for name in "abc")
    await settle()
    waiting.cancel()
    running.cancel()
    await settle()
    assert waiting.cancelled()
    assert order(gated) == "ac"
    gated.gate.set()
    await last


@pytest.mark.parametrize("steps", range(6))
async def test_expired_in_the_very_moment_the_turn_is_given(gated: Gated, steps: int) -> None:
    engine = queued(gated)
    running, waiting, last = start(engine, "a"), start(engine, "b", ttl_s=0.01), start(engine, "c")
    await settle()
    running.cancel()
    for _ in range(steps):
        await asyncio.sleep(0)
    time.sleep(0.02)  # noqa: ASYNC251 - so that the clock and the turn meet in one round
    await settle()
    gated.gate.set()
    await asyncio.gather(waiting, return_exceptions=True)
    await last
    assert order(gated) == ("ac" if waiting.exception() else "abc")


async def test_nobody_slips_in_between(gated: Gated) -> None:
    """A newcomer in the moment between two turns waits behind those that wait."""
    engine = queued(gated)
    running, waiting = start(engine, "a"), start(engine, "b")
    await settle()
    turn = engine._turns._waiting[0]
    running.cancel()
    await given(turn)
    newcomer = start(engine, "c")
    gated.gate.set()
    await asyncio.gather(waiting, newcomer)
    assert order(gated) == "abc"


async def test_closing_early_frees_the_engine(gated: Gated) -> None:
    engine = queued(gated)
    async with contextlib.aclosing(engine.generate(ask())) as events:
        async for _ in events:
            break
    assert gated.num_closed == 1
    gated.gate.set()
    assert len(await collect(engine, ask())) == 4


async def test_the_next_begins_before_the_end_of_the_last_is_delivered(gated: Gated) -> None:
    engine = queued(gated)
    gated.gate.set()
    async with contextlib.aclosing(engine.generate(ask("a"))) as events:
        async for event in events:
            if isinstance(event, Done):
                await collect(engine, ask("b"))
    assert order(gated) == "ab"


async def test_cancels_at_any_moment_leak_nothing(gated: Gated) -> None:
    engine = queued(gated)
    gated.gate.set()
    for steps in range(40):
        tasks = [start(engine, name) for name in "abcd"]
        for _ in range(steps):
            await asyncio.sleep(0)
        tasks[steps % 4].cancel()
        tasks[(steps // 4) % 4].cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert engine.num_waiting == 0
        assert len(await collect(engine, ask())) == 4


async def test_an_unknown_model_is_refused_before_it_waits(gated: Gated) -> None:
    engine = queued(gated, limit=0)
    task = start(engine)
    await settle()
    with pytest.raises(UnknownModelError, match=r"'gpt-4'.*scripted") as error:
        await collect(engine, ask(model="gpt-4"))
    assert error.value.param == "model"
    gated.gate.set()
    await task
    assert len(await collect(engine, ask(model="scripted"))) == 4


async def test_an_unknown_model_is_refused_when_the_models_are_known() -> None:
    loading = ScriptedEngine(models=())
    engine = queued(loading)
    events = engine.generate(ask(model="gpt-4"))
    models, loading.models = ScriptedEngine().models, ()
    loading.state = "loading"
    task = asyncio.ensure_future(anext(events))
    loading.models = models
    with pytest.raises(UnknownModelError):
        await task
    assert loading.num_running == 0


async def test_it_says_what_the_engine_behind_it_says() -> None:
    scripted = ScriptedEngine()
    engine = queued(scripted)
    scripted.state = "recovering"
    assert engine.state == "recovering"
    assert engine.models == await engine.ready() == scripted.models


async def test_times_are_those_of_waiting_first_text_and_all() -> None:
    gate, text = asyncio.Event(), asyncio.Event()
    scripted = ScriptedEngine([Started(), gate, Delta(text="a"), text, Delta(text="b"), DONE])
    engine = queued(scripted)
    first, second = start(engine), start(engine)
    await asyncio.sleep(0.03)
    gate.set()
    await asyncio.sleep(0.03)
    text.set()
    done = (await first)[-1]
    assert isinstance(done, Done)
    timing = done.timing
    assert timing.queue_s < 0.02
    assert timing.ttft_s is not None
    assert 0.03 <= timing.ttft_s <= timing.total_s - 0.03
    assert timing.tokens_per_s is not None
    assert 0 < timing.tokens_per_s <= 2 / 0.03  # two tokens after the first one
    done = (await second)[-1]
    assert isinstance(done, Done)
    assert done.timing.queue_s >= 0.06


@pytest.mark.parametrize(
    ("deltas", "completion_tokens"), [([], 1), ([Delta(text="a")], 1), ([Delta(text="a")], 5)]
)
async def test_there_is_no_speed_of_a_single_piece(
    deltas: list[Event], completion_tokens: int
) -> None:
    done = Done(finish_reason="stop", usage=Usage(completion_tokens=completion_tokens))
    last = (await collect(queued(ScriptedEngine([Started(), *deltas, done])), ask()))[-1]
    assert isinstance(last, Done)
    assert last.timing.tokens_per_s is None
    assert (last.timing.ttft_s is None) == (not deltas)


async def test_a_finished_request_is_one_line() -> None:
    engine = queued(ScriptedEngine([Started(), Delta(text="secret"), DONE]))
    with capture_logs() as logs:
        await collect(engine, ask("private"))
    (line,) = logs
    assert line["event"] == "request.done"
    assert line["log_level"] == "info"
    assert {"finish_reason", "prompt_tokens", "cached_tokens", "completion_tokens"} <= set(line)
    assert {"queue_s", "ttft_s", "total_s"} <= set(line)
    assert "secret" not in str(line)
    assert "private" not in str(line)


@pytest.mark.parametrize("error", [ContextOverflowError("too long"), EdgeLLMError("broken")])
@pytest.mark.parametrize("before", [[], [Started()], [Started(), Delta(text="a")]])
async def test_a_failed_request_is_one_line(error: EdgeLLMError, before: list[Event]) -> None:
    engine = queued(ScriptedEngine([*before, error]))
    with capture_logs() as logs, pytest.raises(type(error)):
        await collect(engine, ask())
    (line,) = logs
    assert (line["event"], line["code"]) == ("request.failed", error.code)


async def test_every_request_is_told_of_from_its_beginning_to_its_end() -> None:
    heard: list[tuple[int, str]] = []
    engine = queued(ScriptedEngine([Started(), Delta(text="a"), DONE]))
    engine.stats.listeners.append(
        lambda number, _request, event: heard.append((number, event.type if event else "in"))
    )
    engine.stats.watchers.append(lambda ended: heard.append((ended.number, ended.outcome)))
    await collect(engine, ask())
    assert heard == [(1, "in"), (1, "started"), (1, "delta"), (1, "stop")]
    heard.clear()
    for error, outcome in ((EdgeLLMError("broken"), "internal"), (ValueError("oh"), "internal")):
        engine._engine = ScriptedEngine([Started(), error])
        with pytest.raises(type(error)):
            await collect(engine, ask())
        assert heard[-1][1] == outcome
    assert [number for number, _ in heard] == [2, 2, 2, 3, 3, 3]
    assert engine.stats.counts().requests == {"stop": 1, "internal": 2}


async def test_refused_and_expired_requests_are_one_line_each(gated: Gated) -> None:
    engine = queued(gated, limit=1)
    with capture_logs() as logs:
        running = start(engine)
        await settle()
        with pytest.raises(UnknownModelError):
            await collect(engine, ask(model="gpt-4"))
        waiting = start(engine, ttl_s=0.01)
        await settle()
        with pytest.raises(QueueFullError):
            await collect(engine, ask())
        with pytest.raises(ExpiredError):
            await waiting
        assert [line["code"] for line in logs] == ["model_not_found", "queue_full", "expired"]
        gated.gate.set()
        await running
    assert [line["event"] for line in logs] == ["request.failed"] * 3 + ["request.done"]


async def test_a_cancelled_request_is_one_line(gated: Gated) -> None:
    engine = queued(gated)
    with capture_logs() as logs:
        running, waiting = start(engine), start(engine)
        await settle()
        await cancel(waiting)
        await cancel(running)
    assert [line["event"] for line in logs] == ["request.cancelled"] * 2


@pytest.mark.parametrize("taken", [1, 2, 3, 4])
async def test_a_closed_request_is_one_line(gated: Gated, taken: int) -> None:
    engine = queued(gated)
    gated.gate.set()
    with capture_logs() as logs:
        async with contextlib.aclosing(engine.generate(ask())) as events:
            for _ in range(taken):
                await anext(events)
    # Whoever has its end has all of it.
    assert [line["event"] for line in logs] == [
        "request.done" if taken == 4 else "request.cancelled"
    ]


async def collect_into(said: list[Event], engine: QueuedEngine, request: ChatRequest) -> None:
    async for event in engine.generate(request):
        said.append(event)  # noqa: PERF401 - each at once, to be looked at


async def test_who_waits_is_told_the_position_and_each_change_of_it(gated: Gated) -> None:
    engine = queued(gated)
    said: dict[str, list[Event]] = {name: [] for name in "abcd"}
    tasks = {}
    for name, priority in (("a", 5), ("b", 5), ("c", 5), ("d", 9)):
        request = ask(name, priority=priority)
        tasks[name] = asyncio.create_task(collect_into(said[name], engine, request))
        await settle()
    assert said["a"] == [Started()]
    assert said["b"] == [Queued(position=1), Queued(position=2)]  # d goes ahead
    assert said["c"] == [Queued(position=2), Queued(position=3)]
    assert said["d"] == [Queued(position=1)]
    await cancel(tasks["b"])
    await settle()
    assert said["c"] == [Queued(position=2), Queued(position=3), Queued(position=2)]
    gated.gate.set()
    await asyncio.gather(tasks["a"], tasks["c"], tasks["d"])
    assert said["c"][3:5] == [Queued(position=1), Started()]
    assert said["d"][:2] == [Queued(position=1), Started()]
    assert not [event for event in said["a"] if isinstance(event, Queued)]


async def test_positions_that_nobody_looked_at_are_not_told_late(gated: Gated) -> None:
    engine = queued(gated)
    running, ahead = start(engine), start(engine)
    await settle()
    async with contextlib.aclosing(engine.generate(ask("z"))) as events:
        assert await anext(events) == Queued(position=2)
        gated.gate.set()
        await asyncio.gather(running, ahead)
        assert await anext(events) == Started()


async def test_what_is_to_be_prepared_is_handed_on() -> None:
    scripted = ScriptedEngine()
    turn = Message(role="system", content="You are a fox.")
    queued(scripted).prepare([[turn], []])
    assert scripted.prepared == ((turn,), ())


async def test_a_speed_that_the_engine_knows_counts() -> None:
    done = DONE.model_copy(update={"timing": Timing(tokens_per_s=4.0)})
    scripted = ScriptedEngine([Started(), Delta(text="a"), Delta(text="b"), done])
    last = (await collect(queued(scripted), ask()))[-1]
    assert isinstance(last, Done)
    assert last.timing.tokens_per_s == 4.0


class Stepping(ScriptedEngine):
    """Says the prompt letter by letter, one whenever a step is granted and its gate is open."""

    def __init__(self) -> None:
        super().__init__()
        self.said = ""
        """The letters of all requests, in the order in which they came."""
        self.steps = asyncio.Semaphore(0)

    async def check(self, request: ChatRequest) -> None:
        """Nothing is checked."""

    async def generate(
        self, request: ChatRequest, gate: Gate | None = None
    ) -> AsyncGenerator[Event]:
        self.requests.append(request)
        self.num_running += 1
        try:
            yield Started()
            for letter in request.prompt or "":
                assert gate
                await gate.wait_until_open()
                await self.steps.acquire()
                if not gate.is_open:
                    self.steps.release()
                    await gate.wait_until_open()
                    await self.steps.acquire()
                self.said += letter
                yield Delta(text=letter)
            yield DONE
        finally:
            self.num_running -= 1

    async def grant(self, num_steps: int) -> None:
        for _ in range(num_steps):
            self.steps.release()
            await settle()


@pytest.fixture
async def stepping() -> AsyncIterator[Stepping]:
    """An engine that must be quiet in the end."""
    engine = Stepping()
    yield engine
    await settle()
    assert engine.num_running == 0
    assert asyncio.all_tasks() == {asyncio.current_task()}


def text_of(task: asyncio.Task[list[Event]]) -> str:
    return "".join(event.text for event in task.result() if isinstance(event, Delta))


async def test_a_request_that_may_preempt_pauses_a_lower_one(stepping: Stepping) -> None:
    engine = queued(stepping)
    low = start(engine, "aaaa", priority=1)
    await settle()
    await stepping.grant(2)
    high = start(engine, "BB", priority=2, preempt=True)
    await settle()
    await stepping.grant(20)
    assert stepping.said == "aaBBaa"
    assert (text_of(low), text_of(high)) == ("aaaa", "BB")
    assert not [event for event in high.result() if isinstance(event, Queued)]
    assert engine.activity == "idle"


@pytest.mark.parametrize(
    ("preempt", "priority"), [(False, 9), (True, 5), (True, 4)], ids=["may not", "equal", "lower"]
)
async def test_nobody_else_is_paused(stepping: Stepping, preempt: bool, priority: int) -> None:
    engine = queued(stepping)
    first = start(engine, "aaa")
    await settle()
    await stepping.grant(1)
    second = start(engine, "b", priority=priority, preempt=preempt)
    await settle()
    await stepping.grant(20)
    assert stepping.said == "aaab"
    await asyncio.gather(first, second)


async def test_several_may_be_paused(stepping: Stepping) -> None:
    engine = queued(stepping)
    tasks = []
    for name, priority in (("aa", 1), ("bb", 2), ("cc", 3)):
        tasks.append(start(engine, name, priority=priority, preempt=True))
        await settle()
        await stepping.grant(1)
    await stepping.grant(20)
    assert stepping.said == "abccba"
    await asyncio.gather(*tasks)


async def test_who_waits_goes_before_a_paused_one_of_lower_priority_only(
    stepping: Stepping,
) -> None:
    engine = queued(stepping)
    paused = start(engine, "pp", priority=5)
    await settle()
    await stepping.grant(1)
    others = [start(engine, name, priority=n) for name, n in (("l", 4), ("e", 5), ("h", 6))]
    others.append(start(engine, "X", priority=9, preempt=True))
    await settle()
    assert [turn.position for turn in engine._turns._waiting] == [1, 3, 4]  # h, (p), e, l
    await stepping.grant(20)
    assert stepping.said == "pXhpel"
    await asyncio.gather(paused, *others)


async def test_one_with_a_higher_priority_that_waits_goes_first(stepping: Stepping) -> None:
    engine = queued(stepping)
    low = start(engine, "aa", priority=1)
    await settle()
    await stepping.grant(1)
    waiting = start(engine, "w", priority=9)
    preempting = start(engine, "P", priority=7, preempt=True)
    await settle()
    await stepping.grant(20)
    assert stepping.said == "awPa"
    assert preempting.result()[0] == Queued(position=1)
    await asyncio.gather(low, waiting)


async def test_a_full_queue_does_not_keep_out_who_need_not_wait(stepping: Stepping) -> None:
    engine = queued(stepping, limit=0)
    low = start(engine, "aa", priority=1)
    await settle()
    high = start(engine, "B", priority=2, preempt=True)
    await settle()
    with pytest.raises(QueueFullError):
        await collect(engine, ask(priority=2, preempt=True))
    await stepping.grant(20)
    assert stepping.said == "Baa"
    await asyncio.gather(low, high)


async def test_a_paused_request_that_is_cancelled_goes_at_once(stepping: Stepping) -> None:
    engine = queued(stepping)
    low = start(engine, "aa", priority=1)
    await settle()
    await stepping.grant(1)
    high = start(engine, "BB", priority=2, preempt=True)
    await settle()
    await cancel(low)
    assert stepping.num_running == 1
    assert engine._turns._paused == []
    last = start(engine, "c", priority=1)
    await settle()
    await stepping.grant(20)
    assert stepping.said == "aBBc"
    await asyncio.gather(high, last)


async def test_the_paused_one_goes_on_when_the_other_is_cancelled(stepping: Stepping) -> None:
    engine = queued(stepping)
    low = start(engine, "aa", priority=1)
    await settle()
    await stepping.grant(1)
    high = start(engine, "BB", priority=2, preempt=True)
    await settle()
    await cancel(high)
    await stepping.grant(20)
    assert stepping.said == "aa"
    await low


async def test_a_pause_is_not_part_of_the_speed(stepping: Stepping) -> None:
    engine = queued(stepping)
    low = start(engine, "aaa", priority=1)
    await settle()
    await stepping.grant(2)
    high = start(engine, "B", priority=2, preempt=True)
    await asyncio.sleep(0.1)
    await stepping.grant(20)
    done = low.result()[-1]
    assert isinstance(done, Done)
    assert done.timing.tokens_per_s is not None
    assert done.timing.tokens_per_s > 2 / 0.1
    assert done.timing.total_s >= 0.1
    await high


async def test_pauses_and_cancels_at_any_moment_leak_nothing(stepping: Stepping) -> None:
    dice = random.Random(3)
    engine = queued(stepping, limit=100)
    for _ in range(60):
        stepping.said = ""
        tasks = []
        for n in range(8):
            name = "abcdefgh"[n] * 3
            fields = {"priority": dice.randrange(4), "preempt": dice.random() < 0.5}
            tasks.append(start(engine, name, **fields))
            for _ in range(dice.randrange(6)):
                await asyncio.sleep(0)
            stepping.steps.release()
            if dice.random() < 0.4:
                dice.choice(tasks).cancel()
        await settle()
        await stepping.grant(40)
        for task in tasks:
            assert task.done()
            assert task.cancelled() or len(text_of(task)) == 3
        assert not engine._turns._waiting
        assert not engine._turns._paused
        assert not engine._turns._running
        assert stepping.num_running == 0
        stepping.steps = asyncio.Semaphore(0)
