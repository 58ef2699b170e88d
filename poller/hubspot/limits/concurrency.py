"""How many requests of an account may be in flight at once."""

import math

from poller.hubspot.limits.window import Window

USUAL_LATENCY_S = 0.4  # of a slow answer that is still usual
LEAST_WORKERS, MOST_WORKERS = 16, 1024


def enough_workers(window: Window) -> int:
    """Return how many requests in flight use a limit up at any usual latency: 16, or more for high limits (Little's
    law). Fewer would waste quota; more would only wait, and all fail together when the API hangs."""
    return min(max(LEAST_WORKERS, math.ceil(USUAL_LATENCY_S * window.limit / window.window_s)), MOST_WORKERS)


class Concurrency:
    """Starts with one request in flight and doubles each round up to `workers`; halves on time-outs and then grows by
    one a round. A round is as many good answers as requests are allowed in flight."""

    def __init__(self, configured: int | None, window: Window) -> None:
        self.configured = configured  # the person's limit; None: as many as can use the window up
        self.allowed = 1
        self._is_doubling = True
        self._credit = 0
        self._halved_at = -1  # requests up to this number left before the latest halving
        self.fit(window)

    def fit(self, window: Window) -> None:
        """Adopt `configured`, or enough workers for `window`."""
        self.workers = self.configured or enough_workers(window)
        self.allowed = min(self.allowed, self.workers)

    def restart(self, in_flight: int) -> None:
        """Start with one again, as after a pause, in addition to what is still `in_flight` from before."""
        self.allowed = min(in_flight + 1, self.workers)
        self._is_doubling = True
        self._credit = 0

    def succeed(self) -> None:
        """Count a good answer."""
        if self.allowed >= self.workers:
            self._is_doubling = False
            return
        self._credit += 1
        if self._is_doubling or self._credit >= self.allowed:
            self.allowed += 1
            self._credit = 0

    def time_out(self, number: int, latest: int) -> None:
        """Count a time-out of request `number`; `latest` is the number of the last request sent. Requests that were
        in flight together halve the concurrency once."""
        if number <= self._halved_at:
            return
        self._halved_at = latest
        self._is_doubling = False
        self._credit = 0
        self.allowed = max(1, self.allowed // 2)
