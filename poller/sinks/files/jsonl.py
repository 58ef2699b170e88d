"""Finished tasks as lines of files, each exactly once, whatever dies when.

The position is the place up to which every record is on disk. Everything behind it is written again, with the same
bytes at the same places, so that even a reader that follows the files sees nothing change.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Annotated, ClassVar

import structlog
from msgspec.structs import replace
from pydantic import AfterValidator, BeforeValidator, Field

from poller.config.value_types import no_bool
from poller.core.disk import FULL
from poller.core.errors import SinkError
from poller.core.model import Delivery, Retry, Written
from poller.sinks.files.line_file import LineFile
from poller.sinks.files.rotation import FilePart, PathPattern, Rotation, place_from, position_of, trouble_with
from poller.sinks.table import SinkTable

log = structlog.get_logger()

FIRST_WAIT_S, LONGEST_WAIT_S = 1.0, 30.0


def _usable_pattern(path: Path) -> Path:
    if not path.name:
        raise ValueError("must name a file, such as finished.jsonl")
    trouble = trouble_with(path.name)
    if trouble or "%" in str(path.parent):
        raise ValueError(trouble or "may hold %Y, %m and %d in its last part only")
    return path


class JsonlTable(SinkTable):
    """Settings of a `jsonl` sink."""

    KIND: ClassVar[str] = "jsonl"
    TARGET: ClassVar[str | None] = "path"
    EXAMPLE: ClassVar[str] = "jsonl:finished.jsonl"

    path: Annotated[Path, AfterValidator(_usable_pattern)]
    rotate_bytes: Annotated[int | None, BeforeValidator(no_bool), Field(ge=4096)] = None


def written_files(path: Path) -> list[Path]:
    """Return every file that a `jsonl` sink of this path wrote and that is still there, in the order of writing."""
    return Rotation(path=path).written_files()


class JsonlSink:
    """Appends records to regular files, each of which belongs to this process alone while it is open."""

    def __init__(self, path: Path, *, rotate_bytes: int | None = None) -> None:
        self.name = f"jsonl:{path}"
        self._rotation = Rotation(path=path, most_bytes=rotate_bytes)
        self._place = PathPattern()
        self._file: LineFile | None = None
        self._kept: dict[Path, int] = {}  # up to here a file holds the beginning of what comes next, or more
        self._failures = 0  # writes in a row that found no room

    async def open(self, position: bytes | None, following: Sequence[Delivery]) -> bytes | None:
        with self._errors_for_people():
            if position is None:
                self._refuse_unknown_data()
            else:
                self._place = place_from(position)
            parts = self._parts(following)
            for part in reversed(parts):  # the first one stays open
                if part is parts[0] or self._rotation.file_at(part.place).exists():
                    self._settle(self._switch_to(part.place), part.place.offset, part.lines)
        return position_of(self._place)

    async def write(self, batch: Sequence[Delivery]) -> Written | Retry:
        parts = self._parts(batch)
        with self._errors_for_people():
            if reason := self._find_file_gone():
                return Retry(reason=reason, wait_s=0.0, position=position_of(self._place))
            try:
                for part in parts:
                    self._write_part(part)
            except OSError as error:
                if error.errno not in FULL:
                    raise
                return self._make_retry(error)
        self._failures = 0
        for part in parts[:-1]:
            del self._kept[self._rotation.file_at(part.place)]
        self._place = parts[-1].end if parts else self._place
        return Written(position=position_of(self._place))

    async def close(self) -> None:
        if self._file is not None:
            self._file.close()

    def _parts(self, batch: Sequence[Delivery]) -> list[FilePart]:
        """Return what to write where. The file of the position comes first, also with nothing more to come."""
        parts = self._rotation.parts(self._place, batch)
        if self._has_file(self._place) and (not parts or parts[0].place != self._place):
            return [FilePart(place=self._place, lines=b""), *parts]
        return parts

    def _write_part(self, part: FilePart) -> None:
        file, offset = self._switch_to(part.place), part.place.offset
        kept = max(offset, self._kept.get(file.path, 0))
        self._settle(file, kept, b"")
        try:
            file.write(part.lines, offset)
        except OSError:
            with suppress(OSError):  # readers need not see half a line for as long as the disk is full
                file.cut(kept)
            raise
        file.sync()
        self._kept[file.path] = max(kept, part.end.offset)

    def _make_retry(self, error: OSError) -> Retry:
        wait_s = min(FIRST_WAIT_S * 2.0 ** min(self._failures, 16), LONGEST_WAIT_S)
        self._failures += 1
        path = self._file.path if self._file is not None else self._rotation.path
        return Retry(reason=f"{path}: {error.strerror}", wait_s=wait_s)

    # --- the files as they are found

    def _has_file(self, place: PathPattern) -> bool:
        """Names with a day have none before the first record."""
        return not self._rotation.is_dated or place.day != ""

    def _switch_to(self, place: PathPattern) -> LineFile:
        path = self._rotation.file_at(place)
        if self._file is None or self._file.path != path:
            opened = LineFile.open(path, written=place.offset)
            if self._file is not None:
                self._file.close()
            self._file = opened
        return self._file

    def _settle(self, file: LineFile, start: int, expected: bytes) -> None:
        end, aside = file.settle_tail(start, expected)
        self._kept[file.path] = max(end, start)
        if aside is not None:
            log.warning(
                "sink.foreign_tail", sink=self.name, position=end, size=aside.stat().st_size, kept_in=str(aside)
            )

    def _find_file_gone(self) -> str | None:
        """Return what became of a file that was moved, deleted or emptied meanwhile: what follows goes to a new one.

        The new place is noted before anything stands there, so that a crash in between confuses nobody.
        """
        file, offset = self._file, self._place.offset
        if file is None or not self._has_file(self._place) or file.path != self._rotation.file_at(self._place):
            return None
        if not file.is_at_path():
            if file.size > offset:
                file.cut(offset)  # what is not acknowledged goes to the new file
            event, reason = "sink.file_moved", f"{file.path} was moved or deleted: going on in a new file"
        elif file.size == 0 < offset:
            event, reason = "sink.file_emptied", f"{file.path} was emptied: going on at its beginning"
        else:
            if file.size < offset:
                file.refuse_other(offset)
            return None
        log.warning(event, sink=self.name, position=offset)
        file.close()
        self._file = None
        self._place = replace(self._place, offset=0)
        self._kept.clear()
        return reason

    def _refuse_unknown_data(self) -> None:
        for path in [*self._rotation.written_files(), *([] if self._rotation.is_dated else [self._rotation.path])]:
            if path.is_file() and (size := path.stat().st_size):
                LineFile.open(path, written=0).close()  # whoever is writing it now is the better thing to say
                raise SinkError(
                    f"{path} already holds {size:,} bytes that this state does not know; "
                    "choose another path, or move it away"
                )

    @contextmanager
    def _errors_for_people(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            path = error.filename or (self._file.path if self._file is not None else self._rotation.path)
            raise SinkError(f"{path} cannot be used: {error.strerror}; mend that, then run again") from None
