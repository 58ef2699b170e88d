"""What is noted with how far a file was read: the digest of what was read, and how its lines were read."""

import asyncio
import hashlib
from typing import Self

from poller.core.model import Position
from poller.sources.files.open_file import OpenFile
from poller.sources.options import ReadOptions
from poller.sources.parsing.content import Content, recognize
from poller.sources.parsing.csv_table import CsvReader
from poller.sources.parsing.parser import Parser

OF_ROWS, OF_REST = 3, 4  # places of the digest of an import's options, and of what the rest needs, in what is noted
_HALF, _TORN = "half", "torn"


class ReadDigest:
    """The digest of what was read of a file, taken of the very blocks that were parsed: what is corrected in the file
    a moment later is not in it."""

    def __init__(self) -> None:
        self.offset = 0  # bytes
        self._found = hashlib.sha256()
        self._following = bytearray()

    @classmethod
    async def of(cls, file: OpenFile, offset: int) -> Self:
        """Return the digest of the file's first `offset` bytes: a second for each 500 MB."""
        digest = cls()
        for block in file.blocks_before(offset):
            digest.push(block)
            digest.up_to(digest.offset + len(block))
            await asyncio.sleep(0)
        return digest

    def push(self, block: bytes) -> None:
        """Take what was read next."""
        self._following += block

    def fold(self, parser: Parser) -> None:
        """Keep no more of what was read so far than its digest where the parser has no line of it: `up_to` will not be
        asked for less, and a line, or NULs before the first one, may be as long as the file."""
        if parser.holds_lines:
            return
        self._found.update(bytes(self._following))
        self.offset += len(self._following)
        self._following.clear()

    def up_to(self, offset: int) -> str:
        """Return the digest up to `offset`, which was read and is not before that of the last call."""
        length = offset - self.offset
        self._found.update(bytes(self._following[:length]))
        del self._following[:length]
        self.offset = offset
        return self._found.hexdigest()


def manner_of(parser: Parser, options: ReadOptions) -> str:
    """Return short digests: of what decides which tasks the lines of a file are, in the first format it has, of what
    else decides which lines are rejected, and of the options with which rows are imported; then what reading on
    depends on: the kind of content, whether the file may be half written, and the places of headers in force."""
    reader = parser.first_reader
    named = options.rows.columns.named.get("url") if options.rows is not None else options.id_column
    place: tuple[object, ...] = () if reader is None else (named,)
    if isinstance(reader, CsvReader):
        place = (reader.delimiter, reader.id_at, reader.account_at, reader.has_header)
    tasks = (options.rows is not None, *place, options.default_account)
    digests = map(_short, (tasks, (options.format, named, sorted(options.accounts)), _of_rows(options)))
    ends = [_HALF] * parser.ends_within_record + [_TORN] * parser.ends_torn
    rest = [_kind(parser.content), *ends]
    return " ".join((*digests, ":".join((*rest, *(f"{offset}+{length}" for offset, length in parser.headers)))))


def _kind(content: Content | None) -> str:
    return "none" if content is None else "json" if content.is_json else content.break_bytes.hex()


def headers_before(file: OpenFile, position: Position) -> dict[tuple[int, int], bytes]:
    """Return the later headers in force at `position`, by their places: offset and bytes."""
    noted = ":".join(position.digest.split(" ")[OF_REST:]).split(":")
    pairs = (place.split("+") for place in noted if "+" in place)
    places = [(int(offset), int(length)) for offset, length in pairs]
    return {(offset, length): file.at(offset, length) for offset, length in places}


def has_rest(file: OpenFile, position: Position) -> bool:
    """Whether anything of a file that was read up to `position` may still be read."""
    return position.offset > 0 and not (position.ended and file.size == position.offset)


def is_rest_its_own(file: OpenFile, position: Position, options: ReadOptions) -> bool:
    """Whether what follows `position` is no part of a record that was half written, and the file is not known by now
    as other content."""
    kind, *others = (position.digest.split(" ")[OF_REST:] or [""])[0].split(":")
    now = _kind(recognize(file.beginning(), options.format, file.name))
    return kind in ("", now) and not (position.ended and _HALF in others)


def is_half(position: Position) -> bool:
    """Whether a record before `position` was cut off by the end that the file had."""
    return _HALF in ":".join(position.digest.split(" ")[OF_REST:]).split(":")


def is_torn(position: Position) -> bool:
    """Whether the last line before `position` was rejected, since its line break did not come."""
    return _TORN in ":".join(position.digest.split(" ")[OF_REST:]).split(":")


def lacks_headers(position: Position, parser: Parser) -> bool:
    """Whether an earlier version did not note the headers of a table, whose beginning `parser` has read."""
    return isinstance(parser.first_reader, CsvReader) and not position.digest.split(" ")[OF_REST:]


def _of_rows(options: ReadOptions) -> tuple[object, ...]:
    rows = options.rows
    return () if rows is None else (sorted(rows.columns.named.items()), sorted(rows.defaults.items()), rows.key)


def has_other_options(noted: str, options: ReadOptions) -> bool:
    """Return whether rows were imported with other options than now, as far as what was noted with them shows it."""
    digests = noted.split(" ")
    return len(digests) > OF_ROWS and digests[OF_ROWS] != _short(_of_rows(options))


def parser_before(file: OpenFile, offset: int, options: ReadOptions) -> Parser:
    """Return a parser that has read how the first `offset` bytes of a file begin, as they would be read now. Raises
    `InputError` as reading them would."""
    content = recognize(file.beginning(), options.format, file.name) if offset else None
    return Parser.of_beginning(options, file.name, content, file.blocks_before(offset))


def _short(values: tuple[object, ...]) -> str:
    return hashlib.sha256(repr(values).encode("utf-8", "backslashreplace")).hexdigest()[:16]
