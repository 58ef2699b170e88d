"""Classify HubSpot's answers. Pure and total: any status, headers and bytes in, Outcome out; no network, no clock.

A body counts only when all of it is valid JSON. The `errors` and `result` of a finished task are passed on as the bytes
received. An answer that cannot be understood is `Unreachable`, so that it never decides about a task.
"""

import re
from enum import StrEnum
from typing import Any, Final, Literal

import msgspec
import orjson

from poller.core.model import (
    Finished,
    JsonObject,
    Missing,
    Outcome,
    RefusalReason,
    Refused,
    Running,
    Throttled,
    Unreachable,
)
from poller.core.text import printable, redacted_url
from poller.core.timestamps import epoch
from poller.hubspot.headers import LONGEST_WORD, Headers, answered_at, correlation_id_of, header, retry_after_s

DEEPEST = 100  # levels inside `errors` or `result`: serde_json, the strictest common reader, stops at 128
LOCKED_WAIT_S = 2.0  # HubSpot's least wait after a 423
MAY_PASS = (408, 423, 425, 429, 477)  # 4xx that need no person
BACKSLASH, BRACE, BRACKET = b"\\{["  # as numbers: bytes are searched for one in a tenth of the time of a text's
LONGEST_MESSAGE = 500  # characters of HubSpot's words that a record keeps


class BadBody(StrEnum):
    """Why a 2xx answer does not count. Reasons of `Unreachable`, beside `http_NNN` and the client's `Trouble`."""

    UNREADABLE = "unreadable_body"  # not JSON: cut off, HTML, wrong encoding, NaN, nested beyond 1,024
    NOT_AN_OBJECT = "not_an_object"  # JSON, but an array, a string or a number
    NO_STATUS = "no_status"  # an object whose `status` is absent, not text, or another API's word
    ERROR = "error_body"  # the body of an HTTP error, which names no status of a task
    TOO_DEEP = "body_too_deep"  # nested too deep for readers of the record


_ERROR_KEYS: Final = frozenset(("message", "category", "correlationId", "errorType"))  # of HubSpot's HTTP errors


_STATUS_KEYS: Final = frozenset(("taskId", "requestedAt", "startedAt", "completedAt", "links"))  # beside `status`
_FINAL_KEYS: Final = (*sorted(_STATUS_KEYS), "result", "errors", "numErrors")  # one at least is in a final answer


class _StatusBody(msgspec.Struct):
    """The two fields that are passed on unchanged; of repeated keys the last counts, as it does for orjson."""

    errors: msgspec.Raw = msgspec.Raw(b"null")
    result: msgspec.Raw = msgspec.Raw(b"null")


_fields: Final = msgspec.json.Decoder(_StatusBody)


def classify(status: int, headers: Headers, body: bytes) -> Outcome:
    """Return the outcome of an answer. `body` may be cut short where `status` is not 2xx."""
    if 200 <= status <= 299:
        return _classify_success(headers, body)
    problem = problem_of(body)
    correlation_id = correlation_id_of(headers, problem)
    if problem is not None and status in (400, 404) and is_hubspots(headers, problem):
        message = problem.get("message")
        words = message[:LONGEST_MESSAGE] if isinstance(message, str) else ""
        words = "".join(sign if sign.isprintable() else " " for sign in words).strip()
        return Missing(code=status, message=words or None, correlation_id=correlation_id)
    if (refusal := _refusal(status, headers, body, problem)) is not None:
        return Refused(reason=refusal[0], detail=refusal[1], correlation_id=correlation_id)
    wait_s = retry_after_s(headers)
    match status:
        case 423:
            locked_s = max(LOCKED_WAIT_S, wait_s or 0.0)
            return Unreachable(reason="http_423", retry_after_s=locked_s, correlation_id=correlation_id)
        case 429:
            return Throttled(policy=_policy(problem), retry_after_s=wait_s, correlation_id=correlation_id)
        case 477:
            return Throttled(policy="migrating", retry_after_s=wait_s, correlation_id=correlation_id)
        case _:
            return Unreachable(
                reason=f"http_{status}" if 100 <= status <= 999 else "http_invalid",
                retry_after_s=wait_s,
                correlation_id=correlation_id,
            )


def _refusal(
    status: int, headers: Headers, body: bytes, problem: JsonObject | None
) -> tuple[RefusalReason, str] | None:
    """Return why a person must act, and the remedy; None for an answer that may change by itself."""
    if 300 <= status <= 399:
        return "wrong_host", _redirect(status, headers)
    match status:
        case 401 if not is_hubspots(headers, problem):
            return _unmarked_401(is_web_page=_is_html(headers, body))
        case 401 | 530:
            otherwise = (
                "" if is_hubspots(headers, problem) else ", unless HubSpot's own network fails"
            )  # Cloudflare's 530
            return "token_refused", f"HubSpot refused the token ({status}{_category(problem)}): replace it{otherwise}"
        case 403 if is_hubspots(headers, problem) or _scopes(problem):
            return "scope_missing", _forbidden(problem)
        case 511 if not is_hubspots(headers, problem):
            return "unknown_answer", (
                "the network on the way asks for a login (511): log in to it, or correct proxy or base_url"
            )
        case 405 | 410 | 415:
            return "wrong_path", f"the host answered {status}: {_WRONG_PATH}"
        case 404 if _is_html(headers, body):
            return "wrong_path", f"the host answered 404 with a web page: {_WRONG_PATH}"
        case 488:
            return "wrong_region", _region(problem)
        case _ if 400 <= status <= 499 and status not in MAY_PASS and not is_hubspots(headers, problem):
            return "unknown_answer", _of_a_stranger(status, body)
    return None


_HTTPS_ASKED = re.compile(  # of nginx, Apache, Go
    rb"HTTP request was sent to HTTPS port|plain HTTP to an SSL-enabled server port|HTTP request to an HTTPS server"
)


def _unmarked_401(*, is_web_page: bool) -> tuple[RefusalReason, str]:
    if is_web_page:
        return "unknown_answer", (
            "a web page with the status 401 came, which is not HubSpot's: a proxy or gateway on the way asks for a "
            "login. Correct proxy or base_url"
        )
    return "token_refused", (
        "an answer 401 without HubSpot's marks came: replace the token; where it is right, check base_url, and the "
        "proxy or gateway on the way"
    )


_WRONG_PATH = "this API path does not exist. Check base_url and status_path, whose version HubSpot may have retired."


def is_hubspots(headers: Headers, problem: JsonObject | None) -> bool:
    """Return whether an error answer is HubSpot's own and not a proxy's, a gateway's or another service's. Those of
    gateways may have a `correlationId`, too, but their `status` is a number (Spring, problem details of RFC 9457)."""
    if header(headers, "X-HubSpot-Correlation-Id"):
        return True
    if isinstance((problem or {}).get("status"), int):
        return False
    words = [(problem or {}).get(name) for name in ("correlationId", "category")]
    return any(isinstance(word, str) and word for word in words)


def _of_a_stranger(status: int, body: bytes) -> str:
    if _HTTPS_ASKED.search(body):
        return "the port speaks TLS, and base_url begins with http://: write https://"
    return f"an answer {status} without HubSpot's marks came: check base_url, and the proxy or gateway on the way"


def _redirect(status: int, headers: Headers) -> str:
    location = header(headers, "Location")
    to = printable(redacted_url(location)) if location else "nowhere"
    return f"the host answered {status} and points to {to}: set base_url to HubSpot's own host, or correct the proxy"


def _region(problem: JsonObject | None) -> str:
    region = (problem or {}).get("correctHublet")
    if not isinstance(region, str) or re.fullmatch(r"[a-z0-9]{2,8}", region) is None:
        return "the account lives in another region of HubSpot: set base_url to that region's host"
    return f"the account lives in HubSpot's region {region}: set base_url to https://api-{region}.hubapi.com"


# --- 2xx -------------------------------------------------------------------------------------------------------------


def _classify_success(headers: Headers, body: bytes) -> Outcome:
    correlation_id = correlation_id_of(headers, None)
    text = body
    if body[:1] != b"{" or body[-1:] != b"}" or BACKSLASH in body:  # seldom
        text = _without_lone_surrogates(body.removeprefix(b"\xef\xbb\xbf").strip(b" \t\r\n"))
    if text in (b"", b"null"):
        return Running(status=None, correlation_id=correlation_id)
    try:
        document = orjson.loads(text)
    except (ValueError, RecursionError):  # orjson's errors are ValueErrors
        return Unreachable(reason=BadBody.UNREADABLE.value, correlation_id=correlation_id)
    if not isinstance(document, dict):
        return Unreachable(reason=BadBody.NOT_AN_OBJECT.value, correlation_id=correlation_id)
    status = document.get("status")
    word = status.strip().upper() if isinstance(status, str) else ""
    if not isinstance(status, str) or not word:
        return Unreachable(reason=BadBody.NO_STATUS.value, correlation_id=correlation_id)
    correlation_id = correlation_id or correlation_id_of({}, document)
    match word:
        case "PENDING" | "PROCESSING" as running:
            return _running(running, headers, document, correlation_id)
        case "COMPLETE" | "CANCELED" as final:
            return _finished(final, document, text, correlation_id)
        case "ERROR" if not _ERROR_KEYS.isdisjoint(document):
            return Unreachable(reason=BadBody.ERROR.value, correlation_id=correlation_id)
        case _ if correlation_id is None and _STATUS_KEYS.isdisjoint(document):  # such as a gateway's {"status":"ok"}
            return Unreachable(reason=BadBody.NO_STATUS.value)
        case _:
            return _running(printable(status)[:LONGEST_WORD], headers, document, correlation_id, known=False)


def _running(
    status: str, headers: Headers, document: JsonObject, correlation_id: str | None, *, known: bool = True
) -> Running:
    return Running(
        status=status,
        known=known,
        task_id=_task_id(document),
        requested_at=epoch(document.get("requestedAt")),
        started_at=epoch(document.get("startedAt")),
        answered_at=answered_at(headers),
        correlation_id=correlation_id,
    )


def _finished(
    status: Literal["COMPLETE", "CANCELED"], document: JsonObject, text: bytes, correlation_id: str | None
) -> Outcome:
    if correlation_id is None and all(document.get(name) is None for name in _FINAL_KEYS):
        return Unreachable(reason=BadBody.NO_STATUS.value)  # any API's {"status":"complete"}
    may_be_deep = text.count(BRACE) + text.count(BRACKET) > DEEPEST
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
    """Return the bytes of a field without line breaks, which valid JSON has only between tokens."""
    value = bytes(raw)
    return None if value == b"null" else value.replace(b"\r", b" ").replace(b"\n", b" ")


_ESCAPE = re.compile(
    rb"\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}"  # a pair: remains
    rb"|(?P<lone>\\u[dD][89a-fA-F][0-9a-fA-F]{2})"
    rb"|\\.",  # so that the second backslash of `\\` does not start an escape
    re.DOTALL,
)


def _without_lone_surrogates(text: bytes) -> bytes:
    r"""Replace halves of UTF-16 pairs (`\ud83d`), which are not valid text, by U+FFFD.

    A server that cuts long texts leaves them in file names and messages; unreplaced, the task would never finish.
    """
    if BACKSLASH not in text or (b"\\ud" not in text and b"\\uD" not in text):
        return text
    return _ESCAPE.sub(lambda found: rb"\ufffd" if found["lone"] else found[0], text)


def _is_deep(value: object) -> bool:
    """Return whether `value` nests deeper than `DEEPEST`. Walks level by level, so that depth costs no stack."""
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


def _num_errors(count: object, errors: object) -> int:
    if isinstance(count, int) and not isinstance(count, bool) and count >= 0:
        return count
    counted = len(errors) if isinstance(errors, list) else int(bool(errors))
    return counted or int(_is_positive(count))  # some, although how many cannot be used


def _is_positive(count: object) -> bool:
    """Return whether `count` is a number above 0 that is no integer of 64 bits, or the text of one."""
    if isinstance(count, str):
        return count.isdecimal() and count.strip("0") != ""
    return isinstance(count, float) and count > 0


def _task_id(document: JsonObject) -> str | None:
    value = document.get("taskId")
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    return value if isinstance(value, str) and value else None


def _instant(value: object) -> str | None:
    return value if isinstance(value, str) and len(value) <= LONGEST_WORD else None


# --- not 2xx ---------------------------------------------------------------------------------------------------------


def problem_of(body: bytes) -> JsonObject | None:
    try:
        document = orjson.loads(_without_lone_surrogates(body.removeprefix(b"\xef\xbb\xbf")))
    except (ValueError, RecursionError):
        return None
    return document if isinstance(document, dict) else None


def _is_html(headers: Headers, body: bytes) -> bool:
    return "html" in (header(headers, "Content-Type") or "").lower() or body.lstrip()[:1] == b"<"


def _category(problem: JsonObject | None) -> str:
    """Return a category such as " EXPIRED_AUTHENTICATION", or nothing: bodies may contain anything."""
    word = (problem or {}).get("category")
    return f" {word}" if isinstance(word, str) and re.fullmatch(r"[A-Z0-9_]{1,64}", word) else ""


def _forbidden(problem: JsonObject | None) -> str:
    scopes = _scopes(problem)
    if scopes:
        return f"the token lacks the scope{'s' * (len(scopes) > 1)} {', '.join(scopes)}"
    return f"HubSpot forbids this request (403{_category(problem)}): check the token's scopes"


def _scopes(problem: JsonObject | None) -> list[str]:
    """Return the scopes in `errors[].context.requiredScopes`: a list in the documentation, a plain word in practice."""
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
    problem = problem or {}
    name = problem.get("policyName", problem.get("message"))  # "You have reached your daily limit."
    return "daily" if isinstance(name, str) and "DAILY" in name.upper() else "window"
