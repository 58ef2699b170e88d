"""Errors of a disk that pass: nothing was stored, and the same write may succeed later."""

import errno
import sqlite3

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
