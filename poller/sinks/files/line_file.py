"""A locked file of lines, written at offsets, and the repair of what a crash or another program left in it.

Lines of others after our own are moved to a file of their own, never dropped; torn pieces of lines are cut off.
"""

import fcntl
import os
import stat
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Self

from poller.core.disk import is_at_path
from poller.core.errors import SinkError

MODE = 0o600  # records name people's files
COPY_BYTES = 1 << 20


class LineFile:
    """An open, locked, regular file. Methods raise `OSError` for errors of the file system, `SinkError` where a person
    must act."""

    def __init__(self, path: Path, fd: int) -> None:
        self.path = path
        self._fd = fd

    @classmethod
    def open(cls, path: Path, *, written: int, header: bytes = b"", spec: str = "") -> Self:
        """Open `path`, of which we wrote the first `written` bytes, `header` first; with none, it may be created.
        `spec` names the sink for people."""
        _refuse_non_file(path)
        try:
            fd = os.open(path, os.O_RDWR | (0 if written else os.O_CREAT), MODE)
        except FileNotFoundError:
            raise _missing(path, written, spec) from None
        file = cls(path, fd)
        try:
            _lock(fd, path)
            _sync_folder(path.parent)
            file.refuse_other(written)
            file._refuse_other_header(header[:written])
        except BaseException:
            file.close()
            raise
        return file

    @property
    def size(self) -> int:
        return os.fstat(self._fd).st_size

    def is_at_path(self) -> bool:
        """Return whether the path still leads here."""
        return is_at_path(self.path, os.fstat(self._fd))

    def refuse_other(self, written: int) -> None:
        """Raise `SinkError` where this cannot be the file of which we wrote `written` bytes."""
        size = self.size
        if size < written:
            found = f"holds {size:,} bytes, but {written:,} were written to it"
        elif written and os.pread(self._fd, 1, written - 1) != b"\n":
            found = f"was changed: no line ends at byte {written:,}, where the last one was written"
        else:
            return
        raise SinkError(
            f"{self.path} {found}; restore it, or move it away and choose a new file name to get every record again"
        )

    def _refuse_other_header(self, header: bytes) -> None:
        if os.pread(self._fd, len(header), 0) != header:
            raise SinkError(
                f"{self.path} begins with other columns than this version writes; "
                "choose a new file name to get every record again"
            )

    def write(self, lines: bytes, offset: int) -> None:
        left, at = memoryview(lines), offset
        while left:
            written = os.pwrite(self._fd, left, at)
            left, at = left[written:], at + written

    def cut(self, end: int) -> None:
        os.ftruncate(self._fd, end)

    def sync(self) -> None:
        """A failed sync may have lost the data while a second one reports success: never retry."""
        try:
            os.fdatasync(self._fd)
        except OSError as error:
            raise SinkError(
                f"{self.path}: the disk failed to store lines ({error.strerror}); check the disk, then run again"
            ) from None

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)  # ends the lock, too
            self._fd = -1

    def settle_tail(self, start: int, expected: bytes) -> tuple[int, Path | None]:
        """Leave nothing after `start` but a prefix of `expected`; return its end, and the file of foreign lines."""
        size = self.size
        tail = os.pread(self._fd, len(expected), start)
        ours = next((at for at, byte in enumerate(tail) if byte != expected[at]), len(tail))
        if size <= start + ours:
            return size, None
        cut_at = start + expected.rfind(b"\n", 0, ours) + 1
        whole_tail_read = start + len(tail) == size
        is_ours = whole_tail_read and _is_torn(tail, expected)
        aside = None if is_ours or not self._has_line(cut_at, size) else self._set_aside(cut_at, size)
        self.cut(cut_at)
        self.sync()
        return cut_at, aside

    def _set_aside(self, start: int, end: int) -> Path:
        """Copy foreign lines to a new file beside this one, on disk before they are cut off here."""
        aside = _free_name(self.path.with_name(f"{self.path.name}.foreign-{start}"))
        copy = LineFile(aside, os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, MODE))
        try:
            for at, piece in self._read_pieces(start, end):
                copy.write(piece, at - start)
            copy.sync()
        except OSError:
            aside.unlink()  # half a copy is useless: the lines are still in this file
            raise
        finally:
            copy.close()
        _sync_folder(aside.parent)
        return aside

    def _has_line(self, start: int, end: int) -> bool:
        return any(b"\n" in piece for _, piece in self._read_pieces(start, end))

    def _read_pieces(self, start: int, end: int) -> Iterator[tuple[int, bytes]]:
        at = start
        while at < end and (piece := os.pread(self._fd, min(COPY_BYTES, end - at), at)):
            yield at, piece
            at += len(piece)


def refuse_unusable(path: Path) -> None:
    """Raise `SinkError` where `path` is, or its folder has, no place for a file. Creates nothing."""
    _refuse_non_file(path)
    if not path.parent.is_dir():
        raise _missing(path, 0, "")


def _refuse_non_file(path: Path) -> None:
    if path.exists() and not stat.S_ISREG(path.stat().st_mode):
        raise SinkError(f"{path} is not a regular file; name a file, or use --sink stdout for pipes and devices")


def _missing(path: Path, written: int, spec: str) -> SinkError:
    if not path.parent.is_dir():
        return SinkError(f"{path}: its folder does not exist; create it, or choose another path")
    if not written:
        where = "is a link to a folder that does not exist" if path.is_symlink() else "cannot be created in its folder"
        return SinkError(f"{path}: {where}; choose another path")
    return SinkError(
        f"{path} is missing, but {written:,} bytes were written to it; restore it, or have all of it written again "
        f"(with the same --state): poller replay --sink {spec}"
    )


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
        holder = _lock_holder(fd)
        if holder == f"process {os.getpid()}":
            raise SinkError(f"{path} is the file of another sink of this run, too; choose another path") from None
        raise SinkError(f"{path} is being written by {holder}; stop it, or choose another path") from None


def _lock_holder(fd: int) -> str:
    """Return a name for the process that holds the lock, from Linux's table of locks."""
    inode = os.fstat(fd).st_ino
    with suppress(OSError):
        for entry in Path("/proc/locks").read_text().splitlines():
            words = entry.split()
            if "FLOCK" in words and words[5].endswith(f":{inode}") and int(words[4]) > 0:
                return f"process {words[4]}"
    return "another process"


def _is_torn(tail: bytes, expected: bytes) -> bool:
    """Return whether `tail` is our own write with holes: after a power cut, lost blocks read as zeros."""
    return all(found in (due, 0) for found, due in zip(tail, expected, strict=False))


def _free_name(wanted: Path) -> Path:
    name, number = wanted, 2
    while name.exists():
        name, number = wanted.with_name(f"{wanted.name}.{number}"), number + 1
    return name
