"""The clock of a run: what the wall showed at its start, plus the time elapsed since. No jump of the wall moves it."""

import math
from collections.abc import Callable

import structlog

from poller.core.protocols import Clock

log = structlog.get_logger("poller")

JUMP_S = 2.0  # between two comparisons; less is the clock service's usual correction
COMPARED_EVERY_S = 0.05  # how often the wall is read at most: a poll reads the clock four times


class SteadyClock:
    """Instants that grow as fast as time does: due times, deadlines and ages count only elapsed time, whatever is done
    to the machine's clock. Logs each jump of that one once, and calls `on_jump`."""

    def __init__(self, wall: Clock, monotonic: Clock) -> None:
        self.on_jump: Callable[[], None] = lambda: None
        self.began_at = wall()
        self.wall = wall  # the machine's own
        self.day_clock: Clock = wall  # shows which day it is
        self._monotonic = monotonic
        self._wall_ahead_s = self.began_at - monotonic()
        self._started_ahead_s = self._wall_ahead_s
        self._moved_s = 0.0
        self._compare_at = -math.inf

    def __call__(self) -> float:
        elapsed = self._monotonic()
        if elapsed >= self._compare_at:
            self._compare(elapsed)
        return elapsed + self._started_ahead_s

    def move(self, by_s: float, *, since: str) -> None:
        """Go by another clock, which is ahead by this much: before any instant is stored. A jump is logged."""
        self._started_ahead_s += by_s
        self._moved_s += by_s
        self.day_clock = self
        if abs(by_s) >= JUMP_S:
            log.warning("clock.jumped", by_s=round(by_s, 3), since=since)

    def machine(self) -> float:
        """Return what the machine's clock shows, or would without its jumps since the start, whichever is earlier."""
        return min(self.wall(), self() - self._moved_s)

    @property
    def behind_s(self) -> float:
        """How much the machine's clock was set forward since the start; below 0: back."""
        return self._wall_ahead_s - self._started_ahead_s

    def _compare(self, elapsed: float) -> None:
        self._compare_at = elapsed + COMPARED_EVERY_S
        ahead_s = self.wall() - elapsed
        jump_s, self._wall_ahead_s = ahead_s - self._wall_ahead_s, ahead_s
        if abs(jump_s) >= JUMP_S:
            log.warning("clock.jumped", by_s=round(jump_s, 3), since="the latest reading")
            self.on_jump()


def day_clock_of(clock: Clock) -> Clock:
    """Return the clock that shows which day it is: the machine's where `clock` is steady and goes by it."""
    return clock.day_clock if isinstance(clock, SteadyClock) else clock


def machine_clock_of(clock: Clock) -> Clock:
    """Return the machine's clock as it is, which is what others compare theirs with."""
    return clock.wall if isinstance(clock, SteadyClock) else clock


def file_clock_of(clock: Clock) -> Clock:
    """Return the clock by which a file's time of change makes it no older than it is: the machine's, as the file's."""
    return clock.machine if isinstance(clock, SteadyClock) else clock
