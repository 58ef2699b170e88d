"""The store on PostgreSQL. Imported only when a state's URL asks for it: psycopg is an extra."""

from poller.store.postgres.fleet.open import ask_to_reload, move_sink, open_member, replay
from poller.store.postgres.lock import last_beat
from poller.store.postgres.open import open_postgres, read_postgres
from poller.store.postgres.store import PostgresStore

__all__ = [
    "PostgresStore",
    "ask_to_reload",
    "last_beat",
    "move_sink",
    "open_member",
    "open_postgres",
    "read_postgres",
    "replay",
]
