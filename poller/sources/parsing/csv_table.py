"""Read CSV: the header, and records that may span several lines. A broken record affects no other line."""

import csv
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import orjson

from poller.core.errors import InputError
from poller.core.model import Fed
from poller.sources.options import ReadOptions
from poller.sources.parsing.line import ACCOUNT_NAME, ParsedLines, account_from, id_from, text_of
from poller.sources.parsing.lines import Line

_DELIMITERS = (",", ";", "\t")
_COLUMNS_SHOWN = 20
_NAME_SHOWN = 40


@dataclass(frozen=True, slots=True, kw_only=True)
class CsvReader:
    """Reads the records below one header."""

    options: ReadOptions
    delimiter: str
    names: tuple[str, ...]  # the columns, each name once
    id_at: int
    account_at: int | None

    def read(self, lines: Sequence[Line], count: int, first: int, final: bool, into: ParsedLines) -> int:
        """Read the records that begin within the first `count` lines; return how many lines they took.

        Stops before a record that may continue in lines not there yet, unless `final`: no more will come.
        """
        at = 0
        while at < count:
            try:
                taken, fed = self._record(lines, at, final)
            except ValueError as reason:
                into.reject(first + at, lines[at], reason)
                at += 1
                continue
            if taken == 0:
                break
            into.take(fed)
            at += taken
        return at

    def _record(self, lines: Sequence[Line], at: int, final: bool) -> tuple[int, Fed | None]:
        """Return how many lines the record at `at` takes (0: not known yet), and its task."""
        text = text_of(lines[at])
        if not text.strip():
            return 1, None
        if '"' not in text:
            return 1, self._fed(text.split(self.delimiter))
        record = _RecordLines(self, lines, at)
        fields = _fields(record, self.delimiter)
        if record.lacks_lines and not final:
            return 0, None
        if record.unclosed:
            raise ValueError("a quoted value is not closed")
        if record.taken > 1 and len(fields) != len(self.names):
            raise ValueError(f"a quoted value runs over {record.taken} lines, and the record does not fit the header")
        return record.taken, self._fed(fields)

    def _fed(self, fields: list[str]) -> Fed:
        if any(fields[len(self.names) :]):
            raise ValueError(
                f"{len(fields)} fields under a header of {len(self.names)}: quote values that hold {self.delimiter!r}"
            )
        if self.id_at >= len(fields):
            raise ValueError(f"no id: the line ends before the column {self.names[self.id_at]}")
        task_id = id_from(fields[self.id_at])
        account = self.options.default_account
        ref = dict(zip(self.names, fields, strict=False))
        del ref[self.names[self.id_at]]
        if self.account_at is not None:
            account = account_from(ref.pop(self.names[self.account_at], None), self.options)
        return Fed(account=account, task_id=task_id, ref=orjson.dumps(ref) if ref else None)

    def is_record(self, text: str) -> bool:
        """Whether a line alone is a record: every column and a usable id."""
        alone = csv.reader((text, ""), delimiter=self.delimiter)
        try:
            fields = next(alone)
            id_from(fields[self.id_at])
        except (csv.Error, ValueError, IndexError):
            return False
        return alone.line_num == 1 and len(fields) == len(self.names)


class _RecordLines:
    """Iterates over the lines of one record: `csv.reader` takes another while a quote is open."""

    def __init__(self, table: CsvReader, lines: Sequence[Line], at: int) -> None:
        self._table = table
        self._lines = lines
        self._at = at
        self._bytes = 0
        self.taken = 0
        self.unclosed = False  # `csv.reader` wanted another line, and got none
        self.lacks_lines = False  # because there are no more yet

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        at = self._at + self.taken
        self.lacks_lines = at >= len(self._lines)
        line = None if self.lacks_lines else self._next_line(self._lines[at])
        if line is None:
            self.unclosed = True
            raise StopIteration
        self.taken += 1
        return line

    def _next_line(self, line: Line) -> str | None:
        """Return the line if it may belong to the record, None if it is a record of its own."""
        self._bytes += len(line) + 1
        line_break = "\r\n" if isinstance(line, bytes) and line.endswith(b"\r") else "\n"
        if self.taken == 0:
            return text_of(line) + line_break
        if self._bytes > self._table.options.max_line_bytes:
            return None
        try:
            text = text_of(line)
        except ValueError:
            return None
        if self._table.is_record(text):
            return None
        return text + line_break


def find_table(header: str, options: ReadOptions) -> CsvReader | None:
    """Return the reader of the records below `header`, None if it is not a CSV header with an id column."""
    tables = [table for delimiter in _DELIMITERS if (table := _table(header, delimiter, options)) is not None]
    return max(tables, key=lambda table: len(table.names), default=None)


def require_table(header: str, options: ReadOptions, source: str) -> CsvReader:
    """As `find_table`, but raises `InputError` naming the columns found."""
    table = find_table(header, options)
    if table is not None:
        return table
    columns = max((_columns(header, delimiter) or [] for delimiter in _DELIMITERS), key=len)
    found = ", ".join(ascii(name[:_NAME_SHOWN]) for name in columns[:_COLUMNS_SHOWN]) or "none"
    raise InputError(
        f"{source}: the CSV header has no column {' or '.join(options.id_names)}. Columns found: {found}. "
        "Name the one that holds the task ids with --id-column."
    )


def _table(header: str, delimiter: str, options: ReadOptions) -> CsvReader | None:
    columns = _columns(header, delimiter)
    id_at = _find(columns, options.id_names) if columns else None
    if columns is None or id_at is None:
        return None
    account_at = _find(columns, (ACCOUNT_NAME,))
    return CsvReader(
        options=options,
        delimiter=delimiter,
        names=_distinct(columns),
        id_at=id_at,
        account_at=account_at if account_at != id_at else None,
    )


def _columns(header: str, delimiter: str) -> list[str] | None:
    """Return the header's names; None where a quoted one is not closed."""
    reader = csv.reader((header, ""), delimiter=delimiter)
    try:
        names = next(reader)
    except csv.Error:
        return None
    return [name.strip() for name in names] if reader.line_num == 1 else None


def _find(columns: Sequence[str], names: Sequence[str]) -> int | None:
    """Return the column of the first of `names` that exists; an exact match wins over one that ignores case."""
    for name in names:
        if name in columns:
            return columns.index(name)
    folded = [column.casefold() for column in columns]
    return next((folded.index(name.casefold()) for name in names if name.casefold() in folded), None)


def _distinct(columns: Sequence[str]) -> tuple[str, ...]:
    """Return the columns' names as keys of one object; empty and repeated ones get their column's number."""
    names: dict[str, None] = {}
    for number, column in enumerate(columns, 1):
        name = column or f"column_{number}"
        if name in names:
            name = f"{name}_{number}"
        while name in names:
            name += "_"
        names[name] = None
    return tuple(names)


def _fields(lines: Iterator[str], delimiter: str) -> list[str]:
    try:
        return next(csv.reader(lines, delimiter=delimiter))
    except csv.Error as error:
        raise ValueError(f"broken CSV: {error}") from None
