"""What SQLite's and the file system's errors mean: which pass by themselves, and what to do about the rest."""

import errno
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from poller.core.errors import StoreError, StoreUnusable

FAILED_FSYNC = {sqlite3.SQLITE_IOERR_FSYNC, sqlite3.SQLITE_IOERR_DIR_FSYNC}
DAMAGE = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}  # primary codes
# A full or read-only disk, or another program holding the file: nothing was stored, and trying again is right.
PASSING = {sqlite3.SQLITE_FULL, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_BUSY, sqlite3.SQLITE_CANTOPEN}  # primary codes
PASSING_IO = {
    sqlite3.SQLITE_IOERR_WRITE,
    sqlite3.SQLITE_IOERR_TRUNCATE,
    sqlite3.SQLITE_IOERR_SHMOPEN,
    sqlite3.SQLITE_IOERR_SHMSIZE,
    sqlite3.SQLITE_IOERR_SHMMAP,
}


def may_pass(error: sqlite3.Error) -> bool:
    """Tell whether the same write may work later. After a failed fsync it only seems to: the kernel forgot the data."""
    code = _code(error)
    if code == sqlite3.SQLITE_READONLY_DBMOVED:
        return False
    return code in PASSING_IO or (code & 0xFF) in PASSING


def store_error(error: sqlite3.Error, place: str) -> StoreError:
    """Return `error` as words for a person."""
    code = _code(error)
    if code in FAILED_FSYNC:
        return StoreError(
            f"the disk could not store {place} (fsync failed). Look for disk errors in the kernel's log; "
            "starting again goes on from what is safely stored."
        )
    if code == sqlite3.SQLITE_READONLY_DBMOVED:
        return StoreError(f"{place} was moved or deleted while it was in use. Put it back and start again.")
    if (code & 0xFF) == sqlite3.SQLITE_NOTADB:
        return StoreUnusable(f"{place} is not a poller state (not an SQLite database). Name another file: --state.")
    if (code & 0xFF) in DAMAGE:
        return damaged(place, str(error))
    name = getattr(error, "sqlite_errorname", type(error).__name__)
    return StoreError(f"{place} cannot be used any more: {error} ({name}). Starting again goes on from what is stored.")


def damaged(place: str, finding: str) -> StoreUnusable:
    return StoreUnusable(
        f"{place} is damaged ({finding}). Restore a backup, or rescue what can be read with "
        f"`sqlite3 {place} .recover`; moving it away begins anew, and every id must then be fed again."
    )


def opening_error(error: sqlite3.Error, place: str) -> StoreError:
    """Return `error` as words for a person who has just started: what a run at work would wait for ends this one."""
    if (_code(error) & 0xFF) in {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}:
        return StoreUnusable(f"{place} is held by another program ({error}). Let that one end, or use --state.")
    if may_pass(error):
        return StoreUnusable(
            f"cannot write the state {place}: {error}. There must be room on its disk, and file and folder must "
            "be writable for this user (in a container: mount a volume there); or choose another place: --state."
        )
    return store_error(error, place)


@contextmanager
def translated(place: str, tell: Callable[[sqlite3.Error, str], StoreError] = store_error) -> Iterator[None]:
    """Raise SQLite's errors as `StoreError`."""
    try:
        yield
    except sqlite3.Error as error:
        raise tell(error, place) from error


def unusable_path(path: Path, error: OSError) -> StoreUnusable:
    """Return why the state at `path` cannot be opened, and the remedy."""
    if error.errno in (errno.ENOENT, errno.ENOTDIR):
        return StoreUnusable(f"cannot open the state {path}: {path.parent} is not a folder. Create it, or use --state.")
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return StoreUnusable(
            f"cannot write the state {path}: {error.strerror}. The file and its folder must be writable for this user "
            "(in a container: mount a volume there), or choose another place: --state."
        )
    if error.errno == errno.EISDIR:
        return StoreUnusable(f"cannot open the state {path}: it is a folder. Name a file in it: --state.")
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return StoreUnusable(
            f"cannot write the state {path}: {error.strerror}. Make room there, or choose another place: --state."
        )
    return StoreUnusable(
        f"cannot open the state {path}: {error.strerror}. Mend that, or choose another place: --state."
    )


def _code(error: sqlite3.Error) -> int:
    return int(getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR))
