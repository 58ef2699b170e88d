"""Searches an SQLite state, and indexes the rows that a search reads. For the contracts, see core/protocols."""

import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

from poller.core.search import TaskPage
from poller.store.find_rows import Steps
from poller.store.grams import run_rows
from poller.store.sqlite.connection import connect
from poller.store.sqlite.errors import translated

Connection = sqlite3.Connection
Search = Callable[[], Steps[TaskPage]]


def follow(connection: Connection, search: Search) -> TaskPage:
    """Make the queries of a search; return what it found."""
    steps = search()
    try:
        query, values = next(steps)
        while True:
            query, values = steps.send(connection.execute(query, values).fetchall())
    except StopIteration as end:
        page: TaskPage = end.value
        return page


def follow_aside(path: str, search: Search) -> TaskPage:
    """The same on a connection of its own, for a thread: what is committed is found. Raises `StoreError`."""
    with translated(path), closing(connect(Path(path), "ro")) as connection:
        return follow(connection, search)


def index_rows(connection: Connection, limit: int) -> int:
    """Store the grams of up to `limit` tasks; return the number. No new task gets a key of a run: see `forget_runs`."""
    (last,) = connection.execute("SELECT coalesce(max(last), 0) FROM grams").fetchone()
    found = connection.execute(
        "SELECT key, task_id, ref FROM task WHERE key > ? ORDER BY key LIMIT ?", (last, limit)
    ).fetchall()
    rows, tasks = run_rows(last, found)
    connection.executemany("INSERT INTO grams (first, last, bits) VALUES (?, ?, ?)", rows)
    return tasks


def forget_runs(connection: Connection, pruned: list[tuple[int]]) -> None:
    """Delete the grams of runs that have no task any more, and of those of which a new task could get a key: SQLite
    gives the keys after the largest one that is left."""
    connection.executemany(
        "DELETE FROM grams WHERE last = (SELECT last FROM grams WHERE last >= ? ORDER BY last LIMIT 1)"
        " AND NOT EXISTS (SELECT 1 FROM task WHERE key BETWEEN grams.first AND grams.last)",
        pruned,
    )
    connection.execute("DELETE FROM grams WHERE last > (SELECT coalesce(max(key), 0) FROM task)")
