"""Feeding a PostgreSQL state: sources, and the tasks that their chunks bring. Writing functions run inside a
transaction. For the contracts, see core/protocols.
"""

from collections.abc import Mapping, Sequence

from psycopg import AsyncConnection, errors

from poller.core.model import Added, Chunk, Fed, Kind, Position
from poller.store import rows
from poller.store.postgres import import_rows
from poller.store.postgres.connection import fetch_all, fetch_first
from poller.store.postgres.task_queue import accounts_of, columns

SAMPLES = 20  # lines of a chunk that are looked up before it is inserted

# By account: its number, paused time and first due instant. By line: which of these accounts, the id, the ref.
_INSERT_TASKS = b"""
    INSERT INTO task (account, paused_base_s, task_id, ref, fed_at, due_at)
    SELECT (%b::integer[])[x.nth], (%b::float8[])[x.nth], x.task_id, x.ref, %s, (%b::float8[])[x.nth]
    FROM unnest(%b::integer[], string_to_array(%s, E'\\n'), %b::bytea[]) WITH ORDINALITY AS x (nth, task_id, ref, nr)
    ORDER BY x.nr"""
# The same keys, but inserted in the order of the ids: feeders of the same ids wait for each other in one direction.
_INSERT_SORTED = b"""
    INSERT INTO task (key, account, paused_base_s, task_id, ref, fed_at, due_at) OVERRIDING SYSTEM VALUE
    SELECT key, account, paused_base_s, task_id, ref, fed_at, due_at FROM (
        SELECT nextval((SELECT pg_get_serial_sequence('task', 'key')::regclass)) AS key,
        (%b::integer[])[x.nth] AS account, (%b::float8[])[x.nth] AS paused_base_s, x.task_id COLLATE "C" AS task_id,
        x.ref, %s::float8 AS fed_at, (%b::float8[])[x.nth] AS due_at
        FROM unnest(%b::integer[], string_to_array(%s, E'\\n'), %b::bytea[]) WITH ORDINALITY
        AS x (nth, task_id, ref, nr) ORDER BY x.nr
    ) line ORDER BY account, task_id, key"""
_UNLESS_KNOWN = b" ON CONFLICT (account, task_id) DO NOTHING"


async def find_source(connection: AsyncConnection, name: str) -> tuple[int, Position] | None:
    row = await fetch_first(
        connection,
        'SELECT id, "offset", line, fingerprint, ended, digest FROM source WHERE name = %s ORDER BY id DESC LIMIT 1',
        (name,),
    )
    return None if row is None else rows.source_of(row)


async def insert_source(connection: AsyncConnection, name: str, fingerprint: str, digest: str) -> int:
    sql = "INSERT INTO source (name, fingerprint, digest) VALUES (%s, %s, %s) RETURNING id"
    ((source,),) = await fetch_all(connection, sql, (name, fingerprint, digest))
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
    *,
    is_alone: bool = True,
    tasks: int | None = None,
) -> Added:
    """Store a chunk and the position after it. By account: `paused_s` is noted but not stored yet, `first_poll_s` is
    how long after now the first poll is due. `is_alone`: no other process feeds this state. `tasks`: so many of the
    chunk's ids are new, and `insert_tasks_of` stored them."""
    if tasks is None:
        insert = _INSERT_TASKS if is_alone else _INSERT_SORTED
        tasks = await _insert_tasks(connection, insert, chunk, paused_s, first_poll_s, now)
    duplicates = len(chunk.fed) - tasks
    failed, other_refs = await _count_known(connection, chunk) if duplicates else (0, 0)
    again = 0
    if chunk.rows:
        accounts = await accounts_of(connection, {row.account for row in chunk.rows})
        numbers = {name: number for name, (number, _) in accounts.items()}
        new, again, failed_rows = await import_rows.add_rows(connection, chunk.rows, numbers, now)
        tasks, duplicates, failed = tasks + new, duplicates + len(chunk.rows) - new, failed + failed_rows
    added = Added(tasks=tasks, duplicates=duplicates, failed=failed, again=again, other_refs=other_refs)
    added += chunk.repeated
    if chunk.rejected:
        await connection.execute(
            "INSERT INTO rejection (source, line, reason, excerpt) SELECT %s, x.line, x.reason, x.excerpt"
            " FROM unnest(%s::bigint[], %s::text[], %s::text[]) WITH ORDINALITY AS x (line, reason, excerpt, nr)"
            " ORDER BY x.nr",
            (source, *columns(rows.rejection_rows(chunk))),
        )
    await connection.execute(
        "UPDATE source SET lines = lines + %s, tasks = tasks + %s, duplicates = duplicates + %s,"
        ' rejected = rejected + %s, blank = blank + %s, failed = failed + %s, "offset" = %s, line = %s,'
        " fingerprint = %s, ended = %s, digest = %s"
        " WHERE id = %s",
        (*rows.source_row(chunk, added), source),
    )
    return added


async def insert_tasks_of(
    connection: AsyncConnection,
    chunks: Sequence[Chunk],
    paused_s: Mapping[str, float],
    first_poll_s: Mapping[str, float],
    now: float,
) -> list[int]:
    """Store the new ids of several chunks as one; return how many each chunk brought."""
    fed = [each for chunk in chunks for each in chunk.fed]
    if not fed:
        return [0] * len(chunks)
    accounts = await accounts_of(connection, {each.account for each in fed})
    inserted = await fetch_all(
        connection,
        (_INSERT_SORTED + _UNLESS_KNOWN).decode() + " RETURNING account, task_id",
        _task_values(fed, accounts, paused_s, first_poll_s, now),
    )
    new, brought = set(inserted), []
    for chunk in chunks:
        own = {(accounts[each.account][0], each.task_id) for each in chunk.fed} & new
        new -= own
        brought.append(len(own))
    return brought


async def _insert_tasks(
    connection: AsyncConnection,
    insert: bytes,
    chunk: Chunk,
    paused_s: Mapping[str, float],
    first_poll_s: Mapping[str, float],
    now: float,
) -> int:
    """Return how many are new. Most chunks have new ids only, and an insert that looks out for duplicates takes half as
    long again: that is for those where a few samples found some, or where the plain insert met one."""
    if not chunk.fed:
        return 0
    accounts = await accounts_of(connection, {fed.account for fed in chunk.fed})
    values = _task_values(chunk.fed, accounts, paused_s, first_poll_s, now)
    if not await _seems_known(connection, chunk, accounts):
        await connection.execute("SAVEPOINT feeding")
        try:
            await connection.execute(insert, values)
        except errors.UniqueViolation:
            await connection.execute("ROLLBACK TO SAVEPOINT feeding")
        else:
            return len(chunk.fed)
    return (await connection.execute(insert + _UNLESS_KNOWN, values)).rowcount


def _task_values(
    lines: Sequence[Fed],
    accounts: Mapping[str, tuple[int, float]],
    paused_s: Mapping[str, float],
    first_poll_s: Mapping[str, float],
    now: float,
) -> tuple[object, ...]:
    """Return the values of an insert."""
    nth = {name: n for n, name in enumerate(accounts, start=1)}
    return (
        [number for number, _ in accounts.values()],
        [paused_s.get(name, stored) for name, (_, stored) in accounts.items()],
        now,
        [now + first_poll_s.get(name, 0.0) for name in accounts],
        [1] * len(lines) if len(nth) == 1 else [nth[fed.account] for fed in lines],
        "\n".join([fed.task_id for fed in lines]),
        [fed.ref for fed in lines],
    )


async def _seems_known(connection: AsyncConnection, chunk: Chunk, accounts: Mapping[str, tuple[int, float]]) -> bool:
    """Return whether the chunk has a line twice, or one of a few of its lines seems to be a task already."""
    lines = {fed.task_id if len(accounts) == 1 else (fed.account, fed.task_id) for fed in chunk.fed}
    if len(lines) < len(chunk.fed):
        return True
    samples = chunk.fed[:: max(1, len(chunk.fed) // SAMPLES)]
    sql = "SELECT EXISTS (SELECT 1 FROM task WHERE account = ANY (%s) AND task_id = ANY (%s))"
    numbers = list({accounts[fed.account][0] for fed in samples})
    return await fetch_first(connection, sql, (numbers, [fed.task_id for fed in samples])) == (True,)


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
