"""A conversation that is too long loses its oldest turns, if it may, and not at every turn."""

from collections.abc import Sequence
from typing import Any

import pytest

from edge_llm.engine.local import LocalEngine
from edge_llm.errors import ContextOverflowError
from edge_llm.protocol import Event, Message
from tests.fakes import make_local_engine
from tests.test_local import ask, done, run


def talk(num_turns: int, *, size: int = 8, system: str | None = "Be kind.") -> list[Message]:
    """Make a conversation that ends with a question; each turn takes about ``2 * size + 40``."""
    turns = [Message(role="system", content=system)] if system else []
    for n in range(num_turns):
        turns.append(Message(role="user", content=f"Q{n} {'q' * size}"))
        turns.append(Message(role="assistant", content=f"A{n} {'a' * size}"))
    return turns[:-1]


def answer_to(
    engine: LocalEngine, turns: Sequence[Message], **fields: Any
) -> tuple[list[Event], str]:
    """Return the events, and the prompt as the engine rendered it."""
    request = ask(prompt=None, messages=tuple(turns), overflow="drop_oldest", **fields)
    events = run(engine, request)
    rows = bytes(n if n < 256 else 0 for n in engine.runner.cached_ids)
    return events, rows[: done(events).usage.prompt_tokens].decode()


def test_the_oldest_turns_are_left_out_of_a_conversation_that_is_too_long() -> None:
    events, prompt = answer_to(make_local_engine(), talk(12))
    dropped = done(events).dropped_messages
    assert dropped > 0
    assert dropped % 2 == 0
    assert "Be kind." in prompt
    first = dropped // 2
    assert [n for n in range(12) if f"Q{n} " in prompt] == list(range(first, 12))
    assert [n for n in range(11) if f"A{n} " in prompt] == list(range(first, 11))
    assert done(events).usage.prompt_tokens + 24 <= 256
    events, _ = answer_to(make_local_engine(), talk(6), max_tokens=10)  # the first too long one
    assert done(events).usage.prompt_tokens <= 0.6 * 256


def test_nothing_is_left_out_of_a_conversation_that_fits() -> None:
    for overflow in ("error", "drop_oldest"):
        request = ask(prompt=None, messages=tuple(talk(3)), overflow=overflow)
        assert done(run(make_local_engine(), request)).dropped_messages == 0


def test_room_for_an_answer_is_made_but_no_more_than_a_quarter() -> None:
    def dropped(max_tokens: int, size: int) -> int:
        events, _ = answer_to(make_local_engine(), talk(3, size=size), max_tokens=max_tokens)
        return done(events).dropped_messages

    fits = max(size for size in range(8, 40) if not dropped(1, size))
    assert dropped(1000, fits) > 0
    assert dropped(40, fits - 7) > 0  # five messages are 35 tokens shorter
    assert dropped(40, fits - 8) == 0
    smaller = max(size for size in range(8, 40) if not dropped(1000, size))
    assert dropped(64, smaller) == 0
    assert dropped(64, smaller + 1) > 0


def test_a_conversation_that_grows_is_not_cut_anew_at_every_turn() -> None:
    engine = make_local_engine()
    cuts, lengths = [0], [0]
    for num_turns in range(1, 40):
        events, _ = answer_to(engine, talk(num_turns), max_tokens=10)
        for _ in engine.settle():
            pass
        usage = done(events).usage
        if done(events).dropped_messages == cuts[-1]:
            assert usage.cached_tokens >= lengths[-1] - 5
        cuts.append(done(events).dropped_messages)
        lengths.append(usage.prompt_tokens)
    assert cuts == sorted(cuts)
    assert 39 / 6 < len(set(cuts)) <= 39 / 2.5


def test_the_cut_does_not_depend_on_what_was_asked_before() -> None:
    """A worker that takes over a request must render the same prompt."""
    engine = make_local_engine()
    for num_turns in range(1, 16):
        _, prompt = answer_to(engine, talk(num_turns))
        assert answer_to(make_local_engine(), talk(num_turns))[1] == prompt


@pytest.mark.parametrize("system", ["Be kind.", None])
def test_a_last_turn_that_does_not_fit_is_refused(system: str | None) -> None:
    turns = [*talk(4, system=system)[:-1], Message(role="user", content="x" * 300)]
    with pytest.raises(ContextOverflowError):
        answer_to(make_local_engine(), turns)


def test_a_last_turn_may_have_the_context_for_itself() -> None:
    turns = [*talk(4)[:-1], Message(role="user", content="x" * 180)]
    events, prompt = answer_to(make_local_engine(), turns)
    assert done(events).dropped_messages == 6
    assert "Be kind." in prompt
    assert "Q" not in prompt


def test_several_answers_and_a_greeting_belong_to_a_turn() -> None:
    hello = Message(role="assistant", content="Hello!")
    turns = [hello, *talk(2, size=30, system=None), hello, hello]
    turns += [Message(role="user", content="Last " + "q" * 36)]
    events, prompt = answer_to(make_local_engine(), turns)
    assert done(events).dropped_messages == 3  # the greeting, and the first turn
    assert prompt.count("Hello!") == 2


def test_without_being_asked_nothing_is_left_out() -> None:
    with pytest.raises(ContextOverflowError):
        run(make_local_engine(), ask(prompt=None, messages=tuple(talk(12))))


def test_the_next_turn_is_prepared_from_what_was_kept() -> None:
    engine = make_local_engine()
    events, _ = answer_to(engine, talk(12))
    assert len(engine.said) == len(talk(12)) - done(events).dropped_messages + 1
