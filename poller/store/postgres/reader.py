"""Reads a PostgreSQL state: sums, accounts, tasks, records. Works beside a writer."""

import asyncio
from abc import abstractmethod
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from functools import partial
from typing import Any, TypeVar, TypeVarTuple

import psycopg
from psycopg import AsyncConnection

from poller.core.accounts import AccountState
from poller.core.deliveries import DeadLetter, Delivery
from poller.core.details import TaskDetails
from poller.core.errors import StoreUnusable
from poller.core.fleet import FleetView, Published
from poller.core.model import Chunk, KnownLines, Rejection
from poller.core.protocols import StateReader
from poller.core.search import TaskFilter, TaskPage
from poller.core.starts import Row
from poller.core.sums import SinkSums, SourceSums, Sums
from poller.store import rows
from poller.store.find import find
from poller.store.postgres import failed, import_rows, import_sums
from poller.store.postgres.connection import ANSWER_WITHIN_S, answered, connect, fetch_all, fetch_first
from poller.store.postgres.dsn import Dsn
from poller.store.postgres.errors import read_error
from poller.store.postgres.fleet import members, statuses
from poller.store.postgres.lock import ask_for_lock
from poller.store.postgres.outbox import page_of
from poller.store.postgres.search import follow

T = TypeVar("T")
Values = TypeVarTuple("Values")

_SOURCE = "name, lines, tasks, duplicates, rejected, blank, failed, ended"
_OF_SINK = "(%s::text IS NULL OR d.sink = (SELECT id FROM sink WHERE name = %s))"


class PostgresReads(StateReader):
    """The reading half of a PostgreSQL state, whatever the connection."""

    _noted_accounts: dict[str, AccountState]  # by the writer, not committed yet
    _noted_knowledge: dict[str, bytes]
    _finished_before = 0  # every task with a smaller key is finished: keys grow in feeding order

    @abstractmethod
    async def _read(self, read: Callable[[AsyncConnection, *Values], Awaitable[T]], *values: *Values) -> T:
        """Return what `read` returns for a connection. Raises `StoreError`."""

    async def sums(self) -> Sums:
        return await self._read(self._count_at_once)

    async def _count_at_once(self, connection: AsyncConnection) -> Sums:
        await connection.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")  # one snapshot for all queries
        try:
            return await self._count(connection)
        finally:
            if not connection.closed:
                await connection.execute("ROLLBACK")

    async def _count(self, connection: AsyncConnection) -> Sums:
        ((finished,),) = await fetch_all(connection, "SELECT count(*) FROM record")
        reasons = await fetch_all(
            connection,
            "SELECT r.reason, count(*), count(*) FILTER (WHERE t.landed) FROM record r JOIN task t ON t.key = r.task"
            ' WHERE r.reason IS NOT NULL GROUP BY r.reason ORDER BY 2 DESC, r.reason COLLATE "C" LIMIT %s',
            (rows.TOP_REASONS,),
        )
        tasks = await fetch_all(
            connection,
            "SELECT kind, count(*), sum(polls)::bigint, count(*) FILTER (WHERE landed) FROM task GROUP BY kind",
        )
        stored = await fetch_all(connection, "SELECT name FROM account")
        names = {name for (name,) in stored} | self._noted_accounts.keys()
        accounts = {name: await self._account(connection, name) for name in sorted(names)}
        return rows.sums_of(
            sources=await _sources(connection),
            sinks=await _count_outboxes(connection),
            accounts=accounts,
            blocked=await _waiting_of(connection, rows.blocked_of(accounts)),
            waiting=sum(count for kind, count, _, _ in tasks if kind is None),
            finished=finished,
            polls=sum(polls for _, _, polls, _ in tasks),
            kinds={kind: count for kind, count, _, _ in tasks if kind is not None},
            landed={kind: landed for kind, _, _, landed in tasks if kind is not None},
            reasons=reasons,
            pruned=await fetch_all(connection, "SELECT kind, tasks, polls, landed FROM pruned"),
            starts=await import_sums.count(connection),
        )

    async def source(self, name: str) -> SourceSums | None:
        latest = f"SELECT {_SOURCE} FROM source WHERE name = %s ORDER BY id DESC LIMIT 1"  # noqa: S608 - our own columns
        found = await self._fetch(latest, (rows.storable_name(name),))
        return rows.source_sums_of(found[0]) if found else None

    async def sources(self, limit: int) -> Sequence[SourceSums]:
        found = await self._fetch(f"SELECT {_SOURCE} FROM source ORDER BY id DESC LIMIT %s", (limit,))  # noqa: S608 - our own columns
        return [rows.source_sums_of(row) for row in reversed(found)]

    async def known_lines(self, chunk: Chunk) -> Mapping[str, KnownLines]:
        return await self._read(failed.known_lines, chunk)

    async def account(self, name: str) -> AccountState:
        return await self._read(self._account, name)

    async def waiting_of(self, accounts: Collection[str]) -> int:
        return sum(await self._read(_waiting_of, accounts))

    async def _account(self, connection: AsyncConnection, name: str) -> AccountState:
        """Return the noted state or else the stored one, with the stored requests of its day."""
        state = self._noted_accounts.get(name) or rows.account_of(
            await fetch_first(
                connection,
                "SELECT active_at, clean, paused_s, day, pause, pause_detail, resume_at FROM account WHERE name = %s",
                (name,),
            )
        )
        requests = await fetch_first(
            connection,
            "SELECT d.requests FROM account_day d JOIN account a ON a.id = d.account WHERE d.day = %s AND a.name = %s",
            (state.day, name),
        )
        return rows.with_requests(state, requests)

    async def knowledge(self, name: str) -> bytes | None:
        if name in self._noted_knowledge:
            return self._noted_knowledge[name]
        stored = await self._fetch("SELECT body FROM knowledge WHERE name = %s", (name,))
        return stored[0][0] if stored else None

    async def last_fed_at(self) -> float | None:
        stored = await self._fetch("SELECT fed_at FROM task ORDER BY key DESC LIMIT 1")
        return stored[0][0] if stored else None

    async def task_details(self, task_id: str) -> Sequence[TaskDetails]:
        found = await self._fetch(
            "SELECT a.name, t.task_id, t.ref, t.fed_at, t.requested_at, t.due_at, t.polls, t.errors, t.status,"
            " t.poll_log, t.kind, r.number, r.reason, r.seen_at, r.body"
            " FROM account a JOIN task t ON t.account = a.id AND t.task_id = %s"
            ' LEFT JOIN record r ON r.task = t.key ORDER BY a.name COLLATE "C"',
            (task_id,),
        )
        return [rows.task_details_of(row, await self._deliveries(row[11])) for row in found]

    async def _deliveries(self, number: int | None) -> dict[str, str]:
        """Return the state of the record's delivery to each sink; nothing for a task without a record."""
        found = await self._fetch(
            "SELECT s.name, CASE WHEN d.number IS NOT NULL THEN 'dead: ' || d.reason"
            " WHEN u.number IS NOT NULL OR (NOT s.attached AND x.number > s.filled_to) THEN 'undelivered'"
            " ELSE 'delivered' END"
            " FROM (SELECT %s::bigint AS number) x CROSS JOIN sink s"
            " LEFT JOIN dead d ON d.sink = s.id AND d.number = x.number"
            " LEFT JOIN undelivered u ON u.sink = s.id AND u.number = x.number"
            " WHERE x.number IS NOT NULL ORDER BY s.id",
            (number,),
        )
        return dict(found)

    async def find_tasks(
        self,
        wanted: TaskFilter,
        *,
        after: int = 0,
        limit: int,
        is_late: Callable[[], bool] = lambda: False,
        with_bodies: bool = False,
    ) -> TaskPage:
        search = partial(
            find, wanted, after=after, limit=limit, is_late=is_late, with_bodies=with_bodies, is_postgres=True
        )
        return await self._read(follow, search)

    async def fleet_view(self) -> FleetView | None:
        view, _ = await self._read(members.see, None, members.SeenFleet())
        return view if view.members else None

    async def fleet_published(self) -> Sequence[Published]:
        return await self._read(statuses.published)

    async def rejections(self) -> Sequence[tuple[str, Rejection]]:
        found = await self._fetch(
            "SELECT s.name, r.line, r.reason, r.excerpt FROM rejection r JOIN source s ON s.id = r.source"
            " ORDER BY r.source, r.id"
        )
        return [rows.rejection_of(row) for row in found]

    async def records(self, after: int, limit: int) -> list[Delivery]:
        numbers = "SELECT number FROM record WHERE number > %s ORDER BY number LIMIT %s"
        return await self._read(page_of, numbers, (after, max(0, limit)))

    async def rows_without_task(self, row: str) -> Sequence[Row]:
        return await self._read(import_rows.without_task, row)

    async def start_bodies(self, account: str, rows: Sequence[str]) -> Mapping[str, bytes]:
        return await self._read(import_rows.bodies, account, rows)

    async def oldest_waiting(self) -> float | None:
        found = await self._fetch(
            "SELECT key, fed_at FROM task WHERE key >= %s AND kind IS NULL ORDER BY key LIMIT 1",
            (self._finished_before,),
        )
        if not found:
            ((self._finished_before,),) = await self._fetch("SELECT coalesce(max(key), 0) FROM task")
            return None
        ((self._finished_before, fed_at),) = found
        return float(fed_at)

    async def dead_letters(
        self,
        sink: str | None = None,
        *,
        limit: int | None = None,
        newest_first: bool = False,
        with_bodies: bool = False,
    ) -> Sequence[DeadLetter]:
        order = "d.at DESC, d.number DESC, d.sink DESC" if newest_first else "d.at, d.number, d.sink"
        body = "r.body" if with_bodies else "''::bytea"
        found = await self._fetch(
            f"SELECT s.name, d.reason, d.at, r.number, a.name, t.task_id, {body}"  # noqa: S608 - our own columns
            f" FROM (SELECT * FROM dead d WHERE {_OF_SINK} ORDER BY {order} LIMIT %s) d JOIN sink s ON s.id = d.sink"
            " JOIN record r ON r.number = d.number JOIN task t ON t.key = r.task JOIN account a ON a.id = t.account"
            f" ORDER BY {order}",
            (*_twice(sink), limit),
        )
        return [rows.dead_letter_of(row) for row in found]

    async def count_dead(self, sink: str | None = None) -> int:
        ((dead,),) = await self._fetch(f"SELECT count(*) FROM dead d WHERE {_OF_SINK}", _twice(sink))  # noqa: S608 - our own text
        return int(dead)

    async def _fetch(self, query: str, values: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        return await self._read(fetch_all, query, values)


class PostgresReader(PostgresReads):
    """Reads on a connection of its own. An error ends the read alone: a page outlives a restart of the server."""

    def __init__(self, connection: AsyncConnection, dsn: Dsn) -> None:
        self._connection = connection
        self._connecting = asyncio.Lock()
        self._dsn = dsn
        self._noted_accounts, self._noted_knowledge = {}, {}

    async def _read(self, read: Callable[[AsyncConnection, *Values], Awaitable[T]], *values: *Values) -> T:
        try:
            async with self._connecting:
                if self._connection.closed:
                    self._connection = await connect(self._dsn)
            work = read(self._connection, *values)
            return await answered(
                work, self._connection, within_s=ANSWER_WITHIN_S, on_silence=self._refuse_to_wait_for_lock
            )
        except psycopg.Error as error:
            raise read_error(error, self._dsn) from None

    async def _refuse_to_wait_for_lock(self) -> None:
        """Raise `StoreUnusable` where another program locks what is read: a person waits for the answer."""
        if (reason := await ask_for_lock(self._dsn, self._connection.info.backend_pid)) is not None:
            raise StoreUnusable(f"the state {self._dsn.shown} gives no answer: {reason}.")

    async def close(self) -> None:
        await self._connection.close()


def _twice(sink: str | None) -> tuple[str | None, str | None]:
    name = sink and rows.storable_name(sink)
    return name, name


async def _sources(connection: AsyncConnection) -> list[SourceSums]:
    found = await fetch_all(connection, f"SELECT {_SOURCE} FROM source ORDER BY id")  # noqa: S608 - our own columns
    return [rows.source_sums_of(row) for row in found]


async def _count_outboxes(connection: AsyncConnection) -> list[SinkSums]:
    """A sink gets its rows while it is attached. For one that is not, the records it lacks are counted."""
    found = await fetch_all(
        connection,
        "SELECT name, delivered, missed, attached,"
        " (SELECT count(*) FROM undelivered u WHERE u.sink = s.id)"
        " + CASE WHEN attached THEN 0 ELSE (SELECT count(*) FROM record r WHERE r.number > s.filled_to) END,"
        " (SELECT count(*) FROM dead d WHERE d.sink = s.id)"
        " FROM sink s ORDER BY id",
    )
    return [rows.sink_sums_of(row) for row in found]


async def _waiting_of(connection: AsyncConnection, accounts: Collection[str]) -> tuple[int, int]:
    """Return how many tasks of these accounts wait, and how many rows without a task."""
    ((tasks, without_task),) = await fetch_all(
        connection,
        "SELECT coalesce(sum((SELECT count(*) FROM task WHERE account = a.id AND kind IS NULL)), 0)::bigint,"
        " coalesce(sum((SELECT count(*) FROM import_row WHERE account = a.id AND task IS NULL)), 0)::bigint"
        " FROM account a WHERE name = ANY (%s)",
        (list(accounts),),
    )
    return int(tasks), int(without_task)
