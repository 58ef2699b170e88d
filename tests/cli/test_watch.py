"""`poller status --watch` on a terminal: what a person sees of a run of another process."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, TextIO, cast

import pytest
from rich.console import Console

from poller.app.live_block import LiveBlock
from poller.cli.commands.status import _watched
from poller.cli.watch import LiveView
from poller.core.accounts import AccountState
from poller.core.learned_limit import LearnedLimit
from poller.core.protocols import Clock
from poller.core.starts import ImportsReading, TrialReading
from poller.core.sums import SinkSums, StartSums, Sums
from poller.reports.fleet import FleetSnapshot, MemberView
from poller.reports.status import status_line
from poller.sandbox import Scenario, parse_durations
from tests.support.processes import hubspot, run
from tests.support.simulation import Simulation, settings_for
from tests.support.terminal import Terminal, on_terminal

NOW = 1_767_600_000.0
SUMS = Sums(
    sources=(),
    sinks=(SinkSums(name="webhook:x", delivered=30, undelivered=19, dead=1, attached=True),),
    accounts={"main": AccountState()},
    waiting=150,
    finished=50,
    polls=120,
    kinds={"complete": 49, "canceled": 1},
    landed={"complete": 49},
    reasons=(),
)
LIMITS = {"main": LearnedLimit(requests=190, window_s=10.0)}


def shown(
    *pictures: Sums,
    columns: int = 100,
    heartbeat: tuple[int, float] | None = (7, NOW - 2),
    fleet: FleetSnapshot | None = None,
    trials: Mapping[str, ImportsReading] | None = None,
    unsure_until: float | None = None,
) -> list[str]:
    """Return the screen after these pictures, ten seconds apart."""
    terminal = Terminal(columns, 24)
    view = LiveView(LiveBlock(Console(file=cast("TextIO", terminal), force_terminal=True, width=columns, height=24)))
    for number, sums in enumerate(pictures):
        view.show(sums, LIMITS, heartbeat, NOW + 10 * number, fleet=fleet, trials=trials, unsure_until=unsure_until)
    view.leave()
    return terminal.shown()


def test_while_rows_are_started_it_counts_them_and_the_time_left_goes_by_their_pace() -> None:
    first = replace(SUMS, starts=StartSums(unstarted=100, underway=50, starts=20, accepted=20))
    later = replace(first, polls=130, starts=StartSums(unstarted=50, unsure=1, underway=99, starts=120, accepted=119))
    rows = shown(first, later)
    assert "50 of 200 done (25.0%)  about 20 s left" in rows[0]
    assert rows[3] == "50 rows to start, 1 unsure, 99 under way"
    assert rows[4].startswith("120 starts, 130 polls, 10.9 requests a second, limit 19 a second")


def test_it_shows_when_the_next_unsure_row_is_due() -> None:
    sums = replace(SUMS, starts=StartSums(unstarted=50, unsure=3, underway=97, starts=120, accepted=117))
    assert (
        shown(sums, unsure_until=NOW + 300)[3] == "50 rows to start, 3 unsure (the next is due in 5 min), 97 under way"
    )
    assert "3 unsure, 97 under way" in " ".join(shown(sums, unsure_until=NOW - 1))
    line = status_line(sums, now=NOW, before=None, unsure_until=NOW + 300)
    assert "50 unstarted, 3 unsure (the next is due in 5 min)" in line


def test_while_a_trial_runs_there_is_no_forecast_and_the_reason_is_shown() -> None:
    first = replace(SUMS, starts=StartSums(unstarted=130, underway=20, starts=20, accepted=20))
    later = replace(first, polls=130, finished=55, waiting=145)
    trial = TrialReading(rows=20, started=20, landed=5, needed=10)
    trials = {"main": ImportsReading(unstarted=130, underway=20, trial=trial)}
    rows = shown(first, later, trials=trials)
    assert "55 of 200 done (27.5%)  a trial runs: no forecast yet" in rows[0]
    assert "main: trial of 20 rows, 5 landed; the others start once 10 have" in rows
    assert "a trial" not in " ".join(shown(first, later, trials=trials, heartbeat=None)), "no process is at work"


def test_it_shows_what_is_done_the_rate_against_the_limit_and_the_time_left_once() -> None:
    later = replace(SUMS, waiting=100, finished=100, polls=220, kinds={"complete": 99, "canceled": 1})
    rows = shown(SUMS, replace(SUMS, finished=75, waiting=125), later)
    assert "100 of 200 done (50.0%)  about 40 s left" in rows[0]
    assert rows[1] == "49 landed, 100 have their outcome, 100 wait"
    assert rows[2] == "complete 99  canceled 1"
    assert rows[3] == "220 polls, 5.0 a second, limit 19 a second, 2.5 outcomes a second"
    assert rows[4] == "webhook:x: 19 undelivered, 1 refused for good (poller status --dead)"
    assert rows[-1] == "2026-01-05T08:00:20Z, process 7: last heartbeat 22 s ago"
    assert sum(" done" in row for row in rows) == 1


def member(name: str, **more: Any) -> MemberView:
    usual: dict[str, Any] = {"host": "h", "pid": 7, "is_this": False, "is_draining": False, "accounts": 2, "sinks": []}
    usual |= {"polls_per_s": 4.0, "status_age_s": 1.0, "is_stale": False, "url": None}
    return MemberView(replica=name, **(usual | more))


FLEET = FleetSnapshot(
    members=[member("r1"), member("r2", is_draining=True, accounts=0), member("r3", is_stale=True, status_age_s=9.0)],
    unowned=["acme"],
    unserved=[],
    settings_differ=[],
    sinks_away={},
)


def test_of_a_fleet_it_shows_each_replica_and_what_is_polled_by_none() -> None:
    rows = shown(SUMS, heartbeat=None, fleet=FLEET)
    assert rows[-5:] == [
        "2026-01-05T08:00:00Z, 3 replicas",
        "  r1: at work, 2 accounts, 4 polls a second, process 7 on h",
        "  r2: stopping, 0 accounts, 4 polls a second, process 7 on h",
        "  r3: no news for 9 s, 2 accounts, 4 polls a second, process 7 on h",
        "  polled by no replica now: acme",
    ]
    line = status_line(SUMS, now=NOW, before=None, fleet=FLEET)
    assert line.endswith("3 replicas, r2: stopping, r3: no news for 9 s, accounts polled by no replica: 1")


def test_it_shows_a_pause_with_its_end_and_that_no_run_is_active() -> None:
    paused = replace(SUMS, accounts={"main": AccountState(pause="throttled", resume_at=NOW + 70)})
    rows = shown(paused, heartbeat=None)
    assert (
        "main: HubSpot limits the rate; polling resumes when its window has passed (in about 1 min 10 s)"
        in " ".join(rows)
    )
    assert rows[-1].endswith("no run is active")
    assert not any("left" in row for row in rows)


def test_a_state_that_does_not_balance_is_shown_as_such() -> None:
    rows = shown(replace(SUMS, finished=51), columns=200)
    assert any(row.startswith("DOES NOT BALANCE  finished = outcomes by kind") for row in rows)


async def test_the_limit_is_that_of_the_answers(tmp_path: Path, clock: Clock) -> None:
    simulation = Simulation(tmp_path, clock, Scenario(durations=parse_durations("fixed:1"), requests=70, window_s=5.0))
    await simulation.run(simulation.write_ids(5))
    sums, _, limits, *_ = await _watched(settings_for(tmp_path), clock())
    assert sums.finished == 5
    assert limits == {"default": LearnedLimit(requests=70, window_s=5.0)}


@pytest.mark.real_time
def test_on_a_terminal_the_view_stays_one_block_until_ctrl_c(tmp_path: Path) -> None:
    with hubspot(imports=3) as site:
        run("run", site.ids_file(tmp_path, 3).name, "--base-url", site.url, folder=tmp_path)
    with on_terminal("status", "--watch", folder=tmp_path) as watching:
        watching.wait_for("no run is active")
        watching.read(3.0)
        watching.read(3.0)
        watching.type("\x03")
        assert watching.ended() == 0
        assert sum("3 of 3 done (100.0%)" in row for row in watching.screen.shown()) == 1
