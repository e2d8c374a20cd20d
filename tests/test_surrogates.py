"""Halves of characters are mended, whole ones are left alone."""

import json

import pytest

from edge_llm.engine.upstream.parse import parse_json
from edge_llm.text.surrogates import mend, mend_in


@pytest.mark.parametrize(
    ("text", "mended"),
    [
        ("", ""),
        ("ünï🦊", "ünï🦊"),
        ("\ud83e", "\ufffd"),
        ("a\udd8ab", "a\ufffdb"),
        ("\ud83e\ud83e\udd8a", "\ufffd🦊"),
        ("\udd8a\ud83e", "\ufffd\ufffd"),
    ],
)
def test_halves_become_the_replacement_character(text: str, mended: str) -> None:
    assert mend(text) == mended
    mend(text).encode()


def test_strings_are_mended_wherever_they_are() -> None:
    value = {"\ud800": ["a", {"b": "\udc00"}, 1, None]}
    assert mend_in(value) == {"\ufffd": ["a", {"b": "\ufffd"}, 1, None]}


def test_json_of_other_servers_can_be_sent_on() -> None:
    assert parse_json('{"a": "\\uD83E", "b": "\\ud83e\\udd8a"}') == {"a": "\ufffd", "b": "🦊"}
    assert parse_json('"\\\\ud800"') == "\\ud800"
    for broken in ("{", "[" * 3000, "NaN]"):
        with pytest.raises(ValueError):  # noqa: PT011 - json's own, and ours
            parse_json(broken)
    assert parse_json(json.dumps({"x": "\U0001f98a"})) == {"x": "🦊"}
