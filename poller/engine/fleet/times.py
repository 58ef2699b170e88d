"""The times of a fleet's rules. One setting scales all of them, and all members must have the same."""

from dataclasses import dataclass

TRUSTED_BEATS = 5
LEASE_BEATS = 6


@dataclass(frozen=True, slots=True, kw_only=True)
class BeatTimes:
    """How often a member beats, how long it trusts a beat, and after how long without one others bury it."""

    beat_s: float = 1.0

    @property
    def trust_s(self) -> float:
        """How long after the sending of its last good beat a member may send requests: less than the lease, so that it
        has stopped by the time it is buried."""
        return TRUSTED_BEATS * self.beat_s

    @property
    def lease_s(self) -> float:
        """How long a member's beats must have been unchanged, by the observer's clock, before it is buried."""
        return LEASE_BEATS * self.beat_s
