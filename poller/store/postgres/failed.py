"""What became of lines that were fed to a PostgreSQL state before. Only reads. For the contracts, see
core/protocols.
"""

from collections.abc import Sequence

from psycopg import AsyncConnection

from poller.core.model import Chunk, Failed, Kind, KnownLines
from poller.store.postgres.connection import fetch_all, fetch_first
from poller.store.rows import IS_OVER, IS_OVER_FOR_ROW

_HAS_FAILED = (  # by the index of outcomes
    f"SELECT EXISTS (SELECT 1 FROM task WHERE kind < '{Kind.COMPLETE}')"  # noqa: S608 - a constant
    f" OR EXISTS (SELECT 1 FROM task WHERE kind > '{Kind.COMPLETE}') OR EXISTS (SELECT 1 FROM dead)"
)
_HAS_PRUNED = "SELECT EXISTS (SELECT 1 FROM pruned)"
_COUNT = (
    f"SELECT count(*), count(*) FILTER (WHERE t.kind <> '{Kind.COMPLETE}'), count(*) FILTER (WHERE EXISTS ("  # noqa: S608 - as above
    "SELECT 1 FROM record r JOIN dead d ON d.number = r.number WHERE r.task = t.key))"
    " FROM unnest(%s::text[], %s::text[]) AS line (account, name) JOIN account a ON a.name = line.account"
)
_KNOWN = (  # `{}`: whether a task leaves nothing to do
    "SELECT a.name, count(*) FILTER (WHERE {}), count(*) FILTER (WHERE t.kind IS NULL)"
    " FROM unnest(%s::text[], %s::text[]) AS line (account, name) JOIN account a ON a.name = line.account"
)
_TASK = " JOIN task t ON t.account = a.id AND t.task_id = line.name"
_TASK_OF_ROW = (
    " JOIN import_row f ON f.account = a.id AND f.row = line.name"
    " JOIN import_row latest ON latest.account = f.account"
    " AND latest.row = CASE f.attempts WHEN 1 THEN f.row ELSE f.row || '~' || f.attempts END"
    " JOIN task t ON t.key = latest.task"
)


async def has_failed(connection: AsyncConnection) -> bool:
    return await fetch_first(connection, _HAS_FAILED) == (True,)


async def count_failed(connection: AsyncConnection, chunk: Chunk) -> Failed:
    known, *of_ids = await _count(connection, _TASK, [(fed.account, fed.task_id) for fed in chunk.fed])
    _, *of_rows = await _count(connection, _TASK_OF_ROW, [(row.account, row.row) for row in chunk.rows])
    failed, dead = map(sum, zip(of_ids, of_rows, strict=True))
    unknown = len(chunk.fed) - known
    if unknown and await fetch_first(connection, _HAS_PRUNED) == (True,):
        unknown = 0
    return Failed(failed=failed, dead=dead, unknown=unknown)


async def known_lines(connection: AsyncConnection, chunk: Chunk) -> dict[str, KnownLines]:
    of_ids = (IS_OVER, _TASK, [(fed.account, fed.task_id) for fed in chunk.fed])
    of_rows = (IS_OVER_FOR_ROW, _TASK_OF_ROW, [(row.account, row.row) for row in chunk.rows])
    return {
        name: KnownLines(ended=ended, underway=underway)
        for is_over, task, lines in (of_ids, of_rows)
        if lines
        for name, ended, underway in await fetch_all(
            connection, f"{_KNOWN.format(is_over)}{task} GROUP BY a.name", tuple(map(list, zip(*lines, strict=True)))
        )
    }


async def _count(connection: AsyncConnection, task: str, lines: Sequence[tuple[str, str]]) -> tuple[int, int, int]:
    """Return how many lines have a task, a failed one, and one with a record that a sink refused."""
    if not lines:
        return 0, 0, 0
    accounts, names = [account for account, _ in lines], [name for _, name in lines]
    ((known, failed, dead),) = await fetch_all(connection, _COUNT + task, (accounts, names))
    return int(known), int(failed), int(dead)
