"""The forecast of a run's end: pace, rate limits, the day's quota and pauses."""

import math
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from poller.core.starts import BACKLOG_COUNTED, ImportsReading, starts_left
from poller.schedule.forecast import (
    Forecast,
    LaneOutlook,
    Step,
    forecast,
    import_paces,
    recent_paces,
    slowest_of,
    time_left,
)

NOW = 1_767_571_200.0
LANE = LaneOutlook(rate_per_s=10.0, next_due_at=NOW, resets_at=NOW + 36_000)


def steps(*finished: int, paused: float = 0.0) -> list[Step]:
    return [Step(seconds=10.0, polls=100, finished=each, paused=paused) for each in finished]


def of(
    waiting: int, *, past: list[Step] | None = None, lanes: list[LaneOutlook] | None = None, is_open: bool = False
) -> Forecast:
    return forecast(
        now=NOW,
        waiting=waiting,
        is_open=is_open,
        paces=recent_paces(past or []),
        lanes=[LANE] if lanes is None else lanes,
        polls_per_task=2.0,
        times_out_at=NOW + 86_400,
    )


def test_without_waiting_tasks_it_is_done_or_open() -> None:
    assert of(0).state == "done"
    assert of(0, is_open=True).state == "open"


def test_a_steady_pace_is_continued() -> None:
    found = of(3600, past=steps(*[80] * 60))
    assert (found.state, found.at) == ("estimated", NOW + 450)
    assert found.earliest_at == found.latest_at == NOW + 450


def test_a_falling_pace_gives_a_later_forecast_and_a_wider_range() -> None:
    found = of(1000, past=steps(*[80] * 30, *[20] * 3))
    assert found.at is not None
    assert found.earliest_at is not None
    assert found.at == found.latest_at == NOW + 500
    assert found.earliest_at < found.at


def test_no_forecast_is_earlier_than_one_poll_a_task_at_the_rate_limit() -> None:
    found = of(36_000, past=steps(*[5000] * 6))
    assert found.at == NOW + 3600


def test_a_row_to_import_costs_its_start_too() -> None:
    lane = replace(LANE, daily_left=500, daily_usable=1200)
    costs: dict[str, Any] = {"waiting": 500, "paces": (), "lanes": [lane], "polls_per_task": 1.0}
    assert forecast(now=NOW, **costs).quota_days == 0
    assert forecast(now=NOW, unstarted=500, **costs).quota_days == 1
    assert forecast(now=NOW, **costs | {"lanes": [LANE], "unstarted": 500}).earliest_at == NOW + 100


def test_while_rows_wait_the_requests_are_the_pace_whether_they_were_starts_or_polls() -> None:
    """After 120 s of starts come 120 s of polls: neither is the pace of outcomes."""
    counts: dict[str, Any] = {"waiting": 900, "unstarted": 100, "polls": 100, "starts": 1000}
    starting = [replace(each, polls=0, started=100) for each in steps(0, 0)]
    polling = [replace(each, polls=100, started=0) for each in steps(90, 90)]
    assert [*import_paces(starting, **counts)] == [*import_paces(polling, **counts)] == [9.0]
    assert [*import_paces(polling, **counts | {"unstarted": 0})] == [*recent_paces(polling)]
    assert next(import_paces(starting, **counts | {"polls": 2000})) == pytest.approx(10 * 900 / (100 + 2 * 900))


def test_starts_that_are_too_many_to_count_are_all_but_those_under_way() -> None:
    few, many = ImportsReading(unstarted=80, underway=20), ImportsReading(unstarted=BACKLOG_COUNTED, underway=5000)
    assert starts_left([], 300) == 0
    assert starts_left([few], 100) == 80
    assert starts_left([few, many], 1_005_020) == 1_000_000
    assert starts_left([few, many], 1_015_020, elsewhere=10_100) == 1_000_000, "the others' ids are no rows"
    assert starts_left([few, many], 500, elsewhere=10_100) == 80, "counted at another instant"


def test_too_few_outcomes_give_only_the_bounds() -> None:
    assert of(100, past=steps(1, 2, 1)) == Forecast(state="too_early", earliest_at=NOW + 10, latest_at=NOW + 86_400)


def test_the_run_does_not_end_before_the_next_poll_is_due() -> None:
    found = of(1, past=steps(*[80] * 30), lanes=[replace(LANE, next_due_at=NOW + 500)])
    assert found.at == NOW + 500


def test_time_spent_paused_does_not_slow_the_pace() -> None:
    found = of(800, past=steps(*[80] * 30) + steps(*[0] * 30, paused=1.0))
    assert found.at == NOW + 100


def test_the_pace_while_one_of_two_accounts_is_paused_counts() -> None:
    found = of(800, past=steps(*[80] * 30) + steps(*[40] * 30, paused=0.5))
    assert found.at == NOW + 200


def test_a_pause_with_a_known_end_is_added_and_one_without_prevents_a_forecast() -> None:
    past = steps(*[80] * 30)
    assert of(800, past=past, lanes=[replace(LANE, is_paused=True, resume_at=NOW + 600)]).at == NOW + 700
    assert of(800, past=past, lanes=[replace(LANE, is_paused=True)]).state == "blocked"


def test_a_paused_account_without_tasks_does_not_block_the_forecast() -> None:
    idle = replace(LANE, is_paused=True, next_due_at=None)
    assert of(800, past=steps(*[80] * 30), lanes=[LANE, idle]).state == "estimated"


@pytest.mark.parametrize(("left", "days"), [(5000, 0), (1000, 1), (0, 2)])
def test_a_used_up_daily_quota_adds_the_midnights_to_wait_for(left: int, days: int) -> None:
    lane = replace(LANE, daily_left=left, daily_usable=1200)
    found = of(1000, past=steps(*[80] * 30), lanes=[lane])
    assert found.quota_days == days
    assert found.at is not None
    assert found.at >= (NOW + 36_000 + (days - 1) * 86_400 if days else NOW + 125)


@given(st.lists(st.tuples(st.floats(0, 20), st.integers(0, 10_000), st.booleans())), st.integers(0, 10**7))
def test_any_history_gives_a_forecast_within_its_own_bounds(past: list[tuple[float, int, bool]], waiting: int) -> None:
    found = of(waiting, past=[Step(seconds=s, polls=n, finished=n, paused=p) for s, n, p in past])
    if found.at is not None:
        assert found.earliest_at is not None
        assert found.latest_at is not None
        assert NOW < found.earliest_at <= found.at <= found.latest_at


def test_a_reserve_that_leaves_no_request_of_a_day_prevents_a_forecast() -> None:
    lane = replace(LANE, daily_left=0, daily_usable=0)
    assert of(1000, past=steps(*[80] * 30), lanes=[lane]).state == "blocked"


def test_without_known_limits_only_the_pace_counts() -> None:
    found = forecast(now=NOW, waiting=90, paces=[9.0])
    assert (found.state, found.at, time_left(found, NOW)) == ("estimated", NOW + 10, "about 10 s left")


@pytest.mark.parametrize("waiting", [0, 5])
def test_no_time_left_is_shown_without_an_estimate(waiting: int) -> None:
    assert time_left(of(waiting), NOW) == ""


def test_the_last_ones_keep_no_pace_so_the_tail_has_a_time_of_its_own() -> None:
    found = forecast(now=NOW, waiting=400, finished=600, paces=[4.0], slowest_at=NOW + 1200)
    assert (found.at, found.nearly_at, found.slowest_at) == (NOW + 100, NOW + 97.5, NOW + 1200)
    assert time_left(found, NOW) == "99 % in about 1 min 38 s, the slowest may take 20 min"


def test_while_most_tasks_wait_the_slowest_has_no_instant_yet() -> None:
    found = forecast(now=NOW, waiting=6000, finished=1000, paces=[40.0], slowest_at=NOW + 30_000)
    assert (found.slowest_at, found.is_tail_open) == (None, True)
    assert time_left(found, NOW) == "99 % in about 2 min 28 s, a few may take longer"


def test_a_deadline_alone_is_no_forecast_of_the_slowest() -> None:
    until = NOW + 86_400
    found = forecast(now=NOW, waiting=400, finished=600, paces=[4.0], slowest_at=until, times_out_at=until)
    assert (found.slowest_at, found.is_tail_open) == (None, True)
    found = forecast(now=NOW, waiting=4, finished=996, paces=[4.0], slowest_at=until, times_out_at=until)
    assert time_left(found, NOW) == "about 1 s left, a few may take longer"


def test_once_99_percent_are_done_only_the_slowest_are_left() -> None:
    found = forecast(now=NOW, waiting=5, finished=995, paces=[4.0], slowest_at=NOW + 1200)
    assert found.nearly_at is None
    assert time_left(found, NOW) == "the last ones may take 20 min"


def test_a_tail_that_is_no_longer_than_the_rest_is_not_shown() -> None:
    found = forecast(now=NOW, waiting=400, paces=[4.0], slowest_at=NOW + 20)
    assert found.slowest_at == found.at == NOW + 100
    assert time_left(found, NOW) == "about 1 min 40 s left"


def test_one_paused_account_does_not_end_the_forecast_of_the_others() -> None:
    paused = replace(LANE, is_paused=True)
    found = of(1000, past=steps(*[80] * 6), lanes=[LANE, paused])
    assert (found.state, found.is_partial) == ("estimated", True)
    assert time_left(found, NOW).endswith("left, without paused accounts")
    assert of(1000, past=steps(*[80] * 6), lanes=[paused, paused]).state == "blocked"


def test_the_tasks_of_a_paused_account_are_not_in_the_forecast_of_the_others() -> None:
    lanes = [LaneOutlook(), LaneOutlook(is_paused=True)]
    found = forecast(now=NOW, waiting=1000, blocked=900, paces=[4.0], lanes=lanes)
    assert (found.at, found.is_partial) == (NOW + 25, True)
    assert forecast(now=NOW, waiting=900, blocked=900, paces=[4.0], lanes=lanes).state == "blocked"
    assert forecast(now=NOW, waiting=1000, blocked=900, paces=[4.0], lanes=[LaneOutlook()]).at == NOW + 250  # resumed


@given(
    waiting=st.integers(1, 10**6),
    youngest_s=st.floats(0, 1e5),
    rate=st.floats(1e-6, 10),
    deadline_s=st.floats(0, 1e6),
)
def test_the_slowest_is_within_its_deadline_and_rarely_later(
    waiting: int, youngest_s: float, rate: float, deadline_s: float
) -> None:
    def unfinished_at(age_s: float) -> float:
        return math.exp(-rate * age_s)

    until = NOW + deadline_s
    at = slowest_of(waiting, youngest_s=youngest_s, now=NOW, unfinished_at=unfinished_at, times_out_at=until)
    assert NOW <= at <= until
    if at < until and unfinished_at(youngest_s) > 1e-200:
        later = waiting * unfinished_at(youngest_s + at - NOW) / unfinished_at(youngest_s)
        assert later <= 0.05 + 1e-9


def test_without_knowledge_the_deadline_bounds_the_slowest() -> None:
    assert slowest_of(3, youngest_s=0.0, now=NOW, unfinished_at=None, times_out_at=NOW + 60) == NOW + 60
