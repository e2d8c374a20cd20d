"""The store: one file, opened for as long as a node runs."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from edge_llm.settings import SessionSettings, StoreSettings
from edge_llm.store.answers import Answers
from edge_llm.store.database import Database
from edge_llm.store.sessions import Sessions

__all__ = ["Store", "open_store", "store_path"]


@dataclass(frozen=True, slots=True)
class Store:
    """What a node remembers.

    Attributes:
        database: for a transaction over both.
        answers: final messages of finished requests.
        sessions: conversations.
    """

    database: Database
    answers: Answers
    sessions: Sessions


@contextmanager
def open_store(
    path: Path | None, settings: StoreSettings, sessions: SessionSettings
) -> Iterator[Store]:
    """Open the file, or a store in memory where there is none, until the context is left.

    Raises:
        ConfigurationError: the directory can't be made or written to.
    """
    with Database.open(path) as database:
        yield Store(database, Answers(database, settings), Sessions(database, sessions))


def store_path(settings: StoreSettings, node: str) -> Path:
    """Return the file of a node: each has its own."""
    directory = settings.directory
    if directory is None and "STATE_DIRECTORY" in os.environ:  # systemd's StateDirectory=
        directory = Path(os.environ["STATE_DIRECTORY"].split(":")[0])
    if directory is None:
        home = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
        directory = Path(home) / "edge-llm"
    return directory / f"{node}.sqlite3"
