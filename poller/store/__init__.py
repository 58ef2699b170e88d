"""The one durable truth: the queue, the schedule and the outbox of a run, on SQLite or PostgreSQL."""

from poller.core.protocols import StateReader
from poller.store.open_store import (
    POSTGRES,
    ask_to_reload,
    is_new,
    last_beat,
    move_sink,
    open_store,
    read_store,
    replay_beside,
)
from poller.store.sqlite.store import SqliteStore

__all__ = [
    "POSTGRES",
    "SqliteStore",
    "StateReader",
    "ask_to_reload",
    "is_new",
    "last_beat",
    "move_sink",
    "open_store",
    "read_store",
    "replay_beside",
]
