"""What is decided for a task after a poll."""

import math
from dataclasses import replace as changed
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from poller.core.model import (
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
from poller.schedule.policy import FAILURES_BEFORE_TIMED_OUT, Polling, decide
from tests.support.makers import make_task

POLLING = Polling(jitter=0.0)
NOW = 10_000.0


def decided(
    task: Task,
    outcome: Outcome,
    *,
    now: float = NOW,
    paused_s: float = 0.0,
    is_paused: bool = False,
    others_answered: bool = True,
    polling: Polling = POLLING,
    followed_s: float = math.inf,
) -> Finish | PollAgain:
    return decide(
        task,
        outcome,
        now=now,
        paused_s=paused_s,
        is_paused=is_paused,
        others_answered=others_answered,
        holds_unknown=False,
        polling=polling,
        rng=Random(0),
        followed_s=followed_s,
    )


def again(decision: Finish | PollAgain) -> PollAgain:
    assert isinstance(decision, PollAgain)
    return decision


def test_a_running_task_is_polled_again_after_a_quarter_of_its_age() -> None:
    assert again(decided(make_task(fed_at=NOW - 100), Running(status="PENDING"))).at == NOW + 25


def test_gaps_are_at_least_one_second_and_at_most_one_minute() -> None:
    fresh = again(decided(make_task(fed_at=NOW), Running(status="PENDING")))
    old = again(decided(make_task(fed_at=NOW - 4000), Running(status="PENDING")))
    assert (fresh.at, old.at) == (NOW + 1, NOW + 60)


@given(age_s=st.floats(0, 86_000), seed=st.integers())
def test_the_gap_stays_within_its_bounds_whatever_the_jitter(age_s: float, seed: int) -> None:
    polling = Polling(jitter=0.5)
    task = make_task(fed_at=NOW - age_s)
    decision = again(
        decide(
            task,
            Running(status="PENDING"),
            now=NOW,
            paused_s=0,
            is_paused=False,
            others_answered=True,
            holds_unknown=False,
            polling=polling,
            rng=Random(seed),
        )
    )
    assert 0.5 <= decision.at - NOW <= 60


def test_the_last_poll_is_made_at_the_deadline_and_not_after_it() -> None:
    task = make_task(fed_at=NOW - POLLING.deadline_s + 3)
    assert again(decided(task, Running(status="PENDING"))).at == NOW + 3


@pytest.mark.parametrize(
    ("requested_at", "answered_at", "followed_s", "left_s"),
    [
        (50.0, 150.0, 10.0, 200.0),  # by HubSpot's clock it is 100 s old
        (50.0, 49.0, 10.0, 301.0),  # whose machines differ, or which cuts the seconds off
        (50.0, 350.0, 10.0, None),
        (50.0, 150.0, 300.0, None),  # this run alone has waited as long as the deadline
        (50.0, -500.0, 10.0, None),  # no clock of HubSpot's
        (None, 150.0, 10.0, None),
        (50.0, None, 10.0, None),
    ],
)
def test_what_an_earlier_run_fed_is_timed_out_once_it_is_as_old_by_hubspots_clock(
    requested_at: float | None, answered_at: float | None, followed_s: float, left_s: float | None
) -> None:
    polling = changed(POLLING, deadline_s=300.0, policy="fixed", longest_gap_s=1000.0)
    running = Running(status="PENDING", requested_at=requested_at, answered_at=answered_at)
    decision = decided(make_task(fed_at=NOW - 5000), running, polling=polling, followed_s=followed_s)
    if left_s is None:
        assert decision == Finish(kind=Kind.TIMED_OUT)
    else:
        assert again(decision).at == NOW + left_s


def test_a_task_still_running_at_its_deadline_is_timed_out() -> None:
    task = make_task(fed_at=NOW - POLLING.deadline_s)
    assert decided(task, Running(status="PROCESSING")) == Finish(kind=Kind.TIMED_OUT)


def test_a_task_that_finished_is_complete_however_late_it_is_seen() -> None:
    task = make_task(fed_at=NOW - 10 * POLLING.deadline_s)
    assert decided(task, Finished(status="COMPLETE", num_errors=0, result=b"{}")) == Finish(kind=Kind.COMPLETE)


def test_paused_time_since_feeding_does_not_count_towards_the_deadline() -> None:
    task = make_task(fed_at=NOW - POLLING.deadline_s - 50, paused_base_s=200.0)
    assert isinstance(decided(task, Running(status="PENDING"), paused_s=300.0), PollAgain)
    assert decided(task, Running(status="PENDING"), paused_s=250.0) == Finish(kind=Kind.TIMED_OUT)


def test_a_running_answer_forgets_failures_and_missing() -> None:
    task = make_task(errors=7, missing_at=NOW - 5)
    decision = again(decided(task, Running(status="PROCESSING")))
    assert (decision.errors, decision.missing_at, decision.status) == (0, None, "PROCESSING")


def test_kinds_follow_status_errors_and_result() -> None:
    kinds = {
        Kind.COMPLETE: Finished(status="COMPLETE", num_errors=0, result=b"{}"),
        Kind.COMPLETE_WITH_ERRORS: Finished(status="COMPLETE", num_errors=2, result=b"{}"),
        Kind.COMPLETE_WITHOUT_RESULT: Finished(status="COMPLETE", num_errors=0),
        Kind.CANCELED: Finished(status="CANCELED", num_errors=1, errors=b"[{}]", has_errors=True),
    }
    task = make_task()
    assert {kind: decided(task, outcome) for kind, outcome in kinds.items()} == {
        kind: Finish(kind=kind) for kind in kinds
    }


def test_errors_make_it_complete_with_errors_even_where_num_errors_is_zero() -> None:
    outcome = Finished(status="COMPLETE", num_errors=0, errors=b"[{}]", has_errors=True, result=b"{}")
    assert decided(make_task(), outcome) == Finish(kind=Kind.COMPLETE_WITH_ERRORS)


def test_an_endpoint_that_promises_no_result_completes_without_one() -> None:
    outcome = Finished(status="COMPLETE", num_errors=0)
    assert decided(make_task(), outcome, polling=Polling(expects_result=False)) == Finish(kind=Kind.COMPLETE)


def test_an_unknown_id_counts_only_when_seen_twice_some_time_apart() -> None:
    first = again(decided(make_task(), Missing(code=404)))
    assert (first.at, first.missing_at) == (NOW + POLLING.missing_again_s, NOW)
    too_soon = decided(make_task(missing_at=NOW - 1), Missing(code=404))
    assert isinstance(too_soon, PollAgain)
    assert decided(make_task(missing_at=NOW - POLLING.missing_again_s), Missing(code=400)) == Finish(
        kind=Kind.NOT_FOUND
    )


def test_throttling_and_refusals_cost_the_task_nothing() -> None:
    task = make_task(fed_at=NOW - 10 * POLLING.deadline_s, errors=3, missing_at=5.0, status="PENDING")
    for outcome in (Throttled(policy="daily"), Refused(reason="token_refused", detail="")):
        decision = again(decided(task, outcome, is_paused=True))
        assert replace(decision, at=NOW) == PollAgain(at=NOW, errors=3, missing_at=5.0, status="PENDING")


@pytest.mark.parametrize(("asked_s", "least_s"), [(None, 1.0), (1.0, 1.0), (20.0, 20.0), (900.0, 300.0)])
def test_a_request_that_was_answered_429_goes_back_after_a_second_or_what_hubspot_requests(
    asked_s: float | None, least_s: float
) -> None:
    at = again(decided(make_task(), Throttled(policy="window", retry_after_s=asked_s))).at
    assert least_s <= at - NOW <= 1.25 * least_s


def test_a_failed_poll_ends_a_task_only_while_others_are_answered() -> None:
    overdue = make_task(fed_at=NOW - POLLING.deadline_s, errors=99)
    for outcome in (Unreachable(reason="reset"), Refused(reason="scope_missing", detail="")):
        assert decided(overdue, outcome) == Finish(kind=Kind.TIMED_OUT)
        assert again(decided(overdue, outcome, others_answered=False)).errors == 100
        assert again(decided(overdue, outcome, is_paused=True)).errors == 99


def test_a_wait_that_a_failure_requests_is_at_most_the_longest_gap() -> None:
    decision = again(decided(make_task(), Unreachable(reason="http_503", retry_after_s=900.0)))
    assert decision.at == NOW + POLLING.longest_failure_gap_s


def test_failures_back_off_and_count_and_keep_what_was_known() -> None:
    task = make_task(errors=4, missing_at=5.0, status="PENDING")
    decision = again(decided(task, Unreachable(reason="http_503")))
    assert NOW + 1 <= decision.at <= NOW + 32
    assert (decision.errors, decision.missing_at, decision.status) == (5, 5.0, "PENDING")


def longest_gap_s(errors: int, failed_share: float) -> float:
    """Return the longest gap after a failed poll, over many seeds."""
    decisions = [
        decide(
            make_task(errors=errors),
            Unreachable(reason="reset"),
            now=NOW,
            paused_s=0,
            is_paused=False,
            others_answered=True,
            holds_unknown=False,
            failed_share=failed_share,
            polling=POLLING,
            rng=Random(seed),
        )
        for seed in range(200)
    ]
    return max(again(decision).at - NOW for decision in decisions)


def test_where_many_polls_of_the_account_fail_a_task_that_fails_often_is_not_left_alone_for_minutes() -> None:
    assert longest_gap_s(6, 0.0) == pytest.approx(128, rel=0.05)
    assert longest_gap_s(6, 0.06) == pytest.approx(128, rel=0.05)
    assert longest_gap_s(6, 0.45) == pytest.approx(8, rel=0.05)
    assert longest_gap_s(6, 0.9) == pytest.approx(8, rel=0.05)
    assert longest_gap_s(30, 0.9) == pytest.approx(300, rel=0.05)


def test_a_task_that_alone_is_answered_477_backs_off_like_one_that_fails_and_ends_at_its_deadline() -> None:
    moving = Throttled(policy="migrating", retry_after_s=80_000)
    assert again(decided(make_task(errors=3), moving)).errors == 4
    assert again(decided(make_task(), moving)).at <= NOW + 2
    overdue = make_task(fed_at=NOW - POLLING.deadline_s, errors=9)
    assert decided(overdue, moving) == Finish(kind=Kind.TIMED_OUT)
    assert again(decided(overdue, moving, is_paused=True)).errors == 9


def test_the_server_may_ask_for_a_longer_back_off() -> None:
    assert again(decided(make_task(), Unreachable(reason="http_423", retry_after_s=120))).at == NOW + 120


def test_an_outage_never_times_a_task_out_nor_counts_against_it() -> None:
    task = make_task(fed_at=NOW - 10 * POLLING.deadline_s, errors=99)
    assert again(decided(task, Unreachable(reason="reset"), is_paused=True)).errors == 99


def test_a_task_that_alone_keeps_failing_is_given_up_at_its_deadline() -> None:
    overdue = make_task(fed_at=NOW - 10 * POLLING.deadline_s, errors=FAILURES_BEFORE_TIMED_OUT - 2)
    assert isinstance(decided(overdue, Unreachable(reason="http_500")), PollAgain)
    worse = make_task(fed_at=NOW - 10 * POLLING.deadline_s, errors=FAILURES_BEFORE_TIMED_OUT - 1)
    assert decided(worse, Unreachable(reason="http_500")) == Finish(kind=Kind.TIMED_OUT)


@given(errors=st.integers(0, 10**9), seed=st.integers())
def test_back_off_is_capped_after_any_number_of_failures(errors: int, seed: int) -> None:
    decision = decide(
        make_task(errors=errors),
        Unreachable(reason="reset"),
        now=NOW,
        paused_s=0,
        is_paused=False,
        others_answered=True,
        holds_unknown=False,
        polling=POLLING,
        rng=Random(seed),
    )
    assert isinstance(decision, PollAgain)
    assert 1 <= decision.at - NOW <= POLLING.longest_failure_gap_s
