"""Converts a failed task's row to a body for HubSpot's start call."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import orjson

from poller.core.columns import DUPLICATE_OPTIONS, Columns
from poller.core.model import JsonObject
from poller.core.protocols import StateReader
from poller.core.record import decode
from poller.core.start_options import FOLDERS, options_from
from poller.reports.finished_task import FinishedTask, attempt_of
from poller.reports.retryable import RetryAdvice

REQUIRED = ("access", "overwrite", *DUPLICATE_OPTIONS)  # by HubSpot, beside url
IS_IMPORT = b'"row":'  # in a record that has the fields of an import
_IS_LATER = re.compile(rb'"row":\s*"[^"~]*~')
IS_COMPLETE = b'"kind":"complete",'
NO_URL_IN_ROW = "there is no URL in the row"


def start_body(
    task: FinishedTask, columns: Columns, defaults: Mapping[str, str], sent: bytes | None = None
) -> JsonObject:
    """Return the body that starts this import a second time: its row's values, else those of `defaults`.

    `sent`: the body that `poller import` sent. It is sent again as it was, and the row's other columns stay beside it:
    the import names its row by them, and HubSpot ignores them. Raises `ValueError` with what is missing or wrong.
    """
    if sent is not None:
        body: JsonObject = orjson.loads(sent)
        return {name: value for name, value in task.ref.items() if name not in body} | body
    if task.url is None:
        raise ValueError(NO_URL_IN_ROW)
    if not re.match(r"(?i)https?://[^\s/]", task.url):
        raise ValueError("the URL in the row does not begin with http:// or https://")
    body = {"url": task.url} | options_from(lambda name: columns.value(task.ref, name), defaults.get)
    if "folderId" in body and "folderPath" in body:
        del body["folderPath"]  # HubSpot accepts one of them
    return body


@dataclass(frozen=True, slots=True)
class KeptStarts:
    """What a state knows of the starts of failed rows, by the number of the record."""

    bodies: dict[int, bytes] = field(default_factory=dict)  # as `poller import` sent them
    tried_again: set[int] = field(default_factory=set)  # their row has a later attempt, which may be under way


async def kept_starts(store: StateReader, records: Iterable[tuple[int, str, bytes]]) -> KeptStarts:
    """Return what is known of the starts of those that are not complete. `records`: the number, account and bytes of
    each."""
    rows: dict[str, dict[str, int]] = {}
    for number, account, record in records:
        is_complete = record.startswith(IS_COMPLETE, record.find(b'"kind":'))
        if not is_complete and IS_IMPORT in record and (row := orjson.loads(record).get("row")) is not None:
            rows.setdefault(account, {})[str(row)] = number
    kept = KeptStarts()
    for account, numbers in rows.items():
        later = {row: later_attempt(row) for row in numbers}
        bodies = await store.start_bodies(account, [*numbers, *later.values()])
        kept.bodies.update((number, bodies[row]) for row, number in numbers.items() if row in bodies)
        kept.tried_again.update(number for row, number in numbers.items() if later[row] in bodies)
    return kept


def later_attempt(row: str) -> str:
    """Return the identity of the attempt after this one."""
    first, attempt = attempt_of(row)
    return f"{first}~{attempt + 1}"


class LatestAttempts:
    """The latest attempt at each row that was tried again, in records of files. Grows with these rows."""

    def __init__(self) -> None:
        self._latest: dict[tuple[str, str], int] = {}

    def add(self, record: bytes) -> None:
        """Note the attempt of a record; nothing where it is none, or the first."""
        if _IS_LATER.search(record) and (found := _row_in(record)) is not None:
            account, first, attempt = found
            self._latest[account, first] = max(attempt, self._latest.get((account, first), 1))

    def has_later(self, record: bytes) -> bool:
        """Whether there is a later attempt at the row of this record."""
        if not self._latest or (found := _row_in(record)) is None:
            return False
        account, first, attempt = found
        return attempt < self._latest.get((account, first), 1)


def _row_in(record: bytes) -> tuple[str, str, int] | None:
    """Return account, row and attempt of a record; None where it is not that of a row."""
    try:
        read = orjson.loads(record)
    except ValueError:
        return None
    row = read.get("row") if isinstance(read, dict) else None
    return (str(read.get("account", "default")), *attempt_of(row)) if isinstance(row, str) else None


def missing_options(body: JsonObject) -> tuple[str, ...]:
    """Return what HubSpot requires in a body and this one lacks."""
    missing = tuple(name for name in REQUIRED if name not in body)
    return missing if any(name in body for name in FOLDERS) else (*missing, "folderPath")


def rest_line(task: FinishedTask, advice: RetryAdvice, record: bytes) -> bytes:
    """Return the line for a task that is not resubmitted, with its row as it was fed."""
    reason = task.reason
    ref = decode(record).ref
    return orjson.dumps(
        {
            "task_id": task.task_id,
            "account": task.account,
            "kind": task.kind,
            "category": reason.category if reason else None,
            "reason": reason.message if reason else None,
            "why_not": advice.why,
            "file_id": task.file_id,
            "correlation_id": task.correlation_id,
            "ref": orjson.Fragment(bytes(ref)),
        }
    )
