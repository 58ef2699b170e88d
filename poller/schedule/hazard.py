"""The hazard of imports: their chance to finish at each age, learned from finished and unfinished ones.

The hazard is constant within a band of ages; bands grow geometrically. Events are finished imports; exposure is the
time for which imports were observed unfinished, so waiting ones count too. Both fade, to follow changes.
"""

import math
from bisect import bisect_right
from collections.abc import Sequence
from itertools import pairwise

FIRST_EDGE_S = 0.5
RATIO = 1.12  # of one band's end to its beginning
OLDEST_S = 40 * 86_400.0
MEMORY = 200.0  # after this many more finished imports, one counts 1/e as much
PRIOR_EVENTS = 0.4  # weight of the prior "as likely to finish between 1 and 2 minutes as between 1 and 2 hours"
PRIOR_AGE_S = 10.0  # below it the prior is flat
NEIGHBOURS = 3  # bands on each side that smooth a band with few events …
SMOOTHING_EVENTS = 3.0  # … with the weight of this many events
LARGEST_WEIGHT = 1e9


def _edges() -> tuple[float, ...]:
    edges = [0.0, FIRST_EDGE_S]
    while edges[-1] < OLDEST_S:
        edges.append(edges[-1] * RATIO)
    return tuple(edges)


class Axis:
    """Bands of an axis of seconds: the hazard is constant within one."""

    def __init__(self, edges: Sequence[float], *, prior_below: float = 1.0) -> None:
        """`prior_below`: factor on the prior below 0."""
        self.edges = tuple(edges)
        self.bands = len(self.edges) - 1
        self.widths = tuple(high - low for low, high in pairwise(self.edges))
        self.priors = tuple(
            (1.0 if low >= 0 else prior_below) / (PRIOR_AGE_S + abs(low + high) / 2)
            for low, high in pairwise(self.edges)
        )

    def band_of(self, at: float) -> int:
        """Return the number of the band that contains this place; of the nearest where none does."""
        band = bisect_right(self.edges, at) - 1
        return band if 0 <= band < self.bands else 0 if band < 0 else self.bands - 1


AGES = Axis(_edges())
EDGES, BANDS, WIDTHS, band_of = AGES.edges, AGES.bands, AGES.widths, AGES.band_of


class Hazard:
    """Fading counts of events and exposure by band of age."""

    def __init__(
        self, finished: int = 0, events: Sequence[float] = (), exposure_s: Sequence[float] = (), *, axis: Axis = AGES
    ) -> None:
        """Continue from what `finished`, `events()` and `exposure_s()` were."""
        self._axis, self._edges, self._bands = axis, axis.edges, axis.bands
        self.finished = finished  # ever
        self._weight = 1.0  # of new events; grows, so that old counts fade without being rewritten
        self._events = list(events) or [0.0] * axis.bands
        self._partly_s = (
            list(exposure_s) or [0.0] * axis.bands
        )  # of those that entered or left inside the band; restored: all exposure
        self._crossing = [0.0] * (axis.bands + 1)  # change in the number of those that crossed the whole band
        self._from_band = self._to_band = 0  # of the latest import: mostly of the next one, too

    def watch(self, from_s: float, to_s: float, *, finished: bool) -> None:
        """Count an import that was unfinished between these ages and then finished or not."""
        edges, bands = self._axis.edges, self._axis.bands
        first, last = bisect_right(edges, from_s) - 1, bisect_right(edges, to_s) - 1
        if not 0 <= first <= last < bands:  # outside of the axis, as hardly ever
            from_s = min(max(from_s, edges[0]), edges[-1])
            to_s = min(max(to_s, from_s), edges[-1])
            first, last = self._axis.band_of(from_s), self._axis.band_of(to_s)
        self._count(first, last, from_s, to_s, finished)

    def learn(self, from_s: float, to_s: float, finished: bool, by: "HazardCurve") -> float:
        """Count as `watch` does, and return the `likelihood` by a curve of the same axis: in one search of the bands,
        for every clock of every poll (so nothing is passed by keyword, which doubles the cost of a call)."""
        edges, first = self._edges, self._from_band
        if not edges[first] <= from_s < edges[first + 1]:  # a search costs as much as ten comparisons
            first = bisect_right(edges, from_s) - 1
            if not 0 <= first < self._bands:
                return self._learn_outside(from_s, to_s, finished, by)
            self._from_band = first
        last, weight, partly_s = first, self._weight, self._partly_s
        if from_s <= to_s < edges[first + 1]:  # the rest is as `_count` does, which would be one more call a clock
            partly_s[first] += weight * (to_s - from_s)
        else:
            last = self._to_band
            if not (first < last and edges[last] <= to_s < edges[last + 1]):
                last = bisect_right(edges, to_s) - 1
                if not first < last < self._bands:
                    return self._learn_outside(from_s, to_s, finished, by)
                self._to_band = last
            partly_s[first] += weight * (edges[first + 1] - from_s)
            partly_s[last] += weight * (to_s - edges[last])
            crossing = self._crossing
            crossing[first + 1] += weight
            crossing[last] -= weight
        until, rates = by.until, by.rates
        stays = until[first] + rates[first] * (from_s - edges[first])
        stays -= until[last] + rates[last] * (to_s - edges[last])
        if not finished:
            return stays
        self._events[last] += weight
        self.finished += 1  # as `_fade` does
        self._weight = weight = weight * (1 + 1 / MEMORY)
        if weight > LARGEST_WEIGHT:
            self._rescale()
        return stays + by.log_rates[last]

    def _learn_outside(self, from_s: float, to_s: float, finished: bool, by: "HazardCurve") -> float:
        """Learn what is not within the axis, or ends before it begins."""
        likelihood = by.likelihood(from_s, to_s, finished=finished)
        self.watch(from_s, to_s, finished=finished)
        return likelihood

    def _count(self, first: int, last: int, from_s: float, to_s: float, finished: bool) -> None:
        """Count an import from band `first` to band `last`."""
        weight = self._weight
        if first >= last:
            self._partly_s[last] += weight * (to_s - from_s if to_s > from_s else 0.0)
        else:
            edges = self._axis.edges
            self._partly_s[first] += weight * (edges[first + 1] - from_s)
            self._partly_s[last] += weight * (to_s - edges[last])
            self._crossing[first + 1] += weight
            self._crossing[last] -= weight
        if finished:
            self._events[last] += weight
            self._fade()

    def _fade(self) -> None:
        self.finished += 1
        self._weight *= 1 + 1 / MEMORY
        if self._weight > LARGEST_WEIGHT:
            self._rescale()

    def _rescale(self) -> None:
        for counts in (self._events, self._partly_s, self._crossing):
            counts[:] = [count / self._weight for count in counts]
        self._weight = 1.0

    def events(self) -> list[float]:
        """Return the faded number of finished imports by band."""
        return [count / self._weight for count in self._events]

    def exposure_s(self) -> list[float]:
        """Return the faded seconds of exposure by band."""
        exposure, crossing = [], 0.0
        for partly_s, change, width in zip(self._partly_s, self._crossing, self._axis.widths, strict=False):
            crossing += change
            exposure.append(max(0.0, partly_s + crossing * width) / self._weight)
        return exposure

    def rates(self) -> tuple[list[float], list[float]]:
        """Return by band: the chance per second to finish, and the number of imports observed."""
        events, exposure = self.events(), self.exposure_s()
        widths, priors = self._axis.widths, self._axis.priors
        at_risk = [seconds / width for seconds, width in zip(exposure, widths, strict=True)]
        return [_rate(band, events, exposure, prior) for band, prior in enumerate(priors)], at_risk


class HazardCurve:
    """The hazard added up: what was learned, as chances."""

    def __init__(self, edges: Sequence[float], rates: Sequence[float]) -> None:
        self._edges = edges
        self._bands = len(rates)
        self.rates = rates
        self.log_rates = [math.log(rate) for rate in rates]
        self.until = [0.0]  # at each edge
        for rate, (low, high) in zip(rates, pairwise(edges), strict=True):
            self.until.append(self.until[-1] + rate * (high - low))

    def hazard_until(self, at: float) -> float:
        """Return the hazard added up to here: between two places, the chance to finish is 1 - exp(-difference)."""
        band = bisect_right(self._edges, at) - 1
        if band < 0:
            return 0.0
        if band >= self._bands:
            band = self._bands - 1
        return self.until[band] + self.rates[band] * (at - self._edges[band])

    def chance(self, from_s: float, to_s: float) -> float:
        """Return the chance that what was unfinished at `from_s` is finished at `to_s`."""
        if not to_s > from_s:
            return 0.0
        edges = self._edges
        first, last = bisect_right(edges, from_s) - 1, bisect_right(edges, to_s) - 1
        if first < 0 or last >= self._bands:  # seldom
            return -math.expm1(self.hazard_until(from_s) - self.hazard_until(to_s))
        until, rates = self.until, self.rates
        before = until[first] + rates[first] * (from_s - edges[first])
        return -math.expm1(before - (until[last] + rates[last] * (to_s - edges[last])))

    def likelihood(self, from_s: float, to_s: float, *, finished: bool) -> float:
        """Return the logarithm of how likely it was to be unfinished from here to there, and then to finish or not."""
        stays = self.hazard_until(from_s) - self.hazard_until(to_s) if to_s > from_s else 0.0
        if not finished:
            return stays
        end = min(bisect_right(self._edges, to_s) - 1, self._bands - 1)
        return stays + self.log_rates[max(end, 0)]


def _rate(band: int, events: Sequence[float], exposure: Sequence[float], prior: float) -> float:
    """Smooth a band's rate by its neighbours', and theirs by the prior, the more the less data they have."""
    low, high = max(0, band - NEIGHBOURS), band + NEIGHBOURS + 1
    smoothed = (sum(events[low:high]) + PRIOR_EVENTS) / (sum(exposure[low:high]) + PRIOR_EVENTS / prior)
    return (events[band] + SMOOTHING_EVENTS) / (exposure[band] + SMOOTHING_EVENTS / smoothed)
