"""Texts that must fit into a number of bytes of UTF-8, for displays and players with small buffers.

They are cut where it hurts least: at the end of a sentence, else of a word, else of a character as
readers see it, which may be several to Unicode.
"""

import re
from bisect import bisect_right

from edge_llm.text.sentences import ends_sentence, sentence_ends
from edge_llm.text.words import cluster_border, word_ends

__all__ = ["FittingText", "cut_to_bytes", "split_to_bytes"]

MIN_BYTES = 16  # as in the protocol: room for a word, or for any character that is not put together
ELLIPSIS = "…"
ELLIPSIS_BYTES = len(ELLIPSIS.encode())
CONTEXT = 120  # characters around a place that tell whether a sentence ends there
SEVERAL_WORDS = re.compile(r"\S\s+\S")


class FittingText:
    """A text that comes in pieces and must end before it is longer than ``max_bytes``.

    All that it gives out, joined, is the text if that fits. Else it ends with a sentence, if the
    pieces are sentences or one happens to end there, or with a word and an ellipsis.

    Args:
        max_bytes: at least 16.
        whole_pieces: the pieces are words or sentences. Else they may be tokens, so that a word is
            held back until the next begins; several words that end like a sentence are one.

    Raises:
        ValueError: ``max_bytes`` is below 16.
    """

    def __init__(self, max_bytes: int, *, whole_pieces: bool = False) -> None:
        _check(max_bytes)
        self._room = max_bytes
        self._whole_pieces = whole_pieces
        self._held = ""  # fits, but for white space at its end
        self._said = ""  # the end of what was given out
        self._is_full = False

    @property
    def is_full(self) -> bool:
        """Whether nothing more will be said, so that there is no use in generating more."""
        return self._is_full

    def add(self, piece: str) -> str:
        """Return what may be said of the text now."""
        if self._is_full:
            return ""
        self._held += piece
        is_sentence = SEVERAL_WORDS.search(piece) is not None and ends_sentence(self._held)
        is_whole = self._whole_pieces or is_sentence
        if not _fits(self._held.rstrip(), self._room):
            self._is_full = True
            words = self._last_words(is_whole=is_whole)
            return words if _fits(words, self._room) else ""
        said = self._held[: self._num_sayable(is_whole=is_whole)]
        self._held = self._held[len(said) :]
        self._room -= len(said.encode())
        self._said = (self._said + said)[-CONTEXT:]
        self._is_full = self._room == 0
        return said

    def finish(self) -> str:
        """Return the last of the text."""
        rest, self._held = self._held, ""
        if self._is_full:
            return ""
        self._is_full = True
        return rest if _fits(rest, self._room) else rest.rstrip()

    def _num_sayable(self, *, is_whole: bool) -> int:
        """Count the characters after which the text may end: with a sentence or an ellipsis."""
        ends = [end for end in word_ends(self._held) if end < len(self._held)]
        for end in reversed([*ends, len(self._held)] if is_whole else ends):
            part = self._held[:end]
            if _fits(part, self._room - ELLIPSIS_BYTES):
                return end
            so_far = self._said + part
            if _fits(part, self._room) and so_far.strip() and ends_sentence(so_far):
                return end
        return 0

    def _last_words(self, *, is_whole: bool) -> str:
        if not self._said.strip():
            return _cut(self._held, self._room)
        at_sentence_end = ends_sentence(self._said)
        if at_sentence_end and is_whole:
            return ""
        words = _cut(self._held, self._room, starts_text=False)
        return "" if at_sentence_end and words == ELLIPSIS else words


def cut_to_bytes(text: str, max_bytes: int) -> str:
    """Shorten a text to ``max_bytes`` of UTF-8: at a sentence, else at a word with an ellipsis.

    A character is never cut in two, nor is it cut from its accents.
    """
    return text if _fits(text, max_bytes) else _cut(text, max_bytes)


def split_to_bytes(text: str, max_bytes: int) -> list[str]:
    """Split a text into parts of at most ``max_bytes`` of UTF-8; joined they are the text.

    Raises:
        ValueError: ``max_bytes`` is below 16.
    """
    _check(max_bytes)
    sentences, words = sentence_ends(text), word_ends(text)
    parts = []
    start = 0
    while start < len(text):
        room = start + _num_fitting(text[start : start + max_bytes], max_bytes)
        end = len(text)
        if room < end:
            end = _last_between(start, sentences, room) or _last_between(start, words, room)
            end = end or cluster_border(text, room)
            end = end if end > start else room  # a character longer than that
        parts.append(text[start:end])
        start = end
    return parts


def _cut(text: str, max_bytes: int, *, starts_text: bool = True) -> str:
    room = _num_fitting(text, max_bytes)
    ends = [end for end in sentence_ends(text[: room + CONTEXT]) if end <= room]
    if ends and ends[-1] * 2 >= room:  # else more is lost than a cut sentence is worth
        return text[: ends[-1]].rstrip()
    room = _num_fitting(text, max(max_bytes - ELLIPSIS_BYTES, 0))
    words = [end for end in word_ends(text[: room + 1]) if end <= room]
    end = cluster_border(text, room) if starts_text else 0
    return text[: words[-1] if words else end].rstrip() + ELLIPSIS


def _last_between(start: int, ends: list[int], stop: int) -> int:
    """Return the last of the sorted ``ends`` up to ``stop``, or zero if that is not past start."""
    index = bisect_right(ends, stop)
    return ends[index - 1] if index and ends[index - 1] > start else 0


def _num_fitting(text: str, max_bytes: int) -> int:
    """Count the first characters of a text that fit."""
    return len(text[:max_bytes].encode()[:max_bytes].decode(errors="ignore"))


def _fits(text: str, max_bytes: int) -> bool:
    return len(text.encode()) <= max_bytes


def _check(max_bytes: int) -> None:
    if max_bytes < MIN_BYTES:
        raise ValueError(f"max_bytes is {max_bytes}, less than {MIN_BYTES}")
