"""The description of a simulated HubSpot as frozen data, and the parsers of its command-line form.

Every parser raises `ValueError`; the message contains the text and the right form.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from hashlib import blake2b
from itertools import pairwise
from types import MappingProxyType
from typing import Literal, TypeVar
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from poller.schedule.durations import DEFAULT_DURATIONS, Durations, parse_durations, parse_number

_T = TypeVar("_T")
SHARES_SLACK = 1e-9  # float sums of shares such as 0.1 + 0.2 are not exact

FAULTS: Mapping[str, str] = MappingProxyType(
    {
        "500": "an internal error, as JSON",
        "502": "a bad gateway, as HTML",
        "503": "service unavailable, as HTML",
        "504": "a gateway time-out, as HTML",
        "401": "the token is refused",
        "403": "the token lacks a scope",
        "423": "locked",
        "477": "the account is moving data centre, with Retry-After",
        "530": "the token's origin is not reachable",
        "reset": "the connection is reset in mid-body",
        "truncated": "the body ends early: less than its Content-Length, or cut without a Content-Length",
        "empty": "200 without a body",
        "null": "200 with `null`",
        "array": "200 with the answer inside an array",
        "html200": "200 with an HTML page",
        "html404": "404 with an HTML page, as on a wrong path",
        "wrong_types": "fields of another JSON type than documented",
        "unknown_status": "a status word that HubSpot never documented",
        "foreign_id": "the finished answer of another task (where the endpoint sends ids)",
        "stray": "after the answer, a stray answer of another task on the idle connection",
        "huge": "a body of 4 MiB",
        "gzip_bomb": "64 kB of gzip that unpack to 64 MiB",
        "deep": "JSON nested 200,000 deep",
        "bad_utf8": "a string that is not UTF-8",
        "duplicate_keys": "each deciding key twice; the last one is right",
        "nan": "NaN and Infinity, which JSON does not have",
        "big_ints": "integers beyond 64 bits in result: valid, to be passed on; a trait of a task, not of a poll",
        "big_headers": "a header of 64 kB",
        "redirect": "a redirect to another host",
        "drip": "the body at 5 bytes a second",
        "hang": "no answer until `hang_s` has passed, then a reset",
        "start_lost": "a start that is accepted, then reset without an answer",
        "start_hang": "a start that is accepted; no answer until `hang_s` has passed",
        "start_500_done": "a start that is accepted and answered with 500",
        "start_500_undone": "a start that is not accepted: 500",
        "start_no_id": "a start that is accepted and answered with 202 without an id",
        "start_before": "a start that is reset before it is accepted",
        "start_403_storage": "a start that is refused: the account's storage is full",
        "start_400": "a start that is refused as invalid",
    }
)
START_FAULTS = frozenset(name for name in FAULTS if name.startswith("start_"))


def chance(*words: object) -> float:
    """Return a number in [0, 1) that depends on these words alone, not on any order of arrival."""
    digest = blake2b("\x1f".join(map(str, words)).encode(errors="surrogatepass"), digest_size=8).digest()
    return (int.from_bytes(digest, "big") >> 11) / 2**53


def pick(shares: Mapping[_T, float], draw: float) -> _T | None:
    """Return the key that a number in [0, 1) falls on; None beyond the sum of the shares."""
    for key, share in shares.items():
        if draw < share:
            return key
        draw -= share
    return None


class Fate(StrEnum):
    """How a simulated task ends."""

    COMPLETE = "complete"
    COMPLETE_WITH_ERRORS = "complete_with_errors"
    COMPLETE_WITHOUT_RESULT = "complete_without_result"
    CANCELED = "canceled"
    NEVER = "never"  # stays PROCESSING forever
    UNKNOWN = "unknown"  # its status request returns 404 or 400


# --- shares, latency, outages ----------------------------------------------------------------------------------------


def parse_fault(spec: str) -> tuple[str, float]:
    """Read `NAME=SHARE`, the share of polls, or of starts, that end in this fault."""
    return _parse_share(spec, "fault", FAULTS)


def parse_fate(spec: str) -> tuple[Fate, float]:
    """Read `NAME=SHARE`, the share of tasks that end this way."""
    name, share = _parse_share(spec, "fate", Fate)
    return Fate(name), share


def _parse_share(spec: str, noun: str, names: Iterable[str]) -> tuple[str, float]:
    name, equals, share_text = spec.partition("=")
    _check_name(name, noun, names)
    if not equals:
        raise ValueError(f"{noun} {spec!r}: write NAME=SHARE, such as {name}=0.05")
    share = parse_number(share_text, f"{noun} {spec!r}")
    if share > 1:
        raise ValueError(f"{noun} {spec!r}: the share must be from 0 to 1")
    return name, share


def _check_name(name: str, noun: str, names: Iterable[str]) -> None:
    if name not in set(names):
        raise ValueError(f"unknown {noun} {name!r}; known are {', '.join(names)}")


def parse_latency_ms(spec: str) -> tuple[float, float]:
    """Read `MIN-MAX` or `N`, in milliseconds; return seconds."""
    low_text, dash, high_text = spec.partition("-")
    low = parse_number(low_text, f"latency {spec!r}")
    high = parse_number(high_text, f"latency {spec!r}") if dash else low
    if low > high:
        raise ValueError(f"latency {spec!r}: write the smaller number first")
    return low / 1000, high / 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Outage:
    """A span in which every request ends in one fault. Seconds since the sandbox began, the end excluded."""

    from_s: float
    to_s: float
    fault: str


def parse_outage(spec: str) -> Outage:
    """Read `FROM-TO=FAULT`, in seconds since the start."""
    span, _, fault = spec.partition("=")
    _check_name(fault, f"fault in the outage {spec!r}:", FAULTS)
    from_text, dash, to_text = span.partition("-")
    if not dash:
        raise ValueError(f"outage {spec!r}: write FROM-TO=FAULT in seconds, such as 60-120=503")
    return Outage(
        from_s=parse_number(from_text, f"outage {spec!r}"), to_s=parse_number(to_text, f"outage {spec!r}"), fault=fault
    )


# --- the whole -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """A simulated HubSpot. Shares are from 0 to 1. Raises `ValueError` for values that cannot hold."""

    seed: int = 1
    durations: Durations = field(default_factory=lambda: parse_durations(DEFAULT_DURATIONS))
    fates: Mapping[Fate, float] = field(  # the remainder to 1 is complete
        default_factory=lambda: {
            Fate.COMPLETE_WITH_ERRORS: 0.06,
            Fate.COMPLETE_WITHOUT_RESULT: 0.01,
            Fate.CANCELED: 0.02,
        }
    )
    faults: Mapping[str, float] = field(default_factory=dict)  # share of polls; `big_ints`: of tasks, `start_…`: starts
    duplicates_by: Literal["content", "name", "never"] = "content"  # what HubSpot's duplicate check compares
    dead_hosts: frozenset[str] = frozenset()  # no file of these can be downloaded
    outages: tuple[Outage, ...] = ()
    hang_s: float = 300.0  # the silence of the fault `hang`

    latency_s: tuple[float, float] = (0.02, 0.08)  # uniform between
    slow_share: float = 0.0  # share of requests that take `slow_s` instead
    slow_s: float = 3.0

    requests: int = 100  # in any rolling window, counted at arrival, 429s included
    window_s: float = 10.0
    window_per_token: bool = False  # each token has its own limits; otherwise all share one
    daily: int | None = None  # requests a day; None: no limit, and no daily headers, as for OAuth apps
    daily_zone: str = "UTC"  # the day ends at midnight there …
    daily_every_s: float | None = None  # … or at this interval, from the start
    send_headers: bool = True  # X-HubSpot-RateLimit-*
    send_retry_after: bool = False  # with 429

    tokens: frozenset[str] | None = None  # bearer tokens accepted; None: any
    scope_missing: bool = False  # every call answers 403
    refresh_token: str = "sandbox-refresh"  # noqa: S105 - opens nothing but the sandbox
    rotate_refresh_token: bool = False  # each refresh returns a new one and invalidates the old one
    oauth_expires_s: float = 1800.0
    oauth_refusals: int = 0  # the first calls of the token endpoint answer 429

    def __post_init__(self) -> None:
        _check_shares("faults", self.faults, FAULTS)
        _check_shares("fates", self.fates, Fate)
        for outage in self.outages:
            _check_name(outage.fault, "fault in an outage", FAULTS)
        if self.duplicates_by not in ("content", "name", "never"):
            raise ValueError(f"duplicates_by {self.duplicates_by!r}: write content, name or never")
        if self.requests < 1 or not 0 < self.window_s < math.inf:
            raise ValueError("requests and window_s must be above 0, and finite")
        if not all(low <= high for low, high in pairwise((0.0, *self.latency_s))):
            raise ValueError(f"latency_s must rise from 0 or more, not {self.latency_s}")
        try:
            ZoneInfo(self.daily_zone)
        except (ZoneInfoNotFoundError, ValueError):
            raise ValueError(
                f"daily_zone {self.daily_zone!r} is no time zone; write one such as Europe/Berlin"
            ) from None


def _check_shares(noun: str, shares: Mapping[str, float] | Mapping[Fate, float], names: Iterable[str]) -> None:
    for name in shares:
        _check_name(name, noun, names)
    of_starts = sum(share for name, share in shares.items() if name in START_FAULTS)
    total = sum(share for name, share in shares.items() if name != "big_ints") - of_starts
    if max(total, of_starts) > 1 + SHARES_SLACK or any(not 0 <= share <= 1 for share in shares.values()):
        raise ValueError(
            f"{noun}: each share must be from 0 to 1, and all together at most 1, not {max(total, of_starts):g}"
        )
