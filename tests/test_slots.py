"""Which KV slot a prompt gets, and that known beginnings of prompts are at hand."""

from collections.abc import Sequence
from typing import Any

from edge_llm.engine.local import LocalEngine
from edge_llm.engine.slots import Slots
from edge_llm.protocol import Message
from tests.fakes import BytePrompter, FakeModel, make_local_engine
from tests.test_local import PROMPT, ask, done, run, text

A, B = list(range(100)), list(range(500, 600))  # two beginnings, in tokens


def fill(slots: Slots, *prompts: Sequence[int]) -> None:
    """Have one slot after the other used for a prompt."""
    for slot, prompt in zip(slots._slots, prompts, strict=False):
        slots.use(slot)
        slot.cached_ids[:] = prompt


def chosen(slots: Slots, prompt: Sequence[int]) -> int:
    return slots.choose(prompt).index


def test_a_prompt_goes_on_where_it_keeps_most() -> None:
    slots = Slots(3)
    fill(slots, [*A, 1], [*A, 2], [*A, 1, 7, 8])
    assert chosen(slots, [*A, 2, 9]) == 1
    assert chosen(slots, [*A, 1, 7, 8, 9]) == 2
    assert chosen(slots, B) == 0  # they are all taken


def test_what_lies_there_alone_is_preferred_to_what_would_be_lost() -> None:
    slots = Slots(3)
    fill(slots, [*A, *range(50)], A, [*A, *range(80, 90)])
    assert chosen(slots, [*A, 9, 9]) == 1


def test_a_few_common_words_more_are_no_reason_to_lose_a_conversation() -> None:
    slots = Slots(3)
    fill(slots, [*A, 1, 2, 3, *range(50)], A)
    assert chosen(slots, [*A, 1, 2, 3, 9]) == 1


def test_of_equal_ones_the_least_recently_used_goes() -> None:
    slots = Slots(4)
    fill(slots, *([*A, n, *range(200, 300), n] for n in (1, 2, 3, 4)))
    assert chosen(slots, [*A, 9]) == 0
    slots.use(slots._slots[0])  # the oldest one goes on
    assert chosen(slots, [*A, 9]) == 1


def test_a_beginning_is_kept_rather_than_an_unrelated_slot_taken() -> None:
    slots = Slots(3)
    fill(slots, [*B, *range(300)], [*A, 1, *range(300)], [*A, 2, *range(300)])
    assert chosen(slots, [*A, 9]) == 1
    slots.use(slots._slots[1])
    assert chosen(slots, [*A, 9]) == 2


def test_the_newest_conversation_is_left_alone_where_there_is_another_slot() -> None:
    slots = Slots(2)
    fill(slots, [*B, *range(300)], [*A, 1, *range(300)])
    assert chosen(slots, [*A, 9]) == 0
    slots = Slots(1)
    fill(slots, [*B, *range(300)])
    assert chosen(slots, [*A, 9]) == 0


FOX, OWL, BEE = (
    (Message(role="system", content=f"You are {name}, who speaks to visitors in a dark forest."),)
    for name in ("a fox", "an owl", "the bee")
)


def settled(engine: LocalEngine) -> int:
    """Let it settle; return how many steps that took."""
    return sum(1 for _ in engine.settle())


def visit(engine: LocalEngine, beginning: Sequence[Message], question: str = PROMPT) -> int:
    """Ask as a new visitor; return how many tokens of the beginning were at hand."""
    turns = (*beginning, Message(role="user", content=question))
    usage = done(run(engine, ask(prompt=None, messages=turns))).usage
    return min(usage.cached_tokens, len(engine.prompter.render_history(beginning)))


def length(beginning: Sequence[Message]) -> int:
    return len(BytePrompter().render_history(beginning))


def make_slots(num_slots: int, *beginnings: Sequence[Message], **settings: Any) -> LocalEngine:
    engine = make_local_engine(FakeModel(num_slots=num_slots), temperature=0.0, **settings)
    engine.prepare(beginnings)
    return engine


def test_a_known_beginning_is_always_at_hand() -> None:
    engine = make_slots(4, FOX, OWL)
    settled(engine)
    for n in range(12):
        beginning = (FOX, OWL)[n % 2] if n < 8 else FOX
        assert visit(engine, beginning, f"{n} is my number.") == length(beginning)
        settled(engine)


def test_also_after_many_who_come_once() -> None:
    engine = make_slots(4, FOX, OWL)
    settled(engine)
    for n in range(9):
        visit(engine, (), f"{n} is my number.")
        settled(engine)
    assert visit(engine, FOX) == length(FOX)
    assert visit(engine, OWL) == length(OWL)  # with no time in between


def test_they_are_not_computed_twice() -> None:
    engine = make_slots(4, FOX, OWL)
    assert settled(engine) > 0
    assert settled(engine) == 0
    engine.prepare([OWL, FOX])
    assert settled(engine) == 0


def test_a_conversation_is_not_lost_to_a_beginning() -> None:
    engine = make_slots(4, FOX, OWL, BEE)
    settled(engine)
    turns = [*FOX, Message(role="user", content="Who are you?")]
    for _ in range(4):
        history_len = len(engine.prompter.render_history(turns[:-1]))
        events = run(engine, ask(prompt=None, messages=tuple(turns), max_tokens=5))
        assert done(events).usage.cached_tokens >= history_len
        settled(engine)
        turns.append(Message(role="assistant", content=text(events)))
        turns.append(Message(role="user", content="Go on."))


def test_of_more_beginnings_than_slots_the_first_win_and_nothing_is_made_again() -> None:
    engine = make_slots(2, FOX, OWL, BEE)
    settled(engine)
    assert settled(engine) == 0
    assert visit(engine, BEE) < length(BEE)
    settled(engine)
    assert visit(engine, FOX) == length(FOX)
    settled(engine)
    assert settled(engine) == 0


def test_with_one_slot_the_newest_conversation_has_it() -> None:
    engine = make_slots(1, FOX, OWL)
    settled(engine)
    assert visit(engine, FOX) == length(FOX)
    turns = engine.runner.cached_ids.copy()
    settled(engine)
    assert engine.runner.cached_ids[: length(FOX)] == turns[: length(FOX)]
    assert settled(engine) == 0


def test_settling_can_be_given_up_at_each_step_and_goes_on_later() -> None:
    engine = make_slots(4, FOX, OWL)
    for _ in range(50):
        steps = engine.settle()
        if next(steps, 0) == 0:
            break
    assert visit(engine, OWL) == length(OWL)


def test_beginnings_that_are_wanted_no_more_make_room() -> None:
    engine = make_slots(3, FOX, OWL)
    settled(engine)
    engine.prepare([BEE])
    settled(engine)
    assert visit(engine, BEE) == length(BEE)


def test_no_turns_stand_for_the_system_prompt_of_the_settings() -> None:
    engine = make_slots(4, (), FOX, system_prompt=OWL[0].content)
    assert engine.beginnings == [engine.prompter.render_history(turns) for turns in (OWL, FOX)]
    assert make_slots(4, ()).beginnings == []


def test_a_beginning_that_is_too_long_is_left_to_the_requests() -> None:
    long = (Message(role="system", content="x" * 300),)
    assert len(make_slots(4, long, FOX).beginnings) == 1
