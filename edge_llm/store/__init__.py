"""What outlives a restart, in one SQLite file: finished answers, and conversations."""

from edge_llm.store.answers import Answers, dump_messages, load_messages, make_key
from edge_llm.store.database import Database
from edge_llm.store.sessions import Sessions
from edge_llm.store.store import Store, open_store, store_path

__all__ = [
    "Answers",
    "Database",
    "Sessions",
    "Store",
    "dump_messages",
    "load_messages",
    "make_key",
    "open_store",
    "store_path",
]
