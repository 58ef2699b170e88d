"""What is learned of how long imports take, and when to poll next by it."""

import math
from collections.abc import Iterator
from random import Random

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from poller.core.model import Finished, Missing, Outcome, Running
from poller.schedule import AccountTiming, Learned, Lifetimes, Price, Unreadable
from poller.schedule.hazard import BANDS, EDGES, MEMORY, Hazard, band_of
from poller.schedule.inspection import even_gap_s, plan
from tests.support.makers import make_task

PRICE = Price()
NOW = 1_767_571_200.0  # 2026-01-05


def lognormal_s(median_s: float, sigma: float, seed: int = 1) -> Iterator[float]:
    rng = Random(seed)
    while True:
        yield median_s * math.exp(sigma * rng.gauss(0, 1))


def taught(durations: Iterator[float], count: int, price: Price = PRICE) -> Learned:
    learned = Learned(price)
    teach(learned, durations, count)
    return learned


def teach(learned: Learned, durations: Iterator[float], count: int) -> None:
    for key in range(count):
        took_s = next(durations)
        learned.fed(0.5)
        learned.finished(key, took_s + 1, took_s, first=True)
    learned.refresh(learned.hazard.finished * 100.0)


# --- the hazard


def test_a_constant_hazard_is_found_again() -> None:
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


def test_the_exposure_is_the_time_watched_however_it_is_cut() -> None:
    whole, parts = Hazard(), Hazard()
    whole.watch(0.0, 777.7, finished=False)
    for from_s, to_s in ((0.0, 0.2), (0.2, 3.0), (3.0, 3.1), (3.1, 400.0), (400.0, 777.7)):
        parts.watch(from_s, to_s, finished=False)
    assert parts.exposure_s() == pytest.approx(whole.exposure_s())
    assert sum(whole.exposure_s()) == pytest.approx(777.7)


def test_what_was_long_ago_fades() -> None:
    hazard = Hazard()
    for _ in range(20_000):  # past the point where weights are written anew
        hazard.watch(0.0, 10.0, finished=True)
    assert sum(hazard.events()) == pytest.approx(MEMORY, rel=0.01)


def test_lifetimes_give_back_the_quantiles_that_were_seen() -> None:
    learned = taught(lognormal_s(30, 1.0), 3000)
    lifetimes = Lifetimes(learned.hazard.rates()[0])
    assert lifetimes.quantile_s(0.5) == pytest.approx(30, rel=0.15)
    assert lifetimes.quantile_s(0.9) == pytest.approx(30 * math.exp(1.2816), rel=0.25)
    assert lifetimes.left(lifetimes.quantile_s(0.7)) == pytest.approx(0.3)


# --- the plan


@given(rate=st.floats(1e-6, 10), price_s=st.floats(0.01, 1000))
def test_where_the_hazard_is_constant_no_other_gap_is_cheaper(rate: float, price_s: float) -> None:
    def cost_s(gap_s: float) -> float:
        return (price_s + gap_s) / -math.expm1(-rate * gap_s)

    best = even_gap_s(rate, price_s)
    assert cost_s(best) <= min(cost_s(best * 0.9), cost_s(best * 1.1)) * (1 + 1e-9)


def test_a_dead_time_is_crossed_in_one_gap() -> None:
    rates = [1e-7 if edge < 100 else 0.05 for edge in EDGES[:-1]]
    made = plan(EDGES, rates, [1e6] * (BANDS + 1), 3.0)
    assert 95 <= made.gap_s(0.0) <= 130
    assert made.gap_s(200.0) == pytest.approx(even_gap_s(0.05, 3.0), rel=0.3)


@given(
    seed=st.integers(0, 50),
    ceiling_s=st.floats(5, 900),
    age_s=st.floats(0, 1e6),
    waits_s=st.lists(st.floats(0, 1e4), max_size=20),
)
def test_a_gap_is_never_beyond_its_bounds(seed: int, ceiling_s: float, age_s: float, waits_s: list[float]) -> None:
    learned = Learned(Price(longest_gap_s=ceiling_s))
    teach(learned, lognormal_s(30, 1.2, seed), seed)
    for wait_s in waits_s:
        learned.gap_s(age_s)
        learned.waited(wait_s)
    learned.refresh(1e9)
    assert 1.0 <= learned.gap_s(age_s) <= ceiling_s
    assert 0.0 <= learned.first_poll_s <= ceiling_s


def test_little_knowledge_parks_nothing_for_long() -> None:
    learned = taught(iter([5.0] * 50), 50, Price(poll_cost_s=100, longest_gap_s=900))
    learned.unfinished(1000, 3000.0, first=True)
    learned.refresh(1e9)
    assert learned.gap_s(1000.0) <= 250


def test_a_dearer_poll_comes_later() -> None:
    cheap, dear = (taught(lognormal_s(30, 1.2), 500, Price(poll_cost_s=price_s)) for price_s in (1, 10))
    assert all(cheap.gap_s(age_s) < dear.gap_s(age_s) for age_s in (5, 20, 60, 200))


# --- the first poll


def test_fresh_imports_are_first_polled_at_when_some_are_likely_to_be_done() -> None:
    learned = taught(lognormal_s(45, 0.2), 500)
    assert 20 <= learned.first_poll_s <= 60


def test_a_backlog_is_polled_at_at_once() -> None:
    learned = taught(lognormal_s(30, 0.5), 500)
    for _ in range(64):
        learned.fed(3600.0)
    learned.refresh(1e9)
    assert learned.first_poll_s == 0


def test_nothing_is_put_off_before_anything_is_known() -> None:
    assert Learned(PRICE).first_poll_s == 0
    assert taught(lognormal_s(45, 0.2), 10).first_poll_s == 0


# --- under the limit, and after a change


def test_polls_get_dearer_while_they_pile_up_behind_the_limit_and_cheap_again_after() -> None:
    learned = taught(lognormal_s(30, 1.2), 500)
    usual_s = learned.gap_s(100.0)
    for _ in range(50):
        learned.gap_s(100.0)
        learned.waited(60.0)
    learned.refresh(1e6)
    assert learned.pressure > 1
    assert learned.gap_s(100.0) > usual_s
    for turn in range(30):
        learned.gap_s(100.0)
        learned.waited(0.0)
        learned.refresh(2e6 + 100 * turn)
    assert learned.pressure == 1
    assert learned.gap_s(100.0) == pytest.approx(usual_s)


def test_a_change_is_relearned_within_500_finished_tasks() -> None:
    changed, fresh = taught(lognormal_s(30, 0.8), 3000), taught(lognormal_s(240, 0.5, 2), 3000)
    teach(changed, lognormal_s(240, 0.5, 3), 500)
    assert changed.first_poll_s == pytest.approx(fresh.first_poll_s, rel=0.35)
    for age_s in (60, 150, 300):
        assert changed.gap_s(age_s) == pytest.approx(fresh.gap_s(age_s), rel=0.35)


def test_with_more_waiting_than_can_be_watched_an_even_part_is_watched(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("poller.schedule.learned.WATCHED", 100)
    learned = Learned(PRICE)
    for key in range(1000):
        learned.unfinished(key, 1.0, first=True)
    assert len(learned._seen_at_age) <= 100
    for key in range(1000):
        learned.finished(key, 50.0, 40.0, first=False)
    assert 0 < learned.hazard.finished <= 100
    assert learned._seen_at_age == {}


# --- an account's timing


def finished(requested_at: str | None, completed_at: str | None) -> Finished:
    return Finished(status="COMPLETE", num_errors=0, requested_at=requested_at, completed_at=completed_at)


def test_how_long_an_import_took_is_what_hubspot_says() -> None:
    timing = AccountTiming("a", PRICE)
    outcome = finished("2026-01-05T00:00:00Z", "2026-01-05T00:00:42Z")
    assert timing.learn(make_task(fed_at=NOW), outcome, asked_at=NOW + 600, now=NOW + 600) is None
    assert timing.learned.hazard.events()[band_of(42)] > 0.9


@pytest.mark.parametrize("requested_at", [None, "nonsense", "1970-01-01T00:00:00Z", "2099-01-01T00:00:00Z"])
def test_without_sensible_instants_the_time_since_feeding_serves(requested_at: str | None) -> None:
    timing = AccountTiming("a", PRICE)
    timing.learn(make_task(fed_at=NOW), finished(requested_at, requested_at), asked_at=NOW + 100, now=NOW + 100)
    assert timing.learned.hazard.events()[band_of(50)] > 0.9  # the middle of what is known


@pytest.mark.parametrize("outcome", [Missing(code=404), Running(status="PENDING")])
def test_only_a_running_task_gets_a_gap(outcome: Outcome) -> None:
    gap_s = AccountTiming("a", PRICE).learn(make_task(fed_at=NOW), outcome, asked_at=NOW + 1, now=NOW + 1)
    assert (gap_s is not None) == isinstance(outcome, Running)


def test_knowledge_survives_being_kept() -> None:
    timing = AccountTiming("a", PRICE)
    teach(timing.learned, lognormal_s(30, 1.2), 500)
    again = AccountTiming("a", PRICE, timing.knowledge())
    assert again.learned.hazard.finished == 500
    assert again.first_poll_s == pytest.approx(timing.first_poll_s)
    for age_s in (3, 30, 300):
        assert again.learned.gap_s(age_s) == pytest.approx(timing.learned.gap_s(age_s), rel=0.01)


@pytest.mark.parametrize(
    "damaged",
    [b"", b"{", b"[]", b"null", b'{"version": 1}', b'{"version": 99, "bands": [0.5, 1.12, 3]}'],
)
def test_knowledge_that_cannot_be_used_says_so(damaged: bytes) -> None:
    with pytest.raises(Unreadable):
        AccountTiming("a", PRICE, damaged)


@pytest.mark.parametrize(
    ("key", "value"), [("events", [1.0]), ("events", ["x"]), ("exposure_s", None), ("finished", "?")]
)
def test_a_damaged_part_spoils_the_whole(key: str, value: object) -> None:
    noted = orjson.loads(AccountTiming("a", PRICE).knowledge())
    with pytest.raises(Unreadable):
        AccountTiming("a", PRICE, orjson.dumps(noted | {key: value}))
