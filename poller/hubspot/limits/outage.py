"""Tells an outage of the API from one broken task, and how many requests may be in flight at once."""

from collections import deque

REMEMBERED = 20  # polls by which the API is judged
FAILED_OF_REMEMBERED = 16
FAILED_IN_A_ROW = 5
DIFFERENT = 3  # so many different tasks must have failed: one broken task only backs off itself


class OutageDetector:
    """The latest polls of a lane, failed or not."""

    def __init__(self) -> None:
        self._latest: deque[tuple[bool, object]] = deque(maxlen=REMEMBERED)
        self._in_a_row = 0

    def note(self, about: object, *, failed: bool) -> None:
        """A poll of `about` has ended."""
        self._latest.append((failed, about))
        self._in_a_row = self._in_a_row + 1 if failed else 0

    def clear(self) -> None:
        """Forget: what was before says nothing any more."""
        self._latest.clear()
        self._in_a_row = 0

    @property
    def is_outage(self) -> bool:
        """Whether most polls several tasks fail: the last 5, or 16 of the last 20."""
        failed = [about for failed, about in self._latest if failed]
        if self._in_a_row < FAILED_IN_A_ROW and len(failed) < FAILED_OF_REMEMBERED:
            return False
        if len(failed) < FAILED_OF_REMEMBERED:
            failed = failed[-self._in_a_row :]
        return len(set(failed)) >= DIFFERENT


class Concurrency:
    """How many requests may be in flight: starts with one, doubles a round up to `workers`; halves on time-outs and
    then rises by one a round. A round is as many good answers as are allowed in flight."""

    def __init__(self, workers: int) -> None:
        self.workers = workers
        self.allowed = 1
        self._rising = True
        self._credit = 0
        self._halved_at = -1  # requests up to this number left before the latest halving

    def limit(self, workers: int) -> None:
        """Allow at most so many from now on."""
        self.workers = workers
        self.allowed = min(self.allowed, workers)

    def restart(self, in_flight: int) -> None:
        """Begin again with one, as after a pause, beside what is still `in_flight` from before."""
        self.allowed = min(in_flight + 1, self.workers)
        self._rising = True
        self._credit = 0

    def succeed(self) -> None:
        """A good answer came."""
        if self.allowed >= self.workers:
            self._rising = False
            return
        self._credit += 1
        if self._rising or self._credit >= self.allowed:
            self.allowed += 1
            self._credit = 0

    def time_out(self, number: int, latest: int) -> None:
        """Request `number` timed out; `latest` is the number of the last one that left. Those that were in flight
        together halve it once."""
        if number <= self._halved_at:
            return
        self._halved_at = latest
        self._rising = False
        self._credit = 0
        self.allowed = max(1, self.allowed // 2)
