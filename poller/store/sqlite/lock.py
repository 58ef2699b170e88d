"""One process owns an SQLite state: a locked file beside it names the owner, and its age is the owner's heartbeat.

The lock is the kernel's (`flock`): it ends with the process, however that ends. The file itself stays.
"""

import asyncio
import contextlib
import fcntl
import os
from pathlib import Path

from poller.core.errors import StoreLocked, StoreUnusable
from poller.core.timestamps import iso
from poller.store.intervals import BEAT_EVERY_S
from poller.store.sqlite.errors import unusable_path

PROBE_TRIES = 4  # `last_beat` holds the lock for an instant: only a refusal that lasts counts
PROBE_GAP_S = 0.05


def lock_path(database: Path) -> Path:
    """Return the path of the lock of `database`."""
    return database.with_name(database.name + ".lock")


class ProcessLock:
    """A lock that is held. The file contains `pid started_at`; its modification time, by the machine's clock of that
    moment, is the last heartbeat: `now` is the run's clock, which keeps its pace when the machine's is set."""

    def __init__(self, descriptor: int, *, beaten_at: float) -> None:
        self._descriptor: int | None = descriptor
        self._beaten_at = beaten_at
        self._files: dict[Path, tuple[int, int]] = {}  # device and inode of each file of the state

    def beat(self, now: float) -> bool:
        """Note a heartbeat; at most one write every `BEAT_EVERY_S`. Return whether this was one."""
        if self._descriptor is None or 0 <= now - self._beaten_at < BEAT_EVERY_S:
            return False
        self._beaten_at = now
        with contextlib.suppress(OSError):  # commits report a disk that is read-only
            os.utime(self._descriptor)
        return True

    def watch(self, database: Path) -> None:
        """Remember the files of the open state, for `missing_file`."""
        files = (database, lock_path(database), database.with_name(database.name + "-wal"))
        self._files = {path: _identity(path) for path in files}

    def missing_file(self) -> Path | None:
        """Return a file that was moved, deleted or replaced: what is committed from then on cannot be found again, and
        another process would start with a new state."""
        for path, identity in self._files.items():
            try:
                if _identity(path) != identity:
                    return path
            except (FileNotFoundError, NotADirectoryError):
                return path
            except OSError:  # says nothing about the file
                continue
        return None

    def release(self) -> None:
        """Release the lock. A second call does nothing."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


async def take_lock(database: Path, *, now: float) -> ProcessLock:
    """Return the lock of `database`, held by this process. Raises `StoreLocked`, which names the holder."""
    path = lock_path(database)
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        raise unusable_path(database, error) from None
    try:
        await _lock_or_refuse(descriptor, database)
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()} {now:.3f}\n".encode(), 0)
        os.utime(descriptor)
    except BaseException as error:
        os.close(descriptor)
        if isinstance(error, OSError):
            raise unusable_path(database, error) from None
        raise
    return ProcessLock(descriptor, beaten_at=now)


async def _lock_or_refuse(descriptor: int, database: Path) -> None:
    for _ in range(PROBE_TRIES):
        if _locks(descriptor, fcntl.LOCK_EX):
            return
        await asyncio.sleep(PROBE_GAP_S)
    raise StoreLocked(
        f"{database} is in use by {_owner(descriptor)}. Stop it first, or give this run its own state: --state."
    )


def _identity(path: Path) -> tuple[int, int]:
    found = path.stat()
    return found.st_dev, found.st_ino


def last_beat(database: Path) -> tuple[int, float] | None:
    """Return the owner's process id and its last heartbeat (an instant); None where no living process does."""
    try:
        descriptor = os.open(lock_path(database), os.O_RDONLY)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise StoreUnusable(f"cannot read {lock_path(database)}: {error.strerror}.") from None
    try:
        words = os.pread(descriptor, 100, 0).split()
        if _locks(descriptor, fcntl.LOCK_SH) or not words:
            return None
        return int(words[0]), os.fstat(descriptor).st_mtime
    finally:
        os.close(descriptor)


def _locks(descriptor: int, how: int) -> bool:
    try:
        fcntl.flock(descriptor, how | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _owner(descriptor: int) -> str:
    words = os.pread(descriptor, 100, 0).decode("ascii", "replace").split()
    if len(words) != 2:
        return "another poller"
    return f"another poller: process {words[0]}, started {iso(float(words[1]))}"
