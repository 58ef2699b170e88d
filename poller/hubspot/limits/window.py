"""The requests that the server may still count, and the share of its window that others use.

A request arrives between its sending and its answer, so its slot is held until the answer and one window more. Slots
stamped at sending let 123 arrivals into a window of 100 at 50-300 ms latency; these let in 100 at most.
"""

import math
from bisect import bisect_right
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass

CLOCK_DRIFT = 0.002  # the server's seconds may be this much longer than ours
KEPT_S = 60.0  # instants are kept this long past the longest window, for late answers
CAUTION = 0.05  # share of the limit that each refusal takes off …
CAUTION_FADES = 0.003  # … and share of it that the first window gives back, each later one more, …
CAUTION_FADES_FASTER = 0.00002  # … by this share times the cube of the windows since the latest refusal
DISBELIEVED_AFTER = 10  # good answers in a row that report a window as used up: the next should have been refused
TRIM_AT = 512  # with fewer instants, old ones are not worth removing


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """At most `limit` requests in any rolling `window_s`, as the server counts."""

    limit: int
    window_s: float

    @property
    def hold_s(self) -> float:
        """How long after its answer a request may still count."""
        return self.window_s * (1 + CLOCK_DRIFT)


class HeldSlots:
    """One account's requests that any window may still count: in flight, or ended recently."""

    def __init__(self) -> None:
        self.in_flight = 0
        self._ended_at: list[float] = []  # ascending

    def release(self, now: float, longest_s: float) -> None:
        """A request has ended; `longest_s` is the longest window that counts it."""
        self.in_flight -= 1
        instants = self._ended_at
        instants.append(now)
        if len(instants) > TRIM_AT and instants[len(instants) // 2] < now - longest_s - KEPT_S:
            del instants[: bisect_right(instants, now - longest_s - KEPT_S)]

    def restore(self, ages_s: Iterable[float], now: float) -> None:
        """Count requests that another process sent, by the times since each has ended."""
        self._ended_at = sorted([*self._ended_at, *(now - max(0.0, age_s) for age_s in ages_s)])

    def ages_s(self, within_s: float, now: float) -> tuple[float, ...]:
        """Return the times since each request ended that did so within the given time, oldest first."""
        first = bisect_right(self._ended_at, now - within_s)
        return tuple(now - at for at in self._ended_at[first:])

    def used(self, window: Window, now: float) -> int:
        """Return how many slots of `window` are taken."""
        return self.in_flight + len(self._ended_at) - bisect_right(self._ended_at, now - window.hold_s)

    def free_in_s(self, window: Window, capacity: int, now: float) -> float:
        """Return when one of `capacity` slots is free: 0 is now, infinity means that an answer must come first."""
        instants = self._ended_at
        if self.in_flight + len(instants) < capacity:
            return 0.0
        first = bisect_right(instants, now - window.hold_s)
        inside = len(instants) - first
        excess = self.in_flight + inside - capacity + 1
        if excess <= 0:
            return 0.0
        if excess > inside:
            return math.inf
        return instants[first + excess - 1] + window.hold_s - now

    def counted_at_most(self, window: Window, sent_at: float) -> int:
        """Return the most requests of ours that the server can have counted for one sent at `sent_at` and answered now,
        itself included."""
        return self.in_flight + len(self._ended_at) - bisect_right(self._ended_at, sent_at - window.hold_s)


class Others:
    """The share of a window to leave to other clients: the share proved within the last window, and a caution that
    grows with each refusal that our own count does not explain, and then fades, faster and faster.

    A server may report its window as used up in every answer and accept the next request all the same. Such a report
    proves nothing, until refusals are frequent.
    """

    def __init__(self) -> None:
        self._proved: deque[tuple[float, int]] = deque()  # (until, share), shares falling
        self._caution = 0.0  # slots, as of `_cautioned_at`
        self._cautioned_at = 0.0
        self._contradicted = 0  # good answers in a row that report a used-up window

    def prove(self, share: int, window: Window, now: float) -> None:
        """An answer's counts prove that others took at least `share` slots."""
        if share <= 0 or self.is_disbelieved:
            return
        while self._proved and self._proved[-1][1] <= share:
            self._proved.pop()
        self._proved.append((now + window.hold_s, share))

    def accept(self, remaining: int) -> None:
        """A request was accepted, and its answer reports `remaining` slots."""
        self._contradicted = 0 if remaining > 0 else self._contradicted + 1
        if self._contradicted == DISBELIEVED_AFTER:
            self._proved.clear()

    def believe(self) -> None:
        """Refusals are frequent: take the reports seriously again."""
        self._contradicted = 0

    @property
    def is_disbelieved(self) -> bool:
        """Whether reports of a used-up window prove nothing."""
        return self._contradicted >= DISBELIEVED_AFTER

    def are_proved(self, now: float) -> bool:
        """Whether the answers of the last window prove that others use it."""
        return any(until > now for until, _ in self._proved)

    def forgive(self) -> None:
        """The refusals had another cause: others need no caution."""
        self._caution = 0.0

    def refuse(self, unseen: int, window: Window, now: float, *, steps: int = 1) -> None:
        """The server refused a request that was within the limit by our count. `unseen` slots must be others', if the
        limit is what we know: half of what is left for us is given up at once at most. The caution grows by `steps` at
        least."""
        caution = self._caution_left(window, now)
        halved = caution + (window.limit - caution) / 2
        grown = caution + steps * max(1.0, CAUTION * window.limit)
        self._caution, self._cautioned_at = min(max(grown, min(unseen, halved)), window.limit - 1.0), now

    def capacity(self, window: Window, now: float) -> int:
        """Return the slots of `window` that are left for us. While others use it, a few stay empty, because they
        may take more before we see it."""
        if not self._caution and not self._proved:
            return window.limit
        share = math.ceil(self._caution_left(window, now))
        while self._proved and self._proved[0][0] <= now:
            self._proved.popleft()
        if self._proved:
            share += self._proved[0][1] + min(10, 1 + window.limit // 50)
        return max(1, window.limit - share)

    def easier_in_s(self, window: Window, now: float) -> float:
        """Return when `capacity` may grow by time alone."""
        proved_s = self._proved[0][0] - now if self._proved else math.inf
        caution = self._caution_left(window, now)
        if not caution:
            return proved_s
        later = _faded(window, now - self._cautioned_at + window.window_s)
        fading_s = (later - _faded(window, now - self._cautioned_at)) / window.window_s
        return min(proved_s, (caution - math.ceil(caution) + 1) / fading_s)

    def _caution_left(self, window: Window, now: float) -> float:
        if not self._caution:
            return 0.0
        left = self._caution - _faded(window, now - self._cautioned_at)
        if left <= 0:
            self._caution = 0.0
        return max(0.0, left)


def _faded(window: Window, since_s: float) -> float:
    """Return how many slots of caution fade in `since_s`: all of them within 37 windows without a refusal."""
    windows = since_s / window.window_s
    return (CAUTION_FADES * windows + CAUTION_FADES_FASTER * windows**3) * window.limit
