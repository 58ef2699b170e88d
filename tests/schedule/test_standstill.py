"""A standstill: nothing finishes although much should."""

from itertools import pairwise
from math import inf
from random import Random

import pytest

from bench.timing_held_up import held_up, polls_in_vain
from bench.timing_lane import SimulatedLane
from bench.timing_workloads import Import
from poller.schedule import AccountTiming, Tradeoff
from poller.schedule.standstill import (
    EXPECTED,
    EXPECTED_OF_ALL,
    EXPECTED_OF_MANY,
    HALTS,
    HOUR_S,
    LEAST_LEFT,
    LEAST_POLLS,
    LEAST_S,
    LEAST_S_OF_ALL,
    LEAST_S_OF_LINE,
    LONGEST_GAP_OF_MANY_S,
    LONGEST_GAP_S,
    MANY,
    MANY_EACH,
    MET,
    MOST_SHARE,
    POLLS_AN_HOUR,
    POLLS_EACH,
    SHORTEST_GAP_S,
    Standstill,
)


def in_vain(standstill: Standstill, key: int, chance: float, at: float, *, is_in_line: bool = False) -> None:
    """Poll a task that was polled ten seconds before."""
    standstill.unfinished(key, chance, before_at=at - 10, now=at, deadline_at=86_400_000.0, is_in_line=is_in_line)


def standing(
    chance: float = 0.5,
    polls: int = 90,
    over_s: float = 100.0,
    *,
    tasks: int = 90,
    from_s: float = 0.0,
    is_in_line: bool = False,
    standstill: Standstill | None = None,
) -> Standstill:
    """Poll in vain: by default a busy account, of whose tasks not all were polled yet."""
    standstill = standstill or Standstill()
    for number in range(polls):
        in_vain(standstill, number % tasks, chance, from_s + number * over_s / polls, is_in_line=is_in_line)
    return standstill


def test_it_needs_time_polls_and_finished_imports_that_are_missing() -> None:
    assert standing().lasts(100.0)
    assert not standing().lasts(LEAST_S - 1)
    assert not standing(polls=LEAST_POLLS - 1).lasts(100.0)
    assert not standing(chance=0.99 * EXPECTED / 90).lasts(100.0)


def test_one_finished_import_ends_it_and_all_counts_start_over() -> None:
    standstill = standing()
    standstill.finished(100.0, 100.0)
    standing(1.0, LEAST_POLLS - 1, from_s=1000.0, standstill=standstill)
    assert not standstill.lasts(5000.0)


def test_a_second_standstill_is_noticed_like_the_first() -> None:
    standstill = standing()
    standstill.finished(100.0, 100.0)
    standing(from_s=1000.0, standstill=standstill)
    assert not standstill.lasts(1000.0 + LEAST_S - 1)
    assert standstill.lasts(1100.0)


def test_what_was_completed_before_a_poll_in_vain_does_not_end_it() -> None:
    """Half of the polls of an incident were made before the last import that had finished before it was found."""
    standstill = standing()
    standstill.finished(50.0, -1.0)
    assert standstill.lasts(LEAST_S)
    standstill.finished(100.0, 30.0)
    assert not standstill.lasts(30.0 + LEAST_S)
    assert standstill.lasts(32.0 + LEAST_S)  # the first poll after that completion was made 31 s after the first of all


def test_a_poll_shows_only_what_came_after_the_latest_completion() -> None:
    """Of the ten seconds since each task was polled before, the latest tenth."""
    standstill = Standstill()
    standstill.finished(9.0, 9.0)
    for key in range(200):
        in_vain(standstill, key, 0.99 * 10 * EXPECTED / 200, 10.0)
    assert not standstill.lasts(10.0 + LEAST_S)


def test_time_before_the_first_poll_in_vain_does_not_count() -> None:
    standstill = standing(1.0, LEAST_POLLS, 0.0, from_s=100_000.0)
    assert not standstill.lasts(100_000.0 + LEAST_S - 1)
    assert standstill.lasts(100_000.0 + LEAST_S)


def test_a_pause_is_no_time_in_which_nothing_finishes() -> None:
    standstill = Standstill()
    standstill.paused_s = 500.0  # before
    standing(over_s=20.0, standstill=standstill)
    standstill.paused_s += 3600.0
    assert not standstill.lasts(3620.0)
    assert standstill.lasts(3660.0)
    assert standstill.take_turn(3660.0)
    assert standstill.sleeps_until <= 3660.0 + MOST_SHARE * 60.0  # a minute's length, not an hour's


def test_a_pause_before_an_earlier_completion_is_found_is_no_time_either() -> None:
    standstill = standing(over_s=20.0)
    standstill.paused_s = 3600.0
    standstill.finished(3621.0, 5.0)
    assert standstill.length_s(3621.0) == pytest.approx(16.0, abs=0.5)
    standing(from_s=3622.0, standstill=standstill)
    standstill.finished(3723.0, 3621.5)
    assert standstill.length_s(3723.0) == pytest.approx(101.0, abs=0.5)


def gaps_s(
    tasks: int, over_s: int = 3600, *, polls_each: float = POLLS_EACH, longest_gap_s: float = inf
) -> list[float]:
    """Return the times between the single polls of a standstill that was noticed after 10 s, until `over_s`."""
    standstill, polls = Standstill(longest_gap_s), int(polls_each * tasks)
    standing(0.9, max(polls, LEAST_POLLS), 10.0, tasks=tasks, standstill=standstill)
    turns = []
    for tenth in range(100, 10 * over_s):
        if standstill.take_turn(tenth / 10):
            turns.append(tenth / 10)
            in_vain(standstill, len(turns) % tasks, 0.0, tenth / 10)
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


@pytest.mark.parametrize("kind", ["30 s", "in a line"])
def test_a_running_account_spends_two_polls_of_each_waiting_task_in_such_an_hour(kind: str) -> None:
    """Polls in vain, from the latest completion on: some of what was completed is found only then."""
    imports, begins_at = held_up(kind, 60, Random(3))
    in_vain_each = polls_in_vain(imports, begins_at, HOUR_S) / 60
    assert 1.5 <= in_vain_each <= 2.0


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


def test_where_each_task_was_polled_in_vain_seconds_are_enough() -> None:
    """An account with nothing learned polls each task every ten seconds: a minute of that is too much."""
    chance = 1.01 * EXPECTED_OF_ALL / 52
    standstill = standing(chance, polls=52, over_s=3.0, tasks=40)
    assert standstill.lasts(LEAST_S_OF_ALL)
    assert not standstill.lasts(LEAST_S_OF_ALL - 0.1)
    assert not standing(1.1 * chance, polls=49, over_s=3.0, tasks=40).lasts(LEAST_S - 1)
    assert not standing(0.98 * chance, polls=52, over_s=3.0, tasks=40).lasts(LEAST_S)


def test_while_tasks_are_fed_more_imports_must_be_missing() -> None:
    """First polls show most: imports of four minutes, polled by turns, were polled too little to learn from."""
    chance, fed = 1.01 * EXPECTED_OF_ALL / 60, Standstill()
    for number in range(60):
        in_vain(fed, number // 2 if number < 56 else number - 28, chance, number / 20)  # 32 tasks, the latest ones new
    assert not fed.lasts(LEAST_S - 1)
    for number in range(int(MET * 32) + 1):
        in_vain(fed, number, 0.0, 3.0 + number / 20)
    assert fed.lasts(4.0)


def test_a_rest_that_hardly_finishes_is_polled_like_a_standstill() -> None:
    """Of hundreds of slow or stuck imports, one in a hundred polls should find a finished one."""
    chance = 1.01 * EXPECTED_OF_MANY / MANY_EACH / MANY
    assert standing(chance, polls=int(MANY_EACH * MANY), tasks=MANY).lasts(100.0)
    assert not standing(chance, polls=int(MANY_EACH * MANY), tasks=MANY).lasts(LEAST_S - 1)
    assert not standing(chance, polls=int(MANY_EACH * MANY) - 1, tasks=MANY).lasts(100.0)
    assert not standing(chance, polls=int(MANY_EACH * MANY), tasks=MANY - 1).lasts(100.0)  # a few may just be slow
    assert not standing(0.98 * chance, polls=int(MANY_EACH * MANY), tasks=MANY).lasts(100.0)


def halted(at: float = 0.0, standstill: Standstill | None = None) -> Standstill:
    """Poll 40 tasks of a line in vain, over ten seconds."""
    return standing(0.5, 60, 10.0, tasks=40, from_s=at, is_in_line=True, standstill=standstill)


def test_a_line_that_did_not_halt_lately_is_held_up_after_seconds() -> None:
    """A minute of polls at the front of a short line cost three polls of each."""
    standstill = halted()
    assert not standstill.lasts(LEAST_S_OF_LINE - 0.1)
    assert standstill.lasts(LEAST_S_OF_LINE)


@pytest.mark.parametrize(("halt_s", "least_s"), [(20.0, HALTS * 20.0), (50.0, LEAST_S)])
def test_a_line_that_completes_many_at_once_may_halt_for_longer(halt_s: float, least_s: float) -> None:
    """Twice as long as it did, however late that was found and however many were completed since; a minute at most."""
    standstill = halted()
    for _ in range(20):
        standstill.finished(halt_s + 5, halt_s)
    halted(halt_s, standstill)
    assert not standstill.lasts(halt_s + least_s - 1)
    assert standstill.lasts(halt_s + least_s)


def test_polls_at_random_show_how_many_tasks_wait() -> None:
    """Tasks are fed meanwhile: the more of them wait, the more it is worth to notice the end soon."""
    known, grown = standing(tasks=40), standing(tasks=40)
    for turn in range(30):
        at = 100.0 + 300 * turn
        assert known.take_turn(at)
        assert grown.take_turn(at)
        in_vain(known, turn % 40, 0.0, at)
        in_vain(grown, 1000 + turn, 0.0, at)
    assert known.gap_s(9000.0) == pytest.approx(3600 / (POLLS_AN_HOUR * 40))
    assert grown.gap_s(9000.0) < 5.0


def test_what_polls_at_random_met_long_ago_counts_no_more() -> None:
    """Once all were met, there are as many as were met."""
    standstill = standing(tasks=40)
    for turn in range(300):
        at = 4000.0 + 60 * turn
        assert standstill.take_turn(at)
        in_vain(standstill, 1000 + turn % 60, 0.0, at)
    assert standstill.gap_s(at) == pytest.approx(3600 / (POLLS_AN_HOUR * 100), rel=0.05)


def test_it_sleeps_until_the_next_turn_or_a_deadline() -> None:
    standstill = standing()
    gap_s = standstill.gap_s(100.0)
    assert standstill.take_turn(100.0)
    assert standstill.sleeps_until == pytest.approx(100.0 + gap_s)
    standstill.unfinished(0, 0.5, before_at=90.0, now=100.0, deadline_at=101.0)
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
