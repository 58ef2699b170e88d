"""A whole run: feeding, lanes and outlets, from the first line to the last delivery."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import structlog

from poller.engine.lane import Lane
from poller.engine.outlet import Outlet
from poller.metrics import Metrics
from poller.model import Added, Chunk, Record
from poller.protocols import Clock, Store

log = structlog.get_logger()

PRUNED_AT_ONCE = 1000
PRUNE_EVERY_S = 60.0

Feed = Callable[[Callable[[Chunk, Added], None]], Coroutine[Any, Any, None]]


class Service:
    """A whole run: feeding, lanes and outlets, from the first line to the last delivery."""

    BEAT_S = 5.0  # how often a lane's state is noted, so that a restart knows the account was in use

    def __init__(
        self,
        *,
        store: Store,
        metrics: Metrics,
        clock: Clock,
        feed: Feed,
        endless: bool,
        shutdown_s: float,
        retention_s: float | None = None,
    ) -> None:
        self.lanes: dict[str, Lane] = {}
        self.outlets: list[Outlet] = []
        self.fed = False  # the input has ended
        self.draining = False
        self._store = store
        self._metrics = metrics
        self._clock = clock
        self._feed = feed
        self._endless = endless
        self._shutdown_s = shutdown_s
        self._retention_s = retention_s
        self._done = asyncio.Event()
        self._limit: asyncio.Timeout | None = None

    async def run(self) -> bool:
        """Run to the end of the work, or until `drain`. Return False when draining took longer than allowed."""
        try:
            async with asyncio.timeout(self._shutdown_s if self.draining else None) as self._limit:
                await self._run()
        except TimeoutError:
            if self._limit is None or not self._limit.expired():
                raise
            log.warning("run.drain_timed_out", shutdown_s=self._shutdown_s)
            return False
        return True

    async def _run(self) -> None:
        async with asyncio.TaskGroup() as delivering:
            for outlet in self.outlets:
                outlet.on_stopped = self._end_if_no_sink_is_left
                delivering.create_task(outlet.run())
            keeping = [delivering.create_task(self._beat()), delivering.create_task(self._prune())]
            await self._look_until_done()
            for task in keeping:
                task.cancel()
            for outlet in self.outlets:
                outlet.end()

    async def _look_until_done(self) -> None:
        async with asyncio.TaskGroup() as looking:
            for lane in self.lanes.values():
                looking.create_task(lane.run())
            feeding = looking.create_task(self._feed_all())
            await self._done.wait()
            feeding.cancel()
            for lane in self.lanes.values():
                lane.stop()

    async def _feed_all(self) -> None:
        await self._feed(self._on_fed)
        self.fed = True
        self._end_if_idle()

    async def _beat(self) -> None:
        while True:
            for lane in self.lanes.values():
                lane.save()
            self._store.beat()
            await asyncio.sleep(self.BEAT_S)

    async def _prune(self) -> None:
        """Forget what is past its retention, in small transactions that hold nobody up."""
        while self._retention_s is not None:
            pruned = await self._store.prune(self._clock() - self._retention_s, PRUNED_AT_ONCE)
            if pruned:
                log.info("tasks.pruned", tasks=pruned)
            await asyncio.sleep(1.0 if pruned == PRUNED_AT_ONCE else PRUNE_EVERY_S)

    def pauses(self) -> dict[str, str]:
        """Return what is paused now, lanes and sinks, each with the reason."""
        lanes = {lane.account: lane.gate.pause for lane in self.lanes.values()}
        sinks = {outlet.sink.name: outlet.backlog_reason for outlet in self.outlets}
        return {name: str(reason) for name, reason in (lanes | sinks).items() if reason is not None}

    def _on_fed(self, chunk: Chunk, added: Added) -> None:
        self._metrics.fed(chunk, added)
        for account in {line.account for line in chunk.fed}:
            self.lanes[account].wake()

    def on_recorded(self, record: Record | None) -> None:
        """A lane has recorded a look; with a record, the outlets have work."""
        if record is not None:
            for outlet in self.outlets:
                outlet.wake()
            self._end_if_idle()

    def _end_if_idle(self) -> None:
        if self.fed and not self._endless and self._metrics.waiting == 0:
            self._done.set()

    def _end_if_no_sink_is_left(self) -> None:
        """One stopped sink holds up no other; with none left, looks would be spent on what nobody gets."""
        if all(outlet.stopped_by is not None for outlet in self.outlets):
            self._done.set()

    def drain(self) -> None:
        """Claim nothing more, finish what is in flight, deliver, end; within `shutdown_s`."""
        if not self.draining:
            self.draining = True
            log.info("run.draining", waiting=self._metrics.waiting, shutdown_s=self._shutdown_s)
            self._done.set()
            if self._limit is not None:
                self._limit.reschedule(asyncio.get_running_loop().time() + self._shutdown_s)
