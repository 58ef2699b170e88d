"""Notice early that one reason ends many tasks, or that too many fail: outcomes in, a warning out.

A reason dominates once it is as good as certain (one error in two thousand polls, by Wilson's score interval) that it
ends at least a fifth of all tasks. That takes 50 outcomes where nearly every one has the reason, and 200 where three
in ten have. Only the latest 300 count, so that a failure that begins later is noticed just as early.

Among the first outcomes of many tasks, failures that take a second are more frequent than among all. The rows of a
trial have no others beside them, so its outcomes are enough: half of 20 for one reason.
"""

from collections import Counter, deque
from dataclasses import dataclass
from math import sqrt

import structlog

from poller.core.model import Kind, Record

log = structlog.get_logger("poller")

LATEST = 300  # outcomes that count
FEWEST = 50  # outcomes before the first warning, unless a trial is smaller
LEAST_SHARE = 0.2
SURE = 3.29  # standard deviations: 99.95 %, because every outcome is a new test
GONE_SHARE = 0.05  # a reason below this share is over; if it comes back, it is warned of again
SAMPLES = 3
FEWEST_TO_STOP = 100  # outcomes of a run before a share of failures may stop it


@dataclass(frozen=True, slots=True, kw_only=True)
class DominantReason:
    """One reason that ends many tasks."""

    reason: str
    count: int  # of the latest `outcomes`
    outcomes: int
    share: float
    samples: tuple[str, ...]  # task ids
    at: float


class FailureWatch:
    """Follows a run's outcomes as they come."""

    def __init__(self, stop_at: float | None = None, *, trial: int = 0) -> None:
        """`stop_at`: failures, a share of all below 1 or a number; None: never. `trial`: rows whose imports end before
        others begin; 0: none."""
        self.warning: DominantReason | None = None  # the latest; None once its reason is over
        self.failed = 0
        self.finished = 0
        self._stop_at = stop_at
        self.apply(trial=trial)
        self._latest: deque[str | None] = deque()
        self._counts: Counter[str] = Counter()
        self._samples: dict[str, tuple[str, ...]] = {}
        self._warned: set[str] = set()

    def apply(self, *, trial: int) -> None:
        """Use another size of the trial from now on; 0: none."""
        self._fewest = min(FEWEST, trial) if trial else FEWEST

    def add(self, record: Record) -> DominantReason | None:
        """Take one outcome; return a warning if its reason dominates from now on, once a reason."""
        reason = None if record.kind is Kind.COMPLETE else record.reason or str(record.kind)
        self.finished += 1
        self._latest.append(reason)
        if len(self._latest) > LATEST:
            self._forget(self._latest.popleft())
        if reason is None:
            return None
        self.failed += 1
        self._counts[reason] += 1
        samples = self._samples.setdefault(reason, ())
        if len(samples) < SAMPLES:
            self._samples[reason] = (*samples, record.task_id)
        return self._check(reason, record.seen_at)

    def _forget(self, reason: str | None) -> None:
        if reason is None:
            return
        self._counts[reason] -= 1
        if reason in self._warned and self._counts[reason] < GONE_SHARE * LATEST:
            self._warned.discard(reason)
            if self.warning is not None and self.warning.reason == reason:
                self.warning = None
        if not self._counts[reason]:
            del self._counts[reason], self._samples[reason]

    def _check(self, reason: str, at: float) -> DominantReason | None:
        count, outcomes = self._counts[reason], len(self._latest)
        if outcomes < self._fewest or reason in self._warned or at_least(count, outcomes) < LEAST_SHARE:
            return None
        self._warned.add(reason)
        share = round(count / outcomes, 3)
        self.warning = DominantReason(
            reason=reason, count=count, outcomes=outcomes, share=share, samples=self._samples[reason], at=at
        )
        return self.warning

    @property
    def is_too_much(self) -> bool:
        """Whether as many tasks of this run failed as `stop_at` allows."""
        if self._stop_at is None:
            return False
        if self._stop_at >= 1:
            return self.failed >= self._stop_at
        return self.finished >= FEWEST_TO_STOP and self.failed >= self._stop_at * self.finished

    def message(self) -> str:
        """Return how many failed, and the most frequent recent reason, for people."""
        top = self._counts.most_common(1)
        most = f"; most frequent of the latest: {top[0][0]}" if top else ""
        return f"{self.failed:,} of this run's {self.finished:,} outcomes are not complete{most}"


def log_dominated(found: DominantReason) -> None:
    """Warn of a reason."""
    log.warning(
        "failures.dominated",
        reason=found.reason,
        count=found.count,
        outcomes=found.outcomes,
        share=found.share,
        samples=list(found.samples),
    )


def at_least(count: int, outcomes: int) -> float:
    """Return the share that `count` of `outcomes` proves at least: the lower end of Wilson's score interval (1927)."""
    share, weight = count / outcomes, SURE * SURE / outcomes
    middle, spread = share + weight / 2, SURE * sqrt(share * (1 - share) / outcomes + weight / (4 * outcomes))
    return (middle - spread) / (1 + weight)
