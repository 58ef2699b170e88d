"""What a run did lately, in memory: its pace over the last hour, its reasons with samples, how long imports took.

The engine tells it finished records only; the pace is sampled from the counters, so that a poll costs nothing here.
"""

import asyncio
import math
from bisect import bisect_left
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

import msgspec
import orjson

from poller.core.model import Kind, Record, Sums
from poller.core.protocols import Clock
from poller.core.record import UNKNOWN_ID
from poller.core.timestamps import epoch
from poller.hubspot.classify import first_reason
from poller.schedule.forecast import Step

STEP_S = 10.0
STEPS = 360  # an hour
SAMPLES = 5  # of each reason, the latest
REASONS = 200  # that are told apart; rarer ones that come later count together
LONGEST_REF = 1000  # bytes of what the person fed that a sample shows
OTHER = "other reasons"

MINUTE, HOUR = 60.0, 3600.0
BOUNDS_S = (
    *(1.0, 2.0, 3.0, 5.0, 7.0, 10.0, 15.0, 20.0, 30.0, 45.0),
    *(factor * MINUTE for factor in (1.0, 1.5, 2.0, 3.0, 5.0, 7.0, 10.0, 15.0, 20.0, 30.0, 45.0)),
    *(factor * HOUR for factor in (1.0, 1.5, 2.0, 3.0, 5.0, 8.0, 12.0, 24.0)),
)


class _FinishedFields(msgspec.Struct):
    """What is read of a record; msgspec skips the rest, which makes this 0.5 µs."""

    task_id: str
    account: str
    kind: str
    requested_at: str | None = None
    completed_at: str | None = None
    ref: msgspec.Raw = msgspec.Raw(b"null")
    correlation_id: str | None = None


_fields = msgspec.json.Decoder(_FinishedFields)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One task that ended for a reason."""

    account: str
    task_id: str
    ref: str | None  # JSON as the person fed it, cut where it is long
    correlation_id: str | None


@dataclass(slots=True)
class RecentReason:
    """Why tasks were not plainly complete, how many, and the latest of them."""

    count: int = 0
    kind: str | None = None  # of the latest
    samples: deque[Sample] = field(default_factory=lambda: deque(maxlen=SAMPLES))


class Spread:
    """How some seconds are spread: counts between `BOUNDS_S`."""

    def __init__(self) -> None:
        self.counts = [0] * (len(BOUNDS_S) + 1)  # the last one: longer than the last bound

    @property
    def total(self) -> int:
        return sum(self.counts)

    def add(self, seconds: float) -> None:
        self.counts[bisect_left(BOUNDS_S, seconds)] += 1

    def quantile(self, share: float) -> float | None:
        """Return below how many seconds this share lies, to about a sixth; None where nothing was measured."""
        left = share * self.total
        for index, count in enumerate(self.counts):
            if count and left <= count:
                return _inside(index, left / count)
            left -= count
        return None


def _inside(index: int, share: float) -> float:
    """Return a point of a band, on the logarithmic scale on which the bands lie; the first one begins at 0."""
    if index == 0:
        return BOUNDS_S[0] * share
    if index == len(BOUNDS_S):
        return BOUNDS_S[-1]
    low, high = BOUNDS_S[index - 1], BOUNDS_S[index]
    return float(low * (high / low) ** share)


class History:
    """The recent past of one run. `STEPS` steps of `STEP_S` seconds, whatever the number of polls in them."""

    def __init__(self) -> None:
        self.steps: deque[Step] = deque(maxlen=STEPS)
        self.steps_end_at = 0.0  # wall clock; 0: no step yet
        self.reasons: dict[str, RecentReason] = {}
        self.took = Spread()  # from request to completion, both HubSpot's own instants
        self.late = Spread()  # from completion to the poll that saw it
        self.before: Sums | None = None  # what earlier runs left; None: not begun
        self.began_at = 0.0
        self._polls = self._finished = 0

    def begin(self, now: float, sums: Sums) -> None:
        """Take over what earlier runs left."""
        self.before, self.began_at = sums, now
        self.steps_end_at, self._polls, self._finished = now, 0, sums.finished
        for reason, count in sums.reasons:
            self.reasons[reason] = RecentReason(count=count)

    def recall(self, body: bytes) -> None:
        """Take a record of an earlier run, whose outcome is counted already, as a measure and a sample."""
        if (fields := _read(body)) is None:
            return
        self._measure(fields, seen_at=None)
        name = first_reason(_errors(body)) or fields.kind.replace("_", " ")
        if fields.kind == Kind.NOT_FOUND:
            name = next((known for known in self.reasons if known.endswith(UNKNOWN_ID)), name)
        if (reason := self.reasons.get(name)) is not None:
            reason.kind = fields.kind
            reason.samples.append(_sample(fields))

    def finish(self, record: Record) -> None:
        """A task has its outcome."""
        if (fields := _read(record.body)) is None:
            return
        self._measure(fields, seen_at=record.seen_at)
        if record.reason is not None:
            name = record.reason if record.reason in self.reasons or len(self.reasons) < REASONS else OTHER
            reason = self.reasons.setdefault(name, RecentReason())
            reason.count += 1
            reason.kind = record.kind.value
            reason.samples.append(_sample(fields))

    def _measure(self, fields: _FinishedFields, *, seen_at: float | None) -> None:
        requested_at, completed_at = epoch(fields.requested_at), epoch(fields.completed_at)
        if completed_at is None:
            return
        if requested_at is not None and requested_at <= completed_at:
            self.took.add(completed_at - requested_at)
        if seen_at is not None:
            self.late.add(max(0.0, seen_at - completed_at))

    async def watch(
        self, clock: Clock, *, polls: Callable[[], int], finished: Callable[[], int], paused: Callable[[], bool]
    ) -> None:
        """Note the counters every `STEP_S` seconds of the wall clock, until cancelled."""
        self.steps_end_at, self._polls, self._finished = clock(), polls(), finished()
        while True:
            await asyncio.sleep(_until_next_step_s(clock()))
            self.step(clock(), polls(), finished(), paused=paused())

    def step(self, now: float, polls: int, finished: int, *, paused: bool) -> None:
        """Close a step. Steps that nobody noted, for the machine slept, count as empty."""
        missed = min(max(round((now - self.steps_end_at) / STEP_S) - 1, 0), STEPS)
        self.steps.extend([Step(seconds=STEP_S, polls=0, finished=0, paused=paused)] * missed)
        self.steps.append(self.unfinished(now - missed * STEP_S, polls, finished, paused=paused))
        self.steps_end_at, self._polls, self._finished = now, polls, finished

    def unfinished(self, now: float, polls: int, finished: int, *, paused: bool) -> Step:
        """Return the step at work, as of now."""
        seconds = min(max(0.0, now - self.steps_end_at), 2 * STEP_S)  # whatever becomes of the wall clock
        return Step(seconds=seconds, polls=polls - self._polls, finished=finished - self._finished, paused=paused)


def _until_next_step_s(now: float) -> float:
    """Return how far the end of a step is: at a round time, and not so near that the step would tell nothing."""
    left_s = STEP_S - math.fmod(now, STEP_S)
    return left_s if left_s >= STEP_S / 2 else left_s + STEP_S


def _read(body: bytes) -> _FinishedFields | None:
    try:
        return _fields.decode(body)
    except (msgspec.MsgspecError, RecursionError):
        return None


def _errors(body: bytes) -> object:
    try:
        return orjson.loads(body).get("errors")
    except ValueError:
        return None  # nests deeper than orjson reads


def _sample(fields: _FinishedFields) -> Sample:
    ref = bytes(fields.ref)
    shown = None if ref == b"null" else ref[:LONGEST_REF].decode(errors="replace") + "…" * (len(ref) > LONGEST_REF)
    return Sample(account=fields.account, task_id=fields.task_id, ref=shown, correlation_id=fields.correlation_id)
