"""How big a trial of a fleet is, and what is done to it."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

REQUESTS_A_SECOND = 6  # of each account: its window is always full


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """How big a trial is, and what is done to it."""

    replicas: int = 3
    accounts: int = 6
    stock: int = 0  # ids that each account is fed before the first blow
    seconds: float = 30.0
    every_s: float = 4.0  # between two blows, on average
    lasts_s: Sequence[float] = (1.0, 9.0, 12.0)  # shorter than a lease, and longer
    kinds: Sequence[str] = ("kill", "freeze", "partition", "cut", "drain", "restart", "stall")
    seed: int = 1
    rest_s: float = 60.0  # in which no less is left, after the blows, before what is not delivered is missing
    is_pooled: bool = False  # a pooler in session mode is between replicas and server
    clocks: Sequence[str] = ()  # of the replicas, in the words of `faketime`, such as "+1d" or "+0 x1.1"
    feeds_rows: bool = True
    former: Path | None = None  # a tree of an earlier version: replicas are of it until their next start
    window_s: float = 2.0  # of each account; only one longer than a lease shows that a new owner waits for it

    @property
    def limit(self) -> int:
        """How many requests an account may send in a window."""
        return round(REQUESTS_A_SECOND * self.window_s)
