"""The day's quota: requests sent today, the remainder that the server reports, the reserve for the account's others."""

import math
from collections import deque
from datetime import UTC, datetime, time, timedelta
from zoneinfo import ZoneInfo

from poller.core.model import RateLimits
from poller.core.protocols import Clock
from poller.core.steady_clock import day_clock_of

DAY_S = 86_400.0
STOPPED_AFTER_S = 60.0  # without a report: a 502 has none either, and the next answer may have one again


class DailyQuota:
    """Counts an account's requests by its local day and how many may still leave before the reset."""

    def __init__(
        self, *, limit: int | None, reserve: float, time_zone: str, clock: Clock, day: str, day_requests: int
    ) -> None:
        self._clock = clock
        self.day_clock = day_clock_of(clock)  # also where the machine was suspended, or its clock was set
        self._day = day
        self._day_requests = day_requests
        self.forget_reported()
        self.apply(limit=limit, reserve=reserve, time_zone=time_zone)

    def apply(self, *, limit: int | None, reserve: float, time_zone: str) -> None:
        """Use other limits from now on; the counts stay."""
        self._limit = limit  # None: only the headers know
        self._reserve = reserve  # a share below 1, or a number of requests
        self._zone = UTC if time_zone == "UTC" else ZoneInfo(time_zone)  # UTC needs no time zone files
        self._from_at = self._until_at = -math.inf  # bounds of the local day, wall clock
        self._update_day()

    def forget_reported(self) -> None:
        """Forget what headers reported: the next report is the first."""
        self._remaining: int | None = None  # as the headers report, all our answered requests counted
        self._daily = 0  # the limit that the headers report
        self._noted_at = -math.inf
        self._noted_on = -math.inf  # the same instant, by `day_clock`
        self._valid_from = -math.inf  # requests sent before it saw the quota before its reset
        self._uncounted: deque[float] = deque()  # ends of requests without a reported quota: counted in it or not

    @property
    def day(self) -> str:
        """Today's ISO date in the account's time zone."""
        self._update_day()
        return self._day

    @property
    def day_requests(self) -> int:
        """How many requests left today."""
        self._update_day()
        return self._day_requests

    @property
    def resets_at(self) -> float:
        """The next local midnight, by `clock`."""
        self._update_day()
        return self._clock() + (self._until_at - self.day_clock())

    @property
    def usable(self) -> float:
        """How many requests a whole day allows without the reserve; infinity where no limit is known."""
        limits = [limit - self._reserved(limit) for limit in (self._limit, self._daily) if limit]
        return min(limits, default=math.inf)

    def send(self) -> None:
        """Count a request that leaves."""
        if not self._from_at <= self.day_clock() < self._until_at:  # as seldom
            self._update_day()
        self._day_requests += 1

    def learn(self, limits: RateLimits, *, sent_at: float, now: float) -> None:
        """Learn from the answer to a request sent at `sent_at`; `now` is the same clock's.

        The server's count only falls until its reset, so the lowest number seen includes every answered request. A
        higher number counts only from a request sent after the lowest was known: then there was a reset.
        """
        remaining = limits.daily_remaining
        if remaining is None:
            if self._remaining is not None:
                self._uncounted.append(now)
                if now - self._noted_at >= DAY_S:  # it was reset since, at whichever midnight
                    self.forget_reported()
            return
        self._daily = limits.daily or max(self._daily, remaining)
        while self._uncounted and self._uncounted[0] <= sent_at:
            self._uncounted.popleft()
        if sent_at < self._valid_from:
            return
        if self._remaining is not None and remaining > self._remaining:
            if sent_at < self._noted_at:
                return
            self._valid_from = sent_at
        self._remaining = remaining
        self._noted_at, self._noted_on = now, self.day_clock()

    def left(self, in_flight: int = 0) -> float:
        """Return how many requests may still leave today; `in_flight` ones may not be in the server's count yet."""
        if self._limit is None and self._remaining is None:
            return math.inf
        return min(self.configured_left(), self._reported_left() - in_flight)

    def configured_left(self) -> float:
        """Return how many requests the configured limit still allows today."""
        if self._limit is None:
            return math.inf
        return self._limit - self.day_requests - self._reserved(self._limit)

    def why_none_is_left(self) -> str:
        """Return a message for people."""
        if self._limit is not None and self.configured_left() <= 0:
            kept = self._reserved(self._limit)
            return f"{self.day_requests} requests sent today of the configured {self._limit}, {kept} kept in reserve"
        kept = self._reserved(self._daily)
        return f"{self._remaining or 0} of the account's {self._daily} daily requests left, {kept} kept in reserve"

    def _reported_left(self) -> float:
        if self._remaining is None:
            return math.inf
        return self._remaining - len(self._uncounted) - self._reserved(self._daily)

    def _reserved(self, daily: int) -> int:
        return math.ceil(self._reserve * daily - 1e-6) if self._reserve < 1 else int(self._reserve)

    def _update_day(self) -> None:
        now = self.day_clock()
        if self._from_at <= now < self._until_at:
            return
        today = datetime.fromtimestamp(now, UTC).astimezone(self._zone).date()
        self._from_at = datetime.combine(today, time.min, self._zone).timestamp()
        self._until_at = datetime.combine(today + timedelta(days=1), time.min, self._zone).timestamp()
        if today.isoformat() > self._day:  # a clock that was set back must not give the day's quota a second time
            self._day = today.isoformat()
            self._day_requests = 0
            if self._uncounted and self._from_at - self._noted_on >= STOPPED_AFTER_S:  # they showed the day before
                self.forget_reported()
        elif self._day > (today + timedelta(days=1)).isoformat():  # noted by a clock that was far ahead
            self._day = today.isoformat()
