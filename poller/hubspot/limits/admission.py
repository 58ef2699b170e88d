"""FIFO admission queue: releases waiting requests one at a time, evenly paced.

Only the first in the queue holds a timer, so a lane costs one timer however many requests wait.
"""

import asyncio
import math
from collections.abc import Callable
from contextlib import suppress

from aiolimiter import AsyncLimiter

from poller.core.request_protocols import GateClosed
from poller.hubspot.limits.window import Window

TOGETHER_S = 0.0005  # added to each sleep, so that slots that come free together cost one wake-up


class AdmissionQueue:
    """`wait_s` returns for how long none may pass: 0 is now, infinity until `wake`. Called again after each wait."""

    def __init__(self, wait_s: Callable[[], float], window: Window) -> None:
        self._wait_s = wait_s
        self._closed = False
        self._queue = asyncio.Lock()
        self._sleeper: asyncio.Future[None] | None = None
        self._pacing: asyncio.Timeout | None = None
        self.set_pace(window)

    def set_pace(self, window: Window) -> None:
        """Spread admissions evenly over `window`, except for a small burst."""
        burst = max(1, window.limit // 50)
        self._pace = AsyncLimiter(burst, burst * window.window_s / window.limit)

    def pass_at_once(self) -> bool:
        """Return whether one more may pass now, and count it then. Otherwise it waits in `admit`."""
        if self._queue.locked() or self._closed or self._wait_s() > 0:
            return False
        acquiring = self._pace.acquire()
        try:  # no task is needed: where there is capacity, `acquire` ends at its first step
            turn = acquiring.send(None)
        except StopIteration:
            return True
        turn.cancel()  # aiolimiter forgets futures that are done
        acquiring.close()
        return False

    async def admit(self, take: Callable[[], None]) -> None:
        """Wait, then call `take` and return. Cancelled while waiting, takes nothing. Raises `GateClosed`."""
        async with self._queue:
            await self._until_free()
            if await self._keep_pace():  # time has passed: check again
                await self._until_free()
            take()

    def wake(self) -> None:
        """The result of `wait_s` may have changed."""
        if self._sleeper is not None and not self._sleeper.done():
            self._sleeper.set_result(None)

    def close(self) -> None:
        """Raise `GateClosed` in all waiting and all later calls of `admit`."""
        self._closed = True
        self.wake()
        if self._pacing is not None:
            self._pacing.reschedule(asyncio.get_running_loop().time())

    async def _until_free(self) -> None:
        while True:
            if self._closed:
                raise GateClosed("no more requests: the run drains")
            wait_s = self._wait_s()
            if wait_s <= 0:
                return
            await self._sleep(wait_s)

    async def _keep_pace(self) -> bool:
        """Wait until the pace allows the next admission; return whether that took time."""
        if self._pace.has_capacity():
            await self._pace.acquire()
            return False
        try:
            with suppress(TimeoutError):  # by `close`
                async with asyncio.timeout(None) as self._pacing:
                    await self._pace.acquire()
        finally:
            self._pacing = None
        return True

    async def _sleep(self, wait_s: float) -> None:
        loop = asyncio.get_running_loop()
        self._sleeper = loop.create_future()
        timer = None if wait_s == math.inf else loop.call_later(wait_s + TOGETHER_S, self.wake)
        try:
            await self._sleeper
        finally:
            self._sleeper = None
            if timer is not None:
                timer.cancel()
