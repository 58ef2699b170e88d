"""The day's quota: what we sent today, what the server says is left, what stays reserved for the account's others."""

import math
from collections import deque
from datetime import UTC, datetime, time, timedelta
from zoneinfo import ZoneInfo

from poller.core.model import RateLimits
from poller.core.protocols import Clock

QUARTER_S = 900.0  # every time zone's midnight falls on a quarter hour of UTC


class DailyQuota:
    """Counts an account's requests by its local day, and knows how many may still leave before the reset."""

    def __init__(
        self, *, limit: int | None, reserve: float, time_zone: str, clock: Clock, day: str, day_requests: int
    ) -> None:
        self.limit = limit  # as the person set it; None: only the headers know
        self.reserve = reserve  # a share below 1, or a number of requests
        self.remaining: int | None = None  # by the headers, all our answered requests counted
        self._daily = 0
        self._noted_at = -math.inf
        self._valid_from = -math.inf  # requests that left before saw the quota before its reset
        self._untold: deque[float] = deque()  # ends of requests whose answer told no quota: counted or not
        self._zone = UTC if time_zone == "UTC" else ZoneInfo(time_zone)  # UTC needs no time zone files
        self._clock = clock
        self._day = day
        self._day_requests = day_requests
        self._from_at = self._until_at = -math.inf  # bounds of the local day, wall clock

    def retune(self, *, limit: int | None, reserve: float, time_zone: str) -> None:
        """Keep to other limits from now on; what was counted stays."""
        self.limit, self.reserve = limit, reserve
        self._zone = UTC if time_zone == "UTC" else ZoneInfo(time_zone)
        self._from_at = self._until_at = -math.inf

    @property
    def day(self) -> str:
        """Today's ISO date in the account's time zone."""
        self._turn_page()
        return self._day

    @property
    def day_requests(self) -> int:
        """How many requests left today."""
        self._turn_page()
        return self._day_requests

    @property
    def resets_at(self) -> float:
        """The next local midnight, wall clock."""
        self._turn_page()
        return self._until_at

    @property
    def usable(self) -> float:
        """How many requests a whole day allows, the reserve kept; infinity where no limit is known."""
        limits = [limit - self._reserved(limit) for limit in (self.limit, self._daily) if limit]
        return min(limits, default=math.inf)

    def send(self) -> None:
        """A request leaves."""
        self._turn_page()
        self._day_requests += 1

    def note(self, limits: RateLimits, *, sent_at: float, now: float) -> None:
        """Learn from the answer to a request that left at `sent_at`; `now` is the same clock's.

        The server's count only falls until its reset, so the lowest number seen includes every answered request. A
        higher one counts only from a request that left after the lowest was known: then there was a reset.
        """
        remaining = limits.daily_remaining
        if remaining is None:
            if self.remaining is not None:
                self._untold.append(now)
            return
        self._daily = limits.daily or max(self._daily, remaining)
        while self._untold and self._untold[0] <= sent_at:
            self._untold.popleft()
        if sent_at < self._valid_from:
            return
        if self.remaining is not None and remaining > self.remaining:
            if sent_at < self._noted_at:
                return
            self._valid_from = sent_at
        self.remaining = remaining
        self._noted_at = now

    def left(self, in_flight: int = 0) -> float:
        """Return how many requests may still leave today; `in_flight` ones may not be in the server's count yet."""
        return min(self.own_left(), self._told_left() - in_flight)

    def own_left(self) -> float:
        """Return how many requests the configured limit still allows today."""
        if self.limit is None:
            return math.inf
        return self.limit - self.day_requests - self._reserved(self.limit)

    def why_none_is_left(self) -> str:
        """Say it for people."""
        if self.limit is not None and self.own_left() <= 0:
            kept = self._reserved(self.limit)
            return f"{self.day_requests} requests sent today of the configured {self.limit}, {kept} kept in reserve"
        kept = self._reserved(self._daily)
        return f"{self.remaining or 0} of the account's {self._daily} daily requests left, {kept} kept in reserve"

    def _told_left(self) -> float:
        if self.remaining is None:
            return math.inf
        return self.remaining - len(self._untold) - self._reserved(self._daily)

    def _reserved(self, daily: int) -> int:
        return math.ceil(self.reserve * daily - 1e-6) if self.reserve < 1 else int(self.reserve)

    def _turn_page(self) -> None:
        now = self._clock()
        if self._from_at <= now < self._until_at:
            return
        today = datetime.fromtimestamp(now, UTC).astimezone(self._zone).date()
        self._from_at = datetime.combine(today, time.min, self._zone).timestamp()
        self._until_at = datetime.combine(today + timedelta(days=1), time.min, self._zone).timestamp()
        if today.isoformat() > self._day:  # a clock that was set back must not give the day's quota a second time
            self._day = today.isoformat()
            self._day_requests = 0


def next_quarter_in_s(now: float) -> float:
    """Return how far off the next quarter hour of UTC is, from the wall clock's `now`."""
    return QUARTER_S - now % QUARTER_S
