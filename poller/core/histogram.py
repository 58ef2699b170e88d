"""A histogram: how many values lie between fixed bounds, and their sum. Cheap enough for every poll."""

from bisect import bisect_left
from collections.abc import Callable, Sequence

MINUTE, HOUR = 60.0, 3600.0
IMPORT_BOUNDS_S = (  # of how long imports take, on the page and in reports
    *(1.0, 2.0, 3.0, 5.0, 7.0, 10.0, 15.0, 20.0, 30.0, 45.0),
    *(factor * MINUTE for factor in (1.0, 1.5, 2.0, 3.0, 5.0, 7.0, 10.0, 15.0, 20.0, 30.0, 45.0)),
    *(factor * HOUR for factor in (1.0, 1.5, 2.0, 3.0, 5.0, 8.0, 12.0, 24.0)),
)


class Histogram:
    """Counts values by bucket. A value equal to a bound is in the bucket below it; with `bisect_right`, above it."""

    __slots__ = ("_bucket", "bounds", "counts", "sum")

    def __init__(
        self, bounds: tuple[float, ...], bucket: Callable[[Sequence[float], float], int] = bisect_left
    ) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)  # the last one: above the last bound
        self.sum = 0.0
        self._bucket = bucket

    def add(self, value: float) -> None:
        """Count one value."""
        self.counts[self._bucket(self.bounds, value)] += 1
        self.sum += value

    @property
    def total(self) -> int:
        """How many values were counted."""
        return sum(self.counts)

    def quantile(self, share: float) -> float | None:
        """Return the value below which this share lies; None without values. Interpolates within a bucket on a
        logarithmic scale, in the first one linearly from 0."""
        left = share * self.total
        for index, count in enumerate(self.counts):
            if count and left <= count:
                low, high = self.bounds[max(index - 1, 0)], self.bounds[min(index, len(self.bounds) - 1)]
                return float(high * left / count if index == 0 else low * (high / low) ** (left / count))
            left -= count
        return None
