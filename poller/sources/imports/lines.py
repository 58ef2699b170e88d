"""The two readers of lines for imports: CSV with a header, and one URL or JSON object a line."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from poller.core.columns import did_you_mean
from poller.core.csv_cells import without_formula, without_mark
from poller.core.errors import InputError
from poller.core.model import FedRow
from poller.core.text import printable
from poller.sources.imports.row import RowReader, RowReaders, encode
from poller.sources.options import ReadOptions
from poller.sources.parsing.csv_table import CsvReader, columns_of, columns_or_none, distinct
from poller.sources.parsing.line import (
    ACCOUNT_NAME,
    ParsedLines,
    account_from,
    find_name,
    is_comment,
    is_json,
    is_url,
    object_of,
    raw_values,
    text_of,
)
from poller.sources.parsing.lines import Line

_DELIMITERS = (",", ";", "\t")
_LINE_SHOWN = 80
_MORE_COLUMNS = re.compile(r"[^?#]*\.[A-Za-z][A-Za-z0-9]{1,4}[,;\t][^/]*")  # a URL of a file, then other columns
_MORE_COLUMNS_IN_A_TABLE = re.compile(r".*[,;\t][^/]*")
_TABLE_FILES = (".csv", ".tsv")


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportTable(CsvReader):
    """Reads the records below a header as rows to import."""

    reader: RowReader

    def _fed(self, fields: list[str]) -> FedRow:  # type: ignore[override]  # the parser hands both on unseen
        if any(fields[len(self.names) :]):
            raise ValueError(
                f"{len(fields)} fields under a header of {len(self.names)}: quote values that hold {self.delimiter!r}"
            )
        ref = {name: without_formula(without_mark(value)) for name, value in zip(self.names, fields, strict=False)}
        if ref.get(self.names[self.id_at]) in self.names:
            raise ValueError("a second header line, not a record: feed files with other columns by themselves")
        account = self.options.default_account
        if self.account_at is not None:
            account = account_from(ref.pop(self.names[self.account_at], None), self.options)
        row, body = self.reader.read(ref)
        return FedRow(account=account, row=row, body=body, ref=encode(ref))

    def is_record(self, text: str) -> bool:
        fields = columns_or_none(text, self.delimiter) or []
        return len(fields) == len(self.names) and is_url(fields[self.id_at])


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportLines:
    """Reads input in which every line is one row: a URL, or a JSON object."""

    options: ReadOptions
    readers: RowReaders

    def read(self, lines: Sequence[Line], count: int, first: int, _final: bool, into: ParsedLines) -> int:
        """Read the first `count` lines, of which the first has the number `first`; return how many were read."""
        for number, line in enumerate(lines[:count], first):
            try:
                into.take(self._row(line))  # type: ignore[arg-type]  # the parser hands both on unseen
            except ValueError as reason:
                into.reject(number, line, reason)
        return min(count, len(lines))

    def _row(self, line: Line) -> FedRow | None:
        text = text_of(line).strip()
        if not text:
            return None
        if text.startswith("{"):
            return self.read_json(text.encode())
        if self.options.format == "jsonl":
            raise ValueError("not a JSON object")
        if is_comment(text):
            return None
        row, body = self.readers.read({"url": text})
        return FedRow(account=self.options.default_account, row=row, body=body, ref=encode({"url": text}))

    def read_json(self, line: bytes) -> FedRow:
        """Read a JSON object as a row. Raises `ValueError`, and `UnfitInput` where no row of its kind can be read."""
        try:
            value: dict[str, Any] = orjson.loads(line)
        except orjson.JSONDecodeError as error:
            raise ValueError(f"broken JSON: {error}") from None
        raw = raw_values(line, value)
        account = self.options.default_account
        if ACCOUNT_NAME in value:
            account = account_from(value.pop(ACCOUNT_NAME), self.options)
            raw.pop(ACCOUNT_NAME)
        row, body = self.readers.read(value)
        return FedRow(account=account, row=row, body=body, ref=object_of(raw))


def row_reader_for(line: str, options: ReadOptions, source: str, delimiter: str | None) -> ImportTable | ImportLines:
    """Return the reader for rows whose first usable line is `line`.

    Raises `InputError` for CSV without a URL column or without column names, `UnfitInput` where `--set` cannot fit the
    columns, and `ValueError` for a line that shows no format, such as a title.
    """
    if options.rows is None:
        raise TypeError("the options are not those of an import")
    readers = RowReaders(options.rows)
    _refuse_table_without_names(line, options, source)
    if options.format in ("auto", "csv") and not is_url(line) and not line.lstrip().startswith("{"):
        if (table := _table(line, options, delimiter)) is not None:
            return table
        columns = columns_of(line, delimiter)
        is_title = len(columns) > 1 and sum(map(bool, columns)) == 1
        if not is_title and (options.format == "csv" or len(columns) > 1):
            found = ", ".join(ascii(name[:40]) for name in columns[:20])
            begins = printable(line.strip()[:_LINE_SHOWN])
            raise InputError(
                f"{source}: there is no URL column ({', '.join(readers.url_names)}). Columns found: {found}. "
                f"Name yours with --column url=NAME{did_you_mean(options.rows.columns.named.get('url'), columns)}, or "
                f"delete the lines above the header. The first line: {begins}"
            )
        if len(columns) == 1 and line.lstrip().startswith('"') and any(each in columns[0] for each in _DELIMITERS):
            raise ValueError("the whole line is one quoted value: split the file into columns, and save it again")
        raise ValueError("neither a URL, a JSON object nor the header of a table with a URL column")
    if options.format == "csv" or is_json(line, [line]) or is_url(line):
        return ImportLines(options=options, readers=readers)
    raise ValueError("neither a URL nor a JSON object")


def _refuse_table_without_names(line: str, options: ReadOptions, source: str) -> None:
    """Raise `InputError` where the first line is a record of a table: its columns would become part of its URL."""
    is_table = options.format == "csv" or source.lower().endswith(_TABLE_FILES)
    shape = _MORE_COLUMNS_IN_A_TABLE if is_table else _MORE_COLUMNS
    if is_url(line) and shape.fullmatch(line.strip()):
        begins = printable(line.strip()[:_LINE_SHOWN])
        raise InputError(
            f"{source}: the table has no column names. Add a first line with one name a column, such as url,name,brand."
            f" The first line: {begins}"
        )


def _table(line: str, options: ReadOptions, delimiter: str | None) -> ImportTable | None:
    found = []
    for each in (delimiter,) if delimiter else _DELIMITERS:
        columns = columns_or_none(line, each) or []
        names = distinct(columns)
        url_names = options.rows.columns.names(names, "url") if options.rows else ()
        if url_names and url_names[0] in names:
            found.append((len(names), each, names, url_names[0]))
    if not found or options.rows is None:
        return None
    _, each, names, url_name = max(found, key=lambda table: table[0])
    account_at = find_name(names, (ACCOUNT_NAME,))
    fed_names = tuple(name for at, name in enumerate(names) if at != account_at)
    return ImportTable(
        options=options,
        delimiter=each,
        names=names,
        id_at=names.index(url_name),
        account_at=account_at,
        reader=RowReader(options.rows, fed_names),
    )
