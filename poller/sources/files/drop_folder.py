"""A drop folder: each file put into it is read whole once it has come to rest, and then moved to `done` beside it.

Killed between storing and moving, the next run knows the file again and only moves it.
"""

import asyncio
import errno
import fcntl
import os
import re
import signal
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import structlog

from poller.core.errors import InputError
from poller.core.model import Added, Chunk
from poller.core.protocols import Clock, FeedStore
from poller.sources.files.followed_file import POLL_S
from poller.sources.files.open_file import opened, source_name
from poller.sources.files.read import feed
from poller.sources.files.rotation import COMPRESSED
from poller.sources.parsing.line import Feeding

log = structlog.get_logger()

DONE, FAILED = "done", "failed"
TELL_S = 60.0  # how often a fault that lasts is met again

_TEMPORARY = re.compile(r"\..*|.*~|.*\.(?:tmp|temp|part|partial|filepart|crdownload|swp)", re.IGNORECASE | re.DOTALL)

Signature = tuple[int, int, int]  # inode, size, time of change


@dataclass(slots=True)
class _SeenFile:
    """A file that lies in the folder."""

    signature: Signature
    since: float  # loop time at which it first polled so
    goes_to: str | None = None  # it has only to be moved: every line is stored, or it cannot be read
    quiet_until: float = 0.0  # after a move that failed


class DropFolder:
    """One drop folder. What `follow` says is whether to wait for more once it is empty."""

    def __init__(
        self,
        folder: str,
        intake: FeedStore,
        feeding: Feeding,
        *,
        follow: bool,
        settle_s: float,
        clock: Clock,
        on_chunk: Callable[[Chunk, Added], None],
    ) -> None:
        self._folder = Path(folder)
        self._name = source_name(folder)
        self._intake = intake
        self._feeding = feeding
        self._follow = follow
        self._settle_s = settle_s
        self._clock = clock
        self._on_chunk = on_chunk
        self._seen: dict[str, _SeenFile] = {}
        self._begun: set[int] = set()  # inodes of files whose reading this run began
        self._said: str | None = None

    async def run(self) -> None:
        """Read and move what comes. Raises `InputError` where the folder cannot be read and is not waited for."""
        while True:
            try:
                waiting = await self._go_round()
            except InputError as fault:
                if not self._follow:
                    raise
                self._say_once(str(fault))
                waiting = True
            if not waiting and not self._follow:
                return
            await asyncio.sleep(POLL_S)

    async def _go_round(self) -> bool:
        """Take every file that is at rest, oldest first; tell whether there are others."""
        waiting = False
        for name, facts in sorted(self._files(), key=lambda file: (file[1].st_mtime_ns, file[0])):
            seen = self._note(name, facts)
            if seen.goes_to is not None:
                self._put_away(name, seen.goes_to, seen)
                continue
            if not self._rests(name, facts, seen):
                waiting = True
                continue
            waiting |= not await self._take(name, seen)
        return waiting

    def _files(self) -> list[tuple[str, os.stat_result]]:
        found = []
        try:
            with os.scandir(self._folder) as entries:
                for entry in entries:
                    with suppress(FileNotFoundError):
                        if entry.is_file() and not _TEMPORARY.fullmatch(entry.name):
                            found.append((entry.name, entry.stat()))
        except OSError as error:
            raise InputError(f"cannot read the folder {self._folder}: {error.strerror}") from None
        names = {name for name, _ in found}
        self._seen = {name: seen for name, seen in self._seen.items() if name in names}
        return found

    def _note(self, name: str, facts: os.stat_result) -> _SeenFile:
        signature = facts.st_ino, facts.st_size, facts.st_mtime_ns
        seen = self._seen.get(name)
        if seen is None or seen.signature != signature:
            seen = self._seen[name] = _SeenFile(signature, asyncio.get_running_loop().time())
        return seen

    def _rests(self, name: str, facts: os.stat_result, seen: _SeenFile) -> bool:
        """Tell whether the file is whole: unchanged since long before it was seen (it was renamed into the folder), or
        since `settle_s`, and open for writing to nobody as far as can be known."""
        rested_s = asyncio.get_running_loop().time() - seen.since
        if rested_s < self._settle_s and not (rested_s > 0 and self._clock() - facts.st_mtime >= self._settle_s):
            return False
        if _is_being_written(self._folder / name):
            self._say_once(f"{name} is still open for writing")
            return False
        return True

    async def _take(self, name: str, seen: _SeenFile) -> bool:
        """Read the file and put it away; False where it turned out to be still growing."""
        path = self._folder / name
        try:
            if not await self._read(path, seen):
                return False
        except InputError as fault:
            if _is_gone(path):
                return True
            log.warning("source.file_failed", source=source_name(str(path)), reason=str(fault))
            seen.goes_to = FAILED
        else:
            seen.goes_to = DONE
        self._begun.discard(seen.signature[0])
        self._put_away(name, seen.goes_to, seen)
        self._said = None
        return True

    async def _read(self, path: Path, seen: _SeenFile) -> bool:
        """Store every line there is; tell whether the file has not grown meanwhile."""
        if path.name.endswith(COMPRESSED):
            raise InputError(f"cannot read the input: {path} is compressed: unpack it first")
        inode = seen.signature[0]
        is_new = inode not in self._begun
        self._begun.add(inode)
        await feed(str(path), self._intake, self._feeding, on_chunk=self._on_chunk, whole=is_new)
        return await self._is_read_to_its_end(path)

    async def _is_read_to_its_end(self, path: Path) -> bool:
        known = await self._intake.open_source(source_name(str(path)))
        with opened(str(path), 0) as source:
            return known is not None and source.size == known[1].offset and source.holds(known[1])

    def _put_away(self, name: str, into: str, seen: _SeenFile) -> None:
        """Move the file; what cannot be moved is said, and tried again from time to time."""
        now = asyncio.get_running_loop().time()
        if now < seen.quiet_until:
            return
        path = self._folder / name
        try:
            moved = move_into(path, self._folder / into)
        except OSError as error:
            seen.quiet_until = now + TELL_S
            log.warning("source.file_not_moved", source=source_name(str(path)), to=into, reason=error.strerror)
        else:
            log.info("source.file_moved", source=source_name(str(path)), to=source_name(str(moved)))

    def _say_once(self, fault: str) -> None:
        if fault != self._said:
            log.warning("source.waited_for", source=self._name, reason=fault)
            self._said = fault


def move_into(path: Path, folder: Path) -> Path:
    """Move a file into a folder beside it, under a name that is free there; return where it is now.

    A link first, then the removal: nothing is ever overwritten, and killed in between, the next call finishes it.
    """
    folder.mkdir(exist_ok=True)
    number = 0
    while True:
        target = folder / (f"{path.stem}.{number}{path.suffix}" if number else path.name)
        try:
            os.link(path, target, follow_symlinks=False)
        except FileExistsError:
            if not os.path.samestat(path.lstat(), target.lstat()):
                number += 1
                continue
        except OSError as error:
            if error.errno not in (errno.EPERM, errno.EACCES, errno.ENOTSUP, errno.EMLINK):
                raise
            return path.rename(target)  # no links here, or not for this owner; the name was free a moment ago
        path.unlink()
        return target


def _is_gone(path: Path) -> bool:
    return not os.path.lexists(path)


def _is_being_written(path: Path) -> bool:
    """Tell whether some process has the file open for writing, where Linux lets us know: a read lease is refused then.

    Whoever opens it in the instant of the lease would be told to us by a signal; one that is ignored by default.
    """
    if not hasattr(fcntl, "F_SETLEASE"):
        return False
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.fcntl(fd, fcntl.F_SETSIG, signal.SIGURG)
        fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_RDLCK)
        fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    except OSError as error:
        return error.errno == errno.EAGAIN
    finally:
        os.close(fd)
    return False
