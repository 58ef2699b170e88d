"""The tables of an SQLite state and their versions."""

import sqlite3

from poller.core.errors import StoreUnusable
from poller.store.versions import refuse_newer

APPLICATION_ID = 0x506F6C6C  # "Poll", in the file's header: no other program's database is taken for ours

VERSION_1 = """
CREATE TABLE account (
    id INTEGER PRIMARY KEY,
    name TEXT NOT NULL UNIQUE,
    active_at REAL,
    clean INTEGER NOT NULL DEFAULT 0,
    paused_s REAL NOT NULL DEFAULT 0,
    day TEXT NOT NULL DEFAULT '',
    pause TEXT,
    pause_detail TEXT,
    resume_at REAL
);
CREATE TABLE account_day (
    account INTEGER NOT NULL,
    day TEXT NOT NULL,
    requests INTEGER NOT NULL,
    PRIMARY KEY (account, day)
) WITHOUT ROWID;
CREATE TABLE source (
    id INTEGER PRIMARY KEY,
    name TEXT NOT NULL,
    lines INTEGER NOT NULL DEFAULT 0,
    tasks INTEGER NOT NULL DEFAULT 0,
    duplicates INTEGER NOT NULL DEFAULT 0,
    rejected INTEGER NOT NULL DEFAULT 0,
    blank INTEGER NOT NULL DEFAULT 0,
    offset INTEGER NOT NULL DEFAULT 0,
    line INTEGER NOT NULL DEFAULT 0,
    fingerprint TEXT NOT NULL DEFAULT '',
    ended INTEGER NOT NULL DEFAULT 0
);
CREATE TABLE rejection (
    id INTEGER PRIMARY KEY,
    source INTEGER NOT NULL,
    line INTEGER NOT NULL,
    reason TEXT NOT NULL,
    excerpt TEXT NOT NULL
);
CREATE TABLE task (
    key INTEGER PRIMARY KEY,
    account INTEGER NOT NULL,
    task_id TEXT NOT NULL,
    kind TEXT, -- NULL: waiting
    due_at REAL NOT NULL,
    looks INTEGER NOT NULL DEFAULT 0,
    errors INTEGER NOT NULL DEFAULT 0,
    missing_at REAL,
    status TEXT,
    fed_at REAL NOT NULL,
    paused_base_s REAL NOT NULL,
    ref BLOB,
    UNIQUE (account, task_id)
);
CREATE INDEX task_due ON task (account, due_at) WHERE kind IS NULL;
CREATE TABLE record (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    task INTEGER NOT NULL UNIQUE, -- a second outcome of a task cannot be stored
    reason TEXT,
    seen_at REAL NOT NULL,
    body BLOB NOT NULL
);
CREATE INDEX record_reason ON record (reason) WHERE reason IS NOT NULL;
CREATE TABLE sink (
    id INTEGER PRIMARY KEY,
    name TEXT NOT NULL UNIQUE,
    attached INTEGER NOT NULL DEFAULT 0,
    filled_to INTEGER NOT NULL DEFAULT 0, -- while not attached: the last record that got an undelivered row
    position BLOB,
    delivered INTEGER NOT NULL DEFAULT 0
);
CREATE TABLE undelivered (
    sink INTEGER NOT NULL,
    number INTEGER NOT NULL,
    PRIMARY KEY (sink, number)
) WITHOUT ROWID;
CREATE TABLE dead (
    sink INTEGER NOT NULL,
    number INTEGER NOT NULL,
    reason TEXT NOT NULL,
    at REAL NOT NULL,
    PRIMARY KEY (sink, number)
) WITHOUT ROWID;
"""

VERSION_2 = """
CREATE TABLE pruned (
    kind TEXT PRIMARY KEY,
    tasks INTEGER NOT NULL,
    looks INTEGER NOT NULL
) WITHOUT ROWID;
CREATE INDEX record_seen ON record (seen_at);
-- what was pruned before a sink got it
ALTER TABLE sink ADD COLUMN missed INTEGER NOT NULL DEFAULT 0
"""

VERSION_3 = """
ALTER TABLE task ADD COLUMN requested_at REAL;
ALTER TABLE task ADD COLUMN trail TEXT NOT NULL DEFAULT '';
CREATE TABLE knowledge (
    name TEXT PRIMARY KEY,
    body BLOB NOT NULL
) WITHOUT ROWID
"""

VERSION_4 = """
ALTER TABLE task RENAME COLUMN looks TO polls;
ALTER TABLE task RENAME COLUMN trail TO poll_log;
ALTER TABLE pruned RENAME COLUMN looks TO polls
"""

# The n-th brings a state of version n to n + 1. Published ones are never edited.
MIGRATIONS = (VERSION_1, VERSION_2, VERSION_3, VERSION_4)
VERSION = len(MIGRATIONS)


def migrate(connection: sqlite3.Connection, version: int) -> None:
    """Bring the tables from `version` up to date, in one transaction."""
    if version == VERSION:
        return
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
