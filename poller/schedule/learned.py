"""Learns from every answer of one account how long its imports take, and plans the next polls by it."""

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from poller.schedule.hazard import BANDS, EDGES, Hazard
from poller.schedule.inspection import Inspection, plan
from poller.schedule.survival import Lifetimes

REPLAN_EVERY_S = 10.0
REPLAN_EVENTS = 50
REPLAN_LEAST_S = 1.0
GUARD_S = 10.0  # where little is known, a gap is at most this …
GUARD_SHARE = 0.25  # … or this share of the age
KNOWN = 6.0  # imports watched at an age, for it to count as known
KNOWN_AT_FIRST = 30.0  # imports known, for the first poll of others to be put off
FEEDING_AGES = 64  # the latest ages at feeding are remembered
WEIGHED_AGES = 8  # so many of them are weighed
WATCHED = 20_000  # imports followed from poll to poll; with more waiting, an even sample of them
PRESSED = 2.0  # gaps aim at so many times the wait behind the limit
RECENT = 0.7  # of waits and gaps, the share that still counts at the next plan


@dataclass(frozen=True, slots=True, kw_only=True)
class Price:
    """The person's trade-off between requests and promptness."""

    poll_cost_s: float = 3.0  # seconds of lateness that one request is worth
    longest_gap_s: float = 60.0
    shortest_gap_s: float = 1.0


class Learned:
    """One account's knowledge of its imports. `key` tells one import from another, as the store's numbers do."""

    def __init__(self, price: Price, hazard: Hazard | None = None, feeding_ages_s: Sequence[float] = ()) -> None:
        self.price = price
        self.hazard = hazard or Hazard()
        self.first_poll_s = 0.0  # how long after its feeding a fresh import is best polled
        self.pressure = 1.0  # by how much polls are dearer because the limit is reached
        self.feeding_ages_s: deque[float] = deque(feeding_ages_s, maxlen=FEEDING_AGES)
        self._seen_at_age: dict[int, float] = {}  # of watched imports: the age at the last poll
        self._sampled = 1  # of every so many keys one is watched
        self._events = 0  # since the last plan
        self._planned_at = -math.inf
        self._waits_s = self._waited = 0.0
        self._gaps_s = self._planned = 0.0
        self._replan()

    # --- deciding

    def gap_s(self, age_s: float) -> float:
        """Return how long to wait after a poll that found the import unfinished at this age."""
        self._planned += 1
        self._gaps_s += self._bounded(self._unpressed.gap_s(age_s))
        return self._bounded(self._plan.gap_s(age_s))

    def _bounded(self, gap_s: float) -> float:
        return max(min(gap_s, self.price.longest_gap_s), self.price.shortest_gap_s)

    @property
    def usual_feeding_age_s(self) -> float:
        """How old an import is, as a rule, when it is fed."""
        return median(self.feeding_ages_s) if self.feeding_ages_s else 0.0

    # --- learning

    def fed(self, age_s: float) -> None:
        """An import's first answer told how old it was when it was fed."""
        self.feeding_ages_s.append(age_s)

    def waited(self, wait_s: float) -> None:
        """A second or later poll was made so long after it was due."""
        self._waits_s += wait_s
        self._waited += 1

    def unfinished(self, key: int, age_s: float, *, first: bool) -> None:
        """A poll found the import unfinished. `first`: it is the first that told anything."""
        before_s = 0.0 if first else self._seen_at_age.get(key)
        if before_s is not None:
            self.hazard.watch(before_s, age_s, finished=False)
        if key % self._sampled == 0:
            self._seen_at_age[key] = age_s
            if len(self._seen_at_age) > WATCHED:
                self._sampled *= 2
                self._seen_at_age = {key: age for key, age in self._seen_at_age.items() if key % self._sampled == 0}

    def finished(self, key: int, age_s: float, took_s: float | None, *, first: bool) -> None:
        """A poll found the import finished; `took_s` where it is told how long it took."""
        before_s = 0.0 if first else self._seen_at_age.get(key)
        self.forget(key)
        if before_s is None:
            return
        if took_s is None:
            took_s = (before_s + age_s) / 2
        self.hazard.watch(min(before_s, took_s), took_s, finished=True)
        self._events += 1

    def forget(self, key: int) -> None:
        """The import is polled no more."""
        self._seen_at_age.pop(key, None)
        if self._sampled > 1 and len(self._seen_at_age) < WATCHED // 8:
            self._sampled //= 2

    # --- planning

    def refresh(self, now: float) -> bool:
        """Plan anew if it is time for it; return whether it was."""
        since_s = abs(now - self._planned_at)
        if since_s < REPLAN_LEAST_S or (since_s < REPLAN_EVERY_S and self._events < REPLAN_EVENTS):
            return False
        self._planned_at = now
        self._events = 0
        self._press()
        self._replan()
        return True

    def _press(self) -> None:
        """Make polls dearer while they pile up behind the limit: each then waits, whatever is planned."""
        wait_s = self._waits_s / self._waited if self._waited else 0.0
        gap_s = self._gaps_s / self._planned if self._planned else math.inf
        self.pressure = max(1.0, PRESSED * wait_s / gap_s) ** 2
        self._waits_s *= RECENT
        self._waited *= RECENT
        self._gaps_s *= RECENT
        self._planned *= RECENT

    def _replan(self) -> None:
        rates, at_risk = self.hazard.rates()
        limits_s = [self._longest_s(edge, at_risk[min(band, BANDS - 1)]) for band, edge in enumerate(EDGES)]
        price_s = self.price.poll_cost_s
        self._unpressed = self._plan = plan(EDGES, rates, limits_s, price_s)
        if self.pressure > 1.0:
            self._plan = plan(EDGES, rates, limits_s, price_s * self.pressure)
        self.first_poll_s = 0.0
        if at_risk[0] >= KNOWN_AT_FIRST and self.feeding_ages_s:
            self.first_poll_s = self._best_first_poll_s(self._plan, Lifetimes(rates))

    def _longest_s(self, age_s: float, known: float) -> float:
        """Thin data must not park an import for long."""
        longest_s = self.price.longest_gap_s
        return longest_s if known >= KNOWN else min(longest_s, max(GUARD_S, age_s * GUARD_SHARE))

    def _best_first_poll_s(self, made: Inspection, lifetimes: Lifetimes) -> float:
        """Weigh, for the ages at which imports were fed lately, what each delay of the first poll would cost."""
        ages = sorted(self.feeding_ages_s)[:: max(1, len(self.feeding_ages_s) // WEIGHED_AGES)]

        def cost_s(delay_s: float) -> float:
            return sum(
                lifetimes.late_s(age_s, age_s + delay_s)
                + lifetimes.left(age_s + delay_s) * made.cost_s(age_s + delay_s)
                for age_s in ages
            )

        return min((0.0, *(edge for edge in EDGES[1:] if edge <= self.price.longest_gap_s)), key=cost_s)
