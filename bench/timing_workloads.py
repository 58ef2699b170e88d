"""Simulated accounts to compare when-to-poll policies on: when imports are requested, when fed, how long they take."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from random import Random

TASKS = 3000
FED_A_SECOND = 4.0
DEADLINE_S = 4320.0  # after feeding; an unfinished task is given up then


@dataclass(frozen=True, slots=True, kw_only=True)
class Import:
    """One simulated import; instants in seconds from the start."""

    requested_at: float
    fed_at: float
    took_s: float  # infinity: never finishes
    started_at: float | None = None  # None: HubSpot names none
    attr: str | None = None  # what is fed with the id
    skew_s: float = 0.0  # of HubSpot's clock over ours
    names_request: bool = True  # HubSpot's answers contain `requestedAt`

    def moved(self, seconds: float) -> "Import":
        """Return the same import, later."""
        started_at = None if self.started_at is None else self.started_at + seconds
        return replace(
            self, requested_at=self.requested_at + seconds, fed_at=self.fed_at + seconds, started_at=started_at
        )

    @property
    def completed_at(self) -> float:
        return self.requested_at + self.took_s

    @property
    def seen_from(self) -> float:
        """The earliest instant at which a poll finds it finished."""
        return max(self.completed_at, self.fed_at)


Draw = Callable[[Random], float]


def lognormal(median_s: float, sigma: float) -> Draw:
    return lambda rng: median_s * math.exp(sigma * rng.gauss(0, 1))


def mixed(share: float, one: Draw, other: Draw) -> Draw:
    return lambda rng: one(rng) if rng.random() < share else other(rng)


def _fed_evenly(took_s: Draw, rng: Random) -> list[Import]:
    fed_at = [number / FED_A_SECOND for number in range(TASKS)]
    return [Import(requested_at=at - 0.5, fed_at=at, took_s=took_s(rng)) for at in fed_at]


def _backlog(took_s: Draw, rng: Random, over_s: float) -> list[Import]:
    """All fed at once, oldest first, requested evenly over the time before."""
    ages_s = sorted((rng.uniform(0, over_s) for _ in range(TASKS)), reverse=True)
    return [Import(requested_at=-age_s, fed_at=0.0, took_s=took_s(rng)) for age_s in ages_s]


def _burst(_rng: Random) -> list[Import]:
    return [Import(requested_at=-0.5, fed_at=0.0, took_s=(number + 1) / 6 + 0.5) for number in range(TASKS)]


def _changing(rng: Random) -> list[Import]:
    later_s = TASKS / FED_A_SECOND
    slow = _fed_evenly(lognormal(240, 0.5), rng)
    return _fed_evenly(lognormal(30, 0.8), rng) + [each.moved(later_s) for each in slow]


USUAL, SLOW = lognormal(30, 1.2), lognormal(600, 0.8)
NEVER: Draw = lambda _rng: math.inf  # noqa: E731 - a constant of its kind

WORKLOADS: Mapping[str, Callable[[Random], list[Import]]] = {
    "lognormal, median 30 s, sigma 1.2": lambda rng: _fed_evenly(USUAL, rng),
    "95 % about 5 s, 5 % in 15 to 45 min": lambda rng: _fed_evenly(
        mixed(0.95, lognormal(5, 0.5), lambda rng: rng.uniform(900, 2700)), rng
    ),
    "the first, 2 % never finish": lambda rng: _fed_evenly(mixed(0.98, USUAL, NEVER), rng),
    "an hour's backlog fed at once": lambda rng: _backlog(SLOW, rng, 3600),
    "slow: lognormal, median 10 min, sigma 0.8": lambda rng: _fed_evenly(SLOW, rng),
    "burst, finished in order at 6 a second": _burst,
    "a day's backlog fed at once": lambda rng: _backlog(SLOW, rng, 86_400),
    "median 30 s, then 4 min from half way on": _changing,
    "two kinds in one feed: 8 s and 5 min": lambda rng: _fed_evenly(
        mixed(0.6, lognormal(8, 0.5), lognormal(300, 0.4)), rng
    ),
}
