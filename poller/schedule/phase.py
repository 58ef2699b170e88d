"""Imports whose start HubSpot names: how long they have been processed explains more than their age."""

from collections import deque

from poller.schedule.hazard import Hazard
from poller.schedule.learned import PollPlanner, Tradeoff

REMEMBERED = 64  # the latest processing times
FEWEST = 16
SHORT = 0.05  # of them are shorter than what a pending import still needs for sure


class PhaseClock:
    """The time since an import's start, what was learned of it, and the evidence for it."""

    def __init__(self, tradeoff: Tradeoff, hazard: Hazard | None = None, evidence: float = 0.0) -> None:
        self.planner = PollPlanner(tradeoff, hazard)
        self.evidence = evidence
        self._longest_s = tradeoff.longest_gap_s
        self._took_s: deque[float] = deque(maxlen=REMEMBERED)

    def learn(self, started_at: float, before_at: float, to_at: float, finished: bool, seen: bool) -> float | None:
        """Learn from a poll that shows the start; return how likely its outcome was by that, where the poll before had
        shown it too (`seen`)."""
        from_s = before_at - started_at if before_at > started_at else 0.0
        to_s = to_at - started_at if to_at - started_at > from_s else from_s
        likelihood = self.planner.hazard.learn(from_s, to_s, finished, self.planner.curve)
        if finished:
            self._took_s.append(to_s)
        return likelihood if seen else None

    def gap_s(self, since_s: float) -> float:
        """Return the wait after a poll that found the import started, so long ago, and unfinished."""
        return self.planner.gap_s(max(0.0, since_s))

    @property
    def pending_s(self) -> float:
        """The least wait after a poll that found an import not started yet: before that, it can hardly be finished."""
        if len(self._took_s) < FEWEST:
            return 0.0
        return min(sorted(self._took_s)[int(len(self._took_s) * SHORT)], self._longest_s)
