"""What happens to a row after its start, when a lost one is repeated, and what a poll costs meanwhile."""

from dataclasses import replace
from random import Random
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

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
from poller.schedule import PollPlanner, Tradeoff
from poller.schedule.hazard import Hazard
from poller.schedule.policy import POLL_COST_S, Polling
from poller.schedule.starts import (
    LONGEST_SETTLE_S,
    SETTLE_S,
    SHORTEST_SETTLE_S,
    StartRules,
    backlog_tradeoff,
    body_to_send,
    decide_start,
    may_be_sent,
    settle_s,
)
from poller.schedule.trial import Trial

BODY = {"url": "https://a.example.com/1", "overwrite": False, "duplicateValidationStrategy": "NONE"}


def row(**changes: Any) -> Row:
    fields: dict[str, Any] = {
        "key": 1,
        "account": "default",
        "row": "r1",
        "body": orjson.dumps(BODY),
        "ref": b"{}",
        "fed_at": 0.0,
        "due_at": 0.0,
        "starts": 0,
        "lost": 0,
        "refusals": 0,
        "first_sent_at": None,
        "may_have_landed": False,
    }
    return Row(**fields | changes)


def decided(before: Row, outcome: StartOutcome, *, others: bool = True, **rules: Any) -> StartDecision:
    return decide_start(before, outcome, now=100.0, others_accepted=others, rules=StartRules(**rules), rng=Random(1))


REFUSED = Refused(reason="import_refused", detail="full")


def test_a_start_begins_and_a_declined_one_ends_the_row() -> None:
    assert decided(row(), Started(task_id="A")) == Begin(task_id="A")
    assert decided(row(), Declined(code=400)) == EndRow(kind=Kind.NOT_STARTED)
    assert decided(row(lost=1), Declined(code=400)) == EndRow(kind=Kind.START_UNKNOWN), "the first may have landed"


@pytest.mark.parametrize(
    "outcome",
    [
        NotSent(reason="dns", left=False),
        NotSent(reason="http_521", left=True),
        Throttled(policy="window"),
        Refused(reason="token_refused", detail="x"),
    ],
)
def test_a_start_that_certainly_began_nothing_is_sent_again_soon(outcome: StartOutcome) -> None:
    decision = decided(row(), outcome)
    assert isinstance(decision, StartAgain)
    assert 102 <= decision.at <= 103
    assert decision.left == (outcome != NotSent(reason="dns", left=False))


def test_hubspots_wait_is_kept_up_to_a_limit() -> None:
    decision = decided(row(), Throttled(policy="window", retry_after_s=60))
    assert isinstance(decision, StartAgain)
    assert 160 <= decision.at <= 190
    longest = decided(row(), Throttled(policy="migrating", retry_after_s=900))
    assert isinstance(longest, StartAgain)
    assert longest.at <= 100 + 450


def test_a_lost_start_waits_and_the_third_ends_the_row() -> None:
    assert decided(row(), Unsure(reason="timeout")) == AwaitStart()
    assert decided(row(lost=1), Unsure(reason="timeout")) == AwaitStart()
    assert decided(row(lost=2), Unsure(reason="timeout")) == EndRow(kind=Kind.START_UNKNOWN)
    assert decided(row(), Unsure(reason="timeout"), unsure="hold") == AwaitStart()
    assert [may_be_sent(row(lost=lost), StartRules()) for lost in range(4)] == [True, True, True, False]
    assert [may_be_sent(row(lost=lost), StartRules(unsure="hold")) for lost in range(3)] == [True, False, False]


def test_a_row_that_alone_is_refused_three_times_is_not_started() -> None:
    before = row()
    for count in (1, 2):
        decision = decided(before, REFUSED)
        assert isinstance(decision, StartAgain)
        assert decision.refusals == count
        before = row(refusals=decision.refusals)
    assert decided(before, REFUSED) == EndRow(kind=Kind.NOT_STARTED)
    alone = decided(before, REFUSED, others=False)
    assert isinstance(alone, StartAgain)
    assert alone.refusals == 2, "the account is refused, not the row"


def test_a_repeat_has_hubspots_duplicate_check_unless_its_body_makes_no_second_file() -> None:
    checked = orjson.loads(body_to_send(row(lost=1)))
    assert checked["duplicateValidationStrategy"] == "RETURN_EXISTING"
    assert checked["duplicateValidationScope"] == "EXACT_FOLDER"
    assert orjson.loads(body_to_send(row())) == BODY
    assert orjson.loads(body_to_send(row(may_have_landed=True)))["duplicateValidationStrategy"] == "RETURN_EXISTING"
    for own in ({"duplicateValidationStrategy": "REJECT"}, {"overwrite": True, "name": "a.png"}):
        body = orjson.dumps(BODY | own)
        assert body_to_send(row(lost=1, body=body)) == body
    assert body_to_send(row(lost=1, body=orjson.dumps(BODY | {"overwrite": True}))) != orjson.dumps(BODY)


def test_the_settle_time_follows_the_accounts_slowest_imports_within_bounds() -> None:
    def planner(took_s: float, count: int) -> PollPlanner:
        hazard = Hazard()
        for _ in range(count):
            hazard.watch(0.0, took_s, finished=True)
        return PollPlanner(Tradeoff(), hazard)

    assert settle_s(None) == settle_s(planner(5, 99)) == SETTLE_S
    assert settle_s(planner(2, 200)) == SHORTEST_SETTLE_S
    assert settle_s(planner(20_000, 200)) == LONGEST_SETTLE_S
    assert SHORTEST_SETTLE_S < settle_s(planner(300, 200)) < LONGEST_SETTLE_S


def test_a_poll_costs_what_it_delays_unless_the_person_set_a_cost() -> None:
    assert backlog_tradeoff(Polling(), 0, 10).poll_cost_s == POLL_COST_S
    while_they_wait = replace(Polling().tradeoff, poll_cost_s=100, longest_gap_s=330)
    assert backlog_tradeoff(Polling(), 1000, 10) == while_they_wait
    assert backlog_tradeoff(Polling(), 10**6, 10).poll_cost_s == 600
    assert backlog_tradeoff(Polling(poll_cost_s=7), 10**6, 10) == Polling(poll_cost_s=7).tradeoff
    assert backlog_tradeoff(Polling(longest_gap_s=45), 1000, 10).longest_at_s(10 * 86_400) == 45


def ended(size: int, *reasons: str | None) -> Trial:
    trial = Trial(size)
    trial.count(size)
    for reason in reasons:
        trial.end(reason)
    return trial


def test_a_trial_holds_until_enough_landed_or_it_failed_for_several_reasons() -> None:
    few = Trial(20)
    few.count(19)
    assert not few.holds
    assert ended(20).holds
    assert ended(20, *[None] * 9).holds
    assert ended(20, *[None] * 10).is_over
    assert ended(3, "a", "b").holds
    mixed = ended(3, "a", "b", "a")
    assert (mixed.is_over, mixed.failed_for) == (True, None)
    assert ended(2, "a").failed_for is None
    failed = ended(2, "a", "a")
    assert (failed.failed_for, failed.holds) == ("a", True)
    assert not Trial(0).holds
    assert Trial(20, landed=10).is_over


@given(st.integers(0, 3), st.booleans())
def test_a_certain_answer_never_makes_an_unsure_row_count_as_not_started(lost: int, others: bool) -> None:
    for outcome in (Declined(code=400), REFUSED):
        decision = decided(row(lost=lost, refusals=2), outcome, others=others)
        if isinstance(decision, EndRow):
            assert decision.kind is (Kind.START_UNKNOWN if lost else Kind.NOT_STARTED)
