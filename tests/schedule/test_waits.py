"""What is late for a reason of ours, not the limit's, makes no later polls late."""

import pytest

from poller.core.model import Finished, Running
from poller.core.timestamps import iso
from poller.schedule import AccountTiming, Tradeoff
from poller.schedule.learned import GUARD_S, PollPlanner
from poller.schedule.waits import IDLE_S, LONG_PAUSE_S, LONGEST_GATE_S, Waits
from tests.support.makers import make_task

NOW = 1_700_000_000.0


def test_the_first_poll_of_a_run_waited_for_the_run_to_begin() -> None:
    waits = Waits()
    assert waits.for_limit_s(0.0, 1000.0, 10.0, 0.0) == 0.0
    assert waits.for_limit_s(0.0, 1004.0, 3.0, 0.0) == 4.0
    assert waits.for_limit_s(1003.0, 1004.5, 0.0, 0.0) == 1.5


def test_a_wait_begins_after_a_time_without_polls_unless_the_gate_held_them() -> None:
    waits = Waits()
    waits.for_limit_s(0.0, 1000.0, 0.0, 0.0)
    assert waits.for_limit_s(1000.0, 1060.0, 59.0, 0.0) == 60.0  # a window of a minute
    assert waits.for_limit_s(1000.0, 1061.0 + IDLE_S, 0.5, 0.0) == 0.0  # a full disk
    assert waits.for_limit_s(1000.0, 1062.0 + IDLE_S, 0.5, 0.0) == 1.0


def test_a_computer_that_slept_while_a_poll_was_at_the_gate_was_not_under_the_limit() -> None:
    waits = Waits()
    waits.for_limit_s(0.0, 1000.0, 0.0, 0.0)
    woken_at = 1001.0 + LONGEST_GATE_S + IDLE_S
    assert waits.for_limit_s(1000.0, woken_at, woken_at - 1000.0, 0.0) == 0.0


def test_a_pause_is_no_wait_for_the_limit() -> None:
    waits = Waits()
    waits.for_limit_s(0.0, 1000.0, 0.0, 50.0)
    asked_at = 1002.0 + LONG_PAUSE_S
    assert waits.for_limit_s(1000.0, asked_at, asked_at - 1000.0, 51.0 + LONG_PAUSE_S) == 0.0


def quick(timing: AccountTiming, key: int, *, asked_at: float, due_at: float) -> None:
    """Find an import of a few seconds finished, in a poll that is overdue."""
    fed_at = due_at - 5.0
    done = Finished(status="COMPLETE", num_errors=0, requested_at=iso(fed_at), completed_at=iso(fed_at + 1 + key % 4))
    task = make_task(key=key, fed_at=fed_at, due_at=due_at, polls=1, seen_at=fed_at + 0.1)
    timing.learn(task, done, asked_at=asked_at, now=asked_at)


def test_polls_that_a_stopped_run_left_overdue_put_no_first_polls_off() -> None:
    timing = AccountTiming("a", Tradeoff())
    for key in range(40):
        quick(timing, key, asked_at=NOW + key / 50, due_at=NOW - 60.0)
    timing.learn(make_task(fed_at=NOW, due_at=NOW), Running(status=None), asked_at=NOW + 1, now=NOW + 1)
    timing.refresh(NOW + 1)
    assert timing.planner.pressure.factor < 1.5
    assert timing.first_poll_s < 5.0


@pytest.mark.parametrize("factor", [1.0, 120.0, 10_000.0])
def test_a_first_poll_is_not_put_off_far_beyond_the_ages_that_are_known(factor: float) -> None:
    planner = PollPlanner(Tradeoff())
    planner.pressure.planned(1.0)
    planner.pressure.waited(factor**0.5 / 2)
    for number in range(40):
        planner.fed(0.1)
        planner.learn(0.0, 1.0 + number % 4, finished=number % 8 != 0)
    planner.refresh(NOW)
    assert planner.pressure.factor == pytest.approx(factor)
    assert 0.0 < planner.first_poll_s <= 4.5 + GUARD_S
