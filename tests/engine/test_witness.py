"""Whom a poll concerns that brought no status: here, when unknown ids and empty answers are believed."""

import pytest

from poller.core.model import Answer, Missing, Running, Unreachable
from poller.engine.witness import Witness, doubted
from tests.support.makers import make_task

UNKNOWN, RUNNING = Missing(code=404), Running(status="PROCESSING")
AGAIN_S = 30.0


def doubted_for_s(witness: Witness, *, missing_at: float = 60.0, again_s: float = AGAIN_S) -> float:
    """Return how long an id that stays unknown is no outcome, polled every `again_s`."""
    task, now = make_task(key=7, missing_at=missing_at), 60.0 + again_s
    while witness.doubts_unknown(task):
        witness.note(task, UNKNOWN, now=now)
        now += again_s
    return now - 60.0


def after_polls(
    unknown_share: float, *, status: str | None = "PROCESSING", fed_at: float = 0.0, polls: int = 500
) -> Witness:
    witness = Witness()
    for number in range(polls):
        outcome = UNKNOWN if number % 10 < 10 * unknown_share else RUNNING
        witness.note(make_task(status=status, fed_at=fed_at), outcome, now=60.0)
    return witness


def test_the_more_often_an_id_is_unknown_whose_status_was_just_known_the_longer_others_are_polled_again() -> None:
    assert [doubted_for_s(after_polls(share)) for share in (0.0, 0.3, 1.0)] == [30.0, 300.0, 870.0]


def test_the_first_unknown_id_of_a_few_that_were_known_counts_by_their_number() -> None:
    """One of one, and one of ten; and thousands in a row are no share that no number of polls could reach."""
    assert [doubted_for_s(after_polls(0.1, polls=polls)) for polls in (1, 10)] == [870.0, 150.0]
    assert doubted_for_s(after_polls(1.0, polls=5000)) == 870.0


def test_polls_count_not_the_time_between_them() -> None:
    """Under a tight limit a task is polled every few minutes: two polls passed for the ten of the time between them."""
    assert doubted_for_s(after_polls(0.3), again_s=600.0) == 600.0 * 10


def test_an_unknown_answer_of_an_earlier_run_does_not_count_for_how_often_they_were_wrong_is_forgotten() -> None:
    assert doubted_for_s(after_polls(0.0), missing_at=59.0) == 2 * AGAIN_S


def test_an_id_that_was_known_meanwhile_is_polled_as_often_as_any_other() -> None:
    witness, task = after_polls(0.3), make_task(key=7, missing_at=60.0)
    for outcome in (UNKNOWN, UNKNOWN, RUNNING):
        witness.note(task, outcome, now=90.0)
    assert doubted_for_s(witness) == 300.0


def test_a_task_whose_status_hubspot_never_named_is_no_witness() -> None:
    """Any host can answer with an empty body; the state would keep the id as one that HubSpot knows."""
    witness = after_polls(0.0)
    known = witness.task
    witness.note(make_task(key=8), Running(status=None), now=90.0)
    assert witness.task is known


def test_ids_that_were_never_known_and_old_ones_say_nothing_of_the_others() -> None:
    never_known, old = after_polls(0.5, status=None), after_polls(0.5, fed_at=-4000.0)
    assert doubted_for_s(never_known) == doubted_for_s(old) == AGAIN_S


def test_after_three_hundred_right_answers_two_are_enough_again() -> None:
    witness = after_polls(0.3)
    for _ in range(300):
        witness.note(make_task(status="PENDING", fed_at=0.0), RUNNING, now=60.0)
    assert doubted_for_s(witness) == AGAIN_S


@pytest.mark.parametrize(
    ("status", "is_witness", "is_overdue", "is_believed"),
    [
        (None, False, False, True),
        ("PENDING", False, False, False),
        (None, True, False, False),
        (None, False, True, False),
    ],
)
def test_an_empty_answer_is_a_failed_poll_where_hubspot_has_named_a_status_or_the_deadline_is_over(
    status: str | None, is_witness: bool, is_overdue: bool, is_believed: bool
) -> None:
    empty, named = (Answer(outcome=Running(status=word)) for word in (None, "PROCESSING"))
    failed = Answer(outcome=Unreachable(reason="empty_body"))
    task = make_task(status=status)
    expected = empty if is_believed else failed
    assert doubted(empty, task, is_witness=is_witness, is_overdue=is_overdue) == expected
    assert doubted(named, task, is_witness=is_witness, is_overdue=is_overdue) is named
