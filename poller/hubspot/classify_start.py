"""Classify the answers to a start call. Pure and total: any status, headers and bytes in, one meaning out.

What an answer leaves open is `Unsure`: only an answer that proves that no import began lets a row be sent a second
time at once.
"""

import msgspec

from poller.core.model import Missing, Outcome, RateLimits, Refused, Running, Throttled, Unreachable
from poller.core.starts import Declined, NotSent, StartAnswer, Started, StartOutcome, Unsure
from poller.core.task_id import task_id_of
from poller.core.text import printable
from poller.hubspot.classify import classify, is_hubspots, problem_of
from poller.hubspot.headers import Headers, correlation_id_of, read_limits

DECLINED = (400, 404, 409, 413, 414, 415, 422)
NOT_REACHED = (521, 523, 525, 526)  # Cloudflare had no connection to HubSpot
LARGEST_KEPT = 8192  # bytes of HubSpot's words that a record keeps


def classify_start(status: int, headers: Headers, body: bytes) -> StartAnswer:
    """Return what an answer means for the row, and what it shows about the account. `body` may be cut short where
    `status` is not 2xx."""
    limits = read_limits(headers)
    if 200 <= status <= 299:
        return _accepted(headers, body, limits)
    problem = problem_of(body)
    correlation_id = correlation_id_of(headers, problem)
    shows = classify(status, headers, body)
    if status in DECLINED and problem is not None and is_hubspots(headers, problem):
        message = problem.get("message")
        words = printable(message).strip() if isinstance(message, str) else None
        declined = Declined(code=status, message=words or None, body=_kept(body), correlation_id=correlation_id)
        return StartAnswer(outcome=declined, shows=Missing(code=status, correlation_id=correlation_id), limits=limits)
    if status == 403 and is_hubspots(headers, problem) and b"requiredScopes" not in body:
        shows = Refused(reason="import_refused", detail=_forbidden(problem), correlation_id=correlation_id)
    return StartAnswer(outcome=_meaning(status, shows), shows=shows, limits=limits)


def _accepted(headers: Headers, body: bytes, limits: RateLimits) -> StartAnswer:
    document = problem_of(body)
    correlation_id = correlation_id_of(headers, document)
    task_id = (document or {}).get("id")
    try:
        if isinstance(task_id, str | int) and not isinstance(task_id, bool):
            started = Started(task_id=task_id_of(str(task_id)), correlation_id=correlation_id)
            return StartAnswer(
                outcome=started, shows=Running(status=None, correlation_id=correlation_id), limits=limits
            )
    except ValueError:
        pass
    return unsure("no_id", limits)


def unsure(reason: str, limits: RateLimits | None = None) -> StartAnswer:
    """Return that a start may have been accepted."""
    return StartAnswer(outcome=Unsure(reason=reason), shows=Unreachable(reason=reason), limits=limits or RateLimits())


def not_sent(reason: str) -> StartAnswer:
    """Return that no byte of a start has left."""
    return StartAnswer(outcome=NotSent(reason=reason, left=False), shows=Unreachable(reason=reason))


def _meaning(status: int, shows: Outcome) -> StartOutcome:
    if 300 <= status <= 399 or status == 511:  # somebody on the way wants a login: that proves nothing
        return Unsure(reason=f"http_{status}")
    match shows:
        case Throttled() | Refused():
            return shows
        case Unreachable(reason=reason, retry_after_s=wait_s) if status in (*NOT_REACHED, 423):
            return NotSent(reason=reason, left=True, retry_after_s=wait_s)
        case Unreachable(reason=reason):
            return Unsure(reason=reason)
        case _:
            return Unsure(reason=f"http_{status}")


def _forbidden(problem: dict[str, object] | None) -> str:
    message = (problem or {}).get("message")
    words = printable(message) if isinstance(message, str) else "403 without a message"
    return f"HubSpot refuses to start imports: {words}"


def _kept(body: bytes) -> bytes | None:
    """Return HubSpot's error as one line of JSON, for the record; None where it is too long to keep."""
    text = body.removeprefix(b"\xef\xbb\xbf").strip()
    if len(text) > LARGEST_KEPT:
        return None
    try:
        msgspec.json.decode(text)
    except (msgspec.MsgspecError, RecursionError):
        return None
    return text.replace(b"\r", b" ").replace(b"\n", b" ")
