"""Figures of a fleet, and what they are made of. Pure: arrivals and samples in, numbers out."""

import math
from collections import defaultdict, deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from campaign.fleet.history import Arrival


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """What was measured: a share of all values is at most `value`."""

    name: str
    value: float
    goal: float
    count: int = 1

    def __str__(self) -> str:
        mark = "" if self.value <= self.goal else "  MISSED"
        return f"{self.name:64} {self.value:8.2f}   goal {self.goal:g}, of {self.count}{mark}"


def share(name: str, values: Iterable[float], goal: float, part: float = 0.95) -> Figure:
    """Return the figure that `part` of the values reach."""
    found = sorted(values)
    at = max(0, math.ceil(part * len(found)) - 1)
    return Figure(
        name=f"{name}, p{100 * part:.0f}", value=found[at] if found else math.inf, goal=goal, count=len(found)
    )


def gaps_of_moves(arrivals: Sequence[Arrival]) -> list[float]:
    """Return how long each account sent nothing when its sender changed."""
    found, latest = [], dict[str, Arrival]()
    for arrival in arrivals:
        before = latest.get(arrival.account)
        if before is not None and before.replica != arrival.replica:
            found.append(arrival.at - before.at)
        latest[arrival.account] = arrival
    return found


def longest_gap(arrivals: Sequence[Arrival]) -> float:
    """Return the longest time that any account sent nothing."""
    by_account = defaultdict[str, list[float]](list)
    for arrival in arrivals:
        by_account[arrival.account].append(arrival.at)
    return max((after - before for times in by_account.values() for before, after in pairwise(times)), default=math.inf)


def fullest_window(arrivals: Sequence[Arrival], window_s: float) -> int:
    """Return the most requests that an account had in any rolling window."""
    most, by_account = 0, defaultdict[str, deque[float]](deque)
    for arrival in arrivals:
        times = by_account[arrival.account]
        times.append(arrival.at)
        while times[0] <= arrival.at - window_s:
            times.popleft()
        most = max(most, len(times))
    return most


def longest_true(samples: Iterable[tuple[float, bool]]) -> float:
    """Return the longest time for which a sign was there at each sample: the time for which an alert's `for` waits."""
    longest, since = 0.0, None
    for at, is_true in samples:
        since = (at if since is None else since) if is_true else None
        longest = max(longest, 0.0 if since is None else at - since)
    return longest
