"""Makes a failed task's row a body for HubSpot's start call, or says why it cannot be one. Pure."""

import re
from collections.abc import Callable, Mapping
from typing import Any

import orjson

from poller.core.model import JsonObject
from poller.core.record import decode
from poller.reports.reasons import Columns, Facts
from poller.reports.retryable import Verdict

REQUIRED = (
    "access",
    "overwrite",
    "duplicateValidationStrategy",
    "duplicateValidationScope",
)  # by HubSpot, beside url
FOLDERS = ("folderId", "folderPath")  # it wants one of them
_YES, _NO = frozenset({"true", "yes", "y", "1", "on"}), frozenset({"false", "no", "n", "0", "off"})


def body_of(facts: Facts, columns: Columns, given: Mapping[str, str]) -> JsonObject:
    """Return the body that starts this import again: from its row, and from `given` where the row says nothing.

    Raises `ValueError` saying what is missing or wrong.
    """
    if facts.url is None:
        raise ValueError("its row names no URL")
    if not re.match(r"(?i)https?://[^\s/]", facts.url):
        raise ValueError("the URL of its row does not begin with http:// or https://")
    body: JsonObject = {"url": facts.url}
    for name, read in _OPTIONS.items():
        told = columns.value(facts.ref, name)
        value = given.get(name) if told is None or told == "" else told
        if value is not None and value != "":
            body[name] = read(name, value)
    if "folderId" in body and "folderPath" in body:
        del body["folderPath"]  # HubSpot takes one of them
    return body


def _text(name: str, value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise ValueError(f"{name} in its row is not a text")  # noqa: TRY004 - the row's type, not the caller's
    return str(value).strip()


def _word(name: str, value: Any) -> str:
    return _text(name, value).upper()


def _flag(name: str, value: Any) -> bool:
    if isinstance(value, bool):
        return value
    word = str(value).strip().lower()
    if word not in _YES | _NO:
        raise ValueError(f"{name} in its row is neither true nor false: {word[:40]!r}")
    return word in _YES


_OPTIONS: Mapping[str, Callable[[str, Any], str | bool]] = {
    "access": _word,
    "name": _text,
    "folderId": _text,
    "folderPath": _text,
    "ttl": _text,
    "expiresAt": _text,
    "overwrite": _flag,
    "duplicateValidationStrategy": _word,
    "duplicateValidationScope": _word,
}
OPTIONS = tuple(_OPTIONS)


def lacks(body: JsonObject) -> tuple[str, ...]:
    """Return what HubSpot demands of a body and this one does not say."""
    missing = tuple(name for name in REQUIRED if name not in body)
    return missing if any(name in body for name in FOLDERS) else (*missing, "folderPath")


def rest_line(facts: Facts, judged: Verdict, record: bytes) -> bytes:
    """Return the line for a task that is not worth another try as it stands, its row as it was fed."""
    reason = facts.reason
    ref = decode(record).ref
    return orjson.dumps(
        {
            "task_id": facts.task_id,
            "account": facts.account,
            "kind": facts.kind,
            "category": reason.category if reason else None,
            "reason": reason.message if reason else None,
            "why_not": judged.why,
            "file_id": facts.file_id,
            "correlation_id": facts.correlation_id,
            "ref": orjson.Fragment(bytes(ref)),
        }
    )
