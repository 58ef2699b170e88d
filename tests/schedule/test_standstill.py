"""A standstill: nothing finishes although much should."""

from itertools import pairwise
from math import inf

import pytest

from bench.timing_lane import SimulatedLane
from bench.timing_workloads import Import
from poller.schedule import AccountTiming, Tradeoff
from poller.schedule.standstill import (
    EXPECTED,
    EXPECTED_OF_MANY,
    EXPECTED_OF_NEW,
    HALTS,
    LEAST_LEFT,
    LEAST_POLLS,
    LEAST_S,
    LEAST_S_OF_FEW,
    LEAST_S_OF_MOST,
    LONGEST_GAP_OF_MANY_S,
    LONGEST_GAP_S,
    MANY,
    MANY_EACH,
    MOST,
    MOST_SHARE,
    POLLS_AN_HOUR,
    POLLS_EACH,
    SHORTEST_GAP_S,
    Standstill,
)


def standing(
    chance: float = 0.5, polls: int = 100, over_s: float = 100.0, *, tasks: int = 100, is_in_line: bool = False
) -> Standstill:
    standstill = Standstill()
    for number in range(polls):
        now = number * over_s / polls
        standstill.unfinished(number % tasks, chance, now=now, deadline_at=86_400.0, is_in_line=is_in_line)
    return standstill


def test_it_needs_time_polls_and_finished_imports_that_are_missing() -> None:
    assert standing().lasts(100.0)
    assert not standing().lasts(LEAST_S - 1)
    assert not standing(polls=LEAST_POLLS - 1).lasts(100.0)
    assert not standing(chance=EXPECTED / 101).lasts(100.0)


def test_one_finished_import_ends_it_and_all_counts_start_over() -> None:
    standstill = standing()
    standstill.finished(100.0)
    for key in range(LEAST_POLLS - 1):
        standstill.unfinished(key, 1.0, now=1000.0, deadline_at=86_400.0)
    assert not standstill.lasts(5000.0)


def test_a_second_standstill_is_noticed_like_the_first() -> None:
    standstill = standing()
    standstill.finished(100.0)
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
    assert standstill.sleeps_until <= 3660.0 + MOST_SHARE * 60.0  # a minute's length, not an hour's


def gaps_s(
    tasks: int, over_s: int = 3600, *, polls_each: float = POLLS_EACH, longest_gap_s: float = inf
) -> list[float]:
    """Return the times between the single polls of a standstill that was noticed after 10 s, until `over_s`."""
    standstill, polls = Standstill(longest_gap_s), int(polls_each * tasks)
    for number in range(max(polls, LEAST_POLLS)):
        standstill.unfinished(number % tasks, 0.9, now=10 * number / polls, deadline_at=86_400.0)
    turns = []
    for tenth in range(100, 10 * over_s):
        if standstill.take_turn(tenth / 10):
            turns.append(tenth / 10)
            standstill.unfinished(len(turns) % tasks, 0.0, now=tenth / 10, deadline_at=86_400.0)
    return [later - earlier for earlier, later in pairwise(turns)]


@pytest.mark.parametrize("polls_each", [POLLS_EACH, 1.6])
@pytest.mark.parametrize("tasks", [80, 150, 1000])
def test_an_hour_costs_at_most_two_polls_of_each_task(tasks: int, polls_each: float) -> None:
    """Those before the standstill was noticed included."""
    assert len(gaps_s(tasks, polls_each=polls_each)) + 1 + polls_each * tasks <= 2 * tasks


def test_where_too_many_polls_were_made_before_some_are_left_for_the_hour() -> None:
    """Half of the imports took seconds, the others half an hour: with nothing left, their end was noticed by a poll
    every five minutes."""
    gaps = gaps_s(150, 1800, polls_each=3.4)
    assert max(gaps) < LONGEST_GAP_S / 2
    assert len(gaps) < LEAST_LEFT * 150


@pytest.mark.parametrize("tasks", [50, 100, 150])
def test_an_account_that_knows_nothing_spends_two_polls_of_each_task_in_such_an_hour(tasks: int) -> None:
    """From the feeding on, by all of the account's timing."""
    imports = [Import(requested_at=-0.5, fed_at=0.0, took_s=3600.5) for _ in range(tasks)]
    played = SimulatedLane(imports, AccountTiming("a", Tradeoff()), 60.0, 86_400.0).run()
    assert sum(played.polls) <= (2 + 1) * tasks  # one more finds it finished


def test_of_a_few_tasks_an_hour_costs_little_more_than_thirty_polls_in_all() -> None:
    """A poll of each half an hour would notice the end as late as that."""
    assert len(gaps_s(10)) <= 35


@pytest.mark.parametrize("tasks", [10, 60, 1000])
def test_the_end_is_noticed_within_a_share_of_the_length_and_five_minutes(tasks: int) -> None:
    at = 10.0
    for gap_s in gaps_s(tasks, 7200):
        assert gap_s <= max(min(MOST_SHARE * at, LONGEST_GAP_S), LONGEST_GAP_OF_MANY_S) + 0.2
        at += gap_s


def test_the_second_hour_is_spread_evenly() -> None:
    second = gaps_s(100, 7200)[-150:]
    assert min(second) == pytest.approx(max(second), abs=0.3)
    assert second[0] == pytest.approx(3600 / (POLLS_AN_HOUR * 100), abs=0.3)


def test_thousands_of_tasks_are_worth_a_poll_every_few_seconds() -> None:
    assert max(gaps_s(3000)) == pytest.approx(LONGEST_GAP_OF_MANY_S, abs=0.2)


def test_a_longest_gap_of_the_person_is_kept() -> None:
    assert max(gaps_s(10, longest_gap_s=30.0)) == pytest.approx(30.0, abs=0.2)


def test_a_few_tasks_are_soon_through() -> None:
    """An account with nothing learned polls each task every ten seconds: a minute of that is too much."""
    chance = 0.99 * MOST * 40 / 50
    standstill = standing(chance, polls=50, over_s=10.0, tasks=40)
    assert standstill.lasts(LEAST_S_OF_FEW)
    assert not standing(chance, polls=49, over_s=10.0, tasks=40).lasts(LEAST_S_OF_FEW)
    assert not standing(chance, polls=50, over_s=9.0, tasks=40).lasts(LEAST_S_OF_FEW - 0.5)


def test_quick_imports_of_which_half_should_be_finished_are_through_sooner() -> None:
    """Each was polled every three seconds, and more than three times before ten were over."""
    assert standing(0.5, polls=50, over_s=4.0, tasks=40).lasts(LEAST_S_OF_MOST)
    assert not standing(0.5, polls=50, over_s=4.0, tasks=40).lasts(LEAST_S_OF_MOST - 0.5)
    assert not standing(0.5, polls=49, over_s=4.0, tasks=40).lasts(LEAST_S_OF_FEW)


def test_an_account_that_knows_nothing_needs_fewer_missing_imports_until_the_first_one() -> None:
    def noticed(*, finds: int = 0, tasks: int = 40) -> bool:
        standstill = Standstill(is_new=True)
        for _ in range(finds):
            standstill.finished(0.0)
        for number in range(52):
            standstill.unfinished(number % tasks, EXPECTED_OF_NEW / 50, now=number / 13, deadline_at=86_400.0)
        return standstill.lasts(LEAST_S_OF_MOST + 1)

    assert noticed()
    assert not noticed(finds=1)
    assert not noticed(tasks=41), "one of them came eleven polls ago: more may come, whose first polls show most"


def test_a_rest_that_never_finishes_is_polled_like_a_standstill() -> None:
    """Hundreds of stuck imports, of which by what was learned one in a thousand polls should find a finished one."""
    chance = 1.1 * EXPECTED_OF_MANY / MANY_EACH / MANY
    assert standing(chance, polls=2 * MANY, tasks=MANY).lasts(100.0)
    assert not standing(chance, polls=2 * MANY, tasks=MANY).lasts(LEAST_S - 1)
    assert not standing(chance, polls=2 * MANY - 1, tasks=MANY).lasts(100.0)
    assert not standing(chance, polls=2 * MANY, tasks=MANY - 1).lasts(100.0)  # a few slow ones may just be slow
    assert not standing(0.8 * chance, polls=2 * MANY, tasks=MANY).lasts(100.0)
    overtaken = standing(0.4 * chance, polls=2 * MANY, tasks=MANY, is_in_line=True)
    assert overtaken.lasts(100.0), "others behind them in a line are finished"


def in_vain(standstill: Standstill, from_s: float) -> None:
    """Poll 40 tasks of a line in vain, over ten seconds."""
    for number in range(60):
        at = from_s + number / 6
        standstill.unfinished(number % 40, 0.5, now=at, deadline_at=86_400.0, is_in_line=True)


def test_a_line_that_did_not_halt_lately_is_held_up_after_seconds() -> None:
    """A minute of polls at the front of a short line cost three polls of each."""
    standstill = Standstill()
    in_vain(standstill, 0.0)
    assert not standstill.lasts(LEAST_S_OF_FEW - 0.1)
    assert standstill.lasts(LEAST_S_OF_FEW)


@pytest.mark.parametrize(("halt_s", "least_s"), [(20.0, HALTS * 20.0), (50.0, LEAST_S)])
def test_a_line_that_completes_many_at_once_may_halt_for_longer(halt_s: float, least_s: float) -> None:
    """Twice as long as it did, however many were completed since; a minute at most."""
    standstill = Standstill()
    in_vain(standstill, 0.0)
    for _ in range(20):
        standstill.finished(halt_s)
    in_vain(standstill, halt_s)
    assert not standstill.lasts(halt_s + least_s - 1)
    assert standstill.lasts(halt_s + least_s)


def test_polls_at_random_show_how_many_tasks_wait() -> None:
    """Tasks are fed meanwhile: the more of them wait, the more it is worth to notice the end soon."""
    known, grown = standing(tasks=40), standing(tasks=40)
    for turn in range(30):
        at = 100.0 + 300 * turn
        assert known.take_turn(at)
        assert grown.take_turn(at)
        known.unfinished(turn % 40, 0.0, now=at, deadline_at=86_400.0)
        grown.unfinished(1000 + turn, 0.0, now=at, deadline_at=86_400.0)
    assert known.gap_s(9000.0) == pytest.approx(3600 / (POLLS_AN_HOUR * 40))
    assert grown.gap_s(9000.0) < 5.0


def test_what_polls_at_random_met_long_ago_counts_no_more() -> None:
    """Once all were met, there are as many as were met."""
    standstill = standing(tasks=40)
    for turn in range(300):
        at = 4000.0 + 60 * turn
        assert standstill.take_turn(at)
        standstill.unfinished(1000 + turn % 60, 0.0, now=at, deadline_at=864_000.0)
    assert standstill.gap_s(at) == pytest.approx(3600 / (POLLS_AN_HOUR * 100), rel=0.05)


def test_it_sleeps_until_the_next_turn_or_a_deadline() -> None:
    standstill = standing()
    gap_s = standstill.gap_s(100.0)
    assert standstill.take_turn(100.0)
    assert standstill.sleeps_until == pytest.approx(100.0 + gap_s)
    standstill.unfinished(0, 0.5, now=100.0, deadline_at=101.0)
    assert standstill.sleeps_until == 101.0
    standstill.no_deadline_passed(101.0)
    assert standstill.sleeps_until == pytest.approx(min(100.0 + gap_s, 111.0))


def test_after_a_failed_poll_the_next_one_follows_soon() -> None:
    """An outage is noticed by several failures: deadlines do not run in it."""
    standstill = standing()
    assert standstill.take_turn(100.0)
    standstill.unanswered(100.1)
    assert standstill.sleeps_until == pytest.approx(100.1 + SHORTEST_GAP_S)
    assert standstill.take_turn(100.7)
