"""An answer's tokens: reasoning apart from text, and an end by token or by stop string."""

import itertools
import random
from collections.abc import Sequence

import pytest

from edge_llm.engine.answer import Answer
from tests.fakes import END_THINK, IM_END, IM_START, THINK, BytePrompter

TEXTS = ("Hello there.", "Größe 🦊🌕 你好", "e\u0301 👩‍👩‍👧")


def say(
    token_ids: Sequence[int], stop: Sequence[str] = (), prompt_ids: Sequence[int] = ()
) -> tuple[str, str, bool]:
    """Return text, reasoning, and whether the answer ended by itself."""
    answer = Answer(BytePrompter(), stop, prompt_ids)
    text = reasoning = ""
    for token_id in token_ids:
        delta = answer.add(token_id)
        assert delta.token_ids == (token_id,)
        text += delta.text
        reasoning += delta.reasoning
        if answer.ended:
            break
    return text + answer.finish().text, reasoning, answer.ended


@pytest.mark.parametrize("text", TEXTS)
def test_the_pieces_are_the_text(text: str) -> None:
    assert say([*text.encode(), IM_END]) == (text, "", True)
    assert say(text.encode()) == (text, "", False)


@pytest.mark.parametrize("stop", ["🦊", "你", "🌕 你", "ß", " "])
def test_stop_strings_of_many_bytes(stop: str) -> None:
    text = TEXTS[1]
    assert say(text.encode(), [stop]) == (text[: text.index(stop)], "", True)


def test_nothing_comes_after_the_end_token() -> None:
    assert say([*b"yes", IM_END, *b"no"]) == ("yes", "", True)


def test_an_end_token_at_once_is_an_empty_answer() -> None:
    assert say([IM_END]) == ("", "", True)


def test_an_unfinished_character_is_not_said() -> None:
    assert say([*b"so ", *"🦊".encode()[:3], IM_END])[0] == "so "
    assert say([*b"so ", *"🦊".encode()[:3]])[0] == "so "


def test_held_text_is_said_when_the_model_ends() -> None:
    assert say([*b"one EN", IM_END], ["END"]) == ("one EN", "", True)
    assert say(b"one EN", ["END"]) == ("one EN", "", False)


def test_the_first_of_several_stop_strings() -> None:
    assert say(b"one, two. three", [".", ","]) == ("one", "", True)
    assert say(b"stop", ["s"]) == ("", "", True)


def test_no_white_space_goes_before_the_first_word() -> None:
    assert say(b"\n\n  Hello  there ")[0] == "Hello  there "
    assert say(b"\n\nHello", ["\n"])[0] == "Hello"


def test_control_tokens_have_no_text() -> None:
    assert say([*b"a", IM_START, *b"b"])[0] == "ab"


def test_reasoning_is_apart() -> None:
    ids = [THINK, *b"\nHm, a fox.\n", END_THINK, *b"\n\nA fox!", IM_END]
    assert say(ids) == ("A fox!", "Hm, a fox.", True)


def test_reasoning_that_the_prompt_opened() -> None:
    prompt = [IM_START, *b"assistant\n", THINK, *b"\n"]
    assert say([*b"Hm.\n", END_THINK, *b"\nYes.", IM_END], prompt_ids=prompt) == (
        "Yes.",
        "Hm.",
        True,
    )


def test_reasoning_that_the_prompt_opened_and_closed() -> None:
    prompt = [THINK, END_THINK, *b"\n"]
    assert say([*b"Yes.", IM_END], prompt_ids=prompt) == ("Yes.", "", True)


def test_a_tag_in_an_earlier_turn_opens_nothing() -> None:
    prompt = [IM_START, THINK, *b"cut off", IM_END, *b"\n", IM_START, *b"assistant\n"]
    assert say([*b"Yes.", IM_END], prompt_ids=prompt) == ("Yes.", "", True)


def test_thinking_tags_are_found_by_id_and_not_by_text() -> None:
    assert say(b"a <think>b</think> c")[:2] == ("a <think>b</think> c", "")


def test_reasoning_without_an_end() -> None:
    assert say([THINK, *b"I wonder", IM_END]) == ("", "I wonder", True)
    assert say([THINK, *b"I wonder"]) == ("", "I wonder", False)


def test_white_space_inside_reasoning_is_kept() -> None:
    assert say([THINK, *b" one \n\n two \n", END_THINK, *b"x"])[1] == "one \n\n two"


def test_half_a_character_does_not_leak_from_reasoning_into_the_answer() -> None:
    half = "🦊".encode()[:2]
    assert say([THINK, *b"a", *half, END_THINK, *b"b"]) == ("b", "a", False)


def test_stop_strings_are_not_looked_for_in_reasoning() -> None:
    assert say([THINK, *b"a. b", END_THINK, *b"c. d"], ["."]) == ("c", "a. b", True)


@pytest.mark.parametrize("cut", range(0, 40, 3))
def test_an_answer_goes_on_where_another_process_ended(cut: int) -> None:
    ids = [THINK, *"Hm 🦊.\n".encode(), END_THINK, *"\n🦊🌕 and STrange STOP".encode()]
    whole = Answer(BytePrompter(), ["STOP"])
    said = [whole.add(token_id) for token_id in ids]
    resumed = Answer(BytePrompter(), ["STOP"])
    resumed.add_all(ids[:cut])
    assert [resumed.add(token_id) for token_id in ids[cut:]] == said[cut:]
    assert (resumed.ended, resumed.finish()) == (whole.ended, whole.finish())


def test_a_prompter_without_thinking_tags() -> None:
    prompter = BytePrompter()
    prompter.think_id = prompter.end_think_id = None
    answer = Answer(prompter, (), [1, 2])
    assert [answer.add(token_id).text for token_id in b"ab"] == ["a", "b"]


def test_tags_in_any_order_lose_no_word() -> None:
    dice = random.Random(2)
    for _ in range(300):
        words = [f"w{n}" for n in range(6)]
        tags = [dice.choice([(), (THINK,), (END_THINK,)]) for _ in words]
        ids = itertools.chain.from_iterable(
            [*tag, *f" {word}".encode()] for tag, word in zip(tags, words, strict=True)
        )
        text, reasoning, _ = say([*ids, IM_END])
        thinking, expected = False, ([], [])  # type: tuple[bool, tuple[list[str], list[str]]]
        for tag, word in zip(tags, words, strict=True):
            thinking = tag == (THINK,) if tag else thinking
            expected[thinking].append(word)
        assert all(word in text for word in expected[0])
        assert all(word in reasoning for word in expected[1])
