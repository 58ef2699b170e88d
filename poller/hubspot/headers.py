"""Read what the headers of HubSpot's answers show of limits, waits and origin. Pure and total."""

import re
from collections.abc import Mapping
from functools import lru_cache, partial

from multidict import CIMultiDictProxy, istr

from poller.core.model import JsonObject, RateLimits
from poller.core.retry_after import http_date, parse_retry_after

Headers = Mapping[str, str]  # names in any case; of repeated names the first counts

SHORTEST_WAIT_S, LONGEST_WAIT_S = 1.0, 900.0  # a Retry-After may come from anybody on the way
LONGEST_WORD = 64
LONGEST_INTEGER = 12  # digits in a header
_CUT = LONGEST_WORD + 1  # what is longer is no number


_LIMITS = tuple(  # `istr`: their lower case is not made again for every answer
    istr(f"X-HubSpot-RateLimit-{name}")
    for name in ("Max", "Remaining", "Interval-Milliseconds", "Daily", "Daily-Remaining")
)
_CORRELATION = istr("X-HubSpot-Correlation-Id")
_DATE = istr("Date")


def read_limits(headers: Headers) -> RateLimits:
    """Return the rate limit headers; a value that is missing, not a number or out of any sane range is None."""
    get = headers.get if isinstance(headers, CIMultiDictProxy) else partial(header, headers)
    most, remaining, interval, daily, daily_remaining = map(get, _LIMITS)
    interval_ms = None if interval is None else _integer(interval[:_CUT], 100, 3_600_000)
    return RateLimits(
        max=None if most is None else _integer(most[:_CUT], 1, 1_000_000),
        remaining=None if remaining is None else _integer(remaining[:_CUT], 0, 10_000_000),
        interval_s=None if interval_ms is None else interval_ms / 1000,
        daily=None if daily is None else _integer(daily[:_CUT], 1, 1_000_000_000),
        daily_remaining=None if daily_remaining is None else _integer(daily_remaining[:_CUT], 0, 1_000_000_000),
    )


def header(headers: Headers, name: str) -> str | None:
    if isinstance(headers, CIMultiDictProxy):  # aiohttp's: it ignores case by itself
        return headers.get(name)
    wanted = name.casefold()
    return next((value for key, value in headers.items() if key.casefold() == wanted), None)


@lru_cache(maxsize=4096)  # all answers have the same limits, and most counts recur
def _integer(value: str, least: int, most: int) -> int | None:
    text = value.strip() if len(value) < _CUT else ""
    if not text.isdigit() or not text.isascii() or len(text) > LONGEST_INTEGER:
        return None
    number = int(text)
    return number if least <= number <= most else None


_CORRELATION_ID = re.compile(r"[A-Za-z0-9-]{1,64}")


def correlation_id_of(headers: Headers, document: JsonObject | None) -> str | None:
    is_aiohttps = isinstance(headers, CIMultiDictProxy)
    value = headers.get(_CORRELATION) if is_aiohttps else header(headers, _CORRELATION)
    if value is not None and _CORRELATION_ID.fullmatch(value):
        return value
    value = None if document is None else document.get("correlationId")
    return value if isinstance(value, str) and _CORRELATION_ID.fullmatch(value) else None


def retry_after_s(headers: Headers) -> float | None:
    """Return the wait that HubSpot requests. A date counts from the answer's own `Date`, so no clock has to agree."""
    return parse_retry_after(
        header(headers, "Retry-After"),
        sent_at=answered_at(headers),
        floor_s=SHORTEST_WAIT_S,
        ceiling_s=LONGEST_WAIT_S,
    )


def answered_at(headers: Headers) -> float | None:
    """Return HubSpot's clock at its answer; None where there is no usable header `Date`."""
    return _instant(headers.get(_DATE) if isinstance(headers, CIMultiDictProxy) else header(headers, "Date"))


@lru_cache(maxsize=16)  # all answers of a second have the same
def _instant(date: str | None) -> float | None:
    return http_date(date)
