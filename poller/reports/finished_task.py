"""Reads a finished record for a report: its reason, its source file, and whether the right file landed. Pure."""

import re
from base64 import b64decode
from binascii import Error as NotBase64
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from poller.core.columns import Columns, SourceFile, source_file
from poller.core.reason import Reason, reason_of
from poller.core.record import landed_in
from poller.core.timestamps import epoch

DIFFERS = "differs"  # the kind of a group: complete, but not the person's file
NO_EXTENSION = "(none)"


@dataclass(frozen=True, slots=True, kw_only=True)
class FinishedTask:
    """One finished task, as a report needs it."""

    task_id: str
    account: str
    kind: str
    landed: bool  # a file is there
    seen_at: float | None
    import_s: float | None  # from HubSpot's requestedAt to completedAt
    ref: Mapping[str, Any]
    ref_bytes: int
    url: str | None  # the person's own
    host: str | None
    extension: str
    reason: Reason | None  # None: plainly complete, and the person's file as far as md5 and size are known
    correlation_id: str | None
    file_id: str | None  # of the file that landed
    errors: Any
    row: str | None = None  # the identity of the row that was imported; None: its id was fed
    compared: frozenset[str] = frozenset()  # which of md5 and size could be compared


def read_record(body: bytes, columns: Columns) -> FinishedTask:
    """Read one record. Raises `ValueError` where it is none."""
    record = orjson.loads(body)
    if not isinstance(record, dict) or not isinstance(record.get("kind"), str) or "task_id" not in record:
        raise ValueError("not a finished task")
    ref, result = record.get("ref"), record.get("result")
    ref = ref if isinstance(ref, dict) else {}
    source = source_file(ref, columns)
    compared, difference = _compare(ref, result, columns)
    return FinishedTask(
        task_id=str(record["task_id"]),
        account=str(record.get("account", "default")),
        kind=record["kind"],
        landed=landed_in(body),
        seen_at=epoch(record.get("seen_at")),
        import_s=_between(record.get("requested_at"), record.get("completed_at")),
        ref=ref,
        ref_bytes=len(body) if ref else 0,
        url=source.url,
        host=source.host,
        extension=extension_of(source.name),
        reason=_reason(record, source) or difference,
        correlation_id=record.get("correlation_id"),
        file_id=_file_id(result),
        errors=record.get("errors"),
        row=record.get("row"),
        compared=compared,
    )


def _reason(record: dict[str, Any], source: SourceFile) -> Reason | None:
    status = record.get("http_status")
    words = record.get("errors") or record.get("message")
    return reason_of(record["kind"], words, source, status if isinstance(status, int) else None)


def row_json(ref: Mapping[str, Any]) -> bytes:
    """Return a row as JSON, to be spliced in: within an object it may nest deeper than orjson writes. Empty where it
    does by itself, as only a file of another program has it."""
    try:
        return orjson.dumps(ref)
    except TypeError:
        return b"{}"


def extension_of(name: str) -> str:
    """Return a file name's extension in lower case, such as `png`; NO_EXTENSION where it has none."""
    _, dot, end = name.rpartition(".")
    return end.lower() if dot and re.fullmatch(r"[A-Za-z0-9]{1,8}", end) else NO_EXTENSION


def attempt_of(row: str) -> tuple[str, int]:
    """Return the identity of the first attempt at a row, and which one this is, from 1."""
    first, _, attempt = row.partition("~")
    return first, int(attempt) if re.fullmatch("[0-9]{1,9}", attempt) else 1


def _between(began: object, ended: object) -> float | None:
    begin, end = epoch(began), epoch(ended)
    return None if begin is None or end is None or end < begin else end - begin


def _file_id(result: object) -> str | None:
    found = result.get("id") if isinstance(result, dict) else None
    return str(found) if isinstance(found, str | int) and found != "" else None


# --- did the right file land -----------------------------------------------------------------------------------------


def _compare(ref: Mapping[str, Any], result: object, columns: Columns) -> tuple[frozenset[str], Reason | None]:
    """Compare the finished file with md5 and size of the row. Return what was comparable, and the difference."""
    if not ref or not isinstance(result, dict):
        return frozenset(), None
    pairs: dict[str, tuple[object, object]] = {
        "md5": (_md5(columns.value(ref, "md5")), _md5(result.get("fileMd5"))),
        "size": (_size(columns.value(ref, "size")), _size(result.get("size"))),
    }
    known = {name: pair for name, pair in pairs.items() if None not in pair}
    for name, (expected, found) in known.items():
        if expected != found:
            message = f"the finished file's {name} is not the one in your row"
            return frozenset(known), Reason(DIFFERS, f"{name.upper()}_MISMATCH", message)
    return frozenset(known), None


def _md5(value: object) -> str | None:
    """Return an MD5 sum as 32 lower-case hex digits, also from base64, which storage services report."""
    if not isinstance(value, str):
        return None
    text = value.strip().strip('"')
    if re.fullmatch(r"[0-9A-Fa-f]{32}", text):
        return text.lower()
    try:
        raw = b64decode(text, validate=True)
    except (NotBase64, ValueError):
        return None
    return raw.hex() if len(raw) == 16 else None


def _size(value: object) -> int | None:
    if isinstance(value, bool):
        return None
    if isinstance(value, str) and re.fullmatch(r"\s*[0-9]{1,18}\s*", value):
        return int(value)
    return value if isinstance(value, int) and value >= 0 else None
