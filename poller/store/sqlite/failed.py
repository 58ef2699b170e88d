"""What became of lines that were fed to an SQLite state before. Only reads. For the contracts, see core/protocols."""

import sqlite3
from collections.abc import Sequence

import orjson

from poller.core.model import Chunk, Failed, Kind, KnownLines
from poller.store.rows import IS_OVER, IS_OVER_FOR_ROW

_HAS_FAILED = (  # by the index of outcomes
    f"SELECT EXISTS (SELECT 1 FROM task WHERE kind < '{Kind.COMPLETE}')"  # noqa: S608 - a constant
    f" OR EXISTS (SELECT 1 FROM task WHERE kind > '{Kind.COMPLETE}') OR EXISTS (SELECT 1 FROM dead)"
)
_HAS_PRUNED = "SELECT EXISTS (SELECT 1 FROM pruned)"
_COUNT = (
    f"SELECT count(*), count(*) FILTER (WHERE t.kind <> '{Kind.COMPLETE}'), count(*) FILTER (WHERE EXISTS ("  # noqa: S608 - as above
    "SELECT 1 FROM record r CROSS JOIN sink s CROSS JOIN dead d ON d.sink = s.id AND d.number = r.number"
    " WHERE r.task = t.key)) FROM json_each(?) line CROSS JOIN account a ON a.name = json_extract(line.value, '$[0]')"
)
_KNOWN = (  # `%s`: whether a task leaves nothing to do
    "SELECT a.name, count(*) FILTER (WHERE %s), count(*) FILTER (WHERE t.kind IS NULL)"
    " FROM json_each(?) line CROSS JOIN account a ON a.name = json_extract(line.value, '$[0]')"
)
_TASK = " CROSS JOIN task t ON t.account = a.id AND t.task_id = json_extract(line.value, '$[1]')"
_TASK_OF_ROW = (
    " CROSS JOIN import_row f ON f.account = a.id AND f.row = json_extract(line.value, '$[1]')"
    " CROSS JOIN import_row latest ON latest.account = f.account"
    " AND latest.row = CASE f.attempts WHEN 1 THEN f.row ELSE f.row || '~' || f.attempts END"
    " CROSS JOIN task t ON t.key = latest.task"
)


def has_failed(connection: sqlite3.Connection) -> bool:
    return bool(connection.execute(_HAS_FAILED).fetchone()[0])


def count_failed(connection: sqlite3.Connection, chunk: Chunk) -> Failed:
    known, *of_ids = _count(connection, _TASK, [(fed.account, fed.task_id) for fed in chunk.fed])
    _, *of_rows = _count(connection, _TASK_OF_ROW, [(row.account, row.row) for row in chunk.rows])
    failed, dead = map(sum, zip(of_ids, of_rows, strict=True))
    unknown = len(chunk.fed) - known
    if unknown and connection.execute(_HAS_PRUNED).fetchone()[0]:
        unknown = 0
    return Failed(failed=failed, dead=dead, unknown=unknown)


def known_lines(connection: sqlite3.Connection, chunk: Chunk) -> dict[str, KnownLines]:
    of_ids = (IS_OVER, _TASK, [(fed.account, fed.task_id) for fed in chunk.fed])
    of_rows = (IS_OVER_FOR_ROW, _TASK_OF_ROW, [(row.account, row.row) for row in chunk.rows])
    return {
        name: KnownLines(ended=ended, underway=underway)
        for is_over, task, lines in (of_ids, of_rows)
        if lines
        for name, ended, underway in connection.execute(
            f"{_KNOWN % is_over}{task} GROUP BY a.name", (orjson.dumps(lines).decode(),)
        )
    }


def _count(connection: sqlite3.Connection, task: str, lines: Sequence[tuple[str, str]]) -> tuple[int, int, int]:
    """Return how many lines have a task, a failed one, and one with a record that a sink refused."""
    if not lines:
        return 0, 0, 0
    found: tuple[int, int, int] = connection.execute(_COUNT + task, (orjson.dumps(lines).decode(),)).fetchone()
    return found
