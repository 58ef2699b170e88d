"""The line as a clock: what a poll shows about it, and where a task is in it."""

from msgspec import Struct

from poller.core.model import Task
from poller.schedule.line import AHEAD_S, IDLE_S, LinePlanner
from poller.schedule.seen import Seen


class LineClock:
    """A kind of place in a line, what was learned of it, and the evidence for it."""

    def __init__(self, planner: LinePlanner, evidence: float = 0.0) -> None:
        self.planner = planner
        self.evidence = evidence  # logarithm of how much better it explains the polls than the imports' ages do

    def learn(self, value: str, place: float, seen: Seen) -> float | None:
        """Learn from a poll; return how likely its outcome was by the line, None where the line is not known yet."""
        planner, is_done, until_at = self.planner, seen.is_done, seen.until_at
        line, likelihood = planner.lines.get(value) or planner.line(value), None
        if line.is_fitted:
            done_at = line.predicted_at(place)
            if line.empty_before or seen.requested_at - done_at >= IDLE_S:  # seldom
                line.requested(place, seen.requested_at)
                done_at = line.predicted_at(place)
            from_s, to_s = seen.before_at - done_at, until_at - done_at
            likelihood = planner.hazard.learn(from_s, to_s, is_done, planner.curve)
            if seen.now - done_at < -AHEAD_S:
                planner.polled_ahead(place, finished=is_done)
        if is_done:
            line.completed(place, until_at)
        else:
            line.unfinished(place, until_at)
        return likelihood


class Spot(Struct, frozen=True, gc=False):
    """A task's place in a line that decides, and when the import there is completed by what is known now."""

    planner: LinePlanner
    place: float
    done_at: float

    def chance(self, task: Task, now: float) -> float:
        """Return how likely it is that a poll finds the import finished."""
        before_s = (task.fed_at if task.seen_at is None else task.seen_at) - self.done_at
        if task.seen_at is None and before_s > 0:
            before_s = 0.0
        return self.planner.curve.chance(before_s, now - self.done_at)
