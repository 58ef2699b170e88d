"""`poller list`: tasks by filter, on a running and on a finished state."""

import asyncio
import csv
import io
from collections import Counter
from dataclasses import replace
from pathlib import Path

import orjson
import pytest
from typer.testing import CliRunner

from poller.cli.app import app
from poller.cli.commands.list_tasks import print_tasks
from poller.cli.options import ListFormat
from poller.core.errors import Exit
from poller.core.protocols import Clock
from poller.core.search import TaskFilter
from poller.sandbox import Fate, Scenario, parse_durations
from tests.support.simulation import Simulation, settings_for

SOME_FAIL = Scenario(seed=3, fates={Fate.CANCELED: 0.3}, durations=parse_durations("fixed:5"))


@pytest.fixture
async def simulation(tmp_path: Path, clock: Clock) -> Simulation:
    return Simulation(tmp_path, clock, SOME_FAIL)


async def test_waiting_tasks_are_listed_during_a_run(
    simulation: Simulation, capsys: pytest.CaptureFixture[str]
) -> None:
    ids = simulation.write_ids(5)
    fed = [line.split(",")[0] for line in ids.read_text().splitlines()[1:]]
    async with asyncio.TaskGroup() as group:
        group.create_task(simulation.run(ids))
        await asyncio.sleep(2)
        capsys.readouterr()
        await print_tasks(settings_for(simulation.folder), TaskFilter(state="waiting"), ListFormat.IDS)
        printed = capsys.readouterr()
    assert printed.out.splitlines() == fed
    assert printed.err == "5 tasks\n"


async def test_each_format_has_all_that_match(simulation: Simulation, capsys: pytest.CaptureFixture[str]) -> None:
    await simulation.run(simulation.write_ids(700))
    expected = {record["task_id"] for record in simulation.records() if not record["landed"]}
    wanted, settings = TaskFilter(landed=False), settings_for(simulation.folder)
    outputs = {}
    for written_as in ListFormat:
        capsys.readouterr()
        assert await print_tasks(settings, wanted, written_as, 5 if written_as is ListFormat.TABLE else None) == 0
        outputs[written_as] = capsys.readouterr()
    assert set(outputs[ListFormat.IDS].out.splitlines()) == expected
    assert {orjson.loads(line)["task_id"] for line in outputs[ListFormat.JSONL].out.splitlines()} == expected
    rows = csv.DictReader(io.StringIO(outputs[ListFormat.CSV].out.removeprefix("\ufeff")))
    assert {row["task_id"] for row in rows} == expected
    lines = outputs[ListFormat.TABLE].out.splitlines()
    assert lines[0].split() == ["TASK", "ACCOUNT", "OUTCOME", "LANDED", "POLLS", "FILE", "REASON"]
    assert len(lines) == 6
    assert outputs[ListFormat.TABLE].err == "5 tasks; there may be more, --limit N lists them\n"
    assert outputs[ListFormat.IDS].err == f"{len(expected):,} tasks\n"


@pytest.mark.parametrize("flags", [["--kind", "failed"], ["--limit", "0"], ["--format", "xml"], ["--since", "soon"]])
def test_a_wrong_flag_is_a_wrong_command_line(flags: list[str], tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["list", *flags, "--state", f"sqlite:///{tmp_path}/none.db"])
    assert result.exit_code == Exit.USAGE


def test_the_instant_of_since_is_shown_with_its_zone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "Europe/Berlin")
    import time

    time.tzset()
    result = CliRunner().invoke(
        app, ["list", "--since", "2026-11-27 01:00", "--state", f"sqlite:///{tmp_path}/none.db"]
    )
    monkeypatch.undo()
    time.tzset()
    assert "since 2026-11-27 01:00:00 CET (00:00:00 UTC)" in result.stderr
    assert result.exit_code == Exit.CANNOT_CREATE


async def test_rows_that_are_not_started_are_listed_behind_the_tasks(
    tmp_path: Path, clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    simulation = Simulation(tmp_path, clock, replace(SOME_FAIL, faults={"start_lost": 0.2}))
    rows = tmp_path / "rows.csv"
    rows.write_text("url\n" + "".join(f"https://cdn.example.com/{number:02}.png\n" for number in range(30)))
    flags = {"input": {"feeds": "imports"}, "imports": {"options": {"access": "PRIVATE", "folderPath": "/p"}}}
    await simulation.run_for(3, rows, flags)
    starts = (await simulation.sums()).starts
    assert starts is not None
    assert min(starts.unstarted, starts.unsure, starts.underway) > 0
    capsys.readouterr()
    await print_tasks(settings_for(tmp_path), TaskFilter(state="waiting", host="cdn.example.com"))
    outcomes = [line.split()[2] for line in capsys.readouterr().out.splitlines()[1:]]
    assert outcomes[: starts.underway] == ["waiting"] * starts.underway
    assert Counter(outcomes) == {"waiting": starts.underway, "unsure": starts.unsure, "unstarted": starts.unstarted}
    await print_tasks(settings_for(tmp_path), TaskFilter(state="unsure"), ListFormat.IDS)
    printed = capsys.readouterr()
    which = f"{starts.unsure} of them are rows" if starts.unsure > 1 else "1 of them is a row"
    assert printed.out == ""
    assert printed.err.endswith(f"; {which} without an id yet, which --format jsonl lists\n")


def test_two_states_at_once_are_refused() -> None:
    result = CliRunner().invoke(app, ["list", "--unsure", "--waiting"])
    assert result.exit_code == 2
    assert "give one of --waiting, --unsure" in result.output
