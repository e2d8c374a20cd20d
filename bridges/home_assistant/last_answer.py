"""The latest answer: cut, as a state of Home Assistant's, and whole, as an attribute of it."""

import json
from typing import get_args

from edge_llm.engine import Ended
from edge_llm.protocol import FinishReason
from edge_llm.text.words import cluster_border, word_ends

__all__ = ["MAX_STATE_CHARS", "make_last_answer", "shorten"]

MAX_STATE_CHARS = 255
"""Home Assistant's ``MAX_LENGTH_STATE_STATE``; longer states are refused."""
ELLIPSIS = "…"
FINISHED = frozenset(get_args(FinishReason))


def make_last_answer(ended: Ended) -> bytes | None:
    """Return what to publish of a request that has ended, in JSON; None if it has no answer.

    ``state`` is a word that Home Assistant allows no attribute to have, so all else of the message
    are the attributes.
    """
    if ended.outcome not in FINISHED or not ended.text.strip():
        return None
    answer = {
        "state": shorten(ended.text),
        "text": ended.text,
        "finish_reason": ended.outcome,
        "completion_tokens": ended.usage.completion_tokens,
        "total_s": round(ended.timing.total_s, 3),
    }
    return json.dumps(answer, ensure_ascii=False).encode()


def shorten(text: str) -> str:
    """Return the text in one line of at most 255 characters, cut at a word."""
    line = " ".join(text.split())
    if len(line) <= MAX_STATE_CHARS:
        return line
    room = MAX_STATE_CHARS - len(ELLIPSIS)
    words = [end for end in word_ends(line[: room + 1]) if end <= room]
    return line[: words[-1] if words else cluster_border(line, room)].rstrip() + ELLIPSIS
