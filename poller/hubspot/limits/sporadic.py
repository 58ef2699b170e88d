"""Recognizes 429s that do not depend on how many requests were sent, where no headers report the window.

Others who use up a window let a request pass or not by how many of ours it follows: a 429 comes at the top of what was
accepted. 429s at any count, far below one accepted moments before or after, have another cause.
"""

from collections import deque
from itertools import pairwise

from poller.hubspot.limits.window import Window

COMPARED_WINDOWS = 15  # how long a request shows what a window holds
COMPARED_REFUSALS = 5  # the latest 429s
FAR_BELOW = 0.85  # of the accepted count; between them the order of arrival may differ
ENOUGH, WITHIN_WINDOWS = 3, 60  # such 429s in so many windows: others who begin or pause cause one or two, …
ENOUGH_SOON, SOON_WINDOWS = 2, 8  # … and one in a short time
MOST_OF_100 = 10  # 429s of the latest 100 answers; more are no accident where most of them follow each other, …
MOST_APART, MOST_OF_400 = 20, 40  # … as those of a window that is used up do; apart, so many, and of the latest 400
FOLLOWING = 0.4  # share of 429s right after another one; of sporadic ones it is their share of all answers
ISOLATED, ISOLATED_AMONG = 2, 20  # at most so many 429s of the latest answers are no reason for a pause


class SporadicRefusals:
    """The counts of our own requests at which the latest ones were accepted or refused."""

    def __init__(self) -> None:
        self.are_known = False  # 429s are sporadic: they show nothing about the window
        self._accepted: deque[tuple[float, int]] = deque()  # (until, count), counts falling
        self._refused: deque[tuple[float, int]] = deque(maxlen=COMPARED_REFUSALS)  # (until, count)
        self._far_below: deque[float] = deque()  # when a 429 and an accepted request were far apart
        self._latest: deque[bool] = deque(maxlen=400)

    def accept(self, count: int, window: Window, now: float) -> bool:
        """A request was accepted; `count` of ours were in the window by then. Return whether it shows, as the first,
        that 429s are sporadic."""
        self._latest.append(False)
        is_shown = False
        while self._refused and self._refused[0][0] <= now:
            self._refused.popleft()
        if self._refused and _is_far_below(min(refused for _, refused in self._refused), count):
            self._refused.clear()  # others who left since are seen once
            is_shown = self._note_far_below(window, now)
        while self._accepted and self._accepted[-1][1] <= count:
            self._accepted.pop()
        self._accepted.append((now + COMPARED_WINDOWS * window.window_s, count))
        return is_shown

    def refuse(self, count: int, window: Window, now: float) -> bool:
        """A request got a 429; `count` of ours were in the window by then. Return as `accept` does."""
        self._latest.append(True)
        if self._are_frequent:
            self.forget()
            return False
        is_shown = False
        while self._accepted and self._accepted[0][0] <= now:
            self._accepted.popleft()
        if self._accepted and _is_far_below(count, self._accepted[0][1]):
            self._lower_to(count)  # others who came since are seen once
            is_shown = self._note_far_below(window, now)
        self._refused.append((now + COMPARED_WINDOWS * window.window_s, count))
        return is_shown

    def _note_far_below(self, window: Window, now: float) -> bool:
        self._far_below.append(now)
        while self._far_below[0] < now - WITHIN_WINDOWS * window.window_s:
            self._far_below.popleft()
        soon = sum(at >= now - SOON_WINDOWS * window.window_s for at in self._far_below)
        is_enough = len(self._far_below) >= ENOUGH or soon >= ENOUGH_SOON
        was_known, self.are_known = self.are_known, self.are_known or is_enough
        return self.are_known and not was_known

    def _lower_to(self, count: int) -> None:
        """From now on compare with `count`, not with what was accepted above it."""
        until = self._accepted[0][0]
        while self._accepted and self._accepted[0][1] >= count:
            until = self._accepted.popleft()[0]
        self._accepted.appendleft((until, count))

    @property
    def _are_frequent(self) -> bool:
        """Whether the latest 429s are too many for sporadic ones."""
        latest = list(self._latest)[-100:]
        refused = sum(latest)
        if refused <= MOST_OF_100:
            return False
        following = sum(before and after for before, after in pairwise(latest))
        return refused > MOST_APART or following > FOLLOWING * refused or sum(self._latest) > MOST_OF_400

    @property
    def is_single(self) -> bool:
        """Whether there was at most one 429 lately."""
        return self._lately <= 1

    @property
    def is_isolated(self) -> bool:
        """Whether the latest answer, a 429, follows good ones, and most before it were good."""
        return len(self._latest) >= ISOLATED_AMONG and self._lately <= ISOLATED and not self._latest[-2]

    @property
    def _lately(self) -> int:
        return sum(list(self._latest)[-ISOLATED_AMONG:])

    @property
    def caution_steps(self) -> int:
        """How much more caution a 429 is a reason for: with a second one soon after, others take more than a little."""
        return min(2, sum(list(self._latest)[-100:])) if self.is_isolated else 1

    @property
    def are_suspected(self) -> bool:
        """Whether a 429 came far below an accepted count lately."""
        return bool(self._far_below)

    def forget(self) -> None:
        """429s are frequent: each counts again."""
        self.are_known = False
        self._far_below.clear()


def _is_far_below(refused: int, accepted: int) -> bool:
    return refused < FAR_BELOW * accepted - 2
