"""How long imports take, as far as a hazard by band of age tells."""

import math
from bisect import bisect_left
from collections.abc import Sequence

from poller.schedule.hazard import EDGES, WIDTHS, band_of


class Lifetimes:
    """The chance to be unfinished at each age, and what follows from it."""

    def __init__(self, rates: Sequence[float]) -> None:
        self._rates = rates
        self._left = [1.0]  # at each edge
        self._unfinished_s = [0.0]  # the integral of it
        for rate, width in zip(rates, WIDTHS, strict=True):
            stays = math.exp(-rate * width)
            self._unfinished_s.append(self._unfinished_s[-1] + self._left[-1] * (1 - stays) / rate)
            self._left.append(self._left[-1] * stays)

    def left(self, age_s: float) -> float:
        """Return the chance to be unfinished at this age."""
        band = band_of(age_s)
        return self._left[band] * math.exp(-self._rates[band] * (age_s - EDGES[band]))

    def late_s(self, from_s: float, to_s: float) -> float:
        """Return how late, on average, an import is seen by one poll of `to_s` that could be seen from `from_s` on."""
        return (to_s - from_s) - (self._unfinished_until_s(to_s) - self._unfinished_until_s(from_s))

    def quantile_s(self, share: float) -> float:
        """Return the age by which this share of imports is finished; infinity where that is beyond what is known."""
        edge = bisect_left(self._left, share - 1, key=lambda left: -left)
        if edge >= len(self._left):
            return math.inf
        if edge == 0:
            return 0.0
        rate = self._rates[edge - 1]
        return EDGES[edge - 1] + math.log(self._left[edge - 1] / (1 - share)) / rate

    def _unfinished_until_s(self, age_s: float) -> float:
        band = band_of(age_s)
        rate = self._rates[band]
        return self._unfinished_s[band] - self._left[band] * math.expm1(-rate * (age_s - EDGES[band])) / rate
