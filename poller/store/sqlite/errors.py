"""What SQLite's and the file system's errors mean: which pass by themselves, and what to do about the rest."""

import errno
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from poller.core.disk import FULL, PASSING_IO
from poller.core.errors import StoreError, StoreUnusable

FAILED_FSYNC = {sqlite3.SQLITE_IOERR_FSYNC, sqlite3.SQLITE_IOERR_DIR_FSYNC}
DAMAGE = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}  # primary codes
# A full or read-only disk, or another program holding the file: nothing was stored, and a retry is right.
PASSING = {sqlite3.SQLITE_FULL, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_BUSY, sqlite3.SQLITE_CANTOPEN}  # primary codes


def may_pass(error: sqlite3.Error) -> bool:
    """Return whether the same write may succeed later. After a failed fsync it only seems to: the kernel forgot the
    data."""
    code = _code(error)
    if code == sqlite3.SQLITE_READONLY_DBMOVED:
        return False
    return code in PASSING_IO or (code & 0xFF) in PASSING


def store_error(error: sqlite3.Error, path: str) -> StoreError:
    """Return why a state that was open cannot be used any more, and the remedy."""
    code = _code(error)
    if code in FAILED_FSYNC:
        return StoreError(
            f"the disk could not store {path} (fsync failed). Check the kernel's log for disk errors, then run again: "
            "nothing acknowledged is lost."
        )
    if code == sqlite3.SQLITE_READONLY_DBMOVED:
        return moved(path)
    if (code & 0xFF) == sqlite3.SQLITE_NOTADB:
        return StoreUnusable(f"{path} is not a poller state (not an SQLite database). Name another file: --state.")
    if (code & 0xFF) in DAMAGE:
        return damaged(path, str(error))
    name = getattr(error, "sqlite_errorname", type(error).__name__)
    return StoreError(
        f"{path} cannot be used any more: {error} ({name}). Start again: what was acknowledged is stored."
    )


def moved(path: str) -> StoreUnusable:
    return StoreUnusable(
        f"{path} was moved or deleted while it was in use. Put it back and start again; without it a new state begins, "
        "and every id must be fed once more."
    )


def damaged(path: str, damage: str) -> StoreUnusable:
    return StoreUnusable(
        f"{path} is damaged ({damage}). Restore a backup, or rescue what can be read with `sqlite3 {path} .recover`; "
        "without the file a new state begins, and every id must be fed once more."
    )


def opening_error(error: sqlite3.Error, path: str) -> StoreError:
    """Return why the state cannot be opened, and the remedy: at the start, what a run would wait for ends it."""
    if (_code(error) & 0xFF) in {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}:
        return StoreUnusable(f"{path} is held by another program ({error}). Stop that program, or use --state.")
    if may_pass(error):
        return StoreUnusable(
            f"cannot write the state {path}: {error}. There must be room on its disk, and file and folder must be "
            "writable for this user (in a container: mount a volume there); or choose another path: --state."
        )
    return store_error(error, path)


@contextmanager
def translated(path: str, translate: Callable[[sqlite3.Error, str], StoreError] = store_error) -> Iterator[None]:
    """Raise SQLite's errors as `StoreError`."""
    try:
        yield
    except sqlite3.Error as error:
        raise translate(error, path) from error


def unusable_path(path: Path, error: OSError) -> StoreUnusable:
    """Return why the state at `path` cannot be opened, and the remedy."""
    if error.errno in (errno.ENOENT, errno.ENOTDIR):
        return StoreUnusable(f"cannot open the state {path}: {path.parent} is not a folder. Create it, or use --state.")
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return StoreUnusable(
            f"cannot write the state {path}: {error.strerror}. The file and its folder must be writable for this user "
            "(in a container: mount a volume there), or choose another path: --state."
        )
    if error.errno == errno.EISDIR:
        return StoreUnusable(f"cannot open the state {path}: it is a folder. Name a file in it: --state.")
    if error.errno in FULL:
        return StoreUnusable(
            f"cannot write the state {path}: {error.strerror}. Make room there, or choose another path: --state."
        )
    return StoreUnusable(f"cannot open the state {path}: {error.strerror}. Fix that, or choose another path: --state.")


def _code(error: sqlite3.Error) -> int:
    return int(getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR))
