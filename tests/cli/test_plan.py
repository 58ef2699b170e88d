"""`poller plan`: what a run would take, held against what it then took."""

import re
from pathlib import Path
from typing import Any

import orjson
import pytest

from poller.cli.commands.plan import print_plan
from poller.core.errors import ConfigError, Exit, StoreUnusable
from poller.core.protocols import Clock
from poller.sandbox import Scenario, parse_durations
from tests.support.simulation import Simulation, settings_for
from tests.support.virtual import loop_time

DAY = 1_767_571_200.0  # 2026-01-05T00:00:00Z


async def planned(
    folder: Path, ids: Path, capsys: pytest.CaptureFixture[str], durations: str | None = None, **flags: Any
) -> tuple[Exit, Any]:
    capsys.readouterr()
    code = await print_plan(settings_for(folder, flags), [str(ids)], durations=durations, as_json=True, now=DAY)
    return code, orjson.loads(capsys.readouterr().out)


@pytest.mark.parametrize(
    ("durations", "count", "seed"),
    [("uniform:5,60", 400, 3), ("uniform:10,300", 200, 7), ("mix:0.9@uniform:2,20,0.1@uniform:200,300", 400, 5)],
)
async def test_a_plan_is_within_a_tenth_of_what_the_run_then_takes(
    tmp_path: Path, clock: Clock, capsys: pytest.CaptureFixture[str], durations: str, count: int, seed: int
) -> None:
    simulation = Simulation(tmp_path, clock, Scenario(seed=seed, durations=parse_durations(durations), fates={}))
    ids = simulation.write_ids(count)
    _, plan = await planned(tmp_path, ids, capsys, durations)
    (account,) = plan["accounts"]
    await simulation.run(ids)
    assert account["lasts_s"] == pytest.approx(loop_time(), rel=0.1)
    assert account["polls"] == pytest.approx((await simulation.sums()).polls, rel=0.1)


@pytest.mark.parametrize(
    ("durations", "count", "seed"), [("uniform:5,60", 300, 3), ("mix:0.9@uniform:2,20,0.1@uniform:200,300", 300, 5)]
)
async def test_the_plan_of_an_import_is_within_a_tenth_of_its_requests_and_its_time(
    tmp_path: Path, clock: Clock, capsys: pytest.CaptureFixture[str], durations: str, count: int, seed: int
) -> None:
    simulation = Simulation(tmp_path, clock, Scenario(seed=seed, durations=parse_durations(durations), fates={}))
    rows = tmp_path / "rows.csv"
    lines = [f"https://cdn.example.com/{number}.png" for number in [*range(count), 0]]
    rows.write_text("\n".join(["url", *lines, "nothing"]) + "\n")
    feeds = {"feeds": "imports"}
    _, plan = await planned(tmp_path, rows, capsys, durations, input=feeds)
    assert (plan["lines"], plan["tasks"], plan["duplicates"], plan["rejected"]) == (count + 3, count, 1, 1)
    (account,) = plan["accounts"]
    options = {"access": "PRIVATE", "folderPath": "/p"}
    await simulation.run(rows, {"input": feeds, "imports": {"options": options}})
    sums = await simulation.sums()
    assert sums.starts is not None
    assert account["starts"] == count
    assert account["starts"] + account["polls"] == pytest.approx(sums.starts.starts + sums.polls, rel=0.1)
    assert account["lasts_s"] == pytest.approx(loop_time(), rel=0.1)


async def test_of_a_file_that_was_worked_on_before_the_plan_counts_what_is_left(
    tmp_path: Path, clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    simulation = Simulation(tmp_path, clock, Scenario(durations=parse_durations("uniform:5,60"), fates={}))
    ids = simulation.write_ids(150)
    await simulation.run_for(30, ids)
    left = (await simulation.sums()).waiting
    assert 0 < left < 150
    _, plan = await planned(tmp_path, ids, capsys)
    assert (plan["lines"], plan["ended"], plan["tasks"]) == (151, 150 - left, left)
    await print_plan(settings_for(tmp_path, {}), [str(ids)], durations=None, as_json=False, now=DAY)
    text = capsys.readouterr().out.splitlines()
    assert text[:2] == [
        "input      150 tasks, 0 duplicates, 0 rejected lines",
        f"state      {150 - left:,} have their outcome: {left:,} are left",
    ]
    await simulation.run(ids)
    code, plan = await planned(tmp_path, ids, capsys)
    assert (code, plan["tasks"], plan["ended"], plan["accounts"]) == (Exit.ALL_COMPLETE, 0, 150, [])


@pytest.mark.parametrize("key", [None, "sku"])
async def test_of_rows_that_were_imported_in_part_those_that_are_under_way_are_only_polled(
    tmp_path: Path, clock: Clock, capsys: pytest.CaptureFixture[str], key: str | None
) -> None:
    scenario = Scenario(durations=parse_durations("uniform:5,60"), fates={}, faults={"start_lost": 0.2})
    simulation = Simulation(tmp_path, clock, scenario)
    rows = tmp_path / "rows.csv"
    rows.write_text("url,sku\n" + "".join(f"https://cdn.example.com/{n}.png,{n}\n" for n in range(300)))
    imports = {"options": {"access": "PRIVATE", "folderPath": "/p"}, "trial": 0, "key": key}
    flags: dict[str, Any] = {"input": {"feeds": "imports"}, "imports": imports}
    await simulation.run_for(20, rows, flags)
    before = await simulation.sums()
    assert before.starts is not None
    _, plan = await planned(tmp_path, rows, capsys, "uniform:5,60", **flags)
    (account,) = plan["accounts"]
    assert (plan["ended"], plan["tasks"]) == (before.finished, before.waiting)
    assert min(before.finished, before.starts.underway, before.starts.unstarted) > 0
    to_start = before.starts.unstarted + before.starts.unsure
    assert to_start < account["starts"] < to_start * 1.4, "some answers are lost, and their starts repeated"
    assert account["lasts_s"] > 1500, "those whose answer was lost wait twenty minutes, and some of them again"


async def test_a_plan_is_based_on_what_the_state_has_learned_of_the_account(
    tmp_path: Path, clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    simulation = Simulation(tmp_path, clock, Scenario(seed=6, durations=parse_durations("uniform:30,60"), fates={}))
    await simulation.run(simulation.write_ids(400))
    ids, began, polls = simulation.write_ids(300), loop_time(), (await simulation.sums()).polls
    _, plan = await planned(tmp_path, ids, capsys)
    (account,) = plan["accounts"]
    await simulation.run(ids)
    assert "400 finished tasks" in account["based_on"]
    assert account["lasts_s"] == pytest.approx(loop_time() - began, rel=0.25)
    assert account["polls"] == pytest.approx((await simulation.sums()).polls - polls, rel=0.25)


async def test_a_plan_that_does_not_fit_into_the_day_has_how_many_tasks_would(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ids = tmp_path / "ids.txt"
    ids.write_text("".join(f"AAAA{number}\n" for number in range(1000)) + "AAAA1\nnot an id\n")
    code, plan = await planned(tmp_path, ids, capsys, "fixed:5", daily_limit=1000)
    (account,) = plan["accounts"]
    assert code is Exit.NOT_ALL_COMPLETE
    assert (plan["tasks"], plan["duplicates"], plan["rejected"], plan["fits"]) == (1000, 1, 1, False)
    assert account["quota"] == 900
    assert 400 <= account["tasks_that_fit"] <= 900
    assert account["ends_at"] >= "2026-01-06T"  # it waits for the account's midnight
    code, plan = await planned(tmp_path, ids, capsys, "fixed:5", daily_limit=10_000)
    assert (code, plan["fits"]) == (Exit.ALL_COMPLETE, True)


async def test_the_text_has_a_line_for_each_number(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ids = tmp_path / "ids.txt"
    ids.write_text("".join(f"AAAA{number}\n" for number in range(50)))
    settings = settings_for(tmp_path, {"daily_limit": 40})
    code = await print_plan(settings, [str(ids)], durations=None, as_json=False, now=DAY)
    text = capsys.readouterr().out
    assert code is Exit.NOT_ALL_COMPLETE
    assert [line.split()[0] for line in text.splitlines()] == (
        ["input", "account", "limit", "polls", "time", "lateness", "based", "quota", "NO"]
    )


async def test_without_limits_and_a_state_the_plan_names_its_assumptions_and_is_rounded(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ids = tmp_path / "ids.txt"
    ids.write_text("".join(f"AAAA{number}\n" for number in range(50)))
    await print_plan(settings_for(tmp_path), [str(ids)], durations=None, as_json=False, now=DAY)
    text = capsys.readouterr().out
    assert "100 requests per 10 s, assumed; HubSpot's answers will show the account's own" in text
    assert "an assumption: half of the imports take under 30 s" in text
    assert re.search(r"finished at about 2026-01-05 00:\d\d UTC\n", text)
    assert re.search(r"polls      about \d\d0,", text)


async def test_a_plan_after_a_run_uses_the_limit_that_the_answers_showed(
    tmp_path: Path, clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    scenario = Scenario(durations=parse_durations("fixed:1"), requests=100, window_s=2.0)
    simulation = Simulation(tmp_path, clock, scenario)
    await simulation.run(simulation.write_ids(30))
    ids = simulation.write_ids(30)
    _, plan = await planned(tmp_path, ids, capsys)
    (account,) = plan["accounts"]
    assert account["limit_from"] == "100 requests per 2 s, as HubSpot's answers showed in an earlier run"
    assert account["per_second"] == pytest.approx(47.6, rel=0.02)
    _, plan = await planned(tmp_path, ids, capsys, requests=20, window_s=10)
    assert plan["accounts"][0]["limit_from"] == "20 requests per 10 s, as set"


async def test_durations_that_cannot_be_read_are_a_wrong_setting(tmp_path: Path) -> None:
    ids = tmp_path / "ids.txt"
    ids.write_text("AAAA1\n")
    with pytest.raises(ConfigError, match="--durations"):
        await print_plan(settings_for(tmp_path), [str(ids)], durations="often", as_json=False, now=DAY)


async def test_a_state_that_cannot_be_read_is_an_error_and_one_that_is_not_there_is_empty(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ids = tmp_path / "ids.txt"
    ids.write_text("AAAA1\n")
    with pytest.raises(StoreUnusable, match="is not a poller state"):
        await planned(tmp_path, ids, capsys, state=f"sqlite:///{ids}")
    with pytest.raises(StoreUnusable, match="Check that the server runs"):
        await planned(tmp_path, ids, capsys, state="postgresql://127.0.0.1:1/poller")
    code, plan = await planned(tmp_path, ids, capsys, state=f"sqlite:///{tmp_path}/none.db")
    assert (code, plan["tasks"]) == (Exit.ALL_COMPLETE, 1)


async def test_more_tasks_than_are_simulated_take_their_share_of_the_limit(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ids = tmp_path / "ids.txt"
    ids.write_text("".join(f"AAAA{number}\n" for number in range(40_000)))
    _, plan = await planned(tmp_path, ids, capsys, "fixed:1")
    (account,) = plan["accounts"]
    assert account["lasts_s"] == pytest.approx(4050, rel=0.03)
    assert account["polls"] == pytest.approx(40_000, rel=0.03)
