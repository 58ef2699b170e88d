"""PollOrder of first and second polls, while both wait for the limit."""

from collections import deque
from itertools import islice
from random import Random

import pytest

from bench.timing_lane import play
from bench.timing_workloads import Import, lognormal
from poller.core.model import Task
from poller.schedule import AccountTiming, PollOrder
from poller.schedule.policy import Polling
from poller.schedule.poll_order import MOST_FIRST, WORTH
from tests.support.makers import make_task

NOW = 1_767_571_200.0


def turns_of(first: int, again: int, chance_again: float | None, *, limit: int = 64) -> list[int]:
    """Return the polls before of the tasks that are polled, in their order."""
    due = [make_task(key=key, polls=0, due_at=NOW) for key in range(first)]
    due += [make_task(key=key, polls=1, due_at=NOW + 1) for key in range(again)]

    def chance(task: Task) -> float:
        return (chance_again or 0.0) if task.polls else 1.0

    divided = PollOrder().divide(due, limit, None if chance_again is None else chance)
    assert sorted(divided, key=id) == sorted(due, key=id)
    return [task.polls for task in divided[:limit]]


@pytest.mark.parametrize("chance", [None, WORTH, 1.0])
def test_second_polls_have_every_other_turn_where_they_are_worth_as_much(chance: float | None) -> None:
    assert turns_of(64, 40, chance) == [0, 1] * 32


def test_second_polls_that_are_worth_little_have_a_turn_now_and_then() -> None:
    assert turns_of(64, 40, 0.1) == ([0] * MOST_FIRST + [1]) * (64 // (MOST_FIRST + 1))


@pytest.mark.parametrize("limit", [1, 31, 32, 40, 500])
def test_the_turns_of_one_claim_go_on_in_the_next(limit: int) -> None:
    order, turns = PollOrder(), list[int]()
    first, again = (deque(make_task(key=key, polls=polls, due_at=NOW) for key in range(2000)) for polls in (0, 1))
    while len(turns) < 1500:
        due = [*islice(first, limit), *islice(again, (limit + 1) // 2)]
        for task in order.divide(due, limit, lambda task: 0.1 if task.polls else 1.0)[:limit]:
            (again if task.polls else first).popleft()
            turns.append(task.polls)
    assert turns[:1500] == (([0] * MOST_FIRST + [1]) * 50)[:1500]


def test_first_polls_have_all_turns_that_no_other_task_needs() -> None:
    assert turns_of(64, 2, 1.0) == [0, 1, 0, 1] + [0] * 60


def test_what_is_longest_due_is_polled_in_its_order() -> None:
    due = [make_task(key=key, polls=key % 2, due_at=NOW + key) for key in range(10)]
    assert PollOrder().divide(due, 10, None) == due
    assert [task.key for task in PollOrder().divide([*due[1::2], *due[:1]], 5, None)[:5]] == [1, 3, 5, 7, 9]


def test_a_chance_grows_with_the_time_since_the_last_poll_and_is_that_of_the_age_before_the_first() -> None:
    timing, rng = AccountTiming("main", Polling().tradeoff), Random(1)
    took_s = lognormal(100, 0.5)
    for _ in range(300):
        timing.planner.hazard.watch(0.0, took_s(rng), finished=True)
    timing.planner.replan()
    fresh = make_task(fed_at=NOW, requested_at=NOW, polls=0)
    chances = [timing.chance(fresh, NOW + age_s) for age_s in (0, 100, 400)]
    assert chances == pytest.approx([0.0, 0.5, 1.0], abs=0.1)
    polled = make_task(fed_at=NOW, requested_at=NOW, polls=1, seen_at=NOW + 100)
    assert timing.chance(polled, NOW + 100) == 0.0
    assert timing.chance(polled, NOW + 110) < 0.3 < timing.chance(polled, NOW + 300)


def test_under_a_tight_limit_second_polls_do_not_wait_for_the_first_ones_of_all() -> None:
    """600 imports fed at once, one poll a second: the first polls alone take ten minutes. By due time alone: 590 s."""
    rng, took_s = Random(1), lognormal(60, 0.5)
    imports = [Import(requested_at=-0.5, fed_at=0.0, took_s=took_s(rng)) for _ in range(600)]
    played = play(imports, 1.0)
    assert played.waited_s < 120
    assert 1 <= played.passed_over <= MOST_FIRST  # 590 by due time alone
    assert sum(played.polls) / 600 < 1.2
    assert min(played.late_s) >= 0
    assert sum(played.late_s) / 600 < 310  # 303 where all first polls are made before
