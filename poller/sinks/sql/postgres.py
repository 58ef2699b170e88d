"""The `sql` sink's table in PostgreSQL, through psycopg 3, which is imported only here and only when needed."""

import asyncio
import os
import re
import socket
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import psycopg

from poller.core.errors import SinkError
from poller.core.shared_timeout import is_done_within
from poller.sinks.batches import BatchRefused
from poller.sinks.sql.statements import Row, create_table, quoted, upsert_row

PASSING = ("26000", "42P05")  # a prepared statement that a pooler in front of the server lost or kept
OF_THE_RECORD = ("22", "23", "54")  # SQLSTATE classes: data exception, constraint violation, limit exceeded
FOR_A_PERSON = ("28", "3D", "3F", "42", "0A")  # login, no such database or schema, syntax and rights, not supported

_NUL = re.compile(r"(?<!\\)((?:\\\\)*)\\u0000")  # not the text of an escaped backslash and u0000


class PostgresDatabase:
    """A `Database`. `json` keeps the record as it is, to the byte but for NULs; cast it to `jsonb` to search in it."""

    def __init__(self, url: str, table: str, *, sink: str, timeout_s: float) -> None:
        self._url = url
        self._table = table
        self._sink = sink
        self._timeout_s = timeout_s
        self._create = create_table(table, instant="timestamptz", json="json").encode()
        self._upsert = upsert_row(table, placeholder="%s").encode()
        self._connection: psycopg.AsyncConnection[Any] | None = None

    async def upsert(self, rows: Sequence[Row]) -> BatchRefused | str | None:
        storing, is_late = asyncio.ensure_future(self._store(rows)), True
        try:
            is_late = not await is_done_within(storing, self._timeout_s)
        finally:
            failure = await self._end(storing)
        if is_late:
            failure = TimeoutError()
        if failure is None or isinstance(failure, (psycopg.Error, OSError, TimeoutError)):
            return None if failure is None else await self._classify(failure)
        raise failure

    async def _store(self, rows: Sequence[Row]) -> None:
        connection = await self._connect()
        async with connection.transaction(), connection.cursor() as cursor:
            await cursor.execute("SET LOCAL synchronous_commit = on")
            await cursor.executemany(self._upsert, [_without_nul(row) for row in rows])

    async def _end(self, storing: "asyncio.Future[None]") -> BaseException | None:
        """End `storing` at once; return its failure. A cancelled psycopg asks the server to cancel, and waits ten
        seconds more for one that is frozen. On a connection that is cut it does not."""
        if not storing.done():
            if self._connection is None:
                storing.cancel()
            else:
                _cut(self._connection)
            await asyncio.wait([storing])
        return None if storing.cancelled() else storing.exception()

    async def close(self) -> None:
        if self._connection is not None:
            with suppress(psycopg.Error, OSError):
                await self._connection.close()
            self._connection = None

    async def _connect(self) -> psycopg.AsyncConnection[Any]:
        if self._connection is not None and not self._connection.closed:
            return self._connection
        connection = await psycopg.AsyncConnection.connect(
            self._url,
            autocommit=True,
            prepare_threshold=None,  # a pooler in transaction mode may take another server for each transaction
            connect_timeout=max(2, round(self._timeout_s)),
            application_name="poller",
        )
        self._connection = connection  # also while the server does not answer: it can be cut
        try:
            await self._create_table(connection)
        except BaseException:
            await self.close()
            raise
        return connection

    async def _create_table(self, connection: psycopg.AsyncConnection[Any]) -> None:
        """Create the table only where there is none: a login without that right may still fill it."""
        found = await connection.execute("SELECT to_regclass(%s)", (quoted(self._table),))
        if await found.fetchone() == (None,):
            await connection.execute(self._create)

    async def _classify(self, error: BaseException) -> BatchRefused | str:
        """Return what an error means. A commit whose answer was lost is repeated, which changes nothing."""
        state, message = getattr(error, "sqlstate", None) or "", _message(error)
        if state.startswith(OF_THE_RECORD) or isinstance(error, psycopg.DataError):
            detail = getattr(getattr(error, "diag", None), "message_detail", None)
            return BatchRefused(reason=f"{message} ({detail[:200]})" if detail else message)
        await self.close()
        if state in PASSING:
            return message
        if state.startswith(FOR_A_PERSON) or _is_for_a_person(error):
            raise SinkError(
                f"sink {self._sink}: table {self._table} cannot be used: {message}; correct that, or name another with "
                "url or table in its [[sinks]] table"
            )
        return message


def _cut(connection: psycopg.AsyncConnection[Any]) -> None:
    """End the connection for those who wait for an answer: they get `psycopg.OperationalError`."""
    with suppress(OSError, psycopg.Error), socket.socket(fileno=os.dup(connection.fileno())) as wire:
        wire.shutdown(socket.SHUT_RDWR)


def _without_nul(row: Row) -> Row:
    """Return the row with `\\u0000` in its record replaced: `jsonb` has no NUL, and one would fail every cast."""
    *columns, record = row
    return *columns, _NUL.sub(r"\1\\ufffd", record) if isinstance(record, str) and "\\u0000" in record else record


def _message(error: BaseException) -> str:
    """Return the server's own short message. libpq's messages may contain host and user, never a password."""
    if isinstance(error, TimeoutError):
        return "no answer in time"
    diagnosis = getattr(error, "diag", None)
    message = getattr(diagnosis, "message_primary", None) or str(error) or type(error).__name__
    return " ".join(message.split())[:200]


def _is_for_a_person(error: BaseException) -> bool:
    """Return whether an error without SQLSTATE needs a person: an unreadable URL, or a login refused in words."""
    refused = ("password authentication failed", "no pg_hba.conf entry", "does not exist", "no password supplied")
    if isinstance(error, psycopg.OperationalError):
        return any(text in str(error) for text in refused)
    return isinstance(error, psycopg.ProgrammingError) and error.sqlstate is None
