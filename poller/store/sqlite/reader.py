"""Reads an SQLite state: sums, accounts, tasks, records. Works beside a writer."""

import sqlite3
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import closing
from functools import partial
from typing import Any, TypeVar, TypeVarTuple

from poller.core.accounts import AccountState
from poller.core.deliveries import DeadLetter, Delivery
from poller.core.details import TaskDetails
from poller.core.fleet import Published
from poller.core.model import Chunk, Kind, KnownLines, Rejection
from poller.core.protocols import StateReader
from poller.core.search import TaskFilter, TaskPage
from poller.core.starts import Row
from poller.core.sums import SinkSums, SourceSums, Sums
from poller.store import rows
from poller.store.find import find
from poller.store.sqlite import failed, import_rows, import_sums
from poller.store.sqlite.errors import translated
from poller.store.sqlite.search import Search, follow

Connection = sqlite3.Connection
T = TypeVar("T")
Values = TypeVarTuple("Values")

_SOURCE = "name, lines, tasks, duplicates, rejected, blank, failed, ended"


class SqliteReader(StateReader):
    """The reading half of an SQLite state."""

    _finished_before = 0, 0.0  # a task's key and when it was fed: all with smaller keys, in feeding order, are finished

    def __init__(self, connection: Connection, path: str) -> None:
        self._connection = connection
        self._path = path
        self._noted_accounts: dict[str, AccountState] = {}  # by the writer, not committed yet
        self._noted_knowledge: dict[str, bytes] = {}

    def _read(self, read: Callable[[Connection, *Values], T], *values: *Values) -> T:
        """Return what `read` returns for the connection. Raises `StoreError`."""
        with translated(self._path):
            return read(self._connection, *values)

    def _fetch(self, query: str, *values: object) -> list[tuple[Any, ...]]:
        return self._read(lambda connection: connection.execute(query, values).fetchall())

    async def sums(self) -> Sums:
        return self._read(self._count_at_once)

    def _count_at_once(self, connection: Connection) -> Sums:
        connection.execute("BEGIN")  # one snapshot for all queries
        try:
            return self._count(connection)
        finally:
            connection.execute("ROLLBACK")

    def _count(self, connection: Connection) -> Sums:
        (finished,) = connection.execute("SELECT count(*) FROM record").fetchone()
        reasons = connection.execute(
            "SELECT r.reason, count(*), sum(t.landed) FROM record r CROSS JOIN task t ON t.key = r.task"
            " WHERE r.reason IS NOT NULL GROUP BY r.reason ORDER BY 2 DESC, 1 LIMIT ?",
            (rows.TOP_REASONS,),
        )
        waiting, polls, kinds, landed = _count_tasks(connection)
        names = {name for (name,) in connection.execute("SELECT name FROM account")} | self._noted_accounts.keys()
        accounts = {name: self._account(connection, name) for name in sorted(names)}
        return rows.sums_of(
            sources=_sources(connection),
            sinks=_count_outboxes(connection),
            accounts=accounts,
            blocked=_waiting_of(connection, rows.blocked_of(accounts)),
            waiting=waiting,
            finished=finished,
            polls=polls,
            kinds=kinds,
            landed=landed,
            reasons=reasons.fetchall(),
            pruned=connection.execute("SELECT kind, tasks, polls, landed FROM pruned").fetchall(),
            starts=import_sums.count(connection),
        )

    async def source(self, name: str) -> SourceSums | None:
        latest = f"SELECT {_SOURCE} FROM source WHERE name = ? ORDER BY id DESC LIMIT 1"  # noqa: S608 - our own columns
        found = self._fetch(latest, rows.storable_name(name))
        return rows.source_sums_of(found[0]) if found else None

    async def sources(self, limit: int) -> Sequence[SourceSums]:
        found = self._fetch(f"SELECT {_SOURCE} FROM source ORDER BY id DESC LIMIT ?", limit)  # noqa: S608 - our own columns
        return [rows.source_sums_of(row) for row in reversed(found)]

    async def known_lines(self, chunk: Chunk) -> Mapping[str, KnownLines]:
        return self._read(failed.known_lines, chunk)

    async def account(self, name: str) -> AccountState:
        return self._read(self._account, name)

    async def waiting_of(self, accounts: Collection[str]) -> int:
        return sum(self._read(_waiting_of, accounts))

    def _account(self, connection: Connection, name: str) -> AccountState:
        """Return the noted state or else the stored one, with the stored requests of its day."""
        state = self._noted_accounts.get(name) or rows.account_of(
            connection.execute(
                "SELECT active_at, clean, paused_s, day, pause, pause_detail, resume_at FROM account WHERE name = ?",
                (name,),
            ).fetchone()
        )
        requests = connection.execute(
            "SELECT requests FROM account_day WHERE day = ? AND account = (SELECT id FROM account WHERE name = ?)",
            (state.day, name),
        )
        return rows.with_requests(state, requests.fetchone())

    async def knowledge(self, name: str) -> bytes | None:
        stored = self._fetch("SELECT body FROM knowledge WHERE name = ?", name)
        return self._noted_knowledge.get(name) or (stored[0][0] if stored else None)

    async def last_fed_at(self) -> float | None:
        stored = self._fetch("SELECT fed_at FROM task ORDER BY key DESC LIMIT 1")
        return stored[0][0] if stored else None

    async def task_details(self, task_id: str) -> Sequence[TaskDetails]:
        found = self._fetch(
            "SELECT a.name, t.task_id, t.ref, t.fed_at, t.requested_at, t.due_at, t.polls, t.errors, t.status,"
            " t.poll_log, t.kind, r.number, r.reason, r.seen_at, r.body"
            " FROM account a CROSS JOIN task t ON t.account = a.id AND t.task_id = ?"
            " LEFT JOIN record r ON r.task = t.key ORDER BY a.name",
            task_id,
        )
        return [rows.task_details_of(row, self._deliveries(row[11])) for row in found]

    def _deliveries(self, number: int | None) -> dict[str, str]:
        """Return the state of the record's delivery to each sink; nothing for a task without a record."""
        found = self._fetch(
            "SELECT s.name, CASE WHEN d.number IS NOT NULL THEN 'dead: ' || d.reason"
            " WHEN u.number IS NOT NULL OR (NOT s.attached AND x.number > s.filled_to) THEN 'undelivered'"
            " ELSE 'delivered' END"
            " FROM (SELECT ? AS number) x CROSS JOIN sink s"
            " LEFT JOIN dead d ON d.sink = s.id AND d.number = x.number"
            " LEFT JOIN undelivered u ON u.sink = s.id AND u.number = x.number"
            " WHERE x.number IS NOT NULL ORDER BY s.id",
            number,
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
        return await self._search(
            partial(find, wanted, after=after, limit=limit, is_late=is_late, with_bodies=with_bodies)
        )

    async def _search(self, search: Search) -> TaskPage:
        return self._read(follow, search)

    async def fleet_view(self) -> None:
        return None

    async def fleet_published(self) -> Sequence[Published]:
        return ()

    async def rejections(self) -> Sequence[tuple[str, Rejection]]:
        found = self._fetch(
            "SELECT s.name, r.line, r.reason, r.excerpt FROM rejection r JOIN source s ON s.id = r.source"
            " ORDER BY r.source, r.id"
        )
        return [rows.rejection_of(row) for row in found]

    async def records(self, after: int, limit: int) -> list[Delivery]:
        return self._read(_records, after, limit)

    async def rows_without_task(self, row: str) -> Sequence[Row]:
        return self._read(import_rows.without_task, row)

    async def start_bodies(self, account: str, rows: Sequence[str]) -> Mapping[str, bytes]:
        return self._read(import_rows.bodies, account, rows)

    async def oldest_waiting(self) -> float | None:
        found = self._fetch(
            "SELECT key, fed_at FROM task NOT INDEXED WHERE kind IS NULL"
            " AND key >= coalesce((SELECT key FROM task WHERE key = ? AND fed_at = ?), 0)"  # keys of pruned ones return
            " ORDER BY key LIMIT 1",
            *self._finished_before,
        )
        latest = found or self._fetch("SELECT key, fed_at FROM task ORDER BY key DESC LIMIT 1")
        self._finished_before = latest[0] if latest else (0, 0.0)
        return float(found[0][1]) if found else None

    async def dead_letters(
        self,
        sink: str | None = None,
        *,
        limit: int | None = None,
        newest_first: bool = False,
        with_bodies: bool = False,
    ) -> Sequence[DeadLetter]:
        order = "d.at DESC, d.number DESC, d.sink DESC" if newest_first else "d.at, d.number, d.sink"
        body = "r.body" if with_bodies else "X''"
        found = self._fetch(
            f"SELECT s.name, d.reason, d.at, r.number, a.name, t.task_id, {body}"  # noqa: S608 - our own columns
            " FROM (SELECT * FROM dead d WHERE ? IS NULL OR d.sink = (SELECT id FROM sink WHERE name = ?)"
            f" ORDER BY {order} LIMIT ?) d CROSS JOIN sink s ON s.id = d.sink"
            " CROSS JOIN record r ON r.number = d.number CROSS JOIN task t ON t.key = r.task"
            " CROSS JOIN account a ON a.id = t.account"
            f" ORDER BY {order}",
            *_twice(sink),
            -1 if limit is None else limit,
        )
        return [rows.dead_letter_of(row) for row in found]

    async def count_dead(self, sink: str | None = None) -> int:
        of_sink = "SELECT count(*) FROM dead WHERE ? IS NULL OR sink = (SELECT id FROM sink WHERE name = ?)"
        return int(self._fetch(of_sink, *_twice(sink))[0][0])

    async def close(self) -> None:
        self._connection.close()


def _twice(sink: str | None) -> tuple[str | None, str | None]:
    name = sink and rows.storable_name(sink)
    return name, name


def _count_tasks(connection: Connection) -> tuple[int, int, dict[str, int], dict[str, int]]:
    """Return the waiting tasks, all polls, and by kind the finished and the landed tasks, without a sort of ten million
    rows."""
    per_kind = ", ".join(
        f"count(*) FILTER (WHERE kind = '{kind}'), count(*) FILTER (WHERE kind = '{kind}' AND landed)" for kind in Kind
    )
    sql = f"SELECT count(*) - count(kind), coalesce(sum(polls), 0), {per_kind} FROM task"  # noqa: S608 - our own enum
    waiting, polls, *counts = connection.execute(sql).fetchone()
    names = [str(kind) for kind in Kind]
    return waiting, polls, dict(zip(names, counts[::2], strict=True)), dict(zip(names, counts[1::2], strict=True))


def _records(connection: Connection, after: int, limit: int) -> list[Delivery]:
    found = connection.execute(
        "SELECT r.number, a.name, t.task_id, r.body FROM record r CROSS JOIN task t ON t.key = r.task"
        " CROSS JOIN account a ON a.id = t.account WHERE r.number > ? ORDER BY r.number LIMIT ?",
        (after, max(0, limit)),
    )
    with closing(found):
        return rows.deliveries_of(found)


def _sources(connection: Connection) -> list[SourceSums]:
    found = connection.execute(f"SELECT {_SOURCE} FROM source ORDER BY id")  # noqa: S608 - our own columns
    return [rows.source_sums_of(row) for row in found]


def _count_outboxes(connection: Connection) -> list[SinkSums]:
    """A sink gets its rows while it is attached. For one that is not, the records it lacks are counted."""
    found = connection.execute(
        "SELECT name, delivered, missed, attached,"
        " (SELECT count(*) FROM undelivered u WHERE u.sink = s.id)"
        " + CASE WHEN attached THEN 0 ELSE (SELECT count(*) FROM record r WHERE r.number > s.filled_to) END,"
        " (SELECT count(*) FROM dead d WHERE d.sink = s.id)"
        " FROM sink s ORDER BY id"
    )
    return [rows.sink_sums_of(row) for row in found]


def _waiting_of(connection: Connection, accounts: Collection[str]) -> tuple[int, int]:
    """Return how many tasks of these accounts wait, and how many rows without a task."""
    found = [
        connection.execute(
            "SELECT (SELECT count(*) FROM task WHERE account = a.id AND kind IS NULL)"
            ", (SELECT count(*) FROM import_row WHERE account = a.id AND task IS NULL) FROM account a WHERE name = ?",
            (name,),
        ).fetchone()
        for name in accounts
    ]
    return sum(row[0] for row in found if row), sum(row[1] for row in found if row)
