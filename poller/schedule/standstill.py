"""Notices that nothing finishes, although much should by now: an incident at HubSpot, or a server that is held up.

Then one poll every few seconds is enough to notice that imports finish again; polls at the usual gaps would find none.
Time in which the account was paused shows nothing and does not count.
"""

import math
from collections import deque

LEAST_POLLS = 30
EXPECTED = 12.0  # finished imports that the polls since the latest completion should have found, and …
LEAST_S = 60.0  # … the time since the first of these polls, pauses excluded; or else:
POLLS_EACH = 1.25  # so many polls of each task, and …
LEAST_S_OF_ALL = 3.0  # … this long; …
EXPECTED_OF_ALL = 8.0  # … fewer missing imports, once …
MET = 0.3  # … so many polls of each came after the first one of any: while tasks are fed, first polls show most; …
LEAST_S_OF_LINE, HALTS = 10.0, 2.0  # … in a line: this long, and so many times as long as it halted lately …
HALTED = 6.0  # … while so many finished imports were missing: the last ones of a run are slow, which is no halt
FADING = 0.9995  # of the longest halt, with each finished import: many may be completed at once
MANY, MANY_EACH, EXPECTED_OF_MANY = 150, 2.0, 3.0  # of so many tasks, so many polls of each and missing imports suffice
EXPECTED_OF_MANY_IN_LINE = 1.0  # … or so many: others have overtaken what is left of a line
FEW = 4000  # tasks at most that are distinguished
MOST_IN_VAIN = 5000  # polls that are remembered one by one
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
    """Follows the polls of one account since the latest completion that is known.

    Polls find what was completed before they are made: those in vain after that completion, not only those after the
    poll that found it, show that nothing has finished since.
    """

    def __init__(self, longest_gap_s: float = math.inf) -> None:
        """`longest_gap_s`: the most time between two single polls that the person wants."""
        self._longest_gap_s = min(LONGEST_GAP_S, longest_gap_s)
        self.since = math.inf  # the first poll in vain after the latest completion; infinity: none was made
        self._completed_at = -math.inf  # the latest completion
        # the polls in vain since: when, `paused_s` then, chance, task
        self._in_vain: deque[tuple[float, float, float, int]] = deque(maxlen=MOST_IN_VAIN)
        self._keys: dict[int, int] = {}  # the tasks of these polls, `FEW` at most, and how often each was polled
        self._expected = 0.0
        self._polls = self._singles = 0  # all, and single ones
        self._since_met = 0  # polls since a task was polled for the first time of these
        self._is_turn = False  # the next poll is a single one
        self._turns = self._new = 0.0  # the latest single polls, and those of them whose task was not polled before
        self._is_in_line = False
        self._halt_s = 0.0  # the longest time lately in which nothing finished although some should have
        self.paused_s = 0.0  # the account's paused time so far; the lane keeps it current …
        self._paused_before_s = 0.0  # … and what it was at `since`
        self._next_turn_at = -math.inf
        self.deadline_at = math.inf  # when the deadline of a task may have passed: such tasks are polled as ever

    def finished(self, now: float, completed_at: float) -> None:
        """A poll found an import finished."""
        self._halt_s *= FADING
        if completed_at > self._completed_at:
            if self._expected >= HALTED:
                self._halt_s = max(self._halt_s, self.length_s(now) - (now - completed_at))
            self._completed_at = completed_at
        in_vain = self._in_vain
        if self._singles or not in_vain or in_vain[-1][0] <= completed_at:
            self._start_over()
        elif in_vain[0][0] <= completed_at:
            self._forget_until(completed_at)

    def _start_over(self) -> None:
        self.since = self.deadline_at = math.inf
        self._expected, self._polls, self._singles, self._since_met = 0.0, 0, 0, 0
        self._in_vain.clear()
        self._keys.clear()
        self._turns = self._new = 0.0
        self._is_turn = False

    def _forget_until(self, completed_at: float) -> None:
        """Forget the polls before a completion: they show nothing of the time after it."""
        in_vain, keys = self._in_vain, self._keys
        while in_vain[0][0] <= completed_at:
            _, _, chance, key = in_vain.popleft()
            self._expected -= chance
            self._polls -= 1
            times = keys.get(key, 0)
            if times > 1:
                keys[key] = times - 1
            elif times:
                del keys[key]
        self.since, self._paused_before_s = in_vain[0][:2]

    def unfinished(
        self, key: int, chance: float, *, before_at: float, now: float, deadline_at: float, is_in_line: bool = False
    ) -> None:
        """A poll found the import `key` unfinished. `chance`: by what was learned, that it finishes between `before_at`
        and now. `is_in_line`: that is known from a line, which may halt for a while."""
        times = self._keys.get(key, 0)
        if self._is_turn:
            self._is_turn = False
            self._singles += 1
            self._turns = RECENT * self._turns + 1
            self._new = RECENT * self._new + (times == 0)
        if self._polls == 0:
            self.since, self._paused_before_s = now, self.paused_s
        if now < deadline_at < self.deadline_at:
            self.deadline_at = deadline_at
        if before_at < self._completed_at < now:
            chance *= (now - self._completed_at) / (now - before_at)
        self._expected += chance
        self._polls += 1
        self._is_in_line = is_in_line
        if self._singles == 0:
            self._in_vain.append((now, self.paused_s, chance, key))
        self._since_met = self._since_met + 1 if times else 0
        if times or len(self._keys) < FEW:
            self._keys[key] = times + 1

    @property
    def may_last(self) -> bool:
        """Whether so much is missing that only time must show it."""
        return self._polls >= LEAST_POLLS and self._least_s < math.inf

    def lasts(self, now: float) -> bool:
        """Return whether nothing finishes."""
        return self._polls >= LEAST_POLLS and self.length_s(now) >= self._least_s

    @property
    def _least_s(self) -> float:
        """How long nothing must have finished; infinity: too little is missing."""
        tasks = len(self._keys)
        is_met = self._since_met >= MET * tasks and not self._is_in_line
        least = EXPECTED_OF_ALL if is_met else EXPECTED
        if self._expected >= least and self._polls >= POLLS_EACH * tasks and tasks < FEW:
            return min(max(LEAST_S_OF_LINE, HALTS * self._halt_s), LEAST_S) if self._is_in_line else LEAST_S_OF_ALL
        least = EXPECTED_OF_MANY_IN_LINE if self._is_in_line else EXPECTED_OF_MANY
        is_rest = self._expected >= least and tasks >= MANY and self._polls >= MANY_EACH * tasks
        return LEAST_S if is_rest or self._expected >= EXPECTED else math.inf

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
