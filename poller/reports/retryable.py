"""Decides whether a failed import can be retried: which reasons pass by themselves, and which last. Pure."""

import re
from collections.abc import Iterator
from dataclasses import dataclass

from poller.core.columns import normalized
from poller.core.model import Kind
from poller.core.reason import HTTP_STATUS, as_list
from poller.reports.finished_task import FinishedTask

PASSING_STATUSES = frozenset({408, 425, 429})  # and all from 500 on
_RATE = re.compile(r"rate limit|throttl|too many requests|too many connections")
_LASTING = re.compile(
    r"too large|too big|exceed|larger than|name is too long|blocked|not allowed|disallow|cannot be hosted|unsupported"
    r"|not supported|invalid|malformed|already exists|in the folder already|duplicate|forbidden|unauthori[sz]ed"
    r"|access denied|permission|not found|does not exist|no such|\bgone\b|certificate|\bssl\b|\btls\b|virus|malware"
    r"|quota"
)
_PASSING = re.compile(
    r"timed? ?out|time out|took too long|unavailable|temporar|internal (?:server )?error|bad gateway|overload"
    r"|connection (?:was )?(?:reset|refused|closed|aborted|lost)|reset by peer|(?:un|not )reachable|unknown host"
    r"|could not (?:be )?(?:download|reach|fetch|connect|read|resolve)|download(?:ing)? (?:has |was )?failed"
    r"|(?:failed|unable) to (?:download|fetch|connect|read|reach)|try again|retry|interrupted|server error"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryAdvice:
    """Whether to start the import a second time, and why (not)."""

    retryable: bool
    why: str


TRIED_AGAIN = RetryAdvice(retryable=False, why="its row was tried again: the later attempt decides")


def retry_advice(task: FinishedTask) -> RetryAdvice:
    """Return whether the import can be retried.

    Retryable: time-outs, 5xx and rate limits of the file's server, interrupted downloads, imports that HubSpot
    canceled or did not finish. Any other reason would most likely fail a second time.
    """
    match task.kind:
        case Kind.COMPLETE if task.reason is None:
            why = "the file landed"
        case Kind.COMPLETE:
            why = "a file landed, but not the one in your row: check which is right"
        case Kind.NOT_FOUND | Kind.START_UNKNOWN:
            why = "its outcome is unknown: check whether the file is there"
        case Kind.COMPLETE_WITHOUT_RESULT:
            why = "HubSpot reported COMPLETE: check whether the file is there"
        case _ if task.landed:
            why = "a file landed in spite of errors: read the errors"
        case _:
            return _by_errors(task)
    return RetryAdvice(retryable=False, why=why)


def _by_errors(task: FinishedTask) -> RetryAdvice:
    known = [advice for error in as_list(task.errors) if (advice := _advice_for(error)) is not None]
    lasting = next((advice for advice in known if not advice.retryable), None)
    return lasting or next(iter(known), None) or _by_kind(task.kind)


def _by_kind(kind: str) -> RetryAdvice:
    match kind:
        case Kind.CANCELED:
            return RetryAdvice(retryable=True, why="HubSpot canceled the import without a lasting reason")
        case Kind.TIMED_OUT:
            return RetryAdvice(retryable=True, why="it may still finish, and then the file is there twice")
        case _:
            return RetryAdvice(retryable=False, why="the reason is not known to pass by itself")


def _advice_for(error: object) -> RetryAdvice | None:
    """Return the advice for one error; None where it names nothing that is known to pass or to last."""
    text = re.sub(r"[_-]", " ", " ".join(_texts(error, 0))).lower()
    if (code := _http_code(error, text)) is not None:
        passes = code >= 500 or code in PASSING_STATUSES
        which = "which often passes" if passes else "which does not pass by itself"
        return RetryAdvice(retryable=passes, why=f"the file's server returned {code}, {which}")
    if found := _RATE.search(text):
        return RetryAdvice(retryable=True, why=f"{_whole_words(found)!r} passes")
    if found := _LASTING.search(text):
        return RetryAdvice(retryable=False, why=f"{_whole_words(found)!r} does not pass by itself")
    if found := _PASSING.search(text):
        return RetryAdvice(retryable=True, why=f"{_whole_words(found)!r} often passes")
    return None


def _whole_words(found: re.Match[str]) -> str:
    """Return the match, extended to whole words."""
    text, begin, end = found.string, found.start(), found.end()
    while begin and text[begin - 1].isalpha():
        begin -= 1
    while end < len(text) and text[end].isalpha():
        end += 1
    return text[begin:end]


def _texts(value: object, depth: int) -> Iterator[str]:
    """Yield the texts of an error, except those that quote the task: context and links."""
    if isinstance(value, str):
        yield re.sub(r"\S*/\S*", " ", value[:1000])
    elif depth < 4 and isinstance(value, dict):
        for key, part in value.items():
            if key not in ("context", "links", "id", "in"):
                yield from _texts(part, depth + 1)
    elif depth < 4 and isinstance(value, list):
        for part in value[:20]:
            yield from _texts(part, depth + 1)


def _http_code(error: object, text: str) -> int | None:
    """Return the HTTP status that the file's server gave, from an error's context or its text."""
    context = error.get("context") if isinstance(error, dict) else None
    for name, value in context.items() if isinstance(context, dict) else ():
        if normalized(str(name)) in ("statuscode", "httpstatus", "httpstatuscode", "responsecode"):
            first = value[0] if isinstance(value, list) and value else value
            if re.fullmatch(r"[45][0-9]{2}", str(first)):
                return int(str(first))
    found = HTTP_STATUS.search(text)
    return int(found[1]) if found and found[1][0] in "45" else None
