"""Where tasks, outcomes and undelivered records live. A URL says which kind of store: `sqlite:///poller.db`."""

from pathlib import Path

from poller.errors import ConfigError
from poller.protocols import Clock
from poller.store import lock
from poller.store.reading import StateReader
from poller.store.schema import open_reading, open_writing
from poller.store.sqlite import SqliteStore

__all__ = ["SqliteStore", "StateReader", "last_beat", "open_store", "read_store"]

SQLITE = "sqlite:///"
MEMORY = ":memory:"


async def open_store(url: str, *, clock: Clock, linger_s: float = 0.02) -> SqliteStore:
    """Open the state at `url` as its one owner, creating it as needed.

    `linger_s` is how long a write waits for others to share its commit. Raises `ConfigError` (the URL), `StoreLocked`
    (another process owns it), `StoreUnusable` (read-only, damaged, foreign, or of a newer version).
    """
    path = _database_path(url)
    if path is None:
        return SqliteStore(open_writing(None), place=MEMORY, lock=None, clock=clock, linger_s=linger_s)
    held = await lock.take_lock(path, now=clock())
    try:
        connection = open_writing(path)
    except BaseException:
        held.release()
        raise
    return SqliteStore(connection, place=str(path), lock=held, clock=clock, linger_s=linger_s)


async def read_store(url: str) -> StateReader:
    """Open the state at `url` for reading only, also while its owner runs. Changes and creates nothing.

    Raises `ConfigError` (the URL), `StoreUnusable` (there is none, or it cannot be read).
    """
    path = _database_path(url)
    if path is None:
        raise ConfigError(f"{url} lives in the memory of its process: nobody else can read it.")
    return StateReader(open_reading(path), str(path))


def last_beat(url: str) -> tuple[int, float] | None:
    """Return the process that owns the state and its last sign of life (an instant); None where none is alive."""
    path = _database_path(url)
    return None if path is None else lock.last_beat(path)


def _database_path(url: str) -> Path | None:
    """Return the file that `url` names, None for the state in memory."""
    name = url.removeprefix(SQLITE)
    if name == url or not name or "\0" in name:
        raise ConfigError(
            f"the state {_without_secret(url)!r} is not one this poller knows. Use sqlite:///poller.db (in the working "
            "folder), sqlite:////var/lib/poller/poller.db (absolute) or sqlite:///:memory: (gone at the end)."
        )
    return None if name == MEMORY else Path(name)


def _without_secret(url: str) -> str:
    """Return `url` with neither password nor query: it may name a server."""
    scheme, separator, rest = url.partition("://")
    return scheme + separator + rest.rpartition("@")[2].partition("?")[0]
