"""A server that works off its imports in a line: when the line reaches each place, and polls planned by that.

A place is a number that grows along the line: the order of feeding, or the instant of the request. All instants are of
our clock.
"""

import math
from collections import deque
from collections.abc import Sequence
from operator import itemgetter

from poller.schedule.hazard import Axis, Hazard, HazardCurve
from poller.schedule.inspection import InspectionPlan, plan_inspection
from poller.schedule.learned import LONGEST_OF_OLD_S, STRETCHED_SHARE, Pressure, Tradeoff

FEWEST = 16  # finished imports that make a line
REMEMBERED = 400  # finished imports that the pace follows from …
ANCHORED = 64  # … and the place that the line has reached
ANCHOR_EVERY = 8  # finished imports
REFITS = 10  # while the remembered ones are replaced once
VOTES = 5
VOTES_EACH = 3  # polls in vain of one import that vote, until an import is completed: a stuck one is no delay
IDLE_S, IDLE_PLACES = 30.0, 16.0  # an import requested so long, and as long as so many take, after its prediction …
IDLE_SEEN = 2  # … or so many of them, show that the line had run empty: it begins with the first of them
FAR = 0.9  # of the latest finished imports are at smaller places than those that show a delay
LATEST_S = 15.0  # after the predicted completion, a poll was made
SCOUTS = 32  # one import of this many is polled half way, in case that the line is faster
SCOUT_S = 60.0
GOLDEN = (5**0.5 - 1) / 2  # spreads evenly
AHEAD_S = 5.0  # a poll this long before the predicted completion shows whether the line is faster …
AHEAD = 4  # … as many of the latest: one that found a completed import is followed by more …
MOSTLY_AHEAD = 3  # … and as many of them by all
AROUND = 64.0  # places
SAMPLE = 4  # one import of this many, where some are completed ahead
MOST_PRESSURE = 25.0
RARE = 0.01  # chance to be found finished in a gap: up to it, a gap past the prediction may be longer than a minute
MOST_LINES = 64  # by value of the field that tells lines apart


def _edges() -> list[float]:
    after, step = [0.25], 1.3
    while after[-1] < 3 * 86_400.0:
        after.append(after[-1] * step)
    return [*(-at for at in reversed(after)), 0.0, *after]


PRIOR_BEFORE = 0.05  # before the prediction next to nothing finishes, until it is seen to; scouts would see it
AXIS = Axis(_edges(), prior_below=PRIOR_BEFORE)  # seconds after the predicted completion


NO_PLAN = InspectionPlan(edges=(), rates=(), gaps_s=(), costs_s=())


class Line:
    """Where a line is, and how fast it moves."""

    def __init__(self) -> None:
        self._done: deque[tuple[float, float]] = deque(maxlen=REMEMBERED)  # place, completion
        self._votes: deque[tuple[float, bool]] = deque(maxlen=VOTES)  # seconds overdue, whether by a poll in vain
        self._in_vain = 0  # of the votes
        self._voted: dict[float, int] = {}  # votes by place since the latest completion
        self._unfitted = self._unanchored = 0
        self.empty_before: list[tuple[float, float]] = []  # place and request of those that show that it ran empty
        self._shift_s = 0.0
        self._far = math.inf
        self.is_fitted = False
        self.pace_s = 0.0  # from one place to the next
        self._place = self._at = 0.0  # the line was here then

    def predicted_at(self, place: float) -> float:
        """Return when the import at this place will be, or was, completed."""
        return self._at + (place - self._place) * self.pace_s + self._shift_s

    def completed(self, place: float, at: float) -> None:
        """An import was completed."""
        if self.is_fitted:
            self._voted.clear()
            self._vote(at - self._at - (place - self._place) * self.pace_s, in_vain=False)
        self._done.append((place, at))
        self._unfitted += 1
        self._unanchored += 1
        if len(self._done) >= FEWEST and (self._unfitted * REFITS >= len(self._done) or not self.is_fitted):
            self._fit()
            self._unanchored = ANCHOR_EVERY
        if self.is_fitted and self._unanchored >= ANCHOR_EVERY:
            self._unanchored = 0
            self._anchor()

    def unfinished(self, place: float, now: float) -> None:
        """A poll found an import unfinished: far along the line and past its prediction, that shows a delay, or that
        the line is not as early as a few imports that were finished before their turn made believe."""
        if self.is_fitted and place > self._far:
            overdue_s = now - self._at - (place - self._place) * self.pace_s
            votes = self._voted.get(place, 0)
            if votes < VOTES_EACH and overdue_s > (self._shift_s if self._shift_s < 0 else 0.0):
                self._voted[place] = votes + 1
                self._vote(overdue_s, in_vain=True)

    def requested(self, place: float, at: float) -> None:
        """An import of the line was requested then. Where others were predicted to be completed long before, it waits
        for none of them: the line ran empty and begins with it. A single one may be wrong. Of what the line has passed
        long ago, a slightly wrong pace predicts a completion before its request."""
        if place <= self._place:
            return
        predicted_at = self.predicted_at(place) - min(self._shift_s, 0.0)
        if at - predicted_at < max(IDLE_S, IDLE_PLACES * self.pace_s):
            if self.empty_before and place > self.empty_before[0][0]:
                self.empty_before.clear()
            return
        if all(place != seen for seen, _ in self.empty_before):  # polled twice, it is one
            self.empty_before.append((place, at))
        if len(self.empty_before) < IDLE_SEEN:
            return
        self._place, self._at = min(self.empty_before)
        self._at += self.pace_s
        self._shift_s, self._in_vain, self._far = 0.0, 0, -math.inf
        for seen in (self._done, self._votes, self.empty_before):
            seen.clear()
        self._voted.clear()

    def _vote(self, overdue_s: float, *, in_vain: bool) -> None:
        """A line is late where the middle one of the latest votes is a poll in vain, and early where all are early."""
        if len(self._votes) == VOTES:
            self._in_vain -= self._votes[0][1]
        self._votes.append((overdue_s, in_vain))
        self._in_vain += in_vain
        if overdue_s >= 0 and not self._in_vain:  # as nearly always
            self._shift_s = 0.0
            return
        ordered = sorted(self._votes)
        middle_s, is_in_vain = ordered[len(ordered) // 2]
        if is_in_vain:
            self._shift_s = max(0.0, middle_s)
        else:
            self._shift_s = middle_s if ordered[-1][0] < 0 and not self._in_vain else 0.0

    def _fit(self) -> None:
        """The pace from the halves of the line, by place. Medians, because some imports are out of order."""
        self._unfitted, self.is_fitted = 0, True
        by_place = sorted(sorted(self._done, key=itemgetter(1)), key=itemgetter(0))  # half of the time of pairs
        half = len(by_place) // 2
        earlier, later = by_place[:half], by_place[-half:]
        places = _middle([place for place, _ in later]) - _middle([place for place, _ in earlier])
        seconds = _middle(sorted([at for _, at in later])) - _middle(sorted([at for _, at in earlier]))
        self.pace_s = max(0.0, seconds / places) if places > 0 else 0.0

    def _anchor(self) -> None:
        """Where the line was at the latest completions, however late they were found: under a limit, a hundred imports
        that are out of order may be found in a row, which were completed long ago."""
        latest = sorted(self._done, key=itemgetter(1))[-ANCHORED:]
        places = sorted([place for place, _ in latest])
        self._place, self._at = _middle(places), _middle([at for _, at in latest])
        self._far = places[int(len(places) * FAR)]


def _middle(ordered: Sequence[float]) -> float:
    """Return the median of what is sorted."""
    half = len(ordered) // 2
    return ordered[half] if len(ordered) % 2 else (ordered[half - 1] + ordered[half]) / 2


class LinePlanner:
    """Plans polls on the axis of a line. Lines that a value tells apart share what was learned of their spread."""

    def __init__(self, tradeoff: Tradeoff, hazard: Hazard | None = None) -> None:
        self._tradeoff = tradeoff
        self.hazard = hazard or Hazard(axis=AXIS)
        self.lines: dict[str, Line] = {}
        self.pressure = Pressure(most=MOST_PRESSURE)
        self.curve = HazardCurve(AXIS.edges, self.hazard.rates()[0])
        self._base_plan = self._plan = NO_PLAN
        self._ahead_from = math.inf
        self._ahead: deque[bool] = deque(
            maxlen=AHEAD
        )  # of the latest polls ahead of the line, which found a completed one

    def line(self, value: str) -> Line:
        """Return the line of this value; beyond `MOST_LINES` they share one."""
        line = self.lines.get(value)
        if line is None:
            value = value if len(self.lines) < MOST_LINES else ""
            line = self.lines.setdefault(value, Line())
        return line

    def restart(self) -> None:
        """Forget where the lines are; how far completions spread around a line stays known."""
        self.lines.clear()

    def polled_ahead(self, place: float, *, finished: bool) -> None:
        """A poll was made more than `AHEAD_S` before the predicted completion."""
        if finished:
            self._ahead_from = min(place, self._ahead_from if any(self._ahead) else place)
        if place >= self._ahead_from - AROUND:
            self._ahead.append(finished)

    def runs_ahead(self, place: float, after_s: float, key: int) -> bool:
        """Return whether an import may be completed before its turn, because others were, near it or behind it: a
        server that grew, or that completes many at once."""
        if after_s >= -AHEAD_S or True not in self._ahead or place < self._ahead_from - AROUND:
            return False
        return key % SAMPLE == 0 or sum(self._ahead) >= MOSTLY_AHEAD

    def gap_s(self, after_s: float, key: int, *, is_first: bool = False, notes: float = 0.0) -> float:
        """Return the wait after a poll that found the import unfinished so long after its predicted completion, before
        it where negative; `is_first`: after its feeding instead. Where `notes` is given, note what the wait would be
        without a limit, up to so much."""
        if self._plan is NO_PLAN:
            self.replan()
        gap_s = self._scouted_s(self._plan.gap_s(after_s), after_s, key, is_first)
        if notes:
            is_pressed = self._plan is not self._base_plan
            unpressed_s = self._scouted_s(self._base_plan.gap_s(after_s), after_s, key) if is_pressed else gap_s
            self.pressure.planned(unpressed_s if unpressed_s < notes else notes)
        return gap_s

    def _scouted_s(self, gap_s: float, after_s: float, key: int, is_first: bool = False) -> float:
        """Return a gap within the person's bounds; of a scout, one that ends half way."""
        if after_s < 0 and key % SCOUTS == 0:
            share = key // SCOUTS * GOLDEN % 1 if is_first else 1.0  # of the half: not all as late
            gap_s = min(gap_s, max(SCOUT_S, -after_s / 2 * share))
        gap_s = gap_s if gap_s < self._tradeoff.cap_s else self._tradeoff.cap_s
        return gap_s if gap_s > self._tradeoff.shortest_gap_s else self._tradeoff.shortest_gap_s

    def refresh(self) -> None:
        """Follow what was learned, without a plan."""
        self.curve = HazardCurve(AXIS.edges, self.hazard.rates()[0])
        self._plan = NO_PLAN

    def replan(self) -> None:
        """Compute the plan."""
        rates, _ = self.hazard.rates()
        self.curve = HazardCurve(AXIS.edges, rates)
        by_band = tuple(rates)
        limits_s = tuple(map(self._longest_s, AXIS.edges, (*by_band, by_band[-1])))
        poll_cost_s = self._tradeoff.poll_cost_s
        self._base_plan = self._plan = plan_inspection(AXIS.edges, by_band, limits_s, poll_cost_s)
        if self.pressure.factor > 1.0:
            limits_s = tuple(self._stretched_s(each, edge) for each, edge in zip(limits_s, AXIS.edges, strict=True))
            self._plan = plan_inspection(AXIS.edges, by_band, limits_s, poll_cost_s * self.pressure.factor)

    def _longest_s(self, after_s: float, rate: float) -> float:
        """Return the longest gap so long after the predicted completion: longer for what hardly ever finishes then."""
        if after_s < 0:
            return LATEST_S - after_s
        longest_s = self._tradeoff.longest_at_s(after_s)
        if self._tradeoff.cap_s != math.inf:
            return longest_s
        return max(longest_s, min(RARE / rate, STRETCHED_SHARE * after_s, LONGEST_OF_OLD_S))

    def _stretched_s(self, longest_s: float, after_s: float) -> float:
        """Return the longest gap while polls wait behind the limit: longer after the predicted completion, so that
        imports that are out of order, or stuck, do not fill the limit."""
        if after_s < 0:
            return longest_s
        return max(longest_s, self._tradeoff.stretched_s(self._tradeoff.longest_at_s(after_s), self.pressure.factor))
