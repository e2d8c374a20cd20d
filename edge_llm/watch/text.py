"""Text of others, made harmless: what comes over MQTT may hold anything, also terminal commands."""

import unicodedata

from rich.cells import cell_len, set_cell_size

__all__ = ["fit", "fit_end", "harmless", "one_line"]

MARK = "\N{REPLACEMENT CHARACTER}"


def harmless(text: str) -> str:
    """Return text without whatever could move the cursor, change colours or the writing direction.

    Space of any kind becomes a space; control characters become a mark; signs that only join or
    hint others are left out.
    """
    return "".join(map(_harmless_sign, text))


def one_line(text: str) -> str:
    """Return text, harmless, without needless space, and beginning with a sign of its own."""
    line = " ".join(harmless(text).split())
    while line and unicodedata.category(line[0]).startswith("M"):  # would join what stands before
        line = line[1:].lstrip()
    return line


def _harmless_sign(sign: str) -> str:
    if sign.isprintable():
        return sign
    if sign.isspace():
        return " "
    return "" if unicodedata.category(sign) == "Cf" else MARK


def fit(text: str, width: int) -> str:
    """Return text in exactly so many columns of a terminal."""
    if width <= 0:
        return ""
    if cell_len(text) <= width:
        return set_cell_size(text, width)
    return set_cell_size(text, width - 1) + "…"


def fit_end(text: str, width: int) -> str:
    """Return the end of a text in at most so many columns."""
    if cell_len(text) <= width:
        return text
    end = f"…{text[-width:]}" if width > 0 else ""
    while cell_len(end) > width:  # signs may have two columns
        end = f"…{end[2:]}"
    return end
