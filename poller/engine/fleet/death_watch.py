"""Which members have stopped beating. Pure: it is given each turn's numbers of beats and its own clock's time.

A member is dead once its number has not changed for a lease by the observer's monotonic clock and in as many of the
observer's own turns as a lease has beats. So clocks of two machines are never compared, and a server that stood still
for all buries no one: after it, each member has several turns to beat again.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from poller.engine.fleet.times import LEASE_BEATS


@dataclass(slots=True)
class _Unchanged:
    beats: int
    since: float
    turns: int = 0  # of the observer, since it first saw this number


class DeathWatch:
    """Remembers since when each member's number of beats is unchanged."""

    def __init__(self, lease_s: float) -> None:
        self._lease_s = lease_s
        self._seen: dict[int, _Unchanged] = {}

    def dead(self, beats: Mapping[int, int], now: float) -> dict[int, int]:
        """Return the members that are dead after this turn, with the numbers of beats they are to be buried with.
        `beats` are those of all members but the observer, `now` is monotonic."""
        watched, self._seen = self._seen, {}
        dead = {}
        for member, number in beats.items():
            seen = watched.get(member)
            if seen is None or seen.beats != number:
                seen = _Unchanged(number, now)
            else:
                seen.turns += 1
            self._seen[member] = seen
            if now - seen.since >= self._lease_s and seen.turns >= LEASE_BEATS:
                dead[member] = number
        return dead
