"""Sentences out of a stream, and texts cut to fit a buffer."""

import random

import pytest

from edge_llm.sentences import SentenceSplitter, cut_to_bytes

STORY = (
    'Hello! How are you? "Fine." I have 3.14 apples... and (two pears.) Well…\n\n'
    "你好。今天好吗？好！ The end"
)


def split(parts: list[str]) -> list[str]:
    splitter = SentenceSplitter()
    sentences = [sentence for part in parts for sentence in splitter.add(part)]
    return sentences + splitter.finish()


def test_sentences_come_whole_with_the_space_before_them() -> None:
    assert split([STORY]) == [
        "Hello!",
        " How are you?",
        ' "Fine."',
        " I have 3.14 apples...",
        " and (two pears.)",
        " Well…",
        "\n\n你好。",
        "今天好吗？",
        "好！",
        " The end",
    ]


def test_borders_of_pieces_do_not_matter() -> None:
    dice = random.Random(0)
    expected = split([STORY])
    for _ in range(500):
        parts, rest = [], STORY
        while rest:
            size = dice.randint(1, 6)
            parts.append(rest[:size])
            rest = rest[size:]
        assert split(parts) == expected


def test_nothing_is_lost_or_said_twice() -> None:
    dice = random.Random(1)
    for _ in range(1000):
        text = "".join(dice.choices("ab .!?…\n\"')。", k=30))
        sentences = split(list(text))
        assert "".join(sentences) == text
        assert all(sentence.strip() for sentence in sentences[:-1])


def test_a_sentence_comes_as_soon_as_it_is_over() -> None:
    splitter = SentenceSplitter()
    assert splitter.add("Hello") == []
    assert splitter.add(".") == []  # 3.14 is not over yet
    assert splitter.add(" ") == ["Hello."]
    assert splitter.add("One\n") == [" One\n"]
    assert splitter.add("你好。") == ["你好。"]
    assert splitter.finish() == []


def test_an_empty_stream_has_no_sentences() -> None:
    assert split([]) == []
    assert split([""]) == []


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
        ("unbreakablelongword", 16, "unbreakablelo…"),
        ("   unbreakablelongword", 16, "   unbreakabl…"),
        (" " * 13 + "unbreakablelongword", 16, "…"),
        ("你好你好你好你好", 16, "你好你好…"),
        ("🦊🦊🦊🦊🦊", 16, "🦊🦊🦊…"),
        ("你好。你好你好你好", 16, "你好。"),
        ("", 16, ""),
    ],
)
def test_texts_are_cut_where_it_hurts_least(text: str, max_bytes: int, cut: str) -> None:
    assert cut_to_bytes(text, max_bytes) == cut


def test_a_cut_text_fits_and_is_a_beginning() -> None:
    dice = random.Random(2)
    for _ in range(3000):
        text = "".join(dice.choices(["a", "bc", " ", ". ", "é", "你", "。", "🦊", "\n"], k=40))
        max_bytes = dice.randint(16, 100)
        cut = cut_to_bytes(text, max_bytes)
        assert len(cut.encode()) <= max_bytes
        if len(text.encode()) <= max_bytes:
            assert cut == text
        else:
            assert cut.removesuffix("…").strip() in text
            assert len(cut.encode()) < len(text.encode()) or cut.endswith("…")
