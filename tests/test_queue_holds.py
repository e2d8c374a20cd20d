"""What holds the queue: a pause, heat, a reload; what is in hand, and what comes meanwhile."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing

import pytest

from edge_llm.engine.gate import Gate
from edge_llm.engine.queue import Hold, QueuedEngine
from edge_llm.engine.stats import Ended
from edge_llm.errors import DeviceUnavailableError, DrainingError, EdgeLLMError, QueueFullError
from edge_llm.protocol import ChatRequest, Delta, Done, Event, ModelInfo, Queued, Started, Usage
from edge_llm.settings import QueueSettings
from tests.clients import eventually
from tests.fakes import ScriptedEngine

WORDS = ("It rains.", " The", " sea", " is", " grey.", " Good", " night.")


class Teller(ScriptedEngine):
    """Says a word each time that it is let, and heeds the gate as a worker does."""

    def __init__(self) -> None:
        super().__init__()
        self.steps = asyncio.Semaphore(0)
        self.asked: list[ChatRequest] = []

    async def generate(
        self, request: ChatRequest, gate: Gate | None = None
    ) -> AsyncGenerator[Event]:
        assert gate
        self.asked.append(request)
        yield Started()
        for word in WORDS:
            await gate.wait_until_open()
            await self.steps.acquire()
            await gate.wait_until_open()
            yield Delta(text=word)
        yield Done(finish_reason="stop", usage=Usage(completion_tokens=len(WORDS)))


@pytest.fixture
def engine() -> Teller:
    return Teller()


@pytest.fixture
def queue(engine: Teller) -> QueuedEngine:
    return QueuedEngine(engine, QueueSettings(limit=2))


class Asking:
    """A request, and what has been heard of it."""

    def __init__(self, queue: QueuedEngine, **fields: object) -> None:
        self.text = ""
        self.positions: list[int] = []
        request = ChatRequest.model_validate({"prompt": "?", **fields})
        self.task = asyncio.ensure_future(self._ask(queue, request))

    async def _ask(self, queue: QueuedEngine, request: ChatRequest) -> Done:
        async with aclosing(queue.generate(request)) as events:
            async for event in events:
                if isinstance(event, Delta):
                    self.text += event.text
                if isinstance(event, Queued):
                    self.positions.append(event.position)
        assert isinstance(event, Done)
        return event


async def settle() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


async def say(engine: Teller, num_words: int) -> None:
    for _ in range(num_words):
        engine.steps.release()
        await settle()


async def test_a_pause_lets_what_runs_end_and_keeps_the_rest_waiting(
    engine: Teller, queue: QueuedEngine
) -> None:
    first, second = Asking(queue), Asking(queue)
    await say(engine, 2)
    queue.hold("paused")
    assert queue.activity == "generating"
    assert queue.health().holds == ("paused",)
    await say(engine, 5)
    assert (await first.task).finish_reason == "stop"
    await settle()
    assert queue.activity == "paused"
    assert not second.task.done()
    third = Asking(queue)  # is taken, and waits
    await settle()
    assert third.positions == [2]
    queue.release("paused")
    await say(engine, 14)
    await asyncio.gather(second.task, third.task)
    assert queue.activity == "idle"


async def test_while_it_is_held_no_more_wait_than_may(queue: QueuedEngine) -> None:
    queue.hold("paused")
    waiting = [Asking(queue) for _ in range(2)]
    await settle()
    with pytest.raises(QueueFullError):
        await Asking(queue).task
    for one in waiting:
        one.task.cancel()


async def test_heat_lets_the_sentence_end_and_the_answer_go_on_later(
    engine: Teller, queue: QueuedEngine
) -> None:
    asking = Asking(queue)
    await say(engine, 3)
    queue.hold("cooling", finish_s=60)
    await say(engine, 4)
    assert asking.text == "It rains. The sea is grey."
    assert queue.activity == "cooling"
    assert queue.health().running == 1
    queue.release("cooling")
    await say(engine, 4)
    assert (await asking.task).usage.completion_tokens == len(WORDS)
    assert asking.text == "".join(WORDS)


async def test_a_sentence_that_does_not_end_is_paused_all_the_same(
    engine: Teller, queue: QueuedEngine
) -> None:
    asking = Asking(queue)
    await say(engine, 3)
    queue.hold("cooling", finish_s=0.01)
    await eventually(lambda: queue.activity == "cooling")
    await say(engine, 3)
    assert asking.text == "It rains. The sea"
    queue.release("cooling")
    await say(engine, 4)
    await asking.task


async def test_a_hold_that_ends_before_the_sentence_changes_nothing(
    engine: Teller, queue: QueuedEngine
) -> None:
    asking = Asking(queue)
    await say(engine, 3)
    queue.hold("cooling", finish_s=0.01)
    queue.release("cooling")
    await asyncio.sleep(0.03)
    await say(engine, 4)
    await asking.task
    assert queue.health().holds == ()


@pytest.mark.parametrize("first", ["paused", "cooling"])
async def test_each_reason_must_go(engine: Teller, queue: QueuedEngine, first: Hold) -> None:
    queue.hold("paused")
    queue.hold("cooling", finish_s=0)
    assert queue.activity == "cooling"
    asking = Asking(queue)
    queue.release(first)
    await say(engine, 7)
    assert asking.text == ""
    queue.release("paused")
    queue.release("cooling")
    await settle()
    assert asking.text == "".join(WORDS)
    await asking.task


async def test_nobody_preempts_into_a_hold(engine: Teller, queue: QueuedEngine) -> None:
    low = Asking(queue, priority=1)
    await say(engine, 3)
    queue.hold("cooling", finish_s=0)
    await asyncio.sleep(0.01)
    high = Asking(queue, priority=9, preempt=True)
    await say(engine, 3)
    assert (low.text, high.text) == ("It rains. The sea", "")
    queue.release("cooling")
    await say(engine, 14)
    await asyncio.gather(low.task, high.task)


async def test_a_paused_request_can_be_cancelled(engine: Teller, queue: QueuedEngine) -> None:
    asking = Asking(queue)
    await say(engine, 1)
    queue.hold("cooling", finish_s=0)
    await asyncio.sleep(0.01)
    asking.task.cancel()
    await asyncio.gather(asking.task, return_exceptions=True)
    assert queue.health().running == 0
    queue.release("cooling")
    again = Asking(queue)
    await say(engine, 8)
    await again.task


async def test_draining_ends_what_is_in_hand_and_takes_nothing_new(
    engine: Teller, queue: QueuedEngine
) -> None:
    running, waiting = Asking(queue), Asking(queue)
    await say(engine, 1)
    queue.drain()
    with pytest.raises(DrainingError):
        await Asking(queue).task
    await say(engine, 13)
    await asyncio.gather(running.task, waiting.task)
    assert queue.activity == "draining"
    assert queue.health().holds == ("draining",)
    queue.drain(drain=False)
    again = Asking(queue)
    await say(engine, 7)
    await again.task


async def test_when_hot_answers_are_short_and_low_priorities_wait(
    engine: Teller, queue: QueuedEngine
) -> None:
    queue.limit(max_tokens=30, min_priority=5)
    low = Asking(queue, priority=4)
    await settle()
    assert queue.activity == "queued"
    for fields, expected in (({}, 30), ({"max_tokens": 200}, 30), ({"max_tokens": 10}, 10)):
        asking = Asking(queue, **fields)
        await say(engine, 7)
        await asking.task
        assert engine.asked[-1].max_tokens == expected
    queue.limit()
    await say(engine, 7)
    await low.task
    assert engine.asked[-1].max_tokens is None


async def test_who_comes_when_all_has_failed_is_told_at_once(
    engine: Teller, queue: QueuedEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def ready() -> tuple[ModelInfo, ...]:
        raise DeviceUnavailableError("look at the card")

    queue.hold("paused")  # else it would have its turn at once
    engine.state = "failed"
    monkeypatch.setattr(engine, "ready", ready)
    with pytest.raises(DeviceUnavailableError, match="look at the card"):
        await Asking(queue).task
    assert queue.stats.counts().requests == {"device_unavailable": 1}


async def test_what_is_counted_and_told(engine: Teller, queue: QueuedEngine) -> None:
    told = []
    queue.stats.on_change.append(lambda: told.append(queue.activity))
    ended: list[Ended] = []
    queue.stats.watchers.append(ended.append)
    asking = Asking(queue)
    await say(engine, 7)
    await asking.task
    assert [(end.outcome, end.text) for end in ended] == [("stop", "".join(WORDS))]
    queue.hold("paused")
    queue.release("paused")
    assert told == ["paused", "idle"]
    fault = EdgeLLMError("it broke")
    queue.stats.note_fault(fault)
    queue.stats.note_step("restart", "it broke", 1)
    report = queue.stats.recovery()
    assert report
    assert (report.step, report.is_over) == ("restart", False)
    queue.stats.note_ready()
    queue.stats.note_ready()
    assert queue.stats.counts().recoveries == 1
    assert queue.stats.counts().completion_tokens == len(WORDS)
