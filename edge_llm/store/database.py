"""The SQLite file behind the store.

Writes are small and happen in the event loop: in WAL mode without a sync at each commit they take
some 30 us. A killed process loses nothing; a power cut may lose the last second, after which a
request that was answered in it is answered anew. What can't be written, as on a full disk, is
said once, and the node goes on without: a request is worth more than its record.
"""

import contextlib
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import structlog

from edge_llm.errors import ConfigurationError

__all__ = ["Database"]

log = structlog.get_logger()

SCHEMA_VERSION = 1
SCHEMA = """
CREATE TABLE received (key BLOB PRIMARY KEY, received_at REAL NOT NULL) WITHOUT ROWID;
CREATE TABLE answer (
    number INTEGER PRIMARY KEY, key BLOB UNIQUE NOT NULL, finished_at REAL NOT NULL,
    size INTEGER NOT NULL, messages BLOB NOT NULL
);
CREATE INDEX answer_finished_at ON answer (finished_at);
CREATE TABLE session (name TEXT PRIMARY KEY, used_at REAL NOT NULL, turns TEXT NOT NULL)
    WITHOUT ROWID;
"""


class Database:
    """A connection that stays usable whatever happens to its file."""

    def __init__(self, connection: sqlite3.Connection, path: Path | None) -> None:
        self._connection = connection
        self._path = path
        self._is_broken = False
        self._num_failures = 0

    @classmethod
    @contextlib.contextmanager
    def open(cls, path: Path | None) -> Iterator["Database"]:
        """Open a file, made anew if there is none or it is broken; None is memory only.

        Raises:
            ConfigurationError: the directory can't be made or written to.
        """
        connection = _connect(path) if path else sqlite3.connect(":memory:", isolation_level=None)
        try:
            if path is None:
                _set_up(connection)
            yield cls(connection, path)
        finally:
            with contextlib.suppress(sqlite3.Error):
                connection.close()

    def write(self, sql: str, *values: Any) -> None:
        """Run a statement that changes something; a failure is logged, once."""
        with self._forgiving():
            self._connection.execute(sql, values)

    def read(self, sql: str, *values: Any) -> list[tuple[Any, ...]]:
        """Return rows; none if the file can't be read."""
        with self._forgiving():
            return self._connection.execute(sql, values).fetchall()
        return []

    @contextlib.contextmanager
    def transaction(self) -> Iterator[None]:
        """All writes inside or none; inside another one it is part of that."""
        if self._connection.in_transaction:
            yield
            return
        num_failures = self._num_failures
        self.write("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            self._end("ROLLBACK")
            raise
        self._end("COMMIT")
        if self._is_broken and self._num_failures == num_failures:
            self._is_broken = False
            log.info("store.recovered", file=str(self._path))

    def _end(self, statement: str) -> None:
        if self._connection.in_transaction:  # a full disk has ended it already
            self.write(statement)

    @contextlib.contextmanager
    def _forgiving(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as exc:
            if not self._is_broken:
                log.error(
                    "store.failed",
                    file=str(self._path),
                    reason=str(exc),
                    do="make room on the disk, or remove the file; until then answers are not "
                    "remembered across a restart",
                )
            self._is_broken = True
            self._num_failures += 1


def _connect(path: Path) -> sqlite3.Connection:
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        path.touch(mode=0o600)  # it holds what people said
    except OSError as exc:
        raise ConfigurationError(
            f"{path}: can't be written ({exc.strerror}): set store.directory "
            "(EDGE_LLM_STORE__DIRECTORY) to a directory of the service's own",
            param="store.directory",
        ) from exc
    try:
        return _open_file(path)
    except sqlite3.DatabaseError as exc:  # not a database, or one that a power cut has broken
        aside = path.with_suffix(".broken")
        log.error("store.broken", file=str(path), reason=str(exc), moved_to=str(aside))
        path.replace(aside)
        for suffix in ("-wal", "-shm"):
            Path(f"{path}{suffix}").unlink(missing_ok=True)
        path.touch(mode=0o600)
        return _open_file(path)


def _open_file(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, isolation_level=None, timeout=1.0)
    try:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = NORMAL")
        [version] = connection.execute("PRAGMA user_version").fetchone()
        if version == 0:
            _set_up(connection)
        elif version != SCHEMA_VERSION:
            raise sqlite3.DatabaseError(f"its layout is of another version ({version})")
        [check] = connection.execute("PRAGMA quick_check(1)").fetchone()
        if check != "ok":
            raise sqlite3.DatabaseError(check)
    except BaseException:
        connection.close()
        raise
    return connection


def _set_up(connection: sqlite3.Connection) -> None:
    connection.executescript(f"BEGIN; {SCHEMA} PRAGMA user_version = {SCHEMA_VERSION}; COMMIT;")
