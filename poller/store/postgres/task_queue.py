"""The queue of a PostgreSQL state: claiming, recording, what is remembered. Writing functions run inside a
transaction. For the contracts, see core/protocols.

Leases are in the memory of the state's one owner. A claim only reads: it costs no commit.
"""

from collections.abc import Collection, Mapping, Sequence
from itertools import islice
from math import inf
from typing import Any

from psycopg import AsyncConnection

from poller.core.accounts import AccountState
from poller.core.clock_note import CLOCK_NOTE, decode_note
from poller.core.model import Settled, Task
from poller.core.poll_log import LONGEST
from poller.store import rows
from poller.store.intervals import CLOCK_TOLERANCE_S
from poller.store.postgres.connection import fetch_all, fetch_first

# --- polling ---------------------------------------------------------------------------------------------------------


def _in_order(
    columns: str,
    condition: str,
    *,
    account: str = "(SELECT id FROM account WHERE name = %(account)s)",
    by: str = "due_at, key",
    limits: tuple[str, str, str] = ("1", "1", "1"),
) -> str:
    """Return the query of an account's waiting tasks by due time, from both parts of the index: those that were never
    polled, and the others. `limits`: of each part by itself (the server would sort all of it), and of the whole."""
    *of_parts, of_all = limits
    parts = [
        f"(SELECT {columns} FROM task WHERE account = {account}"  # noqa: S608 - constants
        f" AND kind IS NULL AND least(polls, 1) = {part} AND {condition} ORDER BY {by} LIMIT {limit})"
        for part, limit in enumerate(of_parts)
    ]
    return f"SELECT * FROM ({' UNION ALL '.join(parts)}) found ORDER BY {by} LIMIT {of_all}"  # noqa: S608 - constants


async def find_due(
    connection: AsyncConnection,
    account: str,
    leased: Collection[int],
    limit: int,
    now: float,
    again: int = 0,
    fed_until: float | None = None,
    start: tuple[float, int] = (0.0, 0),
) -> list[rows.Row]:
    """Return the rows of up to `limit` due tasks that are not leased, longest due first from `start` (due_at, key) on;
    with `fed_until`, only those that were fed up to then. After them those of up to `again` others that were polled
    before, but no more than there are first polls among the former."""
    query = _in_order(
        rows.TASK,
        "due_at <= %(now)s AND (due_at, key) >= (%(due_at)s, %(key)s) AND fed_at <= %(fed_until)s"
        " AND key <> ALL (%(leased)s::bigint[])",
        limits=("%(limit)s", "%(polled)s", "%(both)s"),
    )
    values = {
        "account": account,
        "now": now,
        "due_at": start[0],
        "key": start[1],
        "fed_until": inf if fed_until is None else fed_until,
        "leased": list(leased),
        "limit": limit,
        "polled": limit + again,
        "both": limit + limit + again,
    }
    # Not prepared: a plan for an unknown limit would sort all due tasks.
    found = await (await connection.execute(query.encode(), values, prepare=False)).fetchall()
    due = found[:limit]
    polled_before = (row for row in found[limit:] if row[rows.POLLS])
    return [*due, *islice(polled_before, min(again, rows.first_polls(due)))]


async def find_any_due(
    connection: AsyncConnection, account: str, leased: Collection[int], share: float, now: float
) -> list[rows.Row]:
    """Return the row of one due task that is not leased: from this share of the time over which they are spread on."""
    from_share = "due_at >= (SELECT due_at + %(share)s * (%(now)s - due_at) FROM first)"
    last = _in_order("key, due_at", "due_at = (SELECT due_at FROM due)", by="due_at DESC, key DESC")
    found = await fetch_first(
        connection,
        f"WITH first AS ({_in_order('due_at, key', 'true')}), due AS ({_in_order('due_at, key', from_share)})"  # noqa: S608
        f" SELECT due_at, key, (SELECT key FROM ({last}) last) FROM due",
        {"account": account, "share": share, "now": now},
    )
    if found is not None:
        due_at, first_key, last_key = found
        start = (due_at, first_key + int((last_key - first_key) * (share * rows.TIES % 1.0)))
        if due := await find_due(connection, account, leased, 1, now, start=start):
            return due
    return await find_due(connection, account, leased, 1, now)


async def next_due_of(
    connection: AsyncConnection, accounts: Sequence[str], leased: Collection[int]
) -> dict[str, float]:
    """Return when the earliest task of each of these accounts is due, of those that are not leased."""
    earliest = _in_order("due_at, key", "key <> ALL (%(leased)s::bigint[])", account="a.id")
    query = (
        f"SELECT a.name, next.due_at FROM account a CROSS JOIN LATERAL ({earliest}) next"  # noqa: S608 - constants
        " WHERE a.name = ANY (%(accounts)s)"
    )
    values = {"accounts": list(accounts), "leased": list(leased)}
    return dict(await (await connection.execute(query.encode(), values, prepare=False)).fetchall())


async def record(connection: AsyncConnection, settled: Sequence[Settled]) -> None:
    """Store the decisions, each task at most once in `settled`; the leases are held."""
    if polled := rows.polled_rows(settled):
        await _record_polled(connection, polled)
    if finished := rows.finished_rows(settled):
        await _record_finished(connection, finished)


async def _record_polled(connection: AsyncConnection, polled: Sequence[rows.Row]) -> None:
    await connection.execute(
        "UPDATE task t SET polls = t.polls + 1, due_at = x.due_at, errors = x.errors, missing_at = x.missing_at,"
        " status = x.status, requested_at = coalesce(x.requested_at, t.requested_at),"
        " seen_at = coalesce(x.seen_at, t.seen_at), started_at = coalesce(x.started_at, t.started_at),"
        " poll_log = right(t.poll_log || x.poll_log, %s)"
        " FROM unnest(%s::bigint[], %s::text[], %s::double precision[], %s::integer[],"
        " %s::double precision[], %s::text[], %s::double precision[], %s::double precision[], %s::double precision[])"
        " AS x (key, poll_log, due_at, errors, missing_at, status, requested_at, seen_at, started_at)"
        " WHERE t.key = x.key",
        (LONGEST, *columns(polled)),
    )


async def put_off(connection: AsyncConnection, tasks: Sequence[tuple[Task, float]]) -> None:
    """Make leased tasks due at these instants."""
    await connection.execute(
        "UPDATE task t SET due_at = x.due_at FROM unnest(%s::bigint[], %s::double precision[]) AS x (key, due_at)"
        " WHERE t.key = x.key",
        ([task.key for task, _ in tasks], [due_at for _, due_at in tasks]),
    )


async def _record_finished(connection: AsyncConnection, finished: Sequence[rows.Row]) -> None:
    """One statement: the state, the record, and a row per attached sink, whose lock keeps `attach_sinks` out."""
    await connection.execute(
        "WITH x AS (SELECT * FROM unnest(%s::bigint[], %s::text[], %s::text[], %s::boolean[], %s::text[],"
        " %s::double precision[], %b::bytea[])"
        " WITH ORDINALITY AS x (key, poll_log, kind, landed, reason, seen_at, body, nr)),"
        " done AS (UPDATE task t SET polls = t.polls + 1, poll_log = right(t.poll_log || x.poll_log, %s),"
        " kind = x.kind, landed = x.landed FROM x WHERE t.key = x.key),"
        " new AS (INSERT INTO record (task, reason, seen_at, body) SELECT key, reason, seen_at, body FROM x"
        " ORDER BY nr RETURNING number),"
        " attached AS (SELECT id FROM sink WHERE attached FOR KEY SHARE)"
        " INSERT INTO undelivered (sink, number) SELECT id, number FROM attached CROSS JOIN new",
        (*columns(finished), LONGEST),
    )


def columns(table: Sequence[rows.Row]) -> list[list[Any]]:
    """Return the arrays for `unnest`."""
    return [list(column) for column in zip(*table, strict=True)]


# --- what is remembered ----------------------------------------------------------------------------------------------


async def accounts_of(connection: AsyncConnection, names: set[str]) -> dict[str, tuple[int, float]]:
    """Return each account's number and stored paused time, the accounts made as needed.

    Known accounts are not inserted again: every refused row would use up a number of the identity column.
    """
    query = "SELECT name, id, paused_s FROM account WHERE name = ANY (%s)"
    found = await fetch_all(connection, query, (list(names),))
    if missing := sorted(names - {name for name, _, _ in found}):  # in one order for every writer: no deadlocks
        insert = "INSERT INTO account (name) SELECT unnest(%s::text[]) ON CONFLICT DO NOTHING"
        await connection.execute(insert, (missing,))
        found += await fetch_all(connection, query, (missing,))
    return {name: (number, paused_s) for name, number, paused_s in found}


async def save(connection: AsyncConnection, noted: Mapping[str, AccountState], learned: Mapping[str, bytes]) -> None:
    """Store what was noted, in place of what was known under these names. The requests of a day never decrease."""
    await save_knowledge(connection, learned)
    if noted:
        await _save_accounts(connection, noted)


async def save_knowledge(connection: AsyncConnection, learned: Mapping[str, bytes]) -> None:
    if learned:
        await connection.execute(
            "INSERT INTO knowledge (name, body) SELECT * FROM unnest(%s::text[], %b::bytea[])"
            " ON CONFLICT (name) DO UPDATE SET body = excluded.body",
            (list(learned), list(learned.values())),
        )


async def _save_accounts(connection: AsyncConnection, noted: Mapping[str, AccountState]) -> None:
    """Two statements for all accounts that are known, in one order for every writer: no deadlocks."""
    names = sorted(noted)
    table = [names, *columns([rows.account_row(noted[name]) for name in names])]
    update = (
        "UPDATE account a SET active_at = x.active_at, clean = x.clean, paused_s = x.paused_s, day = x.day,"
        " pause = x.pause, pause_detail = x.pause_detail, resume_at = x.resume_at"
        " FROM unnest(%s::text[], %s::double precision[], %s::boolean[], %s::double precision[], %s::text[],"
        " %s::text[], %s::text[], %s::double precision[])"
        " AS x (name, active_at, clean, paused_s, day, pause, pause_detail, resume_at) WHERE a.name = x.name"
    )
    if (await connection.execute(update.encode(), table)).rowcount < len(names):
        await accounts_of(connection, set(names))
        await connection.execute(update.encode(), table)
    await save_days(connection, noted)


async def save_days(connection: AsyncConnection, noted: Mapping[str, AccountState]) -> None:
    """Store the requests of the accounts' days, which never decrease."""
    if used := [(name, state.day, state.day_requests) for name, state in sorted(noted.items()) if state.day]:
        await connection.execute(
            "INSERT INTO account_day AS d (account, day, requests) SELECT a.id, x.day, x.requests"
            " FROM unnest(%s::text[], %s::text[], %s::bigint[]) AS x (name, day, requests)"
            " JOIN account a ON a.name = x.name"
            " ON CONFLICT (account, day) DO UPDATE SET requests = excluded.requests"
            " WHERE d.requests < excluded.requests",
            columns(used),
        )


# Waiting tasks whose instants are after now become `ahead_s` seconds older.
MOVE_BACK = (
    "UPDATE task SET due_at = CASE WHEN due_at > %(now)s THEN greatest(due_at - %(ahead_s)s, %(now)s)"
    " ELSE due_at END,"
    " fed_at = CASE WHEN fed_at > %(now)s THEN least(fed_at - %(ahead_s)s, %(now)s) ELSE fed_at END,"
    " missing_at = CASE WHEN missing_at > %(now)s THEN least(missing_at - %(ahead_s)s, %(now)s) ELSE missing_at"
    " END, seen_at = CASE WHEN seen_at > %(now)s THEN least(seen_at - %(ahead_s)s, %(now)s) ELSE seen_at END"
    " WHERE kind IS NULL"
    " AND (due_at > %(now)s OR fed_at > %(now)s OR missing_at > %(now)s OR seen_at > %(now)s)"
)
# The same of rows that have no task.
MOVE_ROWS_BACK = (
    "UPDATE import_row SET"
    " due_at = CASE WHEN due_at > %(now)s THEN greatest(due_at - %(ahead_s)s, %(now)s) ELSE due_at END,"
    " fed_at = CASE WHEN fed_at > %(now)s THEN least(fed_at - %(ahead_s)s, %(now)s) ELSE fed_at END,"
    " first_sent_at = CASE WHEN first_sent_at > %(now)s THEN least(first_sent_at - %(ahead_s)s, %(now)s)"
    " ELSE first_sent_at END"
    " WHERE task IS NULL AND (due_at > %(now)s OR fed_at > %(now)s OR first_sent_at > %(now)s)"
)


async def rebase_instants(connection: AsyncConnection, now: float) -> float:
    """Where an earlier run noted that its clock was set, move all its instants by so much. Where the latest one is
    after now even so, move all that are by so much."""
    moved_s = await _follow_clock(connection)
    ((latest,),) = await fetch_all(
        connection, "SELECT greatest((SELECT max(active_at) FROM account), (SELECT max(seen_at) FROM record))"
    )
    if latest is None or latest - now <= CLOCK_TOLERANCE_S:
        return -moved_s
    values = {"now": now, "ahead_s": latest - now}
    for statement in (
        MOVE_BACK,
        "UPDATE account SET active_at = least(active_at - %(ahead_s)s, %(now)s) WHERE active_at > %(now)s",
        "UPDATE account SET resume_at = resume_at - %(ahead_s)s WHERE resume_at > %(now)s",
        "UPDATE record SET seen_at = seen_at - %(ahead_s)s WHERE seen_at > %(now)s",
        "UPDATE dead SET at = least(at - %(ahead_s)s, %(now)s) WHERE at > %(now)s",
        MOVE_ROWS_BACK,
    ):
        await connection.execute(statement.encode(), values)
    return float(latest - now) - moved_s


async def _follow_clock(connection: AsyncConnection) -> float:
    """Return by how many seconds the instants were moved."""
    found = await fetch_all(connection, "SELECT body FROM knowledge WHERE name = %s", (CLOCK_NOTE,))
    note = decode_note(bytes(found[0][0])) if found else None
    if note is None:
        return 0.0
    values = {"by_s": note.behind_s, "since": note.since, "name": CLOCK_NOTE}
    for statement in (
        "UPDATE task SET due_at = due_at + %(by_s)s, fed_at = fed_at + %(by_s)s, missing_at = missing_at + %(by_s)s,"
        " seen_at = seen_at + %(by_s)s WHERE kind IS NULL",
        "UPDATE import_row SET due_at = due_at + %(by_s)s, fed_at = fed_at + %(by_s)s,"
        " first_sent_at = first_sent_at + %(by_s)s WHERE task IS NULL",
        "UPDATE account SET active_at = active_at + %(by_s)s, resume_at = resume_at + %(by_s)s",
        "UPDATE record SET seen_at = seen_at + %(by_s)s WHERE seen_at >= %(since)s",
        "UPDATE dead SET at = at + %(by_s)s WHERE at >= %(since)s",
        "DELETE FROM knowledge WHERE name = %(name)s",
    ):
        await connection.execute(statement.encode(), values)
    return note.behind_s
