"""The `StartStore` of an SQLite state: the leases of rows in memory, the rest in `import_rows` and `import_sums`."""

import sqlite3
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol, TypeVar, TypeVarTuple

from poller.core.accounts import AccountState
from poller.core.model import Record
from poller.core.protocols import Clock, StartStore
from poller.core.starts import Begin, EndRow, Row, StartAgain
from poller.store.rows import intended
from poller.store.sqlite import import_rows, import_sums
from poller.store.sqlite.accounts import account_base
from poller.store.sqlite.group_commit import GroupCommit

T = TypeVar("T")
Values = TypeVarTuple("Values")


class ReadCommitted(Protocol):
    """Returns what `read` returns of what is committed. Raises `StoreError`."""

    def __call__(self, read: Callable[[sqlite3.Connection, *Values], T], *values: *Values) -> T: ...


class SqliteStarts(StartStore):
    """Writes through the store's group commits; reads between two of them."""

    def __init__(
        self,
        connection: sqlite3.Connection,
        read: ReadCommitted,
        commits: GroupCommit,
        *,
        clock: Clock,
        noted: Callable[[], Mapping[str, AccountState]],
        first_poll_s: Mapping[str, float],
    ) -> None:
        """`noted` returns what is known of accounts and not stored yet."""
        self._connection = connection
        self._read = read
        self._commits = commits
        self._clock = clock
        self._noted = noted
        self._first_poll_s = first_poll_s
        self._leased: set[int] = set()

    async def claim(self, account: str, limit: int, *, unsure: bool = False) -> list[Row]:
        rows = self._read(import_rows.claim, account, limit, self._leased, self._clock(), unsure)
        self._leased.update(row.key for row in rows)
        return rows

    async def next_due_at(self, account: str) -> float | None:
        return self._read(import_rows.next_due_at, account, self._leased)

    async def intend(self, row: Row, *, sent_at: float, due_at: float) -> Row:
        await self._commits.run(lambda: import_rows.intend(self._connection, row.key, sent_at, due_at))
        return intended(row, sent_at=sent_at, due_at=due_at)

    async def settle(self, row: Row, decision: Begin | StartAgain | EndRow, record: Record | None = None) -> bool:
        return await self._commits.run(
            lambda: self._settle(row, decision, record), on_commit=lambda: self.release([row])
        )

    def _settle(self, row: Row, decision: Begin | StartAgain | EndRow, record: Record | None) -> bool:
        if isinstance(decision, StartAgain):
            import_rows.start_again(self._connection, row.key, decision)
            return True
        base = account_base(self._connection, row.account, self._noted())
        if isinstance(decision, Begin):
            now = self._clock()
            due_at = now + self._first_poll_s.get(row.account, 0.0)
            return import_rows.begin(self._connection, row, decision.task_id, base, now, due_at)
        if record is None:
            raise TypeError("a row that ends needs its record")
        import_rows.end_row(self._connection, row, record, base, is_certain=True)
        return True

    async def end_unsent(self, row: Row, record: Record) -> None:
        def apply() -> None:
            base = account_base(self._connection, row.account, self._noted())
            import_rows.end_row(self._connection, row, record, base, is_certain=False)

        await self._commits.run(apply, on_commit=lambda: self.release([row]))

    def release(self, rows: Sequence[Row]) -> None:
        self._leased.difference_update(row.key for row in rows)

    async def backlog(self, account: str, limit: int) -> int:
        return self._read(import_sums.backlog, account, limit)

    async def underway(self, account: str) -> int:
        return self._read(import_sums.underway, account)

    async def unsure_due(self, account: str, limit: int) -> list[float]:
        return self._read(import_rows.unsure_due, account, limit, self._leased)

    async def landed(self, account: str, limit: int) -> int:
        return self._read(import_sums.landed, account, limit)
