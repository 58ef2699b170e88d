"""The run of one `Poller`: in a task of its own, so that what it opens is closed in the task that opened it."""

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import suppress

from poller.app.compose import RunParts, open_run, open_site, run_service
from poller.app.embed.finished_import import FinishedImport
from poller.app.embed.rows import FedRows, Row, Rows, chunk_of, reader_of, store_all
from poller.app.environment import Environment
from poller.config import Settings
from poller.core.errors import PollerError
from poller.core.model import Added, Chunk
from poller.core.protocols import Store
from poller.engine.live_feed import LiveFeed
from poller.sinks.consumer import NAME, ConsumerSink
from poller.sources import ReadOptions
from poller.sources.counts import SourceCounts

SOURCE = "python"  # the source's name in the ledger
LEFT = "the Poller was left: the rows that are not counted are not stored"


class EmbeddedRun:
    """A run that is fed, and whose finished tasks are taken, from other tasks of the event loop."""

    def __init__(self, settings: Settings, environment: Environment) -> None:
        self.feeds: set[object] = set()  # calls of `feed` that have not ended
        self.page_url: str | None = None
        self._settings = settings
        self._environment = environment
        self._parts: RunParts | None = None  # None until it is at work
        self._sink: ConsumerSink[FinishedImport] | None = None
        self._live_feed: LiveFeed | None = None
        self._task: asyncio.Task[None] | None = None
        self._began_or_ended = asyncio.Event()
        self._storing = asyncio.TaskGroup()
        self._stores: set[asyncio.Task[Exception | None]] = set()
        self._changed = asyncio.Event()  # a loop that waits for a task looks again
        self._is_awaited = False  # by a loop
        self._is_ending = False
        self._error: PollerError | None = None  # what ended the run
        self._is_error_raised = False

    # --- start and end

    async def start(self) -> None:
        """Return once it is at work. Raises `PollerError` where it cannot begin."""
        self._task = asyncio.create_task(self._run(), name="poller")  # in no group: it outlives this call
        try:
            await self._began_or_ended.wait()
        except asyncio.CancelledError:
            await self._cancel()
            raise
        if self._parts is None:
            await self._task
            self._raise_error()

    async def _run(self) -> None:
        try:
            opening = open_run(self._settings, [], self._environment, make_consumer=self._make_sink)
            async with opening as parts, open_site(self._settings, parts) as site, self._storing:
                self._live_feed = LiveFeed(parts.service, parts.store, SOURCE)
                self._parts, self.page_url = parts, site.url
                self._began_or_ended.set()
                self._error = await run_service(parts.service) or parts.service.stopped_by
                self._stop()
        except PollerError as error:
            self._error = error
        finally:
            self._stop()
            self._began_or_ended.set()

    def _make_sink(self, store: Store) -> ConsumerSink[FinishedImport]:
        self._sink = ConsumerSink(FinishedImport.of_record, store.mark_position, on_batch=self._changed.set)
        return self._sink

    def _stop(self) -> None:
        """Hand over and store nothing more; wake all that wait."""
        self._is_ending = True
        if self._sink is not None:
            self._sink.end()
        for storing in self._stores:
            storing.cancel()
        self._changed.set()

    async def end(self, *, is_body_done: bool) -> None:
        """Take the last task where the body is done with it, finish the polls in flight, close everything. Raises what
        ended the run, unless the body has seen it."""
        assert self._task is not None and self._parts is not None  # noqa: S101, PT018 - it was started
        service = self._parts.service
        try:
            if is_body_done:
                with suppress(PollerError):  # which ends the run, too
                    await self._take()
            self._stop()
            for loop in service.deliveries.loops:
                if loop.sink is self._sink:
                    loop.stop()
            service.drain()
            await asyncio.wait({self._task})
        except asyncio.CancelledError:
            await self._cancel()
            raise
        self._task.result()
        if is_body_done:
            self._raise_error()

    async def _cancel(self) -> None:
        """Stop at once; nothing that is stored is lost."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})

    def _raise_error(self) -> None:
        if self._error is not None and not self._is_error_raised:
            self._is_error_raised = True
            raise self._error

    # --- feeding

    async def feed(self, rows: Rows, read: ReadOptions, mark: object) -> FedRows:
        """Store the rows; `mark` is in `feeds` meanwhile."""
        fed, counts, read_row = FedRows(), SourceCounts(SOURCE), reader_of(read)

        def on_stored(chunk: Chunk, added: Added) -> None:
            fed.add(chunk, added)
            counts.add(chunk, added)

        async def store(batch: Sequence[Row]) -> Exception | None:
            if self._is_ending or self._live_feed is None:
                self._is_error_raised = True  # here
                return self._error or PollerError(LEFT)
            storing = self._storing.create_task(self._live_feed.add([chunk_of(batch, read_row)], on_stored))
            self._stores = {each for each in self._stores if not each.done()} | {storing}
            await asyncio.wait({storing})  # a cancelled `feed` leaves it to be stored and counted
            return PollerError(LEFT) if storing.cancelled() else storing.result()

        try:
            await store_all(rows, store)
        finally:
            counts.log_folded()
            self.end_feed(mark)
        return fed

    def end_feed(self, mark: object) -> None:
        """A call of `feed` ended, or will never begin."""
        self.feeds.discard(mark)
        self._changed.set()

    # --- finished tasks

    async def next(self, *, follow: bool) -> FinishedImport | None:
        """Take the task that the loop had; return the next one, None where the loop ends."""
        if self._is_awaited:
            raise RuntimeError("another loop waits for finished tasks already: one at a time")
        self._is_awaited = True
        try:
            await self._take()
            while not self._is_ending and self._sink is not None:
                if (task := self._sink.next()) is not None:
                    return task
                if not follow and self._is_all_taken(self._sink):
                    return None
                self._changed.clear()
                await self._changed.wait()
        finally:
            self._is_awaited = False
        self._raise_error()
        return None

    async def retry_dead_letters(self, sink: str | None) -> int:
        """Deliver a sink's dead letters again, by default the loop's own; return how many. Raises `ConfigError`."""
        if self._parts is None or self._is_ending:
            raise self._error or PollerError("the Poller was left: replay before entering another one")
        return await self._parts.service.deliveries.retry_dead_letters(sink or NAME)

    async def _take(self) -> None:
        if self._sink is not None and not self._is_ending:
            await self._sink.take()

    def _is_all_taken(self, sink: ConsumerSink[FinishedImport]) -> bool:
        if self._parts is None or self.feeds or self.waiting:
            return False
        metrics, name = self._parts.metrics, sink.name
        owed = metrics.undelivered(name) + metrics.delivered[name] + metrics.dead[name]
        return sink.settled >= owed

    @property
    def waiting(self) -> int:
        return 0 if self._parts is None else self._parts.metrics.waiting

    def pauses(self) -> Mapping[str, str]:
        return {} if self._parts is None else self._parts.service.pauses()
