"""How far HubSpot's clock is ahead of ours, from instants that no two correct clocks would show."""

from collections import deque

REMEMBERED = 64  # the latest bounds of each kind
OUTLIERS = 1  # as many of the strictest bounds are ignored: one answer with a wrong instant is no clock
LEAST_S = 1.0  # below it, latency explains everything


class Skew:
    """The least difference between the clocks that explains the latest answers; 0 where they may agree."""

    def __init__(self) -> None:
        self.seconds = 0.0  # HubSpot's clock minus ours
        self._at_least: deque[float] = deque(maxlen=REMEMBERED)
        self._at_most: deque[float] = deque(maxlen=REMEMBERED)

    def requested(self, requested_at: float, *, fed_at: float, sent_at: float | None = None) -> None:
        """An import was requested, by HubSpot's clock, before it was fed, by ours; and not before `sent_at`, where this
        program did it."""
        self._at_least.append(requested_at - fed_at)
        if sent_at is not None:
            self._at_most.append(requested_at - sent_at)
        self._check()

    def completed(self, completed_at: float, *, seen_at: float, unfinished_at: float | None) -> None:
        """An import was completed, by HubSpot's clock, after a poll found it unfinished and before one found it so."""
        self._at_least.append(completed_at - seen_at)
        if unfinished_at is not None:
            self._at_most.append(completed_at - unfinished_at)
        self._check()

    def _check(self) -> None:
        is_late = bool(self._at_most) and self._at_most[-1] < -LEAST_S
        if self.seconds or is_late or self._at_least[-1] > LEAST_S:  # nearly never
            self._update()

    def _update(self) -> None:
        low = sorted(self._at_least)[-1 - OUTLIERS] if len(self._at_least) > OUTLIERS else 0.0
        high = sorted(self._at_most)[OUTLIERS] if len(self._at_most) > OUTLIERS else low
        self.seconds = 0.0
        if low > LEAST_S and low <= high + LEAST_S:
            self.seconds = low
        elif high < -LEAST_S and low <= high + LEAST_S:
            self.seconds = high
