"""Takes an input apart: numbers and choices from its first bytes, texts up to a byte of theirs.

Atheris has a reader of its own, but an input that was a mistake once must be read in the same way
where there is no atheris, and seeds must be easy to write: texts end with 0xFF, which UTF-8 never
has, so that a byte that is put in or taken out moves nothing else.
"""

from collections.abc import Sequence
from typing import TypeVar

__all__ = ["END", "Source", "join"]

END = b"\xff"
"""Ends a text."""

Option = TypeVar("Option")


class Source:
    """An input that is taken apart from its front; past its end there are zeros and nothing."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def __bool__(self) -> bool:
        return self._at < len(self._data)

    def byte(self) -> int:
        """Return 0 to 255."""
        self._at += 1
        return self._data[self._at - 1] if self._at <= len(self._data) else 0

    def number(self, low: int, high: int) -> int:
        """Return a number of the range, both ends included."""
        return low + int.from_bytes((self.byte(), self.byte()), "little") % (high - low + 1)

    def choice(self, options: Sequence[Option]) -> Option:
        """Return one of at most 256 options."""
        return options[self.byte() % len(options)]

    def flag(self) -> bool:
        """Return true or false."""
        return self.byte() % 2 == 1

    def part(self) -> bytes:
        """Return the bytes up to the next ``END``, or all that are left."""
        end = self._data.find(END, self._at)
        end = len(self._data) if end < 0 else end
        part, self._at = self._data[self._at : end], end + 1
        return part

    def text(self) -> str:
        """Return the next part as text; what is no UTF-8 becomes U+FFFD."""
        return self.part().decode(errors="replace")

    def rest(self) -> bytes:
        """Return all that is left, as it is."""
        rest, self._at = self._data[self._at :], max(self._at, len(self._data))
        return rest


def join(numbers: Sequence[int], *parts: str | bytes) -> bytes:
    """Make an input: bytes for numbers and choices, then parts."""
    encoded = (part.encode() if isinstance(part, str) else part for part in parts)
    return bytes(numbers) + END.join(encoded)
