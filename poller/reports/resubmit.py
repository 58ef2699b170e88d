"""Converts a failed task's row to a body for HubSpot's start call."""

import re
from collections.abc import Iterable, Mapping

import orjson

from poller.core.columns import DUPLICATE_OPTIONS, Columns
from poller.core.model import JsonObject
from poller.core.protocols import StateReader
from poller.core.record import decode
from poller.core.start_options import FOLDERS, options_from
from poller.reports.finished_task import FinishedTask
from poller.reports.retryable import RetryAdvice

REQUIRED = ("access", "overwrite", *DUPLICATE_OPTIONS)  # by HubSpot, beside url
IS_IMPORT = b'"row":'  # in a record that has the fields of an import
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


async def start_bodies(store: StateReader, records: Iterable[tuple[int, str, bytes]]) -> dict[int, bytes]:
    """Return the bodies that `poller import` sent, by number. `records`: the number, account and bytes of each."""
    rows: dict[str, dict[str, int]] = {}
    for number, account, record in records:
        if IS_IMPORT in record and (row := orjson.loads(record).get("row")) is not None:
            rows.setdefault(account, {})[str(row)] = number
    found: dict[int, bytes] = {}
    for account, numbers in rows.items():
        bodies = await store.start_bodies(account, list(numbers))
        found |= {numbers[row]: body for row, body in bodies.items()}
    return found


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
