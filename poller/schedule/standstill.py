"""Notices that nothing finishes, although much should by now: an incident at HubSpot, or a server that is held up.

Then one poll every few seconds is enough to notice that imports finish again; polls at the usual gaps would find none.
Time in which the account was paused shows nothing and does not count.
"""

import math

EXPECTED = 12.0  # finished imports that the polls since the last one should have found
LEAST_POLLS = 30
LEAST_S = 60.0  # since the first of these polls, pauses excluded …
POLLS_EACH, LEAST_S_OF_FEW = 1.25, 10.0  # … or so many polls of each task, and this long: a few tasks are soon through
LEAST_S_OF_MOST, MOST = 3.0, 0.5  # … or this long, where so many of the tasks should have been found finished …
NEW, EXPECTED_OF_NEW = 40, 6.0  # … or where of so many tasks none was ever found finished, and so many should have been
FED_OF_NEW = 0.3  # … once so many polls of each came after the last new one: while tasks are fed, first polls show most
MANY, MANY_EACH = 150, 2.0  # … or, of so many tasks that were polled so often, and after `LEAST_S`, …
EXPECTED_OF_MANY = 3.0  # … so many missing ones: what is left hardly ever finishes …
EXPECTED_OF_MANY_IN_LINE = 1.0  # … all the less where others have overtaken it
HALTS = 2.0  # … in a line: so many times as long as it halted lately, `LEAST_S_OF_FEW` to `LEAST_S`
HALTED = 6.0  # finished imports that were missing by then: the last ones of a run are slow, which is no halt
FADING = 0.9995  # of the longest halt, with each finished import: many may be completed at once
FEW = 4000  # tasks at most that are distinguished
HOUR_S = 3600.0
POLLS_AN_HOUR = 1.9  # of each task, at most: those before the standstill was noticed count
LEAST_LEFT = 0.3  # polls of each that are left for the hour, however many were made before the standstill was noticed
SHORTEST_GAP_S, LONGEST_GAP_S = 0.5, 300.0  # between two polls during a standstill …
LONGEST_GAP_OF_MANY_S = 3.6  # … with many tasks
LEAST_SHARE, MOST_SHARE = 0.02, 0.25  # the gap as a share of the standstill's length
GROWTH = 0.75  # the gap grows with this power of the length: much is spent early, when most standstills end
RECENT = 0.95  # of single polls, the share that still counts at the next one
DEADLINES_EVERY_S = 10.0  # how often passed deadlines are searched for, once there may be some


class Standstill:
    """Follows the polls of one account since a poll last found an import finished."""

    def __init__(self, longest_gap_s: float = math.inf, *, is_new: bool = False) -> None:
        """`longest_gap_s`: the most time between two single polls that the person wants. `is_new`: no import of the
        account was ever found finished."""
        self._longest_gap_s = min(LONGEST_GAP_S, longest_gap_s)
        self._is_new = is_new
        self.since = math.inf  # the first poll after the last finished import; infinity: none was made
        self._expected = 0.0
        self._polls = self._singles = 0  # all, and single ones
        self._polls_when_fed = 0  # when a task was polled for the first time last
        self._keys: set[int] = set()  # tasks polled since the last finished one, `FEW` at most
        self._is_turn = False  # the next poll is a single one
        self._turns = self._new = 0.0  # the latest single polls, and those of them whose task was not polled before
        self._is_in_line = False
        self._halt_s = 0.0  # the longest time lately in which nothing finished although some should have
        self.paused_s = 0.0  # the account's paused time so far; the lane keeps it current …
        self._paused_before_s = 0.0  # … and what it was at `since`
        self._next_turn_at = -math.inf
        self.deadline_at = math.inf  # when the deadline of a task may have passed: such tasks are polled as ever

    def finished(self, now: float) -> None:
        """A poll found an import finished."""
        self._is_new = False
        self._halt_s *= FADING
        if self._expected >= HALTED:
            self._halt_s = max(self._halt_s, self.length_s(now))
        self.since = self.deadline_at = math.inf
        self._expected, self._polls, self._singles = 0.0, 0, 0
        self._keys.clear()
        self._polls_when_fed = 0
        self._turns = self._new = 0.0
        self._is_turn = False

    def unfinished(self, key: int, chance: float, *, now: float, deadline_at: float, is_in_line: bool = False) -> None:
        """A poll found the import `key` unfinished. `chance`: by what was learned, that it is finished by now.
        `is_in_line`: that is known from a line, which may halt for a while."""
        if self._is_turn:
            self._is_turn = False
            self._singles += 1
            self._turns = RECENT * self._turns + 1
            self._new = RECENT * self._new + (key not in self._keys)
        if self._polls == 0:
            self.since, self._paused_before_s = now, self.paused_s
        if now < deadline_at < self.deadline_at:
            self.deadline_at = deadline_at
        self._expected += chance
        self._polls += 1
        self._is_in_line = is_in_line
        if len(self._keys) < FEW and key not in self._keys:
            self._keys.add(key)
            self._polls_when_fed = self._polls

    @property
    def may_last(self) -> bool:
        """Whether so much is missing that only time must show it."""
        if self._polls < LEAST_POLLS:
            return False
        if self._expected >= EXPECTED or (self._expected >= EXPECTED_OF_NEW and self._are_new):
            return True
        tasks, least = len(self._keys), EXPECTED_OF_MANY_IN_LINE if self._is_in_line else EXPECTED_OF_MANY
        return tasks >= MANY and self._expected >= least and self._polls >= MANY_EACH * tasks

    def lasts(self, now: float) -> bool:
        """Return whether nothing finishes."""
        if not self.may_last:
            return False
        length_s, tasks = self.length_s(now), len(self._keys)
        are_new = self._are_new
        is_enough = are_new or self._expected >= EXPECTED
        if tasks >= FEW or self._polls < POLLS_EACH * tasks or not is_enough:
            return length_s >= LEAST_S
        if self._is_in_line:
            return length_s >= min(max(LEAST_S_OF_FEW, HALTS * self._halt_s), LEAST_S)
        is_most = are_new or self._expected >= MOST * tasks
        return length_s >= (LEAST_S_OF_MOST if is_most else LEAST_S_OF_FEW)

    @property
    def _are_new(self) -> bool:
        """Whether none was ever found finished of that many tasks: no busy account is mistaken then."""
        since_fed = self._polls - self._polls_when_fed
        return self._is_new and len(self._keys) >= NEW and since_fed >= FED_OF_NEW * len(self._keys)

    def length_s(self, now: float) -> float:
        """Return for how long nothing has finished, pauses excluded."""
        return now - self.since - (self.paused_s - self._paused_before_s)

    def take_turn(self, now: float) -> bool:
        """Return whether a single poll may be made now, and count it."""
        if now < self._next_turn_at:
            return False
        self._next_turn_at = now + self.gap_s(now)
        self._is_turn = True
        return True

    def gap_s(self, now: float) -> float:
        """Return the time between two single polls: what is left of the polls of an hour, spread so that the gap grows
        with a power of the length (the square root is best where the end may come at any length; most come early)."""
        length_s, tasks = max(self.length_s(now), SHORTEST_GAP_S), self._waiting
        gap_s = HOUR_S / (POLLS_AN_HOUR * tasks)
        if length_s < HOUR_S:
            before = self._polls - self._singles
            rest = 1 - GROWTH
            left = max(max(POLLS_AN_HOUR * tasks - before, LEAST_LEFT * tasks) - self._singles, 1.0)
            gap_s = max(length_s**GROWTH * (HOUR_S**rest - length_s**rest) / rest / left, gap_s)
        least_s = min(max(SHORTEST_GAP_S, LEAST_SHARE * length_s), LONGEST_GAP_OF_MANY_S)
        return max(min(gap_s, MOST_SHARE * length_s, self._longest_gap_s), least_s)

    @property
    def _waiting(self) -> float:
        """About how many tasks wait: the share of known ones among those lately polled at random is that among all."""
        return max(1, len(self._keys)) * (self._turns + 1) / (self._turns - self._new + 1)

    def unanswered(self, now: float) -> None:
        """A poll failed: the next one follows soon, so that an outage is noticed as soon as ever."""
        self._next_turn_at = min(self._next_turn_at, now + SHORTEST_GAP_S)

    def no_deadline_passed(self, now: float) -> None:
        """No task was found whose deadline has passed."""
        self.deadline_at = now + DEADLINES_EVERY_S

    @property
    def sleeps_until(self) -> float:
        """When there is something to do."""
        return min(self._next_turn_at, self.deadline_at)
