"""Find the file to read next in a folder where files are rotated: the one read last, wherever it is now, until nothing
of it is left; then those that came after it and were rotated away unseen; then the one at the path."""

import os
import re
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import structlog

from poller.core.errors import InputError
from poller.core.model import Position
from poller.sources.files.open_file import Input, opened, source_name

log = structlog.get_logger()

COMPRESSED = (".gz", ".bz2", ".xz", ".zst", ".lz4", ".Z", ".zip")
_SLACK_NS = 60_000_000_000  # a file may be written to for so long after it was renamed


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """The file to read now."""

    source: Input
    start: Position | None  # where it is read on; None: it was never read


@contextmanager
def next_file(spec: str, known: Position | None) -> Iterator[Found]:
    """Open what is to be read now of a source read up to `known`. Raises `InputError` where there is nothing yet."""
    with ExitStack() as kept:
        with ExitStack() as stack:
            found = _choose(spec, _open_current(Path(spec), stack), known, stack)
            fd = os.dup(found.source.fd)  # all others are closed
            kept.callback(os.close, fd)
        yield replace(found, source=replace(found.source, fd=fd))


def _open_current(path: Path, stack: ExitStack) -> Input | InputError:
    try:
        return _open_file(path, stack)
    except InputError as error:
        return error


def _choose(spec: str, current: Input | InputError, known: Position | None, stack: ExitStack) -> Found:
    at_path = current if isinstance(current, Input) else None
    if known is not None:
        name, folder = source_name(spec), _Folder(Path(spec), at_path, stack)
        rest = folder.rest(known)
        if rest is not None and (rest.size > known.offset or not known.ended):
            log.info("source.rest_found", source=name, file=rest.name, offset=known.offset, line=known.line)
            return Found(source=rest, start=known)
        if rest is None and at_path is not None and at_path.holds(known):
            return Found(source=at_path, start=known)
        if rest is None and at_path is not None and not known.ended:
            log.warning("source.rest_not_found", source=name, offset=known.offset, line=known.line)
        unseen = folder.renewed(known) if rest is None else folder.oldest_since(rest)
        if unseen is not None:
            log.info("source.unseen_found", source=name, file=unseen.name)
            return Found(source=unseen, start=None)
    if isinstance(current, InputError):
        raise current
    return Found(source=current, start=None)


def has_copy(spec: str, source: Input, known: Position) -> bool:
    """Tell whether another file of the folder holds what was read of `source` up to `known`."""
    with ExitStack() as stack:
        return _Folder(Path(spec), source, stack).rest(known) is not None


def _open_file(path: Path, stack: ExitStack) -> Input:
    source = stack.enter_context(opened(str(path), 0))
    if not source.seekable:
        raise InputError(f"cannot follow {path}: it is neither a file nor a named pipe")
    return source


class _Folder:
    """The files beside a followed one."""

    def __init__(self, path: Path, current: Input | None, stack: ExitStack) -> None:
        self._path = path
        self._current = current
        self._inode = None if current is None else current.facts().st_ino
        self._stack = stack

    def rest(self, known: Position) -> Input | None:
        """Return the file that was read up to `known` where it is not the one at the path: renamed, or copied before
        the one at the path was truncated."""
        inode, changed_ns = _trace(known)
        holds = self._current is not None and self._current.holds(known)
        if inode is None or (inode == self._inode and holds):
            return None
        renamed = self._first_holding(self._others(inode), known, 0)
        if renamed is not None or known.offset == 0 or holds:
            return renamed
        alike = (path for path in self._others() if path.name.startswith(self._path.stem))
        return self._first_holding(alike, known, changed_ns)

    def renewed(self, known: Position) -> Input | None:
        """Return the file that was read up to `known` where it was truncated, written anew and renamed since."""
        inode, changed_ns = _trace(known)
        if inode is None:
            return None
        sources = (source for path in self._others(inode) if (source := self._open(path)) is not None)
        return next((source for source in sources if source.facts().st_mtime_ns >= changed_ns), None)

    def oldest_since(self, rest: Input) -> Input | None:
        """Return the oldest file that took the path after `rest` did, and was rotated away itself since."""
        order = _Names(self._path.name)
        rank = order.rank(os.path.basename(rest.name))  # noqa: PTH119 - a name, not a path
        if rank is None:
            return None
        since_ns = rest.facts().st_mtime_ns - _SLACK_NS
        newer = [(found, entry.name) for entry in self._entries() if (found := order.rank(entry.name)) is not None]
        for found, name in sorted(newer):
            if found[0] == rank[0] and found > rank:
                source = self._open(self._path.parent / name)
                if source is not None and source.facts().st_mtime_ns >= since_ns and not self._is_current(source):
                    return source
        return None

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

    def _first_holding(self, paths: Iterator[Path], known: Position, changed_ns: int) -> Input | None:
        """Return the longest file that holds what was read and was not last changed before that."""
        sources = [source for path in paths if (source := self._open(path)) is not None]
        holding = [source for source in sources if source.holds(known) and source.facts().st_mtime_ns >= changed_ns]
        return max(holding, key=lambda source: source.size, default=None)

    def _open(self, path: Path) -> Input | None:
        if path.name.endswith(COMPRESSED):
            return None
        try:
            return _open_file(path, self._stack)
        except InputError:
            return None

    def _is_current(self, source: Input) -> bool:
        return self._current is not None and os.path.samestat(source.facts(), self._current.facts())


def _trace(position: Position) -> tuple[int | None, int]:
    """Return the inode of the file read, and when it had last been changed; None where a position does not tell."""
    _, _, trace = position.fingerprint.partition(" ")
    inode, _, changed_ns = trace.partition(" ")
    return (int(inode), int(changed_ns)) if inode and changed_ns else (None, 0)


class _Names:
    """The order of rotated files by their names: of dates the later is newer, of counters the smaller."""

    def __init__(self, name: str) -> None:
        stem, suffix = os.path.splitext(name)  # noqa: PTH122 - a name, not a path
        mark = r"[._-](\d[\dT:._-]*)"
        patterns = [f"{re.escape(name)}{mark}"] + ([f"{re.escape(stem)}{mark}{re.escape(suffix)}"] if suffix else [])
        self._pattern = re.compile("|".join(patterns))

    def rank(self, name: str) -> tuple[bool, int, str] | None:
        """Return what sorts rotated files from old to new, those of each kind; None for another file."""
        match = self._pattern.fullmatch(name)
        if match is None:
            return None
        mark = next(group for group in match.groups() if group is not None)
        is_counter = mark.isdigit() and len(mark) <= 3
        return (True, -int(mark), "") if is_counter else (False, 0, mark)
