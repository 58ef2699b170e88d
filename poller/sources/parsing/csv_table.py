"""Read CSV: the header, and records that may span several lines. A broken record affects no other line."""

import csv
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache

import orjson

from poller.core.csv_cells import without_mark
from poller.core.model import Fed
from poller.sources.options import ReadOptions
from poller.sources.parsing.id_name import AmbiguousId, find_id, is_heading
from poller.sources.parsing.line import ACCOUNT_NAME, ParsedLines, account_from, find_name, id_from, text_of
from poller.sources.parsing.lines import Line

csv.field_size_limit(2**31 - 1)  # lines are bounded by `max_line_bytes`, whatever their fields have

AMBIGUOUS_NAME = "id"  # may be a value of another column, too
HEADER_LINES = 20  # that one header takes at most
_WORDS = re.compile(r"[^\W\d_]+(?:[ _.-]+[^\W\d_]+)*")
_DELIMITERS = (",", ";", "\t", "|")
_SHOWN_DELIMITERS = (",", ";", "\t")  # without a header, `|` is more often part of a title


@dataclass(frozen=True, slots=True, kw_only=True)
class CsvReader:
    """Reads the records below one header."""

    options: ReadOptions
    delimiter: str
    names: tuple[str, ...]  # the columns, each name once
    has_header: bool = True  # the first line names the columns
    id_at: int
    account_at: int | None
    header_words: frozenset[str] = frozenset()  # a line with one of these as a value is a header of other columns
    unclear: str = ""  # why it is not known which column of a later header has the id: its records are rejected

    def read(self, lines: Sequence[Line], count: int, first: int, final: bool, into: ParsedLines) -> int:
        """Read the records that begin within the first `count` lines; return how many lines they took.

        Stops before a record that may continue in lines not there yet, unless `final`: no more will come.
        """
        at = 0
        while at < count:
            try:
                taken, fields = self._record(lines, at, final)
            except ValueError as reason:
                into.is_cut_off |= final and isinstance(reason, CutOff)
                into.reject(first + at, lines[at], reason)
                at, into.lines_of_last = at + 1, 1
                continue
            if taken == 0:
                break
            into.lines_of_last = taken
            try:
                into.take(self._task(fields))
            except OtherHeader as header:
                into.reject(first + at, lines[at], header)
                into.successor = header.table
                return at + taken
            except ValueError as reason:
                into.reject(first + at, lines[at], reason)
            at += taken
        return at

    def _record(self, lines: Sequence[Line], at: int, final: bool) -> tuple[int, list[str]]:
        """Return how many lines the record at `at` takes (0: not known yet), and its fields. Raises `ValueError` where
        it is not known which lines are the record's; a record that is whole is rejected whole: a line within its values
        is never a record."""
        text = text_of(lines[at])
        if '"' not in text:
            return 1, text.split(self.delimiter)
        record = _RecordLines(self, lines, at)
        fields = _fields(record, self.delimiter)
        if record.lacks_lines and not final:
            return 0, []
        if record.unclosed:
            raise (CutOff if record.lacks_lines else ValueError)("a quoted value is not closed")
        if record.taken > 1 and len(fields) != len(self.names):
            misfit = CutOff if at + record.taken == len(lines) else ValueError
            raise misfit(f"a quoted value runs over {record.taken} lines, and the record does not fit the header")
        if record.taken > 1 and not _whole_record(self.delimiter).fullmatch("".join(record.text)):
            raise ValueError("a quoted value is not closed before the next quote, which begins another one")
        if record.taken > 1 and self._is_header(names := [re.sub(r"\r?\n", " ", field) for field in fields]):
            return record.taken, names
        return record.taken, fields

    def _task(self, fields: list[str]) -> Fed | None:
        """Return the record's task, None for a blank one: Excel writes empty rows as delimiters alone."""
        return self._fed(fields) if any(map(str.strip, fields)) else None

    def _fed(self, fields: list[str]) -> Fed:
        if self._is_header(fields):
            raise self._second_header(fields)
        if self.unclear:
            raise ValueError(f"below a header that is not clear: {self.unclear}")
        if any(fields[len(self.names) :]):
            raise ValueError(
                f"{len(fields)} fields under a header of {len(self.names)}: quote values that hold {self.delimiter!r}"
            )
        if self.id_at >= len(fields):
            raise ValueError(f"no id: the line ends before the column {self.names[self.id_at]}")
        task_id = id_from(without_mark(fields[self.id_at]))
        account = self.options.default_account
        ref = dict(zip(self.names, fields, strict=False))
        del ref[self.names[self.id_at]]
        if self.account_at is not None:
            account = account_from(ref.pop(self.names[self.account_at], None), self.options)
        return Fed(account=account, task_id=task_id, ref=orjson.dumps(ref) if ref else None)

    def _is_header(self, fields: list[str]) -> bool:
        id_or_name = fields[self.id_at] if self.id_at < len(fields) else ""
        if id_or_name in self.names:
            return True
        return not self.header_words.isdisjoint(fields) and re.search("[0-9]", id_or_name) is None

    def _second_header(self, fields: list[str]) -> ValueError:
        try:
            table = _table_of([field.strip() for field in fields], self.delimiter, self.options)
        except AmbiguousId as error:
            return OtherHeader(replace(self, unclear=str(error)))
        if table is None or not table.has_header or (table.names == self.names and not self.unclear):
            return ValueError("a second header line, not a record")
        return OtherHeader(table)

    def below(self, header: Sequence[Line]) -> "CsvReader":
        """Return the reader of what follows the lines of a later header."""
        fields = _fields(iter([f"{text_of(line)}\n" for line in header]), self.delimiter)
        found = self._second_header([field.replace("\n", " ") for field in fields])
        return found.table if isinstance(found, OtherHeader) else self

    def is_record(self, text: str) -> bool:
        """Whether a line alone is a record: every column and a usable id."""
        fields = columns_or_none(text, self.delimiter) or []
        return len(fields) == len(self.names) and _is_id(without_mark(fields[self.id_at]))


class CutOff(ValueError):
    """A record over lines that is broken where the lines at hand end: the rest may only not be written yet."""


class OtherHeader(ValueError):
    """A header of other columns: `table` reads the lines after it, or rejects them."""

    def __init__(self, table: CsvReader) -> None:
        super().__init__(
            f"a second header line: {table.unclear}. The lines after it are rejected"
            if table.unclear
            else "a second header line, of other columns: the lines after it are read under it"
        )
        self.table = table


class _RecordLines:
    """Iterates over the lines of one record: `csv.reader` takes another while a quote is open."""

    def __init__(self, table: CsvReader, lines: Sequence[Line], at: int) -> None:
        self._table = table
        self._lines = lines
        self._at = at
        self._bytes = 0
        self.text: list[str] = []  # the lines taken
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
        self.text.append(line)
        return line

    @property
    def taken(self) -> int:
        """How many lines."""
        return len(self.text)

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


@cache
def _whole_record(delimiter: str) -> re.Pattern[str]:
    """Return what a record is whose quotes are all at the ends of values, or doubled within. `csv` reads others: it
    makes one of two lines that each begin a value with a quote, and the second's id a piece of a text."""
    between, blank = re.escape(delimiter), " \t".replace(delimiter, "")  # one way to match: else tabs take forever
    value = rf'"[^"]*(?:""[^"]*)*"[{blank}]*|(?!")[^\r\n{between}]*'
    return re.compile(rf"(?:{value})(?:{between}(?:{value}))*\r?\n")


def whole_header(lines: Sequence[Line], at: int, options: ReadOptions, delimiter: str | None) -> tuple[str, int]:
    """Return the line at `at` with those that a quoted name of it runs over, as one line, and how many these are; 0
    where they end within a quote and may go on."""
    line = text_of(lines[at])
    if '"' not in line or options.format not in ("auto", "csv"):
        return line, 1
    for each in (delimiter,) if delimiter else _DELIMITERS:
        text, taken = line, 1
        while columns_or_none(text, each) is None and taken < HEADER_LINES and len(text) <= options.max_line_bytes:
            if at + taken >= len(lines):
                return line, 0
            text, taken = f"{text} {text_of(lines[at + taken])}", taken + 1
        if taken > 1 and len(columns_or_none(text, each) or ()) > 1:
            return text, taken
    return line, 1


def find_table(
    line: str, options: ReadOptions, delimiter: str | None = None, following: str | None = None
) -> CsvReader | None:
    """Return the reader of the records that `line` begins, None if it is no CSV with an id column.

    `line` is the header; the first record where the id column is given by number and `line` has an id there, unless it
    is words above an id with a digit in the `following` line. Raises `AmbiguousId` where several columns may be the
    id's.
    """
    tables, doubt = [], None
    for each in (delimiter,) if delimiter else _DELIMITERS:
        try:
            table = _table(line, each, options, following)
        except AmbiguousId as error:
            doubt = error
        else:
            tables += [table] if table is not None else []
    if doubt is not None and not tables:
        raise doubt
    return max(tables, key=lambda table: (_has_id_alone(table, line), len(table.names)), default=None)


def _has_id_alone(table: CsvReader, line: str) -> bool:
    """Return whether `line` has no other delimiter in the id column: of `A1,One | Two | Three`, the first column is not
    `A1,One`."""
    fields = columns_or_none(line, table.delimiter) or []
    return not any(each in fields[table.id_at] for each in _DELIMITERS)


def columns_of(line: str, delimiter: str | None = None) -> list[str]:
    """Return the fields of a line, by the delimiter that gives most."""
    return max(
        (columns_or_none(line, each) or [] for each in ((delimiter,) if delimiter else _SHOWN_DELIMITERS)), key=len
    )


def _table(line: str, delimiter: str, options: ReadOptions, following: str | None) -> CsvReader | None:
    number = options.id_number if line.lstrip()[:1] not in ("{", "[") else None
    below = columns_or_none(following or "", delimiter) or []
    return _table_of(columns_or_none(line, delimiter) or [], delimiter, options, number, below)


def _table_of(
    columns: Sequence[str], delimiter: str, options: ReadOptions, number: int | None = None, below: Sequence[str] = ()
) -> CsvReader | None:
    """Return the reader below these columns, None where none is the id's. `number`: that of the id's column; `below`:
    the fields of the next line. Raises `AmbiguousId`."""
    id_at, has_header = find_id(columns, options.id_column, "column"), True
    if id_at is None and number is not None and number <= len(columns):
        id_at, name = number - 1, columns[number - 1]
        has_header = not _is_id(name) or is_heading(name) or _are_words_above(columns, id_at, below)
    if id_at is None:
        return None
    account_at = find_name(columns, (ACCOUNT_NAME,)) if has_header else None
    return CsvReader(
        options=options,
        delimiter=delimiter,
        names=distinct(columns if has_header else [""] * len(columns)),
        has_header=has_header,
        id_at=id_at,
        account_at=account_at if account_at != id_at else None,
        header_words=frozenset(options.id_names) - {AMBIGUOUS_NAME} if has_header else frozenset(),
    )


def _are_words_above(columns: Sequence[str], id_at: int, below: Sequence[str]) -> bool:
    """Return whether these are words of a header, as far as the line below shows it: an id in one case and without a
    digit would be another's chance of one in thousands."""
    name, value = columns[id_at], without_mark(below[id_at]) if id_at < len(below) else ""
    return (
        len(columns) > 1
        and all(_WORDS.fullmatch(column) for column in columns)
        and name in (name.lower(), name.upper(), name.capitalize())
        and re.search("[0-9]", value) is not None
        and _is_id(value)
    )


def _is_id(text: str) -> bool:
    try:
        return bool(id_from(text))
    except ValueError:
        return False


def columns_or_none(header: str, delimiter: str) -> list[str] | None:
    """Return the header's names; None where a quoted one is not closed."""
    reader = csv.reader((header, ""), delimiter=delimiter)
    try:
        names = next(reader)
    except csv.Error:
        return None
    return [name.strip() for name in names] if reader.line_num == 1 else None


def distinct(columns: Sequence[str]) -> tuple[str, ...]:
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
