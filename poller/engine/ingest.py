"""The ingest: reads the sources of a run. Finite ones are read one after the other, followed ones all at once."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence

import structlog

from poller.core.errors import InputError, UnreadableInput, raise_error
from poller.core.model import Added, Chunk
from poller.core.protocols import Clock, FeedStore
from poller.engine.cancelling import cancel
from poller.sources import ChunkWriter, FileRegistry, Reader, Source, UnchangedLines

log = structlog.get_logger("poller")


class Ingest:
    """Starts and ends the sources of a run, each once; knows when all have ended."""

    def __init__(
        self,
        store: FeedStore,
        sources: Sequence[Source],
        *,
        clock: Clock,
        stdin: int,
        tolerant: bool,
        on_chunk: Callable[[Chunk, Added], None],
        on_ended: Callable[[], None],
    ) -> None:
        self.sources = tuple(dict.fromkeys(sources))  # in the order given, those that have ended included
        self.unchanged = UnchangedLines()  # of files that an earlier run read
        self.refused = 0  # sources that could not be read, and files of drop folders without a usable line
        self.on_refused: Callable[[str], Awaitable[None]] | None = None  # called before the file is moved
        self.on_input_left: Callable[[bool], None] = lambda _is_left: None  # called at each start and the end
        self.on_failed: Callable[[InputError], None] = raise_error  # called for input by which the run should end
        self.tolerant = tolerant  # a source that cannot be read ends alone, not the run
        self._store = store
        self._reader = Reader(registry=FileRegistry(), clock=clock, stdin=stdin)
        self._on_chunk = on_chunk
        self._on_ended = on_ended
        self._turn = asyncio.Lock()
        self._running: dict[Source, tuple[ChunkWriter, asyncio.Task[None]]] = {}
        self._unread: dict[Source, UnreadableInput] = {}  # of a finite run: sources that are left to the next run
        self._group: asyncio.TaskGroup | None = None
        self._is_stopped = self._was_cut = False
        self._is_left_off = False  # until `read_again`

    @property
    def ended(self) -> bool:
        """Whether everything that can be read was read."""
        return self._group is not None and not (self._running or self._was_cut or self._is_left_off)

    @property
    def is_input_left(self) -> bool:
        """Whether another run has to read on: this one was stopped, or something could not be read."""
        return bool(self._unread) or not self.ended

    @property
    def unread_reason(self) -> str:
        """Why something could not be read that another try may; empty where all could."""
        return "; ".join(str(fault) for fault in self._unread.values())

    def start(self, group: asyncio.TaskGroup) -> None:
        """Start all sources in `group`."""
        self._group = group
        for source in self.sources:
            self._start(source)
        self._note_end()

    def stop(self) -> None:
        """End all at once: the run ends. A chunk that is being stored still is."""
        self._is_stopped, self._was_cut = True, self._was_cut or bool(self._running)
        for _, task in self._running.values():
            task.cancel()

    async def leave_off(self) -> None:
        """End the sources that can be read again, at once, until `read_again`: what was stored of them may be lost."""
        self._is_left_off = True
        for source, (_, task) in list(self._running.items()):
            if source.is_rereadable:
                await cancel(task)
                self._reader.registry.release(source)

    def read_again(self) -> None:
        """After `leave_off`, read each of them on from where the state has it, those that had ended included."""
        self._is_left_off = False
        for source in self.sources:
            if source.is_rereadable and source not in self._running:
                self._start(source)

    async def change(self, sources: Sequence[Source]) -> list[Source]:
        """End the sources that `sources` leaves out, between two chunks; start new ones at their stored position.

        A stream is read on, for the accounts that there are now: what was read of it, such as a header or the half of a
        line, is nowhere else. Return those for which more than the accounts is another now.
        """
        known = self.sources
        streams = {new: old for new in sources if new not in known for old in known if old.is_same_stream(new)}
        for new, old in streams.items():
            if old in self._running:
                self._running[old][0].latest_options = new.options
        self.sources = wanted = tuple(dict.fromkeys(streams.get(source, source) for source in sources))
        for source in set(known) - set(wanted):
            await self._end(source)
            self._unread.pop(source, None)
        for source in wanted:
            if source not in known and not self._is_left_off:
                self._start(source)
        self._note_end()
        return [old for new, old in streams.items() if old.options.with_accounts_of(new.options) != new.options]

    def _start(self, source: Source) -> None:
        if self._is_stopped:
            self._was_cut = True  # a source that comes at the end is left to the next run
        elif self._group is not None:
            self._unread.pop(source, None)
            self.on_input_left(True)
            writer = ChunkWriter(self._store, self._on_chunk, self._add_unchanged, self._add_refused)
            self._running[source] = writer, self._group.create_task(self._run(source, writer))

    def _note_end(self) -> None:
        if self.ended:
            self.on_input_left(self.is_input_left)
            self._on_ended()

    def _add_unchanged(self, lines: UnchangedLines) -> None:
        self.unchanged += lines

    async def _add_refused(self, what: str) -> None:
        self.refused += 1
        if self.on_refused is not None:
            await self.on_refused(what)

    async def _end(self, source: Source) -> None:
        if source in self._running:
            writer, task = self._running[source]
            async with writer.lock:
                await cancel(task)
        self._reader.registry.release(source)

    async def _run(self, source: Source, writer: ChunkWriter) -> None:
        try:
            if source.follow:
                await self._reader.read(source, writer)
            else:
                async with self._turn:
                    await self._reader.read(source, writer)
        except InputError as fault:
            log.warning("source.failed", source=str(source), reason=str(fault))
            if self.tolerant:
                await self._add_refused(str(source))
            elif isinstance(fault, UnreadableInput):
                self._unread[source] = fault
            else:
                self._was_cut = True
                self.on_failed(fault)
        finally:
            del self._running[source]
        self._note_end()
