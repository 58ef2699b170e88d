"""What a PostgreSQL state tells of itself: sums, accounts, records. Only reads, so it works beside a writer."""

from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeVar

import psycopg
from psycopg import AsyncConnection

from poller.core.model import (
    AccountState,
    DeadLetter,
    Delivery,
    Position,
    Rejection,
    SinkSums,
    SourceSums,
    Sums,
    TaskDetails,
)
from poller.store.postgres.dsn import Dsn
from poller.store.postgres.errors import store_error
from poller.store.sqlite.reader import task_details_of

T = TypeVar("T")
TOP_REASONS = 10


class PostgresReader:
    """The `StateReader` of a PostgreSQL schema."""

    def __init__(self, connection: AsyncConnection, place: Dsn) -> None:
        self._connection = connection
        self._place = place

    async def sums(self) -> Sums:
        """Count everything from the rows themselves, as of one instant."""
        return await self._read(lambda connection: read_sums_at_once(connection, {}))

    async def account(self, name: str) -> AccountState:
        """Return what is remembered of the account."""
        return await self._read(lambda connection: read_account(connection, name, None))

    async def knowledge(self, name: str) -> bytes | None:
        """Return what `Store.save_knowledge` last noted under this name; None if nothing."""
        return await self._read(lambda connection: read_knowledge(connection, name))

    async def task_details(self, task_id: str) -> Sequence[TaskDetails]:
        """Return what is known of the tasks with this id, one for each account that has it, by account."""
        return await self._read(lambda connection: read_task_details(connection, task_id))

    async def rejections(self) -> Sequence[tuple[str, Rejection]]:
        """Return every rejected line with its source's name, in input order."""
        return await self._read(read_rejections)

    async def records(self, after: int, limit: int) -> list[Delivery]:
        """Return kept finished records in the order in which they finished, beginning after number `after`."""
        return await self._read(lambda connection: read_records(connection, after, limit))

    async def dead_letters(self, sink: str | None = None) -> Sequence[DeadLetter]:
        """Return what the sink, or any sink, refused for good, oldest first."""
        return await self._read(lambda connection: read_dead_letters(connection, sink))

    async def close(self) -> None:
        """Let go of the state."""
        await self._connection.close()

    async def _read(self, read: Callable[[AsyncConnection], Awaitable[T]]) -> T:
        try:
            return await read(self._connection)
        except psycopg.Error as error:
            raise store_error(error, self._place) from None


async def rows(connection: AsyncConnection, query: str, values: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
    """Return all rows of a query."""
    return await (await connection.execute(query.encode(), values)).fetchall()


async def read_source(connection: AsyncConnection, name: str) -> tuple[int, Position] | None:
    """Return the latest source of this name and how far it was read; None if there is none."""
    found = await rows(
        connection,
        'SELECT id, "offset", line, fingerprint, ended FROM source WHERE name = %s ORDER BY id DESC LIMIT 1',
        (name,),
    )
    if not found:
        return None
    source, offset, line, fingerprint, ended = found[0]
    return source, Position(offset=offset, line=line, fingerprint=fingerprint, ended=ended)


async def read_was_read(connection: AsyncConnection, position: Position) -> bool:
    """Tell whether some source was read up to exactly this position."""
    found = await rows(
        connection,
        'SELECT EXISTS (SELECT 1 FROM source WHERE "offset" = %s AND fingerprint = %s)',
        (position.offset, position.fingerprint),
    )
    return bool(found[0][0])


async def read_sink_names(connection: AsyncConnection) -> list[str]:
    """Return every sink that the state knows."""
    return [name for (name,) in await rows(connection, "SELECT name FROM sink ORDER BY id")]


async def read_account(connection: AsyncConnection, name: str, noted: AccountState | None) -> AccountState:
    """Return the account's state: the `noted` one where there is one not stored yet, with what is stored of its day."""
    state = noted or await _stored_account(connection, name)
    found = await rows(
        connection,
        "SELECT d.requests FROM account_day d JOIN account a ON a.id = d.account WHERE d.day = %s AND a.name = %s",
        (state.day, name),
    )
    return replace(state, day_requests=max(state.day_requests, found[0][0])) if found else state


async def _stored_account(connection: AsyncConnection, name: str) -> AccountState:
    found = await rows(
        connection,
        "SELECT active_at, clean, paused_s, day, pause, pause_detail, resume_at FROM account WHERE name = %s",
        (name,),
    )
    if not found:
        return AccountState()
    active_at, clean, paused_s, day, pause, pause_detail, resume_at = found[0]
    return AccountState(
        active_at=active_at,
        clean=clean,
        paused_s=paused_s,
        day=day,
        pause=pause,
        pause_detail=pause_detail,
        resume_at=resume_at,
    )


async def read_knowledge(connection: AsyncConnection, name: str) -> bytes | None:
    """Return what was learned under this name; None if nothing."""
    found = await rows(connection, "SELECT body FROM knowledge WHERE name = %s", (name,))
    return found[0][0] if found else None


async def read_task_details(connection: AsyncConnection, task_id: str) -> list[TaskDetails]:
    """Return what is known of the tasks with this id, by account."""
    found = await rows(
        connection,
        "SELECT a.name, t.task_id, t.ref, t.fed_at, t.requested_at, t.due_at, t.polls, t.errors, t.status, t.poll_log,"
        " t.kind, r.number, r.reason, r.seen_at, r.body"
        " FROM account a JOIN task t ON t.account = a.id AND t.task_id = %s"
        ' LEFT JOIN record r ON r.task = t.key ORDER BY a.name COLLATE "C"',
        (task_id,),
    )
    return [task_details_of(row, await _deliveries(connection, row[11])) for row in found]


async def _deliveries(connection: AsyncConnection, number: int | None) -> dict[str, str]:
    """Return where the record stands with each sink; nothing for a task without one."""
    found = await rows(
        connection,
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


async def read_rejections(connection: AsyncConnection) -> list[tuple[str, Rejection]]:
    """Return every rejected line with its source's name, in input order."""
    found = await rows(
        connection,
        "SELECT s.name, r.line, r.reason, r.excerpt FROM rejection r JOIN source s ON s.id = r.source"
        " ORDER BY r.source, r.id",
    )
    return [(name, Rejection(line=line, reason=reason, excerpt=excerpt)) for name, line, reason, excerpt in found]


async def read_records(connection: AsyncConnection, after: int, limit: int) -> list[Delivery]:
    """Return kept finished records in the order in which they finished, beginning after number `after`."""
    found = await rows(
        connection,
        "SELECT r.number, a.name, t.task_id, r.body FROM record r JOIN task t ON t.key = r.task"
        " JOIN account a ON a.id = t.account WHERE r.number > %s ORDER BY r.number LIMIT %s",
        (after, max(0, limit)),
    )
    return [_delivery(*row) for row in found]


async def read_undelivered(connection: AsyncConnection, sink: str, limit: int) -> list[Delivery]:
    """Return the first records that the sink lacks, in the order in which they finished."""
    found = await rows(
        connection,
        "SELECT r.number, a.name, t.task_id, r.body FROM (SELECT number FROM undelivered"
        " WHERE sink = (SELECT id FROM sink WHERE name = %s) ORDER BY number LIMIT %s) u"
        " JOIN record r ON r.number = u.number JOIN task t ON t.key = r.task JOIN account a ON a.id = t.account"
        " ORDER BY r.number",
        (sink, max(0, limit)),
    )
    return [_delivery(*row) for row in found]


async def read_dead_letters(connection: AsyncConnection, sink: str | None) -> list[DeadLetter]:
    """Return what the sink, or any sink, refused for good, oldest first."""
    found = await rows(
        connection,
        "SELECT s.name, d.reason, d.at, r.number, a.name, t.task_id, r.body FROM dead d JOIN sink s ON s.id = d.sink"
        " JOIN record r ON r.number = d.number JOIN task t ON t.key = r.task JOIN account a ON a.id = t.account"
        " WHERE s.name = coalesce(%s, s.name) ORDER BY d.at, d.number, s.id",
        (sink,),
    )
    return [
        DeadLetter(sink=name, reason=reason, refused_at=at, delivery=_delivery(*record))
        for name, reason, at, *record in found
    ]


def _delivery(number: int, account: str, task_id: str, body: bytes) -> Delivery:
    return Delivery(number=number, account=account, task_id=task_id, body=body)


async def read_next_due_at(connection: AsyncConnection, account: str) -> float | None:
    """Return when the earliest task that is waiting and not leased is due; None if there is none."""
    found = await rows(
        connection,
        "SELECT due_at FROM task WHERE account = (SELECT id FROM account WHERE name = %s) AND kind IS NULL"
        " AND (lease_until IS NULL OR lease_until < clock_timestamp()) ORDER BY due_at, key LIMIT 1",
        (account,),
    )
    return found[0][0] if found else None


async def read_sums_at_once(connection: AsyncConnection, noted: Mapping[str, AccountState]) -> Sums:
    """Count everything as of one instant."""
    await connection.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
    try:
        return await _read_sums(connection, noted)
    finally:
        if not connection.closed:
            await connection.execute("ROLLBACK")


async def _read_sums(connection: AsyncConnection, noted: Mapping[str, AccountState]) -> Sums:
    """Count everything; `finished` is counted from the records, `kinds` from the tasks."""
    ((finished,),) = await rows(connection, "SELECT count(*) FROM record")
    reasons = await rows(
        connection,
        "SELECT reason, count(*) FROM record WHERE reason IS NOT NULL GROUP BY reason"
        ' ORDER BY 2 DESC, reason COLLATE "C" LIMIT %s',
        (TOP_REASONS,),
    )
    tasks = await rows(connection, "SELECT kind, count(*), sum(polls)::bigint FROM task GROUP BY kind")
    pruned = await rows(connection, "SELECT kind, tasks, polls FROM pruned")
    names = {name for (name,) in await rows(connection, "SELECT name FROM account")} | noted.keys()
    kinds = Counter({kind: count for kind, count, _ in tasks if kind is not None})
    forgotten = sum(count for _, count, _ in pruned)
    return Sums(
        sources=await read_sources(connection),
        sinks=await _read_sinks(connection),
        accounts={name: await read_account(connection, name, noted.get(name)) for name in sorted(names)},
        waiting=sum(count for kind, count, _ in tasks if kind is None),
        finished=finished + forgotten,
        polls=sum(polls for _, _, polls in [*tasks, *pruned]),
        kinds=kinds + Counter({kind: count for kind, count, _ in pruned}),
        reasons=tuple((reason, count) for reason, count in reasons),
        pruned=forgotten,
    )


async def read_sources(connection: AsyncConnection) -> tuple[SourceSums, ...]:
    """Return where each source's lines went, in the order of their beginning."""
    found = await rows(
        connection, "SELECT name, lines, tasks, duplicates, rejected, blank, ended FROM source ORDER BY id"
    )
    return tuple(
        SourceSums(
            name=name, lines=lines, tasks=tasks, duplicates=duplicates, rejected=rejected, blank=blank, ended=ended
        )
        for name, lines, tasks, duplicates, rejected, blank, ended in found
    )


async def _read_sinks(connection: AsyncConnection) -> tuple[SinkSums, ...]:
    """A sink that is not attached gets its rows when it is again: until then the records it lacks are counted."""
    found = await rows(
        connection,
        "SELECT name, delivered, missed, attached,"
        " (SELECT count(*) FROM undelivered u WHERE u.sink = s.id)"
        " + CASE WHEN attached THEN 0 ELSE (SELECT count(*) FROM record r WHERE r.number > s.filled_to) END,"
        " (SELECT count(*) FROM dead d WHERE d.sink = s.id)"
        " FROM sink s ORDER BY id",
    )
    return tuple(
        SinkSums(name=name, delivered=delivered, undelivered=undelivered, dead=dead, attached=attached, missed=missed)
        for name, delivered, missed, attached, undelivered, dead in found
    )
