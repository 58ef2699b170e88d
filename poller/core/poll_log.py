"""A task's poll log: its polls as text, a JSON array a line; a store appends without reading what is there. Pure."""

from functools import cache, lru_cache
from typing import assert_never

import orjson

from poller.core.details import Poll
from poller.core.model import Finished, Missing, Outcome, Refused, Running, Throttled, Unreachable

LONGEST = 1500  # characters a store keeps of a poll log, the latest: some twenty polls


def outcome_name(outcome: Outcome) -> str:
    """Return the outcome's class as in logs, poll logs and metrics."""
    return _name_of(type(outcome))


@cache
def _name_of(outcome: type[Outcome]) -> str:
    return outcome.__name__.lower()


def outcome_detail(outcome: Outcome) -> str | int | None:
    """Return the status, code or reason of an outcome."""
    match outcome:
        case Running() | Finished():
            return outcome.status
        case Missing():
            return outcome.code
        case Throttled():
            return outcome.policy
        case Refused() | Unreachable():
            return outcome.reason
        case _:
            assert_never(outcome)


def failure_reason(outcome: Outcome) -> str | None:
    """Return why a poll did not show its task's status; None where it did. A missing task is an answer."""
    match outcome:
        case Running() | Finished() | Missing():
            return None
        case Throttled():
            return f"throttled_{outcome.policy}"
        case Refused() | Unreachable():
            return outcome.reason
        case _:
            assert_never(outcome)


def poll_line(outcome: Outcome, *, at: float, gate_s: float, took_s: float, again_in_s: float | None) -> str:
    """Return the line that adds a poll to a poll log; its values are those of a `Poll`."""
    words = _words(type(outcome), outcome_detail(outcome))
    if again_in_s is None:
        return "[%.3f,%.3f,%.3f,%s,null]\n" % (at, gate_s, took_s, words)  # noqa: UP031 - in half of an f-string's time
    return "[%.3f,%.3f,%.3f,%s,%.3f]\n" % (at, gate_s, took_s, words, again_in_s)  # noqa: UP031 - the same


@lru_cache(maxsize=256)
def _words(outcome: type[Outcome], detail: str | int | None) -> str:
    detail = detail.encode("utf-8", "replace").decode() if isinstance(detail, str) else detail
    return orjson.dumps((_name_of(outcome), detail)).decode()[1:-1]


def polls(poll_log: str) -> tuple[Poll, ...]:
    """Return the polls of a poll log, oldest first. A first line that was cut is left out."""
    return tuple(_poll(line) for line in poll_log.splitlines() if line.startswith("[") and line.endswith("]"))


def _poll(line: str) -> Poll:
    at, gate_s, took_s, outcome, detail, again_in_s = orjson.loads(line)
    return Poll(at=at, gate_s=gate_s, took_s=took_s, outcome=outcome, detail=detail, again_in_s=again_in_s)
