"""The deliveries of a run: one loop a sink, begun, exchanged and ended while it is at work."""

import asyncio
from collections.abc import Callable

import structlog

from poller.core.deliveries import Selection
from poller.core.errors import PollerError
from poller.core.fleet import Fenced
from poller.core.protocols import Store
from poller.engine.cancelling import cancel
from poller.engine.delivery import DeliveryLoop
from poller.engine.metrics import Metrics

log = structlog.get_logger("poller")

SINK_END_S = 10.0  # how long a sink that was removed from the settings may go on delivering


class Deliveries:
    """The delivery loops of a run, one a sink: begun, exchanged and ended while it is at work."""

    def __init__(
        self,
        store: Store,
        metrics: Metrics,
        *,
        on_stopped: Callable[[], None],
        on_given_up: Callable[[PollerError], None],
        on_fenced: Callable[[BaseExceptionGroup[Fenced]], None],
    ) -> None:
        """`on_stopped`: a sink needs a person; `on_given_up`: a sink ends the run; `on_fenced`: another member of the
        fleet has the sink."""
        self.loops: list[DeliveryLoop] = []
        self._store = store
        self._metrics = metrics
        self._on_stopped = on_stopped
        self._on_given_up = on_given_up
        self._on_fenced = on_fenced
        self._group: asyncio.TaskGroup | None = None  # while the run delivers
        self._at_work: dict[DeliveryLoop, asyncio.Task[None]] = {}
        self._is_finishing = False  # nothing more finishes: loops end once they have delivered everything
        self._drained_at: float | None = None  # loop time

    def start(self, group: asyncio.TaskGroup) -> None:
        """Deliver to all sinks in this group, and to those that are begun later."""
        self._group = group
        for loop in self.loops:
            self._start(loop)

    async def finish(self, changing: asyncio.Lock) -> None:
        """Return once each sink has everything, those that a reload opens meanwhile included; it holds `changing`."""
        self._is_finishing = True
        for loop in self.loops:
            loop.end()
        while True:
            async with changing:  # a sink that is being exchanged is not at work
                left = [task for task in self._at_work.values() if not task.done()]
                if not left:
                    self._group = None
                    return
            await asyncio.wait(left)

    def begin(self, loop: DeliveryLoop) -> None:
        """Deliver to an open sink; it replaces one of the same name."""
        names = [each.sink.name for each in self.loops]
        if loop.sink.name in names:
            self.loops[names.index(loop.sink.name)] = loop
        else:
            self.loops.append(loop)
        self._start(loop)

    def _start(self, loop: DeliveryLoop) -> None:
        loop.on_stopped, loop.on_given_up = self._on_stopped, self._on_given_up
        if self._group is None or loop.stopped_by is not None:
            return
        if self._is_finishing:
            loop.end()
        if self._drained_at is not None:
            loop.drain(self._drained_at)
        self._at_work[loop] = self._group.create_task(self._run(loop))

    async def _run(self, loop: DeliveryLoop) -> None:
        try:
            await loop.run()
        except* Fenced as errors:
            self._on_fenced(errors)

    async def end(self, loop: DeliveryLoop, *, is_to_deliver: bool = False) -> None:
        """Close a sink after its current write; with `is_to_deliver`, after its whole outbox, within `SINK_END_S`."""
        try:
            if (task := self._at_work.pop(loop, None)) is not None:
                await self._end_task(loop, task, is_to_deliver=is_to_deliver)
        finally:
            await loop.close()

    async def _end_task(self, loop: DeliveryLoop, task: asyncio.Task[None], *, is_to_deliver: bool) -> None:
        if is_to_deliver:
            loop.end()
            await asyncio.wait([task], timeout=SINK_END_S)
        loop.stop()
        if (await asyncio.wait([task], timeout=SINK_END_S))[1]:
            await cancel(task)
            await self._store.flush()  # its last note is committed all the same: before the sink is opened again

    async def drop(self, loop: DeliveryLoop) -> None:
        """Stop a delivery at once and close its sink: nothing of it may be noted any more."""
        self.loops = [each for each in self.loops if each is not loop]
        loop.stop()
        if (task := self._at_work.pop(loop, None)) is not None:
            await cancel(task)
        await loop.close()

    async def close(self) -> None:
        """Close every sink: the run is over, or could not start."""
        for loop in self.loops:
            await loop.close()

    def wake(self) -> None:
        """Check the outboxes: there are records to deliver."""
        for loop in self.loops:
            loop.wake()

    def drain(self, until: float) -> None:
        """The run ends at this loop time: no sink waits for a try that comes later."""
        self._drained_at = until
        for loop in self.loops:
            loop.drain(until)

    def apply(self, *, give_up_s: float | None) -> None:
        """Use another limit of patience from now on."""
        for loop in self.loops:
            loop.apply(give_up_s=give_up_s)

    async def retry_dead_letters(self, sink: str, task_ids: frozenset[str] | None = None) -> int:
        """Put a sink's dead letters back into its outbox, or only those of these tasks; return how many. Raises
        `ConfigError` for a sink that the state does not know."""
        retried = await self._store.replay(sink, Selection(dead=True, task_ids=task_ids))
        self._metrics.retried[sink] += retried
        for loop in self.loops:
            if loop.sink.name == sink:
                loop.wake()
        log.info("sink.retried", sink=sink, records=retried)
        return retried

    @property
    def are_all_stopped(self) -> bool:
        """Whether every sink needs a person."""
        return bool(self.loops) and all(loop.stopped_by is not None for loop in self.loops)
