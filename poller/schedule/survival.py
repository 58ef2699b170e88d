"""How long imports take, derived from a hazard by band of age."""

import math
from bisect import bisect_left
from collections.abc import Sequence

from poller.schedule.hazard import EDGES, WIDTHS, band_of


class SurvivalCurve:
    """The chance that an import is unfinished at each age."""

    def __init__(self, rates: Sequence[float]) -> None:
        self._rates = rates
        self._share = [1.0]  # at each edge
        self._unfinished_s = [0.0]  # the integral of it
        for rate, width in zip(rates, WIDTHS, strict=True):
            stays = math.exp(-rate * width)
            self._unfinished_s.append(self._unfinished_s[-1] + self._share[-1] * (1 - stays) / rate)
            self._share.append(self._share[-1] * stays)

    def unfinished(self, age_s: float) -> float:
        """Return the chance to be unfinished at this age."""
        band = band_of(age_s)
        return self._share[band] * math.exp(-self._rates[band] * (age_s - EDGES[band]))

    def lateness_s(self, from_s: float, to_s: float) -> float:
        """Return how late, on average, one poll at age `to_s` sees an end that could be seen from `from_s` on."""
        return (to_s - from_s) - (self._unfinished_until_s(to_s) - self._unfinished_until_s(from_s))

    def quantile_s(self, share: float) -> float:
        """Return the age by which this share of imports is finished; infinity where that is beyond the oldest band."""
        edge = bisect_left(self._share, share - 1, key=lambda unfinished: -unfinished)
        if edge >= len(self._share):
            return math.inf
        if edge == 0:
            return 0.0
        rate = self._rates[edge - 1]
        return EDGES[edge - 1] + math.log(self._share[edge - 1] / (1 - share)) / rate

    def _unfinished_until_s(self, age_s: float) -> float:
        band = band_of(age_s)
        rate = self._rates[band]
        return self._unfinished_s[band] - self._share[band] * math.expm1(-rate * (age_s - EDGES[band])) / rate
