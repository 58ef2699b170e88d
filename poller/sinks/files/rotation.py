"""Decides which file of a file sink each record goes to. Pure but for the listing of a folder.

The answer depends on the position and the records alone, not on a clock or a batch: after a crash the same bytes go to
the same offsets again, which keeps each record exactly once across files.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import date
from functools import cached_property
from pathlib import Path

import msgspec

from poller.core.deliveries import Delivery
from poller.core.record import decode

CODES = {"%Y": r"(?P<Y>[0-9]{4})", "%m": r"(?P<m>[0-9]{2})", "%d": r"(?P<d>[0-9]{2})", "%%": "%"}
NO_DAY = "1970-01-01"  # of a record without a readable `seen_at`


@dataclass(frozen=True, slots=True, kw_only=True)
class LineFormat:
    """What a file contains. Pure: lines are written again at the same offsets after a crash, so a record must give the
    same bytes in every process."""

    kind: str  # in the sink's name, KIND:PATH
    line: Callable[[Delivery], bytes]  # ends with b"\n" and contains no other; raises for no record
    header: bytes = b""  # the first line of each file, with its b"\n"
    older: "tuple[LineFormat, ...]" = ()  # of earlier versions: a file that one began is continued in it


class FilePosition(msgspec.Struct, frozen=True, kw_only=True):
    """A position in a sink's files: every record before it is on disk."""

    day: str = ""  # ISO date in the file's name; "" where names have none, or before the first record
    number: int = 0  # of the file among those of its day
    offset: int = 0  # bytes


def decode_position(noted: bytes) -> FilePosition:
    """Read a noted position: an object, or just the offset where there is one file."""
    return FilePosition(offset=int(noted)) if noted.isdigit() else msgspec.json.decode(noted, type=FilePosition)


def encode_position(position: FilePosition) -> bytes:
    """Return what to note; `decode_position` reads it."""
    return msgspec.json.encode(position) if position.day or position.number else b"%d" % position.offset


@dataclass(frozen=True, slots=True, kw_only=True)
class FilePart:
    """Consecutive lines for one file."""

    start: FilePosition
    lines: bytes

    @property
    def end(self) -> FilePosition:
        return msgspec.structs.replace(self.start, offset=self.start.offset + len(self.lines))


@dataclass(frozen=True, kw_only=True)
class Rotation:
    """The files of a sink: `path` may contain %Y, %m, %d; a file that would grow beyond `most_bytes` is followed by
    `name.1.jsonl`, `name.2.jsonl`, …. Days are those of the records' `seen_at`, UTC, and never go back."""

    path: Path
    format: LineFormat
    most_bytes: int | None = None
    begun: tuple[FilePosition, LineFormat] | None = None  # a position in a file that an earlier version began

    def format_at(self, position: FilePosition) -> LineFormat:
        """Return what the file of the position contains."""
        if self.begun is not None and position.offset:
            at, older = self.begun
            if (at.day, at.number) == (position.day, position.number):
                return older
        return self.format

    @cached_property
    def is_dated(self) -> bool:
        return any(code in self.path.name for code in ("%Y", "%m", "%d"))

    def file_at(self, position: FilePosition) -> Path:
        """Return the file that the position is in."""
        name = self._name_of(position.day) if self.is_dated else self.path.name.replace("%%", "%")
        stem, suffix = _cut_suffix(name)
        return self.path.with_name(f"{stem}.{position.number}{suffix}" if position.number else name)

    def parts(self, start: FilePosition, batch: Sequence[Delivery]) -> list[FilePart]:
        """Return what to write where, in order, when everything before `start` is written."""
        if not self.is_dated and self.most_bytes is None:  # one file: the loop below with half of its cost
            form = self.format_at(start)
            header = form.header if batch and start.offset == 0 else b""
            return [FilePart(start=start, lines=header + b"".join(map(form.line, batch)))] if batch else []
        parts: list[FilePart] = []
        begin, lines, size = start, list[bytes](), 0
        for delivery in batch:
            here = msgspec.structs.replace(begin, offset=begin.offset + size)
            line = self.format_at(here).line(delivery)
            position = self._position_for(here, delivery.body, len(line))
            if position is not here:
                line = self.format.line(delivery)
                parts += [FilePart(start=begin, lines=b"".join(lines))] if lines else []
                begin, lines, size = position, [], 0
            if position.offset == 0:
                line = self.format.header + line
            lines.append(line)
            size += len(line)
        return [*parts, FilePart(start=begin, lines=b"".join(lines))] if lines else parts

    def _position_for(self, here: FilePosition, body: bytes, size: int) -> FilePosition:
        if self.is_dated and (day := _day_of(body)) > here.day and self._name_of(day) != self._name_of(here.day):
            return FilePosition(day=day)
        if self.most_bytes is not None and here.offset and here.offset + size > self.most_bytes:
            return FilePosition(day=here.day, number=here.number + 1)
        return here

    def _name_of(self, day: str) -> str:
        return date.fromisoformat(day).strftime(self.path.name) if day else ""


def written_files(path: Path) -> list[Path]:
    """Return every existing file that a sink of this path wrote, in the order of writing."""
    pattern = _files_of(path)
    found = [(match, file) for file in path.parent.glob("*") if (match := pattern.fullmatch(file.name))]
    return [file for _, file in sorted(found, key=lambda pair: _order(pair[0]))]


def may_write(path: Path, file: Path) -> bool:
    """Return whether a file has a name that a sink of `path` could give one of its own."""
    return path.parent == file.parent and _files_of(path).fullmatch(file.name) is not None


def _files_of(path: Path) -> re.Pattern[str]:
    stem, suffix = (_pattern_of(part) for part in _cut_suffix(path.name))
    return re.compile(rf"{stem}(?:\.(?P<number>[1-9][0-9]*))?{suffix}")


def pattern_error(name: str) -> str | None:
    """Return what is wrong with a file name as a pattern; None if nothing."""
    codes = re.findall(r"%.?", name)
    days = [code for code in codes if code != "%%"]
    if unknown := [code for code in codes if code not in CODES]:
        return f"may contain %Y, %m and %d, and %% for a percent sign; not {unknown[0]}"
    if len(set(days)) != len(days) or set(days) not in ({"%Y", "%m", "%d"}, {"%Y", "%m"}, {"%Y"}, set()):
        return "needs %Y, %m and %d once each, as in finished-%Y%m%d.jsonl"
    return None


def _cut_suffix(name: str) -> tuple[str, str]:
    suffix = Path(name).suffix
    return name.removesuffix(suffix) if suffix else name, suffix


def _pattern_of(text: str) -> str:
    return "".join(CODES.get(piece) or re.escape(piece) for piece in re.findall(r"%.|[^%]+", text))


def _order(match: re.Match[str]) -> tuple[str, int]:
    groups = match.groupdict("")
    return "".join(groups.get(code, "") for code in "Ymd"), int(groups["number"] or 0)


def _day_of(body: bytes) -> str:
    try:
        return date.fromisoformat(decode(body).seen_at[:10]).isoformat()
    except ValueError:
        return NO_DAY
