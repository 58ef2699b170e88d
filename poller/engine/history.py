"""The last hour of a run, in memory: its pace, its reasons with samples, and how long imports took.

It receives finished records only; the pace is sampled from the counters, so that a poll costs nothing here.
"""

import asyncio
import math
import re
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import NamedTuple

import orjson

from poller.core.columns import source_file
from poller.core.histogram import IMPORT_BOUNDS_S, Histogram
from poller.core.model import Kind, Record
from poller.core.protocols import Clock
from poller.core.reason import reason_of
from poller.core.record import RecordFields, decode, names_file
from poller.core.sums import Sums
from poller.core.timestamps import epoch
from poller.engine.host_counts import HostCounts
from poller.engine.metrics import Metrics
from poller.schedule.forecast import Step

STEP_S = 10.0
STEPS = 360  # an hour
SAMPLES = 5  # of each reason, the latest
REASONS = 200  # counted one by one; rarer ones that come later count together
LONGEST_REF = 1000  # bytes of a `ref` that a sample shows
OTHER = "other reasons"
_LATER = re.compile(rb'"row":"[^"]{1,120}~')  # of an import, or in what was fed with an id


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One task that ended for a reason."""

    account: str
    task_id: str
    ref: str | None  # JSON as the person fed it, cut where it is long
    correlation_id: str | None


@dataclass(slots=True)
class RecentReason:
    """One reason why tasks were not plainly complete: how many, and the latest of them."""

    count: int = 0
    landed: int = 0  # of these: a file is there all the same
    kind: str | None = None  # of the latest
    samples: deque[Sample] = field(default_factory=lambda: deque(maxlen=SAMPLES))


class Counts(NamedTuple):
    """The counters of a run at one instant."""

    polls: int
    finished: int
    starts: int = 0


def counts_of(metrics: Metrics) -> Counts:
    """Return the counters; the polls of a fleet are those of all its members."""
    polls = metrics.polls if metrics.polls_of_fleet is None else metrics.polls_of_fleet
    return Counts(polls=polls, finished=metrics.finished, starts=metrics.starts)


class History:
    """The recent past of one run. `STEPS` steps of `STEP_S` seconds, whatever the number of polls in them."""

    def __init__(self) -> None:
        self.steps: deque[Step] = deque(maxlen=STEPS)
        self.steps_end_at = 0.0  # wall clock; 0: no step yet
        self.reasons: dict[str, RecentReason] = {}
        self.hosts = HostCounts()  # of the records that were received
        self.took = Histogram(IMPORT_BOUNDS_S)  # from request to completion, both HubSpot's own instants
        self.late = Histogram(IMPORT_BOUNDS_S)  # from completion to the poll that saw it
        self.before: Sums | None = None  # the sums of earlier runs; None: not begun
        self.began_at = 0.0
        self._counts = Counts(polls=0, finished=0)  # at the end of the latest step

    def begin(self, now: float, sums: Sums) -> None:
        """Start from the sums of earlier runs."""
        self.before, self.began_at = sums, now
        self.steps_end_at, self._counts = now, Counts(polls=0, finished=sums.finished)
        self.count_reasons(sums)

    def count_reasons(self, sums: Sums) -> None:
        """Take over the counts of the reasons; their samples stay."""
        for name, count, landed in sums.reasons:
            reason = self.reasons.setdefault(name, RecentReason())
            reason.count, reason.landed = count, landed

    def add_earlier(self, body: bytes) -> None:
        """Measure and sample the stored record of an earlier run, whose outcome is counted already."""
        try:
            fields = decode(body)
            errors, ref = orjson.loads(bytes(fields.errors)), orjson.loads(bytes(fields.ref))
        except ValueError:  # not a record, or nested deeper than orjson reads
            return
        self._measure(fields.requested_at, fields.completed_at, seen_at=None)
        landed = names_file(fields.result) if fields.landed is None else fields.landed
        self.hosts.add(ref, landed=landed, is_again=_is_later_attempt(body))
        found = reason_of(fields.kind, errors or fields.message, source_file(ref), fields.http_status)
        name = found.text if found is not None else fields.kind
        if fields.kind == Kind.NOT_FOUND:  # a record of an older version does not contain the HTTP status
            name = next((known for known in self.reasons if known.endswith(name)), name)
        if (reason := self.reasons.get(name)) is not None:
            reason.kind = fields.kind
            reason.samples.append(_sample(fields))

    def finish(self, record: Record) -> None:
        """A task has its outcome."""
        self._measure(record.requested_at, record.completed_at, seen_at=record.seen_at)
        if record.ref is None:
            self.hosts.add(None, landed=record.landed)
        else:
            with suppress(ValueError):  # a row that is nested deeper than orjson reads
                is_again = _is_later_attempt(record.body)
                self.hosts.add(orjson.loads(record.ref), landed=record.landed, is_again=is_again)
        if record.reason is not None:
            name = record.reason if record.reason in self.reasons or len(self.reasons) < REASONS else OTHER
            reason = self.reasons.setdefault(name, RecentReason())
            reason.count += 1
            reason.landed += record.landed
            reason.kind = record.kind.value
            reason.samples.append(_sample(record))

    def _measure(self, requested: str | None, completed: str | None, *, seen_at: float | None) -> None:
        requested_at, completed_at = epoch(requested), epoch(completed)
        if completed_at is None:
            return
        if requested_at is not None and requested_at <= completed_at:
            self.took.add(completed_at - requested_at)
        if seen_at is not None:
            self.late.add(max(0.0, seen_at - completed_at))

    async def watch(self, clock: Clock, counts: Callable[[], Counts], *, paused: Callable[[], float]) -> None:
        """Note the counters every `STEP_S` seconds of the wall clock, until cancelled."""
        self.steps_end_at, self._counts = clock(), counts()
        while True:
            await asyncio.sleep(_until_next_step_s(clock()))
            self.step(clock(), counts(), paused=paused())

    def step(self, now: float, counts: Counts, *, paused: float) -> None:
        """Close a step. Steps that were missed, because the machine slept, count as empty."""
        missed = min(max(round((now - self.steps_end_at) / STEP_S) - 1, 0), STEPS)
        self.steps.extend([Step(seconds=STEP_S, polls=0, finished=0, paused=paused)] * missed)
        self.steps.append(self.unfinished(now - missed * STEP_S, counts, paused=paused))
        self.steps_end_at, self._counts = now, counts

    def unfinished(self, now: float, counts: Counts, *, paused: float) -> Step:
        """Return the unfinished step, as of now."""
        return Step(
            seconds=min(max(0.0, now - self.steps_end_at), 2 * STEP_S),  # the wall clock may jump
            polls=counts.polls - self._counts.polls,
            finished=counts.finished - self._counts.finished,
            started=counts.starts - self._counts.starts,
            paused=paused,
        )


def _until_next_step_s(now: float) -> float:
    """Return the time to the end of a step: a round time, at least half a step away."""
    left_s = STEP_S - math.fmod(now, STEP_S)
    return left_s if left_s >= STEP_S / 2 else left_s + STEP_S


def _is_later_attempt(body: bytes) -> bool:
    """Whether a record is of a row that was tried before. Most records are not parsed."""
    return _LATER.search(body) is not None and "~" in str(orjson.loads(body).get("row") or "")


def _sample(task: Record | RecordFields) -> Sample:
    ref = bytes(task.ref or b"null")
    shown = None if ref == b"null" else ref[:LONGEST_REF].decode(errors="replace") + "…" * (len(ref) > LONGEST_REF)
    return Sample(account=task.account, task_id=task.task_id, ref=shown, correlation_id=task.correlation_id)
