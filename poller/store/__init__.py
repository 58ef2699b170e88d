"""The one durable truth: the queue, the schedule and the outbox of a run, on SQLite or PostgreSQL."""

from poller.core.protocols import StateReader
from poller.store.open_store import ask_to_reload, is_new, last_beat, move_sink, open_store, read_store
from poller.store.sqlite.store import SqliteStore

__all__ = [
    "SqliteStore",
    "StateReader",
    "ask_to_reload",
    "is_new",
    "last_beat",
    "move_sink",
    "open_store",
    "read_store",
]
