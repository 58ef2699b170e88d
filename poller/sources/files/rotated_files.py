"""Find the input file to read next in a folder where files are rotated: the one read last, under any name, until
nothing of it is left; then those that came after it and were rotated away unread; then the one at the path."""

import errno
import os
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

import structlog

from poller.core.errors import InputError, UnreadableInput
from poller.core.model import Position
from poller.sources.files.open_file import OpenFile, open_file, os_errors_translated, source_name

log = structlog.get_logger("poller")

COMPRESSED = (".gz", ".bz2", ".xz", ".zst", ".lz4", ".Z", ".zip")
_NONE_OPENS = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)  # whatever the file
_SLACK_NS = 60_000_000_000  # a file may be written to for this long after it was renamed

_NextFile = tuple[OpenFile, Position | None]  # where to resume it; None: it was never read


@contextmanager
def next_file(spec: str, known: Position | None, *, links: bool = True) -> Iterator[_NextFile]:
    """Open the file to read now of a source read up to `known`; yield it with the position to resume from, None for a
    file that was never read. Raises `InputError` where there is nothing yet, and for a link without `links`."""
    with ExitStack() as kept:
        with ExitStack() as stack:
            file, start = _choose(spec, known, stack, links)
            with os_errors_translated(file.name):
                fd = os.dup(file.fd)  # all others are closed
            kept.callback(os.close, fd)
        yield replace(file, fd=fd), start


def _choose(spec: str, known: Position | None, stack: ExitStack, links: bool) -> _NextFile:
    try:
        at_path = _open_file(Path(spec), stack, links)
    except InputError:
        if known is None or (chosen := _choose_known(spec, None, known, stack)) is None:
            raise
        return chosen
    chosen = None if known is None else _choose_known(spec, at_path, known, stack)
    return chosen or (at_path, None)


def _choose_known(spec: str, at_path: OpenFile | None, known: Position, stack: ExitStack) -> _NextFile | None:
    """Return the file to read before the one at the path, or that one if it is to be resumed; else None."""
    name, folders = source_name(spec), _folders(spec, at_path, stack)
    found = [(folder, file) for folder in folders if (file := folder.last_read(known)) is not None]
    if found:
        folder, last_read = found[0]
        if last_read.size > known.offset or not known.ended:
            log.info("source.rest_found", source=name, file=last_read.name, offset=known.offset, line=known.line)
            return last_read, known
        unread = folder.oldest_since(last_read)
    else:
        if at_path is not None and at_path.holds(known):
            is_same = known.offset > 0 or _inode_and_change(known)[0] in (None, at_path.facts().st_ino)
            return at_path, known if is_same else None  # else another empty file, to be identified by its own inode
        if at_path is not None and not known.ended:
            log.warning("source.rest_not_found", source=name, offset=known.offset, line=known.line)
        unread = next((file for folder in folders if (file := folder.rewritten(known)) is not None), None)
    if unread is None:
        return None
    log.info("source.unseen_found", source=name, file=unread.name)
    return unread, None


def has_copy(spec: str, file: OpenFile, known: Position) -> bool:
    """Whether another file of the folder holds what was read of `file` up to `known`."""
    with ExitStack() as stack:
        return any(folder.last_read(known) is not None for folder in _folders(spec, file, stack))


def _open_file(path: Path, stack: ExitStack, links: bool) -> OpenFile:
    file = stack.enter_context(open_file(str(path), links=links))
    if not file.seekable:
        raise InputError(f"cannot follow {path}: it is neither a file nor a named pipe")
    return file


def _folders(spec: str, current: OpenFile | None, stack: ExitStack) -> list["_Folder"]:
    """Return where rotated files may be: beside the path, and where it is a link beside the file it leads to."""
    path = Path(spec)
    paths = (path, Path(os.path.realpath(path))) if os.path.islink(path) else (path,)  # noqa: PTH114 - never raises
    return [_Folder(each, current, stack) for each in paths]


class _Folder:
    """The files beside a followed one."""

    def __init__(self, path: Path, current: OpenFile | None, stack: ExitStack) -> None:
        self._path = path
        self._current = current
        self._inode = None if current is None else current.facts().st_ino
        self._stack = stack

    def last_read(self, known: Position) -> OpenFile | None:
        """Return the file that was read up to `known` where it is not the one at the path: renamed, or copied before
        the one at the path was truncated."""
        inode, changed_ns = _inode_and_change(known)
        holds = self._current is not None and self._current.holds(known)
        if inode is None or (inode == self._inode and holds):
            return None
        if known.offset == 0:  # an inode alone, which may be another file's by now
            return self._longest_holding(self._of_this_name(self._others(inode)), known, changed_ns)
        renamed = self._longest_holding(self._others(inode), known, 0)
        if renamed is not None or holds:
            return renamed
        return self._longest_holding(self._of_this_name(self._others()), known, changed_ns)

    def rewritten(self, known: Position) -> OpenFile | None:
        """Return the file that was read up to `known` where it was truncated, rewritten and renamed since."""
        inode, changed_ns = _inode_and_change(known)
        if inode is None:
            return None
        return self._first(self._of_this_name(self._others(inode)), lambda file: file.facts().st_mtime_ns >= changed_ns)

    def oldest_since(self, last_read: OpenFile) -> OpenFile | None:
        """Return the oldest file that took the path after `last_read` did, and was rotated away itself since."""
        order = _RotationOrder(self._path.name)
        rank = order.rank(os.path.basename(last_read.name))  # noqa: PTH119 - a name, not a path
        if rank is None:
            return None
        since_ns = last_read.facts().st_mtime_ns - _SLACK_NS
        ranked = [(found, entry.name) for entry in self._entries() if (found := order.rank(entry.name)) is not None]
        later = (name for found, name in sorted(ranked) if found[0] == rank[0] and found > rank)
        return self._first(
            (self._path.parent / name for name in later),
            lambda file: file.facts().st_mtime_ns >= since_ns and not self._is_current(file),
        )

    def _entries(self) -> list[os.DirEntry[str]]:
        try:
            with os.scandir(self._path.parent) as entries:
                return [entry for entry in entries if entry.is_file(follow_symlinks=False)]
        except OSError:
            return []

    def _others(self, inode: int | None = None) -> Iterator[Path]:
        """Yield the files that are not the one at the path; of an inode, if one is given."""
        for entry in self._entries():
            if entry.inode() != self._inode and inode in (None, entry.inode()):
                yield self._path.parent / entry.name

    def _of_this_name(self, paths: Iterator[Path]) -> Iterator[Path]:
        return (path for path in paths if self._path.stem in path.name)

    def _longest_holding(self, paths: Iterator[Path], known: Position, changed_ns: int) -> OpenFile | None:
        """Return the longest file that holds what was read and was not last changed before that."""
        longest: OpenFile | None = None
        kept = ExitStack()
        for path in paths:  # there may be thousands: only the longest stays open
            with ExitStack() as candidate:
                file = self._open(path, candidate)
                if file is None or not file.holds(known) or file.facts().st_mtime_ns < changed_ns:
                    continue
                if longest is None or file.size > longest.size:
                    kept.close()
                    longest, kept = file, candidate.pop_all()
        self._stack.enter_context(kept)
        return longest

    def _first(self, paths: Iterable[Path], fits: Callable[[OpenFile], bool]) -> OpenFile | None:
        """Return the first file that fits; no other stays open."""
        for path in paths:
            with ExitStack() as candidate:
                file = self._open(path, candidate)
                if file is not None and fits(file):
                    self._stack.enter_context(candidate.pop_all())
                    return file
        return None

    def _open(self, path: Path, stack: ExitStack) -> OpenFile | None:
        """Return the open file, None where it cannot be read. Raises `UnreadableInput` where no file can be now."""
        if path.name.endswith(COMPRESSED):
            return None
        try:
            return _open_file(path, stack, links=False)
        except UnreadableInput as error:
            if isinstance(error.__cause__, OSError) and error.__cause__.errno in _NONE_OPENS:
                raise
            return None
        except InputError:
            return None

    def _is_current(self, file: OpenFile) -> bool:
        return self._current is not None and os.path.samestat(file.facts(), self._current.facts())


def _inode_and_change(position: Position) -> tuple[int | None, int]:
    """Return the inode of the file read, and when it had last been changed; None where a position does not name it."""
    _, _, identity = position.fingerprint.partition(" ")
    inode, _, changed_ns = identity.partition(" ")
    return (int(inode), int(changed_ns)) if inode and changed_ns else (None, 0)


class _RotationOrder:
    """The order of rotated files by their names: of dates the later is newer, of counters the smaller."""

    def __init__(self, name: str) -> None:
        stem, suffix = os.path.splitext(name)  # noqa: PTH122 - a name, not a path
        mark = r"[._-](\d[\dT:._-]*)"
        patterns = [f"{re.escape(name)}{mark}"] + ([f"{re.escape(stem)}{mark}{re.escape(suffix)}"] if suffix else [])
        self._pattern = re.compile("|".join(patterns))

    def rank(self, name: str) -> tuple[bool, int, str] | None:
        """Return the sort key of a rotated file, from old to new within one kind of mark; None for another file."""
        match = self._pattern.fullmatch(name)
        if match is None:
            return None
        mark = next(group for group in match.groups() if group is not None)
        is_counter = mark.isdigit() and len(mark) <= 3
        return (True, -int(mark), "") if is_counter else (False, 0, mark)
