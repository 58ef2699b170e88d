"""Opens the state that a URL names: `sqlite:///poller.db`, or `postgresql://user@host/database`, whose driver is
imported only then.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from poller.core.deliveries import Selection
from poller.core.errors import ConfigError
from poller.core.protocols import Clock, StateReader, Store
from poller.core.text import redacted_url
from poller.store.sqlite import lock
from poller.store.sqlite.connection import MEMORY
from poller.store.sqlite.file_reader import FileReader
from poller.store.sqlite.open import open_sqlite

SQLITE = "sqlite:///"
POSTGRES = ("postgresql://", "postgres://")


async def open_store(url: str, *, clock: Clock, linger_s: float = 0.05, replica: str | None = None) -> Store:
    """Open the state at `url` as its one owner, or beside others as the replica of this name, creating it as needed.

    `linger_s` is how long a write waits for others to share its commit. Raises `ConfigError` (the URL, a driver that
    is not installed, a fleet on SQLite), `StoreLocked` (another process owns it), `StoreUnusable` (out of reach,
    read-only, damaged, foreign, or of a newer version). A replica writes nothing before `fleet.join`.
    """
    if url.startswith(POSTGRES):
        with _driver_required():
            from poller.store.postgres import open_member, open_postgres
        if replica is not None:
            return await open_member(url, clock=clock, linger_s=linger_s, replica=replica)
        return await open_postgres(url, clock=clock, linger_s=linger_s)
    if replica is not None:
        raise ConfigError(
            f"a fleet needs a state in PostgreSQL: {redacted_url(url)} is a file of one process. Use "
            "--state postgresql://user@host/database, or fleet = false."
        )
    return await open_sqlite(_database_path(url), clock=clock, linger_s=linger_s)


async def read_store(url: str) -> StateReader:
    """Open the state at `url` for reading only, also while its owner runs. Changes and creates nothing.

    Raises `ConfigError` (the URL), `StoreUnusable` (there is none, or it cannot be read).
    """
    if url.startswith(POSTGRES):
        with _driver_required():
            from poller.store.postgres import read_postgres
        return await read_postgres(url)
    path = _database_path(url)
    if path is None:
        raise ConfigError(f"{url} is in the memory of its process: no other process can read it.")
    return FileReader(path)


def is_new(url: str) -> bool:
    """Whether a run would create the state at `url` as a new file. Raises `ConfigError` (the URL)."""
    path = None if url.startswith(POSTGRES) else _database_path(url)
    return path is not None and not os.path.exists(path)  # noqa: PTH110 - never raises


def last_beat(url: str, replica: str | None = None) -> tuple[int, float] | None:
    """Return the process that owns the state, or is this replica, and its last heartbeat (an instant); None where no
    living one does."""
    if url.startswith(POSTGRES):
        with _driver_required():
            from poller.store import postgres
        return postgres.last_beat(url, replica)
    path = _database_path(url)
    return None if path is None else lock.last_beat(path)


async def ask_to_reload(url: str) -> None:
    """Ask all replicas of a fleet to reload. Raises `ConfigError` (not in PostgreSQL), `StoreUnusable`."""
    if not url.startswith(POSTGRES):
        raise ConfigError(f"{redacted_url(url)} is in no fleet: leave out --all.")
    with _driver_required():
        from poller.store import postgres
    await postgres.ask_to_reload(url)


async def replay_beside(url: str, sink: str, selection: Selection) -> int:
    """Put the selected records back into the outbox of a sink of the fleet at work on this state; return how many.
    Raises `ConfigError`, `StoreLocked`, `StoreUnusable`."""
    with _driver_required():
        from poller.store import postgres
    return await postgres.replay(url, sink, selection)


async def move_sink(url: str, name: str, home: str) -> str:
    """Make the replica `home` the one that delivers a sink of a fleet, whose file a person has moved there; return the
    one before. Raises `ConfigError` (not in PostgreSQL, no such sink, one without a home), `StoreUnusable`."""
    if not url.startswith(POSTGRES):
        raise ConfigError(f"{redacted_url(url)} is in no fleet: its sinks have no home to move.")
    with _driver_required():
        from poller.store import postgres
    return await postgres.move_sink(url, name, home)


@contextmanager
def _driver_required() -> Iterator[None]:
    try:
        yield
    except ImportError as error:
        raise ConfigError(
            f"a state in PostgreSQL needs the extra `postgres`: pip install 'hubspot-import-poller[postgres]' ({error})"
        ) from None


def _database_path(url: str) -> Path | None:
    """Return the file that `url` names, behind a link that of SQLite's own log; None for a state in memory."""
    name = url.removeprefix(SQLITE)
    if name == url or not name or "\0" in name:
        raise ConfigError(
            f"the state {redacted_url(url)!r} is not one this poller knows. Use sqlite:///poller.db (in the working "
            "folder), sqlite:////var/lib/poller/poller.db (absolute), sqlite:///:memory: (gone at the end) or "
            "postgresql://user@host/database."
        )
    if name == MEMORY:
        return None
    return Path(os.path.realpath(name) if os.path.islink(name) else name)  # noqa: PTH114 - never raises
