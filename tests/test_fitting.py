"""Texts cut, split and said so that they fit."""

import random
import re
from itertools import pairwise

import pytest

from edge_llm.text.fitting import FittingText, cut_to_bytes, split_to_bytes
from edge_llm.text.sentences import SentenceSplitter, ends_sentence
from edge_llm.text.words import WordSplitter, cluster_border, word_ends

PARTS = [
    "a",
    "bc",
    "Mr",
    " ",
    " ",
    ". ",
    "! ",
    "e\u0301",
    "你",
    "。",
    "🦊",
    "👍🏽",
    "\n",
    "3.5",
    "…",
]


def say(pieces: list[str], max_bytes: int, *, whole_pieces: bool = False) -> list[str]:
    fitting = FittingText(max_bytes, whole_pieces=whole_pieces)
    said = []
    for piece in pieces:
        was_full = fitting.is_full
        said.append(fitting.add(piece))
        assert not (was_full and said[-1])
    said.append(fitting.finish())
    assert fitting.is_full
    assert fitting.add("more") == fitting.finish() == ""
    return said


@pytest.mark.parametrize(
    ("text", "max_bytes", "cut"),
    [
        ("Short.", 16, "Short."),
        ("exactly sixteen.", 16, "exactly sixteen."),
        ("One sentence. Another one.", 20, "One sentence."),
        ("One two. Three four five six", 16, "One two."),
        ("A. And then a very long sentence", 20, "A. And then a…"),  # too little would be left
        ("one two three four five", 17, "one two three…"),
        ("one two three four", 16, "one two three…"),
        ("one two three\nfour five", 16, "one two three"),
        ("I think that Mr. Smith is here", 18, "I think that…"),  # an abbreviation is no end
        ("unbreakablelongword", 16, "unbreakablelo…"),
        ("   unbreakablelongword", 16, "   unbreakabl…"),
        (" " * 13 + "unbreakablelongword", 16, "…"),
        ("你好你好你好你好", 16, "你好你好…"),
        ("Yes 你好你好你好你好", 16, "Yes 你好你…"),
        ("🦊🦊🦊🦊🦊", 16, "🦊🦊🦊…"),
        ("🦊👍🏽👍🏽", 16, "🦊👍🏽…"),
        ("e\u0301" * 8, 16, "e\u0301" * 4 + "…"),
        ("👨‍👩‍👧‍👦", 16, "…"),
        ("你好。你好你好你好", 16, "你好。"),
        ("", 16, ""),
    ],
)
def test_texts_are_cut_where_it_hurts_least(text: str, max_bytes: int, cut: str) -> None:
    assert cut_to_bytes(text, max_bytes) == cut


def test_a_cut_text_fits_and_is_a_beginning() -> None:
    dice = random.Random(2)
    for _ in range(3000):
        text = "".join(dice.choices(PARTS, k=40))
        max_bytes = dice.randint(16, 100)
        cut = cut_to_bytes(text, max_bytes)
        assert len(cut.encode()) <= max_bytes
        if len(text.encode()) <= max_bytes:
            assert cut == text
        else:
            begin = cut if text.startswith(cut) else cut.removesuffix("…")
            assert text.startswith(begin)
            assert cluster_border(text, len(begin)) == len(begin)


@pytest.mark.parametrize(
    ("text", "max_bytes", "parts"),
    [
        ("", 16, []),
        ("Short.", 16, ["Short."]),
        ("One. Two. Three. Four.", 16, ["One. Two. Three.", " Four."]),
        ("One two three four five six", 16, ["One two three", " four five six"]),
        ("Hi Mr. Smith. Go on now", 16, ["Hi Mr. Smith.", " Go on now"]),
        ("unbreakablelongword", 16, ["unbreakablelongw", "ord"]),
        ("你好你好你好你好", 16, ["你好你好你", "好你好"]),
        ("xyz🦊👍🏽👍🏽", 16, ["xyz🦊👍🏽", "👍🏽"]),
        ("👨‍👩‍👧‍👦", 16, ["👨‍👩\u200d", "👧‍👦"]),  # too long to be kept whole
    ],
)
def test_a_text_is_split_into_parts_that_fit(text: str, max_bytes: int, parts: list[str]) -> None:
    assert split_to_bytes(text, max_bytes) == parts


def test_the_parts_are_the_text() -> None:
    dice = random.Random(3)
    for _ in range(3000):
        text = "".join(dice.choices(PARTS, k=60))
        max_bytes = dice.randint(16, 60)
        parts = split_to_bytes(text, max_bytes)
        assert "".join(parts) == text
        assert all(0 < len(part.encode()) <= max_bytes for part in parts)
        ends = [len("".join(parts[:count])) for count in range(1, len(parts))]
        assert all(cluster_border(text, end) == end for end in ends)


def test_a_text_that_fits_is_said_whole_and_early() -> None:
    pieces = ["One", " two", ".", " Th", "ree", " four", "."]
    assert say(pieces, 20) == ["", "One", "", " two.", "", " Three", "", " four."]
    assert say(["One two.", " Three four."], 20) == ["One two.", " Three four.", ""]
    assert say(["One", " two.", " Three"], 30, whole_pieces=True) == ["One", " two.", " Three", ""]


@pytest.mark.parametrize(
    ("pieces", "said"),
    [
        (["One two.", " Three four five."], "One two."),
        (["One two.", " Three.", " Four.", " Five six."], "One two. Three."),
        (["One two three four five."], "One two three…"),  # no sentence fits
        (["One two. Three four five six."], "One two."),
        (["One", " two", ".", " Three", " four", " five"], "One two."),
        (["So", " be", " it", ".", " And", " thereafter"], "So be it. And…"),
        (["One", " two", " three", ".", " Four", "."], "One two three."),
        (["One two", " thr", "ee fo", "ur fi", "ve"], "One two three…"),
        (["Room", " num", "ber", " 1", "2", "3", "4", "5", "6", "7"], "Room number…"),
        (["unbreak", "able", "long", "word"], "unbreakablelo…"),
        (["你", "好", "你", "好", "你", "好"], "你好你好…"),
        (["Sixteen chars ok.", "\n", "\n"], "Sixteen chars…"),
        (["Fifteen chars a.", "\n", "\n"], "Fifteen chars a."),
        (["One", " two", " three", " fou", "r"], "One two three…"),
    ],
)
def test_a_text_that_does_not_fit_ends_well(pieces: list[str], said: str) -> None:
    assert "".join(say(pieces, 16)) == said


def test_words_and_clauses_are_not_held_back_if_they_are_known_to_be_whole() -> None:
    assert say(["One,", " two,", " three four."], 16, whole_pieces=True) == [
        *["One,", " two,", "…"],
        "",
    ]
    assert say(["A clause here,", " and more."], 99, whole_pieces=True)[0] == "A clause here,"
    assert say(["A clause here,", " and more."], 99)[0] == "A clause"


def test_it_is_known_when_nothing_more_will_be_said() -> None:
    fitting = FittingText(16)
    assert [fitting.add(piece) for piece in ["One two.", " Three four."]] == ["One two.", ""]
    assert fitting.is_full
    fitting = FittingText(16)
    assert fitting.add("Sixteen chars a.") == "Sixteen chars a."
    assert fitting.is_full


def test_what_is_said_fits_and_is_a_beginning() -> None:
    dice = random.Random(4)
    for _ in range(4000):
        text = "".join(dice.choices(PARTS, k=40))
        max_bytes = dice.randint(16, 100)
        borders = sorted(dice.sample(range(1, len(text)), k=dice.randint(0, 20)))
        pieces = [text[a:b] for a, b in pairwise([0, *borders, len(text)])]
        said = "".join(say(pieces, max_bytes))
        assert len(said.encode()) <= max_bytes
        if len(text.encode()) <= max_bytes:
            assert said == text
        else:
            assert text.startswith(said) or text.startswith(said.removesuffix("…"))


@pytest.mark.parametrize("whole_pieces", [True, False])
def test_sentences_and_words_end_as_they_should(whole_pieces: bool) -> None:
    dice = random.Random(5)
    words = ["I", "you", "went", "there", "Mr. Smith", "house", "and", "3.5 pounds"]
    for _ in range(1000):
        text = " ".join(
            " ".join(dice.choices(words, k=dice.randint(2, 9))).capitalize() + "." for _ in range(5)
        )
        max_bytes = dice.randint(16, 150)
        for splitter in (SentenceSplitter(), WordSplitter()):
            pieces = splitter.add(text) + splitter.finish()
            said = "".join(say(pieces, max_bytes, whole_pieces=whole_pieces))
            begin = said.removesuffix("…")
            assert len(said.encode()) <= max_bytes
            assert said == text[: len(said)].rstrip() or said != begin
            assert len(begin) in word_ends(text) or not begin
            if isinstance(splitter, SentenceSplitter) and len(pieces[0].encode()) <= max_bytes:
                assert ends_sentence(said)
                assert not re.search(r"\bMr\.…?$", said)


def test_too_little_room_is_refused() -> None:
    with pytest.raises(ValueError, match="16"):
        FittingText(15)
    with pytest.raises(ValueError, match="16"):
        split_to_bytes("", 0)
