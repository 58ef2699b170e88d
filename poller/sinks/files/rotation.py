"""Which file of a JSONL sink each record belongs into. Pure but for the listing of a folder.

The answer depends on nothing but the position and the records themselves, on no clock and no batch: after a crash the
same bytes go to the same places again, and that is what keeps each record exactly once across files.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import msgspec

from poller.core.model import Delivery
from poller.core.record import decode

CODES = {"%Y": r"(?P<Y>[0-9]{4})", "%m": r"(?P<m>[0-9]{2})", "%d": r"(?P<d>[0-9]{2})", "%%": "%"}
NO_DAY = "1970-01-01"  # of a record that tells none


class PathPattern(msgspec.Struct, frozen=True, kw_only=True):
    """A place in a sink's files: every record before it is on disk."""

    day: str = ""  # ISO date in the file's name; "" where names have none, or before the first record
    number: int = 0  # of the file among those of its day
    offset: int = 0  # bytes


def place_from(position: bytes) -> PathPattern:
    """Read a noted position: a place, or just the offset in the one file there is."""
    return PathPattern(offset=int(position)) if position.isdigit() else msgspec.json.decode(position, type=PathPattern)


def position_of(place: PathPattern) -> bytes:
    """Return what to note; `place_from` reads it."""
    return msgspec.json.encode(place) if place.day or place.number else b"%d" % place.offset


@dataclass(frozen=True, slots=True, kw_only=True)
class FilePart:
    """A run of lines for one file."""

    place: PathPattern  # of the first line
    lines: bytes

    @property
    def end(self) -> PathPattern:
        return msgspec.structs.replace(self.place, offset=self.place.offset + len(self.lines))


@dataclass(frozen=True, slots=True, kw_only=True)
class Rotation:
    """The files of a sink: `path` may hold %Y, %m, %d; a file that would grow beyond `most_bytes` is followed by
    `name.1.jsonl`, `name.2.jsonl`, …. Days are those of the records' `seen_at`, UTC, and never go back."""

    path: Path
    most_bytes: int | None = None

    @property
    def is_dated(self) -> bool:
        return any(code in self.path.name for code in ("%Y", "%m", "%d"))

    def file_at(self, place: PathPattern) -> Path:
        """Return the file that the place is in."""
        name = self._name_of(place.day) if self.is_dated else self.path.name.replace("%%", "%")
        stem, suffix = _cut_suffix(name)
        return self.path.with_name(f"{stem}.{place.number}{suffix}" if place.number else name)

    def parts(self, start: PathPattern, batch: Sequence[Delivery]) -> list[FilePart]:
        """Return what to write where, in order, when everything before `start` stands."""
        parts: list[FilePart] = []
        begin, lines, size = start, list[bytes](), 0
        for delivery in batch:
            line = delivery.body + b"\n"
            here = msgspec.structs.replace(begin, offset=begin.offset + size)
            place = self._place_for(here, delivery.body, len(line))
            if place is not here:
                parts += [FilePart(place=begin, lines=b"".join(lines))] if lines else []
                begin, lines, size = place, [], 0
            lines.append(line)
            size += len(line)
        return [*parts, FilePart(place=begin, lines=b"".join(lines))] if lines else parts

    def _place_for(self, here: PathPattern, body: bytes, size: int) -> PathPattern:
        if self.is_dated and (day := _day_of(body)) > here.day and self._name_of(day) != self._name_of(here.day):
            return PathPattern(day=day)
        if self.most_bytes is not None and here.offset and here.offset + size > self.most_bytes:
            return PathPattern(day=here.day, number=here.number + 1)
        return here

    def _name_of(self, day: str) -> str:
        return date.fromisoformat(day).strftime(self.path.name) if day else ""

    def written_files(self) -> list[Path]:
        """Return every file of this name that is there, in the order in which they were written."""
        stem, suffix = (_pattern_of(part) for part in _cut_suffix(self.path.name))
        pattern = re.compile(rf"{stem}(?:\.(?P<number>[1-9][0-9]*))?{suffix}")
        folder = self.path.parent
        found = [(match, path) for path in folder.glob("*") if (match := pattern.fullmatch(path.name))]
        return [path for _, path in sorted(found, key=lambda pair: _order(pair[0]))]


def trouble_with(name: str) -> str | None:
    """Return what is wrong with a file name as a pattern; None if nothing."""
    codes = re.findall(r"%.?", name)
    days = [code for code in codes if code != "%%"]
    if unknown := [code for code in codes if code not in CODES]:
        return f"may hold %Y, %m and %d, and %% for a percent sign; not {unknown[0]}"
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
