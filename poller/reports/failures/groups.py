"""Aggregates finished tasks to a failure report: groups by reason, hosts, extensions, times. Pure, bounded memory."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from poller.core.model import Kind
from poller.core.reason import Reason
from poller.core.text import kind_label, redacted_url
from poller.reports.failures.counters import BoundedCounter, DurationCounts, Timeline
from poller.reports.finished_task import DIFFERS, FinishedTask
from poller.reports.retryable import RetryAdvice

MOST_GROUPS = 400  # at a time
MOST_NAMES = 4000  # hosts, and extensions, of all tasks
MOST_NAMES_OF_GROUP = 200
SAMPLES = 5  # of each reason
LONGEST_REF = 2000  # bytes of a sample's row; a longer one is not kept
TOP_NAMES = 10
NO_URL = "(no url)"
OTHER_REASONS = Reason("other", None, "rarer reasons")


@dataclass(frozen=True, slots=True, kw_only=True)
class FailureSample:
    """One task of a group."""

    task_id: str
    account: str
    url: str | None  # the person's own, redacted
    ref: Mapping[str, object]
    correlation_id: str | None
    file_id: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ReasonGroup:
    """All tasks that failed for one reason."""

    reason: Reason
    count: int
    retryable: int  # of these
    why: str  # of the first retryable task, or of the first task where none is
    why_not: str  # of the first task that is not retryable; empty where all are
    hosts: tuple[tuple[str, int], ...]
    extensions: tuple[tuple[str, int], ...]
    samples: tuple[FailureSample, ...]
    first_at: float | None
    last_at: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class FailureShare:
    """How many tasks of one source host, or of one extension, failed."""

    name: str
    failed: int
    all: int


@dataclass(frozen=True, slots=True, kw_only=True)
class FailureReport:
    """A report. `failed` are tasks that are not `complete`, or whose file is not the person's."""

    finished: int
    failed: int
    retryable: int
    kinds: Mapping[str, int]
    groups: tuple[ReasonGroup, ...]  # the most frequent first; their counts add up to `failed`
    hosts: tuple[FailureShare, ...]  # the most failures first
    extensions: tuple[FailureShare, ...]
    compared: Mapping[str, int]  # md5, size → files compared
    span_s: float
    timeline: tuple[tuple[float, int, int], ...]  # begin of a span, successes, failures
    durations: tuple[int, ...]  # by DURATION_BOUNDS_S


@dataclass(slots=True)
class _GroupCounts:
    count: int = 0
    retryable: int = 0
    why: str = ""
    why_not: str = ""
    hosts: BoundedCounter = field(default_factory=lambda: BoundedCounter(MOST_NAMES_OF_GROUP))
    extensions: BoundedCounter = field(default_factory=lambda: BoundedCounter(MOST_NAMES_OF_GROUP))
    samples: list[FailureSample] = field(default_factory=list)
    first_at: float | None = None
    last_at: float | None = None

    def add(self, task: FinishedTask, advice: RetryAdvice) -> None:
        self.count += 1
        self.retryable += advice.retryable
        self.hosts.add(task.host or NO_URL)
        self.extensions.add(task.extension)
        if advice.retryable:
            self.why = self.why or advice.why
        else:
            self.why_not = self.why_not or advice.why
        if len(self.samples) < SAMPLES:
            self.samples.append(_sample(task))
        if task.seen_at is not None:
            self.first_at = task.seen_at if self.first_at is None else min(self.first_at, task.seen_at)
            self.last_at = task.seen_at if self.last_at is None else max(self.last_at, task.seen_at)


def _sample(task: FinishedTask) -> FailureSample:
    return FailureSample(
        task_id=task.task_id,
        account=task.account,
        url=redacted_url(task.url) if task.url else None,
        ref=task.ref if task.ref_bytes <= LONGEST_REF else {},
        correlation_id=task.correlation_id,
        file_id=task.file_id,
    )


class FailureAggregator:
    """Adds up finished tasks; `report` returns the sums."""

    def __init__(self) -> None:
        self._kinds: Counter[str] = Counter()
        self._compared: Counter[str] = Counter()
        self._groups: dict[Reason, _GroupCounts] = {}
        self._hosts, self._failed_hosts = BoundedCounter(MOST_NAMES), BoundedCounter(MOST_NAMES)
        self._extensions, self._failed_extensions = BoundedCounter(MOST_NAMES), BoundedCounter(MOST_NAMES)
        self._timeline = Timeline()
        self._durations = DurationCounts()

    def add(self, task: FinishedTask, advice: RetryAdvice | None) -> None:
        """Add one task; `advice` is given exactly where it failed."""
        self._kinds[task.kind] += 1
        self._compared.update(task.compared)
        self._hosts.add(task.host or NO_URL)
        self._extensions.add(task.extension)
        if task.seen_at is not None:
            self._timeline.add(task.seen_at, good=task.reason is None)
        if task.import_s is not None:
            self._durations.add(task.import_s)
        if task.reason is not None and advice is not None:
            self._add_failure(task, task.reason, advice)

    def _add_failure(self, task: FinishedTask, reason: Reason, advice: RetryAdvice) -> None:
        self._failed_hosts.add(task.host or NO_URL)
        self._failed_extensions.add(task.extension)
        self._groups.setdefault(reason, _GroupCounts()).add(task, advice)
        if len(self._groups) > MOST_GROUPS:
            self._merge_rare()

    def _merge_rare(self) -> None:
        """Merge the rarer half of the reasons into one group, so that a late reason finds room."""
        others = self._groups.pop(OTHER_REASONS, _GroupCounts())
        latest_first = reversed(list(self._groups.items()))
        ranked = sorted(latest_first, key=lambda pair: -pair[1].count)
        for _, group in ranked[MOST_GROUPS // 2 :]:
            others.count += group.count
            others.retryable += group.retryable
        others.why = others.why_not = "the reasons differ"
        self._groups = dict(ranked[: MOST_GROUPS // 2]) | {OTHER_REASONS: others}

    def report(self) -> FailureReport:
        """Return the report on all tasks so far."""
        groups = sorted(self._groups.items(), key=lambda of: (of[0] is OTHER_REASONS, -of[1].count, of[0].message))
        return FailureReport(
            finished=self._kinds.total(),
            failed=sum(group.count for _, group in groups),
            retryable=sum(group.retryable for _, group in groups),
            kinds={str(kind): self._kinds[kind] for kind in (*Kind, *self._kinds) if self._kinds[kind]},
            groups=tuple(_group(reason, group) for reason, group in groups),
            hosts=_shares(self._failed_hosts, self._hosts),
            extensions=_shares(self._failed_extensions, self._extensions),
            compared=dict(self._compared),
            timeline=self._timeline.spans(),  # may widen the spans
            span_s=self._timeline.span_s,
            durations=tuple(self._durations.counts),
        )


def _group(reason: Reason, counts: _GroupCounts) -> ReasonGroup:
    return ReasonGroup(
        reason=reason,
        count=counts.count,
        retryable=counts.retryable,
        why=counts.why or counts.why_not,
        why_not=counts.why_not,
        hosts=counts.hosts.top(TOP_NAMES),
        extensions=counts.extensions.top(TOP_NAMES),
        samples=tuple(counts.samples),
        first_at=counts.first_at,
        last_at=counts.last_at,
    )


def _shares(failed: BoundedCounter, seen: BoundedCounter) -> tuple[FailureShare, ...]:
    return tuple(
        FailureShare(name=name, failed=count, all=max(count, seen.counts[name]))
        for name, count in failed.top(TOP_NAMES)
    )


def group_label(kind: str) -> str:
    """Return a group's kind as words."""
    return "complete, but differs" if kind == DIFFERS else kind_label(kind)
