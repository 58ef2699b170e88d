"""What a report finds in the finished tasks: groups of one reason, places, times. Pure, in bounded memory."""

from bisect import bisect_right
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from poller.core.histogram import Histogram
from poller.core.model import Kind
from poller.reports.failures.counters import DURATION_BOUNDS_S, Tally, Timeline
from poller.reports.reasons import DIFFERS, Facts, Reason, shown_url
from poller.reports.retryable import Verdict

MOST_GROUPS = 400  # reasons told apart at a time
MOST_PLACES = 4000  # hosts and extensions of all tasks
PLACES_A_GROUP = 200
SAMPLES = 5  # tasks named for each reason
LONGEST_REF = 2000  # bytes of a sample's row; a longer one is not held in memory
TOP_PLACES = 10
NO_URL = "(no url)"
FURTHER = Reason("further", None, "reasons that are rarer than those named")


@dataclass(frozen=True, slots=True, kw_only=True)
class FailureSample:
    """One task of a group."""

    task_id: str
    account: str
    url: str | None  # the person's own, without what may be secret
    ref: Mapping[str, object]
    correlation_id: str | None
    file_id: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """All tasks that failed for one reason."""

    reason: Reason
    count: int
    again: int  # of these, how many are worth another try
    why: str  # the verdict on the first of those that are, or on the first task where none is
    why_not: str  # the verdict on the first that is not; empty where all are
    hosts: tuple[tuple[str, int], ...]
    extensions: tuple[tuple[str, int], ...]
    samples: tuple[FailureSample, ...]
    first_at: float | None
    last_at: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class HostGroup:
    """A source host, or an extension: how many of its tasks failed."""

    name: str
    failed: int
    all: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Findings:
    """Everything a report tells. `failed` are tasks that are not `complete`, or whose file is not the person's."""

    finished: int
    failed: int
    again: int
    kinds: Mapping[str, int]
    groups: tuple[Group, ...]  # the most frequent first; their counts add up to `failed`
    hosts: tuple[HostGroup, ...]  # the most failures first
    extensions: tuple[HostGroup, ...]
    compared: Mapping[str, int]  # md5, size → files compared
    span_s: float
    timeline: tuple[tuple[float, int, int], ...]  # begin of a span, good outcomes, bad ones
    durations: tuple[int, ...]  # by counters.DURATION_BOUNDS_S


@dataclass(slots=True)
class _Growing:
    count: int = 0
    again: int = 0
    why: str = ""
    why_not: str = ""
    hosts: Tally = field(default_factory=lambda: Tally(PLACES_A_GROUP))
    extensions: Tally = field(default_factory=lambda: Tally(PLACES_A_GROUP))
    samples: list[FailureSample] = field(default_factory=list)
    first_at: float | None = None
    last_at: float | None = None

    def add(self, facts: Facts, judged: Verdict) -> None:
        self.count += 1
        self.again += judged.again
        self.hosts.add(facts.host or NO_URL)
        self.extensions.add(facts.extension)
        if judged.again:
            self.why = self.why or judged.why
        else:
            self.why_not = self.why_not or judged.why
        if len(self.samples) < SAMPLES:
            self.samples.append(_sample(facts))
        if facts.seen_at is not None:
            self.first_at = facts.seen_at if self.first_at is None else min(self.first_at, facts.seen_at)
            self.last_at = facts.seen_at if self.last_at is None else max(self.last_at, facts.seen_at)


def _sample(facts: Facts) -> FailureSample:
    return FailureSample(
        task_id=facts.task_id,
        account=facts.account,
        url=shown_url(facts.url) if facts.url else None,
        ref=facts.ref if facts.ref_bytes <= LONGEST_REF else {},
        correlation_id=facts.correlation_id,
        file_id=facts.file_id,
    )


class Gathering:
    """Feed it every finished task; then ask what was found."""

    def __init__(self) -> None:
        self._kinds: Counter[str] = Counter()
        self._compared: Counter[str] = Counter()
        self._groups: dict[Reason, _Growing] = {}
        self._hosts, self._failed_hosts = Tally(MOST_PLACES), Tally(MOST_PLACES)
        self._extensions, self._failed_extensions = Tally(MOST_PLACES), Tally(MOST_PLACES)
        self._timeline = Timeline()
        self._durations = Histogram(DURATION_BOUNDS_S, bisect_right)  # equal to a bound: not below it

    def add(self, facts: Facts, judged: Verdict | None) -> None:
        """Take one task; `judged` stands exactly where it failed."""
        self._kinds[facts.kind] += 1
        self._compared.update(facts.compared)
        self._hosts.add(facts.host or NO_URL)
        self._extensions.add(facts.extension)
        if facts.seen_at is not None:
            self._timeline.add(facts.seen_at, good=facts.reason is None)
        if facts.import_s is not None:
            self._durations.add(facts.import_s)
        if facts.reason is not None and judged is not None:
            self._add_failure(facts, facts.reason, judged)

    def _add_failure(self, facts: Facts, reason: Reason, judged: Verdict) -> None:
        self._failed_hosts.add(facts.host or NO_URL)
        self._failed_extensions.add(facts.extension)
        self._groups.setdefault(reason, _Growing()).add(facts, judged)
        if len(self._groups) > MOST_GROUPS:
            self._lump()

    def _lump(self) -> None:
        """Add the rarer half of the reasons to one group, so that a reason that comes late finds room."""
        further = self._groups.pop(FURTHER, _Growing())
        latest_first = reversed(list(self._groups.items()))
        ranked = sorted(latest_first, key=lambda pair: -pair[1].count)
        for _, group in ranked[MOST_GROUPS // 2 :]:
            further.count += group.count
            further.again += group.again
        further.why = further.why_not = "they differ"
        self._groups = dict(ranked[: MOST_GROUPS // 2]) | {FURTHER: further}

    def findings(self) -> Findings:
        """Return what was found so far."""
        groups = sorted(self._groups.items(), key=lambda pair: (pair[0] is FURTHER, -pair[1].count, pair[0].message))
        spans = self._timeline.spans()
        return Findings(
            finished=self._kinds.total(),
            failed=sum(group.count for _, group in groups),
            again=sum(group.again for _, group in groups),
            kinds={str(kind): self._kinds[kind] for kind in (*Kind, *self._kinds) if self._kinds[kind]},
            groups=tuple(_group(reason, group) for reason, group in groups),
            hosts=_places(self._failed_hosts, self._hosts),
            extensions=_places(self._failed_extensions, self._extensions),
            compared=dict(self._compared),
            span_s=self._timeline.span_s,
            timeline=spans,
            durations=tuple(self._durations.counts),
        )


def _group(reason: Reason, growing: _Growing) -> Group:
    return Group(
        reason=reason,
        count=growing.count,
        again=growing.again,
        why=growing.why or growing.why_not,
        why_not=growing.why_not,
        hosts=growing.hosts.top(TOP_PLACES),
        extensions=growing.extensions.top(TOP_PLACES),
        samples=tuple(growing.samples),
        first_at=growing.first_at,
        last_at=growing.last_at,
    )


def _places(failed: Tally, seen: Tally) -> tuple[HostGroup, ...]:
    return tuple(
        HostGroup(name=name, failed=count, all=max(count, seen.counts[name])) for name, count in failed.top(TOP_PLACES)
    )


def kind_shown(kind: str) -> str:
    """Return a group's kind as people read it."""
    return "complete, but differs" if kind == DIFFERS else kind.replace("_", " ")
