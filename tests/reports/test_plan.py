"""What a run would take where HubSpot works the imports off in order."""

import time

import pytest

from bench.timing_lane import SimulatedLane
from bench.timing_workloads import Import
from poller.config.settings import AccountSettings
from poller.reports.plan import AccountPlan, KnownAccount, RunPlan, plan_account
from poller.schedule import AccountTiming, line_of
from poller.schedule.policy import Polling
from poller.schedule.starts import StartRules
from tests.schedule.test_line import in_order, mostly_hung

RULES = Polling()
NOW = 1_800_000_000.0
DAY_S = 86_400.0


def worked_off(imports: list[Import], limit: float = 20.0) -> tuple[AccountTiming, float, float]:
    """Return the timing after a run, the polls of each task, and how long the run took."""
    timing = AccountTiming("a", RULES.tradeoff)
    played = SimulatedLane(imports, timing, limit, RULES.deadline_s).run()
    return timing, sum(played.polls) / len(imports), played.drained_s


def planned(timing: AccountTiming, tasks: int, *, requests: int = 200) -> AccountPlan:
    account = AccountSettings(requests=requests, window_s=10)
    return plan_account("a", account, tasks, KnownAccount(timing=timing.knowledge(NOW)), None, NOW)


def test_a_run_in_a_line_is_forecast_by_the_line() -> None:
    timing, polls, lasted_s = worked_off(in_order(500, 3.0))
    plan = planned(timing, 500)
    assert plan.polls_per_task == pytest.approx(polls, rel=0.25)
    assert plan.lasts_s == pytest.approx(lasted_s, rel=0.1)
    assert plan.mean_late_s < 3.0


def test_a_limit_below_the_pace_of_the_line_decides_how_long_it_takes() -> None:
    timing, _, _ = worked_off(in_order(500, 3.0))
    plan = planned(timing, 500, requests=10)
    assert plan.lasts_s == pytest.approx(plan.polls / plan.per_second, rel=0.01)


def test_what_a_line_costs_is_kept_through_a_restart_until_another_clock_decides() -> None:
    timing, _, _ = worked_off(in_order(200, 3.0))
    known = timing.knowledge(NOW)
    assert line_of(known) is not None
    assert line_of(AccountTiming("a", RULES.tradeoff, known).knowledge(NOW)) == line_of(known)
    assert line_of(AccountTiming("a", RULES.tradeoff).knowledge(NOW)) is None
    assert line_of(b"damaged") is None


def test_a_plan_of_imports_that_mostly_hang_has_their_time_outs() -> None:
    plan = planned(mostly_hung(NOW), 50)
    assert 25 <= plan.timed_out < 50
    assert "more than half of the imports have not finished" in plan.based_on
    assert "timed out  about" in RunPlan(lines=50, duplicates=0, rejected=0, accounts=(plan,)).to_text()


def hanging(tasks: int, deadline_s: float, starts: StartRules | None = None) -> AccountPlan:
    account = AccountSettings(deadline_s=deadline_s)
    return plan_account("a", account, tasks, KnownAccount(), "fixed:1e9", NOW, starts=starts)


def test_a_month_in_which_nothing_finishes_is_planned_in_seconds() -> None:
    """A poll every 19 s, each with a plan of its own, took a minute and a half."""
    began_s = time.process_time()
    plan = hanging(100, 31 * DAY_S)
    assert time.process_time() - began_s < 5.0
    assert plan.timed_out == 100
    assert plan.lasts_s == pytest.approx(31 * DAY_S, rel=0.001)


def test_what_is_not_played_one_by_one_has_as_many_polls() -> None:
    """4,135 and 14,339 polls, played one by one."""
    assert hanging(100, DAY_S).polls == pytest.approx(4135, rel=0.02)
    assert hanging(100, 5 * DAY_S).polls == pytest.approx(14_339, rel=0.02)


def test_imports_of_which_all_of_the_trial_times_out_have_a_plan() -> None:
    """The other rows are not started, so that there is nothing left to poll."""
    plan = hanging(100, DAY_S, StartRules(trial=20))
    assert plan.timed_out == 100
    assert plan.lasts_s == pytest.approx(DAY_S, rel=0.01)
