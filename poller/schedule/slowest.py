"""Until when the slowest of the waiting tasks may take: the one rule of page, terminal and `status --watch`. Pure."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from poller.schedule.forecast import slowest_of
from poller.schedule.hazard import EDGES, WIDTHS
from poller.schedule.knowledge import KnowledgeUnreadable, decode
from poller.schedule.learned import PollPlanner, Tradeoff

FEWEST_LEARNED = 50  # finished imports, before their durations bound the slowest
OBSERVED = 0.5  # imports, faded, that were seen unfinished at an age
BEYOND = 4.0  # times the oldest age at which imports were observed: what lies beyond is a guess, not a forecast


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownDurations:
    """What an account's polls taught."""

    unfinished_at: Callable[[float], float]  # the chance that an import is unfinished at an age (seconds)
    seen_until_s: float  # the oldest age at which imports were observed


def learned(planner: PollPlanner) -> KnownDurations | None:
    """Return what the planner knows; None where that is too little."""
    if planner.hazard.finished < FEWEST_LEARNED:
        return None
    exposure = zip(planner.hazard.exposure_s(), WIDTHS, EDGES[1:], strict=True)
    seen = [until_s for seconds, width, until_s in exposure if seconds >= OBSERVED * width]
    return KnownDurations(unfinished_at=planner.share_unfinished, seen_until_s=seen[-1] if seen else 0.0)


def stored(knowledge: bytes | None) -> KnownDurations | None:
    """Return what an account's stored timing knows; None where that is too little, or cannot be read."""
    try:
        return None if knowledge is None else learned(PollPlanner(Tradeoff(), decode(knowledge).ages))
    except KnowledgeUnreadable:
        return None


class SlowestTask:
    """Follows how many tasks there are, so that it knows the age of the youngest."""

    def __init__(self, deadline_s: float) -> None:
        self.deadline_s = deadline_s
        self._tasks = -1
        self._fed_at = 0.0  # when the youngest was fed, at the latest

    def see(self, tasks: int, *, now: float, fed_at: float | None = None) -> None:
        """Note how many tasks were fed until now, and when the last one was; None: since the call before."""
        if tasks != self._tasks or fed_at is not None:
            self._tasks, self._fed_at = tasks, now if fed_at is None else min(fed_at, now)

    @property
    def times_out_at(self) -> float:
        """The deadline of the youngest task."""
        return self._fed_at + self.deadline_s

    def at(self, now: float, *, waiting: int, durations: Iterable[KnownDurations | None]) -> float:
        """Return the instant, by the account that is slowest; the deadline where what was learned does not reach."""
        return max((self._end(now, waiting, each) for each in durations), default=max(now, self.times_out_at))

    def _end(self, now: float, waiting: int, durations: KnownDurations | None) -> float:
        youngest_s, until = max(0.0, now - self._fed_at), max(now, self.times_out_at)
        if durations is None:
            return until
        unfinished_at = durations.unfinished_at
        at = slowest_of(waiting, youngest_s=youngest_s, now=now, unfinished_at=unfinished_at, times_out_at=until)
        return at if youngest_s + at - now <= BEYOND * durations.seen_until_s else until
