"""The queue of a PostgreSQL state: feeding, claiming, recording. Each function runs inside a transaction.

A lease is a token and an end in the database's own time. What is recorded under a token that is not the task's latest
is passed over: its owner was too late.
"""

from collections.abc import Sequence
from typing import Any

from psycopg import AsyncConnection

from poller.core.model import AccountState, Added, Chunk, Settled, Task
from poller.core.poll_log import LONGEST
from poller.store.postgres.reader import rows
from poller.store.rows import storable

LEASE_S = 60.0
RENEW_BELOW_S = 40.0  # left of a lease when it is extended; the owner asks every few seconds


async def insert_source(connection: AsyncConnection, name: str, fingerprint: str) -> int:
    """Begin the sums of a source, with the fingerprint of its position 0; return its number."""
    sql = "INSERT INTO source (name, fingerprint) VALUES (%s, %s) RETURNING id"
    ((source,),) = await rows(connection, sql, (name, fingerprint))
    return int(source)


async def add(
    connection: AsyncConnection,
    source: int,
    chunk: Chunk,
    paused_s: dict[str, float],
    first_poll_s: dict[str, float],
    now: float,
) -> Added:
    """Store a chunk and the position after it. By account: `paused_s` is what is noted but not stored yet,
    `first_poll_s` how long after now the first poll is due."""
    tasks = await _insert_tasks(connection, chunk, paused_s, first_poll_s, now)
    added = Added(tasks=tasks, duplicates=len(chunk.fed) - tasks)
    if chunk.rejected:
        await connection.execute(
            "INSERT INTO rejection (source, line, reason, excerpt) SELECT %s, x.line, x.reason, x.excerpt"
            " FROM unnest(%s::bigint[], %s::text[], %s::text[]) WITH ORDINALITY AS x (line, reason, excerpt, place)"
            " ORDER BY x.place",
            (
                source,
                [each.line for each in chunk.rejected],
                [storable(each.reason) for each in chunk.rejected],
                [storable(each.excerpt) for each in chunk.rejected],
            ),
        )
    await _advance(connection, source, chunk, added)
    return added


async def _advance(connection: AsyncConnection, source: int, chunk: Chunk, added: Added) -> None:
    await connection.execute(
        "UPDATE source SET lines = lines + %s, tasks = tasks + %s, duplicates = duplicates + %s,"
        ' rejected = rejected + %s, blank = blank + %s, "offset" = %s, line = %s, fingerprint = %s, ended = %s'
        " WHERE id = %s",
        (
            len(chunk.fed) + len(chunk.rejected) + chunk.blank,
            added.tasks,
            added.duplicates,
            len(chunk.rejected),
            chunk.blank,
            chunk.position.offset,
            chunk.position.line,
            chunk.position.fingerprint,
            chunk.position.ended,
            source,
        ),
    )


async def _insert_tasks(
    connection: AsyncConnection,
    chunk: Chunk,
    paused_s: dict[str, float],
    first_poll_s: dict[str, float],
    now: float,
) -> int:
    if not chunk.fed:
        return 0
    accounts = await accounts_of(connection, {fed.account for fed in chunk.fed})
    inserted = await connection.execute(
        "INSERT INTO task (account, paused_base_s, task_id, ref, fed_at, due_at)"
        " SELECT x.account, x.paused_base_s, x.task_id, x.ref, %s, x.due_at"
        " FROM unnest(%s::double precision[], %s::integer[], %s::double precision[], %s::text[], %b::bytea[])"
        " WITH ORDINALITY AS x (due_at, account, paused_base_s, task_id, ref, place)"
        " ORDER BY x.place ON CONFLICT (account, task_id) DO NOTHING",
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


async def accounts_of(connection: AsyncConnection, names: set[str]) -> dict[str, tuple[int, float]]:
    """Return each account's number and stored paused time, the accounts made as needed."""
    wanted = sorted(names)  # in one order for every writer: no deadlocks
    await connection.execute("INSERT INTO account (name) SELECT unnest(%s::text[]) ON CONFLICT DO NOTHING", (wanted,))
    found = await rows(connection, "SELECT name, id, paused_s FROM account WHERE name = ANY (%s)", (wanted,))
    return {name: (number, paused_s) for name, number, paused_s in found}


async def claim(connection: AsyncConnection, account: str, limit: int, now: float) -> list[Task]:
    """Lease up to `limit` due tasks, longest due first, passing over what others hold or are just claiming."""
    # Planned anew each time: a plan for an unknown limit would sort all due tasks.
    claimed = await connection.execute(
        "UPDATE task SET lease = nextval('lease'), lease_until = clock_timestamp() + %s * interval '1 s'"
        " WHERE key IN (SELECT key FROM task WHERE account = (SELECT id FROM account WHERE name = %s)"
        " AND kind IS NULL AND due_at <= %s AND (lease_until IS NULL OR lease_until < clock_timestamp())"
        " ORDER BY due_at, key LIMIT %s FOR UPDATE SKIP LOCKED)"
        " RETURNING key, task_id, ref, fed_at, due_at, polls, errors, missing_at, status, paused_base_s, requested_at,"
        " lease",
        (LEASE_S, account, now, limit),
        prepare=False,
    )
    tasks = [_task(account, *row) for row in await claimed.fetchall()]
    return sorted(tasks, key=lambda task: (task.due_at, task.key))


def _task(account: str, *row: Any) -> Task:
    key, task_id, ref, fed_at, due_at, polls, errors, missing_at, status, paused_base_s, requested_at, lease = row
    return Task(
        key=key,
        account=account,
        task_id=task_id,
        ref=ref,
        fed_at=fed_at,
        due_at=due_at,
        polls=polls,
        errors=errors,
        missing_at=missing_at,
        status=status,
        paused_base_s=paused_base_s,
        requested_at=requested_at,
        lease=lease,
    )


async def renew(connection: AsyncConnection, leases: dict[int, int]) -> None:
    """Extend those leases (task key → token) that end soon and are still ours."""
    await connection.execute(
        "UPDATE task t SET lease_until = clock_timestamp() + %s * interval '1 s'"
        " FROM unnest(%s::bigint[], %s::bigint[]) AS x (key, lease) WHERE t.key = x.key AND t.lease = x.lease"
        " AND t.lease_until < clock_timestamp() + %s * interval '1 s'",
        (LEASE_S, list(leases), list(leases.values()), RENEW_BELOW_S),
    )


async def release(connection: AsyncConnection, leases: dict[int, int]) -> None:
    """Give those leases (task key → token) back that are still ours."""
    await connection.execute(
        "UPDATE task t SET lease = 0, lease_until = NULL FROM unnest(%s::bigint[], %s::bigint[]) AS x (key, lease)"
        " WHERE t.key = x.key AND t.lease = x.lease",
        (list(leases), list(leases.values())),
    )


async def record(connection: AsyncConnection, settled: Sequence[Settled]) -> int:
    """Store what was decided of tasks, each at most once in `settled`; return how many leases were still ours."""
    again = [each for each in settled if each.again is not None]
    finished = [each for each in settled if each.record is not None]
    stored = await _record_again(connection, again) if again else 0
    return stored + (await _record_finished(connection, finished) if finished else 0)


async def _record_again(connection: AsyncConnection, settled: Sequence[Settled]) -> int:
    again = [each.again for each in settled if each.again is not None]
    updated = await connection.execute(
        "UPDATE task t SET polls = t.polls + 1, due_at = x.due_at, errors = x.errors, missing_at = x.missing_at,"
        " status = x.status, requested_at = coalesce(x.requested_at, t.requested_at),"
        " poll_log = right(t.poll_log || x.trace, %s), lease = 0, lease_until = NULL"
        " FROM unnest(%s::bigint[], %s::bigint[], %s::double precision[], %s::integer[], %s::double precision[],"
        " %s::text[], %s::double precision[], %s::text[])"
        " AS x (key, lease, due_at, errors, missing_at, status, requested_at, trace)"
        " WHERE t.key = x.key AND t.lease = x.lease",
        (
            LONGEST,
            [each.task.key for each in settled],
            [each.task.lease for each in settled],
            [each.at for each in again],
            [each.errors for each in again],
            [each.missing_at for each in again],
            [each.status and storable(each.status) for each in again],
            [each.requested_at for each in again],
            [each.poll_line for each in settled],
        ),
    )
    return updated.rowcount


async def _record_finished(connection: AsyncConnection, settled: Sequence[Settled]) -> int:
    """One statement: the state, the record, and a row per attached sink, whose lock keeps `attach_sinks` out."""
    records = [each.record for each in settled if each.record is not None]
    ((stored,),) = await rows(
        connection,
        "WITH x AS (SELECT * FROM unnest(%s::bigint[], %s::bigint[], %s::text[], %s::text[], %s::double precision[],"
        " %b::bytea[], %s::text[]) WITH ORDINALITY AS x (key, lease, kind, reason, seen_at, body, trace, place)),"
        " done AS (UPDATE task t SET polls = t.polls + 1, kind = x.kind, poll_log = right(t.poll_log || x.trace, %s),"
        " lease = 0, lease_until = NULL FROM x"
        " WHERE t.key = x.key AND t.lease = x.lease RETURNING x.*),"
        " new AS (INSERT INTO record (task, reason, seen_at, body) SELECT key, reason, seen_at, body FROM done"
        " ORDER BY place RETURNING number),"
        " attached AS (SELECT id FROM sink WHERE attached FOR KEY SHARE),"
        " owed AS (INSERT INTO undelivered (sink, number) SELECT id, number FROM attached CROSS JOIN new)"
        " SELECT count(*) FROM done",
        (
            [each.task.key for each in settled],
            [each.task.lease for each in settled],
            [str(record.kind) for record in records],
            [record.reason and storable(record.reason) for record in records],
            [record.seen_at for record in records],
            [record.body for record in records],
            [each.poll_line for each in settled],
            LONGEST,
        ),
    )
    return int(stored)


async def save_knowledge(connection: AsyncConnection, learned: dict[str, bytes]) -> None:
    """Store what was learned, each in place of what was known under its name."""
    await connection.execute(
        "INSERT INTO knowledge (name, body) SELECT * FROM unnest(%s::text[], %b::bytea[])"
        " ON CONFLICT (name) DO UPDATE SET body = excluded.body",
        (list(learned), list(learned.values())),
    )


async def save_accounts(connection: AsyncConnection, noted: dict[str, AccountState]) -> None:
    """Store what accounts noted. The requests of a day never decrease."""
    known = await accounts_of(connection, set(noted))
    for name, state in sorted(noted.items()):
        number, _ = known[name]
        await connection.execute(
            "UPDATE account SET active_at = %s, clean = %s, paused_s = %s, day = %s, pause = %s, pause_detail = %s,"
            " resume_at = %s WHERE id = %s",
            (
                state.active_at,
                state.clean,
                state.paused_s,
                state.day,
                state.pause,
                state.pause_detail and storable(state.pause_detail),
                state.resume_at,
                number,
            ),
        )
        if state.day:
            await connection.execute(
                "INSERT INTO account_day AS d (account, day, requests) VALUES (%s, %s, %s)"
                " ON CONFLICT (account, day) DO UPDATE SET requests = greatest(d.requests, excluded.requests)",
                (number, state.day, state.day_requests),
            )
