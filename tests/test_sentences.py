"""Sentences out of a stream, as early as can be and never torn in two."""

# ruff: noqa: RUF001 - Russian, Chinese and Japanese are written in their own letters and marks

import random
import re
from itertools import pairwise

import pytest

from edge_llm.text.sentences import SentenceSplitter, ends_sentence, sentence_ends

# As GPT-4's and Qwen's tokenizers split a text before they look for tokens: a mark comes with the
# letters right after it, so ".com" is no end, and a mark before a space is a piece of its own.
PIECE = re.compile(r"[^\r\n\w]?[^\W\d_]+|\d|\s?[^\s\w]+[\r\n]*|\s+")

# Where a bar is, one sentence ends and the next begins.
TEXTS = [
    # English
    "Mr. Smith met Dr. Jones.| They talked for hours.",
    "Bring fruit, e.g. apples or pears, i.e. food.| Then we start.",
    "St. James, No. 5, is approx. two miles away.| It is far.| He said no.| I left.",
    "J. R. R. Tolkien wrote it.| You and I.| We know that.",
    "The U.S. Army came.| It left the U.S. in May.| I live in the U.S.| You do not.",
    "Pi is about 3.14 or so.| The price is $9.99.| Cheap!",
    "Well... maybe you are right.| Who knows...| Nobody does… perhaps.",
    '"Fine." he said to her.| Then she left.| "Are you sure?" asked the fox.| "Yes."| It nodded.',
    "He said it (twice.)| What?!| You can not mean that!!| I do.",
    "See example.com or mail me@example.com for readme.txt and v2.0.1 now.| Thanks a lot.",
    "We met at 5 p.m. in the garden.| We ate pears, etc. and slept.| At 6 p.m.| It rained.",
    "There were two.| 1. First we sing.| 2. Then we dance.|\n3. We go.| In 1999.| Or not.",
    "I am 42.| You are 7.| It is what it is.| We don't.| I like art.| It’s a fig.| See fig. 3.",
    "World War II.| The end.| My *friend*!| **Stop.**| Go on.",
    # German
    "Wir treffen uns am 3. Mai in Berlin.| Komm doch mit!",
    "Es gibt Tiere, z. B. Füchse, d. h. rote, usw. im Wald.| Sie schlafen, z.B. Igel.",
    "Der 1. FC Köln spielt bzw. verliert heute.| Das war im 19. Jahrhundert.| Lange her.",
    "Dr. med. Müller wohnt in der Hauptstr. 5.| Er mag Ludwig XIV. nicht.| Der baute.",
    "„Komm herein.“| Die Tür ging auf.| »Komm herein.« sagte sie.| »Nein.«| „Gut.| Geh!“, rief er.",
    "Das kostet ca. 1.000 Euro inkl. Versand, vgl. S. 12 ff. in Bd. 3.| Dort steht es.",
    # French, Spanish, Italian
    "M. Dupont est là.| « Bonjour. »| Elle sourit.| Qu'est-ce que c'est ?| Je ne sais pas !| Oui.",
    "Voir p. ex. la page 3, etc. et la suite.| Merci bien.",
    "¿Cómo estás?| ¡Muy bien!| El Dr. García y la Sra. López viven en EE. UU. con él.| Sí.",
    "Sono l'Avv. Rossi, ad es. oggi.| È bello.",
    # Russian
    "Это г. Москва и ул. Ленина.| Там живёт А. С. Пушкин.| «Кто там?»| Никто не ответил.",
    "Купи хлеб, молоко и т. д. в магазине.| Спасибо!",
    # Chinese, Japanese, Korean
    "你好。|今天好吗？|很好！|他说：“我不去。”|然后走了。|「什么？」|他问。|真的吗？！|是的……也许。",
    "こんにちは。|元気ですか？|「行きます。」と彼は言った。|『本当に？』|彼女は笑った。",
    "안녕하세요.| 잘 지내요?| 네.| 좋아요.",
    # Hindi, Arabic
    "यह एक वाक्य है।| यह दूसरा है।",
    "كيف حالك؟| أنا بخير.| شكرا.",
]  # fmt: skip


def split(pieces: list[str], min_chars: int = 1, max_chars: int = 1000) -> list[str]:
    splitter = SentenceSplitter(min_chars, max_chars)
    sentences = [sentence for piece in pieces for sentence in splitter.add(piece)]
    return sentences + splitter.finish()


def cut_anywhere(text: str, dice: random.Random, not_after: str = "") -> list[str]:
    places = {place for place in range(1, len(text)) if text[place - 1] not in not_after}
    borders = sorted(dice.sample(sorted(places), k=dice.randint(0, len(places))))
    return [text[a:b] for a, b in pairwise([0, *borders, len(text)])]


@pytest.mark.parametrize("text", TEXTS)
def test_sentences_end_where_they_end(text: str) -> None:
    sentences = text.split("|")
    text = text.replace("|", "")
    assert split([text]) == sentences
    assert split(PIECE.findall(text)) == sentences
    ends = [0, *sentence_ends(text)]
    assert [text[a:b] for a, b in pairwise(ends)] == sentences
    assert ends_sentence(text)


def test_the_language_tells_what_a_number_is() -> None:
    text = "It was room 12. Everybody left."
    assert split([text]) == [text]
    splitter = SentenceSplitter(language="en-GB")
    assert splitter.add(text) == ["It was room 12.", " Everybody left."]
    assert SentenceSplitter(language="de").add("Er war der 12. Präsident.") == [
        "Er war der 12. Präsident."
    ]


def test_borders_of_pieces_matter_only_right_behind_a_mark() -> None:
    dice = random.Random(0)
    parts = ["a", "Dr", "Then", " so", "3", "你", "U.S", "\n", ",", " ", " ", ".", *'..?…")”。']
    for _ in range(3000):
        text = "".join(dice.choices(parts, k=30))
        max_chars = dice.choice([20, 1000])
        pieces = cut_anywhere(text, dice, not_after='.?…")”。')
        expected = split([text], 12, max_chars)
        assert split(pieces, 12, max_chars) == expected, (text, pieces)


def test_nothing_is_lost_or_said_twice() -> None:
    dice = random.Random(1)
    for _ in range(3000):
        text = "".join(dice.choices("ab .!?…\n\"')。」«»你e\u0301🦊3", k=60))
        pieces = cut_anywhere(text, dice)
        sentences = split(pieces, dice.randint(1, 20), dice.randint(20, 40))
        assert "".join(sentences) == text
        assert all(sentence.strip() for sentence in sentences[:-1])


def test_the_same_pieces_give_the_same_sentences() -> None:
    text = "".join(TEXTS).replace("|", "")
    pieces = cut_anywhere(text, random.Random(2))
    splitter = SentenceSplitter()
    first = [splitter.add(piece) for piece in pieces] + [splitter.finish()]
    assert [splitter.add(piece) for piece in pieces] + [splitter.finish()] == first


@pytest.mark.parametrize(
    ("pieces", "sentence"),
    [
        (["Hello", ".", " I"], "Hello."),
        (["The", " night", " is", " young", ".", " And"], "The night is young."),
        (["Oh", ".", " I"], "Oh."),
        (["Who", " is", " it", "?", " I"], "Who is it?"),
        (["It", "'s", " me", "!", " So"], "It's me!"),
        (['"', "Come", " in", '."', " She"], '"Come in."'),
        (["I", " don", "'t", " (", "really", ").", " So"], "I don't (really)."),
        (["你", "好", "。", "今"], "你好。"),
        (["Line", "\n", "Next"], "Line\n"),
    ],
)
def test_a_sentence_goes_out_on_the_piece_that_ends_it(pieces: list[str], sentence: str) -> None:
    splitter = SentenceSplitter()
    told = [splitter.add(piece) for piece in pieces]
    # After a quote more of the sentence may come ('"Come in." he said'): that costs one piece.
    at = -1 if '"' in sentence else -2
    assert told[at] == [sentence]
    assert not any(told[:at])


def test_a_wrong_guess_only_moves_a_border() -> None:
    assert split(["See example", ".", "com", " now", "."]) == ["See example.", "com now."]
    assert split(["Well", ".", "..", " maybe", "."]) == ["Well.", ".. maybe."]


def test_short_sentences_wait_for_company_but_for_the_first() -> None:
    splitter = SentenceSplitter()
    assert splitter.add("Oh. Ah. I see. Well, let us go then.") == [
        "Oh.",
        " Ah. I see. Well, let us go then.",
    ]
    assert splitter.add(" Yes.") == []
    assert (splitter.pending, splitter.unfinished) == (" Yes.", "")
    assert splitter.add(" And th") == []
    assert (splitter.pending, splitter.unfinished) == (" Yes. And th", " And th")
    assert splitter.finish() == [" Yes. And th"]
    assert splitter.add("好！今天好吗？好！今天很好吗？") == [
        "好！",
        "今天好吗？",
        "好！今天很好吗？",
    ]


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("one two three, four five six seven", ["one two three,", " four five six seven"]),
        ("one, two three four five six seven", ["one, two three four", " five six seven"]),
        ("in 1,000,000 and 2,000,000 years", ["in 1,000,000 and", " 2,000,000 years"]),
        ("Ah so. " + "and " * 5 + "so on.", ["Ah so.", " and and and and and", " so on."]),
        ("一二三四五，六七八九", ["一二三四五，", "六七八九"]),
        ("a" * 30, ["a" * 20, "a" * 10]),
        ("e\u0301" * 10 + "ee\u0301x", ["e\u0301" * 10, "ee\u0301x"]),
        ("x" * 19 + "e\u0301" + "x", ["x" * 19, "e\u0301x"]),
    ],
)
def test_what_is_too_long_for_one_breath_is_cut(text: str, parts: list[str]) -> None:
    assert split([text], 5, 20) == parts
    assert split(list(text), 5, 20) == parts


@pytest.mark.parametrize(
    ("text", "unfinished"),
    [
        ("", ""),
        ("It is he.", ""),
        ("It is he.  ", ""),
        ("Title\n", ""),
        ('"Fine."', ""),
        ("Who knows...", ""),
        ("So it is. And", " And"),
        ("So it is. Mr.", " Mr."),
        ("We need 3", "We need 3"),
        ("1.", "1."),
    ],
)
def test_it_is_known_whether_the_text_so_far_is_whole(text: str, unfinished: str) -> None:
    splitter = SentenceSplitter()
    splitter.add(text)
    assert splitter.unfinished == unfinished
    assert ends_sentence(text) == (unfinished == "")


def test_an_empty_stream_has_no_sentences() -> None:
    assert split([]) == split([""]) == []
    assert split([" "]) == [" "]
