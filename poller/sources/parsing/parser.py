"""Turn blocks of bytes into chunks of read lines. Pure: what comes out does not depend on how the bytes were cut."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Protocol

from poller.core.model import Chunk, Position, Rejection
from poller.sources.parsing.csv_table import Table, table_demanded, table_under
from poller.sources.parsing.line import Feeding, Gathered, SingleLines, is_comment, text_of
from poller.sources.parsing.lines import Line, Splitter, excerpt

_BOM = "\N{ZERO WIDTH NO-BREAK SPACE}".encode()


class Reading(Protocol):
    """Reads lines of one format, each as a whole or as part of a record."""

    def read(self, lines: Sequence[Line], count: int, first: int, final: bool, into: Gathered, /) -> int:
        """Read what begins within the first `count` lines (the first has the number `first`) into `into`; return how
        many lines that took. Fewer than `count`: it needs more lines, unless `final`."""
        ...


def reading_of(line: str, feeding: Feeding, source: str) -> Reading:
    """Return how input is read whose first line with content is `line`. Raises `InputError` for a CSV without ids."""
    if feeding.format == "csv":
        return table_demanded(line, feeding, source)
    table = table_under(line, feeding) if feeding.format == "auto" else None
    return table or SingleLines(feeding=feeding)


class Parser:
    """Reads one source. Holds no more than one block, one unfinished line and one chunk."""

    def __init__(
        self, feeding: Feeding, source: str, *, start: Position | None = None, reading: Reading | None = None
    ) -> None:
        """`source` names the input in errors; `start` is where it is read on, and `reading` what is known of it."""
        self._feeding = feeding
        self._source = source
        self._position = replace(start or Position(), fingerprint="", ended=False)
        self._reading = reading
        self._splitter = Splitter(feeding.max_line_bytes)
        self._pending: list[Line] = []
        self._at_beginning = self._position.offset == 0
        self._last_break = 1  # length of the line break after the last line

    @property
    def reading(self) -> Reading | None:
        """How the input is read; None while no line with content was seen."""
        return self._reading

    @property
    def is_within_line(self) -> bool:
        """The last line has no line break yet."""
        return self._splitter.is_within_line

    def push(self, block: bytes) -> Iterator[Chunk]:
        """Yield the full chunks that `block` completes."""
        self._append(self._splitter.push(block))
        while len(self._pending) >= self._feeding.chunk_lines:
            chunk = self._take(self._feeding.chunk_lines, final=False)
            if chunk is None:
                return
            yield chunk

    def flush(self) -> Chunk | None:
        """Return a chunk of the lines at hand, None where there are none that can be read yet."""
        return self._take(len(self._pending), final=False)

    def end(self) -> Iterator[Chunk]:
        """Yield what is left. The last chunk, which may be empty, says that the source has ended."""
        last = self._splitter.rest()
        if last is not None:
            self._append([last])
            self._last_break = 0
        while len(self._pending) > self._feeding.chunk_lines:
            chunk = self._take(self._feeding.chunk_lines, final=True)
            if chunk is not None:
                yield chunk
        chunk = self._take(len(self._pending), final=True)
        self._position = replace(self._position, ended=True)
        yield replace(chunk or Chunk(fed=(), rejected=(), blank=0, position=self._position), position=self._position)

    def end_within_line(self, reason: str) -> Iterator[Chunk]:
        """As `end`, where a last line without a line break is only a part of one: it is rejected."""
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
        into = Gathered()
        taken = 0 if self._reading else self._detect(count, into)
        if self._reading and taken < count:
            taken += self._reading.read(
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

    def _detect(self, count: int, into: Gathered) -> int:
        """Read lines up to the first that tells the format, a CSV header included; return how many."""
        for at, line in enumerate(self._pending[:count]):
            try:
                text = text_of(line)
            except ValueError as reason:
                into.reject(self._position.line + at + 1, line, reason)
                continue
            if text.strip() and not is_comment(text):
                self._reading = reading_of(text, self._feeding, self._source)
                if not isinstance(self._reading, Table):
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


def reading_so_far(blocks: Iterator[bytes], feeding: Feeding, source: str) -> Reading | None:
    """Return how a source is read of which `blocks` were read before; None if they do not tell yet."""
    parser = Parser(feeding, source)
    for block in blocks:
        for _chunk in parser.push(block):
            pass
        parser.flush()
        if parser.reading is not None:
            return parser.reading
    for _chunk in parser.end():
        pass
    return parser.reading
