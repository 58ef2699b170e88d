"""The tables of an SQLite state and their versions."""

import sqlite3
from pathlib import Path

from poller.core.errors import StoreUnusable
from poller.core.record import landed_in
from poller.store.versions import refuse_newer

APPLICATION_ID = 0x506F6C6C  # "Poll", in the file's header: no other program's database is taken for ours

# The n-th file brings a state of version n - 1 to n. Published ones are never edited.
MIGRATIONS = [path.read_text("utf-8") for path in sorted((Path(__file__).parent / "migrations").glob("*.sql"))]
VERSION = len(MIGRATIONS)


def migrate(connection: sqlite3.Connection, version: int) -> None:
    """Bring the tables from `version` up to date, in one transaction."""
    if version == VERSION:
        return
    connection.create_function("landed_in", 1, landed_in, deterministic=True)
    connection.execute("BEGIN IMMEDIATE")
    for script in MIGRATIONS[version:]:
        for statement in script.split(";"):
            connection.execute(statement)
    connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
    connection.execute(f"PRAGMA user_version = {VERSION}")
    connection.execute("COMMIT")


def known_version(connection: sqlite3.Connection, path: str) -> int:
    """Return the version of the tables, 0 where there are none. Raises `StoreUnusable` for newer and foreign ones."""
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    (application,) = connection.execute("PRAGMA application_id").fetchone()
    (tables,) = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    if tables and application != APPLICATION_ID:
        raise StoreUnusable(f"{path} is a database of another program. Name another file: --state.")
    refuse_newer(version, VERSION, path)
    return int(version)
