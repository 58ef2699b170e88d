"""What the live page shows of a state without its run: counted from the rows, its outcomes read one after the other."""

import asyncio
from collections.abc import Callable, Sequence

from poller import __version__
from poller.core.learned_limit import LearnedLimit
from poller.core.model import Kind
from poller.core.record import decode
from poller.core.starts import ImportsReading
from poller.core.sums import SinkSums, SourceSums, Sums
from poller.core.timestamps import epoch, iso
from poller.engine.history import History
from poller.reports.failures.counters import Timeline
from poller.reports.ledger import merged
from poller.reports.slowest import Slowest, limits_in, outlooks, slowest_in, trials_in
from poller.reports.status import LedgerCounts, RunningProcess
from poller.schedule.forecast import Forecast, Step, forecast, recent_paces
from poller.web.context import StateContext
from poller.web.dashboard.oldest import OldestWaiting
from poller.web.dashboard.overview import MAX_SOURCES
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
from poller.web.store_limit import store_limit

RunFinder = Callable[[], tuple[int, float] | None]  # the process that works on the state, and its last heartbeat

PAGE = 500  # records read before other coroutines run; each may have a body of a megabyte
FOLLOW_S = 0.5  # of each snapshot, to read outcomes: those of a large state come little by little
IDLE_RATIO = 4  # between two counts it waits at least this many times as long as a count took


class StateOverview:
    """Takes snapshots of a state, which another process may be working on."""

    def __init__(self, state: StateContext, run: RunFinder) -> None:
        self._store, self._clock, self._run = state.store, state.clock, run
        self._history, self._timeline = History(), Timeline()
        self._after = 0  # the number of the last outcome that was read
        self._sums: Sums | None = None
        self._count_at = float("-inf")  # when to count again
        self._dead: dict[str, tuple[int, str]] = {}  # by sink: how many dead letters, and the reason of the latest
        self._oldest_waiting = OldestWaiting(state.store)
        self._state = state
        self._slowest: Slowest | None = None
        self._limits: dict[str, LearnedLimit] = {}  # by account
        self._trials: dict[str, ImportsReading] = {}  # by account, those on trial
        self._reading = asyncio.Lock()

    async def snapshot(self) -> RunSnapshot:
        """Return the state as of now."""
        async with self._reading:
            sums = await self._count()
            await self._follow()
            async with store_limit():
                oldest = await self._oldest_waiting.read() if sums.waiting else None
                self._slowest = await slowest_in(
                    self._store,
                    sums,
                    timings=self._state.timings,
                    deadline_s=self._state.deadline_s,
                    now=self._clock(),
                )
                self._limits = await limits_in(self._store, sums.accounts)
                self._trials = {} if self._run() is None else await trials_in(self._store, sums)
        now, at_work = self._clock(), self._run()
        lanes = [
            lane_view(name, each, due_at=None, reading=None, imports=self._trials.get(name))
            for name, each in sums.accounts.items()
        ]
        is_fed = all(source.ended for source in sums.sources)
        return RunSnapshot(
            is_read_only=True,
            run=None if at_work is None else RunningProcess(pid=at_work[0], heartbeat_at=iso(at_work[1])),
            now=now,
            version=__version__,
            started_at=None,
            state=_state(sums, lanes, is_fed=is_fed, is_at_work=at_work is not None),
            ledger=_ledger(sums),
            store=None,
            polls=sums.polls,
            polls_per_task=sums.polls / sums.finished if sums.finished else None,
            rejected=sum(source.rejected for source in sums.sources),
            is_fed=is_fed,
            oldest_waiting=oldest,
            forecast=self._forecast(sums, now, is_fed=is_fed, is_at_work=at_work is not None),
            lanes=lanes,
            pace=self._pace(),
            took=spread_view(self._history.took),
            late=spread_view(self._history.late),
            reasons=reason_views(self._history.reasons),
            hosts=hosts_view(self._history.hosts),
            failed_polls=[],
            sinks={},
            refusals={name: reason for name, (_, reason) in self._dead.items()},
            warning=None,
            starts=sums.starts,
        )

    async def _count(self) -> Sums:
        """Return the sums of the state; those of a large one may be some seconds old."""
        loop = asyncio.get_running_loop()
        if self._sums is None or loop.time() >= self._count_at:
            began_at = loop.time()
            async with store_limit():
                self._sums = await self._store.sums()
            self._history.count_reasons(self._sums)
            await self._read_refusals(self._sums.sinks)
            self._count_at = loop.time() + IDLE_RATIO * (loop.time() - began_at)
        return self._sums

    async def _read_refusals(self, sinks: Sequence[SinkSums]) -> None:
        for sink in sinks:
            if sink.dead != self._dead.get(sink.name, (0, ""))[0]:
                async with store_limit():
                    latest = await self._store.dead_letters(sink.name, limit=1, newest_first=True)
                self._dead[sink.name] = (sink.dead, latest[0].reason if latest else "")

    async def _follow(self) -> None:
        """Read the outcomes since the last time, as many as the time allows."""
        loop = asyncio.get_running_loop()
        ends_at = loop.time() + FOLLOW_S
        while loop.time() <= ends_at:
            async with store_limit():
                page = await self._store.records(self._after, PAGE)
            for record in page:
                self._after = record.number
                self._history.add_earlier(record.body)
                fields = decode(record.body)
                if (seen_at := epoch(fields.seen_at)) is not None:
                    self._timeline.add(seen_at, good=fields.kind == Kind.COMPLETE)
            if not page:
                return
            await asyncio.sleep(0)

    def _pace(self) -> PaceView:
        spans, span_s = self._timeline.spans(), self._timeline.span_s
        return PaceView(
            step_s=span_s,
            end_at=spans[-1][0] + span_s if spans else 0.0,
            seconds=[span_s] * len(spans),
            polls=[],
            starts=[],
            finished=[good + bad for _, good, bad in spans],
            paused=[0.0] * len(spans),
        )

    def _forecast(self, sums: Sums, now: float, *, is_fed: bool, is_at_work: bool) -> Forecast:
        if sums.waiting and not is_at_work:
            return Forecast(state="blocked")
        spans, span_s = self._timeline.spans(), self._timeline.span_s
        steps = [Step(seconds=span_s, polls=0, finished=good + bad, paused=0.0) for _, good, bad in spans]
        if spans and (since_s := now - spans[-1][0] - span_s) > 0:
            steps.append(Step(seconds=since_s, polls=0, finished=0, paused=0.0))
        lanes = outlooks(sums.accounts, self._limits)
        slowest = self._slowest
        return forecast(
            now=now,
            waiting=sums.waiting,
            is_open=not is_fed,
            paces=() if self._trials else recent_paces(steps),
            lanes=lanes,
            times_out_at=slowest.times_out_at if slowest else None,
            finished=sums.finished,
            blocked=sums.blocked,
            unstarted=sums.unstarted,
            slowest_at=slowest.at if slowest else None,
        )


def _state(sums: Sums, lanes: Sequence[LaneView], *, is_fed: bool, is_at_work: bool) -> RunState:
    if not sums.waiting:
        return "idle" if is_at_work and not is_fed else "finished"
    return waiting_state(lanes) if is_at_work else "stopped"


def _ledger(sums: Sums) -> LedgerCounts:
    sources: list[SourceSums] = [source for source, _ in merged(reversed(sums.sources))[:MAX_SOURCES]]
    return LedgerCounts(
        tasks=sums.waiting + sums.finished,
        waiting=sums.waiting,
        finished=sums.finished,
        complete=sums.kinds.get(Kind.COMPLETE, 0),
        kinds={kind: sums.kinds.get(kind, 0) for kind in Kind},
        landed={kind: sums.landed.get(kind, 0) for kind in Kind},
        tried_again=sums.tried_again,
        sources=sources,
        sinks=[sink for sink in sums.sinks if sink.attached],
    )
