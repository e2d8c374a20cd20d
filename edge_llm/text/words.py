"""Text in words, cut out of a stream as they end, and the places where a text may be cut at all."""

import re
import unicodedata

__all__ = ["WIDE", "WordSplitter", "cluster_border", "word_ends"]

# Han and kana, as the inside of a regular expression's [...]: they set no space between words.
WIDE = "\u2e80-\u2fdf\u3005-\u3007\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\uff66-\uff9d"
WIDE += "\U00020000-\U0003ffff"
OPENING = "「『【《“\uff08"
VOICED = "\uff9e\uff9f"  # of half-width kana: letters to Python, marks to the reader
# With the white space before it. Where there is none, a character with its brackets and marks.
# It begins behind no white space, lest a run of that is searched from each of its characters.
WORD = re.compile(
    rf"(?<!\s)\s*+(?:[{OPENING}]*[{WIDE}](?:[{VOICED}]|[^\w\s{OPENING}])*|[^\s{WIDE}]+)"
)
EXTENDING = "\u200c\u200d\u0e33\u0eb3" + VOICED  # joiners and vowels, by their category no marks
FLAG_LETTERS = re.compile("[\U0001f1e6-\U0001f1ff]*$")
LONGEST_CLUSTER = 64  # longer heaps of accents are cut; an even number, as flags are of two
VIRAMA = 9  # the combining class of what joins two consonants of an Indic script


class WordSplitter:
    """Collects pieces of text and gives out whole words, with the white space before them.

    A word is whole when something else follows it. The words joined are the text.
    """

    def __init__(self) -> None:
        self._text = ""

    @property
    def pending(self) -> str:
        """The text that was not given out yet."""
        return self._text

    def add(self, text: str) -> list[str]:
        """Return the words that this piece completes."""
        self._text += text
        ends = [end for end in word_ends(self._text) if end < len(self._text)]
        words = [self._text[start:end] for start, end in zip([0, *ends], ends, strict=False)]
        self._text = self._text[ends[-1] :] if ends else self._text
        return words

    def finish(self) -> list[str]:
        """Return what is left, now that no more text comes."""
        rest, self._text = self._text, ""
        return [rest] if rest else []


def word_ends(text: str) -> list[int]:
    """Return where in a text its words end."""
    return [word.end() for word in WORD.finditer(text)]


def cluster_border(text: str, index: int) -> int:
    """Return the last place up to ``index`` that is not inside what is read as one character.

    These are Unicode's grapheme clusters (UAX #29) as far as ``unicodedata`` knows them; zero if
    there is no such place.
    """
    for place in range(index, max(index - LONGEST_CLUSTER, 0), -1):
        if place >= len(text) or _is_border(text, place):
            return place
    return 0


def _is_border(text: str, index: int) -> bool:
    before, after = text[index - 1], text[index]
    if after < "\u0300":  # Latin text needs no closer look
        return before + after != "\r\n"
    if after in EXTENDING or unicodedata.category(after).startswith("M"):
        return False
    if before == "\u200d" or unicodedata.combining(before) == VIRAMA:
        return after.isspace()
    if "\U0001f3fb" <= after <= "\U0001f3ff" or "\U000e0020" <= after <= "\U000e007f":
        return False  # the colour of a skin, the tags of a flag
    if "\U0001f1e6" <= after <= "\U0001f1ff":  # two make a flag
        flag_letters = FLAG_LETTERS.search(text, max(index - LONGEST_CLUSTER, 0), index)
        return flag_letters is None or len(flag_letters[0]) % 2 == 0
    return not "\u1160" <= after <= "\u11ff"  # the later parts of a Hangul syllable
