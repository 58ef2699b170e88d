"""Reads an SQLite state from its file, beside an owner that comes and goes."""

import errno
import os
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple, TypeVar, TypeVarTuple

from poller.core.errors import NoState, StoreError
from poller.store.sqlite.connection import connect
from poller.store.sqlite.errors import opening_error, translated, unusable_path
from poller.store.sqlite.reader import SqliteReader
from poller.store.sqlite.schema import VERSION, known_version
from poller.store.versions import refuse_older

T = TypeVar("T")
Values = TypeVarTuple("Values")


class FileReader(SqliteReader):
    """Reads a state, also while its owner runs, starts or ends. Changes and creates nothing."""

    def __init__(self, path: Path) -> None:
        """Raises `StoreUnusable` (there is none, or it cannot be read)."""
        self._file = path
        self._seen = _state_of(path)
        super().__init__(_connect_reading(path, at_rest=self._seen.log is None), str(path))

    def _read(self, read: Callable[[sqlite3.Connection, *Values], T], *values: *Values) -> T:
        while True:
            if (now := _state_of(self._file)) != self._seen:
                connection = _connect_reading(self._file, at_rest=now.log is None)
                self._connection.close()
                self._connection, self._seen = connection, now
            try:
                found = super()._read(read, *values)
            except StoreError:
                if _state_of(self._file) == self._seen:
                    raise
                continue
            if _state_of(self._file) == self._seen:
                return found


class _FileState(NamedTuple):
    """What shows that a state is another one, or that its owner started or ended."""

    state: int  # inode
    log: int | None  # inode of the write-ahead log; None: no process writes …
    changed: tuple[int, int] | None  # … and only then the size and instant of the last change


def _state_of(path: Path) -> _FileState:
    try:
        state = path.stat()
    except OSError:
        return _FileState(0, None, None)
    try:
        return _FileState(state.st_ino, path.with_name(path.name + "-wal").stat().st_ino, None)
    except OSError:
        return _FileState(state.st_ino, None, (state.st_size, state.st_mtime_ns))


def _connect_reading(path: Path, *, at_rest: bool) -> sqlite3.Connection:
    """Connect for reading. Without a write-ahead log no process writes; `immutable` then keeps SQLite from creating
    one, but such a connection sees no change."""
    if not os.path.isfile(path):  # noqa: PTH113 - never raises
        raise NoState(f"there is no state at {path}. Start a run first, or name the state of one: --state.")
    if not os.access(path, os.R_OK):
        raise unusable_path(path, PermissionError(errno.EACCES, os.strerror(errno.EACCES)))
    connection = connect(path, "ro&immutable=1" if at_rest else "ro")
    try:
        with translated(str(path), opening_error):
            refuse_older(known_version(connection, str(path)), VERSION, str(path))
    except BaseException:
        connection.close()
        raise
    return connection
