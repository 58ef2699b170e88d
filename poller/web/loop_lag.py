"""How late the event loop runs: a delay of the loop delays every poll, delivery and response."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator

from aiohttp import web

SAMPLE_S = 0.25
SPAN_S = 30.0  # twice the usual time between two scrapes: a peak is in two of them


class LoopLag:
    """Measures while the server is up."""

    def __init__(self) -> None:
        self._delays_s = deque([0.0], maxlen=round(SPAN_S / SAMPLE_S))

    @property
    def worst_s(self) -> float:
        """The longest delay of a timer in the last 30 s."""
        return max(self._delays_s)

    async def measure(self, _app: web.Application) -> AsyncIterator[None]:
        """Measure as long as the application runs."""
        async with asyncio.TaskGroup() as group:
            sampling = group.create_task(self._sample())
            yield
            sampling.cancel()

    async def _sample(self) -> None:
        """Sleep for short spans and note how much longer they took. Never returns."""
        loop = asyncio.get_running_loop()
        while True:
            due_at = loop.time() + SAMPLE_S
            await asyncio.sleep(SAMPLE_S)
            self._delays_s.append(loop.time() - due_at)
