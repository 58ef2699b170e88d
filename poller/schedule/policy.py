"""Decides what happens to a task after a poll. Pure: no clock, no network; chance is passed in."""

import math
from dataclasses import dataclass
from random import Random
from typing import Literal, assert_never

from poller.core.model import (
    Decision,
    Finish,
    Finished,
    Kind,
    Missing,
    Outcome,
    PollAgain,
    Refused,
    Running,
    Task,
    Throttled,
    Unreachable,
)
from poller.schedule.learned import Tradeoff

POLL_COST_S = 3.0  # earlier than the back-off with fewer polls, for imports of seconds and of minutes: docs/timing.md
LONGEST_GAP_S = 60.0
LONGEST_GAP_BY_COST_S = 900.0  # upper bound where the person set `poll_cost_s`, which then decides
OVERDUE_DOUBLINGS = 2  # past its deadline only one more answer, of another task, is missing: no long gap
CLOCKS_DIFFER_S = 60.0  # of HubSpot's machines: more is no instant of theirs
FAILURES_BEFORE_TIMED_OUT = 5  # in a row: then a task whose polls all fail is given up at its deadline
RARE_FAILURES = 1 / 16  # share of an account's polls
FEWEST_DOUBLINGS = 1 / 3  # a failed poll, however many of the others fail, lengthens the gap
THROTTLED_GAP_S, LONGEST_THROTTLED_GAP_S = 1.0, 300.0  # of a task whose request was answered with 429


@dataclass(frozen=True, slots=True, kw_only=True)
class Polling:
    """One account's timing rules. All durations in seconds."""

    policy: Literal["learned", "backoff", "fixed"] = "learned"  # how to choose the next poll of a running task
    poll_cost_s: float | None = None  # learned: the lateness that one poll is worth; None: `POLL_COST_S`
    first_gap_s: float = 1.0  # least time between two polls of a running task
    longest_gap_s: float | None = None  # most time between two; None: 60, or 900 with a `poll_cost_s`
    age_share: float = 0.25  # backoff: the gap as a share of the task's age
    jitter: float = 0.1  # backoff: gaps vary by up to this share, so that tasks fed together spread out
    missing_again_s: float = 30.0  # a 400/404 counts when a poll at least this much later returns it too
    line_by: str | None = None  # learned: the field of `ref` whose values tell lines of imports apart
    trust_unknown: bool = False  # an unknown id is an outcome even where HubSpot knows none of the account's ids
    failure_gap_s: float = 2.0  # back-off after the first failed poll; doubles with each
    longest_failure_gap_s: float = 300.0
    deadline_s: float = 86_400.0  # age at which an unfinished task is given up
    expects_result: bool = True  # the endpoint promises `result` with COMPLETE

    @property
    def tradeoff(self) -> Tradeoff:
        """What learned timing plans by."""
        return Tradeoff(
            poll_cost_s=POLL_COST_S if self.poll_cost_s is None else self.poll_cost_s,
            longest_gap_s=min(self.ceiling_s, self.deadline_s),
            shortest_gap_s=self.first_gap_s,
            cap_s=math.inf if self.longest_gap_s is None else self.longest_gap_s,
            deadline_s=self.deadline_s,
            line_by=self.line_by,
        )

    @property
    def ceiling_s(self) -> float:
        """The most time between two polls of a running task."""
        if self.longest_gap_s is not None:
            return self.longest_gap_s
        return LONGEST_GAP_BY_COST_S if self.policy == "learned" and self.poll_cost_s is not None else LONGEST_GAP_S


def decide(
    task: Task,
    outcome: Outcome,
    *,
    now: float,
    paused_s: float,
    is_paused: bool,
    others_answered: bool,
    holds_unknown: bool,
    failed_share: float = 0.0,
    polling: Polling,
    rng: Random,
    learned_gap_s: float | None = None,
    followed_s: float = math.inf,
) -> Decision:
    """Return what to do with `task` after `outcome`.

    `paused_s` is the account's paused time so far: deadlines do not run during pauses. `is_paused`: the account is
    paused, so that a failed poll is not this task's. `others_answered`: other tasks were answered since this one's poll
    failed before; only then a failed poll may end it. `holds_unknown`: an unknown id is no outcome yet.
    `failed_share` of the account's latest polls failed: the more, the less one failed poll says about its task.
    `learned_gap_s` is learned timing's gap for a running task. `followed_s`: for how long this run has followed the
    account, by its steady clock.
    """
    age_s = age_of(task, now, paused_s)
    overdue = age_s >= polling.deadline_s
    match outcome:
        case Running():
            left_s = polling.deadline_s - age_s
            if overdue and followed_s < polling.deadline_s:
                left_s = _left_by_hubspot_s(outcome, polling.deadline_s)
            if left_s <= 0:
                return Finish(kind=Kind.TIMED_OUT)
            gap_s = _running_gap_s(age_s, polling, rng) if learned_gap_s is None else learned_gap_s
            return _poll_again_running(outcome, now, min(gap_s, left_s))
        case Finished():
            return Finish(kind=_finished_kind(outcome, polling))
        case Missing():
            return _decide_missing(task, now, polling, holds_unknown=holds_unknown)
        case Throttled() if is_paused or outcome.policy != "migrating":
            return _poll_again_unchanged(task, at=now + _throttled_gap_s(outcome, rng))
        case Refused() | Unreachable() | Throttled():  # only one request was answered with 477: no account is moving
            if is_paused:
                return _poll_again_unchanged(task, at=now + polling.first_gap_s)
            if overdue and others_answered and task.errors + 1 >= FAILURES_BEFORE_TIMED_OUT:
                return Finish(kind=Kind.TIMED_OUT)
            doublings = doublings_each(failed_share) * (min(task.errors, OVERDUE_DOUBLINGS) if overdue else task.errors)
            return _poll_again_failed(task, now, _failure_gap_s(doublings, polling, rng, _asked_s(outcome)))
        case _:
            assert_never(outcome)


def age_of(task: Task, now: float, paused_s: float) -> float:
    """Return how long a task waits, without its account's pauses; `paused_s` is the account's paused time so far."""
    paused_s = paused_s - task.paused_base_s if paused_s > task.paused_base_s else 0.0
    return now - task.fed_at - paused_s if now - task.fed_at > paused_s else 0.0


def _left_by_hubspot_s(outcome: Running, deadline_s: float) -> float:
    """Return how much of the deadline is left by HubSpot's clock alone, from the request of the import to this answer;
    0 where that is not known. Our age of a task that an earlier run fed rests on two settings of this machine's clock,
    of which one may have been wrong; HubSpot's is never less than the true one."""
    if outcome.answered_at is None or outcome.requested_at is None:
        return 0.0
    age_s = outcome.answered_at - outcome.requested_at
    return deadline_s - age_s if age_s >= -CLOCKS_DIFFER_S else 0.0


def _finished_kind(outcome: Finished, polling: Polling) -> Kind:
    if outcome.status == "CANCELED":
        return Kind.CANCELED
    if outcome.has_errors or outcome.num_errors > 0:
        return Kind.COMPLETE_WITH_ERRORS
    if outcome.result is None and polling.expects_result:
        return Kind.COMPLETE_WITHOUT_RESULT
    return Kind.COMPLETE


def _running_gap_s(age_s: float, polling: Polling, rng: Random) -> float:
    if polling.policy == "fixed":
        return polling.ceiling_s
    gap_s = min(max(age_s * polling.age_share, polling.first_gap_s), polling.ceiling_s)
    return min(gap_s * rng.uniform(1 - polling.jitter, 1 + polling.jitter), polling.ceiling_s)


def _failure_gap_s(doublings: float, polling: Polling, rng: Random, asked_s: float) -> float:
    """Full jitter over a doubling, capped range (AWS's term), with half of the first gap as its floor, or `asked_s`
    where HubSpot requests a longer wait that is not absurd."""
    ceiling = min(polling.failure_gap_s * 2.0 ** min(doublings, 32), polling.longest_failure_gap_s)
    return max(rng.uniform(polling.failure_gap_s / 2, ceiling), min(asked_s, polling.longest_failure_gap_s))


def _poll_again_running(outcome: Running, now: float, gap_s: float) -> PollAgain:
    return PollAgain(
        at=now + gap_s,
        errors=0,
        status=outcome.status,
        requested_at=outcome.requested_at,
        seen_at=now,
        started_at=outcome.started_at,
    )


def _poll_again_failed(task: Task, now: float, gap_s: float) -> PollAgain:
    return PollAgain(at=now + gap_s, errors=task.errors + 1, missing_at=task.missing_at, status=task.status)


def _asked_s(outcome: Refused | Unreachable | Throttled) -> float:
    return outcome.retry_after_s or 0.0 if isinstance(outcome, Unreachable) else 0.0


def doublings_each(failed_share: float) -> float:
    """Return by how many doublings each failed poll in a row lengthens the gap to the next: one while failures are
    rare, fewer where most of them are accidents of the account."""
    if failed_share <= RARE_FAILURES:
        return 1.0
    return max(FEWEST_DOUBLINGS, math.log(failed_share) / math.log(RARE_FAILURES))


def _throttled_gap_s(outcome: Throttled, rng: Random) -> float:
    """Return about a second, or what HubSpot requests: where only this request was refused, only it waits."""
    asked_s = min(outcome.retry_after_s or 0.0, LONGEST_THROTTLED_GAP_S)
    return max(asked_s, THROTTLED_GAP_S) * rng.uniform(1.0, 1.25)


def _decide_missing(task: Task, now: float, polling: Polling, *, holds_unknown: bool) -> Decision:
    """Finish after two 404s some time apart: right after its start a task may not be known everywhere yet."""
    first_at = now if task.missing_at is None else task.missing_at
    if task.missing_at is not None and now - first_at >= polling.missing_again_s and not holds_unknown:
        return Finish(kind=Kind.NOT_FOUND)
    due_at = first_at + polling.missing_again_s
    return PollAgain(
        at=due_at if due_at > now else now + polling.missing_again_s, errors=0, missing_at=first_at, status=task.status
    )


def _poll_again_unchanged(task: Task, at: float) -> PollAgain:
    return PollAgain(at=at, errors=task.errors, missing_at=task.missing_at, status=task.status)
