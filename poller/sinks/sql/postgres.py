"""The `sql` sink's table in PostgreSQL, through psycopg 3, which is imported only here and only when asked for."""

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import psycopg
from psycopg import sql

from poller.core.errors import SinkError
from poller.core.model import Retry
from poller.sinks.batches import RecordRefused
from poller.sinks.sql.sink import COLUMNS, Row

OF_THE_RECORD = ("22", "23", "54")  # SQLSTATE classes: data exception, constraint violation, limit exceeded
FOR_A_PERSON = ("28", "3D", "3F", "42", "0A")  # login, no such database or schema, syntax and rights, not supported


class PostgresTable:
    """A `Database`. `json` keeps the record as it is, to the byte; cast it to `jsonb` to search in it."""

    def __init__(self, url: str, table: str, *, sink: str, timeout_s: float) -> None:
        self._url = url
        self._table = table
        self._sink = sink
        self._timeout_s = timeout_s
        name = sql.Identifier(*table.split("."))
        self._create = sql.SQL(
            "CREATE TABLE IF NOT EXISTS {} (account text NOT NULL, task_id text NOT NULL, kind text NOT NULL,"
            " status text, num_errors bigint, polls bigint, seen_at timestamptz NOT NULL, record json NOT NULL,"
            " PRIMARY KEY (account, task_id))"
        ).format(name)
        self._upsert = sql.SQL(
            "INSERT INTO {} ({}) VALUES ({}) ON CONFLICT (account, task_id) DO UPDATE SET {}"
        ).format(
            name,
            sql.SQL(", ").join(map(sql.Identifier, COLUMNS)),
            sql.SQL(", ").join(sql.Placeholder() * len(COLUMNS)),
            sql.SQL(", ").join(sql.SQL("{0} = excluded.{0}").format(sql.Identifier(c)) for c in COLUMNS[2:]),
        )
        self._name = name
        self._connection: psycopg.AsyncConnection[Any] | None = None

    async def open(self) -> Retry | None:
        try:
            async with asyncio.timeout(self._timeout_s):
                await self._connect()
        except (psycopg.Error, OSError, TimeoutError) as error:
            verdict = await self._judge(error)
            return verdict if isinstance(verdict, Retry) else None
        return None

    async def upsert(self, rows: Sequence[Row]) -> Retry | RecordRefused | None:
        try:
            async with asyncio.timeout(self._timeout_s):
                connection = await self._connect()
                async with connection.transaction(), connection.cursor() as cursor:
                    await cursor.execute("SET LOCAL synchronous_commit = on")
                    await cursor.executemany(self._upsert, rows)
        except (psycopg.Error, OSError, TimeoutError) as error:
            return await self._judge(error)
        return None

    async def close(self) -> None:
        if self._connection is not None:
            with suppress(psycopg.Error, OSError):
                await self._connection.close()
            self._connection = None

    async def _connect(self) -> psycopg.AsyncConnection[Any]:
        if self._connection is not None and not self._connection.closed:
            return self._connection
        connection = await psycopg.AsyncConnection.connect(
            self._url, autocommit=True, connect_timeout=max(2, round(self._timeout_s)), application_name="poller"
        )
        try:
            await self._create_table(connection)
        except BaseException:
            await connection.close()
            raise
        self._connection = connection
        return connection

    async def _create_table(self, connection: psycopg.AsyncConnection[Any]) -> None:
        """Create the table only where there is none: who may not create one may still fill it."""
        found = await connection.execute("SELECT to_regclass(%s)", (self._name.as_string(connection),))
        if await found.fetchone() == (None,):
            await connection.execute(self._create)

    async def _judge(self, error: BaseException) -> Retry | RecordRefused:
        """Tell what passes from what does not. A commit whose answer was lost is just done again."""
        state = getattr(error, "sqlstate", None) or ""
        said = _said(error)
        if state.startswith(OF_THE_RECORD):
            return RecordRefused(reason=said)
        await self.close()
        if state.startswith(FOR_A_PERSON) or _is_for_a_person(error):
            raise SinkError(f"sink {self._sink}: table {self._table} cannot be used: {said}; mend that, then run again")
        return Retry(reason=said, wait_s=0.0)


def _said(error: BaseException) -> str:
    """Return the server's own short message. libpq's messages can hold host and user, never a password."""
    if isinstance(error, TimeoutError):
        return "no answer in time"
    diagnosis = getattr(error, "diag", None)
    message = getattr(diagnosis, "message_primary", None) or str(error) or type(error).__name__
    return " ".join(message.split())[:200]


def _is_for_a_person(error: BaseException) -> bool:
    """Tell of what carries no SQLSTATE: a URL that libpq cannot read, and a login that the server refused in words."""
    refused = ("password authentication failed", "no pg_hba.conf entry", "does not exist", "no password supplied")
    if isinstance(error, psycopg.OperationalError):
        return any(text in str(error) for text in refused)
    return isinstance(error, psycopg.ProgrammingError) and error.sqlstate is None
