"""FIFO admission queue: releases waiting requests one at a time, evenly paced.

Only the first in the queue holds a timer, so a lane costs one timer however many requests wait.
"""

import asyncio
import math
from collections.abc import Callable

from poller.core.request_protocols import GateClosed
from poller.hubspot.limits.window import Window

TOGETHER_S = 0.0005  # added to each sleep, so that slots that come free together cost one wake-up


class Pace:
    """Spreads admissions evenly over a window, except for a small burst (the generic cell rate algorithm)."""

    def __init__(self, window: Window) -> None:
        self._each_s = window.window_s / window.limit
        self._ahead_s = (max(1, window.limit // 50) - 1) * self._each_s  # how far ahead of the even pace one may leave
        self._even_at = -math.inf  # when the next one leaves at the even pace, if others left ahead of it

    def wait_s(self, now: float) -> float:
        """Return how long the next one must wait; 0 or less is now."""
        return self._even_at - self._ahead_s - now

    def take(self, now: float) -> None:
        """One leaves."""
        if self._even_at < now:
            self._even_at = now
        self._even_at += self._each_s


class AdmissionQueue:
    """`wait_s` returns for how long none may pass: 0 is now, infinity until `wake`. Called again after each wait."""

    def __init__(self, wait_s: Callable[[], float], window: Window) -> None:
        self._wait_s = wait_s
        self._closed = False
        self._queue = asyncio.Lock()
        self._sleeper: asyncio.Future[None] | None = None
        self._is_pacing = False  # the sleeper waits for the pace, which no answer changes
        self.set_pace(window)

    def set_pace(self, window: Window) -> None:
        """Spread admissions evenly over `window`, except for a small burst."""
        self._pace = Pace(window)

    def pass_at_once(self) -> bool:
        """Return whether one more may pass now, and count it then. Otherwise it waits in `admit`."""
        if self._queue.locked() or self._closed or self._wait_s() > 0:
            return False
        now = asyncio.get_running_loop().time()
        if self._pace.wait_s(now) > 0:
            return False
        self._pace.take(now)
        return True

    async def admit(self, take: Callable[[], None]) -> None:
        """Wait, then call `take` and return. Cancelled while waiting, takes nothing. Raises `GateClosed`."""
        loop = asyncio.get_running_loop()
        async with self._queue:
            while True:  # after each wait, all is asked again
                if self._closed:
                    raise GateClosed("no more requests: the run drains")
                if (wait_s := self._wait_s()) > 0:
                    await self._sleep(wait_s + TOGETHER_S)
                elif (wait_s := self._pace.wait_s(loop.time())) > 0:
                    await self._sleep(wait_s, for_pace=True)
                else:
                    break
            self._pace.take(loop.time())
            take()

    def wake(self) -> None:
        """The result of `wait_s` may have changed."""
        if self._sleeper is not None and not self._is_pacing:
            self._end_sleep()

    def close(self) -> None:
        """Raise `GateClosed` in all waiting and all later calls of `admit`."""
        self._closed = True
        self._end_sleep()

    async def _sleep(self, wait_s: float, *, for_pace: bool = False) -> None:
        loop = asyncio.get_running_loop()
        self._sleeper, self._is_pacing = loop.create_future(), for_pace
        timer = None if wait_s == math.inf else loop.call_later(wait_s, self._end_sleep)
        try:
            await self._sleeper
        finally:
            self._sleeper = None
            if timer is not None:
                timer.cancel()

    def _end_sleep(self) -> None:
        if self._sleeper is not None and not self._sleeper.done():
            self._sleeper.set_result(None)
