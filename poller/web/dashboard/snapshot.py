"""The JSON that the live page shows: of a run at work, or of a state. Pure but for the cache.

docs/answers.md describes it; keys are only added.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Literal

from msgspec import Struct
from msgspec.json import encode

from poller.core.accounts import AccountState, GateReading, Pause
from poller.core.histogram import Histogram
from poller.core.protocols import Clock
from poller.core.starts import ImportsReading
from poller.core.sums import StartSums
from poller.core.text import PAUSE_TEXT, pause_text
from poller.engine.failures import DominantReason
from poller.engine.history import RecentReason, Sample
from poller.engine.host_counts import HostCounts
from poller.reports.fleet import FleetSnapshot
from poller.reports.status import LedgerCounts, ReasonCount, RunningProcess
from poller.schedule.forecast import Forecast
from poller.web.dashboard.oldest import OldestView
from poller.web.readiness import SinkReadiness, StoreReadiness

FRESH_S = 1.0  # the age up to which a snapshot is reused for the next viewer
TOP_REASONS = 12
TOP_HOSTS = 8

RunState = Literal["running", "idle", "paused", "stuck", "draining", "finished", "stopped"]


class LaneView(Struct, frozen=True, kw_only=True):
    """One account: its limits and its pause."""

    account: str
    due_at: float | None
    pause: Pause | None
    pause_detail: str | None
    resume_at: float | None
    meaning: str | None  # of the pause, for people
    needs_person: bool
    reading: GateReading | None  # None: only the run knows it
    timing: str | None = None  # what its polls follow from, for people
    imports: ImportsReading | None = None  # None: it starts none
    replica: str | None = None  # that polls it; None: this process


class PaceView(Struct, frozen=True, kw_only=True):
    """The last hour, or all of a state's time, in steps, oldest first: one number of each list is one step."""

    step_s: float
    end_at: float
    seconds: list[float]
    polls: list[int]  # empty where only the run knows them
    starts: list[int]  # as `polls`
    finished: list[int]
    paused: list[float]  # the share of the accounts that were paused


class SpreadView(Struct, frozen=True, kw_only=True):
    """How durations are distributed: counts up to each bound, the last one beyond."""

    bounds_s: Sequence[float]
    counts: list[int]
    total: int
    median_s: float | None
    p95_s: float | None


class RecentReasonView(ReasonCount, frozen=True, kw_only=True):
    """A reason with its latest tasks, the latest first."""

    kind: str | None
    samples: list[Sample]


class HostView(Struct, frozen=True, kw_only=True):
    """What landed of one host's files."""

    host: str
    landed: int
    not_landed: int


class HostsView(Struct, frozen=True, kw_only=True):
    """What landed by host: those of which most did not land first."""

    seen: int  # finished tasks that were looked at: since the run began, and the latest before
    counted: int  # of these: with a URL in their row
    total: int  # hosts
    hosts: list[HostView]


class RunSnapshot(Struct, frozen=True, kw_only=True):
    """A run now, or a state, as the live page shows it."""

    is_read_only: bool  # nothing can be changed here: it is a state, not its run
    run: RunningProcess | None  # the process that works on the state
    now: float
    version: str
    started_at: float | None
    state: RunState
    ledger: LedgerCounts
    store: StoreReadiness | None  # None: only the run knows it
    polls: int  # of this run; of a state: of all
    polls_per_task: float | None
    rejected: int  # lines of this run; of a state: of all
    is_fed: bool  # no more input comes
    oldest_waiting: OldestView | None
    forecast: Forecast
    lanes: list[LaneView]
    pace: PaceView
    took: SpreadView
    late: SpreadView
    reasons: list[RecentReasonView]
    hosts: HostsView
    failed_polls: list[ReasonCount]
    sinks: dict[str, SinkReadiness]
    refusals: dict[str, str]  # by sink: why it refused its latest dead letter of this run
    warning: DominantReason | None
    fleet: FleetSnapshot | None = None  # None: one process owns the state
    starts: StartSums | None = None  # of a state to which rows were fed; None: see each lane's `imports`


class Snapshots:
    """Encodes snapshots, each for all viewers of the same second."""

    def __init__(self, take: Callable[[], Awaitable[RunSnapshot]], *, clock: Clock) -> None:
        self._take, self._clock = take, clock
        self._encoded = b""
        self._encoded_at = float("-inf")
        self._taking = asyncio.Lock()

    async def json(self, *, fresh: bool = False) -> bytes:
        """Return the snapshot as JSON; unless `fresh`, it may be up to a second old."""
        async with self._taking:
            if fresh or not 0 <= self._clock() - self._encoded_at < FRESH_S:
                self._encoded, self._encoded_at = encode(await self._take()), self._clock()
            return self._encoded


def lane_view(
    name: str,
    state: AccountState,
    *,
    due_at: float | None,
    reading: GateReading | None,
    timing: str | None = None,
    imports: ImportsReading | None = None,
) -> LaneView:
    """Return an account for the page."""
    return LaneView(
        account=name,
        due_at=due_at,
        pause=Pause(state.pause) if state.pause else None,
        pause_detail=state.pause_detail,
        resume_at=state.resume_at,
        meaning=pause_text(state.pause, name) if state.pause and state.pause in PAUSE_TEXT else None,
        needs_person=bool(state.pause and Pause(state.pause).needs_person),
        reading=reading,
        timing=timing,
        imports=imports,
    )


def waiting_state(lanes: Sequence[LaneView]) -> RunState:
    """Return the state of a run whose tasks wait, by its accounts' pauses."""
    if any(lane.needs_person for lane in lanes):
        return "stuck"
    return "paused" if lanes and all(lane.pause for lane in lanes) else "running"


def spread_view(spread: Histogram) -> SpreadView:
    """Return how durations are distributed."""
    return SpreadView(
        bounds_s=spread.bounds,
        counts=spread.counts,
        total=spread.total,
        median_s=spread.quantile(0.5),
        p95_s=spread.quantile(0.95),
    )


def reason_views(reasons: Mapping[str, RecentReason]) -> list[RecentReasonView]:
    """Return the most frequent reasons."""
    top = sorted(reasons.items(), key=lambda item: (-item[1].count, item[0]))[:TOP_REASONS]
    return [
        RecentReasonView(
            reason=name, count=found.count, landed=found.landed, kind=found.kind, samples=[*reversed(found.samples)]
        )
        for name, found in top
    ]


def hosts_view(hosts: HostCounts) -> HostsView:
    """Return the hosts of which most files did not land."""
    worst = [
        HostView(host=name, landed=each.landed, not_landed=each.not_landed) for name, each in hosts.worst(TOP_HOSTS)
    ]
    return HostsView(seen=hosts.seen, counted=hosts.counted(), total=len(hosts.hosts), hosts=worst)
