"""The line as a clock: what a poll shows about it, and where a task is in it."""

from msgspec import Struct

from poller.schedule.hazard import HazardCurve
from poller.schedule.line import AHEAD_S, Line, LinePlanner


class Seen(Struct, frozen=True):
    """What a poll showed, by our clock."""

    before_at: float  # unfinished then: the poll before, or the request
    now: float
    done_at: float | None  # None: still unfinished
    started_at: float | None  # None: not started, or not named


class LineClock:
    """A kind of place in a line, what was learned of it, and the evidence for it."""

    def __init__(self, planner: LinePlanner, evidence: float = 0.0) -> None:
        self.planner = planner
        self.evidence = evidence  # logarithm of how much better it explains the polls than the imports' ages do

    def learn(self, value: str, place: float, seen: Seen) -> float | None:
        """Learn from a poll; return how likely its outcome was by the line, None where the line is not known yet."""
        line, likelihood = self.planner.line(value), None
        is_done, until_at = seen.done_at is not None, seen.now if seen.done_at is None else seen.done_at
        if line.is_fitted:
            done_at = line.predicted_at(place)
            from_s, to_s = seen.before_at - done_at, until_at - done_at
            likelihood = self.planner.curve.likelihood(from_s, to_s, finished=is_done)
            self.planner.hazard.watch(from_s, to_s, finished=is_done)
            if seen.now - done_at < -AHEAD_S:
                self.planner.polled_ahead(place, finished=is_done)
        if is_done:
            line.completed(place, until_at)
        else:
            line.unfinished(place, until_at)
        return likelihood


class Spot(Struct, frozen=True):
    """A task's place in a line that decides."""

    planner: LinePlanner
    line: Line
    place: float

    @property
    def curve(self) -> HazardCurve:
        return self.planner.curve

    def after_s(self, at: float) -> float:
        """Return how long after the predicted completion this instant is."""
        return at - self.line.predicted_at(self.place)

    def gap_s(self, at: float, key: int, *, unpressed: bool = False, is_first: bool = False) -> float:
        """Return the wait after a poll in vain at this instant, or after the feeding (`is_first`); `unpressed`: as if
        there were no limit."""
        return self.planner.gap_s(self.after_s(at), key, unpressed=unpressed, is_first=is_first)
