"""Which reader an input's first usable line calls for."""

import re
from collections.abc import Sequence
from typing import Protocol

from poller.core.errors import InputError
from poller.core.task_id import is_rounded
from poller.core.text import printable
from poller.sources.imports.lines import row_reader_for
from poller.sources.options import ReadOptions
from poller.sources.parsing.csv_table import columns_of, find_table
from poller.sources.parsing.id_name import AmbiguousId
from poller.sources.parsing.line import ParsedLines, PlainLines, id_from, is_json, is_url, missing_name
from poller.sources.parsing.lines import Line

_LIKE_AN_ID = re.compile(r"(?=.*[0-9A-Z])[A-Za-z0-9_-]{6,}")
_LINE_SHOWN = 80  # characters


class LineReader(Protocol):
    """Parses lines of one format. A record is one line, or several."""

    @property
    def options(self) -> ReadOptions:
        """How a person wants them read."""

    def read(self, lines: Sequence[Line], count: int, first: int, final: bool, into: ParsedLines, /) -> int:
        """Read what begins within the first `count` lines (the first has the number `first`) into `into`; return how
        many lines that took. Fewer than `count`: it needs more lines, unless `final`."""


def reader_for(
    line: str, options: ReadOptions, source: str, delimiter: str | None, following: str | None = None
) -> LineReader:
    """Return the reader for input whose first usable line is `line`; `following` is the line after it.

    Raises `InputError` for CSV without an id column, naming what was found, and `ValueError` for a line that shows no
    format, such as a title.
    """
    if options.rows is not None:
        return row_reader_for(line, options, source, delimiter)
    if options.format in ("auto", "csv"):
        try:
            table = find_table(line, options, delimiter, following)
        except AmbiguousId as error:
            raise InputError(f"{source}: {error}, with --id-column. The first line: {_shown(line)}") from None
        if table is not None:
            return table
    columns = columns_of(line, delimiter)
    if options.format == "csv" and len(columns) == 1 and " " in line.strip():
        raise ValueError(f"a title, not a header: {missing_name('column', columns, options)}")
    if options.format == "csv" or (options.format == "auto" and delimiter):
        raise _no_id_column(line, columns, options, source)
    if options.format == "auto" and not is_json(line, columns):
        try:
            id_from(line)
        except ValueError:
            if sum(map(bool, columns)) > 1 and not is_url(line) and not is_rounded(line.strip()):
                raise _no_id_column(line, columns, options, source) from None
            raise
    return PlainLines(options=options)


def _no_id_column(line: str, columns: Sequence[str], options: ReadOptions, source: str) -> InputError:
    are_ids = all(map(_LIKE_AN_ID.fullmatch, columns)) and len({len(column) for column in columns}) == 1
    one_a_line = ". If these are ids, write one a line." if are_ids else ""
    return InputError(
        f"{source}: {missing_name('column', columns, options)}. The first line: {_shown(line)}{one_a_line}"
    )


def _shown(line: str) -> str:
    return printable(line.strip()[:_LINE_SHOWN].replace("\t", " "))
