"""The progress display: what it shows, at any width, and when it has no forecast."""

import asyncio
import io
import re
from pathlib import Path
from typing import TextIO, cast

import pytest
from rich.console import Console

from poller.app.live_block import LiveBlock
from poller.app.progress import Progress
from poller.core.accounts import Pause
from poller.core.errors import Exit
from poller.core.model import Kind
from poller.core.protocols import Clock
from poller.core.starts import BACKLOG_COUNTED, ImportsReading, TrialReading
from poller.core.text import pause_text
from poller.engine.metrics import Metrics
from poller.sandbox import Scenario, parse_durations
from poller.schedule.forecast import LaneOutlook
from tests.support.simulation import Simulation
from tests.support.terminal import Terminal


class Screen:
    """A display over numbers that the test sets, on a clock that the test moves."""

    def __init__(self) -> None:
        self.now = 0.0
        self.metrics = Metrics()
        self.pauses: dict[str, str] = {}
        self.lanes = [LaneOutlook()]
        self.ended = True
        self.ending = ""
        self.is_ending = False
        self.unwritable = ""
        self.imports: dict[str, ImportsReading] = {}
        self.left_out: set[str] = set()
        self.idle_until: float | None = None
        self.progress = Progress(
            metrics=self.metrics,
            clock=lambda: self.now,
            pauses=lambda: self.pauses,
            lanes=lambda: self.lanes,
            ended=lambda: self.ended,
            ending=lambda: self.ending,
            is_ending=lambda: self.is_ending,
            unwritable=lambda: self.unwritable,
            imports=lambda: self.imports,
            left_out=lambda: self.left_out,
            idle_until=lambda _now: self.idle_until,
        )

    def shown(self, width: int = 100) -> str:
        out = io.StringIO()
        Console(file=out, width=width).print(self.progress.draw())
        return out.getvalue()

    def work(self, seconds: int, *, finished_per_s: int) -> None:
        """Let time pass, drawn once a second."""
        for _ in range(seconds):
            self.now += 1
            self.metrics.polls += 2 * finished_per_s
            for _ in range(finished_per_s):
                self.metrics.finish(Kind.COMPLETE, landed=True)
            self.shown()


@pytest.fixture
def screen() -> Screen:
    screen = Screen()
    screen.metrics.waiting = 200_000
    return screen


def test_it_shows_done_of_known_polls_rate_and_time_left(screen: Screen) -> None:
    screen.shown()
    screen.work(60, finished_per_s=5)
    shown = screen.shown()
    assert "300 of 200,000 done" in shown
    assert "600 polls, 10.0 per second" in shown
    assert "about 11 h 5 min left" in shown
    assert "complete 300" in shown


@pytest.mark.parametrize("width", [20, 40, 80, 120, 250])
def test_it_fits_the_terminal_and_keeps_its_numbers(screen: Screen, width: int) -> None:
    screen.work(5, finished_per_s=12_345)
    screen.pauses = {"default": Pause.OUTAGE.value}
    lines = screen.shown(width).splitlines()
    assert max(map(len, lines)) <= width
    assert "61,725" in "".join(lines)


@pytest.mark.parametrize("width", [80, 120])
def test_at_usual_widths_no_line_is_broken(screen: Screen, width: int) -> None:
    screen.work(40, finished_per_s=1_234)
    lines = screen.shown(width).splitlines()
    assert re.fullmatch(r".* 49,360 of 200,000 done +about 2 min 2 s left *", lines[0])
    assert lines[2].strip() == "49,360 landed · 0 did not"
    assert len(lines) == 4


def test_there_is_no_forecast_from_too_few_finished_tasks_or_during_a_pause(screen: Screen) -> None:
    screen.metrics.waiting = 7
    screen.work(1, finished_per_s=4)
    assert "left" not in screen.shown()
    screen.metrics.waiting = 200_000
    screen.work(30, finished_per_s=10)
    assert "left" in screen.shown()
    screen.lanes = [LaneOutlook(is_paused=True)]
    assert "left" not in screen.shown()


def test_a_trial_shows_what_the_other_rows_wait_for_and_its_pace_is_no_forecast(screen: Screen) -> None:
    screen.work(30, finished_per_s=1)
    assert "left" in screen.shown()
    trial = TrialReading(rows=20, started=20, landed=4, needed=10)
    screen.imports = {"default": ImportsReading(unstarted=199_980, underway=16, trial=trial)}
    shown = screen.shown()
    assert "left" not in shown
    assert "default: trial of 20 rows, 4 landed; the others start once 10 have" in shown


def test_rows_and_the_trial_of_an_account_that_is_left_out_are_not_in_the_forecast_of_the_others(
    screen: Screen,
) -> None:
    screen.metrics.waiting, screen.metrics.blocked, screen.left_out = 100_400, 100_000, {"a"}
    screen.lanes = [LaneOutlook(rate_per_s=10, is_paused=True), LaneOutlook(rate_per_s=10)]
    screen.imports = {"a": ImportsReading(unstarted=BACKLOG_COUNTED, underway=0)}
    screen.work(60, finished_per_s=5)
    shown = screen.shown()
    assert "about 20 s left, without paused accounts" in shown
    assert "100,000 rows to start, 0 under way" in shown
    trial = TrialReading(rows=20, started=20, landed=4, needed=10)
    screen.imports = {"a": ImportsReading(unstarted=99_980, underway=20, trial=trial)}
    shown = screen.shown()
    assert "about 20 s left, without accounts that are paused or on trial" in shown
    assert "a: trial of 20 rows, 4 landed" in shown
    screen.metrics.blocked = screen.metrics.waiting
    assert "a trial runs: no forecast yet" in screen.shown(), "the other has no task"


def test_a_run_that_only_waits_shows_until_when(screen: Screen) -> None:
    screen.idle_until = screen.now + 300
    assert "the next request is due in 5 min, at 1970-01-01T00:05:00Z" in screen.shown()
    screen.idle_until = None
    assert "the next request" not in screen.shown()


def test_while_rows_wait_starts_are_counted_and_the_requests_are_the_pace(screen: Screen) -> None:
    screen.metrics.waiting = 2000
    screen.imports = {"default": ImportsReading(unstarted=1000, underway=1000)}
    for _ in range(30):
        screen.now += 1
        screen.metrics.starts += 20
        screen.shown()
    shown = screen.shown()
    assert "600 starts, 0 polls, 20.0 requests per second" in shown
    assert "1,000 rows to start, 1,000 under way" in shown
    assert "about 2 min 30 s left" in shown, "a start for each row left, and a poll for each without outcome"


def test_a_pause_with_an_end_is_part_of_the_forecast_and_a_failing_sink_is_not(screen: Screen) -> None:
    screen.metrics.waiting = 400
    screen.work(30, finished_per_s=10)
    screen.pauses = {"webhook:x": "503"}
    assert "about 10 s left" in screen.shown()
    screen.lanes = [LaneOutlook(is_paused=True, resume_at=screen.now + 50)]
    assert "about 1 min left" in screen.shown()


def test_the_slowest_tasks_are_named_where_they_may_take_much_longer(screen: Screen) -> None:
    screen.metrics.waiting = 400
    screen.work(30, finished_per_s=10)
    screen.progress.slowest_at = lambda now: now + 1200
    lines = screen.shown(80).splitlines()
    assert lines[1].strip() == "99 % in about 10 s, the slowest may take 20 min"
    assert "left" not in lines[0]


def test_an_open_input_is_shown_by_a_plus(screen: Screen) -> None:
    screen.ended = False
    assert "0 of 200,000+ done" in screen.shown()
    screen.metrics.waiting = 0
    assert "waiting for input" in screen.shown()


@pytest.mark.parametrize("pause", list(Pause))
def test_every_pause_has_a_message(screen: Screen, pause: Pause) -> None:
    screen.pauses = {"emea": pause.value}
    assert f"emea: {pause_text(pause, 'emea')}" in screen.shown(250)


def test_a_failing_sink_rejected_lines_and_a_drain_are_shown(screen: Screen) -> None:
    screen.pauses = {"jsonl:finished.jsonl": "no space left"}
    screen.metrics.rejected = 1_234
    screen.ending = "stopping: waiting for 3 polls in flight"
    shown = screen.shown(250)
    assert "jsonl:finished.jsonl: no space left" in shown
    assert "1,234 input lines rejected" in shown
    assert "stopping: waiting for 3 polls in flight" in shown


def test_a_run_that_has_stopped_leaves_no_forecast_of_the_tasks_that_wait(screen: Screen) -> None:
    """The last display stays on the terminal, also after a trial that failed."""
    screen.metrics.waiting = 1000
    screen.work(30, finished_per_s=10)
    assert " left" in screen.shown()
    screen.is_ending = True
    assert " left" not in screen.shown()


def terminal_and_block(columns: int = 100) -> tuple[Terminal, LiveBlock]:
    terminal = Terminal(columns, 24)
    file = cast("TextIO", terminal)
    return terminal, LiveBlock(Console(file=file, force_terminal=True, width=columns, height=24))


async def test_it_redraws_until_cancelled_and_leaves_the_last_display(screen: Screen) -> None:
    terminal, block = terminal_and_block(80)
    async with asyncio.TaskGroup() as group:
        showing = group.create_task(screen.progress.show(block))
        await asyncio.sleep(1)
        assert "canceled" not in "".join(terminal.shown())
        screen.metrics.finish(Kind.CANCELED, landed=False)
        await asyncio.sleep(1)
        assert "canceled 1" in terminal.shown()
        screen.metrics.finish(Kind.COMPLETE, landed=True)
        showing.cancel()
    shown = terminal.shown()
    assert "complete 1  canceled 1" in shown
    assert "".join(shown).count(" done") == 1


async def test_it_is_off_the_screen_while_others_use_the_terminal(screen: Screen) -> None:
    terminal, block = terminal_and_block()
    screen.progress.is_shared = lambda: screen.now < 5
    async with asyncio.TaskGroup() as group:
        showing = group.create_task(screen.progress.show(block))
        await asyncio.sleep(1)
        assert terminal.shown() == []
        screen.now = 6
        await asyncio.sleep(1)
        assert " done" in "".join(terminal.shown())
        showing.cancel()


async def test_a_run_that_drains_shows_what_it_waits_for(tmp_path: Path, clock: Clock) -> None:
    simulation = Simulation(tmp_path, clock, Scenario(durations=parse_durations("fixed:100"), latency_s=(3, 3)))
    terminal, simulation.terminal = terminal_and_block()
    async with asyncio.TaskGroup() as group:
        running = group.create_task(simulation.run(simulation.write_ids(5)))
        for _ in range(100):
            await asyncio.sleep(0.5)
            if simulation.api.stats().requests_total:
                break
        assert "stopping" not in "".join(terminal.shown())
        simulation.drain()
        await asyncio.sleep(1)
        assert any(
            re.fullmatch(r"stopping: waiting for \d polls? in flight, at most 29 s more", row)
            for row in terminal.shown()
        )
    assert running.result() is Exit.WORK_LEFT
    assert "stopping" not in "".join(terminal.shown())


def test_it_shows_that_the_state_cannot_be_written(screen: Screen) -> None:
    screen.metrics.waiting = 1000
    screen.work(30, finished_per_s=10)
    assert "left" in screen.shown()
    screen.unwritable = "database or disk is full"
    assert "left" not in screen.shown(), "what is awaited is in the line below"
    assert "the state cannot be written (database or disk is full)" in screen.shown()
    screen.unwritable = ""
    assert "cannot be written" not in screen.shown()
