"""Records as CSV (RFC 4180): a row a task, without line breaks and formulas inside cells."""

import csv
import io
from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any, ClassVar

import msgspec

from poller.core.csv_cells import harmless
from poller.core.deliveries import Delivery
from poller.core.record import landed_in
from poller.sinks.files.rotation import LineFormat
from poller.sinks.files.sink import FileTable

COLUMNS = (
    "task_id", "account", "kind", "landed", "status", "num_errors", "error", "result_id", "result_name", "result_path",
    "result_url", "result_size", "result_type", "result_extension", "result_access", "requested_at", "started_at",
    "completed_at", "seen_at", "polls", "correlation_id", "ref",
)  # fmt: skip

Fields = dict[str, msgspec.Raw]  # keeps numbers as they were received; of duplicate keys the last counts
_DECODER = msgspec.json.Decoder(Fields)


COLUMNS_BEFORE_LANDED = tuple(column for column in COLUMNS if column != "landed")  # of version 0.1.0


def _line(delivery: Delivery, columns: Sequence[str] = COLUMNS) -> bytes:
    record = _fields(delivery.body)
    result = record.get("result", msgspec.Raw(b"null"))
    is_url = bytes(result).startswith(b'"')  # the result of an export
    of_result = {"url": result} if is_url else _fields(result)
    fields = record | {f"result_{name}": value for name, value in of_result.items()}
    known = {
        "task_id": delivery.task_id,
        "account": delivery.account,
        "landed": "true" if landed_in(delivery.body) else "false",
        "error": _error(record),
    }
    return _row(known[column] if column in known else _text(fields.get(column)) for column in columns)


def _row(cells: Iterable[str]) -> bytes:
    text = io.StringIO()
    csv.writer(text, lineterminator="\r\n").writerow([harmless(" ".join(cell.splitlines())) for cell in cells])
    return text.getvalue().encode("utf-8", "replace")


def _fields(json: bytes | msgspec.Raw) -> Fields:
    """Return the fields of an object; none where it is another value, or cannot be read."""
    try:
        return _DECODER.decode(json)
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
    """Return the first message in `errors`, else HubSpot's words about the id or the row, else the poller's own."""
    try:
        errors: Any = msgspec.json.decode(record.get("errors", b"null"))
    except (msgspec.MsgspecError, RecursionError):
        errors = None
    first = errors[0] if isinstance(errors, list) and errors else errors
    nested = first.get("errors") if isinstance(first, dict) else None
    found = [first, *(nested if isinstance(nested, list) else ())]
    messages = [each.get("message") if isinstance(each, dict) else each for each in found]
    message = next((text for text in messages if isinstance(text, str) and text.strip()), "")
    return message or _refusal(record) or _text(record.get("note"))


def _refusal(record: Fields) -> str:
    """Return what HubSpot answered in place of a status or of a start; nothing where it did not refuse."""
    code, message = _text(record.get("http_status")), _text(record.get("message"))
    return ": ".join(text for text in (f"HTTP {code}" if code else "", message) if text)


_BEFORE_LANDED = LineFormat(
    kind="csv", header=_row(COLUMNS_BEFORE_LANDED), line=partial(_line, columns=COLUMNS_BEFORE_LANDED)
)
CSV = LineFormat(kind="csv", header=_row(COLUMNS), line=_line, older=(_BEFORE_LANDED,))


class CsvTable(FileTable):
    """Settings of a `csv` sink."""

    KIND: ClassVar[str] = CSV.kind
    EXAMPLE: ClassVar[str] = "csv:finished.csv"
    FORMAT: ClassVar[LineFormat] = CSV
