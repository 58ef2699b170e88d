"""Imports: URLs in, files out. The simulated HubSpot counts what was started, how often, and what landed."""

import asyncio
from collections import Counter
from collections.abc import Mapping, MutableMapping
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import orjson
import pytest

from poller.cli.commands.report import ReportOptions, write_report
from poller.core.errors import Exit
from poller.core.protocols import Clock
from poller.reports.ledger import imbalances
from poller.sandbox import Outage, Scenario, parse_durations
from tests.support.simulation import Simulation, named, settings_for
from tests.support.site import visited

OPTIONS = {"access": "PRIVATE", "folderPath": "/p"}
QUICK: dict[str, Any] = {"durations": parse_durations("uniform:1,5"), "fates": {}, "latency_s": (0.02, 0.08)}


def scenario(**more: Any) -> Scenario:
    return Scenario(**(QUICK | more))


def flags(**imports: Any) -> dict[str, Any]:
    return {"input": {"feeds": "imports"}, "imports": {"options": OPTIONS, **imports}}


def write_rows(folder: Path, count: int, host: str = "cdn.example.com") -> Path:
    file = folder / "rows.csv"
    lines = [f"https://{host}/{number}.png,{number}" for number in range(count)]
    file.write_text("\n".join(["url,sku", *lines]) + "\n")
    return file


def assert_each_row_has_one_outcome(simulation: Simulation, count: int, kinds: Mapping[str, int] | None = None) -> None:
    records = simulation.records()
    assert Counter(record["ref"]["sku"] for record in records) == Counter(str(number) for number in range(count))
    found = Counter(record["kind"] for record in records)
    assert found == (kinds or {"complete": count})


async def assert_the_ledger_balances(simulation: Simulation) -> None:
    sums = await simulation.sums()
    assert imbalances(sums) == []
    assert sums.starts is not None
    stats = simulation.api.stats()
    assert sums.starts.accepted <= stats.starts_accepted
    assert sums.starts.starts >= stats.starts_total


def posts_by_url(simulation: Simulation) -> dict[str, list[float]]:
    found: dict[str, list[float]] = {}
    for at, url in simulation.api.starts.posts:
        found.setdefault(url, []).append(at)
    return found


async def test_rows_become_files_once_each_within_the_limit(tmp_path: Path, clock: Clock) -> None:
    simulation = Simulation(tmp_path, clock, scenario())
    assert await simulation.run(write_rows(tmp_path, 150), flags()) is Exit.ALL_COMPLETE
    stats = simulation.api.stats()
    assert_each_row_has_one_outcome(simulation, 150)
    assert (stats.starts_total, stats.starts_max, stats.files, stats.files_twice) == (150, 1, 150, 0)
    assert (stats.throttled_total, stats.max_in_window <= 100) == (0, True)
    await assert_the_ledger_balances(simulation)
    record = simulation.records()[0]
    assert (record["starts"], record["existing"], record["earlier"]) == (1, False, [])
    assert record["result"]["path"].startswith("/p/")


async def test_rows_that_were_fed_before_are_duplicates_and_failed_ones_are_started_again(
    tmp_path: Path, clock: Clock
) -> None:
    simulation = Simulation(tmp_path, clock, scenario(dead_hosts=frozenset({"dead.example.com"})))
    rows = tmp_path / "rows.csv"
    rows.write_text("url,sku\nhttps://cdn.example.com/0.png,0\nhttps://dead.example.com/1.png,1\n")
    assert await simulation.run(rows, flags()) is Exit.NOT_ALL_COMPLETE
    again = tmp_path / "again.csv"
    again.write_text(rows.read_text())
    assert await simulation.run(again, flags()) is Exit.NOT_ALL_COMPLETE
    posts = posts_by_url(simulation)
    assert [len(posts[f"https://{host}.example.com/{n}.png"]) for n, host in enumerate(("cdn", "dead"))] == [1, 2]
    failed = [record for record in simulation.records() if record["ref"]["sku"] == "1"]
    assert [record["row"].partition("~")[2] for record in failed] == ["", "2"]
    assert failed[1]["earlier"] == [failed[0]["task_id"]]
    await assert_the_ledger_balances(simulation)
    sums = await simulation.sums()
    assert [(source.tasks, source.duplicates) for source in sums.sources] == [(2, 0), (1, 1)]


async def test_a_file_that_was_imported_with_other_options_starts_nothing_and_its_run_names_that(
    tmp_path: Path, clock: Clock, capsys: pytest.CaptureFixture[str], events: list[MutableMapping[str, Any]]
) -> None:
    simulation = Simulation(tmp_path, clock, scenario())
    rows, other = write_rows(tmp_path, 20), flags(options=OPTIONS | {"folderPath": "/other"})
    assert await simulation.run(rows, flags()) is Exit.ALL_COMPLETE
    assert await simulation.run(rows, flags()) is Exit.ALL_COMPLETE
    capsys.readouterr()
    assert await simulation.run(rows, other) is Exit.NOT_ALL_COMPLETE
    assert simulation.api.stats().starts_total == 20
    assert "of these lines imported with other --set, --key or --column, so that nothing" in capsys.readouterr().err
    assert [event["line"] for event in named(events, "source.options_changed")] == [21]
    assert await simulation.run(rows, flags()) is Exit.ALL_COMPLETE


async def test_a_start_that_is_declined_is_an_outcome_with_hubspots_words(tmp_path: Path, clock: Clock) -> None:
    simulation = Simulation(tmp_path, clock, scenario(faults={"start_400": 0.1}))
    assert await simulation.run(write_rows(tmp_path, 60), flags()) is Exit.NOT_ALL_COMPLETE
    declined = [record for record in simulation.records() if record["kind"] == "not_started"]
    assert len(declined) == simulation.api.stats().faults["start_400"]
    assert {record["errors"][0]["message"] for record in declined} == {"Files of this type cannot be imported."}
    assert {(record["task_id"].partition(":")[0], record["starts"], record["polls"]) for record in declined} == {
        ("start", 1, 0)
    }
    assert_each_row_has_one_outcome(simulation, 60, {"complete": 60 - len(declined), "not_started": len(declined)})
    await assert_the_ledger_balances(simulation)


@pytest.mark.parametrize("fault", ["start_lost", "start_500_done", "start_no_id", "start_hang"])
async def test_a_lost_start_is_repeated_once_it_has_had_time_to_land_and_makes_no_second_file(
    tmp_path: Path, clock: Clock, fault: str
) -> None:
    simulation = Simulation(tmp_path, clock, scenario(faults={fault: 0.15}, hang_s=40))
    assert await simulation.run(write_rows(tmp_path, 80), flags()) is Exit.ALL_COMPLETE
    assert_each_row_has_one_outcome(simulation, 80)
    stats = simulation.api.stats()
    lost = stats.faults[fault]
    assert lost > 0
    assert (stats.files, stats.files_twice, stats.starts_total) == (80, 0, 80 + lost)
    for times in posts_by_url(simulation).values():
        assert len(times) <= 3
        assert all(later - earlier >= 300 for earlier, later in pairwise(times))
    starts = Counter(record["starts"] for record in simulation.records())
    assert sum(count * (posts - 1) for posts, count in starts.items()) == lost
    await assert_the_ledger_balances(simulation)
    sums = (await simulation.sums()).starts
    assert sums is not None
    assert (sums.lost, sums.repeated, sums.accepted, sums.unsure) == (lost, lost, 80, 0)


async def test_a_run_that_waits_for_unsure_rows_logs_until_when(
    tmp_path: Path, clock: Clock, events: list[MutableMapping[str, Any]]
) -> None:
    simulation = Simulation(tmp_path, clock, scenario(faults={"start_no_id": 1.0}))
    assert await simulation.run(write_rows(tmp_path, 1), flags()) is Exit.NOT_ALL_COMPLETE
    first, second, *_ = (at for at, _ in simulation.api.starts.posts)
    assert named(events, "start.lost")[0]["due_in_s"] == pytest.approx(second - first, abs=5)
    silences = [each["due_in_s"] for each in named(events, "run.summarized") if each["due_in_s"] is not None]
    assert len(silences) > 20
    assert second - first - 60 < max(silences) < second - first


async def test_a_start_that_did_not_reach_hubspot_is_unsure_too_and_lands_once(tmp_path: Path, clock: Clock) -> None:
    simulation = Simulation(tmp_path, clock, scenario(faults={"start_before": 0.2, "start_500_undone": 0.1}))
    assert await simulation.run(write_rows(tmp_path, 40), flags()) is Exit.ALL_COMPLETE
    assert_each_row_has_one_outcome(simulation, 40)
    assert simulation.api.stats().files_twice == 0
    await assert_the_ledger_balances(simulation)


async def test_after_three_lost_starts_a_row_ends_as_unknown_and_hold_never_repeats(
    tmp_path: Path, clock: Clock
) -> None:
    simulation = Simulation(tmp_path, clock, scenario(faults={"start_no_id": 1.0}))
    assert await simulation.run(write_rows(tmp_path, 4), flags()) is Exit.NOT_ALL_COMPLETE
    assert_each_row_has_one_outcome(simulation, 4, {"start_unknown": 4})
    assert {len(times) for times in posts_by_url(simulation).values()} == {3}
    assert all("may be there" in record["note"] for record in simulation.records())
    await assert_the_ledger_balances(simulation)
    held = Simulation(tmp_path / "held", clock, scenario(faults={"start_no_id": 1.0}))
    held.folder.mkdir()
    assert await held.run(write_rows(held.folder, 4), flags(unsure="hold")) is Exit.NOT_ALL_COMPLETE
    assert {len(times) for times in posts_by_url(held).values()} == {1}
    assert_each_row_has_one_outcome(held, 4, {"start_unknown": 4})
    await assert_the_ledger_balances(held)


async def test_kills_at_random_instants_lose_no_row_and_double_none_unflagged(tmp_path: Path, clock: Clock) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    simulation = Simulation(folder, clock, scenario(requests=40), one_way_s=(0.01, 0.2))
    rows, kills = write_rows(folder, 60), 0
    async with simulation.serving():
        for seconds in (0.3, 0.7, 1.1, 0.45, 2.3, 0.9, 3.1, 0.25, 1.7, 4.4):
            simulation.seed += 1
            await simulation.run_for(seconds, rows, flags(trial=0))
            kills += 1
        assert await simulation.run(rows, flags(trial=0)) is Exit.ALL_COMPLETE
    assert_each_row_has_one_outcome(simulation, 60)
    assert simulation.api.stats().files_twice == 0
    twice = {url: times for url, times in posts_by_url(simulation).items() if len(times) > 1}
    flagged = {record["ref"]["url"] for record in simulation.records() if record["starts"] > 1}
    assert twice.keys() <= flagged, "each second POST is in its record"
    assert all(later - earlier >= 300 for times in twice.values() for earlier, later in pairwise(times))
    await assert_the_ledger_balances(simulation)


@pytest.mark.parametrize("fault", ["503", "hang"])
async def test_an_outage_leaves_few_rows_unsure_and_no_start_probes_it(
    tmp_path: Path, clock: Clock, fault: str
) -> None:
    outage = Outage(from_s=14, to_s=614, fault=fault)
    simulation = Simulation(tmp_path, clock, scenario(outages=(outage,), hang_s=200))
    began_at = clock()
    in_outage: list[float] = []

    def stage(ask: Any, reply: Any) -> Any:
        if ask.method == "POST" and began_at + 14 <= clock() < began_at + 614:
            in_outage.append(clock() - began_at)
        return reply

    simulation.api.stage = stage
    assert await simulation.run(write_rows(tmp_path, 150), flags()) is Exit.ALL_COMPLETE
    assert 0 < len(in_outage) <= 16 + 5
    assert_each_row_has_one_outcome(simulation, 150)
    assert max(in_outage) < (20 if fault == "503" else 80), "no start probes"
    assert simulation.api.stats().files_twice == 0
    await assert_the_ledger_balances(simulation)


@pytest.mark.parametrize("code", [500, 521])
async def test_a_start_call_that_fails_while_polls_succeed_leaves_few_rows_unsure_and_decides_none(
    tmp_path: Path, clock: Clock, events: list[MutableMapping[str, Any]], code: int
) -> None:
    """Each row was sent at the full pace. Where it is not known whether a start reached HubSpot (500), each ended as
    start_unknown when that lasted; where it did not (521), each was sent again after two seconds."""
    simulation = Simulation(tmp_path, clock, scenario(requests=30))
    began_at, lost = clock(), 0

    def stage(ask: Any, reply: Any) -> Any:
        nonlocal lost
        if ask.method != "POST" or not began_at + 2 <= clock() < began_at + 302:
            return reply
        lost += 1
        return replace(reply, code=code, body=b"")

    simulation.api.stage = stage
    assert await simulation.run(write_rows(tmp_path, 60), flags(trial=0)) is Exit.ALL_COMPLETE
    assert 10 < lost <= 5 + 16 + 10
    assert_each_row_has_one_outcome(simulation, 60)
    (unanswered,), (answered,) = named(events, "start.unanswered"), named(events, "start.answered")
    assert unanswered["reason"] == f"http_{code}"
    assert 290 < answered["after_s"] < 370
    await assert_the_ledger_balances(simulation)


async def test_a_run_gives_up_on_a_start_call_that_fails_though_polls_succeed(tmp_path: Path, clock: Clock) -> None:
    simulation = Simulation(tmp_path, clock, scenario(faults={"start_500_undone": 1.0}))
    began_at = clock()
    assert await simulation.run(write_rows(tmp_path, 60), flags() | {"give_up_s": 300}) is Exit.UNREACHABLE
    assert clock() - began_at < 400
    assert simulation.records() == []


async def test_an_outage_before_the_first_answer_is_probed_by_polls_alone(tmp_path: Path, clock: Clock) -> None:
    simulation = Simulation(tmp_path, clock, scenario(outages=(Outage(from_s=0, to_s=120, fault="503"),)))
    assert await simulation.run(write_rows(tmp_path, 30), flags()) is Exit.ALL_COMPLETE
    assert_each_row_has_one_outcome(simulation, 30)
    assert max(len(times) for times in posts_by_url(simulation).values()) == 1, "none reached it in the outage"


async def test_a_trial_that_fails_for_one_reason_ends_the_run_before_the_other_rows(
    tmp_path: Path, clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    simulation = Simulation(tmp_path, clock, scenario(dead_hosts=frozenset({"dead.example.com"})))
    began_at = clock()
    assert await simulation.run(write_rows(tmp_path, 2000, "dead.example.com"), flags()) is Exit.WORK_LEFT
    stats = simulation.api.stats()
    assert clock() - began_at <= 120
    assert stats.starts_total <= 20
    assert stats.requests_total <= 100
    assert "each failed for one reason, VALIDATION_ERROR: The file could not be downloaded" in capsys.readouterr().err


async def test_a_trial_of_declined_rows_ends_the_run_too(tmp_path: Path, clock: Clock) -> None:
    simulation, began_at = Simulation(tmp_path, clock, scenario(faults={"start_400": 1.0})), clock()
    assert await simulation.run(write_rows(tmp_path, 500), flags()) is Exit.WORK_LEFT
    assert clock() - began_at <= 120
    assert simulation.api.stats().starts_total == simulation.api.stats().requests_total <= 20


async def test_while_rows_wait_the_limit_is_used_and_never_passed(tmp_path: Path, clock: Clock) -> None:
    simulation = Simulation(tmp_path, clock, scenario())
    asked_at: list[tuple[float, str]] = []

    def stage(ask: Any, reply: Any) -> Any:
        asked_at.append((clock(), ask.method))
        return reply

    simulation.api.stage, began_at = stage, clock()
    assert await simulation.run(write_rows(tmp_path, 300), flags(trial=0)) is Exit.ALL_COMPLETE
    last_start_at = max(at for at, method in asked_at if method == "POST")
    used = sum(at <= last_start_at for at, _ in asked_at) / (10 * (last_start_at - began_at))
    assert used >= 0.97
    stats = simulation.api.stats()
    assert (stats.throttled_total, stats.max_in_window) == (0, 100)


@pytest.mark.parametrize("ahead_h", [8.0, -8.0])
async def test_imports_that_were_just_started_are_not_hours_old_where_clocks_differ(
    tmp_path: Path, clock: Clock, ahead_h: float
) -> None:
    """With this machine's clock eight hours ahead of HubSpot's, each row was polled once in ten minutes."""
    simulation = Simulation(tmp_path, clock, scenario())
    simulation.clock = lambda: clock() + ahead_h * 3600
    began_at = clock()
    assert await simulation.run(write_rows(tmp_path, 30), flags()) is Exit.ALL_COMPLETE
    assert clock() - began_at < 90
    assert_each_row_has_one_outcome(simulation, 30)


async def test_no_more_than_allowed_are_under_way_at_once(tmp_path: Path, clock: Clock) -> None:
    simulation = Simulation(tmp_path, clock, scenario(durations=parse_durations("fixed:60")))
    most = 0

    def stage(ask: Any, reply: Any) -> Any:
        nonlocal most
        stats = simulation.api.stats()
        most = max(most, stats.starts_accepted - stats.files)
        return reply

    simulation.api.stage = stage
    assert await simulation.run(write_rows(tmp_path, 90), flags(underway=30, trial=0)) is Exit.ALL_COMPLETE
    assert 25 <= most <= 30 + 12, "files that landed count until their outcome is seen"


async def test_a_stray_id_is_not_taken_for_the_rows(tmp_path: Path, clock: Clock) -> None:
    simulation = Simulation(tmp_path, clock, scenario())
    first: list[bytes] = []

    def stage(ask: Any, reply: Any) -> Any:
        if ask.method == "POST" and not first:
            first.append(reply.body)
        elif ask.method == "POST" and len(first) == 1:
            first.append(b"")
            return replace(reply, body=first[0])
        return reply

    simulation.api.stage = stage
    assert await simulation.run(write_rows(tmp_path, 12), flags()) is Exit.ALL_COMPLETE
    assert_each_row_has_one_outcome(simulation, 12)
    assert simulation.api.stats().files_twice == 0
    assert sorted(Counter(record["starts"] for record in simulation.records()).items()) == [(1, 11), (2, 1)]


async def test_polls_go_before_starts_so_that_outcomes_come_early(tmp_path: Path, clock: Clock) -> None:
    simulation = Simulation(tmp_path, clock, scenario(durations=parse_durations("fixed:5")))
    async with asyncio.TaskGroup() as group:
        running = group.create_task(simulation.run(write_rows(tmp_path, 1500), flags()))
        await asyncio.sleep(20)
        assert len(simulation.records()) > 0
        simulation.drain()
        await running


async def test_a_row_that_waits_for_its_slot_is_not_unsure_after_a_kill(tmp_path: Path, clock: Clock) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    simulation = Simulation(folder, clock, scenario(requests=2, window_s=60.0))
    rows = write_rows(folder, 30)
    async with simulation.serving():
        await simulation.run_for(30, rows, flags(trial=0) | {"requests": 2, "window_s": 60.0})
    starts = (await simulation.sums()).starts
    assert starts is not None
    assert (starts.starts, starts.unsure, starts.unstarted) == (1, 0, 29)


async def test_a_storage_that_is_full_pauses_the_account_and_ends_no_row(
    tmp_path: Path, clock: Clock, events: Any
) -> None:
    simulation = Simulation(tmp_path, clock, scenario(faults={"start_403_storage": 1.0}))
    async with asyncio.TaskGroup() as group:
        running = group.create_task(simulation.run(write_rows(tmp_path, 30), flags() | {"follow": True}))
        await asyncio.sleep(300)
        simulation.drain()
        await running
    (paused,) = {event["pause"]: event["detail"] for event in named(events, "lane.paused")}.items()
    assert paused[0] == "import_refused"
    assert "The account has reached its limit of file storage" in paused[1]
    starts = (await simulation.sums()).starts
    assert starts is not None
    assert (starts.unstarted, starts.unsure) == (30, 0)
    assert starts.refused == simulation.api.stats().starts_total < 20


async def test_a_failure_that_may_pass_is_tried_again_later_as_often_as_asked(tmp_path: Path, clock: Clock) -> None:
    simulation = Simulation(tmp_path, clock, scenario(dead_hosts=frozenset({"cdn.example.com"})))
    simulation.api.stage = _with_server_error
    assert await simulation.run(write_rows(tmp_path, 6), flags(trial=0, retries=2)) is Exit.NOT_ALL_COMPLETE
    for times in posts_by_url(simulation).values():
        first, second, third = times
        assert 120 <= second - first <= 200
        assert 1200 <= third - second <= 1600
    assert Counter(record["row"].partition("~")[2] for record in simulation.records()) == {"": 6, "2": 6, "3": 6}
    assert simulation.service is not None
    hosts = simulation.service.history.hosts
    assert [(each.landed, each.not_landed) for each in hosts.hosts.values()] == [(0, 6)], "rows, not attempts"
    assert (await simulation.sums()).tried_again == 12
    await assert_the_ledger_balances(simulation)


async def test_a_failure_that_lasts_or_dominates_is_not_tried_again(tmp_path: Path, clock: Clock) -> None:
    lasting = Simulation(tmp_path, clock, scenario(dead_hosts=frozenset({"cdn.example.com"})))
    assert await lasting.run(write_rows(tmp_path, 6), flags(trial=0, retries=2)) is Exit.NOT_ALL_COMPLETE
    assert lasting.api.stats().starts_total == 6
    folder = tmp_path / "dominant"
    folder.mkdir()
    dominant = Simulation(folder, clock, scenario(dead_hosts=frozenset({"cdn.example.com"})))
    dominant.api.stage = _with_server_error
    assert await dominant.run(write_rows(folder, 150), flags(trial=0, retries=1)) is Exit.NOT_ALL_COMPLETE
    assert dominant.api.stats().starts_total < 250
    await assert_the_ledger_balances(dominant)


@pytest.mark.parametrize("key", [None, "sku"])
async def test_report_resubmit_and_import_bring_every_row_to_land(
    tmp_path: Path, clock: Clock, capsys: pytest.CaptureFixture[str], key: str | None
) -> None:
    """Without any option: what was sent is sent again, as another attempt at the same row."""
    simulation = Simulation(tmp_path, clock, scenario(dead_hosts=frozenset({"cdn.example.com"})))
    rows = tmp_path / "rows.csv"
    rows.write_text("url,sku\n" + "".join(f"https://cdn.example.com/{n}.png,{n}\n" for n in range(8)))
    simulation.api.stage = _with_server_error
    options = {"access": "PRIVATE", "folderPath": "/p/{sku}", "name": "{sku}"}
    assert await simulation.run(rows, flags(options=options, key=key)) is Exit.NOT_ALL_COMPLETE
    await write_report(settings_for(tmp_path), ReportOptions(resubmit=tmp_path / "again.jsonl"), clock)
    healed = Simulation(tmp_path, clock, scenario(seed=2))
    assert await healed.run(tmp_path / "again.jsonl", flags(options={}, key=key)) is Exit.ALL_COMPLETE
    landed = {record["ref"]["sku"]: record for record in healed.records() if record["landed"]}
    assert {sku: record["result"]["path"] for sku, record in landed.items()} == {
        f"{n}": f"/p/{n}/{n}.png" for n in range(8)
    }
    assert all(record["row"].endswith("~2") and len(record["earlier"]) == 1 for record in landed.values())
    assert imbalances(await healed.sums()) == []


@pytest.mark.parametrize("from_files", [False, True])
async def test_what_was_tried_again_is_not_offered_for_resubmission(
    tmp_path: Path, clock: Clock, capsys: pytest.CaptureFixture[str], from_files: bool
) -> None:
    simulation = Simulation(tmp_path, clock, scenario(dead_hosts=frozenset({"cdn.example.com"})))
    simulation.api.stage = _with_server_error
    assert await simulation.run(write_rows(tmp_path, 4), flags()) is Exit.NOT_ALL_COMPLETE
    again = tmp_path / "again.csv"
    again.write_text("\n".join((tmp_path / "rows.csv").read_text().splitlines()[:4]) + "\n")  # three of the four
    assert await Simulation(tmp_path, clock, scenario(seed=2)).run(again, flags()) is Exit.ALL_COMPLETE
    capsys.readouterr()
    options = ReportOptions(files=(tmp_path / "finished.jsonl",) if from_files else ())
    await write_report(settings_for(tmp_path), options, clock)
    text = capsys.readouterr().out
    assert "3 landed · 1 did not · 3 earlier attempts, tried again" in text
    assert "1 of those not complete can be retried" in text
    await write_report(settings_for(tmp_path), replace(options, resubmit=tmp_path / "bodies.jsonl"), clock)
    assert [orjson.loads(line)["url"] for line in (tmp_path / "bodies.jsonl").read_bytes().splitlines()] == [
        "https://cdn.example.com/3.png"
    ]
    assert (tmp_path / "bodies.rest.jsonl").read_text().count("its row was tried again") == 3


async def test_the_download_of_bodies_leaves_out_what_was_tried_again(tmp_path: Path, clock: Clock) -> None:
    simulation = Simulation(tmp_path, clock, scenario(dead_hosts=frozenset({"cdn.example.com"})))
    simulation.api.stage = _with_server_error
    assert await simulation.run(write_rows(tmp_path, 4), flags()) is Exit.NOT_ALL_COMPLETE
    again = tmp_path / "again.csv"
    again.write_text("\n".join((tmp_path / "rows.csv").read_text().splitlines()[:4]) + "\n")
    assert await Simulation(tmp_path, clock, scenario(seed=2)).run(again, flags()) is Exit.ALL_COMPLETE
    async with visited(simulation) as session, session.get("/v1/resubmit") as response:
        bodies = [orjson.loads(line) for line in (await response.read()).splitlines()]
    assert [body["url"] for body in bodies] == ["https://cdn.example.com/3.png"]


def _with_server_error(_ask: Any, reply: Any) -> Any:
    """Let the file's server answer 503, which passes, instead of 404."""
    body = reply.body.replace(b"the server answered 404", b"the server answered 503")
    return replace(reply, body=body.replace(b'["404"]', b'["503"]'))


@pytest.mark.parametrize("share", [1.0, 0.7])
async def test_a_trial_whose_starts_get_no_answer_repeats_them_and_ends(
    tmp_path: Path, clock: Clock, events: list[MutableMapping[str, Any]], share: float
) -> None:
    """No other row may go while the trial lasts: where its own unsure rows did not either, the run waited forever."""
    simulation = Simulation(tmp_path, clock, scenario(faults={"start_no_id": share}))
    async with asyncio.timeout(6 * 3600):
        code = await simulation.run(write_rows(tmp_path, 60), flags())
    records = simulation.records()
    stats = simulation.api.stats()
    assert stats.files_twice == 0
    if share == 1.0:
        assert code is Exit.WORK_LEFT
        assert Counter(record["kind"] for record in records) == {"start_unknown": 20}
        assert (stats.starts_total, len(named(events, "import.trial_failed"))) == (60, 1)
        silences = [each["due_in_s"] for each in named(events, "run.summarized") if each["due_in_s"] is not None]
        assert max(silences) > 600
    else:
        assert code in (Exit.ALL_COMPLETE, Exit.NOT_ALL_COMPLETE)
        assert len(named(events, "import.trial_passed")) == 1
        assert len(records) == 60
    await assert_the_ledger_balances(simulation)


async def test_unsure_rows_of_a_trial_count_after_each_restart_and_are_repeated_by_the_last_run(
    tmp_path: Path, clock: Clock, events: list[MutableMapping[str, Any]]
) -> None:
    """Each restart started as many rows more: those whose answer was lost are no tasks, and so not under way."""
    folder = tmp_path / "run"
    folder.mkdir()
    simulation = Simulation(folder, clock, scenario(faults={"start_no_id": 1.0}))
    rows = write_rows(folder, 100)
    async with simulation.serving(), asyncio.timeout(6 * 3600):
        for _ in range(3):
            await simulation.run_for(40, rows, flags())
        assert simulation.api.stats().starts_total == 20
        assert await simulation.run(rows, flags()) is Exit.WORK_LEFT
    assert Counter(record["kind"] for record in simulation.records()) == {"start_unknown": 20}
    posts = posts_by_url(simulation).values()
    assert {len(times) for times in posts} == {3}
    assert all(later - earlier >= 300 for times in posts for earlier, later in pairwise(times))
    assert len(named(events, "import.trial_failed")) == 1
    await assert_the_ledger_balances(simulation)
