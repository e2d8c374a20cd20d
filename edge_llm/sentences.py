"""Text in sentences: cut out of a stream as they end, or cut off where bytes run out."""

import re

__all__ = ["SentenceSplitter", "cut_to_bytes"]

# A sentence ends at a mark, with the quotes and brackets that close it, before white space.
END = re.compile(r"""[.!?…]+["'”’)\]]*(?=\s)|[。！？]|\n""")
ELLIPSIS = "…"


class SentenceSplitter:
    """Collects pieces of text and gives out whole sentences, with the white space before them."""

    def __init__(self) -> None:
        self._text = ""

    def add(self, text: str) -> list[str]:
        """Return the sentences that this piece completes."""
        self._text += text
        sentences = []
        start = 0
        for end in END.finditer(self._text):
            if self._text[start : end.end()].strip():
                sentences.append(self._text[start : end.end()])
                start = end.end()
        self._text = self._text[start:]
        return sentences

    def finish(self) -> list[str]:
        """Return what is left, now that no more text comes."""
        rest, self._text = self._text, ""
        return [rest] if rest else []


def cut_to_bytes(text: str, max_bytes: int) -> str:
    """Shorten a text to ``max_bytes`` of UTF-8: at a sentence, else at a word with an ellipsis.

    A character is never cut in two.
    """
    if len(text.encode()) <= max_bytes:
        return text
    room = _first_bytes(text, max_bytes)
    ends = [end.end() for end in END.finditer(text) if end.end() <= len(room)]
    if ends and ends[-1] * 2 >= len(room):  # else more is lost than a cut sentence is worth
        return room[: ends[-1]].rstrip()
    room = _first_bytes(text, max_bytes - len(ELLIPSIS.encode()))
    if not (text[len(room)].isspace() or room[-1:].isspace()):  # a word is cut in two
        room = re.sub(r"\s\S+$", "", room).rstrip() or room
    return room.rstrip() + ELLIPSIS


def _first_bytes(text: str, num_bytes: int) -> str:
    return text.encode()[:num_bytes].decode(errors="ignore")
