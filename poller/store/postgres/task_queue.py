"""The queue of a PostgreSQL state: feeding, claiming, recording. Writing functions run inside a transaction. For
the contracts, see core/protocols.

A lease is a token and an end in the database's own time. A poll recorded under a token that is not the task's latest
is skipped: its owner was too late.
"""

from collections.abc import Mapping, Sequence
from math import inf
from typing import Any

from psycopg import AsyncConnection

from poller.core.model import AccountState, Added, Chunk, Kind, Position, Settled, Task
from poller.core.poll_log import LONGEST
from poller.store import rows
from poller.store.intervals import CLOCK_TOLERANCE_S
from poller.store.postgres.connection import fetch_all, fetch_first

LEASE_S = 60.0
RENEW_BELOW_S = 40.0  # left of a lease when it is extended; the owner asks every few seconds


# --- feeding ---------------------------------------------------------------------------------------------------------


async def find_source(connection: AsyncConnection, name: str) -> tuple[int, Position] | None:
    row = await fetch_first(
        connection,
        'SELECT id, "offset", line, fingerprint, ended FROM source WHERE name = %s ORDER BY id DESC LIMIT 1',
        (name,),
    )
    return None if row is None else rows.source_of(row)


async def insert_source(connection: AsyncConnection, name: str, fingerprint: str) -> int:
    sql = "INSERT INTO source (name, fingerprint) VALUES (%s, %s) RETURNING id"
    ((source,),) = await fetch_all(connection, sql, (name, fingerprint))
    return int(source)


async def was_read(connection: AsyncConnection, position: Position) -> bool:
    row = (position.offset, position.fingerprint)
    sql = 'SELECT EXISTS (SELECT 1 FROM source WHERE "offset" = %s AND fingerprint = %s)'
    return await fetch_first(connection, sql, row) == (True,)


async def add(
    connection: AsyncConnection,
    source: int,
    chunk: Chunk,
    paused_s: Mapping[str, float],
    first_poll_s: Mapping[str, float],
    now: float,
) -> Added:
    """Store a chunk and the position after it. By account: `paused_s` is noted but not stored yet, `first_poll_s` is
    how long after now the first poll is due."""
    tasks = await _insert_tasks(connection, chunk, paused_s, first_poll_s, now)
    duplicates = len(chunk.fed) - tasks
    failed, other_refs = await _count_known(connection, chunk) if duplicates else (0, 0)
    added = Added(tasks=tasks, duplicates=duplicates, failed=failed, other_refs=other_refs)
    if chunk.rejected:
        await connection.execute(
            "INSERT INTO rejection (source, line, reason, excerpt) SELECT %s, x.line, x.reason, x.excerpt"
            " FROM unnest(%s::bigint[], %s::text[], %s::text[]) WITH ORDINALITY AS x (line, reason, excerpt, nr)"
            " ORDER BY x.nr",
            (source, *_columns(rows.rejection_rows(chunk))),
        )
    await connection.execute(
        "UPDATE source SET lines = lines + %s, tasks = tasks + %s, duplicates = duplicates + %s,"
        ' rejected = rejected + %s, blank = blank + %s, "offset" = %s, line = %s, fingerprint = %s, ended = %s'
        " WHERE id = %s",
        (*rows.source_row(chunk, added), source),
    )
    return added


async def _insert_tasks(
    connection: AsyncConnection,
    chunk: Chunk,
    paused_s: Mapping[str, float],
    first_poll_s: Mapping[str, float],
    now: float,
) -> int:
    if not chunk.fed:
        return 0
    accounts = await accounts_of(connection, {fed.account for fed in chunk.fed})
    inserted = await connection.execute(
        "INSERT INTO task (account, paused_base_s, task_id, ref, fed_at, due_at)"
        " SELECT x.account, x.paused_base_s, x.task_id, x.ref, %s, x.due_at"
        " FROM unnest(%s::double precision[], %s::integer[], %s::double precision[], %s::text[], %b::bytea[])"
        " WITH ORDINALITY AS x (due_at, account, paused_base_s, task_id, ref, nr)"
        " ORDER BY x.nr ON CONFLICT (account, task_id) DO NOTHING",
        (
            now,
            [now + first_poll_s.get(fed.account, 0.0) for fed in chunk.fed],
            [accounts[fed.account][0] for fed in chunk.fed],
            [paused_s.get(fed.account, accounts[fed.account][1]) for fed in chunk.fed],
            [fed.task_id for fed in chunk.fed],
            [fed.ref for fed in chunk.fed],
        ),
    )
    return inserted.rowcount


async def _count_known(connection: AsyncConnection, chunk: Chunk) -> tuple[int, int]:
    """Return how many lines have a task with an outcome that is not complete (new tasks have none yet), and how many a
    task with another `ref`."""
    found = await fetch_all(
        connection,
        "SELECT count(*) FILTER (WHERE t.kind <> %s),"
        " count(*) FILTER (WHERE line.ref IS NOT NULL AND line.ref IS DISTINCT FROM t.ref)"
        " FROM unnest(%s::text[], %s::text[], %b::bytea[]) AS line (account, task_id, ref)"
        " JOIN account a ON a.name = line.account JOIN task t ON t.account = a.id AND t.task_id = line.task_id",
        (
            Kind.COMPLETE.value,
            [fed.account for fed in chunk.fed],
            [fed.task_id for fed in chunk.fed],
            [fed.ref for fed in chunk.fed],
        ),
    )
    return int(found[0][0]), int(found[0][1])


async def accounts_of(connection: AsyncConnection, names: set[str]) -> dict[str, tuple[int, float]]:
    """Return each account's number and stored paused time, the accounts made as needed."""
    wanted = sorted(names)  # in one order for every writer: no deadlocks
    await connection.execute("INSERT INTO account (name) SELECT unnest(%s::text[]) ON CONFLICT DO NOTHING", (wanted,))
    found = await fetch_all(connection, "SELECT name, id, paused_s FROM account WHERE name = ANY (%s)", (wanted,))
    return {name: (number, paused_s) for name, number, paused_s in found}


# --- polling ---------------------------------------------------------------------------------------------------------


async def claim(
    connection: AsyncConnection,
    account: str,
    limit: int,
    now: float,
    fed_until: float | None = None,
    start: tuple[float, int] = (0.0, 0),
) -> list[Task]:
    """Lease up to `limit` due tasks, longest due first from `start` (due_at, key) on, except those that others hold or
    are just claiming; with `fed_until`, only those that were fed up to then."""
    # Not prepared: a plan for an unknown limit would sort all due tasks.
    claimed = await connection.execute(
        "UPDATE task SET lease = nextval('lease'), lease_until = clock_timestamp() + %s * interval '1 s'"  # noqa: S608
        " WHERE key IN (SELECT key FROM task WHERE account = (SELECT id FROM account WHERE name = %s)"
        " AND kind IS NULL AND due_at <= %s AND (due_at, key) >= (%s, %s) AND fed_at <= %s"
        " AND (lease_until IS NULL OR lease_until < clock_timestamp())"
        " ORDER BY due_at, key LIMIT %s FOR UPDATE SKIP LOCKED)"
        f" RETURNING {rows.TASK}, lease",
        (LEASE_S, account, now, *start, inf if fed_until is None else fed_until, limit),
        prepare=False,
    )
    tasks = [rows.task_of(account, row, lease) for *row, lease in await claimed.fetchall()]
    return sorted(tasks, key=lambda task: (task.due_at, task.key))


async def claim_any(connection: AsyncConnection, account: str, share: float, now: float) -> list[Task]:
    """Lease one due task: from this share of the time over which due tasks are spread on."""
    found = await fetch_first(
        connection,
        "WITH waiting AS (SELECT id FROM account WHERE name = %s),"
        " due AS (SELECT due_at FROM task WHERE account = (SELECT id FROM waiting) AND kind IS NULL AND due_at >="
        " (SELECT min(due_at) + %s * (%s - min(due_at)) FROM task WHERE account = (SELECT id FROM waiting)"
        " AND kind IS NULL) ORDER BY due_at LIMIT 1)"
        " SELECT due_at, (SELECT min(key) FROM task WHERE account = (SELECT id FROM waiting) AND kind IS NULL"
        " AND due_at = due.due_at), (SELECT max(key) FROM task WHERE account = (SELECT id FROM waiting)"
        " AND kind IS NULL AND due_at = due.due_at) FROM due",
        (account, share, now),
    )
    if found is not None:
        due_at, first, last = found
        start = (due_at, first + int((last - first) * (share * rows.TIES % 1.0)))
        if tasks := await claim(connection, account, 1, now, start=start):
            return tasks
    return await claim(connection, account, 1, now)


async def next_due_at(connection: AsyncConnection, account: str) -> float | None:
    row = await fetch_first(
        connection,
        "SELECT due_at FROM task WHERE account = (SELECT id FROM account WHERE name = %s) AND kind IS NULL"
        " AND (lease_until IS NULL OR lease_until < clock_timestamp()) ORDER BY due_at, key LIMIT 1",
        (account,),
    )
    return None if row is None else row[0]


async def renew(connection: AsyncConnection, leases: Mapping[int, int]) -> None:
    """Extend those leases (task key → token) that end soon and are still ours."""
    await connection.execute(
        "UPDATE task t SET lease_until = clock_timestamp() + %s * interval '1 s'"
        " FROM unnest(%s::bigint[], %s::bigint[]) AS x (key, lease) WHERE t.key = x.key AND t.lease = x.lease"
        " AND t.lease_until < clock_timestamp() + %s * interval '1 s'",
        (LEASE_S, list(leases), list(leases.values()), RENEW_BELOW_S),
    )


async def release(connection: AsyncConnection, leases: Mapping[int, int]) -> None:
    """Give those leases (task key → token) back that are still ours."""
    await connection.execute(
        "UPDATE task t SET lease = 0, lease_until = NULL FROM unnest(%s::bigint[], %s::bigint[]) AS x (key, lease)"
        " WHERE t.key = x.key AND t.lease = x.lease",
        (list(leases), list(leases.values())),
    )


async def record(connection: AsyncConnection, settled: Sequence[Settled]) -> set[int]:
    """Store the decisions, each task at most once in `settled`; return the keys of those whose leases were still
    ours."""
    stored: list[rows.Row] = []
    if polled := rows.polled_rows(settled):
        stored += await _record_polled(connection, polled)
    if finished := rows.finished_rows(settled):
        stored += await _record_finished(connection, finished)
    return {key for (key,) in stored}


async def _record_polled(connection: AsyncConnection, polled: Sequence[rows.Row]) -> Sequence[rows.Row]:
    return await fetch_all(
        connection,
        "UPDATE task t SET polls = t.polls + 1, due_at = x.due_at, errors = x.errors, missing_at = x.missing_at,"
        " status = x.status, requested_at = coalesce(x.requested_at, t.requested_at),"
        " seen_at = coalesce(x.seen_at, t.seen_at), started_at = coalesce(x.started_at, t.started_at),"
        " poll_log = right(t.poll_log || x.poll_log, %s), lease = 0, lease_until = NULL"
        " FROM unnest(%s::bigint[], %s::bigint[], %s::text[], %s::double precision[], %s::integer[],"
        " %s::double precision[], %s::text[], %s::double precision[], %s::double precision[], %s::double precision[])"
        " AS x (key, lease, poll_log, due_at, errors, missing_at, status, requested_at, seen_at, started_at)"
        " WHERE t.key = x.key AND t.lease = x.lease RETURNING t.key",
        (LONGEST, *_columns(polled)),
    )


async def _record_finished(connection: AsyncConnection, finished: Sequence[rows.Row]) -> Sequence[rows.Row]:
    """One statement: the state, the record, and a row per attached sink, whose lock keeps `attach_sinks` out."""
    return await fetch_all(
        connection,
        "WITH x AS (SELECT * FROM unnest(%s::bigint[], %s::bigint[], %s::text[], %s::text[], %s::boolean[],"
        " %s::text[], %s::double precision[], %b::bytea[])"
        " WITH ORDINALITY AS x (key, lease, poll_log, kind, landed, reason, seen_at, body, nr)),"
        " done AS (UPDATE task t SET polls = t.polls + 1, poll_log = right(t.poll_log || x.poll_log, %s),"
        " kind = x.kind, landed = x.landed, lease = 0, lease_until = NULL FROM x"
        " WHERE t.key = x.key AND t.lease = x.lease RETURNING x.*),"
        " new AS (INSERT INTO record (task, reason, seen_at, body) SELECT key, reason, seen_at, body FROM done"
        " ORDER BY nr RETURNING number),"
        " attached AS (SELECT id FROM sink WHERE attached FOR KEY SHARE),"
        " owed AS (INSERT INTO undelivered (sink, number) SELECT id, number FROM attached CROSS JOIN new)"
        " SELECT key FROM done",
        (*_columns(finished), LONGEST),
    )


def _columns(table: Sequence[rows.Row]) -> list[list[Any]]:
    """Return the arrays for `unnest`."""
    return [list(column) for column in zip(*table, strict=True)]


# --- what is remembered ----------------------------------------------------------------------------------------------


async def save(connection: AsyncConnection, noted: Mapping[str, AccountState], learned: Mapping[str, bytes]) -> None:
    """Store what was noted, in place of what was known under these names. The requests of a day never decrease."""
    await connection.execute(
        "INSERT INTO knowledge (name, body) SELECT * FROM unnest(%s::text[], %b::bytea[])"
        " ON CONFLICT (name) DO UPDATE SET body = excluded.body",
        (list(learned), list(learned.values())),
    )
    known = await accounts_of(connection, set(noted))
    for name, state in sorted(noted.items()):
        number, _ = known[name]
        await connection.execute(
            "UPDATE account SET active_at = %s, clean = %s, paused_s = %s, day = %s, pause = %s, pause_detail = %s,"
            " resume_at = %s WHERE id = %s",
            (*rows.account_row(state), number),
        )
        if state.day:
            await connection.execute(
                "INSERT INTO account_day AS d (account, day, requests) VALUES (%s, %s, %s)"
                " ON CONFLICT (account, day) DO UPDATE SET requests = greatest(d.requests, excluded.requests)",
                (number, state.day, state.day_requests),
            )


async def rebase_instants(connection: AsyncConnection, now: float) -> float:
    """Where the latest instant of a run is after now, move all that are by so much."""
    ((latest,),) = await fetch_all(
        connection, "SELECT greatest((SELECT max(active_at) FROM account), (SELECT max(seen_at) FROM record))"
    )
    if latest is None or latest - now <= CLOCK_TOLERANCE_S:
        return 0.0
    values = {"now": now, "ahead_s": latest - now}
    for statement in (
        "UPDATE task SET due_at = CASE WHEN due_at > %(now)s THEN greatest(due_at - %(ahead_s)s, %(now)s)"
        " ELSE due_at END,"
        " fed_at = CASE WHEN fed_at > %(now)s THEN least(fed_at - %(ahead_s)s, %(now)s) ELSE fed_at END,"
        " missing_at = CASE WHEN missing_at > %(now)s THEN least(missing_at - %(ahead_s)s, %(now)s) ELSE missing_at"
        " END, seen_at = CASE WHEN seen_at > %(now)s THEN least(seen_at - %(ahead_s)s, %(now)s) ELSE seen_at END"
        " WHERE kind IS NULL"
        " AND (due_at > %(now)s OR fed_at > %(now)s OR missing_at > %(now)s OR seen_at > %(now)s)",
        "UPDATE account SET active_at = least(active_at - %(ahead_s)s, %(now)s) WHERE active_at > %(now)s",
        "UPDATE account SET resume_at = resume_at - %(ahead_s)s WHERE resume_at > %(now)s",
        "UPDATE record SET seen_at = seen_at - %(ahead_s)s WHERE seen_at > %(now)s",
        "UPDATE dead SET at = least(at - %(ahead_s)s, %(now)s) WHERE at > %(now)s",
    ):
        await connection.execute(statement.encode(), values)
    return float(latest - now)
