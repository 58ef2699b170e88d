"""The policies that learned timing is compared with: plain intervals, the service's back-off, and two bounds."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from bench.timing_workloads import DEADLINE_S, Import
from poller.schedule.hazard import BANDS, EDGES, WIDTHS, band_of
from poller.schedule.inspection import InspectionPlan, plan_inspection


@dataclass(frozen=True, slots=True, kw_only=True)
class Poll:
    """One poll as a policy sees it."""

    number: int  # of the task
    task: Import
    now: float
    due_at: float
    polls: int  # before this one
    finished: bool


class Policy(Protocol):
    """Returns waits: for the first poll of a task just fed, and after each poll that found it unfinished."""

    def first_poll_s(self, task: Import) -> float: ...

    def gap_s(self, poll: Poll) -> float: ...


@dataclass(frozen=True, slots=True)
class Intervals:
    """A first gap that grows by a factor up to a longest one."""

    first_s: float
    factor: float
    longest_s: float

    def first_poll_s(self, _task: Import) -> float:
        return 0.0

    def gap_s(self, poll: Poll) -> float:
        return float(min(self.first_s * self.factor ** min(poll.polls, 60), self.longest_s))


class BackOff:
    """`polling.policy = "backoff"`: a quarter of the age, 1 to 60 s."""

    def first_poll_s(self, _task: Import) -> float:
        return 0.0

    def gap_s(self, poll: Poll) -> float:
        return min(max((poll.now - poll.task.fed_at) * 0.25, 1.0), 60.0)


class Optimal:
    """The optimal inspection policy with perfect knowledge of these imports, planned for each half of the feed. No gap
    is longer than `longest_gap_s`."""

    def __init__(self, tasks: Sequence[Import], poll_cost_s: float, longest_gap_s: float) -> None:
        self._half_at = tasks[len(tasks) // 2].requested_at
        early = [task for task in tasks if task.requested_at < self._half_at] or tasks
        late = [task for task in tasks if task.requested_at >= self._half_at]
        self._plans = [_plan_for(half, poll_cost_s, longest_gap_s) for half in (early, late)]

    def _plan(self, task: Import) -> InspectionPlan:
        return self._plans[task.requested_at >= self._half_at]

    def first_poll_s(self, task: Import) -> float:
        age_s = task.fed_at - task.requested_at
        return self._plan(task).gap_s(age_s) if age_s < 1 else 0.0

    def gap_s(self, poll: Poll) -> float:
        return self._plan(poll.task).gap_s(poll.now - poll.task.requested_at)


def _plan_for(tasks: Sequence[Import], poll_cost_s: float, longest_gap_s: float) -> InspectionPlan:
    events, exposure_s = [0.0] * BANDS, [0.0] * BANDS
    for task in tasks:
        last = band_of(task.took_s)
        for band in range(last):
            exposure_s[band] += WIDTHS[band]
        if task.took_s < EDGES[-1]:
            events[last] += 1
            exposure_s[last] += task.took_s - EDGES[last]
    rates = [count / seconds if seconds else 1.0 for count, seconds in zip(events, exposure_s, strict=True)]
    gone = band_of(DEADLINE_S) + 1  # given up by then: no more cost
    rates[gone:] = [1.0] * (BANDS - gone)
    return plan_inspection(EDGES, tuple(rates), (longest_gap_s,) * (BANDS + 1), poll_cost_s)


class Clairvoyant:
    """One poll a task, at the instant it is finished."""

    def first_poll_s(self, task: Import) -> float:
        return min(task.seen_from - task.fed_at, 1e6)

    def gap_s(self, _poll: Poll) -> float:
        return 0.001  # rounding made it a moment too early


OTHERS: Mapping[str, Callable[[], Policy]] = {
    "5 s always": lambda: Intervals(5, 1, 5),
    "1 s ×1.5 to 20 s": lambda: Intervals(1, 1.5, 20),
    "1 s ×1.5 to 60 s": lambda: Intervals(1, 1.5, 60),
    "1 s ×2 to 300 s": lambda: Intervals(1, 2, 300),
    "30 s always": lambda: Intervals(30, 1, 30),
    "backoff": BackOff,
}
