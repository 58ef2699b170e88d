"""The recent past of a run: steps, reasons with samples, durations."""

from dataclasses import replace
from itertools import pairwise

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from poller.core.histogram import IMPORT_BOUNDS_S, Histogram
from poller.core.model import Kind, Record
from poller.core.record import restore
from poller.core.sums import ReasonSum, Sums
from poller.core.text import KIND_TEXT
from poller.engine.history import OTHER, REASONS, STEPS, Counts, History

NOW = 1_767_571_200.0
NOTHING = Sums(
    sources=(),
    sinks=(),
    accounts={},
    waiting=0,
    finished=0,
    polls=0,
    kinds={},
    landed={},
    reasons=(ReasonSum("canceled", 7, 2),),
)


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
    history.step(NOW + 10, Counts(polls=100, finished=80, starts=7), paused=0.0)
    history.step(NOW + 40, Counts(polls=130, finished=90, starts=8), paused=1.0)
    assert [(step.polls, step.finished, step.paused) for step in history.steps] == [
        (100, 80, 0.0),
        (0, 0, 1.0),
        (0, 0, 1.0),
        (30, 10, 1.0),
    ]
    assert [step.seconds for step in history.steps] == [10.0] * 4
    assert [step.started for step in history.steps] == [7, 0, 0, 1]


@pytest.mark.parametrize("jump_s", [-86_400.0, 0.0, 1e9])
def test_a_wall_clock_that_jumps_leaves_steps_of_sane_length(jump_s: float) -> None:
    history = History()
    history.begin(NOW, NOTHING)
    history.step(NOW + jump_s, Counts(polls=10, finished=10), paused=0.0)
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
    counts = ((canceled, 7), (missing, 2), (answered.format(404), 3), (answered.format(503), 4))
    history.begin(NOW, replace(NOTHING, reasons=tuple(ReasonSum(name, count, 0) for name, count in counts)))
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
    spread = Histogram(IMPORT_BOUNDS_S)
    for each in seconds:
        spread.add(each)
    found = [spread.quantile(share) for share in (0.0, 0.1, 0.5, 0.95, 1.0)]
    assert all(a is not None and b is not None and a <= b for a, b in pairwise(found))
    assert spread.total == len(seconds)
    assert 0 <= (found[0] or 0) <= (found[-1] or 0) <= IMPORT_BOUNDS_S[-1]
