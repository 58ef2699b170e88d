"""A drop folder: each file put into it is read whole once it is at rest, and then moved beside it: to `done`, or where
no line of it was usable to `failed`. Where some lines were rejected, its new name contains how many. Where the system
does not show whether a file is open for writing, it must rest for longer, and is moved back where it grows afterwards.

After a crash between storing and moving, the next run recognizes the file and only moves it.
"""

import asyncio
import errno
import fcntl
import os
import re
import signal
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import structlog

from poller.core.errors import InputError, UnreadableInput
from poller.core.protocols import Clock
from poller.core.steady_clock import file_clock_of
from poller.sources.counts import FaultLog
from poller.sources.files.followed_file import POLL_S
from poller.sources.files.moved_files import MovedFiles, move_back, move_into
from poller.sources.files.open_file import open_file, source_name, stat_of
from poller.sources.files.read import feed
from poller.sources.files.rotated_files import COMPRESSED
from poller.sources.intake import ChunkWriter
from poller.sources.options import ReadOptions

log = structlog.get_logger("poller")

DONE, FAILED = "done", "failed"
RETRY_MOVE_S = 60.0  # after a move that failed
RETRY_READ_S = 10.0  # after an error of the system, which may pass
LONGER_RESTS, LONGEST_REST_S = 15, 60.0  # times `settle_s`, where it is unknown whether a file is open for writing
WATCH_EVERY_S = 10.0  # files that were moved nevertheless
PATIENCE_S = 60.0  # with a file that cannot be read, in a run that has an end

_TEMPORARY = re.compile(  # `~$x`: Excel's, beside an open x
    r"\..*|~\$.*|.*~|.*\.(?:tmp|temp|part|partial|filepart|crdownload|swp)", re.IGNORECASE | re.DOTALL
)


@dataclass(slots=True)
class _SeenFile:
    """A file in the folder."""

    signature: tuple[int, int, int]  # inode, size, time of change
    since: float  # loop time at which it was first seen so
    may_be_open: bool = False  # it is unknown whether it is open for writing
    move_to: str | None = None  # it is only to be moved: every line is stored, or it cannot be read
    rejected: int = 0  # lines, of a file to be moved to `done`
    retry_move_at: float = 0.0  # after a move that failed
    retry_read_at: float = 0.0  # after an error that may pass
    unreadable_since: float | None = None
    given_up: UnreadableInput | None = None  # it could not be read for `PATIENCE_S`
    reported: str = ""  # why it is waited for


class DropFolder:
    """Reads and moves what is in one drop folder."""

    def __init__(
        self,
        folder: str,
        writer: ChunkWriter,
        options: ReadOptions,
        *,
        settle_s: float,
        clock: Clock,
        moved: MovedFiles,
    ) -> None:
        self._folder = Path(folder)
        self._writer = writer
        self._options = options
        self._settle_s = settle_s
        self._file_clock = file_clock_of(clock)
        self._seen: dict[str, _SeenFile] = {}
        self._started: set[int] = set()  # inodes of files that this run began to read
        self._name = source_name(folder)
        self._faults = FaultLog(self._name)
        self._longer_s = max(settle_s, min(LONGER_RESTS * settle_s, LONGEST_REST_S))
        self._has_reported_longer = False
        self._moved = moved
        self._watch_at = 0.0

    async def run(self, *, follow: bool) -> None:
        """Read and move every file; `follow`: then wait for more. Without, raises `UnreadableInput` for a folder that
        cannot be read, and for a file that could not be for `PATIENCE_S`: all others are read by then."""
        while True:
            try:
                self._move_grown_back()
                unread = await self._read_rested()
                given_up = [seen.given_up for seen in unread if seen.given_up is not None]
                if not follow and len(given_up) == len(unread):
                    for fault in given_up:
                        raise fault
                    return
            except InputError as fault:
                if not follow:
                    raise
                self._faults.warn(str(fault))
            await asyncio.sleep(POLL_S)

    async def _read_rested(self) -> list[_SeenFile]:
        """Read and move every file that is at rest, oldest first; return the others."""
        unread = []
        for name, facts in sorted(self._files(), key=lambda file: (file[1].st_mtime_ns, file[0])):
            seen = self._observe(name, facts)
            if seen.move_to is not None:
                unread += [] if self._move(name, seen.move_to, seen) else [seen]
                continue
            try:
                is_read = self._is_at_rest(name, facts, seen) and await self._read_and_move(name, seen)
            except UnreadableInput as fault:
                is_read = False
                self._wait_with(seen, fault)
            unread += [] if is_read else [seen]
        return unread

    def _wait_with(self, seen: _SeenFile, fault: UnreadableInput) -> None:
        """Try a file again later, and note where it could not be read for long."""
        now = asyncio.get_running_loop().time()
        seen.retry_read_at = now + RETRY_READ_S
        if seen.unreadable_since is None:
            seen.unreadable_since = now
        self._report(seen, str(fault))
        seen.given_up = fault if now - seen.unreadable_since >= PATIENCE_S else None

    def _report(self, seen: _SeenFile, reason: str) -> None:
        """Log why a file is waited for, each reason once."""
        if reason != seen.reported:
            log.warning("source.waited_for", source=self._name, reason=reason)
            seen.reported = reason

    def _files(self) -> list[tuple[str, os.stat_result]]:
        found = []
        try:
            with os.scandir(self._folder) as entries:
                for entry in entries:
                    with suppress(FileNotFoundError):
                        is_link = entry.is_symlink() and not os.path.isdir(entry)  # noqa: PTH112 - never raises
                        if (is_link or entry.is_file(follow_symlinks=False)) and not _TEMPORARY.fullmatch(entry.name):
                            found.append((entry.name, entry.stat(follow_symlinks=False)))
        except OSError as error:
            raise UnreadableInput(f"cannot read the folder {self._folder}: {error.strerror}") from None
        names = {name for name, _ in found}
        self._seen = {name: seen for name, seen in self._seen.items() if name in names}
        return found

    def _observe(self, name: str, facts: os.stat_result) -> _SeenFile:
        seen = self._seen.get(name)
        if seen is None or seen.signature != _signature(facts):
            seen = self._seen[name] = _SeenFile(_signature(facts), asyncio.get_running_loop().time())
        return seen

    def _is_at_rest(self, name: str, facts: os.stat_result, seen: _SeenFile) -> bool:
        """Whether the file is whole: unchanged for `settle_s` (also when it was renamed into the folder at that age),
        and not open for writing as far as can be known."""
        if asyncio.get_running_loop().time() < seen.retry_read_at or not self._has_rested(facts, seen, self._settle_s):
            return False
        is_being_written = _is_being_written(self._folder / name)
        if is_being_written is None:
            return self._has_rested_longer(name, facts, seen)
        if is_being_written:
            self._report(seen, f"{name} is still open for writing")
        return not is_being_written

    def _has_rested(self, facts: os.stat_result, seen: _SeenFile, for_s: float) -> bool:
        rested_s = asyncio.get_running_loop().time() - seen.since
        return rested_s >= for_s or (rested_s > 0 and self._file_clock() - facts.st_mtime >= for_s)

    def _has_rested_longer(self, name: str, facts: os.stat_result, seen: _SeenFile) -> bool:
        if not self._has_reported_longer:
            self._has_reported_longer = True
            reason = (
                f"it is unknown whether {name} is open for writing, for that is shown to its owner only: such files "
                f"must be unchanged for {self._longer_s:g} s. Write them under a name such as .part, and rename them"
            )
            log.warning("source.waited_for", source=self._name, reason=reason)
        seen.may_be_open = True
        return self._has_rested(facts, seen, self._longer_s)

    def _move_grown_back(self) -> None:
        """Move files that were written to after they had been moved back into the folder, to read them on."""
        now = asyncio.get_running_loop().time()
        if now < self._watch_at:
            return
        self._watch_at = now + WATCH_EVERY_S
        for file in self._moved.grown():
            try:
                is_back = move_back(file.path, self._folder / file.name)
            except OSError as error:
                self._faults.warn(f"{file.path} has grown after it was moved: {error.strerror}")
            else:
                if is_back:
                    log.warning("source.file_moved_back", source=source_name(str(file.path)), to=file.name)
                    self._started.add(file.inode)
                    self._moved.forget(file)

    async def _read_and_move(self, name: str, seen: _SeenFile) -> bool:
        """Read the file and move it; False where it was still growing. Raises `UnreadableInput`."""
        path = self._folder / name
        try:
            rejected = await self._read(path, seen)
            if rejected is None:
                return False
        except InputError as fault:
            if stat_of(str(path), follow_symlinks=False) is None:
                return True
            if isinstance(fault, UnreadableInput):
                raise
            log.warning("source.file_failed", source=source_name(str(path)), reason=str(fault))
            await self._writer.on_refused(f"{self._name} {seen.signature}")
            seen.move_to = FAILED
        else:
            seen.move_to, seen.rejected = DONE, rejected
        self._faults.clear()
        return self._move(name, seen.move_to, seen)

    async def _read(self, path: Path, seen: _SeenFile) -> int | None:
        """Store every line there is; return how many were rejected, None where the file grew meanwhile.

        Raises `InputError` where no line is usable.
        """
        name, inode = source_name(str(path)), seen.signature[0]
        is_new = inode not in self._started
        self._started.add(inode)
        if path.name.endswith(COMPRESSED):
            raise InputError(f"cannot read the input: {path} is compressed: unpack it first")
        counts = await feed(str(path), self._writer, self._options, whole=is_new, links=False)
        known = await self._writer.open_source(name)
        with open_file(str(path), links=False) as file:
            if known is None or file.size != known[1].offset or not file.holds(known[1]):
                return None
        usable, rejected = counts.usable, counts.rejected
        if usable + counts.rejected < known[1].line:  # an earlier run read a part of it, or there are blank lines
            sums = await self._writer.source(name)
            usable, rejected = (0, 0) if sums is None else (sums.tasks + sums.duplicates, sums.rejected)
        if rejected and not usable:
            first = f", {counts.first_reason}" if counts.first_reason else ""
            raise InputError(f"cannot read the input: no line of {path} is usable{first}")
        return rejected

    def _move(self, name: str, into: str, seen: _SeenFile) -> bool:
        """Move the file; False where another has taken its place, or it has grown: that is still to be read. A failure
        is logged, and the move retried after `RETRY_MOVE_S`."""
        now = asyncio.get_running_loop().time()
        if now < seen.retry_move_at:
            return True
        path = self._folder / name
        facts = stat_of(str(path), follow_symlinks=False)
        if facts is not None and _signature(facts) != seen.signature:
            return False
        try:
            moved = move_into(path, self._folder / into, mark=f".{seen.rejected}-rejected" if seen.rejected else "")
        except OSError as error:
            seen.retry_move_at = now + RETRY_MOVE_S
            log.warning("source.file_not_moved", source=source_name(str(path)), to=into, reason=error.strerror)
        else:
            self._started.discard(seen.signature[0])
            if seen.may_be_open:
                self._moved.watch(name, moved, seen.signature[0], seen.signature[1])
            report = log.warning if seen.rejected else log.info
            report(
                "source.file_moved",
                source=source_name(str(path)),
                to=source_name(str(moved)),
                rejected=seen.rejected,
            )
        return True


def _signature(facts: os.stat_result) -> tuple[int, int, int]:
    """Return what shows that a file is the same one, and unchanged."""
    return facts.st_ino, facts.st_size, facts.st_mtime_ns


def _is_being_written(path: Path) -> bool | None:
    """Whether some process has the file open for writing. Linux refuses a read lease then; None where there are no
    leases, and for a file of another user unless the process has `CAP_LEASE`.

    A process that opens the file during the lease makes the kernel send SIGURG, which is ignored by default.
    """
    if not hasattr(fcntl, "F_SETLEASE"):
        return None
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:
        return False
    try:
        fcntl.fcntl(fd, fcntl.F_SETSIG, signal.SIGURG)
        fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_RDLCK)
        fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    except OSError as error:
        return True if error.errno == errno.EAGAIN else None
    finally:
        os.close(fd)
    return False
