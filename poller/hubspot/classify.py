"""Classify HubSpot's answers. Pure and total: any status, headers and bytes in, Outcome out; no network, no clock.

A body is only believed when all of it is valid JSON. The `errors` and `result` of a finished task are handed on as the
very bytes received. Whatever cannot be understood is weather (`Unreachable`), so that it never decides about a task.
"""

import re
from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from enum import StrEnum
from functools import lru_cache
from typing import Any, Final, Literal

import msgspec
import orjson
from multidict import CIMultiDictProxy

from poller.core.model import (
    Finished,
    JsonObject,
    Missing,
    Outcome,
    RateLimits,
    Refused,
    Running,
    Throttled,
    Unreachable,
)
from poller.core.reason import generalized
from poller.core.text import printable
from poller.core.timestamps import epoch

Headers = Mapping[str, str]  # any case; of doubled names the first counts

DEEPEST = 100  # levels inside `errors` or `result`: serde_json, the strictest common reader, stops at 128
LONGEST_RETRY_AFTER_S = 86_400.0
LOCKED_WAIT_S = 2.0  # HubSpot: wait at least so long after a 423
LONGEST_WORD = 64
LONGEST_INTEGER = 12  # digits in a header


class BadBody(StrEnum):
    """Why a 2xx answer says nothing. Reasons of `Unreachable`, beside `http_NNN` and the client's `Trouble`."""

    UNREADABLE = "unreadable_body"  # not JSON: cut off, HTML, wrong encoding, NaN, nested beyond 1,024
    NOT_AN_OBJECT = "not_an_object"  # JSON, but an array, a string or a number
    NO_STATUS = "no_status"  # an object whose `status` is absent or not a word
    TOO_DEEP = "body_too_deep"  # nested so deep that the sinks' readers could not read the record


class _StatusBody(msgspec.Struct):
    """The two fields that are passed on untouched; of doubled keys the last counts, as it does for orjson."""

    errors: msgspec.Raw = msgspec.Raw(b"null")
    result: msgspec.Raw = msgspec.Raw(b"null")


_fields: Final = msgspec.json.Decoder(_StatusBody)


def classify(status: int, headers: Headers, body: bytes) -> Outcome:
    """Return what an answer says. `body` may be cut short where `status` is not 2xx."""
    if 200 <= status <= 299:
        return _classify_success(headers, body)
    problem = _object(body)
    correlation_id = _correlation_id(headers, problem)
    retry_after_s = _retry_after_s(headers)
    match status:
        case 400 | 404 if problem is not None:
            message = problem.get("message")
            text = generalized(message) if isinstance(message, str) else None
            return Missing(code=status, message=text, correlation_id=correlation_id)
        case 404 if _is_html(headers, body):
            return Refused(reason="wrong_path", detail=_WRONG_PATH, correlation_id=correlation_id)
        case 401 | 530:
            detail = f"HubSpot refused the token ({status}{_category(problem)}): renew it"
            return Refused(reason="token_refused", detail=detail, correlation_id=correlation_id)
        case 403:
            return Refused(reason="scope_missing", detail=_forbidden(problem), correlation_id=correlation_id)
        case 423:
            wait_s = max(LOCKED_WAIT_S, retry_after_s or 0.0)
            return Unreachable(reason="http_423", retry_after_s=wait_s, correlation_id=correlation_id)
        case 429:
            return Throttled(policy=_policy(problem), retry_after_s=retry_after_s, correlation_id=correlation_id)
        case 477:
            return Throttled(policy="migrating", retry_after_s=retry_after_s, correlation_id=correlation_id)
        case _:
            return Unreachable(
                reason=f"http_{status}" if 100 <= status <= 999 else "http_invalid",
                retry_after_s=retry_after_s,
                correlation_id=correlation_id,
            )


_WRONG_PATH = (
    "HubSpot answered 404 with a web page: there is no such API path; check status_path (the version in it may have "
    "ended) and base_url"
)


def read_limits(headers: Headers) -> RateLimits:
    """Return what the rate limit headers say; what is missing, ill-typed or out of any sane range is None."""
    if isinstance(headers, CIMultiDictProxy):
        return _limits_of(*map(headers.get, _LIMITS))
    return _limits_of(*[_header(headers, name) for name in _LIMITS])


_LIMITS = tuple(
    f"X-HubSpot-RateLimit-{name}" for name in ("Max", "Remaining", "Interval-Milliseconds", "Daily", "Daily-Remaining")
)


def _limits_of(
    most: str | None, remaining: str | None, interval: str | None, daily: str | None, daily_remaining: str | None
) -> RateLimits:
    interval_ms = _integer(interval, 100, 3_600_000)
    return RateLimits(
        max=_integer(most, 1, 1_000_000),
        remaining=_integer(remaining, 0, 10_000_000),
        interval_s=None if interval_ms is None else interval_ms / 1000,
        daily=_integer(daily, 1, 1_000_000_000),
        daily_remaining=_integer(daily_remaining, 0, 1_000_000_000),
    )


# --- 2xx -------------------------------------------------------------------------------------------------------------


def _classify_success(headers: Headers, body: bytes) -> Outcome:
    correlation_id = _correlation_id(headers, None)
    text = _mended(body.removeprefix(b"\xef\xbb\xbf").strip(b" \t\r\n"))
    if text in (b"", b"null"):
        return Running(status=None, correlation_id=correlation_id)
    try:
        document = orjson.loads(text)
    except (ValueError, RecursionError):  # what orjson raises is a ValueError
        return Unreachable(reason=BadBody.UNREADABLE.value, correlation_id=correlation_id)
    if not isinstance(document, dict):
        return Unreachable(reason=BadBody.NOT_AN_OBJECT.value, correlation_id=correlation_id)
    word = document.get("status")
    if not isinstance(word, str) or not word.strip():
        return Unreachable(reason=BadBody.NO_STATUS.value, correlation_id=correlation_id)
    correlation_id = correlation_id or _correlation_id({}, document)
    match word.strip().upper():
        case "PENDING" | "PROCESSING" as status:
            return _running(status, document, correlation_id)
        case "COMPLETE" | "CANCELED" as final:
            return _finished(final, document, text, correlation_id)
        case _:
            shown = printable(word)[:LONGEST_WORD]
            return _running(shown, document, correlation_id, known=False)


def _running(status: str, document: JsonObject, correlation_id: str | None, *, known: bool = True) -> Running:
    return Running(
        status=status,
        known=known,
        task_id=_task_id(document),
        requested_at=epoch(document.get("requestedAt")),
        correlation_id=correlation_id,
    )


def _finished(
    status: Literal["COMPLETE", "CANCELED"], document: JsonObject, text: bytes, correlation_id: str | None
) -> Outcome:
    may_be_deep = text.count(b"{") + text.count(b"[") > DEEPEST
    if may_be_deep and (_is_deep(document.get("errors")) or _is_deep(document.get("result"))):
        return Unreachable(reason=BadBody.TOO_DEEP.value, correlation_id=correlation_id)
    try:
        fields = _fields.decode(text)
    except RecursionError:
        return Unreachable(reason=BadBody.TOO_DEEP.value, correlation_id=correlation_id)
    except msgspec.MsgspecError:
        return Unreachable(reason=BadBody.UNREADABLE.value, correlation_id=correlation_id)
    errors = document.get("errors")
    return Finished(
        status=status,
        num_errors=_num_errors(document.get("numErrors"), errors),
        errors=_one_line(fields.errors),
        has_errors=bool(errors),
        result=_one_line(fields.result),
        requested_at=_instant(document.get("requestedAt")),
        started_at=_instant(document.get("startedAt")),
        completed_at=_instant(document.get("completedAt")),
        task_id=_task_id(document),
        correlation_id=correlation_id,
    )


def _one_line(raw: msgspec.Raw) -> bytes | None:
    """Return the bytes of a field without line breaks, which in valid JSON can only stand between tokens."""
    value = bytes(raw)
    return None if value == b"null" else value.replace(b"\r", b" ").replace(b"\n", b" ")


_ESCAPE = re.compile(
    rb"\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}"  # a pair: stays
    rb"|(?P<lone>\\u[dD][89a-fA-F][0-9a-fA-F]{2})"
    rb"|\\.",  # so that the backslash of `\\` is not taken for the start of an escape
    re.DOTALL,
)


def _mended(text: bytes) -> bytes:
    r"""Replace halves of UTF-16 pairs (`\ud83d`), which no reader could store, by U+FFFD.

    A server that cuts long texts leaves them in file names and messages; without this the task would never end.
    """
    if b"\\" not in text or (b"\\ud" not in text and b"\\uD" not in text):
        return text
    return _ESCAPE.sub(lambda found: rb"\ufffd" if found["lone"] else found[0], text)


def _is_deep(value: object) -> bool:
    """Tell whether `value` nests deeper than `DEEPEST`. Walks level by level, so that depth costs no stack."""
    level = [value]
    for _ in range(DEEPEST + 1):
        level = [inner for outer in level for inner in _inside(outer)]
        if not level:
            return False
    return True


def _inside(value: object) -> list[Any]:
    if isinstance(value, dict):
        return list(value.values())
    return value if isinstance(value, list) else []


def _num_errors(told: object, errors: object) -> int:
    if isinstance(told, int) and not isinstance(told, bool) and told >= 0:
        return told
    return len(errors) if isinstance(errors, list) else int(bool(errors))


def _task_id(document: JsonObject) -> str | None:
    told = document.get("taskId")
    if isinstance(told, int) and not isinstance(told, bool):
        return str(told)
    return told if isinstance(told, str) and told else None


def _instant(value: object) -> str | None:
    return value if isinstance(value, str) and len(value) <= LONGEST_WORD else None


# --- not 2xx ---------------------------------------------------------------------------------------------------------


def _object(body: bytes) -> JsonObject | None:
    try:
        document = orjson.loads(_mended(body.removeprefix(b"\xef\xbb\xbf")))
    except (ValueError, RecursionError):
        return None
    return document if isinstance(document, dict) else None


def _is_html(headers: Headers, body: bytes) -> bool:
    return "html" in (_header(headers, "Content-Type") or "").lower() or body.lstrip()[:1] == b"<"


def _category(problem: JsonObject | None) -> str:
    """Return " EXPIRED_AUTHENTICATION" or nothing. Only a plain word is shown: bodies may hold anything."""
    word = (problem or {}).get("category")
    return f" {word}" if isinstance(word, str) and re.fullmatch(r"[A-Z0-9_]{1,64}", word) else ""


def _forbidden(problem: JsonObject | None) -> str:
    scopes = _scopes(problem)
    if scopes:
        return f"the token lacks the scope{'s' * (len(scopes) > 1)} {', '.join(scopes)}"
    return f"HubSpot forbids this request (403{_category(problem)}): check the token's scopes"


def _scopes(problem: JsonObject | None) -> list[str]:
    """Return what `errors[].context.requiredScopes` names; a list of words is published, a plain word was seen."""
    found: dict[str, None] = {}
    errors = (problem or {}).get("errors")
    for error in errors if isinstance(errors, list) else [errors]:
        context = error.get("context") if isinstance(error, dict) else None
        named = context.get("requiredScopes") if isinstance(context, dict) else None
        for scope in named if isinstance(named, list) else [named]:
            if isinstance(scope, str):
                found.update(dict.fromkeys(re.findall(r"[A-Za-z0-9._:-]{1,64}", scope)))
    return list(found)[:20]


def _policy(problem: JsonObject | None) -> Literal["window", "daily"]:
    told = (problem or {}).get("policyName")
    return "daily" if isinstance(told, str) and "DAILY" in told.upper() else "window"


# --- headers ---------------------------------------------------------------------------------------------------------


def _header(headers: Headers, name: str) -> str | None:
    if isinstance(headers, CIMultiDictProxy):  # aiohttp's, which minds no case by itself
        return headers.get(name)
    wanted = name.casefold()
    return next((value for key, value in headers.items() if key.casefold() == wanted), None)


def _integer(told: str | None, least: int, most: int) -> int | None:
    return None if told is None or len(told) > LONGEST_WORD else _integer_in(told, least, most)


@lru_cache(maxsize=4096)  # every answer tells the same limits, and counts that were told before
def _integer_in(told: str, least: int, most: int) -> int | None:
    text = told.strip()
    if not text.isdigit() or not text.isascii() or len(text) > LONGEST_INTEGER:
        return None
    number = int(text)
    return number if least <= number <= most else None


_CORRELATION_ID = re.compile(r"[A-Za-z0-9-]{1,64}")


def _correlation_id(headers: Headers, document: JsonObject | None) -> str | None:
    told = _header(headers, "X-HubSpot-Correlation-Id")
    if told is not None and _CORRELATION_ID.fullmatch(told):
        return told
    told = None if document is None else document.get("correlationId")
    return told if isinstance(told, str) and _CORRELATION_ID.fullmatch(told) else None


def _retry_after_s(headers: Headers) -> float | None:
    """Return the wait asked for. A date counts from the answer's own `Date`, so that no clock has to agree."""
    told = (_header(headers, "Retry-After") or "").strip()
    if re.fullmatch(r"[0-9]{1,18}(\.[0-9]{1,9})?", told):
        return min(float(told), LONGEST_RETRY_AFTER_S)
    until_at, sent_at = _http_date(told), _http_date((_header(headers, "Date") or "").strip())
    if until_at is None or sent_at is None:
        return None
    return min(max(until_at - sent_at, 0.0), LONGEST_RETRY_AFTER_S)


def _http_date(text: str) -> float | None:
    """Read the one date format that HTTP servers may send (RFC 9110, 5.6.7)."""
    if re.fullmatch(r"[A-Za-z]{3}, [0-9]{2} [A-Za-z]{3} [0-9]{4} [0-9]{2}:[0-9]{2}:[0-9]{2} GMT", text) is None:
        return None
    try:
        return parsedate_to_datetime(text).timestamp()
    except (ValueError, TypeError, OverflowError):
        return None
