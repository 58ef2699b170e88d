"""Decides what happens to a row after its start. Pure: no clock, no network; chance is passed in."""

from dataclasses import dataclass, replace
from random import Random
from typing import Any, Literal, assert_never

import orjson

from poller.core.model import Kind, Refused, Throttled
from poller.core.starts import (
    AwaitStart,
    Begin,
    Declined,
    EndRow,
    NotSent,
    Row,
    StartAgain,
    StartDecision,
    Started,
    StartOutcome,
    Unsure,
)
from poller.schedule.learned import PollPlanner, Tradeoff
from poller.schedule.policy import Polling
from poller.schedule.survival import SurvivalCurve

MOST_LOST = 3  # POSTs of a row whose answers are lost; then it is not sent again
MOST_REFUSALS = 3  # of one row, others being accepted between
SHORTEST_SETTLE_S, LONGEST_SETTLE_S = 300.0, 3600.0
SETTLE_S = 1200.0  # until enough imports are known
SETTLED_SHARE = 0.999  # of imports that have landed after the settle time
KNOWN_FOR_SETTLE = 100  # imports
POLLS_BEFORE_A_START = 4  # due polls in a row, before one waiting start goes
REPRICE_EVERY_S = 5.0  # what a poll is worth
HIGHEST_COST_S = 600.0  # of a poll, while rows wait to be started
LONGEST_GAP_S = 330.0  # meanwhile; see docs/decisions.md
AGAIN_S = 2.0  # least wait before a row that was not accepted is sent again
LONGEST_AGAIN_S = 300.0


@dataclass(frozen=True, slots=True, kw_only=True)
class StartRules:
    """How one account's imports are started."""

    unsure: Literal["repeat", "hold"] = "repeat"  # what to do with a row whose start's answer was lost
    underway: int = 5000  # imports at HubSpot at once, at most
    trial: int = 20  # imports that are started before the others; 0: none


def settle_s(planner: PollPlanner | None) -> float:
    """Return how long a lost start may take to land: only then can HubSpot find it as a duplicate."""
    if planner is None or planner.hazard.finished < KNOWN_FOR_SETTLE:
        return SETTLE_S
    rates, _ = planner.hazard.rates()
    return min(max(SurvivalCurve(rates).quantile_s(SETTLED_SHARE), SHORTEST_SETTLE_S), LONGEST_SETTLE_S)


def backlog_tradeoff(polling: Polling, unstarted: int, pace: float) -> Tradeoff:
    """Return what a poll is worth while `unstarted` rows wait: it delays each of them. `pace` is in requests a second.
    A cost or a gap that the person set stays."""
    usual = polling.tradeoff
    cost_s = min(unstarted / pace, HIGHEST_COST_S)
    if polling.poll_cost_s is not None or cost_s <= usual.poll_cost_s:
        return usual
    longest_s = usual.longest_gap_s if polling.longest_gap_s is not None else min(LONGEST_GAP_S, polling.deadline_s)
    return replace(usual, poll_cost_s=cost_s, longest_gap_s=longest_s)


def may_be_sent(row: Row, rules: StartRules) -> bool:
    """Return whether a due row may be sent; otherwise nothing will ever show whether it was accepted."""
    return row.lost == 0 or (rules.unsure == "repeat" and row.lost < MOST_LOST)


def decide_start(
    row: Row, outcome: StartOutcome, *, now: float, others_accepted: bool, rules: StartRules, rng: Random
) -> StartDecision:
    """Return what to do with `row`, as it was stored before this start, after its outcome.

    A certain answer says nothing about an earlier start whose answer was lost: the row stays unsure.
    """
    match outcome:
        case Started(task_id=task_id):
            return Begin(task_id=task_id)
        case Declined():
            return EndRow(kind=Kind.START_UNKNOWN if row.lost else Kind.NOT_STARTED)
        case NotSent(left=left, retry_after_s=asked_s):
            return StartAgain(at=now + _again_s(asked_s, rng), refusals=row.refusals, left=left)
        case Throttled(retry_after_s=asked_s):
            return StartAgain(at=now + _again_s(asked_s, rng), refusals=row.refusals, left=True)
        case Refused(reason="import_refused"):
            if others_accepted and row.refusals + 1 >= MOST_REFUSALS:
                return EndRow(kind=Kind.START_UNKNOWN if row.lost else Kind.NOT_STARTED)
            return StartAgain(at=now + _again_s(None, rng), refusals=row.refusals + others_accepted, left=True)
        case Refused():
            return StartAgain(at=now + _again_s(None, rng), refusals=row.refusals, left=True)
        case Unsure():
            if rules.unsure == "repeat" and row.lost + 1 >= MOST_LOST:
                return EndRow(kind=Kind.START_UNKNOWN)
            return AwaitStart()
        case _:
            assert_never(outcome)


def _again_s(asked_s: float | None, rng: Random) -> float:
    return max(AGAIN_S, min(asked_s or 0.0, LONGEST_AGAIN_S)) * rng.uniform(1.0, 1.5)


def body_to_send(row: Row) -> bytes:
    """Return the body of the next POST: with HubSpot's duplicate check where an earlier one may have landed."""
    return with_duplicate_check(row.body) if row.lost or row.may_have_landed else row.body


def with_duplicate_check(body: bytes) -> bytes:
    """Return the body with a duplicate check in its folder. One that has a check, or overwrites the file of a given
    name, stays as it is: it makes no second file."""
    fields: dict[str, Any] = orjson.loads(body)
    has_check = fields.get("duplicateValidationStrategy") in ("REJECT", "RETURN_EXISTING")
    if has_check or (fields.get("overwrite") is True and fields.get("name")):
        return body
    checked = {"duplicateValidationStrategy": "RETURN_EXISTING", "duplicateValidationScope": "EXACT_FOLDER"}
    return orjson.dumps(fields | checked)
