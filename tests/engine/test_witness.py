"""Whom a poll concerns that brought no status: here, when an unknown id is believed."""

from poller.core.model import Missing, Running
from poller.engine.witness import Witness
from tests.support.makers import make_task

UNKNOWN, RUNNING = Missing(code=404), Running(status="PROCESSING")
AGAIN_S = 30.0


def doubted_for_s(witness: Witness) -> float:
    """Return how long an id that stays unknown is no outcome."""
    task = make_task(missing_at=0.0)
    polls = (number * AGAIN_S for number in range(1, 1000))
    return next(at for at in polls if not witness.doubts_unknown(task, at, AGAIN_S))


def after_500_polls(unknown_share: float, *, status: str | None = "PROCESSING", fed_at: float = 0.0) -> Witness:
    witness = Witness()
    for number in range(500):
        outcome = UNKNOWN if number % 10 < 10 * unknown_share else RUNNING
        witness.note(make_task(status=status, fed_at=fed_at), outcome, now=60.0)
    return witness


def test_the_more_often_an_id_is_unknown_whose_status_was_just_known_the_longer_others_are_polled_again() -> None:
    assert [doubted_for_s(after_500_polls(share)) for share in (0.0, 0.3, 1.0)] == [30.0, 300.0, 870.0]


def test_ids_that_were_never_known_and_old_ones_say_nothing_of_the_others() -> None:
    never_known, old = after_500_polls(0.5, status=None), after_500_polls(0.5, fed_at=-4000.0)
    assert doubted_for_s(never_known) == doubted_for_s(old) == AGAIN_S


def test_after_three_hundred_right_answers_two_are_enough_again() -> None:
    witness = after_500_polls(0.3)
    for _ in range(300):
        witness.note(make_task(status="PENDING", fed_at=0.0), RUNNING, now=60.0)
    assert doubted_for_s(witness) == AGAIN_S
