"""The forecast of the live page, and the history it is made from."""

from dataclasses import replace
from itertools import pairwise

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from poller.core.histogram import Histogram
from poller.core.model import Kind, Record, Sums
from poller.core.record import restore
from poller.core.text import KIND_TEXT
from poller.engine.history import BOUNDS_S, OTHER, REASONS, STEPS, History, Step
from poller.web.dashboard.forecast import Forecast, LaneOutlook, forecast

NOW = 1_767_571_200.0
LANE = LaneOutlook(
    account="default",
    rate_per_s=10.0,
    is_paused=False,
    resume_at=None,
    next_due_at=NOW,
    daily_left=None,
    daily_usable=None,
    resets_at=NOW + 36_000,
)
NOTHING = Sums(sources=(), sinks=(), accounts={}, waiting=0, finished=0, polls=0, kinds={}, reasons=(("canceled", 7),))


def steps(*finished: int, paused: bool = False) -> list[Step]:
    return [Step(seconds=10.0, polls=100, finished=each, paused=paused) for each in finished]


def of(
    waiting: int, *, past: list[Step] | None = None, lanes: list[LaneOutlook] | None = None, open_: bool = False
) -> Forecast:
    return forecast(
        now=NOW,
        waiting=waiting,
        is_open=open_,
        steps=past or [],
        lanes=[LANE] if lanes is None else lanes,
        polls_per_task=2.0,
        times_out_at=NOW + 86_400,
    )


# --- the forecast ----------------------------------------------------------------------------------------------------


def test_without_waiting_tasks_it_is_done_or_open() -> None:
    assert of(0).word == "done"
    assert of(0, open_=True).word == "open"


def test_a_steady_pace_goes_on() -> None:
    found = of(3600, past=steps(*[80] * 60))
    assert (found.word, found.at) == ("pace", NOW + 450)
    assert found.earliest_at == found.latest_at == NOW + 450


def test_a_pace_that_falls_gives_a_later_forecast_and_says_how_unsure_it_is() -> None:
    found = of(1000, past=steps(*[80] * 30, *[20] * 3))
    assert found.at is not None
    assert found.earliest_at is not None
    assert found.at == found.latest_at == NOW + 500
    assert found.earliest_at < found.at


def test_nothing_is_promised_sooner_than_one_poll_each_at_the_limit() -> None:
    found = of(36_000, past=steps(*[5000] * 6))
    assert found.at == NOW + 3600


def test_too_few_outcomes_foretell_nothing_but_the_bounds() -> None:
    assert of(100, past=steps(1, 2, 1)) == Forecast(word="soon", earliest_at=NOW + 10, latest_at=NOW + 86_400)


def test_a_poll_that_is_due_late_holds_up_the_end() -> None:
    found = of(1, past=steps(*[80] * 30), lanes=[replace(LANE, next_due_at=NOW + 500)])
    assert found.at == NOW + 500


def test_time_spent_paused_does_not_slow_the_pace() -> None:
    found = of(800, past=steps(*[80] * 30) + steps(*[0] * 30, paused=True))
    assert found.at == NOW + 100


def test_a_pause_with_an_end_comes_on_top_and_one_without_forbids_a_forecast() -> None:
    past = steps(*[80] * 30)
    assert of(800, past=past, lanes=[replace(LANE, is_paused=True, resume_at=NOW + 600)]).at == NOW + 700
    assert of(800, past=past, lanes=[replace(LANE, is_paused=True)]).word == "blocked"


def test_a_paused_account_without_work_blocks_nobody() -> None:
    idle = replace(LANE, is_paused=True, next_due_at=None)
    assert of(800, past=steps(*[80] * 30), lanes=[LANE, idle]).word == "pace"


@pytest.mark.parametrize(("left", "days"), [(5000, 0), (1000, 1), (0, 2)])
def test_the_days_quota_makes_it_wait_for_midnights(left: int, days: int) -> None:
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


# --- the history -----------------------------------------------------------------------------------------------------


def record(number: int, *, reason: str | None = None, took_s: float = 5.0, **fields: object) -> Record:
    body = {
        "task_id": f"T{number}",
        "account": "default",
        "kind": "canceled" if reason else "complete",
        "requested_at": "2026-01-05T00:00:00.000Z",
        "completed_at": f"2026-01-05T00:00:{took_s:06.3f}Z",
        "ref": {"url": "https://example.com/a.png"},
        **fields,
    }
    kind = Kind(str(body["kind"]))
    return restore(orjson.dumps(body), kind=kind, reason=reason, seen_at=NOW + took_s + 2)


def test_a_step_holds_what_grew_in_it_and_steps_that_were_slept_through_are_empty() -> None:
    history = History()
    history.begin(NOW, NOTHING)
    history.step(NOW + 10, 100, 80, paused=False)
    history.step(NOW + 40, 130, 90, paused=True)
    assert [(step.polls, step.finished, step.paused) for step in history.steps] == [
        (100, 80, False),
        (0, 0, True),
        (0, 0, True),
        (30, 10, True),
    ]
    assert [step.seconds for step in history.steps] == [10.0] * 4


@pytest.mark.parametrize("jump_s", [-86_400.0, 0.0, 1e9])
def test_a_wall_clock_that_jumps_leaves_steps_of_sane_length(jump_s: float) -> None:
    history = History()
    history.begin(NOW, NOTHING)
    history.step(NOW + jump_s, 10, 10, paused=False)
    assert 0 <= history.steps[-1].seconds <= 20
    assert len(history.steps) <= STEPS


def test_a_reason_counts_on_from_earlier_runs_and_keeps_its_latest_samples() -> None:
    history = History()
    history.begin(NOW, NOTHING)
    for number in range(8):
        history.finish(record(number, reason="canceled", correlation_id=f"c{number}"))
    reason = history.reasons["canceled"]
    assert (reason.count, reason.kind) == (15, "canceled")
    assert [sample.task_id for sample in reason.samples] == ["T3", "T4", "T5", "T6", "T7"]
    assert reason.samples[-1].ref == '{"url":"https://example.com/a.png"}'
    assert reason.samples[-1].correlation_id == "c7"


def test_records_of_earlier_runs_are_samples_that_are_not_counted_again() -> None:
    history = History()
    canceled, missing = KIND_TEXT["canceled"], f"HTTP 404: {KIND_TEXT['not_found']}"
    answered = "the server answered {}"
    reasons = ((canceled, 7), (missing, 2), (answered.format(404), 3), (answered.format(503), 4))
    history.begin(NOW, replace(NOTHING, reasons=reasons))
    history.add_earlier(record(1, kind="canceled", errors=None).body)
    history.add_earlier(record(2, kind="not_found", errors=None).body)
    history.add_earlier(record(3, kind="canceled", errors=[{"message": "another reason"}]).body)
    history.add_earlier(record(4, kind="canceled", errors=[{"message": answered.format(503)}]).body)
    assert {name: (each.count, len(each.samples)) for name, each in history.reasons.items()} == {
        canceled: (7, 1),
        missing: (2, 1),
        answered.format(404): (3, 0),
        answered.format(503): (4, 1),
    }


def test_however_many_reasons_there_are_their_number_stays_bounded_and_their_sum_right() -> None:
    history = History()
    for number in range(3 * REASONS):
        history.finish(record(number, reason=f"reason {number}"))
    assert len(history.reasons) == REASONS + 1
    assert history.reasons[OTHER].count == 2 * REASONS
    assert sum(reason.count for reason in history.reasons.values()) == 3 * REASONS


def test_durations_and_lateness_are_measured_from_hubspots_own_instants() -> None:
    history = History()
    history.finish(record(1, took_s=4.0))
    history.finish(record(2, took_s=4.0, requested_at="soon"))
    history.finish(record(3, took_s=4.0, completed_at=None))
    assert (history.took.total, history.late.total) == (1, 2)
    assert 3.0 < (history.took.quantile(0.5) or 0) < 5.0
    assert 1.0 < (history.late.quantile(0.5) or 0) < 2.1


def test_a_huge_ref_is_cut() -> None:
    history = History()
    history.finish(record(1, reason="canceled", ref={"note": "x" * 60_000}))
    (sample,) = history.reasons["canceled"].samples
    assert sample.ref is not None
    assert len(sample.ref) == 1001
    assert sample.ref.endswith("…")


@given(st.lists(st.floats(0, 2e5), min_size=1))
def test_quantiles_rise_and_stay_within_the_bounds(seconds: list[float]) -> None:
    spread = Histogram(BOUNDS_S)
    for each in seconds:
        spread.add(each)
    found = [spread.quantile(share) for share in (0.0, 0.1, 0.5, 0.95, 1.0)]
    assert all(a is not None and b is not None and a <= b for a, b in pairwise(found))
    assert spread.total == len(seconds)
    assert 0 <= (found[0] or 0) <= (found[-1] or 0) <= BOUNDS_S[-1]
