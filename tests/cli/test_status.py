"""`poller status --json` and `--watch`: a stable shape for programs, and lines or a redrawn screen for people."""

import asyncio
import re
import signal
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import orjson
import pytest
from typer.testing import CliRunner

from poller.cli.app import app
from poller.cli.commands.status import print_status, watch_status
from poller.core.accounts import AccountState
from poller.core.errors import Exit
from poller.core.protocols import Clock
from poller.core.sums import SinkSums, StartSums, Sums
from poller.reports.fleet import FleetSnapshot, MemberView
from poller.reports.status import AccountView, LedgerView, ReasonCount, RunningProcess, status_line
from poller.reports.task import PollView, TaskView
from poller.sandbox import Scenario, parse_durations
from tests.support.processes import run_here, running, wait_until
from tests.support.simulation import Simulation, settings_for

SLOW = Scenario(durations=parse_durations("uniform:5,60"), fates={}, requests=1000)
KEYS = {
    "at", "balanced", "differences", "tasks", "waiting", "finished", "complete", "kinds", "landed", "pruned", "polls",
    "polls_per_task", "sources", "sinks", "accounts", "reasons", "run", "starts", "fleet", "tried_again",
}  # fmt: skip


ANSWERS = (Path(__file__).parents[2] / "docs" / "answers.md").read_text("utf-8")


@pytest.mark.parametrize(
    "shape",
    [LedgerView, AccountView, StartSums, RunningProcess, ReasonCount, FleetSnapshot, MemberView, TaskView, PollView],
)
def test_the_documented_keys_are_those_of_the_code(shape: Any) -> None:
    documented = set(re.findall(r"`([a-z_]+)`", ANSWERS))
    names = [each.name for each in fields(shape)] if is_dataclass(shape) else shape.__struct_fields__
    assert set(names) - documented == set()


async def test_the_ledger_for_programs_has_a_stable_shape(
    tmp_path: Path, clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    simulation = Simulation(tmp_path, clock, SLOW)
    await simulation.run(simulation.write_ids(20))
    capsys.readouterr()
    assert await print_status(settings_for(tmp_path), as_json=True, clock=clock) is Exit.ALL_COMPLETE
    ledger = orjson.loads(capsys.readouterr().out)
    assert ledger.keys() == KEYS
    assert (ledger["tasks"], ledger["finished"], ledger["waiting"], ledger["complete"]) == (20, 20, 0, 20)
    assert ledger["balanced"] is True
    assert ledger["kinds"]["complete"] == ledger["landed"]["complete"] == 20
    assert ledger["sinks"][0]["delivered"] == 20
    assert ledger["accounts"]["default"]["pause"] is None
    assert ledger["run"] is None


async def test_watching_prints_a_line_each_time_where_there_is_no_terminal(
    tmp_path: Path, clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    simulation = Simulation(tmp_path, clock, SLOW)
    ids = simulation.write_ids(30)
    async with asyncio.TaskGroup() as group:
        work = group.create_task(simulation.run(ids))
        await asyncio.sleep(3)
        capsys.readouterr()
        watching = group.create_task(watch_status(settings_for(tmp_path), as_json=False, clock=clock))
        await work
        await asyncio.sleep(3)
        watching.cancel()
    lines = [line for line in capsys.readouterr().out.splitlines() if "of 30 finished" in line]
    assert len(lines) > 10
    assert any(re.search(r"[\d.]+ a second, about \d+ s left", line) for line in lines)
    assert "30 of 30 finished (100.0%), 30 landed" in lines[-1]
    assert not any("\x1b" in line for line in lines)


NOW = 1_767_600_000.0


def line_of(account: AccountState) -> str:
    sinks = (SinkSums(name="webhook:x", delivered=30, undelivered=20, dead=0, attached=True),)
    sums = Sums(
        sources=(), sinks=sinks, accounts={"main": account}, waiting=50, finished=50, polls=120,
        kinds={"complete": 49, "canceled": 1}, landed={"complete": 49}, reasons=(),
    )  # fmt: skip
    return status_line(sums, now=NOW, before=(NOW - 10, 0))


@pytest.mark.parametrize("flags", [("--rejected", "--dead"), ("--watch", "--rejected")])
def test_two_views_at_once_are_a_wrong_command_line(flags: tuple[str, ...]) -> None:
    shown = CliRunner().invoke(app, ["status", *flags])
    assert shown.exit_code == Exit.USAGE
    assert "give one of --watch, --rejected and --dead" in shown.output


def test_a_line_has_the_pace_the_time_left_and_what_is_undelivered() -> None:
    assert line_of(AccountState()) == (
        "2026-01-05T08:00:00Z  50 of 100 finished (50.0%), 49 landed, 120 polls, 5 a second, about 10 s left, "
        "20 undelivered"
    )


def test_a_line_names_a_pause_and_counts_it_in_the_time_left() -> None:
    until = line_of(AccountState(pause="daily_quota", resume_at=NOW + 60))
    assert until.endswith("5 a second, about 1 min 10 s left, 20 undelivered, account main is paused: daily_quota")
    unknown = line_of(AccountState(pause="token_refused"))
    assert unknown.endswith("5 a second, 20 undelivered, account main is paused: token_refused")


@pytest.mark.real_time
@pytest.mark.parametrize("flags", [["--watch"], ["--watch", "--json"]])
def test_ctrl_c_ends_a_watch_silently(flags: list[str], tmp_path: Path) -> None:
    (tmp_path / "ids.txt").touch()
    assert run_here("run", "ids.txt", folder=tmp_path).returncode == 65
    out = tmp_path / "out.txt"
    with out.open("wb") as stdout, running("status", *flags, folder=tmp_path, stdout=stdout) as watching:
        wait_until(lambda: b"\n" in out.read_bytes(), "the first line")
        watching.signal(signal.SIGINT)
        assert watching.ended() == 0
        assert watching.log() == ""
