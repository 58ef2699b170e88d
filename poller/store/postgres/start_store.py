"""The `StartStore` of a PostgreSQL state: the leases of rows in memory, the rest in `import_rows` and `import_sums`."""

from collections.abc import Awaitable, Callable, Mapping, Sequence, Set
from typing import Protocol, TypeVar, TypeVarTuple

from psycopg import AsyncConnection

from poller.core.accounts import AccountState
from poller.core.model import Record
from poller.core.protocols import Clock, StartStore
from poller.core.starts import Begin, EndRow, Row, StartAgain
from poller.store.postgres import import_rows, import_sums
from poller.store.rows import intended

T = TypeVar("T")
Values = TypeVarTuple("Values")


class Read(Protocol):
    """Returns what `read` returns of what is committed."""

    async def __call__(self, read: Callable[[AsyncConnection, *Values], Awaitable[T]], *values: *Values) -> T: ...


class Write(Protocol):
    """Returns what `write` returned, once it is on disk; `on_commit` runs right after the commit."""

    async def __call__(
        self,
        write: Callable[[AsyncConnection, *Values], Awaitable[T]],
        *values: *Values,
        rows: int = 1,
        on_commit: Callable[[], None] | None = None,
    ) -> T: ...


class PostgresStarts(StartStore):
    """Writes through the store's group commits, one statement a start; reads from the pool."""

    def __init__(
        self,
        read: Read,
        write: Write,
        *,
        clock: Clock,
        noted: Callable[[], Mapping[str, AccountState]],
        first_poll_s: Mapping[str, float],
    ) -> None:
        """`noted` returns what is known of accounts and not stored yet."""
        self._read = read
        self._write = write
        self._clock = clock
        self._noted = noted
        self._first_poll_s = first_poll_s
        self._leased: dict[int, str] = {}  # a row's key → its account
        self._claims: list[set[int]] = []  # for each claim under way, the rows whose leases have ended since it began

    async def claim(self, account: str, limit: int, *, unsure: bool = False) -> list[Row]:
        """What a claim read of a row may be older than the commit that ended its lease meanwhile: such a row stays."""
        ended: set[int] = set()
        self._claims.append(ended)
        try:
            leased = tuple(self._leased)
            due = await self._read(import_rows.find_due, account, leased, limit, self._clock(), unsure)
        finally:
            self._claims = [each for each in self._claims if each is not ended]
        rows = [row for row in due if row.key not in ended and row.key not in self._leased]
        self._leased.update((row.key, row.account) for row in rows)
        return rows

    async def next_due_at(self, account: str) -> float | None:
        return (await self._next_due_of([account])).get(account)

    async def _next_due_of(self, accounts: Sequence[str]) -> Mapping[str, float]:
        return await self._read(import_rows.next_due_of, accounts, tuple(self._leased))

    async def intend(self, row: Row, *, sent_at: float, due_at: float) -> Row:
        await self._write_of(row.account, import_rows.intend, row.key, sent_at, due_at)
        return intended(row, sent_at=sent_at, due_at=due_at)

    async def settle(self, row: Row, decision: Begin | StartAgain | EndRow, record: Record | None = None) -> bool:
        def release() -> None:
            self.release([row])

        if isinstance(decision, StartAgain):
            await self._write_of(row.account, import_rows.start_again, row.key, decision, on_commit=release)
            return True
        paused_s = self._paused_s(row.account)
        if isinstance(decision, Begin):
            now = self._clock()
            values = (row, decision.task_id, paused_s, now, now + self._first_poll_s.get(row.account, 0.0))
            return await self._write_of(row.account, import_rows.begin, *values, on_commit=release)
        if record is None:
            raise TypeError("a row that ends needs its record")
        await self._write_of(row.account, self._end_row, row, record, paused_s, True, on_commit=release)
        return True

    async def end_unsent(self, row: Row, record: Record) -> None:
        paused_s = self._paused_s(row.account)
        values = (row, record, paused_s, False)
        await self._write_of(row.account, self._end_row, *values, on_commit=lambda: self.release([row]))

    async def _write_of(
        self,
        account: str,  # noqa: ARG002 - a fleet asks who owns it
        write: Callable[[AsyncConnection, *Values], Awaitable[T]],
        *values: *Values,
        on_commit: Callable[[], None] | None = None,
    ) -> T:
        return await self._write(write, *values, on_commit=on_commit)

    async def _end_row(
        self, connection: AsyncConnection, row: Row, record: Record, paused_s: float | None, is_certain: bool
    ) -> None:
        await import_rows.end_row(connection, row, record, paused_s, is_certain)

    def _paused_s(self, account: str) -> float | None:
        noted = self._noted().get(account)
        return None if noted is None else noted.paused_s

    def release(self, rows: Sequence[Row]) -> None:
        self._end_leases({row.key for row in rows})

    def _end_leases(self, keys: Set[int]) -> None:
        for key in keys:
            self._leased.pop(key, None)
        for ended in self._claims:
            ended |= keys

    async def backlog(self, account: str, limit: int) -> int:
        return await self._read(import_sums.backlog, account, limit)

    async def underway(self, account: str) -> int:
        return await self._read(import_sums.underway, account)

    async def unsure_due(self, account: str, limit: int) -> list[float]:
        return await self._read(import_rows.unsure_due, account, limit, tuple(self._leased))

    async def landed(self, account: str, limit: int) -> int:
        return await self._read(import_sums.landed, account, limit)
