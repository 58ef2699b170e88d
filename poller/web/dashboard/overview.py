"""What the live page shows, as one JSON object: from the run's memory, never by counting the store's rows.

Only due times and the few rows of the sources are read from the store, at most once a second for all viewers.
"""

import asyncio
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress

from poller import __version__
from poller.core.accounts import GateReading
from poller.core.errors import StoreError
from poller.core.model import Kind
from poller.core.starts import starts_left
from poller.core.sums import SourceSums
from poller.core.timestamps import iso
from poller.engine.history import STEP_S, History, counts_of
from poller.engine.left_out import left_out
from poller.reports.ledger import merged
from poller.reports.status import LedgerCounts, ReasonCount, RunningProcess
from poller.schedule.forecast import Forecast, LaneOutlook, forecast, import_paces
from poller.schedule.slowest import SlowestTask
from poller.web.context import RunContext
from poller.web.dashboard.oldest import OldestView, OldestWaiting
from poller.web.dashboard.snapshot import (
    LaneView,
    PaceView,
    RunSnapshot,
    RunState,
    hosts_view,
    lane_view,
    reason_views,
    spread_view,
    waiting_state,
)
from poller.web.fleet import FleetReading, MemberStatus, lanes_of_others
from poller.web.readiness import sink_readiness, store_readiness

READ_S = 4.0  # for the store to answer
MAX_SOURCES = 200  # the latest ones


class Overview:
    """Takes snapshots of one run."""

    def __init__(self, run: RunContext) -> None:
        self._run = run
        self._service, self._metrics, self._history = run.service, run.metrics, run.service.history
        self._store, self._clock = run.store, run.clock
        self._due: Mapping[str, float | None] = {}  # when each account's next poll is due; None: no task waits
        self._sources: Sequence[SourceSums] = ()
        self._oldest_waiting = OldestWaiting(run.store)
        self._oldest: OldestView | None = None
        self._fed_at: float | None = None  # when the youngest task was fed
        self._slowest = SlowestTask(run.deadline_s)

    async def snapshot(self) -> RunSnapshot:
        """Return the run as of now."""
        now, metrics, service, history = self._clock(), self._metrics, self._service, self._history
        readings = {name: lane.gate.reading() for name, lane in service.lanes.items()}
        await self._read_store()
        due = self._due
        fleet = await self._read_fleet()
        others = {} if fleet is None else fleet.others
        lanes = [
            lane_view(name, each.state, due_at=due.get(name), reading=each, timing=lane.timing, imports=lane.imports)
            for name, each, lane in ((name, each, service.lanes[name]) for name, each in readings.items())
        ]
        lanes += lanes_of_others(others, readings.keys())
        return RunSnapshot(
            is_read_only=False,
            run=RunningProcess(pid=os.getpid(), heartbeat_at=iso(now)),
            now=now,
            version=__version__,
            started_at=history.began_at or None,
            state=self._state(lanes),
            ledger=self._ledger(others),
            store=store_readiness(self._store),
            polls=metrics.polls + sum(status.polls for status in others.values()),
            polls_per_task=self._polls_per_task(),
            rejected=metrics.rejected,
            is_fed=service.fed and not service.endless,
            oldest_waiting=self._oldest if metrics.waiting else None,
            forecast=self._forecast(now, readings, due),
            lanes=lanes,
            pace=_pace(history),
            took=spread_view(history.took),
            late=spread_view(history.late),
            reasons=reason_views(history.reasons),
            hosts=hosts_view(history.hosts),
            failed_polls=[ReasonCount(reason=name, count=count) for name, count in metrics.failed_polls.most_common(8)],
            sinks={name: sink for status in others.values() for name, sink in status.sinks.items()}
            | {loop.sink.name: sink_readiness(loop) for loop in service.deliveries.loops},
            warning=service.failures.warning,
            refusals={loop.sink.name: loop.refusal for loop in service.deliveries.loops if loop.refusal is not None},
            fleet=None if fleet is None else fleet.snapshot,
        )

    async def _read_fleet(self) -> FleetReading | None:
        """Return what the fleet's members publish; the latest that is known where the store does not answer in time."""
        if self._run.fleet is None:
            return None
        with suppress(StoreError, TimeoutError):
            async with asyncio.timeout(READ_S):
                return await self._run.fleet.read()
        return self._run.fleet.reading

    def _ledger(self, others: Mapping[str, MemberStatus]) -> LedgerCounts:
        metrics = self._metrics
        return LedgerCounts(
            tasks=metrics.known,
            waiting=metrics.waiting,
            finished=metrics.finished,
            complete=metrics.kinds[Kind.COMPLETE],
            kinds={kind: metrics.kinds[kind] for kind in Kind},
            landed={kind: metrics.landed[kind] for kind in Kind},
            tried_again=metrics.tried_again,
            sources=[source for source, _ in merged(reversed(self._sources))[:MAX_SOURCES]],
            sinks=[metrics.sink(loop.sink.name) for loop in self._service.deliveries.loops]
            + [sink for status in others.values() for sink in status.delivered],
        )

    def _state(self, lanes: Sequence[LaneView]) -> RunState:
        service, waiting = self._service, self._metrics.waiting
        if not waiting and service.fed and not service.endless:
            return "finished"
        if service.draining:
            return "draining"
        state = waiting_state(lanes)
        return "idle" if state == "running" and not waiting else state

    async def _read_store(self) -> None:
        """Read what only the store has. Where it does not answer in time, the latest that it answered is shown."""
        if self._store.writable:
            with suppress(StoreError, TimeoutError):
                async with asyncio.timeout(READ_S):
                    self._due = {name: await self._store.next_due_at(name) for name in self._service.lanes}
                    self._sources = await self._store.sources(MAX_SOURCES)
                    self._oldest = await self._oldest_waiting.read()
                    self._fed_at = await self._store.last_fed_at()

    def _forecast(self, now: float, readings: Mapping[str, GateReading], due: Mapping[str, float | None]) -> Forecast:
        metrics, history = self._metrics, self._history
        slowest, lanes = self._slowest, self._service.lanes.values()
        slowest.deadline_s = self._run.deadline_s
        slowest.see(metrics.tasks, now=now, fed_at=self._fed_at)
        steps = [*history.steps, history.unfinished(now, counts_of(metrics), paused=0.0)]
        without = left_out(self._service.lanes)
        trials = {name for name, lane in self._service.lanes.items() if lane.imports is not None and lane.imports.trial}
        if is_trial_alone := bool(trials) and (metrics.waiting <= metrics.blocked or not trials <= without):
            without = set()
        at_work = [lane.imports for name, lane in self._service.lanes.items() if name not in without]
        imports = [each for each in at_work if each is not None]
        has_left_out = bool(without) and (metrics.blocked > 0 or len(without) == len(readings))
        waiting = metrics.waiting - metrics.blocked
        unstarted = starts_left(imports, waiting, metrics.elsewhere)
        paces = import_paces(steps, waiting=waiting, unstarted=unstarted, polls=metrics.polls, starts=metrics.starts)
        return forecast(
            now=now,
            waiting=metrics.waiting,
            is_open=self._service.endless or not self._service.fed,
            paces=() if is_trial_alone else paces,
            lanes=[_outlook(each, due.get(name)) for name, each in readings.items() if name not in without]
            + [LaneOutlook(is_paused=True, next_due_at=now)] * has_left_out,
            polls_per_task=self._polls_per_task() or 1.0,
            times_out_at=slowest.times_out_at,
            finished=metrics.finished,
            blocked=0 if is_trial_alone else metrics.blocked,
            slowest_at=slowest.at(now, waiting=metrics.waiting, durations=[lane.durations for lane in lanes]),
            unstarted=unstarted,
        )

    def _polls_per_task(self) -> float | None:
        """Return how many polls an outcome has cost since the run began, in a fleet with those of all its members; None
        before the first outcome."""
        counts, before = counts_of(self._metrics), self._history.before
        finished = counts.finished - (before.finished if before else 0)
        polls = counts.polls - (before.polls if before and self._metrics.polls_of_fleet is not None else 0)
        return polls / finished if finished > 0 else None


def _outlook(reading: GateReading, due_at: float | None) -> LaneOutlook:
    return LaneOutlook(
        rate_per_s=reading.window_limit / reading.window_s,
        is_paused=reading.state.pause is not None,
        resume_at=reading.state.resume_at,
        next_due_at=due_at,
        daily_left=reading.daily_left,
        daily_usable=reading.daily_usable,
        resets_at=reading.resets_at,
    )


def _pace(history: History) -> PaceView:
    return PaceView(
        step_s=STEP_S,
        end_at=history.steps_end_at,
        seconds=[round(step.seconds, 1) for step in history.steps],
        polls=[step.polls for step in history.steps],
        starts=[step.started for step in history.steps],
        finished=[step.finished for step in history.steps],
        paused=[step.paused for step in history.steps],
    )
