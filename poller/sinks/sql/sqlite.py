"""The `sql` sink's table in an SQLite file. Runs on the loop: a batch takes a millisecond or two."""

import os
import sqlite3
from collections.abc import Sequence
from pathlib import Path

import structlog

from poller.core.disk import FULL, PASSING_IO, is_at_path
from poller.core.errors import SinkError
from poller.sinks.batches import BatchRefused
from poller.sinks.sql.statements import Row, create_table, upsert_row

log = structlog.get_logger("poller")

OUR_STATE = 0x506F6C6C  # `application_id` of a poller's state
WAIT_FOR_LOCK_S = 0.1  # blocks the loop, so it is short: the batch comes again
PASSING = {
    sqlite3.SQLITE_BUSY,
    sqlite3.SQLITE_LOCKED,
    sqlite3.SQLITE_FULL,
    sqlite3.SQLITE_READONLY,
    sqlite3.SQLITE_CANTOPEN,
    sqlite3.SQLITE_INTERRUPT,
}
OF_THE_RECORD = {sqlite3.SQLITE_CONSTRAINT, sqlite3.SQLITE_MISMATCH, sqlite3.SQLITE_TOOBIG}


class SqliteDatabase:
    """A `Database`."""

    def __init__(self, path: Path, table: str, *, sink: str) -> None:
        self._path = path
        self._sink = sink
        self._create = create_table(table, instant="text", json="text")
        self._upsert = upsert_row(table, placeholder="?")
        self._connection: sqlite3.Connection | None = None
        self._identity: os.stat_result | None = None

    async def upsert(self, rows: Sequence[Row]) -> BatchRefused | str | None:
        try:
            connection = self._connect()
            connection.execute("BEGIN IMMEDIATE")
            try:
                connection.executemany(self._upsert, rows)
                connection.execute("COMMIT")
            finally:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
        except sqlite3.Error as error:
            return self._classify(error)
        except (OverflowError, ValueError) as error:  # a value that SQLite cannot hold
            return BatchRefused(reason=str(error))
        return None

    async def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _connect(self) -> sqlite3.Connection:
        """Return the connection, to a new file after the old one was moved or deleted."""
        if self._connection is not None and is_at_path(self._path, self._identity):
            return self._connection
        if self._connection is not None:
            log.warning("sink.file_moved", sink=self._sink, position=None)
            self._connection.close()
            self._connection = None
        self._create_privately()
        connection = sqlite3.connect(self._path, isolation_level=None, timeout=WAIT_FOR_LOCK_S)
        try:
            self._refuse_our_state(connection)
            connection.execute("PRAGMA synchronous = EXTRA")  # FULL can lose the last commit of a rollback journal
            connection.execute(self._create)
        except BaseException:
            connection.close()
            raise
        self._connection, self._identity = connection, self._path.stat()
        return connection

    def _create_privately(self) -> None:
        """Create the file for its owner alone: records name people's files."""
        try:
            os.close(os.open(self._path, os.O_RDWR | os.O_CREAT, 0o600))
        except FileNotFoundError:
            raise SinkError(f"{self._path}: its folder does not exist; create it, or choose another path") from None
        except OSError as error:
            if error.errno not in FULL:
                raise SinkError(f"{self._path} cannot be used: {error.strerror}; choose another path") from None

    def _refuse_our_state(self, connection: sqlite3.Connection) -> None:
        (mark,) = connection.execute("PRAGMA application_id").fetchone()
        if mark == OUR_STATE:
            raise SinkError(f"{self._path} is the state of a poller; name another file for the sink")

    def _classify(self, error: sqlite3.Error) -> BatchRefused | str:
        code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR)
        if (code & 0xFF) in PASSING or code in PASSING_IO:
            return f"{self._path}: {error}"
        if (code & 0xFF) in OF_THE_RECORD:
            return BatchRefused(reason=str(error))
        other = "table: table = … in its [[sinks]] table" if code == sqlite3.SQLITE_ERROR else "file"
        raise SinkError(f"{self._path} cannot be used: {error}; correct that, or name another {other}") from None
