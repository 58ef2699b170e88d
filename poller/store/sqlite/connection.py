"""Connections to an SQLite state."""

import sqlite3
from pathlib import Path

from poller.store.sqlite.errors import opening_error

MEMORY = ":memory:"
WRITING_MS = 100  # the longest wait for another program's lock while the event loop waits


def connect(path: Path | None, mode: str) -> sqlite3.Connection:
    """Connect in autocommit mode: all transactions are explicit."""
    if path is None:
        return sqlite3.connect(":memory:", isolation_level=None)
    uri = f"{path.absolute().as_uri()}?mode={mode}"
    try:
        connection = sqlite3.connect(uri, uri=True, isolation_level=None, timeout=WRITING_MS / 1000)
    except sqlite3.Error as error:
        raise opening_error(error, str(path)) from error
    connection.execute("PRAGMA mmap_size = 0")
    return connection
