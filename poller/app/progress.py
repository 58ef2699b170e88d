"""The progress display on a terminal's stderr. Reads counters and draws; changes nothing."""

import asyncio
import os
from collections import deque
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from rich.console import Group, RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from poller.app.environment import Environment
from poller.app.live_block import LiveBlock
from poller.app.messages import awaited
from poller.core.model import Kind
from poller.core.protocols import Clock
from poller.core.starts import ImportsReading, TrialReading, starts_left
from poller.core.text import counted, duration, pause_text
from poller.core.timestamps import iso
from poller.engine import Service
from poller.engine.idle import idle_until
from poller.engine.left_out import left_out
from poller.engine.metrics import Metrics
from poller.reports.ledger import landed_line
from poller.schedule.forecast import LaneOutlook, Step, forecast, import_paces, time_left
from poller.schedule.slowest import SlowestTask
from poller.sinks.stdout import StdoutTable

REDRAW_S = 0.25
LONGEST_BESIDE = 22  # characters of the forecast beside the bar; a longer one has a line of its own
RATES_OVER_S = 10.0  # HubSpot's own window; over a longer time, the slow last tasks would seem fast

STYLES = {Kind.COMPLETE: "green", Kind.CANCELED: "red", Kind.NOT_FOUND: "red", Kind.TIMED_OUT: "red"}


@dataclass(slots=True, kw_only=True)
class Progress:
    """Draws until cancelled: done of known, kinds, polls, rates, pauses, and the time left."""

    metrics: Metrics
    clock: Clock
    pauses: Callable[[], Mapping[str, str]]  # account or sink → reason
    lanes: Callable[[], Sequence[LaneOutlook]]  # what bounds each account's requests
    ended: Callable[[], bool]  # whether the input has ended, so that "known" is all
    slowest_at: Callable[[float], float | None] = lambda _now: None  # how long the slowest may take
    times_out_at: Callable[[], float | None] = lambda: None  # the youngest task
    ending: Callable[[], str] = lambda: ""  # what the end of the run waits for; empty: it is not ending
    is_ending: Callable[[], bool] = lambda: False  # nothing more is claimed: there is no forecast
    unwritable: Callable[[], str] = lambda: ""  # why the state cannot be written; empty where it can
    imports: Callable[[], Mapping[str, ImportsReading]] = dict  # by account, of those that start imports
    left_out: Callable[[], Collection[str]] = frozenset  # the accounts that have no forecast
    idle_until: Callable[[float], float | None] = lambda _now: None  # when the next request is due, where none is soon
    is_shared: Callable[[], bool] = lambda: False  # others write to the terminal now, or a person types there
    _samples: deque[tuple[float, int, int, int]] = field(default_factory=deque)  # instant, polls, finished, starts

    async def show(self, block: LiveBlock) -> None:
        """Redraw four times a second. Cancel it to leave the last picture on the screen."""
        try:
            while True:
                self._redraw(block)
                await asyncio.sleep(REDRAW_S)
        finally:
            self._redraw(block)
            block.leave()

    def _redraw(self, block: LiveBlock) -> None:
        if self.is_shared():
            block.hide()
        else:
            block.draw(self.draw())

    def draw(self) -> RenderableType:
        """Return the display as of now."""
        self._sample()
        left = self._left()
        is_long = len(left) > LONGEST_BESIDE
        return Group(
            self._bar("" if is_long else left), *([Text(left)] if is_long else []), self._polls(), *self._remarks()
        )

    def _bar(self, left: str) -> RenderableType:
        metrics = self.metrics
        table = Table.grid(padding=(0, 2))
        table.add_row(
            ProgressBar(total=max(metrics.known, 1), completed=metrics.finished, width=32),
            Text(f"{metrics.finished:,} of {metrics.known:,}{'' if self.ended() else '+'} done", style="bold"),
            Text(left),
        )
        return table

    def _polls(self) -> Text:
        (seconds, polls), (_, starts) = self._grown(1), self._grown(3)
        per_s = (polls + starts) / seconds if seconds > 0 else 0.0
        sent = f"{counted(self.metrics.starts, 'start')}, " if self.metrics.starts else ""
        what = "requests per second" if sent else "per second"
        return Text(f"{sent}{counted(self.metrics.polls, 'poll')}, {per_s:.1f} {what}", style="dim")

    def _remarks(self) -> Iterator[RenderableType]:
        if self.metrics.finished:
            yield self._landed()
            yield self._kinds()
        if self.metrics.rejected:
            yield Text(f"{counted(self.metrics.rejected, 'input line')} rejected", style="yellow")
        if ending := self.ending():
            yield Text(ending, style="yellow")
        elif reason := self.unwritable():
            yield Text(f"the state cannot be written ({reason}): all waits until it can", style="yellow")
        imports = self.imports()
        if unstarted := sum(self._unstarted()):
            underway = sum(each.underway for each in imports.values())
            yield Text(f"{counted(unstarted, 'row')} to start, {underway:,} under way")
        if (until := self.idle_until(self.clock())) is not None:
            in_s = duration(round(until - self.clock()))
            yield Text(f"the next request is due in {in_s}, at {iso(until)[:19]}Z", style="dim")
        for name, reading in imports.items():
            if reading.trial is not None:
                yield Text(f"{name}: {trial_text(reading.trial)}", style="yellow")
        for name, reason in self.pauses().items():
            yield Text(f"{name}: {pause_text(reason, name)}", style="yellow")

    def _landed(self) -> Text:
        landed = self.metrics.landed.total()
        line = landed_line({Kind.COMPLETE: landed}, self.metrics.finished, 0, self.metrics.tried_again)
        return Text(line, style="bold")

    def _kinds(self) -> Text:
        counts = [(kind, self.metrics.kinds[kind]) for kind in Kind if self.metrics.kinds[kind]]
        return Text("  ").join(Text(f"{kind} {count:,}", style=STYLES.get(kind, "yellow")) for kind, count in counts)

    def _sample(self) -> None:
        now = self.clock()
        self._samples.append((now, self.metrics.polls, self.metrics.finished, self.metrics.starts))
        while now - self._samples[0][0] > RATES_OVER_S:
            self._samples.popleft()

    def _grown(self, what: int) -> tuple[float, int]:
        """Return in how many seconds a sampled number grew by how much."""
        first, last = self._samples[0], self._samples[-1]
        return last[0] - first[0], int(last[what] - first[what])

    def _unstarted(self) -> tuple[int, int]:
        """Return the rows to start of the accounts that have a forecast, and of those that are left out."""
        metrics, left_out, imports = self.metrics, self.left_out(), self.imports()
        at_work = [each for name, each in imports.items() if name not in left_out]
        others = [each for name, each in imports.items() if name in left_out]
        return (
            starts_left(at_work, metrics.waiting - metrics.blocked, metrics.elsewhere),
            starts_left(others, metrics.blocked),
        )

    def _left(self) -> str:
        if not self.metrics.waiting:
            return "" if self.ended() else "waiting for input"
        if self.is_ending() or self.unwritable():
            return ""
        now, metrics, (unstarted, _) = self.clock(), self.metrics, self._unstarted()
        on_trial = {name for name, each in self.imports().items() if each.trial}
        at_work = metrics.waiting - metrics.blocked
        if on_trial and (at_work <= 0 or on_trial - set(self.left_out())):
            return "a trial runs: no forecast yet"
        (seconds, polls), (_, finished), (_, started) = self._grown(1), self._grown(2), self._grown(3)
        step = Step(seconds=seconds, polls=polls, finished=finished, started=started, paused=0.0)
        cast = forecast(
            now=now,
            waiting=self.metrics.waiting,
            finished=self.metrics.finished,
            paces=import_paces(
                [step],
                waiting=at_work,
                unstarted=unstarted,
                polls=metrics.polls,
                starts=metrics.starts,
            ),
            lanes=self.lanes(),
            blocked=self.metrics.blocked,
            slowest_at=self.slowest_at(now),
            times_out_at=self.times_out_at(),
            unstarted=unstarted,
        )
        left_out = "accounts that are paused or on trial" if on_trial else "paused accounts"
        return time_left(cast, now, left_out=left_out)


def progress_of(service: Service, metrics: Metrics, environment: Environment, deadline_s: float) -> Progress:
    """Return the display of a run whose tasks have this deadline."""

    def ending() -> str:
        waiting_for = awaited(service) if service.is_ending else ""
        return f"{'stopping' if service.draining else 'ending'}: waiting for {waiting_for}" if waiting_for else ""

    def is_shared() -> bool:
        """Whether records are written to the terminal, or ids are typed there."""
        printed = os.isatty(1) and any(loop.sink.name == StdoutTable.KIND for loop in service.deliveries.loops)
        typed = os.isatty(environment.stdin) and any(source.kind == "stdin" for source in service.ingest.sources)
        return printed or (typed and not service.fed)

    def lanes() -> list[LaneOutlook]:
        readings, without = {name: lane.gate.reading() for name, lane in service.lanes.items()}, left_out(service.lanes)
        return [
            LaneOutlook(
                rate_per_s=each.window_limit / each.window_s,
                is_paused=each.state.pause is not None or name in without,
                resume_at=None if name in without else each.state.resume_at,
            )
            for name, each in readings.items()
        ]

    def imports() -> dict[str, ImportsReading]:
        return {name: lane.imports for name, lane in service.lanes.items() if lane.imports is not None}

    slowest = SlowestTask(deadline_s)

    def slowest_at(now: float) -> float:
        slowest.see(metrics.tasks, now=now)
        return slowest.at(now, waiting=metrics.waiting, durations=[each.durations for each in service.lanes.values()])

    return Progress(
        metrics=metrics,
        clock=environment.clock,
        pauses=service.pauses,
        lanes=lanes,
        slowest_at=slowest_at,
        times_out_at=lambda: slowest.times_out_at,
        ended=lambda: service.fed,
        ending=ending,
        is_ending=lambda: service.is_ending,
        unwritable=lambda: service.unwritable_reason,
        imports=imports,
        left_out=lambda: left_out(service.lanes),
        idle_until=lambda now: idle_until(service.lanes.values(), now),
        is_shared=is_shared,
    )


def trial_text(trial: TrialReading) -> str:
    """Return, for people, what the other rows wait for."""
    return (
        f"trial of {counted(trial.rows, 'row')}, {trial.landed:,} landed; the others start once {trial.needed:,} have"
    )
