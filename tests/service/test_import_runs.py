"""Whole imports in short: `python -m bench.import_runs` runs 40,000 rows of each workload, and holds more."""

import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from bench.import_runs import LEAST_SETTLE_S, MOST_POSTS, MOST_TWICE, PLAN_WITHIN, Workload, run_import
from poller.core.errors import Exit
from poller.core.protocols import Clock
from poller.sandbox import Scenario, parse_durations
from poller.sandbox.file_store import DuplicatesBy
from poller.sandbox.reply import SandboxReply, SandboxRequest
from tests.support.simulation import Simulation


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


@pytest.mark.parametrize("refused", ["start", "download"])
async def test_a_wrong_folder_costs_the_trial_alone_and_ends_the_run_with_its_reason(
    tmp_path: Path, clock: Clock, capsys: pytest.CaptureFixture[str], refused: str
) -> None:
    """HubSpot may refuse a folder that is not there in its answer to the start, or only in the task's errors."""
    scenario = Scenario(durations=parse_durations("uniform:1,5"), dead_hosts=frozenset({"cdn.example.com"}))
    simulation, began_at = Simulation(tmp_path, clock, scenario), clock()
    words = b"The folder does not exist"

    def stage(ask: SandboxRequest, reply: SandboxReply) -> SandboxReply:
        if refused == "start" and ask.method == "POST":
            return replace(
                reply, code=404, body=b'{"status":"error","message":"%b","category":"OBJECT_NOT_FOUND"}' % words
            )
        return replace(reply, body=reply.body.replace(b"The file could not be downloaded", words))

    simulation.api.stage = stage
    rows = tmp_path / "rows.csv"
    rows.write_text("url\n" + "".join(f"https://cdn.example.com/{number}.png\n" for number in range(500)))
    options = {"access": "PRIVATE", "folderId": "17"}
    flags = {"input": {"feeds": "imports"}, "imports": {"options": options}}
    assert await simulation.run(rows, flags) is Exit.WORK_LEFT
    stats = simulation.api.stats()
    assert clock() - began_at <= 120
    assert (stats.starts_total <= 20, stats.requests_total <= 100) == (True, True)
    assert "each failed for one reason" in (shown := capsys.readouterr().err)
    assert words.decode() in shown


@pytest.mark.real_time
async def test_a_failure_that_may_pass_is_tried_again_where_the_state_is_in_postgresql(
    tmp_path: Path, postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("poller.engine.retries.WAITS_S", (0.2, 0.4))
    scenario = Scenario(durations=parse_durations("fixed:0"), dead_hosts=frozenset({"cdn.example.com"}))
    simulation = Simulation(tmp_path, time.time, scenario)

    def stage(_ask: SandboxRequest, reply: SandboxReply) -> SandboxReply:
        body = reply.body.replace(b"the server answered 404", b"the server answered 503")
        return replace(reply, body=body.replace(b'["404"]', b'["503"]'))

    simulation.api.stage = stage
    rows = tmp_path / "rows.csv"
    rows.write_text("url\n" + "".join(f"https://cdn.example.com/{number}.png\n" for number in range(6)))
    imports = {"options": {"access": "PRIVATE", "folderPath": "/p"}, "trial": 0, "retries": 2}
    polling = {"policy": "backoff", "first_gap_s": 0.1}
    flags = {"state": postgres_url, "input": {"feeds": "imports"}, "imports": imports, "polling": polling}
    assert await simulation.run(rows, flags) is Exit.NOT_ALL_COMPLETE
    records = simulation.records()
    assert Counter(record["row"].partition("~")[2] for record in records) == {"": 6, "2": 6, "3": 6}
    assert {len(record["earlier"]) for record in records if record["row"].endswith("~3")} == {2}
    assert simulation.api.stats().starts_total == 18
