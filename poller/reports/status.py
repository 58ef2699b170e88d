"""The ledger for programs, and as one line for people who watch it. Pure.

`LedgerCounts` is the one JSON shape of the ledger: `poller status --json` and the live page carry it.
"""

from collections.abc import Sequence

from msgspec import Struct

from poller.core.accounts import AccountState, Pause
from poller.core.model import Kind
from poller.core.sums import SinkSums, SourceSums, StartSums, Sums
from poller.core.text import counted, printable
from poller.core.timestamps import iso
from poller.reports.fleet import FleetSnapshot, fleet_words
from poller.reports.row import until_text
from poller.reports.task import Instant, instant
from poller.schedule.forecast import LaneOutlook, Step, forecast, recent_paces, time_left


class LedgerCounts(Struct, frozen=True, kw_only=True):
    """Tasks, lines and records, each counted in exactly one place."""

    tasks: int
    waiting: int
    finished: int
    complete: int
    kinds: dict[Kind, int]
    landed: dict[Kind, int]  # by kind: how many of these have a file
    tried_again: int = 0  # of `finished`: attempts at rows that have a later one, which counts in their place
    sources: Sequence[SourceSums]
    sinks: Sequence[SinkSums]


class AccountView(Struct, frozen=True, kw_only=True):
    """One account's pause and its requests of the day."""

    pause: Pause | None
    pause_detail: str | None
    resume_at: Instant | None
    paused_s: float
    day: str | None
    day_requests: int


class ReasonCount(Struct, frozen=True, kw_only=True):
    """A reason why tasks are not plainly complete, and how many of them have it."""

    reason: str
    count: int
    landed: int = 0  # of these: a file is there all the same


class RunningProcess(Struct, frozen=True, kw_only=True):
    """The process that works on the state."""

    pid: int
    heartbeat_at: Instant


class LedgerView(LedgerCounts, frozen=True, kw_only=True):
    """The whole ledger. docs/answers.md describes it; keys are only added."""

    at: Instant
    balanced: bool
    differences: Sequence[str]
    pruned: int
    polls: int
    polls_per_task: float | None
    starts: StartSums | None
    accounts: dict[str, AccountView]
    reasons: list[ReasonCount]
    run: RunningProcess | None
    fleet: FleetSnapshot | None = None  # None: one process owns the state, or none


def ledger_view(
    sums: Sums,
    *,
    differences: Sequence[str],
    heartbeat: tuple[int, float] | None,
    now: float,
    fleet: FleetSnapshot | None = None,
) -> LedgerView:
    """Return the ledger for programs. `differences` are the sums that do not hold; `heartbeat` is the process that
    works on the state, with the instant of its last heartbeat."""
    tasks = sums.waiting + sums.finished
    return LedgerView(
        at=iso(now),
        balanced=not differences,
        differences=differences,
        tasks=tasks,
        waiting=sums.waiting,
        finished=sums.finished,
        complete=sums.kinds.get(Kind.COMPLETE, 0),
        kinds={kind: sums.kinds.get(kind, 0) for kind in Kind},
        landed={kind: sums.landed.get(kind, 0) for kind in Kind},
        tried_again=sums.tried_again,
        pruned=sums.pruned,
        polls=sums.polls,
        polls_per_task=round(sums.polls / tasks, 3) if tasks else None,
        starts=sums.starts,
        sources=sums.sources,
        sinks=sums.sinks,
        accounts={name: account_view(state) for name, state in sums.accounts.items()},
        reasons=[ReasonCount(reason=reason, count=count, landed=landed) for reason, count, landed in sums.reasons],
        run=None if heartbeat is None else RunningProcess(pid=heartbeat[0], heartbeat_at=iso(heartbeat[1])),
        fleet=fleet,
    )


def account_view(state: AccountState) -> AccountView:
    """Return an account's pause and requests for programs."""
    return AccountView(
        pause=Pause(state.pause) if state.pause else None,
        pause_detail=state.pause_detail,
        resume_at=instant(state.resume_at),
        paused_s=round(state.paused_s, 3),
        day=state.day or None,
        day_requests=state.day_requests,
    )


def status_line(
    sums: Sums,
    *,
    now: float,
    before: tuple[float, int] | None,
    is_running: bool = True,
    fleet: FleetSnapshot | None = None,
    unsure_until: float | None = None,
) -> str:
    """Return the ledger in one line; `before` is an earlier instant with the number of finished tasks then.
    `unsure_until`: when the first row whose start got no answer is due."""
    tasks = sums.waiting + sums.finished
    share = f" ({sums.finished / tasks:.1%})" if tasks else ""
    parts = [
        f"{sums.finished:,} of {tasks:,} finished{share}",
        f"{sum(sums.landed.values()):,} landed",
        counted(sums.polls, "poll"),
    ]
    parts += _pace(sums, now, before) if is_running else []
    if (starts := sums.starts) is not None and sums.waiting:
        parts += [f"{starts.unstarted:,} unstarted"]
        parts += [f"{starts.unsure:,} unsure{until_text(unsure_until, now)}"] if starts.unsure else []
    undelivered = sum(sink.undelivered for sink in sums.sinks if sink.attached)
    parts += [f"{undelivered:,} undelivered"] if undelivered else []
    parts += [
        f"account {name} is paused: {printable(state.pause)}" for name, state in sums.accounts.items() if state.pause
    ]
    parts += [] if fleet is None else fleet_words(fleet)
    parts += [] if is_running else ["no run is active"]
    return f"{iso(now)[:19]}Z  {', '.join(parts)}"


def _pace(sums: Sums, now: float, before: tuple[float, int] | None) -> list[str]:
    """Return the pace since `before`, and the time left where it can be forecast."""
    if before is None or now <= before[0] or not sums.waiting or sums.finished <= before[1]:
        return []
    step = Step(seconds=now - before[0], polls=0, finished=sums.finished - before[1], paused=0.0)
    lanes = [LaneOutlook(is_paused=bool(state.pause), resume_at=state.resume_at) for state in sums.accounts.values()]
    cast = forecast(
        now=now,
        waiting=sums.waiting,
        finished=sums.finished,
        paces=recent_paces([step]),
        lanes=lanes,
        blocked=sums.blocked,
        unstarted=sums.unstarted,
    )
    left = time_left(cast, now)
    return [f"{step.finished / step.seconds:.3g} a second", *([left] if left else [])]
