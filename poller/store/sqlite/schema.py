"""The tables of an SQLite state and their versions."""

import asyncio
import sqlite3
from pathlib import Path

from poller.core.errors import StoreUnusable
from poller.core.record import landed_in
from poller.store.versions import MigrationProgress, refuse_newer

APPLICATION_ID = 0x506F6C6C  # "Poll", in the file's header: no other program's database is taken for ours

# The n-th file brings a state of version n - 1 to n. Published ones are never edited.
MIGRATIONS = [path.read_text("utf-8") for path in sorted((Path(__file__).parent / "migrations").glob("*.sql"))]
VERSION = len(MIGRATIONS)
MIGRATED_AT_ONCE = 5_000  # keys; between two parts a signal may end the migration


async def migrate(connection: sqlite3.Connection, version: int, path: str) -> None:
    """Bring the tables from `version` up to date, in one transaction. Where it is cancelled, the state is as before."""
    if version == VERSION:
        return
    connection.create_function("landed_in", 1, landed_in, deterministic=True)
    connection.execute("BEGIN IMMEDIATE")
    for script in MIGRATIONS[version:]:
        for statement in script.split(";"):
            await asyncio.sleep(0)
            if "landed_in(" in statement:
                await _rewrite_tasks(connection, statement, path)
            else:
                connection.execute(statement)
    connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
    connection.execute(f"PRAGMA user_version = {VERSION}")
    connection.execute("COMMIT")


async def _rewrite_tasks(connection: sqlite3.Connection, statement: str, path: str) -> None:
    """Run a statement that ends in a condition on tasks, part by part."""
    last, tasks = connection.execute("SELECT coalesce(max(key), 0), count(kind) FROM task").fetchone()
    progress = MigrationProgress(path, tasks)
    for first in range(1, last + 1, MIGRATED_AT_ONCE):
        part = (first, first + MIGRATED_AT_ONCE - 1)
        progress.add(connection.execute(f"{statement} AND key BETWEEN ? AND ?", part).rowcount)
        await asyncio.sleep(0)


def known_version(connection: sqlite3.Connection, path: str) -> int:
    """Return the version of the tables, 0 where there are none. Raises `StoreUnusable` for newer and foreign ones."""
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    (application,) = connection.execute("PRAGMA application_id").fetchone()
    (tables,) = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    if tables and application != APPLICATION_ID:
        raise StoreUnusable(f"{path} is a database of another program. Name another file: --state.")
    refuse_newer(version, VERSION, path)
    return int(version)
