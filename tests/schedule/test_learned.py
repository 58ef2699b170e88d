"""Learned timing: the hazard of imports, and the polls planned by it."""

import math
from collections.abc import Iterator
from random import Random

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from poller.core.model import Finished, Missing, Outcome, Running
from poller.schedule import AccountTiming, KnowledgeUnreadable, PollPlanner, SurvivalCurve, Tradeoff
from poller.schedule.hazard import BANDS, EDGES, MEMORY, Hazard, band_of
from poller.schedule.inspection import even_gap_s, plan_inspection
from poller.schedule.policy import Polling
from tests.support.makers import make_task

TRADEOFF = Tradeoff()
NOW = 1_767_571_200.0  # 2026-01-05


def lognormal_s(median_s: float, sigma: float, seed: int = 1) -> Iterator[float]:
    rng = Random(seed)
    while True:
        yield median_s * math.exp(sigma * rng.gauss(0, 1))


def trained(durations: Iterator[float], count: int, tradeoff: Tradeoff = TRADEOFF) -> PollPlanner:
    planner = PollPlanner(tradeoff)
    train(planner, durations, count)
    return planner


def train(planner: PollPlanner, durations: Iterator[float], count: int) -> None:
    for _ in range(count):
        took_s = next(durations)
        planner.fed(0.5)
        planner.learn(0.0, took_s, finished=True)
    planner.refresh(planner.hazard.finished * 100.0)


# --- the hazard


def test_a_constant_hazard_is_estimated() -> None:
    hazard, rng = Hazard(), Random(1)
    for _ in range(2000):
        took_s = rng.expovariate(1 / 50)
        hazard.watch(0.0, took_s, finished=True)
    rates, _ = hazard.rates()
    assert [rates[band_of(age_s)] for age_s in (10, 30, 60)] == pytest.approx([1 / 50] * 3, rel=0.4)


def test_imports_that_never_finish_lower_the_hazard_of_their_age() -> None:
    some, more = Hazard(), Hazard()
    for hazard in (some, more):
        for took_s in range(100):
            hazard.watch(0.0, float(took_s), finished=True)
    for _ in range(50):
        more.watch(0.0, 1000.0, finished=False)
    assert more.rates()[0][band_of(80)] < some.rates()[0][band_of(80)] / 2


def test_the_exposure_is_the_time_observed_however_it_is_divided() -> None:
    whole, parts = Hazard(), Hazard()
    whole.watch(0.0, 777.7, finished=False)
    for from_s, to_s in ((0.0, 0.2), (0.2, 3.0), (3.0, 3.1), (3.1, 400.0), (400.0, 777.7)):
        parts.watch(from_s, to_s, finished=False)
    assert parts.exposure_s() == pytest.approx(whole.exposure_s())
    assert sum(whole.exposure_s()) == pytest.approx(777.7)


def test_old_counts_fade() -> None:
    hazard = Hazard()
    for _ in range(20_000):  # past the point where weights are rescaled
        hazard.watch(0.0, 10.0, finished=True)
    assert sum(hazard.events()) == pytest.approx(MEMORY, rel=0.01)


def test_a_survival_curve_has_the_quantiles_of_its_imports() -> None:
    planner = trained(lognormal_s(30, 1.0), 3000)
    curve = SurvivalCurve(planner.hazard.rates()[0])
    assert curve.quantile_s(0.5) == pytest.approx(30, rel=0.15)
    assert curve.quantile_s(0.9) == pytest.approx(30 * math.exp(1.2816), rel=0.25)
    assert curve.until(curve.quantile_s(0.7))[0] == pytest.approx(0.3)


# --- the plan


@given(rate=st.floats(1e-6, 10), poll_cost_s=st.floats(0.01, 1000))
def test_where_the_hazard_is_constant_no_other_gap_is_cheaper(rate: float, poll_cost_s: float) -> None:
    def cost_s(gap_s: float) -> float:
        return (poll_cost_s + gap_s) / -math.expm1(-rate * gap_s)

    best = even_gap_s(rate, poll_cost_s)
    assert cost_s(best) <= min(cost_s(best * 0.9), cost_s(best * 1.1)) * (1 + 1e-9)


def test_a_dead_time_is_crossed_in_one_gap() -> None:
    rates = tuple(1e-7 if edge < 100 else 0.05 for edge in EDGES[:-1])
    inspection = plan_inspection(EDGES, rates, (1e6,) * (BANDS + 1), 3.0)
    assert 95 <= inspection.gap_s(0.0) <= 130
    assert inspection.gap_s(200.0) == pytest.approx(even_gap_s(0.05, 3.0), rel=0.3)


@given(
    seed=st.integers(0, 50),
    ceiling_s=st.floats(5, 900),
    age_s=st.floats(0, 1e6),
    waits_s=st.lists(st.floats(0, 1e4), max_size=20),
)
def test_a_gap_is_never_beyond_its_bounds(seed: int, ceiling_s: float, age_s: float, waits_s: list[float]) -> None:
    planner = PollPlanner(Tradeoff(longest_gap_s=ceiling_s, cap_s=ceiling_s))
    train(planner, lognormal_s(30, 1.2, seed), seed)
    for wait_s in waits_s:
        planner.gap_s(age_s)
        planner.pressure.waited(wait_s)
    planner.refresh(1e9)
    assert 1.0 <= planner.gap_s(age_s) <= ceiling_s
    assert 0.0 <= planner.first_poll_s <= ceiling_s


@pytest.mark.parametrize(("longest_gap_s", "gaps_s"), [(None, [60, 360, 1800, 3600]), (60.0, [60, 60, 60, 60])])
def test_an_old_import_is_polled_once_in_a_twentieth_of_its_age(
    longest_gap_s: float | None, gaps_s: list[float]
) -> None:
    planner = trained(lognormal_s(30, 1.2), 500, Polling(longest_gap_s=longest_gap_s).tradeoff)
    for _ in range(40):
        planner.learn(0.0, 10 * 86_400.0, finished=False)
    planner.refresh(1e9)
    for age_s, longest_s in zip((1_200, 7_200, 36_000, 5 * 86_400), gaps_s, strict=True):
        assert longest_s * 0.75 < planner.gap_s(age_s) <= longest_s


def test_with_little_knowledge_gaps_stay_short() -> None:
    planner = trained(iter([5.0] * 50), 50, Tradeoff(poll_cost_s=100, longest_gap_s=900))
    planner.learn(0.0, 3000.0, finished=False)
    planner.refresh(1e9)
    assert planner.gap_s(1000.0) <= 250


def test_a_higher_poll_cost_means_longer_gaps() -> None:
    cheap, dear = (trained(lognormal_s(30, 1.2), 500, Tradeoff(poll_cost_s=poll_cost_s)) for poll_cost_s in (1, 10))
    assert all(cheap.gap_s(age_s) < dear.gap_s(age_s) for age_s in (5, 20, 60, 200))


# --- the first poll


def test_fresh_imports_are_first_polled_when_some_are_likely_to_be_done() -> None:
    planner = trained(lognormal_s(45, 0.2), 500)
    assert 20 <= planner.first_poll_s <= 60


def test_a_backlog_is_polled_at_once() -> None:
    planner = trained(lognormal_s(30, 0.5), 500)
    for _ in range(64):
        planner.fed(3600.0)
    planner.refresh(1e9)
    assert planner.first_poll_s == 0


def test_no_first_poll_is_delayed_before_anything_is_known() -> None:
    assert PollPlanner(TRADEOFF).first_poll_s == 0
    assert trained(lognormal_s(45, 0.2), 10).first_poll_s == 0


# --- under the limit, and after a change


def test_polls_cost_more_while_they_wait_behind_the_limit_and_the_usual_after() -> None:
    planner = trained(lognormal_s(30, 1.2), 500)
    usual_s = planner.gap_s(100.0)
    for _ in range(50):
        planner.gap_s(100.0)
        planner.pressure.waited(60.0)
    planner.refresh(1e6)
    assert planner.pressure.factor > 1
    assert planner.gap_s(100.0) > usual_s
    for turn in range(30):
        planner.gap_s(100.0)
        planner.pressure.waited(0.0)
        planner.refresh(2e6 + 100 * turn)
    assert planner.pressure.factor == 1
    assert planner.gap_s(100.0) == pytest.approx(usual_s)


def pressed(cap_s: float = math.inf) -> PollPlanner:
    """Return a planner of quick imports of which a tenth never finishes, while polls wait a minute for the limit."""
    planner = PollPlanner(Tradeoff(cap_s=cap_s))
    quick_s, rng = lognormal_s(30, 0.8, 1), Random(1)
    for _ in range(500):
        is_stuck = rng.random() < 0.1
        planner.learn(0.0, 3600.0 if is_stuck else next(quick_s), finished=not is_stuck)
    for _ in range(50):
        planner.gap_s(100.0)
        planner.pressure.waited(60.0)
    planner.refresh(1e6)
    return planner


def test_imports_that_hardly_finish_leave_the_limit_to_the_others() -> None:
    """Polled each minute, a few hundred of them would fill a limit of ten requests a second."""
    assert pressed().gap_s(1200.0) > 120.0
    assert pressed().gap_s(20.0) <= 60.0
    assert pressed(cap_s=60.0).gap_s(1200.0) <= 60.0  # what the person set holds


def test_a_change_is_relearned_within_500_finished_tasks() -> None:
    changed, fresh = trained(lognormal_s(30, 0.8), 3000), trained(lognormal_s(240, 0.5, 2), 3000)
    train(changed, lognormal_s(240, 0.5, 3), 500)
    assert changed.first_poll_s == pytest.approx(fresh.first_poll_s, rel=0.35)
    for age_s in (60, 150, 300):
        assert changed.gap_s(age_s) == pytest.approx(fresh.gap_s(age_s), rel=0.35)


# --- an account's timing


def finished(requested_at: str | None, completed_at: str | None) -> Finished:
    return Finished(status="COMPLETE", num_errors=0, requested_at=requested_at, completed_at=completed_at)


def test_an_imports_duration_comes_from_hubspots_instants() -> None:
    timing = AccountTiming("a", TRADEOFF)
    outcome = finished("2026-01-05T00:00:00Z", "2026-01-05T00:00:42Z")
    assert timing.learn(make_task(fed_at=NOW), outcome, asked_at=NOW + 600, now=NOW + 600) is None
    assert timing.planner.hazard.events()[band_of(42)] > 0.9


def test_a_completion_before_a_poll_that_found_it_unfinished_is_rounded() -> None:
    """Completed in the middle between that poll and the one that found it completed, as where no instant is named."""
    timing = AccountTiming("a", TRADEOFF)
    outcome = finished("2026-01-05T00:00:00Z", "2026-01-05T00:01:00Z")
    timing.learn(make_task(fed_at=NOW, polls=1, seen_at=NOW + 90), outcome, asked_at=NOW + 110, now=NOW + 110)
    assert timing.planner.hazard.events()[band_of(100)] > 0.9


@pytest.mark.parametrize("requested_at", [None, "nonsense", "1970-01-01T00:00:00Z", "2099-01-01T00:00:00Z"])
def test_without_sensible_instants_the_time_since_feeding_serves(requested_at: str | None) -> None:
    timing = AccountTiming("a", TRADEOFF)
    timing.learn(make_task(fed_at=NOW), finished(requested_at, requested_at), asked_at=NOW + 100, now=NOW + 100)
    assert timing.planner.hazard.events()[band_of(50)] > 0.9  # the middle of the known bounds


@pytest.mark.parametrize("outcome", [Missing(code=404), Running(status="PENDING")])
def test_only_a_running_task_gets_a_gap(outcome: Outcome) -> None:
    gap_s = AccountTiming("a", TRADEOFF).learn(make_task(fed_at=NOW), outcome, asked_at=NOW + 1, now=NOW + 1)
    assert (gap_s is not None) == isinstance(outcome, Running)


def test_knowledge_survives_a_restart() -> None:
    timing = AccountTiming("a", TRADEOFF)
    train(timing.planner, lognormal_s(30, 1.2), 500)
    restored = AccountTiming("a", TRADEOFF, timing.knowledge(NOW))
    assert restored.planner.hazard.finished == 500
    assert restored.planner.first_poll_s == pytest.approx(timing.planner.first_poll_s)
    for age_s in (3, 30, 300):
        assert restored.planner.gap_s(age_s) == pytest.approx(timing.planner.gap_s(age_s), rel=0.01)


@pytest.mark.parametrize(
    "damaged",
    [b"", b"{", b"[]", b"null", b'{"version": 1}', b'{"version": 99, "bands": [0.5, 1.12, 3]}'],
)
def test_knowledge_that_cannot_be_used_raises(damaged: bytes) -> None:
    with pytest.raises(KnowledgeUnreadable):
        AccountTiming("a", TRADEOFF, damaged)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("events", [1.0]),
        ("events", ["x"]),
        ("exposure_s", None),
        ("finished", "?"),
        ("finished", 1e308),
        ("finished", -1),
        ("events", [1e300] * BANDS),  # finite, but sums and products of it are not
        ("evidence", [0.0, 0.0, -1e300]),
    ],
)
def test_one_damaged_part_makes_all_unreadable(key: str, value: object) -> None:
    stored = orjson.loads(AccountTiming("a", TRADEOFF).knowledge(NOW))
    with pytest.raises(KnowledgeUnreadable):
        AccountTiming("a", TRADEOFF, orjson.dumps(stored | {key: value}))
