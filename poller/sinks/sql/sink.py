"""Finished tasks as rows of a table in somebody's database, one per (account, task_id): exactly once, by upsert.

What differs between SQLite and PostgreSQL stands in `sql_sqlite.py` and `sql_postgres.py`.
"""

from collections.abc import Sequence
from random import Random
from typing import Annotated, ClassVar, Protocol, Self

from pydantic import Field, model_validator

from poller.config.value_types import Seconds
from poller.core.errors import ConfigError
from poller.core.model import Delivery, Retry, Written
from poller.core.record import decode
from poller.sinks.backoff import DOUBLING_S, jittered_s
from poller.sinks.batches import Portion, Portions, RecordRefused
from poller.sinks.table import UrlTable, plain_url

SQLITE = "sqlite:///"
POSTGRES = ("postgresql://", "postgres://")
COLUMNS = ("account", "task_id", "kind", "status", "num_errors", "polls", "seen_at", "record")
Row = tuple[object, ...]  # one value a column


class SqlTable(UrlTable):
    """Settings of an `sql` sink."""

    KIND: ClassVar[str] = "sql"
    EXAMPLE: ClassVar[str] = "sql:sqlite:///finished.db"

    table: Annotated[str, Field(pattern=r"^([A-Za-z_][A-Za-z0-9_]{0,62}\.)?[A-Za-z_][A-Za-z0-9_]{0,62}$")] = (
        "poller_finished"
    )
    timeout_s: Annotated[Seconds, Field(le=600)] = 30.0

    @model_validator(mode="after")
    def _url_is_known(self) -> Self:
        if self.url is not None:
            refuse_unknown(self.url)
        return self

    def name_for(self, url: str) -> str:
        """Return the database's name, and the table's where it is not the usual one."""
        usual = self.table == SqlTable.model_fields["table"].default
        name = f"sql:{url}" if self.url is not None and url.startswith(SQLITE) else super().name_for(url)
        return name if usual else f"{name}#{self.table}"


def refuse_unknown(url: str) -> None:
    """Raise `ValueError` where no database of ours is meant."""
    if not url.startswith((SQLITE, *POSTGRES)) or url == SQLITE:
        raise ValueError("url must be sqlite:///PATH or postgresql://user@host/database")
    if url.startswith(POSTGRES):
        try:
            plain_url("sql", url)
        except ConfigError as error:
            raise ValueError(str(error).removeprefix("sink sql: ")) from None


class Database(Protocol):
    """One table of one database. `Retry.wait_s` of an answer is not polled."""

    async def open(self) -> Retry | None:
        """Make sure that the table is there. Raises `SinkError` where a person must act."""
        ...

    async def upsert(self, rows: Sequence[Row]) -> Retry | RecordRefused | None:
        """Put all rows in one transaction, or none. Connects anew as needed."""
        ...

    async def close(self) -> None:
        """Let go of connections."""
        ...


class SqlSink:
    """Keeps a table up to date."""

    def __init__(self, name: str, database: Database, *, rng: Random) -> None:
        self.name = name
        self._database = database
        self._rng = rng
        self._failures = 0
        self._portions = Portions(self._send, size=500)

    async def open(self, position: bytes | None, following: Sequence[Delivery]) -> bytes | None:  # noqa: ARG002 - the protocol's
        await self._database.open()  # one that is away is met again by the first write
        return None

    async def write(self, batch: Sequence[Delivery]) -> Written | Retry:
        return await self._portions.write(batch)

    async def close(self) -> None:
        await self._database.close()

    async def _send(self, portion: Portion) -> Retry | RecordRefused | None:
        try:
            rows = [_row(delivery) for delivery in portion]
        except ValueError as error:
            return RecordRefused(reason=f"is not a record that can be read: {error}")
        verdict = await self._database.upsert(rows)
        if not isinstance(verdict, Retry):
            self._failures = 0
            return verdict
        self._failures += 1
        return Retry(reason=verdict.reason, wait_s=jittered_s(DOUBLING_S, self._failures, self._rng))


def _row(delivery: Delivery) -> Row:
    fields = decode(delivery.body)
    status = fields.status and fields.status.replace("\0", "\ufffd")  # PostgreSQL's text holds no NUL
    return (
        delivery.account,
        delivery.task_id,
        fields.kind,
        status,
        fields.num_errors,
        fields.polls,
        fields.seen_at,
        delivery.body.decode(),
    )
