"""The tables of a SQLite state, their versions, and how its file is opened."""

import os
import shutil
import sqlite3
from pathlib import Path

import structlog

from poller.core.errors import StoreUnusable
from poller.store.sqlite.errors import damaged, opening_error, store_error, translated, unusable_path

log = structlog.get_logger()

LOG_PAGES = 16_000  # 64 MB: a chunk of random ids touches half as many pages
LOG_SHARE = 8  # of the room on the disk at the start
PAGE_BYTES = 4096
OPENING_MS, WRITING_MS = 2000, 100  # how long another program's lock is waited for: at work, the event loop waits too

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
CHECKED_BYTES = 1 << 30  # a larger state is not read through before each run


def open_writing(path: Path | None) -> sqlite3.Connection:
    """Open the state at `path` (None: in memory) for its one writer, creating or migrating it as needed."""
    place = str(path or ":memory:")
    if path is not None:
        _create_privately(path)
    connection = _connect(path, "rwc")
    try:
        with translated(place, opening_error):
            connection.execute(f"PRAGMA busy_timeout = {OPENING_MS}")  # after a kill, a reader may be mending the log
            version = _known_version(connection, place)
            _refuse_damaged(connection, place)
            _set_up_writing(connection, path)
            _migrate(connection, version)
            connection.execute(f"PRAGMA busy_timeout = {WRITING_MS}")
    except BaseException:
        connection.close()
        raise
    log.info("store.opened", path=place, version=VERSION, migrated_from=version if version < VERSION else None)
    return connection


def open_reading(path: Path) -> sqlite3.Connection:
    """Open the state at `path` without changing it, also while its writer runs."""
    if not path.is_file():
        raise StoreUnusable(f"there is no state at {path}. Start a run first, or name the state of one: --state.")
    # Without a write-ahead log nobody writes; `immutable` then keeps SQLite from creating one.
    connection = _connect(path, "ro" if path.with_name(path.name + "-wal").exists() else "ro&immutable=1")
    try:
        with translated(str(path)):
            version = _known_version(connection, str(path))
    except BaseException:
        connection.close()
        raise
    if version < VERSION:
        connection.close()
        what = "holds nothing yet" if version == 0 else f"is of the older version {version}"
        raise StoreUnusable(f"the state {path} {what}. Start a run with it first.")
    return connection


def _create_privately(path: Path) -> None:
    try:
        os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
    except OSError as error:
        raise unusable_path(path, error) from None


def _connect(path: Path | None, mode: str) -> sqlite3.Connection:
    """Connect in autocommit mode: transactions are begun and ended in so many words."""
    if path is None:
        return sqlite3.connect(":memory:", isolation_level=None)
    uri = f"{path.absolute().as_uri()}?mode={mode}"
    try:
        connection = sqlite3.connect(uri, uri=True, isolation_level=None, timeout=WRITING_MS / 1000)
    except sqlite3.Error as error:
        raise store_error(error, str(path)) from error
    connection.execute("PRAGMA mmap_size = 0")
    return connection


def _set_up_writing(connection: sqlite3.Connection, path: Path | None) -> None:
    (mode,) = connection.execute("PRAGMA journal_mode = WAL").fetchone()
    if mode != "wal" and path is not None:
        raise StoreUnusable(f"the file system of {path} cannot hold a state (no WAL). Choose a local disk: --state.")
    connection.execute("PRAGMA synchronous = FULL")  # NORMAL loses commits at a power cut
    connection.execute(f"PRAGMA wal_autocheckpoint = {LOG_PAGES if path is None else _log_pages(path)}")
    connection.execute("PRAGMA journal_size_limit = 67108864")
    connection.execute("PRAGMA cache_size = -32000")  # 32 MB, whatever the number of tasks
    connection.execute("PRAGMA temp_store = MEMORY")  # a container may have no writable /tmp


def _log_pages(path: Path) -> int:
    """Return the pages the log may reach before it is folded into the database.

    A log that takes the last room of a small disk leaves none to fold it into, and is stuck for good.
    """
    return max(1, min(LOG_PAGES, shutil.disk_usage(path.parent).free // LOG_SHARE // PAGE_BYTES))


def _known_version(connection: sqlite3.Connection, place: str) -> int:
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    (application,) = connection.execute("PRAGMA application_id").fetchone()
    (tables,) = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    if tables and application != APPLICATION_ID:
        raise StoreUnusable(f"{place} is a database of another program. Name another file: --state.")
    if version > VERSION:
        raise StoreUnusable(
            f"the state {place} is of version {version}, this poller knows versions up to {VERSION}. "
            "Use the newer poller that wrote it."
        )
    return int(version)


def _refuse_damaged(connection: sqlite3.Connection, place: str) -> None:
    """Look for damage that a run might meet only in the middle of its work, or never: 3 s for a million tasks."""
    (bytes_there,) = connection.execute(
        "SELECT page_count * page_size FROM pragma_page_count, pragma_page_size"
    ).fetchone()
    if bytes_there > CHECKED_BYTES:
        return
    (finding,) = connection.execute("PRAGMA quick_check(1)").fetchone()
    if finding != "ok":
        raise damaged(place, " ".join(finding.split()))


def _migrate(connection: sqlite3.Connection, version: int) -> None:
    if version == VERSION:
        return
    connection.execute("BEGIN IMMEDIATE")
    for script in MIGRATIONS[version:]:
        for statement in script.split(";"):
            connection.execute(statement)
    connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
    connection.execute(f"PRAGMA user_version = {VERSION}")
    connection.execute("COMMIT")
