"""Open and read files, which can be resumed later, and streams, which cannot. Never blocks on a stream."""

import asyncio
import hashlib
import os
import select
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from poller.core.errors import InputError, UnreadableInput
from poller.core.model import Position
from poller.sources.files.missing import missing_file
from poller.sources.parsing.content import BEGINNING_BYTES, refuse_other_content

STDIN = "-"  # the source that is standard input

BLOCK = 262_144  # bytes read at a time
PROVEN_BYTES = 4096  # at each end of what was read


def source_name(spec: str) -> str:
    """Return the name under which the store knows the source: the absolute path, or "-"."""
    if spec == STDIN:
        return STDIN
    return os.fsencode(Path(spec).absolute()).decode("utf-8", "backslashreplace")


def stat_of(path: str, *, follow_symlinks: bool = True) -> os.stat_result | None:
    """Return the `stat` of what is at the path; None if there is nothing."""
    try:
        return os.stat(path, follow_symlinks=follow_symlinks)  # noqa: PTH116 - the path as the person wrote it
    except OSError:
        return None


def check_readable(specs: Sequence[str]) -> None:
    """Raise `InputError` naming every file that cannot be read. Standard input is not checked."""
    faults = [fault for spec in specs if spec != STDIN and (fault := _fault(spec))]
    if faults:
        raise InputError("cannot read the input: " + "; ".join(faults))


def _fault(spec: str) -> str | None:
    path = Path(spec)
    try:
        mode = path.stat().st_mode
        if stat.S_ISDIR(mode):
            return f"{path} is a folder, not a file"
        if stat.S_ISREG(mode):  # a pipe would notice a reader that comes and goes
            with path.open("rb") as file:
                refuse_other_content(file.read(BEGINNING_BYTES), str(path))
        elif not os.access(path, os.R_OK):
            return f"{path}: no permission to read it"
    except FileNotFoundError:
        return f"{spec}: {missing_file(spec)}"
    except (OSError, ValueError) as error:
        return f"{path}: {_why(error)}"
    return None


def _why(error: OSError | ValueError) -> str:
    if isinstance(error, FileNotFoundError):
        return "there is no such file"
    return (error.strerror if isinstance(error, OSError) else None) or str(error)


def fingerprint_of(proof: bytes, facts: os.stat_result) -> str:
    """Return the digest of the beginning and end of what was read, and what identifies a renamed or copied file: its
    inode and the time of its last change."""
    return f"{hashlib.sha256(proof).hexdigest()} {facts.st_ino} {facts.st_mtime_ns}"


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenFile:
    """An open file or stream."""

    name: str
    fd: int
    seekable: bool  # a file that can be resumed where an earlier run stopped

    async def block(self) -> bytes:
        """Return the next bytes, empty at the end. Waits for them without blocking the event loop."""
        while True:
            if not self.seekable:
                await _readable(self.fd)
            with os_errors_translated(self.name), suppress(BlockingIOError):  # another reader was faster
                return os.read(self.fd, BLOCK)

    @property
    def has_more_now(self) -> bool:
        """Whether a read returns at once, also at the end."""
        poll = select.poll()
        poll.register(self.fd, select.POLLIN)
        return bool(poll.poll(0))

    @property
    def size(self) -> int:
        """Bytes in the file."""
        return self.facts().st_size

    def facts(self) -> os.stat_result:
        """Return the open file's `stat`."""
        with os_errors_translated(self.name):
            return os.fstat(self.fd)

    def at(self, offset: int, length: int = BLOCK) -> bytes:
        """Return up to `length` of the file's bytes from `offset` on."""
        with os_errors_translated(self.name):
            return os.pread(self.fd, length, offset)

    def fingerprint(self, offset: int) -> str:
        """Return the proof that the file's first `offset` bytes are still the same."""
        length = min(PROVEN_BYTES, offset)
        return fingerprint_of(self.at(0, length) + self.at(offset - length, length), self.facts())

    def holds(self, position: Position) -> bool:
        """Whether this is the file that was read up to `position`."""
        if position.offset > self.size:
            return False
        digest, ours = (text.partition(" ")[0] for text in (position.fingerprint, self.fingerprint(position.offset)))
        return digest in ("", ours)

    def is_unchanged_since(self, position: Position) -> bool:
        """Whether this very file was read up to `position`, and was not changed since."""
        return position.fingerprint == self.fingerprint(position.offset)

    def blocks_before(self, offset: int, begin: int = 0) -> Iterator[bytes]:
        """Yield the file's bytes from `begin` to `offset`, which are its first ones."""
        at = begin
        while at < offset and (block := self.at(at, min(BLOCK, offset - at))):
            yield block
            at += len(block)

    def line_start(self, offset: int, line_break: bytes) -> int:
        """Return the start of the line that contains the byte before `offset`."""
        width = len(line_break)
        while offset > 0:
            length = min(PROVEN_BYTES, offset)
            piece = self.at(offset - length, length)
            break_at = piece.rfind(line_break)
            while break_at >= 0 and (offset - length + break_at) % width:  # two halves of two characters
                break_at = piece.rfind(line_break, 0, break_at + width - 1)
            if break_at >= 0:
                return offset - length + break_at + width
            offset -= length
        return 0

    def beginning(self) -> bytes:
        """Return the first bytes by which the content is recognized, without NULs before them."""
        at, found = 0, b""
        while not found and (block := self.at(at)):
            found = block.lstrip(b"\0")
            at += len(block)
        return self.at(at - len(found), BEGINNING_BYTES)


@contextmanager
def open_file(spec: str, stdin: int = 0, *, links: bool = True) -> Iterator[OpenFile]:
    """Open a file or stream, and close it unless it is standard input. Raises `UnreadableInput` where that fails.

    Without `links` it must be a regular file: who may put a file into a folder could lead a link to a secret.
    """
    name, fd = source_name(spec), stdin
    if not links and os.path.islink(spec):  # noqa: PTH114 - never raises
        raise InputError(f"cannot read the input: {name} is a link; only regular files are read here")
    with os_errors_translated(name):
        if spec != STDIN:  # a pipe without a writer must not block
            fd = os.open(spec, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | (0 if links else os.O_NOFOLLOW))
        mode = os.fstat(fd).st_mode
    try:
        if stat.S_ISDIR(mode):
            raise InputError(f"cannot read the input: {name} is a folder, not a file")
        if not links and not stat.S_ISREG(mode):
            raise InputError(f"cannot read the input: {name} is not a regular file")
        yield OpenFile(name=name, fd=fd, seekable=spec != STDIN and stat.S_ISREG(mode))
    finally:
        if spec != STDIN:
            os.close(fd)


@contextmanager
def os_errors_translated(name: str) -> Iterator[None]:
    """Raise `UnreadableInput` for an error of the system."""
    try:
        yield
    except BlockingIOError:
        raise
    except OSError as error:
        where = "standard input" if name == STDIN else name
        raise UnreadableInput(f"cannot read the input: {where}: {_why(error)}") from error


async def _readable(fd: int) -> None:
    """Wait until reading does not block."""
    loop, ready = asyncio.get_running_loop(), asyncio.Event()
    try:
        loop.add_reader(fd, ready.set)
    except PermissionError:  # epoll refuses regular files and /dev/null, which never block
        return
    try:
        await ready.wait()
    finally:
        loop.remove_reader(fd)
