"""Clocks that differ, found from instants that no two correct clocks would show."""

import pytest

from poller.schedule.skew import Skew


def test_clocks_that_may_agree_are_taken_to_agree() -> None:
    skew = Skew()
    for _ in range(10):
        skew.requested(99.5, fed_at=100.0)
        skew.completed(110.0, seen_at=112.0, unfinished_at=105.0)
    assert skew.seconds == 0.0


def test_a_clock_that_is_ahead_is_found_from_requests_after_their_feeding() -> None:
    skew = Skew()
    for early_s in (0.5, 2.0, 1.0):
        skew.requested(400.0 - early_s, fed_at=100.0)
        skew.completed(410.0, seen_at=112.0, unfinished_at=105.0)
    assert skew.seconds == pytest.approx(299.0, abs=1)


def test_a_clock_that_is_behind_is_found_from_completions_before_the_last_poll_in_vain() -> None:
    skew = Skew()
    for _ in range(10):
        skew.requested(-200.5, fed_at=100.0)
        skew.completed(-190.0, seen_at=112.0, unfinished_at=105.0)
    assert skew.seconds == pytest.approx(-295.0)


def test_one_wrong_instant_is_no_clock() -> None:
    skew = Skew()
    skew.requested(800.0, fed_at=100.0)
    for _ in range(10):
        skew.requested(99.5, fed_at=100.0)
        skew.completed(110.0, seen_at=112.0, unfinished_at=105.0)
    skew.completed(10.0, seen_at=112.0, unfinished_at=105.0)
    assert skew.seconds == 0.0


def test_instants_that_no_difference_explains_change_nothing() -> None:
    skew = Skew()
    for _ in range(10):
        skew.requested(150.0, fed_at=100.0)
        skew.completed(50.0, seen_at=112.0, unfinished_at=105.0)
    assert skew.seconds == 0.0


def test_a_clock_that_is_set_right_is_followed() -> None:
    skew = Skew()
    for _ in range(10):
        skew.requested(400.0, fed_at=100.0)
    for _ in range(64):
        skew.requested(99.5, fed_at=100.0)
    assert skew.seconds == 0.0
