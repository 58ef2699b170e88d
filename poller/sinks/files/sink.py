"""Finished tasks as lines of files, each exactly once, also after a crash at any instant.

The noted position is the offset up to which every record is on disk. Everything after it is written again, with the
same bytes at the same offsets, so even a reader that follows the files sees no change.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Annotated, ClassVar

import structlog
from msgspec import structs
from pydantic import AfterValidator, BeforeValidator, Field

from poller.config.value_types import no_bool
from poller.core.deliveries import Delivery, Retry, Written
from poller.core.disk import FULL
from poller.core.errors import ConfigError, SinkError
from poller.sinks.backoff import Backoff
from poller.sinks.files.line_file import LineFile, refuse_unusable
from poller.sinks.files.rotation import (
    FilePart,
    FilePosition,
    LineFormat,
    Rotation,
    decode_position,
    encode_position,
    pattern_error,
    written_files,
)
from poller.sinks.table import SinkEnvironment, SinkTable

log = structlog.get_logger("poller")


def _usable_pattern(path: Path) -> Path:
    if not path.name:
        raise ValueError("must name a file, such as finished.jsonl")
    problem = pattern_error(path.name)
    if problem or "%" in str(path.parent):
        raise ValueError(problem or "may contain %Y, %m and %d in its last part only")
    return path


class FileTable(SinkTable):
    """Settings of a sink that writes lines to files."""

    FORMAT: ClassVar[LineFormat]
    TARGET: ClassVar[str | None] = "path"

    path: Annotated[Path, AfterValidator(_usable_pattern)]
    rotate_bytes: Annotated[int | None, BeforeValidator(no_bool), Field(ge=4096)] = None

    def make(self, environment: SinkEnvironment) -> "FileSink":  # noqa: ARG002 - the class's
        return FileSink(self.path, self.FORMAT, rotate_bytes=self.rotate_bytes)

    def check_target(self) -> None:
        if self.path.is_dir():
            named = self.path / f"finished.{self.KIND}"
            raise ConfigError(f"sink {self.KIND}: {self.path} is a folder; name a file in it, such as {named}")

    def check_new(self) -> None:
        FileSink(self.path, self.FORMAT).refuse_unknown_data()


class FileSink:
    """Appends lines to regular files. This process holds the lock of each file that it has open."""

    def __init__(self, path: Path, line_format: LineFormat, *, rotate_bytes: int | None = None) -> None:
        self.kind, self.path = line_format.kind, path
        self.name = self.spec = f"{self.kind}:{path}"
        self._rotation = Rotation(path=path, format=line_format, most_bytes=rotate_bytes)
        self._position = FilePosition()
        self._file: LineFile | None = None
        self._kept: dict[Path, int] = {}  # by file, the offset before which its bytes are the next lines' or older
        self._backoff = Backoff()

    async def open(self, position: bytes | None, following: Sequence[Delivery]) -> bytes | None:
        with self._readable_errors():
            if position is None:
                self.refuse_unknown_data()
            else:
                self._position = decode_position(position)
                self._pass_over_archived()
                self._recognize_format()
            parts = self._parts(following)
            self._set_aside_unnoted(parts, following)
            for part in reversed(parts):  # the first one stays open
                if part is parts[0] or self._rotation.file_at(part.start).exists():
                    self._settle(self._switch_to(part.start), part.start.offset, part.lines)
        return encode_position(self._position)

    async def write(self, batch: Sequence[Delivery]) -> Written | Retry:
        parts = self._parts(batch)
        with self._readable_errors():
            if reason := self._find_file_gone():
                return Retry(reason=reason, wait_s=0.0, position=encode_position(self._position))
            try:
                for part in parts:
                    self._write_part(part)
            except OSError as error:
                if error.errno not in FULL:
                    raise
                return self._backoff.retry(f"{self._path}: {error.strerror}")
        self._backoff.reset()
        for part in parts[:-1]:
            del self._kept[self._rotation.file_at(part.start)]
        self._position = parts[-1].end if parts else self._position
        return Written(position=encode_position(self._position))

    def _pass_over_archived(self) -> None:
        """Continue in a new file where that of a day was moved while no run was at work: people archive such files. A
        folder that is not there may be a disk that is not mounted."""
        if not (self._rotation.is_dated and self._position.offset):
            return
        path = self._rotation.file_at(self._position)
        if path.parent.is_dir() and not path.exists():
            log.warning("sink.file_moved", sink=self.name, position=self._position.offset)
            self._position = structs.replace(self._position, offset=0)

    def _recognize_format(self) -> None:
        """Continue a file in the format in which an earlier version began it."""
        if not self._position.offset or not self._rotation.format.older:
            return
        path = self._rotation.file_at(self._position)
        if not path.is_file():
            return
        with path.open("rb") as file:
            for older in self._rotation.format.older:
                file.seek(0)
                if file.read(len(older.header)) == older.header:
                    self._rotation = replace(self._rotation, begun=(self._position, older))

    def has_data(self) -> bool:
        """Return whether a file of this sink exists and is not empty."""
        with self._readable_errors():
            return any(file.stat().st_size for file in written_files(self.path))

    async def close(self) -> None:
        if self._file is not None:
            self._file.close()

    def _parts(self, batch: Sequence[Delivery]) -> list[FilePart]:
        """Return what to write where. The file of the position comes first, also without lines."""
        parts = self._rotation.parts(self._position, batch)
        if self._has_file(self._position) and (not parts or parts[0].start != self._position):
            return [FilePart(start=self._position, lines=b""), *parts]
        return parts

    def _write_part(self, part: FilePart) -> None:
        file, offset = self._switch_to(part.start), part.start.offset
        kept = max(offset, self._kept.get(file.path, 0))
        self._settle(file, kept, b"")
        try:
            file.write(part.lines, offset)
        except OSError:
            with suppress(OSError):  # readers need not see half a line while the disk is full
                file.cut(kept)
            raise
        file.sync()
        self._kept[file.path] = max(kept, part.end.offset)

    # --- the files as they are found

    @property
    def _path(self) -> Path:
        return self._file.path if self._file is not None else self._rotation.path

    def _has_file(self, position: FilePosition) -> bool:
        """A dated name has no file before the first record."""
        return not self._rotation.is_dated or position.day != ""

    def _switch_to(self, position: FilePosition) -> LineFile:
        path = self._rotation.file_at(position)
        if self._file is None or self._file.path != path:
            header = self._rotation.format_at(position).header
            opened = LineFile.open(path, written=position.offset, header=header, spec=self.spec)
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

    def _set_aside_unnoted(self, parts: Sequence[FilePart], following: Sequence[Delivery]) -> None:
        """Set aside what was written after the position by a process that rotated otherwise: it is written again."""
        files = written_files(self._rotation.path)
        current = self._rotation.file_at(self._position) if self._has_file(self._position) else None
        later = files[files.index(current) + 1 :] if current in files else files
        for path in set(later) - {self._rotation.file_at(part.start) for part in parts}:
            form = self._rotation.format
            heads = tuple({form.header + form.line(delivery) for delivery in following})
            with path.open("rb") as file:
                begin = file.read(max(map(len, heads), default=0))
            if begin.startswith(heads):
                opened = LineFile.open(path, written=0, header=form.header, spec=self.spec)
                self._settle(opened, 0, b"")
                opened.close()

    def _find_file_gone(self) -> str | None:
        """Return why the next lines go to a new file: the present one was moved, deleted or emptied. None if not.

        The new position is noted before anything is written there, so a crash in between is harmless.
        """
        file, offset = self._file, self._position.offset
        if file is None or not self._has_file(self._position) or file.path != self._rotation.file_at(self._position):
            return None
        if not file.is_at_path():
            if file.size > offset:
                file.cut(offset)  # what is not acknowledged goes to the new file
            event, reason = "sink.file_moved", f"{file.path} was moved or deleted: continuing in a new file"
        elif file.size == 0 < offset:
            event, reason = "sink.file_emptied", f"{file.path} was emptied: continuing at its start"
        else:
            if file.size < offset:
                file.refuse_other(offset)
            return None
        log.warning(event, sink=self.name, position=offset)
        file.close()
        self._file = None
        self._position = structs.replace(self._position, offset=0)
        self._rotation = replace(self._rotation, begun=None)
        self._kept.clear()
        return reason

    def refuse_unknown_data(self) -> None:
        """Raise `SinkError` where no file can be made, or one of this sink has data: no state knows its origin."""
        with self._readable_errors():
            refuse_unusable(self._rotation.path)
            self._refuse_data()

    def _refuse_data(self) -> None:
        path = self._rotation.path
        for file in [*written_files(path), *([] if self._rotation.is_dated else [path])]:
            if file.is_file() and (size := file.stat().st_size):
                LineFile.open(file, written=0).close()  # raises where another process has it open: a better message
                raise SinkError(
                    f"{file} already contains {size:,} bytes that this state did not write; "
                    "choose another path, or move the file away"
                )

    @contextmanager
    def _readable_errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            path = error.filename or self._path
            raise SinkError(f"{path} cannot be used: {error.strerror}; fix that, then run again") from None
