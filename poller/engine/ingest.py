"""The ingest: the sources of a run. Those that end are read one after the other, the others all at once."""

import asyncio
from collections.abc import Callable, Sequence

import structlog

from poller.core.errors import InputError
from poller.core.model import Added, Chunk
from poller.core.protocols import Clock, FeedStore
from poller.sources import Claims, Reader, Source, Valve

log = structlog.get_logger()


class Ingest:
    """Begins and ends sources, each once, and knows when all have ended."""

    def __init__(
        self,
        store: FeedStore,
        sources: Sequence[Source],
        *,
        clock: Clock,
        stdin: int,
        tolerant: bool,
        on_fed: Callable[[Chunk, Added], None],
        on_ended: Callable[[], None],
    ) -> None:
        self.sources = tuple(dict.fromkeys(sources))  # as named, those that have ended included
        self.tolerant = tolerant  # a source that cannot be read ends, and nothing else
        self._store = store
        self._reader = Reader(claims=Claims(), clock=clock, stdin=stdin, on_chunk=on_fed)
        self._on_ended = on_ended
        self._turn = asyncio.Lock()
        self._running: dict[Source, tuple[Valve, asyncio.Task[None]]] = {}
        self._group: asyncio.TaskGroup | None = None
        self._was_cut = False

    @property
    def ended(self) -> bool:
        """Everything that can be read was read."""
        return self._group is not None and not self._running and not self._was_cut

    def start(self, group: asyncio.TaskGroup) -> None:
        """Begin all sources in `group`."""
        self._group = group
        for source in self.sources:
            self._begin(source)
        if self.ended:
            self._on_ended()

    def stop(self) -> None:
        """End all at once: the run ends. A chunk that is being stored will be."""
        self._was_cut = bool(self._running)
        for _, task in self._running.values():
            task.cancel()

    async def change(self, sources: Sequence[Source]) -> None:
        """End sources that are not named any more, between two chunks, and begin new ones where they were left."""
        wanted = tuple(dict.fromkeys(sources))
        known, self.sources = self.sources, wanted
        for source in set(known) - set(wanted):
            await self._end(source)
        for source in wanted:
            if source not in known:
                self._begin(source)

    def _begin(self, source: Source) -> None:
        if self._group is not None:
            valve = Valve(self._store)
            self._running[source] = valve, self._group.create_task(self._run(source, valve))

    async def _end(self, source: Source) -> None:
        if source in self._running:
            valve, task = self._running[source]
            async with valve.shut:
                task.cancel()
            await asyncio.wait([task])
        self._reader.claims.give_up(source)

    async def _run(self, source: Source, valve: Valve) -> None:
        try:
            if source.follow:
                await self._reader.read(source, valve)
            else:
                async with self._turn:
                    await self._reader.read(source, valve)
        except InputError as fault:
            if not self.tolerant:
                raise
            log.warning("source.failed", source=str(source), reason=str(fault))
        finally:
            del self._running[source]
        if self.ended:
            self._on_ended()
