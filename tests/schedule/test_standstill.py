"""A standstill: nothing finishes although much should."""

from itertools import pairwise

import pytest

from poller.schedule.standstill import EXPECTED, LEAST_POLLS, LEAST_S, LONGEST_GAP_S, Standstill


def standing(chance: float = 0.5, polls: int = 100, over_s: float = 100.0) -> Standstill:
    standstill = Standstill()
    for number in range(polls):
        standstill.unfinished(chance, now=number * over_s / polls, deadline_at=86_400.0)
    return standstill


def test_it_needs_time_polls_and_finished_imports_that_are_missing() -> None:
    assert standing().lasts(100.0)
    assert not standing().lasts(LEAST_S - 1)
    assert not standing(polls=LEAST_POLLS - 1).lasts(100.0)
    assert not standing(chance=EXPECTED / 101).lasts(100.0)


def test_one_finished_import_ends_it_and_all_counts_start_over() -> None:
    standstill = standing()
    standstill.finished()
    for _ in range(LEAST_POLLS - 1):
        standstill.unfinished(1.0, now=1000.0, deadline_at=86_400.0)
    assert not standstill.lasts(5000.0)


def test_time_before_the_first_poll_in_vain_does_not_count() -> None:
    standstill = Standstill()
    for _ in range(LEAST_POLLS):
        standstill.unfinished(1.0, now=100_000.0, deadline_at=186_400.0)
    assert not standstill.lasts(100_000.0 + LEAST_S - 1)
    assert standstill.lasts(100_000.0 + LEAST_S)


def test_a_pause_is_no_time_in_which_nothing_finishes() -> None:
    standstill = Standstill()
    standstill.paused_s = 500.0  # before
    for number in range(100):  # 20 s of polls
        standstill.unfinished(0.5, now=number / 5, deadline_at=86_400.0)
    standstill.paused_s += 3600.0
    assert not standstill.lasts(3620.0)
    assert standstill.lasts(3660.0)
    assert standstill.take_turn(3660.0)
    assert standstill.sleeps_until == pytest.approx(3660.0 + 1.2)  # a minute's length, not an hour's


def test_while_it_lasts_polls_become_rare_but_never_rarer_than_the_longest_gap() -> None:
    standstill = standing()
    turns = [tenth / 10 for tenth in range(1000, 40_000) if standstill.take_turn(tenth / 10)]
    gaps_s = [later - earlier for earlier, later in pairwise(turns)]
    assert gaps_s[2] == pytest.approx(2.0, abs=0.2)
    assert max(gaps_s) == pytest.approx(LONGEST_GAP_S, abs=0.2)
    assert len(turns) < 500


def test_it_sleeps_until_the_next_turn_or_a_deadline() -> None:
    standstill = standing()
    assert standstill.take_turn(100.0)
    assert standstill.sleeps_until == pytest.approx(102.0)
    standstill.unfinished(0.5, now=100.0, deadline_at=101.0)
    assert standstill.sleeps_until == 101.0
    standstill.no_deadline_passed(101.0)
    assert standstill.sleeps_until == pytest.approx(102.0)
