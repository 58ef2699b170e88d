"""Whether this member may still send requests: its last good beat is a short time old. Pure: its clocks are given.

Two clocks measure that time and the longer one counts. The time since the boot includes suspends and never jumps; the
wall clock also shows what a frozen virtual machine slept through once it is set again.
"""

import math
from dataclasses import dataclass

from poller.core.protocols import Clock


@dataclass(frozen=True, slots=True)
class Mark:
    """One instant by both clocks."""

    since_boot_s: float
    wall_at: float


class Trust:
    """Trusts from the instant before a beat was sent, not from its answer: the beat may have counted at any time
    between. Not trusted before the first good beat."""

    def __init__(self, trust_s: float, *, since_boot: Clock, wall: Clock) -> None:
        """`since_boot` never jumps and goes on while the machine is suspended; `wall` is the machine's own clock."""
        self._trust_s = trust_s
        self._since_boot = since_boot
        self._wall = wall
        self._beaten: Mark | None = None

    def mark(self) -> Mark:
        """Return this instant: to be taken right before a beat is sent."""
        return Mark(self._since_boot(), self._wall())

    def renew(self, sent: Mark) -> None:
        """The beat that was sent at this mark is stored. An answer that comes after that of a later beat counts for
        nothing."""
        if self._beaten is None or sent.since_boot_s >= self._beaten.since_boot_s:
            self._beaten = sent

    def end(self) -> None:
        """Trust nothing until the next good beat: this member was buried, or has left."""
        self._beaten = None

    @property
    def age_s(self) -> float:
        """The time since the last good beat was sent, by the clock that shows more; infinity before the first."""
        if self._beaten is None:
            return math.inf
        return max(self._since_boot() - self._beaten.since_boot_s, self._wall() - self._beaten.wall_at)

    def __call__(self) -> bool:
        return self.age_s < self._trust_s
