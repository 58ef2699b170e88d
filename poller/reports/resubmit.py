"""Converts a failed task's row to a body for HubSpot's start call. Pure."""

import re
from collections.abc import Mapping

import orjson

from poller.core.columns import DUPLICATE_OPTIONS, Columns
from poller.core.model import JsonObject
from poller.core.record import decode
from poller.core.start_options import FOLDERS, options_from
from poller.reports.finished_task import FinishedTask
from poller.reports.retryable import RetryAdvice

REQUIRED = ("access", "overwrite", *DUPLICATE_OPTIONS)  # by HubSpot, beside url
NO_URL_IN_ROW = "there is no URL in the row"


def start_body(task: FinishedTask, columns: Columns, defaults: Mapping[str, str]) -> JsonObject:
    """Return the body that starts this import a second time: its row's values, else those of `defaults`.

    Raises `ValueError` with what is missing or wrong.
    """
    if task.url is None:
        raise ValueError(NO_URL_IN_ROW)
    if not re.match(r"(?i)https?://[^\s/]", task.url):
        raise ValueError("the URL in the row does not begin with http:// or https://")
    body = {"url": task.url} | options_from(lambda name: columns.value(task.ref, name), defaults.get)
    if "folderId" in body and "folderPath" in body:
        del body["folderPath"]  # HubSpot accepts one of them
    return body


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
