"""JSON as other servers send it."""

import json
from typing import Any

from edge_llm.text.surrogates import SURROGATE_ESCAPE, mend_in

__all__ = ["parse_json"]


def parse_json(text: str) -> Any:
    """Read JSON; half a character in it becomes U+FFFD, as nobody could be told it.

    Raises:
        ValueError: it is none, or it is nested too deeply.
    """
    try:
        value = json.loads(text)
        return mend_in(value) if SURROGATE_ESCAPE.search(text) else value
    except RecursionError as exc:
        raise ValueError("it is nested too deeply") from exc
