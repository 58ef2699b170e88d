"""FIFO admission queue: releases waiting requests one at a time, evenly paced.

Only the first in the queue holds a timer, so a lane costs one timer however many requests wait.
"""

import asyncio
import math
from collections.abc import Callable

from poller.core.protocols import Clock
from poller.core.request_protocols import GateClosed
from poller.hubspot.limits.window import Window

TOGETHER_S = 0.0005  # added to each sleep, so that slots that come free together cost one wake-up


class Pace:
    """Spreads admissions evenly over a window, except for a small burst: a leaky bucket, kept as the instant at which
    it is empty (GCRA)."""

    def __init__(self, window: Window) -> None:
        self._interval_s = window.window_s / window.limit
        self._burst_s = (max(1, window.limit // 50) - 1) * self._interval_s
        self._empty_at = -math.inf

    def wait_s(self, now: float) -> float:
        """Return how long the next admission has to wait; 0 or less: it may pass."""
        return self._empty_at - self._burst_s - now

    def admit(self, now: float) -> None:
        """Count an admission."""
        self._empty_at = max(self._empty_at, now) + self._interval_s


class AdmissionQueue:
    """`wait_s` returns for how long none may pass: 0 is now, infinity until `wake`. Called again after each wait."""

    def __init__(self, wait_s: Callable[[], float], window: Window, *, monotonic: Clock) -> None:
        self._wait_s = wait_s
        self._monotonic = monotonic
        self._closed = False
        self._queue = asyncio.Lock()
        self._sleeper: asyncio.Future[None] | None = None
        self.set_pace(window)

    def set_pace(self, window: Window) -> None:
        """Spread admissions evenly over `window`, except for a small burst."""
        self._pace = Pace(window)

    def pass_at_once(self) -> bool:
        """Return whether one more may pass now, and count it then. Otherwise it waits in `admit`."""
        if self._queue.locked() or self._closed or self._wait_s() > 0:
            return False
        if self._pace.wait_s(now := self._monotonic()) > 0:
            return False
        self._pace.admit(now)
        return True

    async def admit(self, take: Callable[[], None]) -> None:
        """Wait, then call `take` and return. Cancelled while waiting, takes nothing. Raises `GateClosed`."""
        async with self._queue:
            await self._until_free()
            self._pace.admit(self._monotonic())
            take()

    def wake(self) -> None:
        """The result of `wait_s` may have changed."""
        if self._sleeper is not None and not self._sleeper.done():
            self._sleeper.set_result(None)

    def close(self) -> None:
        """Raise `GateClosed` in all waiting and all later calls of `admit`."""
        self._closed = True
        self.wake()

    async def _until_free(self) -> None:
        while True:
            if self._closed:
                raise GateClosed("no more requests: the run drains")
            if (wait_s := self._wait_s()) > 0:
                await self._sleep(wait_s + TOGETHER_S)
            elif (wait_s := self._pace.wait_s(self._monotonic())) > 0:
                await self._sleep(wait_s)
            else:
                return

    async def _sleep(self, wait_s: float) -> None:
        loop = asyncio.get_running_loop()
        self._sleeper = loop.create_future()
        timer = None if wait_s == math.inf else loop.call_later(wait_s, self.wake)
        try:
            await self._sleeper
        finally:
            self._sleeper = None
            if timer is not None:
                timer.cancel()
