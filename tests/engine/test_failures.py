"""A reason that dominates brings one early warning, a good run none, and too many failures stop a run if asked for."""

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from poller.core.errors import Exit
from poller.core.model import Kind, Record
from poller.core.protocols import Clock
from poller.core.record import restore
from poller.engine.failures import FEWEST, LATEST, LEAST_SHARE, DominantReason, FailureWatch, at_least
from poller.sandbox import Scenario, parse_durations
from poller.sandbox.reply import SandboxReply, SandboxRequest
from poller.sandbox.scenario import Fate
from tests.support.simulation import Simulation, named

QUICK = Scenario(durations=parse_durations("fixed:0"), fates={}, requests=1000)


def outcome(number: int, reason: str | None) -> Record:
    kind = Kind.COMPLETE if reason is None else Kind.COMPLETE_WITH_ERRORS
    return restore(orjson.dumps({"task_id": f"T{number}"}), kind=kind, reason=reason, seen_at=float(number))


def warnings(reasons: Iterable[str | None], watch: FailureWatch | None = None) -> list[DominantReason]:
    watch = watch or FailureWatch()
    found = [watch.add(outcome(number, reason)) for number, reason in enumerate(reasons)]
    return [warning for warning in found if warning is not None]


def mixed(share: float, count: int, seed: int = 1) -> list[str | None]:
    rng = Random(seed)
    return ["gone" if rng.random() < share else None for _ in range(count)]


# --- when ------------------------------------------------------------------------------------------------------------


def test_a_reason_that_ends_every_task_brings_a_warning_after_fifty() -> None:
    (warning,) = warnings(["gone"] * 200)
    assert (warning.reason, warning.count, warning.outcomes, warning.share) == ("gone", FEWEST, FEWEST, 1.0)
    assert warning.samples == ("T0", "T1", "T2")


@pytest.mark.parametrize(("share", "within"), [(0.6, 60), (0.4, 150), (0.3, 600)])
def test_the_smaller_the_share_the_longer_it_takes_to_be_sure(share: float, within: int) -> None:
    late = [seed for seed in range(40) if not warnings(mixed(share, within, seed))]
    assert len(late) <= 6


@pytest.mark.parametrize(
    ("failed", "trial", "warned_at"), [(20, 20, 20), (10, 20, 20), (9, 20, None), (5, 5, 5), (1, 1, None)]
)
def test_the_outcomes_of_a_trial_are_enough(failed: int, trial: int, warned_at: int | None) -> None:
    watch = FailureWatch(trial=trial)
    found = [watch.add(outcome(n, None)) for n in range(trial - failed)]
    found += [watch.add(outcome(n, "gone")) for n in range(failed)]
    assert [warning.outcomes for warning in found if warning] == ([] if warned_at is None else [warned_at])


async def test_a_trial_of_which_half_fails_is_warned_of_before_the_other_rows_follow(
    tmp_path: Path, clock: Clock, events: Any
) -> None:
    scenario = replace(QUICK, durations=parse_durations("fixed:5"), faults={"start_400": 0.6})
    simulation = Simulation(tmp_path, clock, scenario)
    rows = tmp_path / "rows.csv"
    rows.write_text("url\n" + "".join(f"https://cdn.example.com/{number}.png\n" for number in range(45)))
    imports = {"options": {"access": "PRIVATE", "folderPath": "/p"}}
    await simulation.run(rows, {"input": {"feeds": "imports"}, "imports": imports})
    (warning,) = named(events, "failures.dominated")
    assert warning["outcomes"] < 45


def test_a_reason_that_ends_every_tenth_task_never_dominates() -> None:
    assert not any(warnings(mixed(0.1, 5000, seed)) for seed in range(10))


def test_a_reason_that_begins_late_brings_a_warning_as_early_as_one_at_the_start() -> None:
    (warning,) = warnings([None] * 10_000 + ["gone"] * 120)
    assert warning.at < 10_000 + 110


def test_a_reason_brings_one_warning_while_it_lasts_and_another_when_it_comes_back() -> None:
    watch = FailureWatch()
    held = []
    for reasons, expected in ((["gone"] * 1000, 1), ([None] * LATEST, 0), (["gone"] * 200, 1)):
        assert len(warnings(reasons, watch)) == expected
        held.append(watch.warning is not None)
    assert held == [True, False, True]


def test_two_reasons_that_share_all_failures_bring_two_warnings() -> None:
    assert {warning.reason for warning in warnings(["gone", "slow"] * 200)} == {"gone", "slow"}


@given(st.integers(0, 300), st.integers(1, 300))
def test_the_proven_share_is_below_the_seen_one_and_grows_with_it(count: int, outcomes: int) -> None:
    count = min(count, outcomes)
    assert -1e-12 <= at_least(count, outcomes) <= count / outcomes + 1e-12
    assert at_least(count, outcomes) <= at_least(count * 10, outcomes * 10) + 1e-12


def test_the_share_proven_by_three_in_ten_is_a_fifth_from_two_hundred_on() -> None:
    assert at_least(30, 100) < LEAST_SHARE
    assert at_least(66, 220) > LEAST_SHARE


def test_memory_stays_with_the_latest_outcomes() -> None:
    watch = FailureWatch()
    warnings((f"odd {number}" for number in range(10_000)), watch)
    assert len(watch._counts) == len(watch._samples) == len(watch._latest) == LATEST


# --- stopping --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("stop_at", "reasons", "too_much_at"),
    [
        (0.2, ["gone"] * 300, 100),
        (0.2, [None] * 400 + ["gone"] * 300, 500),
        (0.5, ["gone", None, None] * 200, None),
        (5.0, [None, "gone"] * 50, 10),
        (None, ["gone"] * 300, None),
    ],
)
def test_a_share_stops_from_the_hundredth_outcome_on_and_a_number_when_it_is_reached(
    stop_at: float | None, reasons: list[str | None], too_much_at: int | None
) -> None:
    watch = FailureWatch(stop_at)
    for number, reason in enumerate(reasons, 1):
        watch.add(outcome(number, reason))
        if watch.is_too_much:
            break
    assert (number if watch.is_too_much else None) == too_much_at


# --- in a run --------------------------------------------------------------------------------------------------------


def spoil_every(simulation: Simulation, nth: int) -> None:
    """Make every n-th import end with the same error."""
    errors = [{"category": "DOWNLOAD_FAILED", "message": "The file's server answered 404"}]

    def stage(ask: SandboxRequest, reply: SandboxReply) -> SandboxReply:
        answer = orjson.loads(reply.body) if b'"COMPLETE"' in reply.body else {}
        if not answer or sum(answer["taskId"].encode()) % nth:
            return reply
        return replace(reply, body=orjson.dumps(answer | {"errors": errors, "numErrors": 1, "result": None}))

    simulation.api.stage = stage


async def test_a_run_warns_of_what_dominates_and_continues(tmp_path: Path, clock: Clock, events: list[Any]) -> None:
    simulation = Simulation(tmp_path, clock, QUICK)
    spoil_every(simulation, 2)
    assert await simulation.run(simulation.write_ids(250)) is Exit.NOT_ALL_COMPLETE
    (warning,) = named(events, "failures.dominated")
    assert warning["log_level"] == "warning"
    assert warning["reason"].startswith("DOWNLOAD_FAILED: The file's server answered")
    assert warning["outcomes"] < 150
    finished = {record["task_id"]: record["kind"] for record in simulation.records()}
    assert {finished[task_id] for task_id in warning["samples"]} == {"complete_with_errors"}
    assert [event["event"] for event in events[events.index(warning) :]].count("task.finished") > 100
    assert simulation.service is not None
    assert simulation.service.failures.warning is not None


async def test_a_good_run_brings_no_warning(tmp_path: Path, clock: Clock, events: list[Any]) -> None:
    simulation = Simulation(tmp_path, clock, replace(QUICK, fates={Fate.CANCELED: 0.08}))
    await simulation.run(simulation.write_ids(200), {"stop_on_failures": "20%"})
    assert named(events, "failures.dominated") == []
    assert len(simulation.records()) == 200


async def test_too_many_failures_drain_the_run_and_the_same_command_continues(
    tmp_path: Path, clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    simulation = Simulation(tmp_path, clock, QUICK)
    spoil_every(simulation, 2)
    ids = simulation.write_ids(300)
    assert await simulation.run(ids, {"stop_on_failures": "20%"}) is Exit.WORK_LEFT
    printed = capsys.readouterr().err
    assert "--stop-on-failures" in printed
    assert "most frequent of the latest: DOWNLOAD_FAILED" in printed
    assert 100 <= len(simulation.records()) < 200
    simulation.api.stage = lambda _, reply: reply
    assert await simulation.run(ids, {"stop_on_failures": "20%"}) is Exit.NOT_ALL_COMPLETE
    assert len({record["task_id"] for record in simulation.records()}) == len(simulation.records()) == 300


async def test_a_run_whose_work_is_done_was_not_stopped(tmp_path: Path, clock: Clock) -> None:
    simulation = Simulation(tmp_path, clock, QUICK)
    spoil_every(simulation, 1)
    assert await simulation.run(simulation.write_ids(100), {"stop_on_failures": 0.99}) is Exit.NOT_ALL_COMPLETE
    assert len(simulation.records()) == 100
