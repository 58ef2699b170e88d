"""Searches a PostgreSQL state, and indexes the rows that a search reads. For the contracts, see core/protocols."""

from collections.abc import Callable, Sequence

from psycopg import AsyncConnection

from poller.core.search import TaskPage
from poller.store.find_rows import Steps
from poller.store.grams import run_rows
from poller.store.postgres.connection import fetch_all, fetch_first

Search = Callable[[], Steps[TaskPage]]

SETTLED_S = 60.0  # after which no transaction still adds a task with a smaller key


# The queries are made for indexes; without this, a plan may read whole tables for one page.
_BY_INDEX = (
    "SET LOCAL enable_seqscan = off; SET LOCAL enable_hashjoin = off; SET LOCAL enable_mergejoin = off;"
    " SET LOCAL jit = off"
)


async def follow(connection: AsyncConnection, search: Search) -> TaskPage:
    """Make the queries of a search, in one transaction; return what it found."""
    async with connection.transaction():
        await connection.execute(_BY_INDEX)
        return await _follow(connection, search)


async def _follow(connection: AsyncConnection, search: Search) -> TaskPage:
    steps = search()
    try:
        query, values = next(steps)
        while True:
            rows = await fetch_all(connection, query.replace("?", "%s"), values)
            query, values = steps.send(rows)
    except StopIteration as end:
        page: TaskPage = end.value
        return page


async def index_rows(connection: AsyncConnection, limit: int, now: float) -> int:
    """Store the grams of up to `limit` tasks that were not fed just now; return the number."""
    row = await fetch_first(connection, "SELECT coalesce(max(last), 0) FROM grams")
    last = 0 if row is None else int(row[0])
    found = await fetch_all(
        connection, "SELECT key, task_id, ref, fed_at FROM task WHERE key > %s ORDER BY key LIMIT %s", (last, limit)
    )
    fresh = next((number for number, each in enumerate(found) if each[3] > now - SETTLED_S), len(found))
    rows, tasks = run_rows(last, [(key, task_id, ref) for key, task_id, ref, _ in found[:fresh]])
    async with connection.cursor() as cursor:
        await cursor.executemany(
            "INSERT INTO grams (first, last, bits) VALUES (%s, %s, %b) ON CONFLICT DO NOTHING", rows
        )
    return tasks


async def forget_runs(connection: AsyncConnection, pruned: Sequence[int]) -> None:
    """Delete the grams of runs that have no task any more."""
    await connection.execute(
        "DELETE FROM grams g USING (SELECT DISTINCT (SELECT min(last) FROM grams WHERE last >= key) AS last"
        " FROM unnest(%s::bigint[]) AS pruned (key)) touched"
        " WHERE g.last = touched.last AND NOT EXISTS (SELECT 1 FROM task WHERE key BETWEEN g.first AND g.last)",
        (list(pruned),),
    )
