"""Finished requests and their final messages, for requests that are delivered again.

A request is known by a digest of its id and of all that was asked, so the same id with another
payload is another request. Bounded by age, by number and by size; the oldest go first.
"""

import hashlib
import time
from collections.abc import Sequence

from pydantic import ConfigDict, TypeAdapter, ValidationError

from edge_llm.outgoing import Outgoing
from edge_llm.settings import StoreSettings
from edge_llm.store.database import Database

__all__ = ["Answers", "dump_messages", "load_messages", "make_key"]

_MESSAGES = TypeAdapter(
    list[Outgoing], config=ConfigDict(ser_json_bytes="base64", val_json_bytes="base64")
)


def make_key(*parts: str | bytes | None) -> bytes:
    """Return the digest by which a request is known; the parts can't run into each other."""
    digest = hashlib.blake2b(digest_size=16)
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        digest.update(b"-" if data is None else b"%d:" % len(data) + data)
    return digest.digest()


def dump_messages(messages: Sequence[Outgoing]) -> bytes:
    """Write final messages down."""
    return _MESSAGES.dump_json(list(messages))


def load_messages(data: bytes) -> list[Outgoing] | None:
    """Read final messages; None if they are of another version of edge-llm."""
    try:
        return _MESSAGES.validate_json(data)
    except ValidationError:
        return None


class Answers:
    """Final messages by request."""

    def __init__(self, database: Database, settings: StoreSettings) -> None:
        self._database = database
        self._settings = settings
        [(count, size)] = database.read("SELECT count(*), coalesce(sum(size), 0) FROM answer")
        self._count, self._size = int(count), int(size)

    def receive(self, key: bytes, *, again: bool) -> float:
        """Note that a request has come; return how long ago it came first, in seconds.

        Args:
            key: which request; see ``make_key``.
            again: it may be the same that came before, in this life or an earlier one.
        """
        now = time.time()
        conflict = "IGNORE" if again else "REPLACE"
        self._database.write(f"INSERT OR {conflict} INTO received VALUES (?, ?)", key, now)
        rows = self._database.read("SELECT received_at FROM received WHERE key = ?", key)
        # The clock of a Pi jumps at boot, when it hears the time from the network.
        return max(now - rows[0][0], 0.0) if rows else 0.0

    def finish(self, key: bytes, messages: Sequence[Outgoing]) -> None:
        """Keep the final messages of a request, in the order in which they are published."""
        data = dump_messages(messages)
        with self._database.transaction():
            self._database.write("DELETE FROM received WHERE key = ?", key)
            self._drop("key = ?", key)
            rows = self._database.read(
                "INSERT INTO answer (key, finished_at, size, messages) VALUES (?, ?, ?, ?) "
                "RETURNING size",
                key, time.time(), len(data), data,
            )  # fmt: skip
            self._count += len(rows)
            self._size += len(data) * len(rows)
            self._prune()

    def finished(self, key: bytes, max_age_s: float | None = None) -> list[Outgoing] | None:
        """Return the final messages of a request, or None if it has none that are kept.

        Args:
            key: which request; see ``make_key``.
            max_age_s: none that are older count; all that are kept do if not given.
        """
        since = 0.0 if max_age_s is None else time.time() - max_age_s
        rows = self._database.read(
            "SELECT messages FROM answer WHERE key = ? AND finished_at >= ?", key, since
        )
        return load_messages(rows[0][0]) if rows else None

    def _prune(self) -> None:
        oldest = time.time() - self._settings.max_age_s
        self._drop("finished_at < ?", oldest)
        self._database.write("DELETE FROM received WHERE received_at < ?", oldest)
        while self._count > 1 and (
            self._count > self._settings.max_answers or self._size > self._settings.max_mb * 1e6
        ):
            before = self._count
            self._drop("number = (SELECT min(number) FROM answer)")
            if self._count == before:  # the file can't be read or written now
                return

    def _drop(self, condition: str, *values: float | bytes) -> None:
        rows = self._database.read(
            f"DELETE FROM answer WHERE {condition} RETURNING size",
            *values,
        )
        self._count -= len(rows)
        self._size -= sum(size for (size,) in rows)
