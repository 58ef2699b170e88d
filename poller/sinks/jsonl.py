"""Finished tasks as lines of a file, each exactly once, whatever dies when.

The position is the length of the file up to which every record is on disk. Everything behind it is written again, with
the same bytes at the same place, so that even a reader that follows the file sees nothing change. Lines that others
left there are moved to a file of their own, never dropped.
"""

import errno
import fcntl
import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import structlog

from poller.errors import SinkError
from poller.model import Delivery, Retry, Written

log = structlog.get_logger()

MODE = 0o600  # records name people's files
COPY_BYTES = 1 << 20
FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS}
FIRST_WAIT_S, LONGEST_WAIT_S = 1.0, 30.0


class JsonlSink:
    """Appends records to one regular file, which belongs to this process alone while it is open."""

    def __init__(self, path: Path) -> None:
        self.name = f"jsonl:{path}"
        self._path = path
        self._fd = -1
        self._offset = 0  # everything before it is on disk
        self._kept = 0  # what stands between `_offset` and here is known to be the beginning of what comes next
        self._failures = 0  # writes in a row that found no room

    async def open(self, position: bytes | None, following: Sequence[Delivery]) -> bytes | None:
        self._offset = int(position) if position is not None else 0
        with self._errors_for_people():
            self._fd = self._open_file(may_create=self._offset == 0)
            if position is None:
                self._refuse_data(self._fd)
            else:
                self._refuse_other_file()
            self._kept = self._settle_tail(self._offset, _lines(following))
        return b"%d" % self._offset

    async def write(self, batch: Sequence[Delivery]) -> Written | Retry:
        lines = _lines(batch)
        with self._errors_for_people():
            try:
                self._follow_path()
                self._settle_tail(max(self._offset, self._kept), b"")
                _write_at(self._fd, lines, self._offset)
            except OSError as error:
                if error.errno not in FULL:
                    raise
                return self._make_retry(error)
            _sync(self._fd, self._path)
        self._failures = 0
        self._offset += len(lines)
        return Written(position=b"%d" % self._offset)

    async def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)  # ends the lock, too
            self._fd = -1

    def _make_retry(self, error: OSError) -> Retry:
        with suppress(OSError):  # readers need not see half a line for as long as the disk is full
            os.ftruncate(self._fd, max(self._offset, self._kept))
        wait_s = min(FIRST_WAIT_S * 2.0 ** min(self._failures, 16), LONGEST_WAIT_S)
        self._failures += 1
        return Retry(reason=f"{self._path}: {error.strerror}", wait_s=wait_s)

    # --- the file as it is found

    def _open_file(self, *, may_create: bool) -> int:
        self._refuse_non_file()
        try:
            fd = os.open(self._path, os.O_RDWR | (os.O_CREAT if may_create else 0), MODE)
        except FileNotFoundError:
            raise self._make_missing_error() from None
        try:
            _lock(fd, self._path)
            _sync_folder(self._path.parent)
        except BaseException:
            os.close(fd)
            raise
        return fd

    def _make_missing_error(self) -> SinkError:
        if not self._path.parent.is_dir():
            return SinkError(f"{self._path}: its folder does not exist; create it, or choose another path")
        return SinkError(
            f"{self._path} is missing, but {self._offset:,} bytes were written to it; "
            "restore it, or choose a new file name to get every record once more"
        )

    def _refuse_non_file(self) -> None:
        if self._path.exists() and not stat.S_ISREG(self._path.stat().st_mode):
            raise SinkError(
                f"{self._path} is not a regular file; name a file, or use --sink stdout for pipes and devices"
            )

    def _refuse_data(self, fd: int) -> None:
        if size := os.fstat(fd).st_size:
            raise SinkError(
                f"{self._path} already holds {size:,} bytes that this state does not know; "
                "choose another path, or move it away"
            )

    def _refuse_other_file(self) -> None:
        size = os.fstat(self._fd).st_size
        if size < self._offset:
            found = f"holds {size:,} bytes, but {self._offset:,} were written to it"
        elif self._offset and os.pread(self._fd, 1, self._offset - 1) != b"\n":
            found = f"was changed: no line ends at byte {self._offset:,}, where the last one was written"
        else:
            return
        raise SinkError(
            f"{self._path} {found}; restore it, "
            "or move it away and choose a new file name to get every record once more"
        )

    def _follow_path(self) -> None:
        """Go on in a new file where the old one was moved, deleted or emptied meanwhile."""
        if not self._is_at_path():
            new_fd = self._open_file(may_create=True)
            try:
                self._refuse_data(new_fd)
                if self._kept > self._offset:
                    os.ftruncate(self._fd, self._offset)  # what is not acknowledged goes to the new file
            except BaseException:
                os.close(new_fd)
                raise
            os.close(self._fd)
            self._fd = new_fd
            self._begin_anew("sink.file_moved")
        elif (size := os.fstat(self._fd).st_size) == 0 < self._offset:
            self._begin_anew("sink.file_emptied")
        elif size < self._offset:
            self._refuse_other_file()

    def _is_at_path(self) -> bool:
        try:
            there = self._path.stat()
        except FileNotFoundError:
            return False
        return os.path.samestat(there, os.fstat(self._fd))

    def _begin_anew(self, event: str) -> None:
        log.warning(event, sink=self.name, position=self._offset)
        self._offset = self._kept = 0

    # --- what stands behind the position

    def _settle_tail(self, start: int, expected: bytes) -> int:
        """Leave behind `start` nothing but a beginning of `expected`, and return its end. Foreign lines are kept in a
        file of their own; a piece of a line is cut off."""
        size = os.fstat(self._fd).st_size
        tail = os.pread(self._fd, len(expected), start)
        ours = _common_length(tail, expected)
        if size <= start + ours:
            return size
        cut_at = start + expected.rfind(b"\n", 0, ours) + 1
        whole_tail_read = start + len(tail) == size
        if not (whole_tail_read and _is_torn(tail, expected)) and _has_line(self._fd, cut_at, size):
            self._set_aside(cut_at, size)
        os.ftruncate(self._fd, cut_at)
        _sync(self._fd, self._path)
        return cut_at

    def _set_aside(self, start: int, end: int) -> None:
        """Copy foreign lines to a new file beside this one, on disk before they are cut off here."""
        aside = _free_name(self._path.with_name(f"{self._path.name}.foreign-{start}"))
        copy_fd = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, MODE)
        try:
            for at, piece in _read_pieces(self._fd, start, end):
                _write_at(copy_fd, piece, at - start)
            _sync(copy_fd, aside)
        except OSError:
            aside.unlink()  # half a copy helps nobody: the lines are still where they were
            raise
        finally:
            os.close(copy_fd)
        _sync_folder(aside.parent)
        log.warning("sink.foreign_tail", sink=self.name, position=start, size=end - start, kept_in=str(aside))

    @contextmanager
    def _errors_for_people(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise SinkError(f"{self._path} cannot be used: {error.strerror}; mend that, then run again") from None


def _lines(batch: Sequence[Delivery]) -> bytes:
    return b"".join(delivery.body + b"\n" for delivery in batch)


def _write_at(fd: int, data: bytes, offset: int) -> None:
    left = memoryview(data)
    while left:
        written = os.pwrite(fd, left, offset)
        left, offset = left[written:], offset + written


def _sync(fd: int, path: Path) -> None:
    """A failed sync may have dropped the data for good while a second one reports success: never try again."""
    try:
        os.fdatasync(fd)
    except OSError as error:
        raise SinkError(
            f"{path}: the disk failed to store what was written ({error.strerror}); check the disk, then run again"
        ) from None


def _sync_folder(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _lock(fd: int, path: Path) -> None:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise SinkError(f"{path} is being written by {_find_owner(fd)}; stop it, or choose another path") from None


def _find_owner(fd: int) -> str:
    """Return a name for who holds the lock, from Linux's table of locks."""
    inode = os.fstat(fd).st_ino
    with suppress(OSError):
        for entry in Path("/proc/locks").read_text().splitlines():
            words = entry.split()
            if "FLOCK" in words and words[5].endswith(f":{inode}") and int(words[4]) > 0:
                return f"process {words[4]}"
    return "another process"


def _common_length(tail: bytes, expected: bytes) -> int:
    if expected.startswith(tail):
        return len(tail)
    return next(
        (at for at, (found, due) in enumerate(zip(tail, expected, strict=False)) if found != due), len(expected)
    )


def _is_torn(tail: bytes, expected: bytes) -> bool:
    """Say whether `tail` is our own write with holes: after a power cut, blocks that never arrived read as zeros."""
    return all(found in (due, 0) for found, due in zip(tail, expected, strict=False))


def _read_pieces(fd: int, start: int, end: int) -> Iterator[tuple[int, bytes]]:
    at = start
    while at < end and (piece := os.pread(fd, min(COPY_BYTES, end - at), at)):
        yield at, piece
        at += len(piece)


def _has_line(fd: int, start: int, end: int) -> bool:
    return any(b"\n" in piece for _, piece in _read_pieces(fd, start, end))


def _free_name(wanted: Path) -> Path:
    name, number = wanted, 2
    while name.exists():
        name, number = wanted.with_name(f"{wanted.name}.{number}"), number + 1
    return name
