"""Finished tasks as rows of a table in your database, one per (account, task_id): exactly once, by upsert.

`sqlite.py` and `postgres.py` contain what differs between the two databases.
"""

from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import Annotated, ClassVar, Protocol

from pydantic import Field

from poller.config.value_types import Seconds
from poller.core.deliveries import Delivery, Retry, Written
from poller.core.errors import ConfigError
from poller.core.record import decode
from poller.sinks.backoff import Backoff
from poller.sinks.batches import Batch, BatchRefused, BatchSender
from poller.sinks.sql.statements import Row
from poller.sinks.table import SinkEnvironment, UrlTable, plain_url

SQLITE = "sqlite:///"
POSTGRES = ("postgresql://", "postgres://")


class SqlTable(UrlTable):
    """Settings of an `sql` sink."""

    KIND: ClassVar[str] = "sql"
    EXAMPLE: ClassVar[str] = "sql:sqlite:///finished.db"

    table: Annotated[str, Field(pattern=r"^([A-Za-z_][A-Za-z0-9_]{0,62}\.)?[A-Za-z_][A-Za-z0-9_]{0,62}$")] = (
        "poller_finished"
    )
    timeout_s: Annotated[Seconds, Field(le=600)] = 30.0

    @classmethod
    def check_url(cls, url: str) -> str:
        """Return `url`. Raises `ValueError` unless it names a database of SQLite or PostgreSQL."""
        if url.startswith(POSTGRES):
            plain_url(url)
        elif not url.startswith(SQLITE) or url == SQLITE:
            raise ValueError("must be sqlite:///PATH or postgresql://user@host/database")
        return url

    def check_target(self) -> None:
        if self.url and self.url.startswith(SQLITE) and (path := Path(self.url.removeprefix(SQLITE))).is_dir():
            raise ConfigError(f"sink sql: {path} is a folder; name a file in it, such as {SQLITE}{path}/finished.db")

    def make(self, environment: SinkEnvironment) -> "SqlSink":
        url = self.find_url(environment.environ)
        name = self.name_for(url)
        return SqlSink(name, self._database(url, name), rng=environment.rng, shared=url.startswith(POSTGRES))

    def _database(self, url: str, name: str) -> "Database":
        if not url.startswith(POSTGRES):
            if "." in self.table:
                raise ConfigError("sink sql: table: SQLite knows no schemas; name just the table")
            from poller.sinks.sql.sqlite import SqliteDatabase

            return SqliteDatabase(Path(url.removeprefix(SQLITE)), self.table, sink=name)
        try:
            from poller.sinks.sql.postgres import PostgresDatabase
        except ImportError:
            raise ConfigError(
                "sink sql: PostgreSQL needs its driver: pip install 'hubspot-import-poller[postgres]'"
            ) from None
        return PostgresDatabase(url, self.table, sink=name, timeout_s=self.timeout_s)

    def name_for(self, url: str) -> str:
        """Return the database's name, and the table's unless it is the default."""
        is_default = self.table == SqlTable.model_fields["table"].default
        name = f"sql:{url}" if self.url is not None and url.startswith(SQLITE) else super().name_for(url)
        return name if is_default else f"{name}#{self.table}"


class Database(Protocol):
    """One table of one database."""

    async def upsert(self, rows: Sequence[Row]) -> BatchRefused | str | None:
        """Store all rows in one transaction, or none. Connects and creates the table as needed.

        Returns the reason where a retry may help. Raises `SinkError` where a person must act.
        """

    async def close(self) -> None:
        """Close the connection."""


class SqlSink:
    """Keeps a table up to date."""

    def __init__(self, name: str, database: Database, *, rng: Random, shared: bool = False) -> None:
        self.name = name
        self.shared = shared  # any replica of a fleet can deliver to it
        self._database = database
        self._backoff = Backoff(rng)
        self._batches = BatchSender(self._send, size=500)

    async def open(self, position: bytes | None, following: Sequence[Delivery]) -> bytes | None:  # noqa: ARG002 - the protocol's
        await self._database.upsert(())  # one that is unavailable is retried by the first write
        return None

    async def write(self, batch: Sequence[Delivery]) -> Written | Retry:
        return await self._batches.write(batch)

    async def close(self) -> None:
        await self._database.close()

    async def _send(self, batch: Batch) -> Retry | BatchRefused | None:
        try:
            rows = [_row(delivery) for delivery in batch]
        except ValueError as error:
            return BatchRefused(reason=f"is not a record that can be read: {error}")
        result = await self._database.upsert(rows)
        if isinstance(result, str):
            return self._backoff.retry(result)
        self._backoff.reset()
        return result


def _bounded(number: int | None) -> int | None:
    """Return a number that a 64-bit column can hold; the record has the exact one."""
    return None if number is None else max(-(2**63), min(number, 2**63 - 1))


def _row(delivery: Delivery) -> Row:
    fields = decode(delivery.body)
    status = fields.status and fields.status.replace("\0", "\ufffd")  # PostgreSQL's text holds no NUL
    return (
        delivery.account,
        delivery.task_id,
        fields.kind,
        status,
        _bounded(fields.num_errors),
        _bounded(fields.polls),
        fields.seen_at,
        delivery.body.decode(),
    )
