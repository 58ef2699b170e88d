"""The live view of a state that another process works on: what is done, how fast, what is paused, when it will end."""

import sys
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Self

from rich.console import Console, Group, RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from poller.app.live_block import LiveBlock
from poller.app.progress import STYLES, trial_text
from poller.core.accounts import AccountState
from poller.core.learned_limit import LearnedLimit
from poller.core.model import Kind
from poller.core.starts import ImportsReading
from poller.core.sums import Sums
from poller.core.text import counted, duration, pause_text, without_controls
from poller.core.timestamps import iso
from poller.reports.fleet import FleetSnapshot, fleet_lines
from poller.reports.ledger import imbalances
from poller.reports.row import until_text
from poller.reports.slowest import Slowest, outlooks
from poller.schedule.forecast import Step, forecast, import_paces, time_left

PACE_OVER_S = 120.0  # of the past that rates are measured over


@dataclass(slots=True)
class LiveView:
    """A few lines that are redrawn in place."""

    block: LiveBlock
    _slowest: Slowest | None = None
    _trials: Mapping[str, ImportsReading] = field(default_factory=dict)
    _unsure_until: float | None = None
    _seen: deque[tuple[float, Sums]] = field(default_factory=deque)

    @classmethod
    def on_stdout(cls) -> Self:
        return cls(LiveBlock(Console(file=sys.stdout)))

    def show(
        self,
        sums: Sums,
        limits: Mapping[str, LearnedLimit],
        heartbeat: tuple[int, float] | None,
        now: float,
        slowest: Slowest | None = None,
        fleet: FleetSnapshot | None = None,
        trials: Mapping[str, ImportsReading] | None = None,
        unsure_until: float | None = None,
    ) -> None:
        """Draw the state as of now. `heartbeat` is of the process that works on it; `fleet`, of those that share it;
        `trials` has by account the rows of an import on trial; `unsure_until` is when the first unsure row is due."""
        self._slowest, self._trials, self._unsure_until = slowest, trials or {}, unsure_until
        self._seen.append((now, sums))
        while now - self._seen[0][0] > PACE_OVER_S and len(self._seen) > 2:
            self._seen.popleft()
        is_running = heartbeat is not None or (fleet is not None and bool(fleet.members))
        lines = [*self._lines(sums, limits, now, is_running=is_running), *_processes(heartbeat, fleet, now)]
        self.block.draw(Group(*lines))

    def leave(self) -> None:
        """Leave the last picture on the screen."""
        self.block.leave()

    def _lines(
        self, sums: Sums, limits: Mapping[str, LearnedLimit], now: float, *, is_running: bool
    ) -> Iterator[RenderableType]:
        yield self._bar(sums, limits, now, is_running=is_running)
        have, wait = counted(sums.finished, "has its", "have their"), counted(sums.waiting, "waits", "wait")
        yield Text(f"{sum(sums.landed.values()):,} landed, {have} outcome, {wait}")
        if sums.finished:
            counts = [(kind, sums.kinds[kind]) for kind in Kind if sums.kinds.get(kind)]
            yield Text("  ").join(Text(f"{kind} {count:,}", style=STYLES.get(kind, "yellow")) for kind, count in counts)
        if (starts := sums.starts) is not None and sums.waiting:
            unsure = f", {starts.unsure:,} unsure{until_text(self._unsure_until, now)}" if starts.unsure else ""
            yield Text(f"{counted(starts.unstarted, 'row')} to start{unsure}, {starts.underway:,} under way")
        for name, imports in self._trials.items() if is_running else ():
            if imports.trial is not None:
                yield Text(f"{without_controls(name)}: {trial_text(imports.trial)}", style="yellow")
        yield Text(self._rate(sums, limits), style="dim")
        for sink in sums.sinks:
            if sink.attached and (sink.undelivered or sink.dead):
                dead = f", {sink.dead:,} refused for good (poller status --dead)" if sink.dead else ""
                yield Text(f"{without_controls(sink.name)}: {sink.undelivered:,} undelivered{dead}", style="yellow")
        for name, state in sums.accounts.items():
            if state.pause:
                yield Text(f"{name}: {_pause(name, state, now)}", style="yellow")
        for imbalance in imbalances(sums):
            yield Text(f"DOES NOT BALANCE  {imbalance}", style="red")

    def _bar(self, sums: Sums, limits: Mapping[str, LearnedLimit], now: float, *, is_running: bool) -> RenderableType:
        tasks = sums.waiting + sums.finished
        share = f" ({sums.finished / tasks:.1%})" if tasks else ""
        table = Table.grid(padding=(0, 2))
        table.add_row(
            ProgressBar(total=max(tasks, 1), completed=sums.finished, width=32),
            Text(f"{sums.finished:,} of {tasks:,} done{share}", style="bold"),
            Text(self._left(sums, limits, now) if is_running else ""),
        )
        return table

    def _grown(self) -> Step:
        """Return what grew since the first counts that are kept."""
        (then, before), (now, after) = self._seen[0], self._seen[-1]
        return Step(
            seconds=now - then,
            polls=after.polls - before.polls,
            finished=after.finished - before.finished,
            started=after.started - before.started,
            paused=0.0,
        )

    def _left(self, sums: Sums, limits: Mapping[str, LearnedLimit], now: float) -> str:
        step = self._grown()
        if step.seconds <= 0 or not sums.waiting:
            return ""
        if self._trials:
            return "a trial runs: no forecast yet"
        paces = import_paces(
            [step], waiting=sums.waiting - sums.blocked, unstarted=sums.unstarted, polls=sums.polls, starts=sums.started
        )
        slowest = self._slowest
        cast = forecast(
            now=now,
            waiting=sums.waiting,
            finished=sums.finished,
            paces=paces,
            lanes=outlooks(sums.accounts, limits),
            blocked=sums.blocked,
            unstarted=sums.unstarted,
            slowest_at=slowest.at if slowest else None,
            times_out_at=slowest.times_out_at if slowest else None,
        )
        return time_left(cast, now)

    def _rate(self, sums: Sums, limits: Mapping[str, LearnedLimit]) -> str:
        step = self._grown()
        parts = [*([counted(sums.starts.starts, "start")] if sums.starts else []), counted(sums.polls, "poll")]
        if step.seconds > 0:
            what = " requests" if sums.starts else ""
            parts.append(f"{(step.polls + step.started) / step.seconds:.1f}{what} a second")
        if limits and len(limits) == len(sums.accounts):
            parts.append(f"limit {sum(each.requests / each.window_s for each in limits.values()):.3g} a second")
        if step.seconds > 0:
            parts.append(f"{step.finished / step.seconds:.3g} outcomes a second")
        return ", ".join(parts)


def _pause(name: str, state: AccountState, now: float) -> str:
    text = pause_text(str(state.pause), name)
    if state.resume_at is not None and state.resume_at > now:
        text += f" (in about {duration(round(state.resume_at - now))})"
    return without_controls(text)


def _processes(
    heartbeat: tuple[int, float] | None, fleet: FleetSnapshot | None, now: float
) -> Iterator[RenderableType]:
    if fleet is None or not fleet.members:
        yield Text(f"{iso(now)[:19]}Z, {_process(heartbeat, now)}", style="dim")
        return
    headline, *lines = fleet_lines(fleet)
    yield Text(f"{iso(now)[:19]}Z, {len(fleet.members)} {headline}", style="dim")
    yield from (Text(line, style="dim", no_wrap=True, overflow="ellipsis") for line in lines)


def _process(heartbeat: tuple[int, float] | None, now: float) -> str:
    if heartbeat is None:
        return "no run is active"
    return f"process {heartbeat[0]}: last heartbeat {duration(max(0, round(now - heartbeat[1])))} ago"
