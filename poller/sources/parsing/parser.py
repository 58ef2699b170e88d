"""Turn blocks of bytes into chunks of parsed lines. Pure: the result does not depend on the size of the blocks."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Protocol

from poller.core.model import Chunk, Position, Rejection
from poller.sources.options import ReadOptions
from poller.sources.parsing.csv_table import CsvReader, find_table, require_table
from poller.sources.parsing.line import ParsedLines, PlainLines, is_comment, text_of
from poller.sources.parsing.lines import Line, LineSplitter, excerpt

_BOM = "\N{ZERO WIDTH NO-BREAK SPACE}".encode()


class LineReader(Protocol):
    """Parses lines of one format. A record is one line, or several."""

    def read(self, lines: Sequence[Line], count: int, first: int, final: bool, into: ParsedLines, /) -> int:
        """Read what begins within the first `count` lines (the first has the number `first`) into `into`; return how
        many lines that took. Fewer than `count`: it needs more lines, unless `final`."""


def reader_for(line: str, options: ReadOptions, source: str) -> LineReader:
    """Return the reader for input whose first line with content is `line`. Raises `InputError` for CSV without ids."""
    if options.format == "csv":
        return require_table(line, options, source)
    table = find_table(line, options) if options.format == "auto" else None
    return table or PlainLines(options=options)


class Parser:
    """Parses one source. Holds at most one block, one unfinished line and one chunk."""

    def __init__(
        self, options: ReadOptions, source: str, *, start: Position | None = None, reader: LineReader | None = None
    ) -> None:
        """`source` names the input in errors; `start` is where it resumes, and `reader` its format if that is known."""
        self._options = options
        self._source = source
        self._position = replace(start or Position(), fingerprint="", ended=False)
        self.reader = reader  # None until a line with content was seen
        self._splitter = LineSplitter(options.max_line_bytes)
        self._pending: list[Line] = []
        self._at_beginning = self._position.offset == 0
        self._last_break = 1  # length of the line break after the last line

    @property
    def is_within_line(self) -> bool:
        """Whether the last line has no line break yet."""
        return self._splitter.is_within_line

    def push(self, block: bytes) -> Iterator[Chunk]:
        """Yield the full chunks that `block` completes."""
        self._append(self._splitter.push(block))
        while len(self._pending) >= self._options.chunk_lines:
            chunk = self._take(self._options.chunk_lines, final=False)
            if chunk is None:
                return
            yield chunk

    def flush(self) -> Chunk | None:
        """Return a chunk of the lines at hand, None where there are none that can be read yet."""
        return self._take(len(self._pending), final=False)

    def end(self) -> Iterator[Chunk]:
        """Yield what is left. The last chunk, which may be empty, marks the source as ended."""
        last = self._splitter.rest()
        if last is not None:
            self._append([last])
            self._last_break = 0
        while len(self._pending) > self._options.chunk_lines:
            chunk = self._take(self._options.chunk_lines, final=True)
            if chunk is not None:
                yield chunk
        chunk = self._take(len(self._pending), final=True)
        self._position = replace(self._position, ended=True)
        yield replace(chunk or Chunk(fed=(), rejected=(), blank=0, position=self._position), position=self._position)

    def end_within_line(self, reason: str) -> Iterator[Chunk]:
        """As `end`, but reject a last line without a line break: it is only a part of one."""
        torn = self._splitter.rest()
        for chunk in self.end():
            if torn is None or not chunk.position.ended:
                yield chunk
                continue
            rejection = Rejection(line=chunk.position.line + 1, reason=reason, excerpt=excerpt(torn))
            self._position = replace(
                chunk.position, offset=chunk.position.offset + len(torn), line=chunk.position.line + 1
            )
            yield replace(chunk, rejected=(*chunk.rejected, rejection), position=self._position)

    def _append(self, lines: list[Line]) -> None:
        if self._at_beginning and lines:
            self._at_beginning = False
            first = lines[0]
            if isinstance(first, bytes) and first.startswith(_BOM):
                lines[0] = first.removeprefix(_BOM)
                self._position = replace(self._position, offset=len(_BOM))
        self._pending += lines

    def _take(self, count: int, *, final: bool) -> Chunk | None:
        into = ParsedLines()
        taken = 0 if self.reader else self._detect(count, into)
        if self.reader and taken < count:
            taken += self.reader.read(
                self._pending[taken:] if taken else self._pending,
                count - taken,
                self._position.line + taken + 1,
                final,
                into,
            )
        if taken == 0:
            return None
        self._advance(taken)
        return Chunk(fed=tuple(into.fed), rejected=tuple(into.rejected), blank=into.blank, position=self._position)

    def _detect(self, count: int, into: ParsedLines) -> int:
        """Read lines up to the first that shows the format, a CSV header included; return how many."""
        for at, line in enumerate(self._pending[:count]):
            try:
                text = text_of(line)
            except ValueError as reason:
                into.reject(self._position.line + at + 1, line, reason)
                continue
            if text.strip() and not is_comment(text):
                self.reader = reader_for(text, self._options, self._source)
                if not isinstance(self.reader, CsvReader):
                    return at
                into.blank += 1
                return at + 1
            into.blank += 1
        return count

    def _advance(self, lines: int) -> None:
        length = sum(map(len, self._pending[:lines])) + lines
        del self._pending[:lines]
        if not self._pending:
            length += self._last_break - 1
        self._position = replace(
            self._position, offset=self._position.offset + length, line=self._position.line + lines
        )


def detect_reader(blocks: Iterator[bytes], options: ReadOptions, source: str) -> LineReader | None:
    """Return the reader for a source that begins with `blocks`; None if they do not show the format yet."""
    parser = Parser(options, source)
    for block in blocks:
        for _chunk in parser.push(block):
            pass
        parser.flush()
        if parser.reader is not None:
            return parser.reader
    for _chunk in parser.end():
        pass
    return parser.reader
