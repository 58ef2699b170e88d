"""Facts about disks: errors that pass, after which the same write may succeed, and whether a file is still there."""

import errno
import os
import sqlite3
from pathlib import Path

FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS})  # no room: disk, quota, file size, read-only
PASSING_IO = frozenset(  # SQLite's extended codes; never a failed fsync, after which the kernel has forgotten the data
    {
        sqlite3.SQLITE_IOERR_WRITE,
        sqlite3.SQLITE_IOERR_TRUNCATE,
        sqlite3.SQLITE_IOERR_SHMOPEN,
        sqlite3.SQLITE_IOERR_SHMSIZE,
        sqlite3.SQLITE_IOERR_SHMMAP,
    }
)


def is_at_path(path: Path, facts: os.stat_result | None) -> bool:
    """Return whether the path leads to this file: it may have been moved, deleted or replaced."""
    try:
        return facts is not None and os.path.samestat(path.stat(), facts)
    except FileNotFoundError:
        return False
