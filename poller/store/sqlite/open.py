"""How an SQLite state is opened by its one writer."""

import os
import shutil
import sqlite3
import stat
from pathlib import Path

import structlog

from poller.core.errors import StoreUnusable
from poller.core.protocols import Clock
from poller.store.sqlite.connection import MEMORY, WRITING_MS, connect
from poller.store.sqlite.errors import damaged, opening_error, translated, unusable_path
from poller.store.sqlite.lock import take_lock
from poller.store.sqlite.schema import VERSION, known_version, migrate
from poller.store.sqlite.store import SqliteStore

log = structlog.get_logger("poller")

LOG_PAGES = 16_000  # 64 MB: a chunk of random ids touches half as many pages
LOG_SHARE = 8  # of the room on the disk at the start
PAGE_BYTES = 4096
OPENING_MS = 2000  # the longest wait for another program's lock at the start
CHECKED_BYTES = 1 << 30  # a larger state is not checked for damage before each run


async def open_sqlite(path: Path | None, *, clock: Clock, linger_s: float) -> SqliteStore:
    """Open the state at `path` (None: in memory) as its one owner, creating or migrating it as needed.

    Raises `StoreLocked` (another process owns it), `StoreUnusable` (read-only, damaged, foreign, or newer).
    """
    if path is None:
        return SqliteStore(await open_writing(None), path=MEMORY, lock=None, clock=clock, linger_s=linger_s)
    lock = await take_lock(path, now=clock())
    try:
        connection = await open_writing(path)
        lock.watch(path)
    except BaseException:
        lock.release()
        raise
    return SqliteStore(connection, path=str(path), lock=lock, clock=clock, linger_s=linger_s)


async def open_writing(path: Path | None) -> sqlite3.Connection:
    """Connect for writing, with the tables made or migrated."""
    shown = str(path or MEMORY)
    if path is not None:
        _create_privately(path)
    connection = connect(path, "rwc")
    try:
        with translated(shown, opening_error):
            connection.execute(
                f"PRAGMA busy_timeout = {OPENING_MS}"
            )  # after a kill, a reader may be recovering the log
            version = known_version(connection, shown)
            _refuse_damaged(connection, shown)
            _set_up_writing(connection, path)
            if 0 < version < VERSION:
                log.info("store.migrating", path=shown, version=VERSION, migrated_from=version)
            await migrate(connection, version, shown)
            connection.execute(f"PRAGMA busy_timeout = {WRITING_MS}")
    except BaseException:
        connection.close()
        raise
    log.info("store.opened", path=shown, version=VERSION, migrated_from=version if version < VERSION else None)
    return connection


def _create_privately(path: Path) -> None:
    try:
        fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        raise unusable_path(path, error) from None
    facts = os.fstat(fd)
    os.close(fd)
    if not stat.S_ISREG(facts.st_mode):
        raise StoreUnusable(f"cannot open the state {path}: it is a pipe or a device. Name a regular file: --state.")
    if facts.st_nlink > 1:  # lock and log are found by name: with a second one, two runs would destroy the state
        raise StoreUnusable(
            f"the state {path} has another name (a hard link), under which a second run would not be noticed. "
            f"Delete that name, or give this one a file of its own: cp -p {path} {path}.new && mv {path}.new {path}"
        )


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


def _refuse_damaged(connection: sqlite3.Connection, path: str) -> None:
    """Check for damage that a run would notice late or never: 3 s for a million tasks."""
    (bytes_there,) = connection.execute(
        "SELECT page_count * page_size FROM pragma_page_count, pragma_page_size"
    ).fetchone()
    if bytes_there > CHECKED_BYTES:
        return
    (damage,) = connection.execute("PRAGMA quick_check(1)").fetchone()
    if damage != "ok":
        raise damaged(path, " ".join(damage.split()))
