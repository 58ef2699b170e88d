"""`poller status --json` and `--watch`: a stable shape for programs, and lines or a display for people."""

import asyncio
import signal
from pathlib import Path

import orjson
import pytest

from poller.cli.commands.status import print_status, watch_status
from poller.core.errors import Exit
from poller.core.model import AccountState, Sums
from poller.core.protocols import Clock
from poller.reports.status import standing_line
from poller.sandbox import Scenario, parse_durations
from tests.support.processes import run, running, wait_until
from tests.support.simulation import Simulation, settings_for

SLOW = Scenario(durations=parse_durations("uniform:5,60"), fates={}, requests=1000)
KEYS = {
    "at", "balanced", "differences", "tasks", "waiting", "finished", "complete", "kinds", "pruned", "polls",
    "polls_per_task", "sources", "sinks", "accounts", "reasons", "run",
}  # fmt: skip


async def test_the_ledger_for_programs_has_a_stable_shape(
    tmp_path: Path, clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    simulation = Simulation(tmp_path, clock, SLOW)
    await simulation.run(simulation.write_ids(20))
    capsys.readouterr()
    assert await print_status(settings_for(tmp_path), as_json=True, clock=clock) is Exit.ALL_COMPLETE
    fields = orjson.loads(capsys.readouterr().out)
    assert fields.keys() == KEYS
    assert (fields["tasks"], fields["finished"], fields["waiting"], fields["complete"]) == (20, 20, 0, 20)
    assert fields["balanced"] is True
    assert fields["kinds"]["complete"] == 20
    assert fields["sinks"][0]["delivered"] == 20
    assert fields["accounts"]["default"]["pause"] is None
    assert fields["run"] is None


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
    assert any("left at this pace" in line for line in lines)
    assert "30 of 30 finished (100.0%), 0 not complete" in lines[-1]
    assert not any("\x1b" in line for line in lines)


def test_a_line_names_what_is_paused_and_what_is_undelivered() -> None:
    sums = Sums(
        sources=(), sinks=(), accounts={"main": AccountState(pause="daily_quota")}, waiting=5, finished=5, polls=12,
        kinds={"complete": 4, "canceled": 1}, reasons=(),
    )  # fmt: skip
    assert standing_line(sums, now=1_767_600_000.0, before=(1_767_599_990.0, 0)) == (
        "2026-01-05T08:00:00Z  5 of 10 finished (50.0%), 1 not complete, 12 polls, 0.5 a second, 10 s left at this "
        "pace, account main is paused: daily_quota"
    )


@pytest.mark.real_time
@pytest.mark.parametrize("flags", [["--watch"], ["--watch", "--json"]])
def test_ctrl_c_ends_a_watch_without_a_message(flags: list[str], tmp_path: Path) -> None:
    assert run("run", "-", "--listen", "off", folder=tmp_path).returncode == 65
    out = tmp_path / "out.txt"
    with out.open("wb") as stdout, running("status", *flags, folder=tmp_path, stdout=stdout) as watching:
        wait_until(lambda: b"\n" in out.read_bytes(), "the first line")
        watching.signal(signal.SIGINT)
        assert watching.ended() == 0
        assert watching.log() == ""
