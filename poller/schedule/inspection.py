"""The optimal inspection policy: when to poll something that ends at an unknown time, given the cost of a poll.

Barlow, Hunter and Proschan, "Optimum checking procedures", SIAM J. Appl. Math. 11 (1963); inside a band of constant
hazard the gaps are equal and follow Keller's square-root law (1974) in its exact form.
"""

import math
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

from msgspec import Struct

LATEST_PLANS = 8
LEAST_RATE = 1e-9  # a second; keeps the arithmetic finite
LONGEST_STRETCH = 60.0  # upper bound of hazard times gap


@dataclass(frozen=True, slots=True, kw_only=True)
class InspectionPlan:
    """A plan by age: the best wait after a poll that found the task unfinished, and the expected cost from then on."""

    edges: Sequence[float]
    rates: Sequence[float]  # the hazard by band
    gaps_s: Sequence[float]  # at each edge
    costs_s: Sequence[float]  # expected from each edge on: polls times their cost, and lateness

    def gap_s(self, age_s: float) -> float:
        """Return the best wait for a task that is unfinished at this age."""
        band = bisect_right(self.edges, age_s) - 1
        if band >= len(self.rates):
            return self.gaps_s[-1]
        share = (age_s - self.edges[band]) / (self.edges[band + 1] - self.edges[band])
        return self.gaps_s[band] + share * (self.gaps_s[band + 1] - self.gaps_s[band])

    def cost_s(self, age_s: float) -> float:
        """Return the expected cost of a task that is unfinished at this age."""
        band = bisect_right(self.edges, age_s) - 1
        if band >= len(self.rates):
            return self.costs_s[-1]
        rate = max(self.rates[band], LEAST_RATE)
        return _cost_inside(rate, self.edges[band], self.edges[band + 1], age_s, self.costs_s[band : band + 2])


def _cost_inside(rate: float, low: float, high: float, age_s: float, costs_s: Sequence[float]) -> float:
    """Return the cost between two edges from the costs at both: in proportion within the band, by the chance to get
    there after it. A straight line would be far off where some tasks never finish."""
    here_s, after_s = costs_s
    within_s = here_s - math.exp(-rate * (high - low)) * after_s
    return (high - age_s) / (high - low) * within_s + math.exp(-rate * (high - age_s)) * after_s


def even_gap_s(rate: float, poll_cost_s: float) -> float:
    """Return the best gap where the hazard stays constant: about sqrt(2 · cost / rate).

    Solves e^x - 1 - x = rate · cost for x = rate · gap, by Newton's method from a bound above.
    """
    target = rate * poll_cost_s
    x = min(math.sqrt(2 * target), math.log1p(target) + 1.5)
    for _ in range(4):
        grown = math.exp(x)
        x -= (grown - 1 - x - target) / max(grown - 1, 1e-12)
    return x / rate


class _Bands(Struct, frozen=True):
    """Bands of ages, and what of each is the same for every poll planned before it. By band but for the edges."""

    edges: Sequence[float]
    rates: Sequence[float]
    through: Sequence[float]  # the chance to get through it unfinished
    through_at_least: Sequence[float]  # the same, with a bound below


def _bands(edges: Sequence[float], rates: Sequence[float]) -> _Bands:
    rates = [max(rate, LEAST_RATE) for rate in rates]
    hazards = [rate * (high - low) for rate, (low, high) in zip(rates, pairwise(edges), strict=True)]
    through = [math.exp(-hazard) for hazard in hazards]
    return _Bands(edges, rates, through, [math.exp(-min(hazard, LONGEST_STRETCH)) for hazard in hazards])


@lru_cache(maxsize=LATEST_PLANS)
def plan_inspection(
    edges: tuple[float, ...], rates: tuple[float, ...], limits_s: tuple[float, ...], poll_cost_s: float
) -> InspectionPlan:
    """Plan backwards from the oldest age. `rates` are the hazard by band, `limits_s` the longest gap at each edge.

    The latest plans are kept: at a start, each of many accounts that nothing is known of yet has the same one.
    """
    last, bands = len(edges) - 1, _bands(edges, rates)
    gaps_s, costs_s = [0.0] * (last + 1), [0.0] * (last + 1)
    gaps_s[last], costs_s[last] = _beyond_last_edge(bands.rates[-1], poll_cost_s, limits_s[last])
    for band in range(last - 1, -1, -1):
        rate = bands.rates[band]
        even_s = even_gap_s(rate, poll_cost_s)
        best = _evenly(rate, edges[band + 1] - edges[band], poll_cost_s, limits_s[band], costs_s[band + 1], even_s)
        costs_s[band], gaps_s[band] = min(best, _one_poll(band, bands, limits_s[band], poll_cost_s, costs_s, even_s))
    return InspectionPlan(edges=edges, rates=rates, gaps_s=gaps_s, costs_s=costs_s)


def _beyond_last_edge(rate: float, poll_cost_s: float, limit_s: float) -> tuple[float, float]:
    gap_s = min(even_gap_s(rate, poll_cost_s), limit_s)
    return gap_s, (poll_cost_s + gap_s) / -math.expm1(-rate * gap_s) - 1 / rate


def _evenly(
    rate: float, width_s: float, poll_cost_s: float, limit_s: float, after_s: float, even_s: float
) -> tuple[float, float]:
    """Return cost and gap of crossing the band with equal gaps, the last poll at its end."""
    polls = max(math.ceil(width_s / limit_s - 1e-9), round(width_s / even_s), 1)
    gap_s = width_s / polls
    done_a_gap, done = -math.expm1(-rate * gap_s), -math.expm1(-rate * width_s)
    a_poll = poll_cost_s + gap_s - done_a_gap / rate
    return a_poll * done / done_a_gap + (1 - done) * after_s, gap_s


def _one_poll(
    first: int, bands: _Bands, limit_s: float, poll_cost_s: float, costs_s: Sequence[float], even_s: float
) -> tuple[float, float]:
    """Return cost and gap of the best single poll: at an edge, at the longest gap, or by the square-root law."""
    edges, rates, through, through_at_least = bands.edges, bands.rates, bands.through, bands.through_at_least
    start = low = edges[first]
    best_s, best_gap_s = math.inf, limit_s
    lasting, unfinished_s = 1.0, 0.0  # chance to be unfinished at the band's beginning, its integral up to there
    own, end = start + even_s, start + limit_s
    for band in range(first, len(rates)):
        rate, high = rates[band], edges[band + 1]
        if high <= end:
            left = through[band]
            area_s = unfinished_s + lasting * (1 - left) / rate
            cost_s = poll_cost_s + high - start - area_s + lasting * left * costs_s[band + 1]
            if cost_s < best_s or (cost_s == best_s and high - start < best_gap_s):
                best_s, best_gap_s = cost_s, high - start
        if (low < own < high or low < end < high) and band != first:  # in few of the bands
            for target in (own, end):
                if low < target < high and target <= end:
                    left = math.exp(-rate * (target - low))
                    area_s = unfinished_s + lasting * (1 - left) / rate
                    after_s = _cost_inside(rate, low, high, target, (costs_s[band], costs_s[band + 1]))
                    found = poll_cost_s + target - start - area_s + lasting * left * after_s, target - start
                    best_s, best_gap_s = min((best_s, best_gap_s), found)
        if high >= end:
            break
        left = through_at_least[band]
        unfinished_s += lasting * (1 - left) / rate
        lasting *= left
        low = high
    return best_s, best_gap_s
