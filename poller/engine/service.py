"""The service: a whole run, from the first input line to the last delivery."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager

import structlog

from poller.core.errors import PollerError, TooManyFailures
from poller.core.fleet import Fenced
from poller.core.model import Added, Chunk, Record
from poller.core.protocols import Clock, FeedStore, Store
from poller.engine.cancelling import cancel
from poller.engine.deliveries import Deliveries
from poller.engine.failures import FailureWatch, log_dominated
from poller.engine.history import History
from poller.engine.ingest import Ingest
from poller.engine.lane import Lane
from poller.engine.metrics import Metrics
from poller.engine.upkeep import Upkeep
from poller.sources import Source

log = structlog.get_logger("poller")


class Service:
    """A whole run: ingest, lanes and delivery loops, from the first input line to the last delivery."""

    def __init__(
        self,
        *,
        store: Store,
        metrics: Metrics,
        clock: Clock,
        feed_store: FeedStore | None = None,
        sources: Sequence[Source] = (),
        stdin: int = 0,
        endless: bool,
        is_member: bool = False,
        shutdown_s: float,
        retention_s: float | None = None,
        stop_on_failures: float | None = None,
        trial: int = 0,
    ) -> None:
        """`feed_store`: where sources store their lines, if not in `store` itself. `trial`: see `FailureWatch`."""
        self.lanes: dict[str, Lane] = {}
        self.history = History()
        self.draining = False
        self.stopped_by: PollerError | None = None  # why it drains, unless for a signal
        self.failures = FailureWatch(stop_on_failures, trial=trial)
        self._store = store
        self.feed_store: FeedStore = feed_store or store
        self._metrics = metrics
        self.endless = endless  # the run waits for more work
        self._shutdown_s = shutdown_s
        self._upkeep = Upkeep(store, metrics, clock, lanes=self.lanes, history=self.history, retention_s=retention_s)
        self._feeds, self._changing = 0, asyncio.Lock()  # HTTP requests that feed tasks now; held by a reload
        self.reload_asked = asyncio.Event()  # settings may have changed
        self.ending = asyncio.Event()  # nothing more is claimed: the work is done, or the run drains
        self.is_member = is_member  # of a fleet: others may need what this process does not
        self.on_lane_ended: Callable[[Lane], Awaitable[None]] = _nothing_to_give  # called once all is recorded
        self.on_fenced: Callable[[Fenced], None] = lambda _error: None  # this member of a fleet was buried
        self._polling: asyncio.TaskGroup | None = None
        self._at_work: dict[Lane, asyncio.Task[None]] = {}
        self._limit: asyncio.Timeout | None = None
        self.deliveries = Deliveries(
            store, metrics, on_stopped=self._end_if_no_sink_left, on_given_up=self.end_with, on_fenced=self._note_fenced
        )
        self.ingest = Ingest(
            self.feed_store,
            sources,
            clock=clock,
            stdin=stdin,
            tolerant=endless,
            on_chunk=self._on_chunk,
            on_ended=self._end_if_idle,
        )

    @property
    def unwritable_reason(self) -> str:
        """Why the state cannot be written now; empty where it can."""
        return self._store.unwritable_reason

    @property
    def fed(self) -> bool:
        """Whether the input has ended."""
        return self.ingest.ended

    async def run(self) -> bool:
        """Run to the end of the work, or until `drain`. Return False when draining took longer than allowed."""
        try:
            async with asyncio.timeout(self._shutdown_s if self.draining else None) as self._limit:
                if (until := self._limit.when()) is not None:
                    self.deliveries.drain(until)
                await self._run()
        except TimeoutError:
            if self._limit is None or not self._limit.expired():
                raise
            log.warning("run.drain_timed_out", shutdown_s=self._shutdown_s)
            return False
        finally:
            self._limit = None  # a signal may still come while the run is closed
        return True

    async def _run(self) -> None:
        async with asyncio.TaskGroup() as delivering:
            self.deliveries.start(delivering)
            periodic_tasks = [delivering.create_task(each) for each in self._upkeep.loops()]
            await self._poll_until_done()
            await self.deliveries.finish(self._changing)
            for task in periodic_tasks:
                task.cancel()

    async def _poll_until_done(self) -> None:
        async with asyncio.TaskGroup() as polling:
            self._polling = polling
            for lane in self.lanes.values():
                self._at_work[lane] = polling.create_task(self._run_lane(lane))
            self.ingest.on_failed = self.end_with
            self.ingest.start(polling)
            await self.ending.wait()
            self.ingest.stop()
            for lane in self.lanes.values():
                lane.stop()

    # --- changes while it runs

    @asynccontextmanager
    async def changing(self) -> AsyncIterator[None]:
        """Keep the run from coming to its end while its settings change; a drain does not wait."""
        async with self._changing:
            yield
        self._end_if_idle()
        self._end_if_no_sink_left()

    def begin_lane(self, lane: Lane) -> None:
        """Start an account's lane; does nothing in a run that is ending."""
        if self.is_ending:
            return
        self.lanes[lane.account] = lane
        if self._polling is not None:
            self._at_work[lane] = self._polling.create_task(self._run_lane(lane))

    async def _run_lane(self, lane: Lane) -> None:
        lane.on_given_up = self.end_with
        try:
            await lane.run()
            await self.on_lane_ended(lane)
        except* Fenced as errors:
            self._note_fenced(errors)

    async def end_lane(self, account: str) -> None:
        """Finish an account's polls in flight and stop its lane; its other tasks wait in the store. Does nothing where
        the lane has been dropped."""
        if (lane := self.lanes.pop(account, None)) is None:
            return
        lane.stop()
        if (task := self._at_work.get(lane)) is not None:
            await asyncio.wait([task])
            self._at_work.pop(lane, None)

    async def drop_lane(self, account: str) -> None:
        """Stop an account's lane at once: nothing of it may be recorded any more."""
        lane = self.lanes.pop(account)
        await self._cancel(lane)

    async def drop_lanes(self) -> None:
        """Stop every lane at once, also those that finish their polls in flight."""
        self.lanes.clear()
        for lane in list(self._at_work):
            await self._cancel(lane)

    async def _cancel(self, lane: Lane) -> None:
        lane.stop()
        if (task := self._at_work.pop(lane, None)) is not None:
            await cancel(task)

    def _note_fenced(self, errors: BaseExceptionGroup[Fenced]) -> None:
        for error in errors.exceptions:
            if isinstance(error, BaseExceptionGroup):
                self._note_fenced(error)
            else:
                self.on_fenced(error)

    def apply(self, *, retention_s: float | None, shutdown_s: float, give_up_s: float | None, trial: int) -> None:
        """Use other settings from now on."""
        self.failures.apply(trial=trial)
        self._upkeep.retention_s, self._shutdown_s = retention_s, shutdown_s
        self.deliveries.apply(give_up_s=give_up_s)

    # --- what happens

    def pauses(self) -> dict[str, str]:
        """Return the paused lanes and failing sinks, each with its reason."""
        lanes = {lane.account: lane.gate.pause for lane in self.lanes.values()}
        sinks = {loop.sink.name: loop.backlog_reason for loop in self.deliveries.loops}
        return {name: str(reason) for name, reason in (lanes | sinks).items() if reason is not None}

    def _on_chunk(self, chunk: Chunk, added: Added) -> None:
        self._metrics.add_chunk(chunk, added)
        accounts = {line.account for line in chunk.fed} | {row.account for row in chunk.rows}
        for account in accounts & self.lanes.keys():
            self.lanes[account].wake()

    def on_recorded(self, records: Sequence[Record]) -> None:
        """Note finished tasks whose records are on disk: the delivery loops have work."""
        for record in records:
            self.history.finish(record)
            self._watch_failures(record)
        self.deliveries.wake()
        self._end_if_idle()

    def _watch_failures(self, record: Record) -> None:
        """Warn as soon as one reason dominates; drain where too many tasks fail."""
        if (found := self.failures.add(record)) is not None:
            log_dominated(found)
        if self.failures.is_too_much:
            self.stop_for(f"stopped by --stop-on-failures: {self.failures.message()}")

    def stop_for(self, message: str) -> None:
        """Drain because too many tasks fail; `message` says which."""
        if not self.is_ending:
            self.end_with(
                TooManyFailures(
                    f"{message}\n`poller report` shows the reasons. Once they are gone, run the same command again: it "
                    "continues where it stopped"
                )
            )

    def end_with(self, error: PollerError) -> None:
        """Drain, and end the run with this error: what is in flight is finished, for a start whose answer is not read
        would make its row unsure. Of several errors the first counts."""
        self.stopped_by = self.stopped_by or error
        self.drain()

    def _end_if_idle(self) -> None:
        is_held = self._feeds > 0 or self._changing.locked()
        if self.fed and not self.endless and not is_held and self._metrics.waiting == 0:
            self.ending.set()

    @property
    def is_ending(self) -> bool:
        """Whether nothing more is claimed: the work is done, or the run drains."""
        return self.ending.is_set()

    @contextmanager
    def feeding(self) -> Iterator[Callable[[Chunk, Added], None]]:
        """Keep the run from ending while tasks are fed beside the input. Yields the callback for each stored chunk."""
        self._feeds += 1
        try:
            yield self._on_chunk
        finally:
            self._feeds -= 1
            self._end_if_idle()

    @property
    def drain_left_s(self) -> float | None:
        """How much longer a drain may take; None where the run does not drain, or has ended."""
        until = self._limit.when() if self._limit is not None else None
        return None if until is None else max(0.0, until - asyncio.get_running_loop().time())

    def _end_if_no_sink_left(self) -> None:
        """End the run when every sink has stopped: further polls would have no receiver."""
        if self.deliveries.are_all_stopped and not self.is_member and not self._changing.locked():
            self.ending.set()

    def drain(self) -> None:
        """Claim nothing more, finish what is in flight, deliver, end; within `shutdown_s`."""
        if not self.draining:
            self.draining = True
            log.info("run.draining", waiting=self._metrics.waiting, shutdown_s=self._shutdown_s)
            self.ending.set()
            if self._limit is not None:
                until = asyncio.get_running_loop().time() + self._shutdown_s
                self._limit.reschedule(until)
                self.deliveries.drain(until)


async def _nothing_to_give(_lane: Lane) -> None:
    """A process alone keeps its accounts."""
