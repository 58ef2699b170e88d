"""Turn blocks of bytes into chunks of parsed lines. Pure: the result does not depend on the size of the blocks."""

import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from itertools import accumulate
from string import whitespace
from typing import Any, Self, cast

from poller.core.errors import InputError, UnfitInput
from poller.core.model import Chunk, FedRow, Position, Rejection
from poller.sources.options import ReadOptions
from poller.sources.parsing.content import BEGINNING_BYTES, Content, recognize, shows_content
from poller.sources.parsing.csv_table import HEADER_LINES, CsvReader, whole_header
from poller.sources.parsing.line import ParsedLines, PlainLines, is_comment, text_of
from poller.sources.parsing.line_reader import LineReader, reader_for
from poller.sources.parsing.lines import JsonSplitter, Line, LineSplitter, excerpt

_SEPARATOR = re.compile(r"\s*\"?sep=([^\w\s\"']|\t)\"?\s*", re.IGNORECASE)  # a first line that Excel reads and writes
CSV_LINES = 5_000  # a chunk: one whose quote is not closed, or that is rejected, costs ten times a plain one
_BLANK = f"{whitespace},;"  # what an empty row of a table has


class Parser:
    """Parses one source. Holds at most one block, one unfinished line and one chunk."""

    def __init__(self, options: ReadOptions, source: str, content: Content | None = None) -> None:
        """`source` names the input in errors; `content` is how it is read, None where its first bytes decide."""
        self.reader: LineReader | None = None  # None until a usable line was seen
        self.first_reader: LineReader | None = None  # before any header of other columns
        self._options = options
        self._source = source
        self._position = Position()
        self.content = content
        self._splitter = LineSplitter(options.max_line_bytes, Content())
        self._beginning = bytearray()  # what was not recognized yet
        self._nuls = 0  # before it: a writer went on at its old offset after its file was truncated
        self._pending: list[Line] = []
        self._delimiter: str | None = None  # named by a first line `sep=;`
        self.headers: tuple[tuple[int, int], ...] = ()  # offset and bytes of the later ones that `reader` follows from
        self.ends_within_record = False  # the input has ended where it may be only half written
        self.ends_torn = False  # its last line was rejected, as a part of one
        self._lines_of_last = 1  # of the latest record

    @classmethod
    def of_beginning(cls, options: ReadOptions, source: str, content: Content | None, before: Iterator[bytes]) -> Self:
        """Return a parser that has read as much of `before` as shows the format."""
        parser = cls(options, source, content)
        for block in before:
            for _chunk in parser.push(block):
                pass
            parser.flush()
            if parser.reader is not None:
                return parser
        for _chunk in parser.end():
            pass
        return parser

    @classmethod
    def resumed(
        cls,
        options: ReadOptions,
        source: str,
        start: Position,
        content: Content,
        before: Iterator[bytes],
        last: bytes,
        headers: Mapping[tuple[int, int], bytes],
    ) -> Self:
        """Return a parser for what follows `start`, in the format that the input `before` it shows; `last` are the last
        bytes of that, `headers` the later ones that were in force, by their places."""
        parser = cls(options, source)
        if start.offset == 0:
            return parser
        parser._begin(content, last)
        known = cls.of_beginning(options, source, content, before)
        parser.reader, parser._delimiter = known.first_reader or known.reader, known._delimiter  # noqa: SLF001 - of this class
        parser.first_reader = known.first_reader
        for header in headers.values():
            splitter = LineSplitter(options.max_line_bytes, content)
            lines = splitter.push(header) + [line for line in (splitter.rest(),) if line is not None]
            parser.reader = parser.reader.below(lines) if isinstance(parser.reader, CsvReader) else parser.reader
        parser.headers = tuple(headers)
        parser._position = replace(start, fingerprint="", ended=False, digest="")
        return parser

    def use_accounts_of(self, options: ReadOptions | None) -> None:
        """Read what comes from now on for the accounts of these options; None: go on as before."""
        if options is None:
            return
        self._options = self._options.with_accounts_of(options)
        if self.reader is not None:
            self.reader = replace(cast("Any", self.reader), options=self.reader.options.with_accounts_of(options))

    @property
    def is_within_line(self) -> bool:
        """Whether the last line has no line break yet, or a record goes over lines that are not there yet."""
        return bool(self._beginning or self._pending) or self._splitter.is_within_line

    @property
    def holds_lines(self) -> bool:
        """Whether it has lines that are no part of a chunk yet, beside an unfinished last one."""
        return bool(self._beginning or self._pending)

    def push(self, block: bytes) -> Iterator[Chunk]:
        """Yield the full chunks that `block` completes. Raises `InputError` for what is no text, and for CSV without
        an id column."""
        if self._begun:
            self._pending += self._splitter.push(block)
        elif not self._collect(block):
            return
        while count := self._full_chunk():
            chunk = self._take(count, final=False)
            if chunk is None:
                return
            yield chunk

    def _full_chunk(self) -> int:
        """Return how many of the lines at hand make a full chunk; 0 where they make none yet."""
        lines, most_bytes = self._options.chunk_lines, self._options.chunk_bytes
        if self.reader is None or isinstance(self.reader, CsvReader):
            lines = min(lines, CSV_LINES)
        sizes = self._splitter.sizes[:lines]
        full = lines if len(sizes) >= lines else 0
        if sum(sizes) < most_bytes:
            return full
        held = accumulate(min(size, self._options.max_line_bytes) for size in sizes)  # no more of a line is in memory
        return next((count for count, total in enumerate(held, 1) if total >= most_bytes), full)

    def flush(self) -> Chunk | None:
        """Return a chunk of the lines at hand, None where there are none that can be read yet."""
        if self._beginning and (self.content or shows_content(bytes(self._beginning), self._options.format)):
            self._recognize()
        return self._take(len(self._pending), final=False)

    def end(self) -> Iterator[Chunk]:
        """Yield what is left. The last chunk, which may be empty, marks the source as ended."""
        self._end_beginning()
        self.ends_within_record |= self._splitter.is_within_value
        last = self._splitter.rest()
        if last is not None:
            self._pending.append(last)
        chunk = None
        while self._pending:
            count = self._full_chunk() or len(self._pending)
            chunk = self._take(count, final=True)
            if chunk is not None and self._pending:
                yield chunk
        self.ends_within_record |= last is not None and self._may_go_on
        offset = self._position.offset + self._splitter.trailing_bytes
        self._position = replace(self._position, offset=offset, ended=True)
        yield replace(chunk or Chunk(fed=(), rejected=(), blank=0, position=self._position), position=self._position)

    @property
    def _may_go_on(self) -> bool:
        """Whether more than the last line may have been read otherwise for it to have no line break."""
        is_header = bool(self.headers) and sum(self.headers[-1]) == self._position.offset
        return self.reader is None or self._lines_of_last > 1 or is_header

    def end_within_line(self, reason: str) -> Iterator[Chunk]:
        """As `end`, but reject a last line without a line break: it is only a part of one."""
        self._end_beginning()
        torn = self._splitter.rest()
        self.ends_torn = torn is not None
        size = 0 if torn is None else self._splitter.sizes.pop()
        for chunk in self.end():
            if torn is None or not chunk.position.ended:
                yield chunk
                continue
            rejection = Rejection(line=chunk.position.line + 1, reason=reason, excerpt=excerpt(torn))
            self._position = replace(chunk.position, offset=chunk.position.offset + size, line=chunk.position.line + 1)
            yield replace(chunk, rejected=(*chunk.rejected, rejection), position=self._position)

    # --- the beginning

    _begun = False

    def _collect(self, block: bytes) -> bool:
        """Keep the first bytes until they can be recognized; return whether they are."""
        if not self._beginning:
            found = block.lstrip(b"\0")
            self._nuls += len(block) - len(found)
            block = found
        self._beginning += block
        if len(self._beginning) < BEGINNING_BYTES:
            return False
        self._recognize()
        return True

    def _recognize(self) -> None:
        beginning = bytes(self._beginning)
        self._beginning.clear()
        content = self.content or recognize(beginning[:BEGINNING_BYTES], self._options.format, self._source)
        self._begin(content)
        self._position = replace(self._position, offset=self._nuls + content.mark_bytes)
        self._pending += self._splitter.push(beginning[content.mark_bytes :])

    def _begin(self, content: Content, before: bytes = b"") -> None:
        self._begun, self.content = True, content
        most = self._options.max_line_bytes
        self._splitter = JsonSplitter(most, content, before) if content.is_json else LineSplitter(most, content)
        if content.is_json and self._options.rows is None:
            self.reader = PlainLines(options=replace(self._options, format="jsonl"))

    def _end_beginning(self) -> None:
        """Recognize an input that is short. One of NULs alone is a line that is refused."""
        if self._begun:
            return
        has_only_nuls = self._nuls > 0 and not self._beginning
        self._recognize()
        if has_only_nuls:
            self._pending.append(b"\0")
            self._splitter.sizes.append(0)

    # --- lines

    def _take(self, count: int, *, final: bool) -> Chunk | None:
        into = ParsedLines()
        try:
            taken = self._read(count, into, final=final)
        except UnfitInput as error:
            raise UnfitInput(f"{self._source}: {error}") from None
        if taken == 0:
            return None
        self._advance(taken)
        usable = tuple(into.fed)
        return Chunk(
            fed=() if self._options.rows else usable,
            rows=cast("tuple[FedRow, ...]", usable) if self._options.rows else (),
            rejected=tuple(into.rejected),
            blank=into.blank,
            position=self._position,
        )

    def _read(self, count: int, into: ParsedLines, *, final: bool) -> int:
        """Read lines at hand; return how many that took."""
        taken = 0 if self.reader else self._detect(count, into, final=final)
        self.first_reader = self.first_reader or self.reader
        done, offset, sizes = 0, self._position.offset, self._splitter.sizes
        while self.reader and taken < count:
            taken += self.reader.read(
                self._pending[taken:] if taken else self._pending,
                count - taken,
                self._position.line + taken + 1,
                final,
                into,
            )
            if into.successor is None:
                break
            header = into.rejected[-1].line - self._position.line - 1
            offset, length = offset + sum(sizes[done:header]), sum(sizes[header:taken])
            self._note_header(into.successor, (offset, length))
            self.reader, into.successor = into.successor, None
            done, offset = taken, offset + length
        self.ends_within_record |= into.is_cut_off
        self._lines_of_last = into.lines_of_last
        return taken

    def _note_header(self, table: CsvReader, place: tuple[int, int]) -> None:
        """Note a header of other columns. One that is not clear is understood by the clear one before it."""
        if not table.unclear:
            self.headers = ()
        elif isinstance(self.reader, CsvReader) and self.reader.unclear:
            self.headers = self.headers[:-1]
        self.headers = (*self.headers, place)

    def _detect(self, count: int, into: ParsedLines, *, final: bool) -> int:
        """Read lines up to the first that shows the format, a CSV header included; return how many.

        A title before it is a rejected line. Stops before a line whose meaning depends on lines not there yet.
        """
        for at, line in enumerate(self._pending[:count]):
            try:
                text = text_of(line)
                if self._is_blank(text) or is_comment(text) or self._names_delimiter(text):
                    into.blank += 1
                    continue
                header_lines = self._find_reader(at, final=final)
            except ValueError as reason:
                into.reject(self._position.line + at + 1, line, reason)
                continue
            into.blank += header_lines
            into.lines_of_last = max(1, header_lines)
            return at + header_lines
        return count

    def _find_reader(self, at: int, *, final: bool) -> int:
        """Choose the reader by the line at `at`; return how many lines its header takes. Without a reader it needs
        more lines. Raises `ValueError` for a line that shows no format."""
        text, taken = whole_header(self._pending, at, self._options, self._delimiter)
        following = self._following(at + taken)
        if (taken == 0 or (taken > 1 and following is None)) and not final:
            return 0
        self.ends_within_record |= taken == 0
        if taken > 1:
            with suppress(ValueError, InputError):
                reader = reader_for(text, self._options, self._source, self._delimiter, following)
                if isinstance(reader, CsvReader) and reader.has_header:
                    self.reader = reader
                    return taken
        text = text_of(self._pending[at])
        following = self._following(at + 1)
        if following is None and not final and re.search("[0-9/]", text) is None:
            return 0
        self.reader = reader_for(text, self._options, self._source, self._delimiter, following)
        return int(isinstance(self.reader, CsvReader) and self.reader.has_header)

    def _following(self, at: int) -> str | None:
        """Return the first line from `at` on which has text, None where there is none yet."""
        if self._options.id_number is None:
            return ""  # the line itself is enough
        for line in self._pending[at : at + HEADER_LINES]:
            if not isinstance(line, bytes):
                return ""
            if line.strip():
                return line.decode("utf-8", "replace").removesuffix("\r")
        return "" if len(self._pending) > at + HEADER_LINES else None

    def _is_blank(self, text: str) -> bool:
        """Whether a line above the first record has no value: white space, or delimiters of an empty row."""
        return not text.strip(_BLANK if self._options.format in ("auto", "csv") else None)

    def _names_delimiter(self, text: str) -> bool:
        if self._options.format not in ("auto", "csv") or (found := _SEPARATOR.fullmatch(text)) is None:
            return False
        self._delimiter = found[1]
        return True

    def _advance(self, lines: int) -> None:
        sizes = self._splitter.sizes
        offset = self._position.offset + sum(sizes[:lines])
        del self._pending[:lines], sizes[:lines]
        self._position = replace(self._position, offset=offset, line=self._position.line + lines)
