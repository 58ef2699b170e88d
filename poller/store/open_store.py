"""Where tasks, outcomes and undelivered records live. A URL says which kind of store: `sqlite:///poller.db`, or
`postgresql://user@host/database`, whose driver is imported only when it is asked for.
"""

from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Protocol

from poller.core.errors import ConfigError
from poller.core.model import AccountState, DeadLetter, Delivery, Rejection, Sums, TaskDetails
from poller.core.protocols import Clock, Store
from poller.core.text import redacted_url
from poller.store.sqlite import lock
from poller.store.sqlite.reader import SqliteReader
from poller.store.sqlite.schema import open_reading, open_writing
from poller.store.sqlite.store import SqliteStore

SQLITE = "sqlite:///"
MEMORY = ":memory:"
POSTGRES = ("postgresql://", "postgres://")


class StateReader(Protocol):
    """A state opened for reading only, also while its owner runs. Each answer is as of one instant."""

    async def sums(self) -> Sums:
        """Count everything from the rows themselves."""
        ...

    async def account(self, name: str) -> AccountState:
        """Return what is remembered of the account."""
        ...

    async def knowledge(self, name: str) -> bytes | None:
        """Return what `Store.save_knowledge` last noted under this name; None if nothing."""
        ...

    async def task_details(self, task_id: str) -> Sequence[TaskDetails]:
        """Return what is known of the tasks with this id, one for each account that has it, by account."""
        ...

    async def rejections(self) -> Sequence[tuple[str, Rejection]]:
        """Return every rejected line with its source's name, in input order."""
        ...

    async def records(self, after: int, limit: int) -> list[Delivery]:
        """Return kept finished records in the order in which they finished, beginning after number `after`."""
        ...

    async def dead_letters(self, sink: str | None = None) -> Sequence[DeadLetter]:
        """Return what the sink, or any sink, refused for good, oldest first."""
        ...

    async def close(self) -> None:
        """Let go of the state."""
        ...


async def open_store(url: str, *, clock: Clock, linger_s: float = 0.05) -> Store:
    """Open the state at `url` as its one owner, creating it as needed.

    `linger_s` is how long a write waits for others to share its commit. Raises `ConfigError` (the URL, a driver that
    is not installed), `StoreLocked` (another process owns it), `StoreUnusable` (out of reach, read-only, damaged,
    foreign, or of a newer version).
    """
    if url.startswith(POSTGRES):
        store: Store = await _postgres().open_postgres(url, clock=clock, linger_s=linger_s)
        return store
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
    if url.startswith(POSTGRES):
        reader: StateReader = await _postgres().read_postgres(url)
        return reader
    path = _database_path(url)
    if path is None:
        raise ConfigError(f"{url} lives in the memory of its process: nobody else can read it.")
    return SqliteReader(open_reading(path), str(path))


def last_beat(url: str) -> tuple[int, float] | None:
    """Return the process that owns the state and its last sign of life (an instant); None where none is alive."""
    if url.startswith(POSTGRES):
        beat: tuple[int, float] | None = _postgres().last_beat(url)
        return beat
    path = _database_path(url)
    return None if path is None else lock.last_beat(path)


def _postgres() -> ModuleType:
    try:
        from poller.store import postgres
    except ImportError as error:
        raise ConfigError(
            f"a state in PostgreSQL needs the extra `postgres`: pip install 'hubspot-import-poller[postgres]' ({error})"
        ) from None
    return postgres


def _database_path(url: str) -> Path | None:
    """Return the file that `url` names, None for the state in memory."""
    name = url.removeprefix(SQLITE)
    if name == url or not name or "\0" in name:
        raise ConfigError(
            f"the state {redacted_url(url)!r} is not one this poller knows. Use sqlite:///poller.db (in the working "
            "folder), sqlite:////var/lib/poller/poller.db (absolute), sqlite:///:memory: (gone at the end) or "
            "postgresql://user@host/database."
        )
    return None if name == MEMORY else Path(name)
