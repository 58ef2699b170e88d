"""When the next start may leave while starts get no answer, though polls may get theirs. Pure: no clock, no I/O."""

from random import Random

LOST_IN_A_ROW = 5  # starts: fewer may be chance
FIRST_GAP_S, LONGEST_GAP_S = 2.0, 60.0


class LostStarts:
    """The latest starts in a row whose answers were lost. Each left a row unsure, so after five of them one start at a
    time shows, in growing gaps, whether the start call is answered again."""

    def __init__(self) -> None:
        self.next_at = 0.0  # when the next start may leave
        self.since: float | None = None  # when the first of them was lost; None while starts leave as usual
        self._first_at = 0.0
        self._in_a_row = 0

    def lose(self, *, now: float, active_at: float, rng: Random) -> bool:
        """Note a lost answer; return whether starts are held back from now on. `active_at` is a clock that stops
        while the account is paused."""
        if self._in_a_row == 0:
            self._first_at = active_at
        self._in_a_row += 1
        if self._in_a_row < LOST_IN_A_ROW:
            return False
        gap_s = min(FIRST_GAP_S * 2.0 ** min(self._in_a_row - LOST_IN_A_ROW, 10), LONGEST_GAP_S)
        self.next_at = now + gap_s * rng.uniform(0.85, 1.0)
        began, self.since = self.since is None, self._first_at
        return began

    def put_off(self, now: float) -> None:
        """A start showed neither that the call is answered nor that it is not."""
        if self.since is not None:
            self.next_at = now + FIRST_GAP_S

    def answer(self) -> bool:
        """Note an answer; return whether starts were held back until now."""
        ended, self.since = self.since is not None, None
        self._in_a_row, self.next_at = 0, 0.0
        return ended
