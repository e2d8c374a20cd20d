"""Words out of a stream, and characters as readers see them."""

# ruff: noqa: RUF001 - Chinese is written with its own marks

import random
from itertools import pairwise

import pytest

from edge_llm.text.words import WordSplitter, cluster_border, word_ends

CLUSTERS = [
    *["a", "ö", "e\u0301", "你", "각", "\u1112\u1161\u11ab", "नि", "क्ष", "กำ", "ﾊﾞ", "\r\n"],
    *["🦊", "👍🏽", "❤️", "1️⃣", "🇩🇪", "🇫🇷", "👨‍👩‍👧", "🏴\U000e0067\U000e0062\U000e007f"],
]


def split(pieces: list[str]) -> list[str]:
    splitter = WordSplitter()
    words = [word for piece in pieces for word in splitter.add(piece)]
    return words + splitter.finish()


@pytest.mark.parametrize(
    "text",
    [
        "One| two,| three.|\nFour",
        "  Don't| you?|  ",
        "你|好，|世|界。|今|天| ",
        "「行|く」|と|Tom",
        "안녕하세요.| 네.",
        "GPT|是|什|么？| OK",
        "ka\u0301| b👨‍👩‍👧c| d",
    ],
)
def test_words_come_whole_with_the_space_before_them(text: str) -> None:
    words = text.split("|")
    text = text.replace("|", "")
    assert split([text]) == words
    assert split(list(text)) == words


def test_a_word_goes_out_when_something_follows_it() -> None:
    splitter = WordSplitter()
    assert splitter.add("Hel") == splitter.add("lo") == []
    assert splitter.pending == "Hello"
    assert splitter.add(" wor") == ["Hello"]
    assert splitter.add("ld\n") == [" world"]
    assert splitter.finish() == ["\n"]
    assert splitter.finish() == []


def test_borders_of_pieces_do_not_matter_and_no_character_is_torn() -> None:
    dice = random.Random(0)
    for _ in range(2000):
        clusters = dice.choices([*CLUSTERS, " ", "."], k=20)
        text = "".join(clusters)
        borders = sorted(dice.sample(range(1, len(text)), k=dice.randint(0, 10)))
        words = split([text[a:b] for a, b in pairwise([0, *borders, len(text)])])
        assert words == split([text])
        assert "".join(words) == text
        assert all(cluster_border(text, end) == end for end in word_ends(text))


def test_what_is_read_as_one_character_is_not_cut() -> None:
    dice = random.Random(1)
    for _ in range(1000):
        clusters = dice.choices(CLUSTERS, k=8)
        text = "".join(clusters)
        ends = [len("".join(clusters[:count])) for count in range(len(clusters) + 1)]
        for index in range(len(text) + 1):
            assert cluster_border(text, index) == max(end for end in ends if end <= index)
