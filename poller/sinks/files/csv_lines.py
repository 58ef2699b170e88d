"""Records as CSV (RFC 4180): a row a task, without line breaks and formulas inside cells."""

import csv
import io
from collections.abc import Iterable
from typing import Any, ClassVar

import msgspec

from poller.core.csv_cells import harmless
from poller.core.model import Delivery
from poller.sinks.files.rotation import LineFormat
from poller.sinks.files.sink import FileTable

OF_THE_RECORD = ("kind", "status", "num_errors")
OF_THE_RESULT = ("id", "name", "path", "url", "size", "type", "extension", "access")
OF_THE_COURSE = ("requested_at", "started_at", "completed_at", "seen_at", "polls", "correlation_id", "ref")
COLUMNS = (
    *("task_id", "account", *OF_THE_RECORD, "error"),
    *(f"result_{name}" for name in OF_THE_RESULT),
    *OF_THE_COURSE,
)

_object = msgspec.json.Decoder(
    dict[str, msgspec.Raw]
)  # keeps numbers as they were sent; of doubled keys the last counts
Fields = dict[str, msgspec.Raw]


def _line(delivery: Delivery) -> bytes:
    record = _fields(delivery.body)
    result = _fields(record.get("result"))
    if not result and bytes(record.get("result", b"")).startswith(b'"'):  # an export's result is a URL
        result = {"url": record["result"]}
    return _row(
        (
            *(delivery.task_id, delivery.account, *(_text(record.get(name)) for name in OF_THE_RECORD)),
            _error(record),
            *(_text(result.get(name)) for name in OF_THE_RESULT),
            *(_text(record.get(name)) for name in OF_THE_COURSE),
        )
    )


def _row(cells: Iterable[str]) -> bytes:
    text = io.StringIO()
    csv.writer(text, lineterminator="\r\n").writerow([harmless(" ".join(cell.splitlines())) for cell in cells])
    return text.getvalue().encode("utf-8", "replace")


def _fields(json: bytes | msgspec.Raw | None) -> Fields:
    """Return the fields of an object; none where it is another value, or cannot be read."""
    try:
        return _object.decode(json or b"")
    except (msgspec.MsgspecError, RecursionError):
        return {}


def _text(json: msgspec.Raw | None) -> str:
    """Return a string's text, nothing for null, and any other value as JSON."""
    value = bytes(json or b"null")
    try:
        return msgspec.json.decode(value, type=str | None) or ""
    except (msgspec.MsgspecError, RecursionError):
        return value.decode("utf-8", "replace")


def _error(record: Fields) -> str:
    """Return the first message in `errors`, else the poller's own words."""
    try:
        errors: Any = msgspec.json.decode(record.get("errors", b"null"))
    except (msgspec.MsgspecError, RecursionError):
        errors = None
    first = errors[0] if isinstance(errors, list) and errors else errors
    nested = first.get("errors") if isinstance(first, dict) else None
    found = [first, *(nested if isinstance(nested, list) else ())]
    messages = [each.get("message") if isinstance(each, dict) else each for each in found]
    return next((text for text in messages if isinstance(text, str) and text.strip()), "") or _text(record.get("note"))


CSV = LineFormat(kind="csv", header=_row(COLUMNS), line=_line)


class CsvTable(FileTable):
    """Settings of a `csv` sink."""

    KIND: ClassVar[str] = CSV.kind
    EXAMPLE: ClassVar[str] = "csv:finished.csv"
    FORMAT: ClassVar[LineFormat] = CSV
