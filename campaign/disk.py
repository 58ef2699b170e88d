"""A disk as a power cut leaves it: what was synced is there, of the rest any part may have arrived. Pure.

Strict POSIX: a file's sync does not cover its name, which is safe only once its folder was synced; writes that were
not synced arrive in any order, sector by sector, or not at all; names change in the order in which they were changed.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

SECTOR = 512


@dataclass(frozen=True, slots=True, kw_only=True)
class Write:
    path: str
    offset: int
    data: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Truncate:
    path: str
    size: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Sync:
    path: str  # a file, or the folder


@dataclass(frozen=True, slots=True, kw_only=True)
class Create:
    path: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Unlink:
    path: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Rename:
    path: str
    to: str


Step = Write | Truncate | Sync | Create | Unlink | Rename
Piece = Write | Truncate


@dataclass(slots=True)
class _File:
    synced: bytes = b""
    waiting: list[Piece] = field(default_factory=list)


class Disk:
    """The files of one folder: their names, what is synced, and what is not."""

    def __init__(self, folder: str) -> None:
        self._folder = folder
        self._names: list[dict[str, _File]] = [{}]  # since the folder's last sync, the newest last

    def apply(self, step: Step) -> None:
        """Take one step of the running process."""
        match step:
            case Write() | Truncate():
                self._names[-1][step.path].waiting.append(step)
            case Sync(path=path) if path == self._folder:
                del self._names[:-1]
            case Sync(path=path):
                file = self._names[-1][path]
                file.synced, file.waiting = _content(file.synced, file.waiting), []
            case Create(path=path):
                if path not in self._names[-1]:
                    self._names.append({**self._names[-1], path: _File()})
            case Unlink(path=path):
                self._names.append({name: file for name, file in self._names[-1].items() if name != path})
            case Rename(path=path, to=to):
                names = dict(self._names[-1])
                names[to] = names.pop(path)
                self._names.append(names)

    def seen(self) -> dict[str, bytes]:
        """Return the files as readers see them while the power is on."""
        return {name: _content(file.synced, file.waiting) for name, file in self._names[-1].items()}

    def cut(self, rng: Random | None) -> dict[str, bytes]:
        """Return the files after a power cut now: of what was not synced any part, or with no `rng` nothing."""
        share = rng.choice((0.0, 1.0, rng.random(), rng.random())) if rng else 0.0
        names = rng.choice(self._names) if rng and 0 < share < 1 else self._names[-1 if share else 0]
        return {
            name: _content(file.synced, (piece for piece in _sectors(file.waiting) if rng and rng.random() < share))
            for name, file in names.items()
        }


def _content(synced: bytes, pieces: Iterable[Piece]) -> bytes:
    content = bytearray(synced)
    for piece in pieces:
        match piece:
            case Write(offset=offset, data=data):
                content.extend(bytes(max(0, offset - len(content))))
                content[offset : offset + len(data)] = data
            case Truncate(size=size):
                del content[size:]
                content.extend(bytes(size - len(content)))
    return bytes(content)


def _sectors(pieces: Iterable[Piece]) -> Iterator[Piece]:
    """Yield writes sector by sector: a disk stores a sector whole or not."""
    for piece in pieces:
        if isinstance(piece, Truncate):
            yield piece
            continue
        at, end = piece.offset, piece.offset + len(piece.data)
        while at < end:
            upto = min(end, (at // SECTOR + 1) * SECTOR)
            data = piece.data[at - piece.offset : upto - piece.offset]
            yield Write(path=piece.path, offset=at, data=data)
            at = upto


# --- from a log of strace ---------------------------------------------------------------------------------------------

_LINE = re.compile(r"^(?:\d+ +)?(?P<call>\w+)\((?P<words>.*)\) += (?P<answer>-?\d+|\?)")
_FD = re.compile(r"^\d+<((?:\\x[0-9a-f]{2})*)>")
_TEXT = re.compile(r'"((?:\\x[0-9a-f]{2})*)"')
_IGNORED = {"flock", "utimensat", "fchmod", "fchmodat"}


def steps(log: Path, folder: Path) -> list[Step]:
    """Return what a process did to `folder`, from strace's log with all data in hex."""
    found = []
    for line in log.read_text().splitlines():
        if "<unfinished" in line or "resumed>" in line:
            raise ValueError(f"two threads wrote at once, which this log cannot order: {line[:200]}")
        if (match := _LINE.match(line)) and match["answer"].isdigit():
            step = _step(match["call"], match["words"], int(match["answer"]), str(folder))
            found += [step] if step is not None else []
    return found


def _step(call: str, words: str, answer: int, folder: str) -> Step | None:
    texts = [_unhex(text) for text in _TEXT.findall(words)]
    names = (
        [name if name.startswith("/") else f"{folder}/{name}" for name in (text.decode() for text in texts[:2])]
        if call in ("openat", "unlink", "rename")
        else []
    )
    numbers = [int(number) for number in re.findall(r", (\d+)(?=,|$)", words)]
    fd = _FD.match(words)
    path = _unhex(fd[1]).decode() if fd else ""
    match call:
        case "openat":
            if "O_TRUNC" in words:
                raise ValueError(f"O_TRUNC is not modelled: {words[:200]}")
            return Create(path=names[0]) if "O_CREAT" in words else None
        case "pwrite64":
            return Write(path=path, offset=numbers[-1], data=texts[0][:answer])
        case "ftruncate":
            return Truncate(path=path, size=numbers[-1])
        case "fsync" | "fdatasync":
            return Sync(path=path)
        case "unlink":
            return Unlink(path=names[0])
        case "rename":
            return Rename(path=names[0], to=names[1])
        case _ if call in _IGNORED:
            return None
        case _:
            raise ValueError(f"{call} is not modelled")


def _unhex(text: str) -> bytes:
    return bytes.fromhex(text.replace("\\x", ""))
