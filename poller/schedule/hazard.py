"""The hazard of imports: their chance to finish at each age, learned from finished and unfinished ones.

The hazard is constant within a band of ages; bands grow geometrically. Events are finished imports; exposure is the
time for which imports were observed unfinished, so waiting ones count too. Both fade, to follow changes.
"""

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


EDGES = _edges()
BANDS = len(EDGES) - 1
WIDTHS = tuple(EDGES[band + 1] - EDGES[band] for band in range(BANDS))
_NONE_YET = (0.0,) * BANDS


def band_of(age_s: float) -> int:
    """Return the number of the band that contains the age."""
    return min(bisect_right(EDGES, age_s), BANDS) - 1


class Hazard:
    """Fading counts of events and exposure by band of age."""

    def __init__(
        self, finished: int = 0, events: Sequence[float] = _NONE_YET, exposure_s: Sequence[float] = _NONE_YET
    ) -> None:
        """Continue from what `finished`, `events()` and `exposure_s()` were."""
        self.finished = finished  # ever
        self._weight = 1.0  # of new events; grows, so that old counts fade without being rewritten
        self._events = list(events)
        self._partly_s = list(exposure_s)  # of those that entered or left inside the band; restored: all exposure
        self._crossing = [0.0] * (BANDS + 1)  # change in the number of those that crossed the whole band

    def watch(self, from_s: float, to_s: float, *, finished: bool) -> None:
        """Count an import that was unfinished between these ages and then finished or not."""
        to_s = min(max(to_s, from_s), OLDEST_S)
        first, last = band_of(from_s), band_of(to_s)
        if first >= last:
            self._partly_s[last] += self._weight * max(0.0, to_s - from_s)
        else:
            self._partly_s[first] += self._weight * (EDGES[first + 1] - from_s)
            self._partly_s[last] += self._weight * (to_s - EDGES[last])
            self._crossing[first + 1] += self._weight
            self._crossing[last] -= self._weight
        if finished:
            self._events[last] += self._weight
            self._fade()

    def _fade(self) -> None:
        self.finished += 1
        self._weight *= 1 + 1 / MEMORY
        if self._weight > LARGEST_WEIGHT:
            for counts in (self._events, self._partly_s, self._crossing):
                counts[:] = [count / self._weight for count in counts]
            self._weight = 1.0

    def events(self) -> list[float]:
        """Return the faded number of finished imports by band."""
        return [count / self._weight for count in self._events]

    def exposure_s(self) -> list[float]:
        """Return the faded seconds of exposure by band."""
        exposure, crossing = [], 0.0
        for band in range(BANDS):
            crossing += self._crossing[band]
            exposure.append(max(0.0, self._partly_s[band] + crossing * WIDTHS[band]) / self._weight)
        return exposure

    def rates(self) -> tuple[list[float], list[float]]:
        """Return by band: the chance per second to finish, and the number of imports observed."""
        events, exposure = self.events(), self.exposure_s()
        at_risk = [seconds / width for seconds, width in zip(exposure, WIDTHS, strict=True)]
        return [_rate(band, events, exposure) for band in range(BANDS)], at_risk


class HazardCurve:
    """The hazard added up: what was learned, as chances."""

    def __init__(self, edges: Sequence[float], rates: Sequence[float]) -> None:
        self._edges = edges
        self._rates = rates
        self._until = [0.0]  # at each edge
        for rate, (low, high) in zip(rates, pairwise(edges), strict=True):
            self._until.append(self._until[-1] + rate * (high - low))

    def hazard_until(self, at: float) -> float:
        """Return the hazard added up to here: between two places, the chance to finish is 1 - exp(-difference)."""
        band = min(max(bisect_right(self._edges, at), 1), len(self._rates)) - 1
        return self._until[band] + self._rates[band] * (at - self._edges[band])


def _rate(band: int, events: Sequence[float], exposure: Sequence[float]) -> float:
    """Smooth a band's rate by its neighbours', and theirs by the prior, the more the less data they have."""
    low, high = max(0, band - NEIGHBOURS), min(BANDS, band + NEIGHBOURS + 1)
    prior = 1 / (PRIOR_AGE_S + (EDGES[band] + EDGES[band + 1]) / 2)
    smoothed = (sum(events[low:high]) + PRIOR_EVENTS) / (sum(exposure[low:high]) + PRIOR_EVENTS / prior)
    return (events[band] + SMOOTHING_EVENTS) / (exposure[band] + SMOOTHING_EVENTS / smoothed)
