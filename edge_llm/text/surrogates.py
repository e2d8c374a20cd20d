"""Halves of characters: JSON can write them, UTF-8 can't, and what holds one can't be sent."""

import re
from typing import Any

__all__ = ["SURROGATE_ESCAPE", "mend", "mend_in"]

SURROGATE_ESCAPE = re.compile(r"\\u[dD][89a-fA-F]")
"""How JSON writes halves of characters, whole pairs of them as well (RFC 8259, section 8.2)."""


def mend(text: str) -> str:
    """Return a text with each half that has no other half replaced by U+FFFD."""
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def mend_in(value: Any) -> Any:
    """Do so in all strings of a JSON value.

    Raises:
        RecursionError: it is nested too deeply.
    """
    if isinstance(value, str):
        return mend(value)
    if isinstance(value, dict):
        return {mend(key): mend_in(each) for key, each in value.items()}
    if isinstance(value, list):
        return [mend_in(each) for each in value]
    return value
