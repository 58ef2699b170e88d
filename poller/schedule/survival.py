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

    def until(self, age_s: float) -> tuple[float, float]:
        """Return the chance that an import is unfinished at this age, and how long one is unfinished until then, on
        average."""
        band = band_of(age_s)
        rate, share = self._rates[band], self._share[band]
        hazard = rate * (age_s - EDGES[band])
        return share * math.exp(-hazard), self._unfinished_s[band] - share * math.expm1(-hazard) / rate

    def quantile_s(self, share: float) -> float:
        """Return the age by which this share of imports is finished; infinity where that is beyond the oldest band."""
        edge = bisect_left(self._share, share - 1, key=lambda unfinished: -unfinished)
        if edge >= len(self._share):
            return math.inf
        if edge == 0:
            return 0.0
        rate = self._rates[edge - 1]
        return EDGES[edge - 1] + math.log(self._share[edge - 1] / (1 - share)) / rate
