"""Whole imports in short: `python -m bench.import_runs` runs 40,000 rows of each workload, and holds more."""

from pathlib import Path

import pytest

from bench.import_runs import LEAST_SETTLE_S, MOST_POSTS, MOST_TWICE, PLAN_WITHIN, Workload, run_import
from poller.core.protocols import Clock
from poller.sandbox.file_store import DuplicatesBy


@pytest.mark.parametrize("duplicates_by", ["content", "name", "never"])
async def test_of_starts_whose_answer_was_lost_few_are_files_twice_and_each_is_listed(
    tmp_path: Path, clock: Clock, duplicates_by: DuplicatesBy
) -> None:
    workload = Workload(rows=200, durations="lognormal:5,0.5", lost=0.08, duplicates_by=duplicates_by)
    run = await run_import(tmp_path, clock, workload)
    assert (run.kinds, run.imbalances, run.throttled) == ({"complete": 200}, (), 0)
    assert run.lost >= 8
    if duplicates_by == "never":
        assert 0 < run.files_twice <= run.lost
    else:
        assert run.files_twice <= MOST_TWICE * run.lost
    assert run.unlisted == 0, "each second start, and each second file, is in a record"
    assert run.most_posts <= MOST_POSTS
    assert run.shortest_repeat_s is not None
    assert run.shortest_repeat_s >= LEAST_SETTLE_S


async def test_the_plan_of_an_import_is_right_in_requests_and_hours(tmp_path: Path, clock: Clock) -> None:
    run = await run_import(tmp_path, clock, Workload(rows=300, durations="lognormal:5,0.5"))
    requests_off, hours_off = run.plan_off()
    assert (abs(requests_off) <= PLAN_WITHIN, abs(hours_off) <= PLAN_WITHIN) == (True, True), (requests_off, hours_off)
    assert run.exit_code == 0
