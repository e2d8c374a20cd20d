"""Token ids to text, piece by piece: whole characters only, and nothing of a stop string."""

import codecs
from collections.abc import Sequence

__all__ = ["Detokenizer", "StopStrings"]


class Detokenizer:
    """Turns tokens into text as they come; keeps back a character until it is whole.

    Args:
        token_bytes: the bytes of each token id; special tokens have none.
    """

    def __init__(self, token_bytes: Sequence[bytes]) -> None:
        self._token_bytes = token_bytes
        # Bytes that can't be UTF-8 become U+FFFD; an unfinished character is never given out.
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def add(self, token_id: int) -> str:
        """Return the text that this token completes, often of one word, sometimes empty."""
        return self._decoder.decode(self._token_bytes[token_id])


class StopStrings:
    """Looks for stop strings in text that comes in pieces, wherever the borders fall."""

    def __init__(self, stop: Sequence[str]) -> None:
        self._stop = stop
        self._held = ""
        self.has_come = False
        """Whether one of them has been found."""

    @property
    def is_holding(self) -> bool:
        """Whether text is held back."""
        return bool(self._held)

    def add(self, text: str) -> tuple[str, bool]:
        """Return the text that may go out, and whether a stop string has come.

        What may be the beginning of a stop string is held back until it is clear.
        """
        if not self._stop:
            return text, False
        text = self._held + text
        # The one that is complete first, so that the borders of the pieces don't matter.
        found = [(at + len(stop), at) for stop in self._stop if (at := text.find(stop)) >= 0]
        if found:
            self._held, self.has_come = "", True
            return text[: min(found)[1]], True
        num_held = max(_overlap(text, stop) for stop in self._stop)
        self._held = text[len(text) - num_held :]
        return text[: len(text) - num_held], False

    def finish(self) -> str:
        """Return what was held back, now that no more text comes."""
        held, self._held = self._held, ""
        return held


def _overlap(text: str, stop: str) -> int:
    """Return the length of the longest end of ``text`` that ``stop`` begins with."""
    longest = min(len(text), len(stop) - 1)
    return next((n for n in range(longest, 0, -1) if text.endswith(stop[:n])), 0)
