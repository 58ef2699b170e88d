"""Counts requests as strictly as HubSpot could: at arrival, in each rolling window and each day, refused ones too."""

from collections import deque
from dataclasses import dataclass
from datetime import datetime, timedelta
from math import ceil
from typing import Literal
from zoneinfo import ZoneInfo

from poller.sandbox.scenario import Scenario

Policy = Literal["TEN_SECONDLY_ROLLING", "DAILY"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Arrival:
    """The quota's view of one request."""

    in_window: int  # requests in the window that ends here, this one included
    today: int
    exceeded: Policy | None
    free_in_s: int  # whole seconds after which `exceeded` is over


class Quota:
    """One app's rolling window and day."""

    def __init__(self, scenario: Scenario, began_at: float) -> None:
        self.max_in_window = 0
        self.today = 0
        self._scenario = scenario
        self._began_at = began_at
        self._zone = ZoneInfo(scenario.daily_zone)
        self._day_ends_at = began_at
        self._window: deque[float] = deque()

    def arrive(self, now: float) -> Arrival:
        """Count a request that arrives at `now`; the result includes the limit that it exceeds."""
        window = self._window
        window.append(now)
        while window[0] <= now - self._scenario.window_s:
            window.popleft()
        self.max_in_window = max(self.max_in_window, len(window))
        if now >= self._day_ends_at:
            self.today, self._day_ends_at = 0, self._end_of_day(now)
        self.today += 1
        exceeded, free_in_s = self._exceeded(now)
        return Arrival(in_window=len(window), today=self.today, exceeded=exceeded, free_in_s=free_in_s)

    def _exceeded(self, now: float) -> tuple[Policy | None, int]:
        daily = self._scenario.daily
        if daily is not None and self.today > daily:
            return "DAILY", ceil(self._day_ends_at - now)
        over = len(self._window) - self._scenario.requests
        if over > 0:
            return "TEN_SECONDLY_ROLLING", ceil(self._window[over - 1] + self._scenario.window_s - now)
        return None, 0

    def _end_of_day(self, now: float) -> float:
        if every_s := self._scenario.daily_every_s:
            return self._began_at + ((now - self._began_at) // every_s + 1) * every_s
        today = datetime.fromtimestamp(now, self._zone).date()
        midnight = datetime.combine(today + timedelta(days=1), datetime.min.time(), self._zone)
        return midnight.timestamp()
