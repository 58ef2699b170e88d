"""The outbox of a PostgreSQL state: which record is owed to which sink. Writing functions run inside a transaction. For
the contracts, see core/protocols.

For every sink, finished = delivered + undelivered + dead + missed; each function moves records between these four.
Attaching, replaying and pruning lock out recording, so that no record slips between a sink's state and its rows.
"""

from collections.abc import Mapping, Sequence

from psycopg import AsyncConnection

from poller.core.deliveries import LARGEST_PAGE, Delivery, Selection
from poller.store import pruning
from poller.store.postgres import import_sums
from poller.store.postgres.connection import fetch_all
from poller.store.postgres.search import forget_runs
from poller.store.rows import delivery_of, storable

# "Pol" and "r": the order of records, one for each schema. Members of a fleet take it before they share the sinks. So
# does who locks recording out, for that commit may have records, too.
RECORD_ORDER = "(1349479538::bigint << 32) | to_regnamespace(current_schema())::oid::bigint"
LOCK_OUT_RECORDING = f"SELECT pg_advisory_xact_lock({RECORD_ORDER}); LOCK TABLE sink IN EXCLUSIVE MODE"


async def attach_sinks(connection: AsyncConnection, wanted: Sequence[str]) -> dict[str, bytes | None]:
    """Attach these sinks and no other; return their positions."""
    await connection.execute(LOCK_OUT_RECORDING)
    attached = {name for (name,) in await fetch_all(connection, "SELECT name FROM sink WHERE attached")}
    await connection.execute(
        "UPDATE sink SET attached = false, filled_to = (SELECT coalesce(max(number), 0) FROM record)"
        " WHERE attached AND name <> ALL (%s)",
        (list(wanted),),
    )
    for name in wanted:
        if name not in attached:
            await attach(connection, name)
    positions = dict(await fetch_all(connection, "SELECT name, position FROM sink WHERE attached"))
    return {name: positions[name] for name in wanted}


async def attach(connection: AsyncConnection, name: str) -> None:
    """Owe the sink all kept records that finished while it was not attached. Those pruned before are missed."""
    await connection.execute(
        "INSERT INTO sink (name, missed) SELECT %s, (SELECT coalesce(sum(tasks), 0) FROM pruned)"
        " ON CONFLICT DO NOTHING",
        (name,),
    )
    await connection.execute(
        "INSERT INTO undelivered (sink, number) SELECT s.id, r.number FROM sink s CROSS JOIN record r"
        " WHERE s.name = %s AND r.number > s.filled_to",
        (name,),
    )
    await connection.execute("UPDATE sink SET attached = true WHERE name = %s", (name,))


async def undelivered(connection: AsyncConnection, sink: str, limit: int) -> list[Delivery]:
    owed = "SELECT number FROM undelivered WHERE sink = (SELECT id FROM sink WHERE name = %s) ORDER BY number LIMIT %s"
    return await page_of(connection, owed, (sink, max(0, limit)))


async def page_of(connection: AsyncConnection, numbers: str, values: Sequence[object]) -> list[Delivery]:
    """Return the records of the numbers that a query returns in order, up to the one with which they have
    `LARGEST_PAGE` bytes."""
    found = await fetch_all(
        connection,
        "SELECT r.number, a.name, t.task_id, r.body FROM (SELECT number, task, body, sum(octet_length(body))"  # noqa: S608 - our own text
        f" OVER (ORDER BY number) - octet_length(body) AS before FROM ({numbers}) n JOIN record USING (number)) r"
        " JOIN task t ON t.key = r.task JOIN account a ON a.id = t.account WHERE r.before < %s ORDER BY r.number",
        (*values, LARGEST_PAGE),
    )
    return [delivery_of(row) for row in found]


async def note_delivered(
    connection: AsyncConnection,
    sink: str,
    numbers: Sequence[int],
    refused: Mapping[int, str],
    position: bytes | None,
    now: float,
) -> None:
    """Turn undelivered records into delivered or, where refused, dead ones. A second time changes nothing."""
    struck = await fetch_all(
        connection,
        "DELETE FROM undelivered WHERE sink = (SELECT id FROM sink WHERE name = %s) AND number = ANY (%s::bigint[])"
        " RETURNING number",
        (sink, list(numbers)),
    )
    dead = [number for (number,) in struck if number in refused]
    if dead:
        await connection.execute(
            "INSERT INTO dead (sink, number, reason, at) SELECT s.id, x.number, x.reason, %s"
            " FROM sink s, unnest(%s::bigint[], %s::text[]) AS x (number, reason) WHERE s.name = %s",
            (now, dead, [refused[number] for number in dead], sink),
        )
    await connection.execute(
        "UPDATE sink SET delivered = delivered + %s, position = coalesce(%s, position) WHERE name = %s",
        (len(struck) - len(dead), position, sink),
    )


async def note_position(connection: AsyncConnection, sink: str, position: bytes | None) -> None:
    await connection.execute("UPDATE sink SET position = %s WHERE name = %s", (position, sink))


async def positions(connection: AsyncConnection) -> dict[str, bytes | None]:
    return dict(await fetch_all(connection, "SELECT name, position FROM sink ORDER BY id"))


async def replay(connection: AsyncConnection, sink: str, selection: Selection, from_start: bool) -> int:
    """Turn selected delivered and dead records into undelivered ones; return how many."""
    await connection.execute(LOCK_OUT_RECORDING)
    dead_only = " AND EXISTS (SELECT 1 FROM dead d WHERE d.sink = s.id AND d.number = r.number)"
    query = (
        "INSERT INTO undelivered (sink, number) SELECT s.id, r.number FROM sink s CROSS JOIN record r"  # noqa: S608 - a constant
        " JOIN task t ON t.key = r.task WHERE s.name = %s AND (s.attached OR r.number <= s.filled_to)"
        " AND r.seen_at >= %s AND (%s OR t.kind = ANY (%s)) AND (%s OR t.task_id = ANY (%s))"
        f"{dead_only if selection.dead else ''} ON CONFLICT DO NOTHING"
    )
    since = float("-inf") if selection.since is None else selection.since
    kinds = [str(kind) for kind in selection.kinds]
    is_any, ids = selection.task_ids is None, sorted(map(storable, selection.task_ids or ()))
    replayed = (await connection.execute(query.encode(), (sink, since, not kinds, kinds, is_any, ids))).rowcount
    revived = await connection.execute(
        "DELETE FROM dead d USING sink s, undelivered u"
        " WHERE s.name = %s AND d.sink = s.id AND u.sink = d.sink AND u.number = d.number",
        (sink,),
    )
    await connection.execute(
        "UPDATE sink SET delivered = delivered - %s WHERE name = %s", (replayed - revived.rowcount, sink)
    )
    if from_start:
        await note_position(connection, sink, None)
    return replayed


async def prune(
    connection: AsyncConnection, before: float, limit: int, after: pruning.Place
) -> tuple[int, pruning.Place | None]:
    """Delete the oldest tasks after `after` that no attached sink lacks or has refused; their counts go into `pruned`.
    Return as a batch of `pruning.prune`."""
    await connection.execute(LOCK_OUT_RECORDING)
    examined = await fetch_all(
        connection,
        "SELECT r.seen_at, r.task, r.number, EXISTS (SELECT 1 FROM sink s WHERE s.attached AND (EXISTS"
        " (SELECT 1 FROM undelivered u WHERE u.sink = s.id AND u.number = r.number) OR EXISTS"
        " (SELECT 1 FROM dead d WHERE d.sink = s.id AND d.number = r.number)))"
        " FROM record r WHERE r.seen_at < %s AND (r.seen_at, r.task) > (%s, %s) ORDER BY r.seen_at, r.task LIMIT %s",
        (before, *after, pruning.EXAMINED_AT_ONCE),
    )
    found, last = pruning.chosen(examined, limit)
    numbers, tasks = [number for number, _ in found], [task for _, task in found]
    await _note_missed(connection, numbers)
    await connection.execute("DELETE FROM record WHERE number = ANY (%s::bigint[])", (numbers,))
    await connection.execute(
        "WITH gone AS (DELETE FROM task WHERE key = ANY (%s::bigint[]) RETURNING kind, polls, landed)"
        " INSERT INTO pruned (kind, tasks, polls, landed)"
        " SELECT kind, count(*), sum(polls), count(*) FILTER (WHERE landed) FROM gone GROUP BY kind"
        " ON CONFLICT (kind) DO UPDATE SET tasks = pruned.tasks + excluded.tasks,"
        " polls = pruned.polls + excluded.polls, landed = pruned.landed + excluded.landed",
        (tasks,),
    )
    await import_sums.forget(connection, tasks)
    await forget_runs(connection, tasks)
    return len(found), last


async def _note_missed(connection: AsyncConnection, numbers: Sequence[int]) -> None:
    """Count what sinks that are not attached will never get: their rows go; numbers past `filled_to` never had any."""
    for sink, filled_to in await fetch_all(connection, "SELECT id, filled_to FROM sink WHERE NOT attached"):
        missed = sum(number > filled_to for number in numbers)
        for table in ("undelivered", "dead"):
            gone = await connection.execute(
                f"DELETE FROM {table} WHERE sink = %s AND number = ANY (%s::bigint[])".encode(),  # noqa: S608 - our own table
                (sink, list(numbers)),
            )
            missed += gone.rowcount
        await connection.execute("UPDATE sink SET missed = missed + %s WHERE id = %s", (missed, sink))
