"""Converts a failed task's row to a body for HubSpot's start call. Pure."""

import re
from collections.abc import Callable, Mapping
from typing import Any

import orjson

from poller.core.columns import DUPLICATE_OPTIONS, Columns
from poller.core.model import JsonObject
from poller.core.record import decode
from poller.reports.finished_task import FinishedTask
from poller.reports.retryable import RetryAdvice

REQUIRED = ("access", "overwrite", *DUPLICATE_OPTIONS)  # by HubSpot, beside url
NO_URL_IN_ROW = "there is no URL in the row"
FOLDERS = ("folderId", "folderPath")  # HubSpot requires one of them
_YES, _NO = frozenset({"true", "yes", "y", "1", "on"}), frozenset({"false", "no", "n", "0", "off"})


def start_body(task: FinishedTask, columns: Columns, defaults: Mapping[str, str]) -> JsonObject:
    """Return the body that starts this import a second time: its row's values, else those of `defaults`.

    Raises `ValueError` with what is missing or wrong.
    """
    if task.url is None:
        raise ValueError(NO_URL_IN_ROW)
    if not re.match(r"(?i)https?://[^\s/]", task.url):
        raise ValueError("the URL in the row does not begin with http:// or https://")
    body: JsonObject = {"url": task.url}
    for name, read in _OPTIONS.items():
        value = columns.value(task.ref, name)
        value = defaults.get(name) if value in (None, "") else value
        if value not in (None, ""):
            body[name] = read(name, value)
    if "folderId" in body and "folderPath" in body:
        del body["folderPath"]  # HubSpot accepts one of them
    return body


def _text(name: str, value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise ValueError(f"{name} in the row is not a text")  # noqa: TRY004 - the row's type, not the caller's
    return str(value).strip()


def _word(name: str, value: Any) -> str:
    return _text(name, value).upper()


def _flag(name: str, value: Any) -> bool:
    if isinstance(value, bool):
        return value
    word = str(value).strip().lower()
    if word not in _YES | _NO:
        raise ValueError(f"{name} in the row is neither true nor false: {word[:40]!r}")
    return word in _YES


_OPTIONS: Mapping[str, Callable[[str, Any], str | bool]] = {
    "access": _word,
    "name": _text,
    "folderId": _text,
    "folderPath": _text,
    "ttl": _text,
    "expiresAt": _text,
    "overwrite": _flag,
    **dict.fromkeys(DUPLICATE_OPTIONS, _word),
}
OPTIONS = tuple(_OPTIONS)


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
