"""Learns from every answer of one account how long its imports take, and plans its polls."""

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from poller.schedule.hazard import BANDS, EDGES, Hazard, HazardCurve
from poller.schedule.inspection import InspectionPlan, plan_inspection
from poller.schedule.survival import SurvivalCurve

REPLAN_EVERY_S = 10.0
REPLAN_EVENTS = 50
REPLAN_LEAST_S = 1.0
GUARD_S = 10.0  # where little is known, a gap is at most this …
GUARD_SHARE = 0.25  # … or this share of the age
OLD_SHARE, LONGEST_OF_OLD_S = 0.05, 3600.0  # an old import is polled once in this share of its age, or this long
KNOWN = 6.0  # imports observed at an age, for it to count as known
KNOWN_AT_FIRST = 30.0  # imports known, before first polls are delayed
FEEDING_AGES = 64  # the latest ages at feeding are remembered
WEIGHED_AGES = 8  # sample of them that is weighed
PRESSURE_TARGET = 2.0  # gaps aim at this multiple of the wait behind the limit
UNLIKELY = 0.05  # chance to be finished within a gap: until then it may be longer while polls wait behind the limit
STRETCHED_SHARE = 0.25  # … at most this share of the age
RECENT = 0.7  # of waits and gaps, the share that still counts at the next plan


@dataclass(frozen=True, slots=True, kw_only=True)
class Tradeoff:
    """The person's trade-off between requests and promptness."""

    poll_cost_s: float = 3.0  # seconds of lateness that one request is worth
    longest_gap_s: float = 60.0  # of young imports
    shortest_gap_s: float = 1.0
    cap_s: float = math.inf  # what the person set as the longest gap; holds also where a line is known
    line_by: str | None = None  # the field of `ref` whose values tell lines apart
    deadline_s: float = math.inf  # age at which an unfinished import is given up

    def longest_at_s(self, age_s: float) -> float:
        """Return the longest gap at an age: what the person set, or else a share of the age where that is longer."""
        if self.cap_s != math.inf:
            return self.longest_gap_s
        return max(self.longest_gap_s, min(age_s * OLD_SHARE, LONGEST_OF_OLD_S))

    def stretched_s(self, longest_s: float, pressure: float) -> float:
        """Return the longest gap while polls wait behind the limit, which raises the cost of a poll by `pressure`."""
        return longest_s if self.cap_s != math.inf else longest_s * math.sqrt(pressure)


class Pressure:
    """How much more a poll costs while polls wait behind the limit, so that fewer are planned."""

    def __init__(self, most: float = math.inf) -> None:
        self.factor = 1.0  # on the cost of a poll
        self._most = most
        self._waits_s = self._waited = 0.0
        self._gaps_s = self._planned = 0.0

    def waited(self, wait_s: float) -> None:
        """Note how long after its due time a second or later poll was made."""
        self._waits_s += wait_s
        self._waited += 1

    def planned(self, gap_s: float) -> None:
        """Note a gap that would be right without a limit."""
        self._planned += 1
        self._gaps_s += gap_s

    def update(self) -> None:
        """Compute the factor, and let what was noted fade."""
        wait_s = self._waits_s / self._waited if self._waited else 0.0
        gap_s = self._gaps_s / self._planned if self._planned else math.inf
        self.factor = min(max(1.0, PRESSURE_TARGET * wait_s / gap_s) ** 2, self._most)
        self._waits_s *= RECENT
        self._waited *= RECENT
        self._gaps_s *= RECENT
        self._planned *= RECENT


class PollPlanner:
    """Plans the polls of one account by how long its imports take."""

    def __init__(self, tradeoff: Tradeoff, hazard: Hazard | None = None, feeding_ages_s: Sequence[float] = ()) -> None:
        self._tradeoff = tradeoff
        self.hazard = hazard or Hazard()
        self.first_poll_s = 0.0  # the best wait from a fresh import's feeding to its first poll
        self.pressure = Pressure()
        self.feeding_ages_s: deque[float] = deque(feeding_ages_s, maxlen=FEEDING_AGES)
        self._usual_feeding_age_s: float | None = None  # None: to be computed
        self._planned_of = self.hazard.finished  # imports, at the last plan
        self._planned_at = -math.inf
        self._curve_of = -1  # number of finished imports that the curve was made of
        self.replan()

    # --- deciding

    def reprice(self, tradeoff: Tradeoff) -> None:
        """Plan by another trade-off from the next plan on."""
        self._tradeoff = tradeoff

    def gap_s(self, age_s: float) -> float:
        """Return the wait after a poll that found the import unfinished at this age."""
        longest_s = self._tradeoff.longest_at_s(age_s)
        unpressed_s = self._bounded(self._base_plan.gap_s(age_s), longest_s)
        self.pressure.planned(unpressed_s)
        if self._plan is self._base_plan:
            return unpressed_s
        return self._bounded(self._plan.gap_s(age_s), self._tradeoff.stretched_s(longest_s, self.pressure.factor))

    def _bounded(self, gap_s: float, longest_s: float) -> float:
        gap_s = gap_s if gap_s < longest_s else longest_s
        return gap_s if gap_s > self._tradeoff.shortest_gap_s else self._tradeoff.shortest_gap_s

    @property
    def usual_feeding_age_s(self) -> float:
        """The median age of an import when it is fed."""
        if self._usual_feeding_age_s is None:
            self._usual_feeding_age_s = median(self.feeding_ages_s) if self.feeding_ages_s else 0.0
        return self._usual_feeding_age_s

    # --- learning

    def fed(self, age_s: float) -> None:
        """Note the age at which an import was fed."""
        self.feeding_ages_s.append(age_s)
        self._usual_feeding_age_s = None

    def learn(self, from_s: float, to_s: float, finished: bool) -> float:
        """A poll showed that an import was unfinished between these ages, and whether it finished then. Return how
        likely that was by what was known at the latest plan."""
        return self.hazard.learn(from_s, to_s, finished, self.curve)

    # --- planning

    def share_unfinished(self, age_s: float) -> float:
        """Return the chance that an import is unfinished at this age."""
        return math.exp(-self.curve.hazard_until(age_s))

    def is_planned(self, now: float) -> bool:
        """Return whether the plan is so new that nothing could replace it."""
        return -REPLAN_LEAST_S < now - self._planned_at < REPLAN_LEAST_S

    def refresh(self, now: float, *, plan: bool = True) -> bool:
        """Recompute the plan if that is due; return whether it was. Without `plan`, only follow what was learned."""
        since_s = abs(now - self._planned_at)
        events = self.hazard.finished - self._planned_of
        if since_s < REPLAN_LEAST_S or (since_s < REPLAN_EVERY_S and events < REPLAN_EVENTS):
            return False
        self._planned_at, self._planned_of = now, self.hazard.finished
        if plan:
            self.pressure.update()
            self.replan()
        else:
            self._follow(self.hazard.rates()[0])
        return True

    def _follow(self, rates: Sequence[float]) -> None:
        """By what was known when one finished last, so that polls in vain do not make a standstill the usual case."""
        if self.hazard.finished != self._curve_of:
            self.curve, self._curve_of = HazardCurve(EDGES, rates), self.hazard.finished

    def replan(self) -> None:
        """Compute the plan."""
        rates, at_risk = self.hazard.rates()
        self._follow(rates)
        by_band = tuple(rates)
        limits_s = tuple(self._longest_s(edge, at_risk[min(band, BANDS - 1)]) for band, edge in enumerate(EDGES))
        poll_cost_s = self._tradeoff.poll_cost_s
        self._base_plan = self._plan = plan_inspection(EDGES, by_band, limits_s, poll_cost_s)
        if self.pressure.factor > 1.0:
            bands = zip(limits_s, EDGES, (*rates, rates[-1]), strict=True)
            limits_s = tuple(self._stretched_s(longest_s, age_s, rate) for longest_s, age_s, rate in bands)
            self._plan = plan_inspection(EDGES, by_band, limits_s, poll_cost_s * self.pressure.factor)
        self.first_poll_s = 0.0
        if at_risk[0] >= KNOWN_AT_FIRST and self.feeding_ages_s:
            curve = SurvivalCurve(rates)
            self.first_poll_s = self._best_first_poll_s(self._plan, curve)
            if self._plan is not self._base_plan and self.first_poll_s > (longest_s := self._longest_first_s(at_risk)):
                unpressed_s = self._best_first_poll_s(self._base_plan, curve)
                self.first_poll_s = min(self.first_poll_s, max(unpressed_s, longest_s))

    def _longest_first_s(self, at_risk: Sequence[float]) -> float:
        """Return how long a first poll may wait for the limit's sake: a gap after the ages of which enough is known."""
        known_s = next((edge for edge, known in zip(EDGES, at_risk, strict=False) if known < KNOWN), EDGES[-1])
        return known_s + max(GUARD_S, known_s * GUARD_SHARE)

    def _longest_s(self, age_s: float, known: float) -> float:
        """Return the longest gap at an age: shorter where few imports are known."""
        longest_s = self._tradeoff.longest_at_s(age_s)
        return longest_s if known >= KNOWN else min(longest_s, max(GUARD_S, age_s * GUARD_SHARE))

    def _stretched_s(self, longest_s: float, age_s: float, rate: float) -> float:
        """Return the longest gap while polls wait behind the limit: longer for what is old and hardly ever finishes."""
        stretched_s = self._tradeoff.stretched_s(longest_s, self.pressure.factor)
        return max(longest_s, min(stretched_s, UNLIKELY / rate, STRETCHED_SHARE * age_s))

    def _best_first_poll_s(self, inspection: InspectionPlan, curve: SurvivalCurve) -> float:
        """Return the delay of the first poll that costs least at the ages at which imports were recently fed."""
        ages = sorted(self.feeding_ages_s)[:: max(1, len(self.feeding_ages_s) // WEIGHED_AGES)]
        fed = [(age_s, curve.until(age_s)[1]) for age_s in ages]
        best_delay_s, least_s = 0.0, math.inf
        for delay_s in EDGES:
            if delay_s > self._tradeoff.longest_gap_s:
                break
            cost_s = 0.0  # the lateness of this first poll, and what is left to pay after it
            for age_s, before_s in fed:
                at_s = age_s + delay_s
                unfinished, until_s = curve.until(at_s)
                cost_s += (at_s - age_s) - (until_s - before_s) + unfinished * inspection.cost_s(at_s)
                if cost_s >= least_s:
                    break
            else:
                best_delay_s, least_s = delay_s, cost_s
        return best_delay_s
