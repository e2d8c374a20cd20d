"""A reply with a time budget ends in time, and on the end of a sentence."""

import asyncio
import random
import re
import time
from collections.abc import Sequence
from typing import Any

import pytest

from edge_llm.engine import time_budget
from edge_llm.engine.gate import Gate
from edge_llm.engine.local import LocalEngine
from edge_llm.engine.paced import PacedEngine
from edge_llm.engine.queue import QueuedEngine
from edge_llm.engine.time_budget import DELIVERY_S, Speed, TimeBudget
from edge_llm.errors import ExpiredError
from edge_llm.protocol import ChatRequest, Delta, Done, Event, FinishReason, Started
from edge_llm.settings import EngineSettings, PacedSettings, QueueSettings
from tests.fakes import IM_END, THINK, BytePrompter, FakeModel, make_local_engine
from tests.test_local import Said, done, run, text, token_ids

STORY = "The sea is wide. The night is long, and the stars are out. Sleep well! We meet again."


class FakeClock:
    """Stands still, but for what the test says."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def words(text: str) -> list[str]:
    return re.findall(r"\s*\S+", text)


def say(
    tokens: Sequence[str], num_tokens: float, token_s: float = 0.25, speed: Speed | None = None
) -> tuple[list[str], str, int]:
    """Speak with a budget of so many tokens; return the pieces, why it ended, and the tokens."""
    clock = FakeClock()
    budget = TimeBudget(num_tokens * token_s + DELIVERY_S, speed or Speed(token_s), clock)
    pieces, spoken = [], 0
    reason: FinishReason = "stop"
    for token in tokens:
        if budget.is_over():
            reason = "time_budget"
            break
        clock.now += token_s
        budget.tick()
        spoken += 1
        if piece := budget.add(token):
            pieces.append(piece)
    if piece := budget.finish(reason):
        pieces.append(piece)
    assert spoken <= num_tokens + 1e-6
    return pieces, reason, spoken


def test_with_time_enough_the_whole_text_is_said_in_sentences() -> None:
    pieces, reason, _ = say(words(STORY), 100)
    assert pieces == [
        "The sea is wide.",
        " The night is long, and the stars are out.",
        " Sleep well!",
        " We meet again.",
    ]
    assert reason == "stop"


@pytest.mark.parametrize(
    ("num_tokens", "said", "spoken"),
    [
        (18, STORY, 18),
        (17.5, "The sea is wide. The night is long, and the stars are out. Sleep well!", 17),
        (16.5, "The sea is wide. The night is long, and the stars are out. Sleep well!", 15),
        (13.5, "The sea is wide. The night is long, and the stars are out.", 13),
        (11.5, "The sea is wide.", 11),  # it might have been shorter
        (5.5, "The sea is wide.", 4),  # no sentence has one word
        (6.2, "The sea is wide.", 6),
        (4, "The sea is wide.", 4),
        (3.9, "The sea…", 3),  # the third word might be half a one
        (2, "The…", 2),
        (1, "The…", 1),
    ],
)
def test_it_ends_on_the_last_sentence_that_is_whole_in_time(
    num_tokens: float, said: str, spoken: int
) -> None:
    pieces, reason, num_spoken = say(words(STORY), num_tokens)
    assert "".join(pieces) == said
    assert num_spoken == spoken
    assert reason == ("stop" if said == STORY else "time_budget")


@pytest.mark.parametrize(
    ("tokens", "said"),
    [
        ("The night is long, and the stars are", "The night is long…"),
        ("Well, the night is long and the stars are", "Well, the night is long and the stars…"),
        ("One — two — three", "One — two…"),
        ("We meet at half past 10:30 here", "We meet at half past 10:30…"),
        ("unbelievab", "unbelievab…"),
        ("- apples\n- pears\n- plu", "- apples\n- pears\n-…"),
    ],
)
def test_a_first_sentence_that_is_too_long_is_cut_with_an_ellipsis(tokens: str, said: str) -> None:
    pieces, _, _ = say([*words(tokens), " more"], len(words(tokens)))
    assert pieces == [said]


def test_chinese_is_cut_at_a_character() -> None:
    assert say([*"大海很宽、夜很长、星星都出来了"], 13)[0] == ["大海很宽、夜很长…"]
    assert say([*"大海很宽。夜很长"], 7.5)[0] == ["大海很宽。"]


def test_the_end_of_a_line_is_no_end_of_a_sentence() -> None:
    tokens = ["The", " sea", " rolls", " in,", "\n", "the", " sea", " rolls", " out.", "\n", "It"]
    assert say(tokens, 9.2)[0] == ["The sea rolls in,\nthe sea rolls out."]
    assert say(tokens, 6.2)[0] == ["The sea rolls in…"]


def test_what_is_whole_only_if_nothing_follows_is_said_at_the_end() -> None:
    """After "etc." more may come; if it does not, that was the sentence."""
    tokens = words("We sell fish, bread, etc. Come in!")
    assert say(tokens, 5.5)[0] == ["We sell fish, bread, etc."]
    assert say(words("Ask Dr. Smith now."), 2)[0] == ["Ask…"]


def test_before_the_first_word_there_is_nothing_to_say() -> None:
    clock = FakeClock()
    budget = TimeBudget(1, Speed(), clock)
    assert not budget.is_over()
    clock.now += 1
    assert budget.is_over()
    with pytest.raises(ExpiredError, match="before the first word"):
        budget.finish("time_budget")


def test_a_first_answer_goes_on_until_its_speed_is_known() -> None:
    speed = Speed()
    say(words(STORY), 6.5, speed=speed)
    assert speed.token_s == pytest.approx(0.25)


def test_what_max_tokens_cut_off_is_no_sentence() -> None:
    budget = TimeBudget(9, Speed(), FakeClock())
    said = "".join(budget.add(word) for word in words("The sea is wide. The night"))
    assert said + budget.finish("length") == "The sea is wide."
    budget = TimeBudget(9, Speed(), FakeClock())
    assert [budget.add(word) for word in words("The sea")] == ["", ""]
    assert budget.finish("length") == "The sea"


def test_a_pause_is_not_part_of_the_speed() -> None:
    clock, speed = FakeClock(), Speed()
    budget = TimeBudget(60, speed, clock)
    for pause_s in (0, 0, 20, 0, 0):
        clock.now += 0.25 + pause_s
        if pause_s:
            budget.skip()
        budget.tick()
    assert speed.token_s == pytest.approx(0.25)
    assert budget.tokens_per_s == pytest.approx(4)
    assert budget.left_s == pytest.approx(60 - 21.25 - DELIVERY_S)


def test_the_end_of_the_first_sentence_is_pressed_for_more_and_more() -> None:
    clock = FakeClock()
    budget = TimeBudget(20 + DELIVERY_S, Speed(1.0), clock)
    pressures = []
    for _ in range(20):
        clock.now += 1
        budget.add(" word")
        pressures.append(budget.pressure())
    assert pressures[:12] == [0] * 12
    assert pressures[12:] == sorted(set(pressures[12:]))
    assert pressures[12] > 0


def test_there_is_no_pressure_on_what_is_whole_or_not_begun() -> None:
    clock = FakeClock()
    budget = TimeBudget(2 + DELIVERY_S, Speed(1.0), clock)
    assert budget.pressure() == 0
    budget.add("Yes.")
    budget.add(" No")
    assert budget.pressure() == 0
    budget = TimeBudget(100, Speed(), clock)
    budget.add("Yes")
    assert budget.pressure() == 0  # nobody knows yet how long 100 s are


def at_pace(monkeypatch: pytest.MonkeyPatch, engine: LocalEngine, token_s: float) -> FakeClock:
    """Let each token take a set time of a clock that otherwise stands still."""
    clock = FakeClock()
    decode = engine.runner.decode

    def slow(token_id: int) -> Any:
        clock.now += token_s
        return decode(token_id)

    monkeypatch.setattr(time, "monotonic", clock)
    monkeypatch.setattr(engine.runner, "decode", slow)
    monkeypatch.setattr(TimeBudget.__init__, "__defaults__", (clock,))
    return clock


def ask(**fields: Any) -> ChatRequest:
    return ChatRequest(prompt="Tell me of the sea.", max_tokens=100, temperature=0.0, **fields)


def test_a_local_answer_is_said_in_sentences_and_ends_in_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    engine = make_local_engine(Said(STORY.encode()))
    clock = at_pace(monkeypatch, engine, 0.25)
    events = run(engine, ask(time_budget_s=60 * 0.25 + DELIVERY_S))
    assert clock.now <= 100 + 60 * 0.25
    pieces = [event.text for event in events if isinstance(event, Delta) and event.text]
    assert pieces == ["The sea is wide.", " The night is long, and the stars are out."]
    assert done(events).finish_reason == "time_budget"
    assert done(events).usage.completion_tokens == 58  # no third sentence has two tokens
    assert done(events).timing.tokens_per_s == pytest.approx(4)
    assert engine.said[-1].content == "".join(pieces)


def test_a_local_answer_that_ends_by_itself_is_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = make_local_engine(Said([*b"Yes. And no", IM_END]))
    at_pace(monkeypatch, engine, 0.25)
    events = run(engine, ask(time_budget_s=9))
    assert text(events) == "Yes. And no"
    assert done(events).finish_reason == "stop"


def test_text_held_for_a_stop_string_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = make_local_engine(Said(b"One two. EN"))
    at_pace(monkeypatch, engine, 1)
    assert text(run(engine, ask(time_budget_s=11.5, stop=["END"]))) == "One two."


@pytest.mark.parametrize("budget_s", [2.3, 4.8, 5.5, 9.3, 15.2, 18.0])
def test_a_resumed_answer_says_nothing_twice(
    monkeypatch: pytest.MonkeyPatch, budget_s: float
) -> None:
    """Each attempt has its part of the time; together they say what one would have said."""
    engine = make_local_engine(Said(STORY.encode()))
    at_pace(monkeypatch, engine, 0.25)
    whole = run(engine, ask(time_budget_s=budget_s))
    ids = token_ids(whole)
    steps = [event for event in whole if isinstance(event, Delta) and event.token_ids]
    for cut in (1, 7, len(ids) // 2, len(ids) - 1, len(ids)):
        engine = make_local_engine(Said(STORY.encode()[cut:]))
        engine.speed.note(0.25)
        at_pace(monkeypatch, engine, 0.25)
        rest = max(budget_s - 0.25 * (cut - 1) - 0.25 * (cut < len(ids)), 0.001)
        resumed = run(engine, ask(time_budget_s=rest), ids[:cut])
        assert text(steps[:cut]) + text(resumed) == text(whole)
        assert done(resumed).finish_reason == done(whole).finish_reason


def test_a_budget_counts_from_the_arrival(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = make_local_engine(Said(STORY.encode()))
    clock = at_pace(monkeypatch, engine, 0.25)
    with pytest.raises(ExpiredError):
        list(engine.generate(ask(time_budget_s=5), (), clock.now - 5))


def test_the_time_may_be_over_in_the_middle_of_the_prompt(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = make_local_engine(FakeModel(((1, 255), (16, 255))))
    clock = at_pace(monkeypatch, engine, 0.25)
    events = engine.generate(ask(time_budget_s=5))
    assert [next(events), next(events)] == [Started(), Delta()]
    clock.now += 5
    with pytest.raises(ExpiredError, match="before the first word"):
        next(events)
    assert engine.said == []


def test_reasoning_only_is_no_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = make_local_engine(Said([THINK, *b"I wonder about the sea"]))
    at_pace(monkeypatch, engine, 1)
    with pytest.raises(ExpiredError):
        list(engine.generate(ask(time_budget_s=5, enable_thinking=True)))


def test_a_first_sentence_without_end_is_brought_to_one(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = make_local_engine(Said(b"the sea and the sea and the sea and the sea", strength=15))
    at_pace(monkeypatch, engine, 0.25)
    events = run(engine, ask(time_budget_s=5 + DELIVERY_S))
    assert re.fullmatch(r"the sea and.* (the|sea|and)[.!?]", text(events)), text(events)
    assert done(events).finish_reason == "time_budget"


def test_a_word_is_not_broken_for_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = make_local_engine(Said(b"the " + b"a" * 50, strength=5))
    at_pace(monkeypatch, engine, 0.25)
    assert text(run(engine, ask(time_budget_s=5))) == "the…"


def test_tokens_that_end_sentences_are_marks() -> None:
    assert {BytePrompter().token_bytes[n] for n in BytePrompter().sentence_end_ids} == {
        b".", b"!", b"?"
    }  # fmt: skip


def paced(text: str, *, ttft_s: float = 0.05, tokens_per_s: float = 40) -> PacedEngine:
    settings = PacedSettings(text=text, ttft_s=ttft_s, tokens_per_s=tokens_per_s)
    return PacedEngine(EngineSettings(kind="paced", paced=settings))


async def hear(engine: Any, request: ChatRequest, gate: Gate | None = None) -> list[Event]:
    events = engine.generate(request, gate) if gate else engine.generate(request)
    return [event async for event in events]


def make_text(dice: random.Random) -> str:
    sentences = (" ".join(["word"] * dice.randint(2, 14)) + "." for _ in range(100))
    return " ".join(sentences)


async def test_replies_end_in_time_and_on_a_sentence() -> None:
    """The short form of ``tests.bench.bench_time_budget``."""
    budget_s, late_s = 0.8, 1.0  # whoever else uses the machine may make it late
    dice = random.Random(1)

    async def reply() -> tuple[float, str, Done]:
        begin = time.monotonic()
        engine = QueuedEngine(paced(make_text(dice)), QueueSettings())
        events = await hear(engine, ChatRequest(prompt="Go on.", time_budget_s=budget_s))
        return time.monotonic() - begin, text(events), done(events)

    for took_s, said, end in await asyncio.gather(*(reply() for _ in range(20))):
        assert took_s < budget_s + late_s
        assert end.finish_reason == "time_budget"
        assert said.endswith((".", "…"))
        assert took_s > budget_s / 4


async def test_the_budget_ends_a_reply_that_waits_for_its_first_word() -> None:
    begin = time.monotonic()
    with pytest.raises(ExpiredError):
        await hear(paced("Hi.", ttft_s=30), ChatRequest(prompt="x", time_budget_s=0.1))
    assert time.monotonic() - begin < 5


async def test_the_budget_goes_on_while_a_reply_is_paused() -> None:
    gate = Gate()
    request = ChatRequest(prompt="x", time_budget_s=0.6)
    task = asyncio.create_task(
        hear(paced(f"One two. Three{' more' * 999}", ttft_s=0, tokens_per_s=200), request, gate)
    )
    await asyncio.sleep(0.005)
    gate.close()
    events = await asyncio.wait_for(task, 10)
    assert done(events).finish_reason == "time_budget"
    assert text(events) in ("One…", "One two.")


async def test_a_reply_without_a_budget_is_held_as_long_as_need_be() -> None:
    gate = Gate()
    gate.close()
    task = asyncio.create_task(hear(paced("One two.", ttft_s=0), ChatRequest(prompt="x"), gate))
    await asyncio.sleep(0.1)
    assert not task.done()
    gate.open()
    assert text(await task) == "One two."
    assert gate.closed_s >= 0.1


async def test_without_a_budget_words_come_one_by_one() -> None:
    events = await hear(paced(STORY, tokens_per_s=1e6), ChatRequest(prompt="x"))
    assert [e.text for e in events if isinstance(e, Delta)] == words(STORY)
    assert time_budget.DELIVERY_S < 0.2
