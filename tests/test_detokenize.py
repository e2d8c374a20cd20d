"""Tokens to text: however the bytes fall into tokens, and wherever stop strings begin and end."""

import itertools
import random
from collections.abc import Iterator

import pytest

from edge_llm.engine.detokenize import Detokenizer, StopStrings

TEXTS = (
    "plain words",
    "Größe und čas",
    "你好世界。こんにちは",
    "🦊🌕",
    "👩‍👩‍👧‍👦 family",
    "🇩🇪🏳️‍🌈",
    "e\u0301 a\u0308\u0323 combining",
    "\u202eright to left שלום",
    "a\u0000b\ufffdc\U0010ffff",
)


def every_cut(data: bytes) -> Iterator[list[bytes]]:
    """Yield all ways to cut a few bytes into tokens."""
    for cuts in range(2 ** (len(data) - 1)):
        borders = [0, *(n for n in range(1, len(data)) if cuts >> (n - 1) & 1), len(data)]
        yield [data[a:b] for a, b in itertools.pairwise(borders)]


def random_cut(data: bytes, dice: random.Random) -> list[bytes]:
    """Cut bytes into tokens of up to 5; some control tokens without bytes come in between."""
    tokens = []
    while data:
        size = dice.randrange(6)
        tokens.append(data[:size])
        data = data[size:]
    return tokens


def pieces(tokens: list[bytes]) -> list[str]:
    detokenizer = Detokenizer(tokens)
    return [detokenizer.add(token_id) for token_id in range(len(tokens))]


@pytest.mark.parametrize("text", ["é", "你", "🦊", "a🦊", "é你", "e\u0301z", "🇩🇪", "x你y"])
def test_every_way_to_cut_a_text_gives_the_text(text: str) -> None:
    for tokens in every_cut(text.encode()):
        said = pieces(tokens)
        assert "".join(said) == text
        assert all(piece in text for piece in said)


@pytest.mark.parametrize("text", TEXTS)
def test_random_cuts_give_the_text_and_whole_characters_only(text: str) -> None:
    dice = random.Random(text)
    for _ in range(200):
        said = pieces(random_cut(text.encode(), dice))
        assert "".join(said) == text
        for piece in said:
            piece.encode()  # no half of a surrogate pair
            assert piece.count("\ufffd") <= text.count("\ufffd")


def test_a_character_comes_with_its_last_byte() -> None:
    assert pieces([b"\xf0", b"\x9f", b"\xa6", b"\x8a!"]) == ["", "", "", "🦊!"]


@pytest.mark.parametrize("text", ["é", "你", "🦊"])
def test_an_unfinished_character_at_the_end_is_not_said(text: str) -> None:
    data = text.encode()
    for length in range(1, len(data)):
        for tokens in every_cut(data[:length]):
            assert "".join(pieces([b"so ", *tokens])) == "so "


@pytest.mark.parametrize(
    "data",
    [
        b"a\xffb",
        b"a\xe4\xbdb",
        b"a\xf0\x9f\xa6b",
        b"\x80\x80 ",
        b"a\xc0\xafb",  # an overlong slash
        b"a\xed\xa0\x80b",  # a surrogate
        b"a\xf4\x90\x80\x80b",  # past U+10FFFF
    ],
)
def test_bytes_that_are_no_text_become_replacement_characters(data: bytes) -> None:
    expected = data.decode(errors="replace")
    for tokens in every_cut(data):
        assert "".join(pieces(tokens)) == expected


def test_random_bytes_decode_as_in_one_piece() -> None:
    dice = random.Random(0)
    for _ in range(300):
        data = bytes(dice.choice(b"a\x80\xbf\xc3\xe4\xed\xa0\xf0\x9f\xff") for _ in range(12))
        tokens = [*random_cut(data, dice), b"."]  # ends what is unfinished
        assert "".join(pieces(tokens)) == (data + b".").decode(errors="replace")


def search(stop: tuple[str, ...], parts: list[str]) -> tuple[str, bool]:
    """Return what is said in all, and whether a stop string came."""
    strings = StopStrings(stop)
    said = ""
    for part in parts:
        text, stopped = strings.add(part)
        said += text
        if stopped:
            assert strings.finish() == ""
            return said, True
    return said + strings.finish(), False


def first_complete(stop: tuple[str, ...], text: str) -> tuple[str, bool]:
    """The rule, character by character: the string that is complete first ends the text."""
    for end in range(1, len(text) + 1):
        starts = [end - len(string) for string in stop if text[:end].endswith(string)]
        if starts:
            return text[: min(starts)], True
    return text, False


@pytest.mark.parametrize(
    ("stop", "text", "said"),
    [
        (("END",), "the END of it", "the "),
        (("END",), "ENDless", ""),
        (("END",), "the EN", "the EN"),
        (("END",), "ENENEND", "ENEN"),
        (("aab",), "aaab", "a"),
        (("\n",), "one\ntwo", "one"),
        (("b", "a"), "xxabxx", "xx"),
        (("abcd", "bc"), "xabcd", "xa"),  # "bc" is there first
        (("abcd", "cd"), "xabcd", "x"),  # both in the same moment: the one that began first
        (("lo wo", "hello"), "hello world", ""),
        (("hello!", "lo"), "hello", "hel"),
        (("hello!", "hello?"), "hello.", "hello."),
        (("。", "🦊"), "你好🦊。", "你好"),
    ],
)
def test_the_first_complete_stop_string_ends_the_text(
    stop: tuple[str, ...], text: str, said: str
) -> None:
    assert first_complete(stop, text)[0] == said
    for cut in every_cut(text.encode()) if text.isascii() else [[text.encode()]]:
        assert search(stop, [part.decode() for part in cut]) == (said, said != text)


def test_borders_of_tokens_do_not_matter() -> None:
    dice = random.Random(4)
    for _ in range(3000):
        stop = tuple(
            "".join(dice.choices("ab", k=dice.randint(1, 4))) for _ in range(dice.randint(1, 4))
        )
        text = "".join(dice.choices("abc", k=12))
        parts = [part.decode() for part in random_cut(text.encode(), dice)]
        assert search(stop, parts) == first_complete(stop, text)


def test_only_what_may_begin_a_stop_string_is_held() -> None:
    strings = StopStrings(["END"])
    assert strings.add("the E") == ("the ", False)
    assert strings.add("N") == ("", False)
    assert strings.add("T") == ("ENT", False)
    assert strings.finish() == ""


def test_held_text_comes_once_when_the_text_ends() -> None:
    strings = StopStrings(["END", "\n\nUser:"])
    assert strings.add("one\n") == ("one", False)
    assert strings.finish() == "\n"
    assert strings.finish() == ""


def test_without_stop_strings_nothing_is_held() -> None:
    strings = StopStrings([])
    assert strings.add("any END") == ("any END", False)
    assert strings.finish() == ""
