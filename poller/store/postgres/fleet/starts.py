"""The rows to import of a fleet's member: only the owner of their account starts them."""

from collections.abc import Awaitable, Callable
from typing import TypeVar, TypeVarTuple

from psycopg import AsyncConnection

from poller.core.fleet import Fenced
from poller.core.model import Record
from poller.core.starts import Begin, EndRow, Row, StartAgain
from poller.store.postgres import import_rows
from poller.store.postgres.connection import fetch_first
from poller.store.postgres.fleet.counts import WAITING
from poller.store.postgres.fleet.holdings import Holdings
from poller.store.postgres.fleet.known_starts import KnownStarts
from poller.store.postgres.fleet.writer import FleetWriter
from poller.store.postgres.shared_read import SharedRead
from poller.store.postgres.start_store import PostgresStarts
from poller.store.rows import storable

T = TypeVar("T")
Values = TypeVarTuple("Values")


class FleetStarts(PostgresStarts):
    """Raises `Fenced` where a row's account is not owned (any more): then its start must not leave."""

    _holdings: Holdings
    _writer: FleetWriter
    _next_due: SharedRead[float]
    _known: KnownStarts

    def join_fleet(self, holdings: Holdings, writer: FleetWriter) -> None:
        """Ask these who owns what. Called once, before anything else."""
        self._holdings = holdings
        self._writer = writer
        self._next_due = SharedRead(self._next_due_of)
        self._known = KnownStarts(self._clock)

    async def next_due_at(self, account: str) -> float | None:
        return await self._next_due.of(account)

    async def claim(self, account: str, limit: int, *, unsure: bool = False) -> list[Row]:
        if (owned := self._holdings.accounts.get(account)) is None:
            return []
        rows = await super().claim(account, limit, unsure=unsure)
        if self._holdings.accounts.get(account) == owned:
            return rows
        self.release(rows)
        return []

    async def intend(self, row: Row, *, sent_at: float, due_at: float) -> Row:
        sent = await super().intend(row, sent_at=sent_at, due_at=due_at)
        self._known.note(sent)
        return sent

    async def settle(self, row: Row, decision: Begin | StartAgain | EndRow, record: Record | None = None) -> bool:
        if isinstance(decision, Begin):
            self._known.note(row, decision.task_id)
        is_settled = await super().settle(row, decision, record)
        if not is_settled:
            self._known.note(row)
        elif not isinstance(decision, Begin):
            self._known.forget(row)
        return is_settled

    async def restore(self, connection: AsyncConnection) -> None:
        """Store starts again that a failover has lost, before this process joins again."""
        await self._known.restore(connection, self._holdings.former)

    def forget(self) -> None:
        """End all leases: the membership that they rested on has ended."""
        self._end_leases(set(self._leased))

    def forget_account(self, account: str) -> None:
        """End the leases of its rows: what held them was dropped."""
        self._end_leases({key for key, name in self._leased.items() if name == account})

    async def _write_of(
        self,
        account: str,
        write: Callable[[AsyncConnection, *Values], Awaitable[T]],
        *values: *Values,
        on_commit: Callable[[], None] | None = None,
    ) -> T:
        return await self._write(self._as_owner, account, write, *values, on_commit=on_commit)

    async def _as_owner(
        self,
        connection: AsyncConnection,
        account: str,
        write: Callable[[AsyncConnection, *Values], Awaitable[T]],
        *values: *Values,
    ) -> T:
        owned = self._holdings.accounts.get(account)
        sql = "SELECT FROM account WHERE id = %s AND owner = %s AND epoch = %s"
        if (
            owned is None
            or await fetch_first(connection, sql, (owned.number, self._holdings.member, owned.epoch)) is None
        ):
            raise Fenced(f"replica {self._holdings.name} does not own the account {account} any more. It joins again.")
        return await write(connection, *values)

    async def _end_row(
        self, connection: AsyncConnection, row: Row, record: Record, paused_s: float | None, is_certain: bool
    ) -> None:
        key = await import_rows.end_row_unrecorded(connection, row, record, paused_s, is_certain)
        reason = record.reason and storable(record.reason)
        self._writer.last.records.append((key, reason, record.seen_at, record.body))
        self._writer.last.counts += [(WAITING, -1, 0, 0), (str(record.kind), 1, 0, 0)]
