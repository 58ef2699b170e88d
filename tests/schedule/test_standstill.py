"""A standstill: nothing finishes although much should."""

from itertools import pairwise

import pytest

from poller.schedule.standstill import (
    EXPECTED,
    LEAST_POLLS,
    LEAST_S,
    LEAST_S_OF_FEW,
    LONGEST_GAP_OF_MANY_S,
    LONGEST_GAP_S,
    Standstill,
)


def standing(chance: float = 0.5, polls: int = 100, over_s: float = 100.0, *, tasks: int = 100) -> Standstill:
    standstill = Standstill()
    for number in range(polls):
        standstill.unfinished(number % tasks, chance, now=number * over_s / polls, deadline_at=86_400.0)
    return standstill


def test_it_needs_time_polls_and_finished_imports_that_are_missing() -> None:
    assert standing().lasts(100.0)
    assert not standing().lasts(LEAST_S - 1)
    assert not standing(polls=LEAST_POLLS - 1).lasts(100.0)
    assert not standing(chance=EXPECTED / 101).lasts(100.0)


def test_one_finished_import_ends_it_and_all_counts_start_over() -> None:
    standstill = standing()
    standstill.finished()
    for key in range(LEAST_POLLS - 1):
        standstill.unfinished(key, 1.0, now=1000.0, deadline_at=86_400.0)
    assert not standstill.lasts(5000.0)


def test_a_second_standstill_is_noticed_like_the_first() -> None:
    standstill = standing()
    standstill.finished()
    for key in range(100):
        standstill.unfinished(key, 0.5, now=1000.0 + key, deadline_at=86_400.0)
    assert not standstill.lasts(1000.0 + LEAST_S - 1)
    assert standstill.lasts(1100.0)


def test_time_before_the_first_poll_in_vain_does_not_count() -> None:
    standstill = Standstill()
    for key in range(LEAST_POLLS):
        standstill.unfinished(key, 1.0, now=100_000.0, deadline_at=186_400.0)
    assert not standstill.lasts(100_000.0 + LEAST_S - 1)
    assert standstill.lasts(100_000.0 + LEAST_S)


def test_a_pause_is_no_time_in_which_nothing_finishes() -> None:
    standstill = Standstill()
    standstill.paused_s = 500.0  # before
    for number in range(100):  # 20 s of polls
        standstill.unfinished(number, 0.5, now=number / 5, deadline_at=86_400.0)
    standstill.paused_s += 3600.0
    assert not standstill.lasts(3620.0)
    assert standstill.lasts(3660.0)
    assert standstill.take_turn(3660.0)
    assert standstill.sleeps_until == pytest.approx(3660.0 + 3.6)  # a minute's length, not an hour's


def gaps_s(standstill: Standstill, over_s: int) -> list[float]:
    """Return the times between the single polls from the 100th second on."""
    turns = [tenth / 10 for tenth in range(1000, 1000 + 10 * over_s) if standstill.take_turn(tenth / 10)]
    return [later - earlier for earlier, later in pairwise(turns)]


def test_while_it_lasts_polls_become_rare_but_never_rarer_than_the_longest_gap() -> None:
    many, few = gaps_s(standing(polls=3000, tasks=3000), 3900), gaps_s(standing(tasks=100), 3900)
    assert many[0] == pytest.approx(2.0, abs=0.2)
    assert few[0] == pytest.approx(6.0, abs=0.2)
    assert max(many) == pytest.approx(LONGEST_GAP_OF_MANY_S, abs=0.2)
    assert max(few) == pytest.approx(LONGEST_GAP_S, abs=0.2)


@pytest.mark.parametrize("tasks", [100, 300, 1000, 3000])
def test_an_hour_costs_less_than_one_poll_of_each_task(tasks: int) -> None:
    assert len(gaps_s(standing(polls=tasks, tasks=tasks), 3600)) <= tasks


def test_a_few_tasks_are_soon_through() -> None:
    """An account with nothing learned polls each task every ten seconds: a minute of that is too much."""
    standstill = standing(polls=50, over_s=10.0, tasks=40)
    assert standstill.lasts(LEAST_S_OF_FEW)
    assert not standing(polls=49, over_s=10.0, tasks=40).lasts(LEAST_S_OF_FEW)
    assert not standing(polls=50, over_s=9.0, tasks=40).lasts(LEAST_S_OF_FEW - 0.5)


def test_a_line_may_halt_for_a_while() -> None:
    standstill = standing(polls=50, over_s=10.0, tasks=40)
    standstill.unfinished(1, 0.5, now=10.0, deadline_at=86_400.0, is_in_line=True)
    assert not standstill.lasts(LEAST_S - 1)
    assert standstill.lasts(LEAST_S)


def test_polls_at_random_show_how_many_tasks_wait() -> None:
    """Tasks are fed meanwhile: the more of them wait, the more it is worth to notice the end soon."""
    known, grown = standing(tasks=40), standing(tasks=40)
    for turn in range(30):
        at = 100.0 + 60 * turn
        assert known.take_turn(at)
        assert grown.take_turn(at)
        known.unfinished(turn % 40, 0.0, now=at, deadline_at=86_400.0)
        grown.unfinished(1000 + turn, 0.0, now=at, deadline_at=86_400.0)
    assert known.gap_s(3700.0) == LONGEST_GAP_S
    assert grown.gap_s(3700.0) == LONGEST_GAP_OF_MANY_S


def test_it_sleeps_until_the_next_turn_or_a_deadline() -> None:
    standstill = standing()
    assert standstill.take_turn(100.0)
    assert standstill.sleeps_until == pytest.approx(106.0)
    standstill.unfinished(0, 0.5, now=100.0, deadline_at=101.0)
    assert standstill.sleeps_until == 101.0
    standstill.no_deadline_passed(101.0)
    assert standstill.sleeps_until == pytest.approx(106.0)
