"""Recognizes 429s that do not depend on how many requests were sent, where no headers report the window.

Others who use up a window let a request pass or not by how many of ours it follows: a 429 comes at the top of what was
accepted. A 429 that comes at any count, also far below one accepted moments before, has another cause.
"""

from collections import deque

from poller.hubspot.limits.window import Window

COMPARED_WINDOWS = 15  # how long an accepted request shows what a window holds
FAR_BELOW = 0.85  # of the accepted count; between them the order of arrival may differ
ENOUGH = 3  # such 429s: others who begin or pause cause one or two …
WITHIN_WINDOWS = 60  # … in this time
MOST_OF_100 = 8  # 429s of the latest 100 answers; more are no accident


class SporadicRefusals:
    """The counts of our own requests at which the latest ones were accepted or refused."""

    def __init__(self) -> None:
        self.are_known = False  # 429s are sporadic: they show nothing about the window
        self._accepted: deque[tuple[float, int]] = deque()  # (until, count), counts falling
        self._far_below: deque[float] = deque()  # when a 429 came far below an accepted count
        self._latest: deque[bool] = deque(maxlen=100)

    def accept(self, count: int, window: Window, now: float) -> None:
        """A request was accepted; `count` of ours were in the window by then."""
        self._latest.append(False)
        while self._accepted and self._accepted[-1][1] <= count:
            self._accepted.pop()
        self._accepted.append((now + COMPARED_WINDOWS * window.window_s, count))

    def refuse(self, count: int, window: Window, now: float) -> bool:
        """A request got a 429; `count` of ours were in the window by then. Return whether it shows, as the first, that
        429s are sporadic."""
        self._latest.append(True)
        if sum(self._latest) > MOST_OF_100:
            self.forget()
            return False
        while self._accepted and self._accepted[0][0] <= now:
            self._accepted.popleft()
        if self._accepted and count < FAR_BELOW * self._accepted[0][1] - 2:
            self._far_below.append(now)
            self._accepted.clear()  # others who came since are seen once
        while self._far_below and self._far_below[0] < now - WITHIN_WINDOWS * window.window_s:
            self._far_below.popleft()
        was_known, self.are_known = self.are_known, self.are_known or len(self._far_below) >= ENOUGH
        return self.are_known and not was_known

    @property
    def are_suspected(self) -> bool:
        """Whether one of the latest 429s came far below an accepted count."""
        return bool(self._far_below)

    def forget(self) -> None:
        """429s are frequent: each counts again."""
        self.are_known = False
        self._far_below.clear()
