"""Notices that nothing finishes, although much should by now: an incident at HubSpot, or a server that is held up.

Then one poll every few seconds is enough to notice that imports finish again; polls at the usual gaps would find none.
Time in which the account was paused shows nothing and does not count.
"""

import math

EXPECTED = 12.0  # finished imports that the polls since the last one should have found
LEAST_POLLS = 30
LEAST_S = 60.0  # since the first of these polls, pauses excluded
SHORTEST_GAP_S, LONGEST_GAP_S = 0.5, 10.0  # between two polls during a standstill …
GAP_SHARE = 0.02  # … and as a share of its length
DEADLINES_EVERY_S = 10.0  # how often passed deadlines are searched for, once there may be some


class Standstill:
    """Follows the polls of one account since a poll last found an import finished."""

    def __init__(self) -> None:
        self.since = math.inf  # the first poll after the last finished import; infinity: none was made
        self._expected = 0.0
        self._polls = 0
        self.paused_s = 0.0  # the account's paused time so far; the lane keeps it current …
        self._paused_before_s = 0.0  # … and what it was at `since`
        self._next_turn_at = -math.inf
        self.deadline_at = math.inf  # when the deadline of a task may have passed: such tasks are polled as ever

    def finished(self) -> None:
        """A poll found an import finished."""
        self.since = self.deadline_at = math.inf
        self._expected, self._polls = 0.0, 0

    def unfinished(self, chance: float, *, now: float, deadline_at: float) -> None:
        """A poll found an import unfinished. `chance`: by what was learned, that it is finished by now."""
        if self._polls == 0:
            self.since, self._paused_before_s = now, self.paused_s
        if deadline_at > now:
            self.deadline_at = min(self.deadline_at, deadline_at)
        self._expected += chance
        self._polls += 1

    def lasts(self, now: float) -> bool:
        """Return whether nothing finishes."""
        return self._expected >= EXPECTED and self._polls >= LEAST_POLLS and self._length_s(now) >= LEAST_S

    def _length_s(self, now: float) -> float:
        return now - self.since - (self.paused_s - self._paused_before_s)

    def take_turn(self, now: float) -> bool:
        """Return whether a single poll may be made now, and count it."""
        if now < self._next_turn_at:
            return False
        self._next_turn_at = now + self.gap_s(now)
        return True

    def gap_s(self, now: float) -> float:
        """Return the time between two single polls."""
        return min(max(SHORTEST_GAP_S, GAP_SHARE * self._length_s(now)), LONGEST_GAP_S)

    def no_deadline_passed(self, now: float) -> None:
        """No task was found whose deadline has passed."""
        self.deadline_at = now + DEADLINES_EVERY_S

    @property
    def sleeps_until(self) -> float:
        """When there is something to do."""
        return min(self._next_turn_at, self.deadline_at)
