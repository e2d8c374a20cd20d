"""Conversations that the node remembers for clients that can't.

A conversation is what users said and what was answered, without system turns: those come with each
request or its preset. It ends by a reset, or when nobody has said anything for a while.
"""

import time
from collections.abc import Sequence

from pydantic import TypeAdapter, ValidationError

from edge_llm.protocol import Message
from edge_llm.settings import SessionSettings
from edge_llm.store.database import Database

__all__ = ["Sessions"]

_TURNS = TypeAdapter(tuple[Message, ...])


class Sessions:
    """Conversations by name."""

    def __init__(self, database: Database, settings: SessionSettings) -> None:
        self._database = database
        self._settings = settings

    def turns(self, name: str) -> tuple[Message, ...]:
        """Return a conversation so far, oldest turn first; empty if there is none."""
        rows = self._database.read(
            "SELECT turns FROM session WHERE name = ? AND used_at >= ?", name, self._oldest()
        )
        try:
            return _TURNS.validate_json(rows[0][0], strict=False) if rows else ()
        except ValidationError:  # of another version of edge-llm
            return ()

    def keep(self, name: str, turns: Sequence[Message]) -> None:
        """Replace a conversation by what it has become."""
        turns = list(turns)
        while turns and sum(map(_num_chars, turns)) > self._settings.max_chars:
            turns = turns[_len_of_oldest(turns) :]
        with self._database.transaction():
            self._database.write(
                "INSERT OR REPLACE INTO session VALUES (?, ?, ?)",
                name, time.time(), _TURNS.dump_json(tuple(turns)).decode(),
            )  # fmt: skip
            self._prune()

    def reset(self, name: str) -> None:
        """Forget a conversation."""
        self._database.write("DELETE FROM session WHERE name = ?", name)

    def _oldest(self) -> float:
        return time.time() - self._settings.idle_expiry_s

    def _prune(self) -> None:
        self._database.write("DELETE FROM session WHERE used_at < ?", self._oldest())
        self._database.write(
            "DELETE FROM session WHERE name IN "
            "(SELECT name FROM session ORDER BY used_at DESC LIMIT -1 OFFSET ?)",
            self._settings.max_sessions,
        )


def _len_of_oldest(turns: Sequence[Message]) -> int:
    """Return how many messages the oldest turn has: a user's, and the answers to it."""
    return next((n for n in range(1, len(turns)) if turns[n].role == "user"), len(turns))


def _num_chars(turn: Message) -> int:
    calls = turn.tool_calls or ()
    said = (turn.content, *(text for c in calls for text in (c.id, c.function.arguments)))
    return sum(map(len, said))
