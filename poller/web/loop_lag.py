"""How late the event loop runs: what holds it up for long holds up every poll, delivery and answer."""

import asyncio
from collections.abc import AsyncIterator

from aiohttp import web

SAMPLE_S = 0.25
SPAN_S = 15.0  # the usual distance of two scrapes: a peak is told for one to two of them


class Lag:
    """Measures while the server is up."""

    def __init__(self) -> None:
        self._worst_s = self._before_s = 0.0

    @property
    def worst_s(self) -> float:
        """The latest that a timer came in the last 15 to 30 s."""
        return max(self._worst_s, self._before_s)

    async def work(self, _app: web.Application) -> AsyncIterator[None]:
        """Measure as long as the application runs."""
        async with asyncio.TaskGroup() as staff:
            watching = staff.create_task(self._watch())
            yield
            watching.cancel()

    async def _watch(self) -> None:
        """Sleep for short spans, and note by how much they were longer. Never returns."""
        loop = asyncio.get_running_loop()
        turns_at = loop.time() + SPAN_S
        while True:
            due_at = loop.time() + SAMPLE_S
            await asyncio.sleep(SAMPLE_S)
            now = loop.time()
            self._worst_s = max(self._worst_s, now - due_at)
            if now >= turns_at:
                self._before_s, self._worst_s, turns_at = self._worst_s, 0.0, now + SPAN_S
