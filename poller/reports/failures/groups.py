"""Adds up finished tasks to a failure report: groups by reason, hosts, extensions, times. Pure, in bounded memory."""

from bisect import bisect_right
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from poller.core.histogram import IMPORT_BOUNDS_S, Histogram
from poller.core.model import Kind
from poller.core.reason import Reason
from poller.core.text import kind_label, redacted_url
from poller.reports.failures.counters import BoundedCounter, Timeline
from poller.reports.finished_task import DIFFERS, FinishedTask
from poller.reports.retryable import RetryAdvice

MOST_GROUPS = 400  # at a time
MOST_NAMES = 4000  # hosts, and extensions, of all tasks
MOST_NAMES_OF_GROUP = 200
SAMPLES = 5  # of each reason
LONGEST_REF = 2000  # bytes of a sample's row; a longer one is not kept
NO_URL = "(no url)"
MOST_ADVICE = 20  # of each reason
DIFFERENT = "the reasons differ"
OTHER_REASONS = Reason("other", None, "rarer reasons")


@dataclass(slots=True)
class ReasonGroup:
    """All tasks that failed for one reason."""

    reason: Reason
    count: int = 0
    landed: int = 0  # of these: a file is there all the same
    retryable: int = 0  # of these
    advice: Counter[RetryAdvice] = field(default_factory=Counter)  # each with the number of its tasks
    hosts: BoundedCounter = field(default_factory=lambda: BoundedCounter(MOST_NAMES_OF_GROUP))
    extensions: BoundedCounter = field(default_factory=lambda: BoundedCounter(MOST_NAMES_OF_GROUP))
    samples: list[FinishedTask] = field(default_factory=list)  # URLs redacted, without long rows and errors
    first_at: float | None = None
    last_at: float | None = None

    @property
    def label(self) -> str:
        """The kind of its tasks as words."""
        return "complete, but differs" if self.reason.kind == DIFFERS else kind_label(self.reason.kind)

    def why(self, *, retryable: bool) -> str | None:
        """Return the most frequent advice of those tasks that can be retried, or of those that cannot."""
        return next((advice.why for advice, _ in self.advice.most_common() if advice.retryable is retryable), None)

    def add(self, task: FinishedTask, advice: RetryAdvice) -> None:
        self.count += 1
        self.landed += task.landed
        self.retryable += advice.retryable
        is_new = advice not in self.advice and len(self.advice) >= MOST_ADVICE
        self.advice[replace(advice, why=DIFFERENT) if is_new else advice] += 1
        self.hosts.add(task.host or NO_URL)
        self.extensions.add(task.extension)
        if len(self.samples) < SAMPLES:
            url = redacted_url(task.url) if task.url else None
            ref = task.ref if task.ref_bytes <= LONGEST_REF else {}
            self.samples.append(replace(task, url=url, ref=ref, errors=None))
        if task.seen_at is not None:
            self.first_at = task.seen_at if self.first_at is None else min(self.first_at, task.seen_at)
            self.last_at = task.seen_at if self.last_at is None else max(self.last_at, task.seen_at)


@dataclass(frozen=True, slots=True, kw_only=True)
class FailureShare:
    """How many tasks of one source host, or of one extension, failed."""

    name: str
    failed: int
    all: int


class FailureReport:
    """The sums of all tasks added so far. A failed task is not `complete`, or its file is not the person's."""

    def __init__(self) -> None:
        self.compared: Counter[str] = Counter()  # md5, size → files compared
        self.timeline = Timeline()
        self.durations = Histogram(IMPORT_BOUNDS_S, bisect_right)  # equal to a bound: not below it
        self._kinds: Counter[str] = Counter()
        self._landed: Counter[str] = Counter()  # by kind
        self.tried_again = 0  # attempts whose row has a later one, which may be under way
        self._groups: dict[Reason, ReasonGroup] = {}
        self._hosts, self._failed_hosts = BoundedCounter(MOST_NAMES), BoundedCounter(MOST_NAMES)
        self._extensions, self._failed_extensions = BoundedCounter(MOST_NAMES), BoundedCounter(MOST_NAMES)

    def add(self, task: FinishedTask, advice: RetryAdvice | None, *, is_tried_again: bool = False) -> None:
        """Add one task; `advice` is given exactly where it failed. `is_tried_again`: its row has a later attempt."""
        self._kinds[task.kind] += 1
        self._landed[task.kind] += task.landed
        self.tried_again += is_tried_again
        self.compared.update(task.compared)
        self._hosts.add(task.host or NO_URL)
        self._extensions.add(task.extension)
        if task.seen_at is not None:
            self.timeline.add(task.seen_at, good=task.reason is None)
        if task.import_s is not None:
            self.durations.add(task.import_s)
        if task.reason is not None and advice is not None:
            self._failed_hosts.add(task.host or NO_URL)
            self._failed_extensions.add(task.extension)
            self._groups.setdefault(task.reason, ReasonGroup(task.reason)).add(task, advice)
            if len(self._groups) > MOST_GROUPS:
                self._merge_rare()

    def _merge_rare(self) -> None:
        """Merge the rarer half of the reasons into one group, so that a late reason finds room."""
        others = self._groups.pop(OTHER_REASONS, ReasonGroup(OTHER_REASONS))
        latest_first = reversed(list(self._groups.items()))
        ranked = sorted(latest_first, key=lambda pair: -pair[1].count)
        for _, group in ranked[MOST_GROUPS // 2 :]:
            others.count += group.count
            others.landed += group.landed
            others.retryable += group.retryable
            for advice, count in group.advice.items():
                others.advice[replace(advice, why=DIFFERENT)] += count
        self._groups = dict(ranked[: MOST_GROUPS // 2]) | {OTHER_REASONS: others}

    @property
    def finished(self) -> int:
        return self._kinds.total()

    @property
    def landed(self) -> Mapping[str, int]:
        """How many tasks of each kind have a file."""
        return self._landed

    @property
    def failed(self) -> int:
        return sum(group.count for group in self._groups.values())

    @property
    def retryable(self) -> int:
        return sum(group.retryable for group in self._groups.values())

    @property
    def kinds(self) -> Mapping[str, int]:
        return {str(kind): self._kinds[kind] for kind in (*Kind, *self._kinds) if self._kinds[kind]}

    @property
    def without_url(self) -> bool:
        """Whether no task's row has a URL."""
        return set(self._hosts.counts) <= {NO_URL}

    def groups(self) -> list[ReasonGroup]:
        """Return the groups, the most frequent first; their counts add up to `failed`."""
        return sorted(
            self._groups.values(), key=lambda group: (group.reason is OTHER_REASONS, -group.count, group.reason.message)
        )

    def hosts(self) -> list[FailureShare]:
        """Return the source hosts with most failures."""
        return _shares(self._failed_hosts, self._hosts)

    def extensions(self) -> list[FailureShare]:
        """Return the file extensions with most failures."""
        return _shares(self._failed_extensions, self._extensions)


def _shares(failed: BoundedCounter, seen: BoundedCounter) -> list[FailureShare]:
    return [FailureShare(name=name, failed=count, all=max(count, seen.counts[name])) for name, count in failed.top()]
