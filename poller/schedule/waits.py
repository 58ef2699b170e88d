"""How long polls waited for the limit: not what they waited while the account could not be polled at all.

After a restart, a full disk, a pause or a sleep of the computer, tasks are long overdue. That shows nothing of how many
requests the limit has room for, so such a wait begins when polls are made again.
"""

import math

IDLE_S = 5.0  # without a poll that was answered, or one that waits for the limit: nothing is due, or all is held up
LONGEST_GATE_S = 300.0  # what waits longer with the limit's gate does not wait for a rolling window
LONG_PAUSE_S = 30.0  # no pause for a rolling window is longer


class Waits:
    """Follows since when the polls of one account are made without a break."""

    def __init__(self) -> None:
        self._asked_at = -math.inf  # the latest poll
        self._since = -math.inf  # the first poll after a break
        self._paused_s = 0.0

    def for_limit_s(self, due_at: float, asked_at: float, gate_s: float, paused_s: float) -> float:
        """Return for how long a poll that was due at `due_at` waited for the limit. `gate_s`: the part of it at the
        gate, ready to be sent; `paused_s`: the account's paused time so far."""
        idle_s = asked_at - self._asked_at
        if (idle_s > IDLE_S and idle_s - min(gate_s, LONGEST_GATE_S) > IDLE_S) or (
            paused_s - self._paused_s > LONG_PAUSE_S
        ):
            self._since = asked_at
        self._paused_s = paused_s
        if idle_s > 0:
            self._asked_at = asked_at
        from_at = max(self._since, due_at)
        return asked_at - from_at if asked_at > from_at else 0.0
