"""How late the event loop runs: a delay of the loop delays every poll, delivery and response."""

import asyncio
from collections.abc import AsyncIterator

from aiohttp import web

SAMPLE_S = 0.25
SPAN_S = 15.0  # the usual time between two scrapes: a peak is shown in one or two of them


class LoopLag:
    """Measures while the server is up."""

    def __init__(self) -> None:
        self._worst_s = self._before_s = 0.0

    @property
    def worst_s(self) -> float:
        """The longest delay of a timer in the last 15 to 30 s."""
        return max(self._worst_s, self._before_s)

    async def measure(self, _app: web.Application) -> AsyncIterator[None]:
        """Measure as long as the application runs."""
        async with asyncio.TaskGroup() as group:
            sampling = group.create_task(self._sample())
            yield
            sampling.cancel()

    async def _sample(self) -> None:
        """Sleep for short spans and note how much longer they took. Never returns."""
        loop = asyncio.get_running_loop()
        span_ends_at = loop.time() + SPAN_S
        while True:
            due_at = loop.time() + SAMPLE_S
            await asyncio.sleep(SAMPLE_S)
            now = loop.time()
            self._worst_s = max(self._worst_s, now - due_at)
            if now >= span_ends_at:
                self._before_s, self._worst_s, span_ends_at = self._worst_s, 0.0, now + SPAN_S
