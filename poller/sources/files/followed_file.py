"""Read one file of a followed source into the store, for as long as it is the one, each line once it is whole."""

import asyncio
from collections.abc import Callable, Iterable
from dataclasses import replace

import structlog

from poller.core.model import Added, Chunk, Position
from poller.core.protocols import FeedStore
from poller.sources.counts import Counts
from poller.sources.files.open_file import Input
from poller.sources.files.read import after_last_line
from poller.sources.files.tail import Cut, Tail, is_at
from poller.sources.parsing.line import Feeding
from poller.sources.parsing.parser import Parser, reading_so_far

log = structlog.get_logger()

POLL_S = 1.0
QUIET_POLLS = 5  # a file that was moved away may still be written to, until its writer opens the new one
TELL_POLLS = 60  # how often what was held back is told

_MOVED_AWAY = "the file was replaced before this line had its line break: feed it again if it is a whole one"


class Generation:
    """One file under the source's name, from its first line to the last; the ledger has a row for each."""

    def __init__(
        self,
        name: str,
        number: int,
        source: Input,
        start: Position,
        *,
        path: str,
        store: FeedStore,
        feeding: Feeding,
        on_chunk: Callable[[Chunk, Added], None],
    ) -> None:
        """`name` is the source's in the store and in the log, `number` its row, `path` where the next file will be."""
        self.position = start  # as stored
        self._name = name
        self._number = number
        self._source = source
        self._path = path
        self._store = store
        self._feeding = feeding
        self._on_chunk = on_chunk
        self._counts = Counts(name)
        self._parser: Parser | None = None
        self._tail: Tail | None = None
        self._polls = 0
        self._still = 0  # of them, those since the file last grew

    async def read_to_end(self) -> None:
        """Read on until another file stands at the path and this one is written to no more. Raises `Cut`."""
        log.info("source.opened", source=self._name, offset=self.position.offset, line=self.position.line)
        quiet, moved = 0, False
        while quiet <= QUIET_POLLS:
            grew = await self._take()
            is_current = is_at(self._path, self._source)
            if not is_current and not moved:
                log.info("source.moved", source=self._name, line=self.position.line)
            moved = not is_current
            quiet = quiet + 1 if is_current is False and not grew else 0
            if quiet <= QUIET_POLLS:
                await self._pause(grew)
        await self.end(_MOVED_AWAY)

    async def end(self, torn: str) -> None:
        """Store that there will be no more. A last line without a line break is rejected, with the reason `torn`."""
        ended = replace(self.position, ended=True)
        nothing = Chunk(fed=(), rejected=(), blank=0, position=ended)
        await self._commit([nothing] if self._parser is None else self._parser.end_within_line(torn))
        self._counts.end()

    async def _take(self) -> bool:
        """Store every line that is whole; tell whether the file had grown."""
        parser, tail = self._opened()
        if parser is None or tail is None:
            return False
        grew = False
        while block := tail.block():
            grew = True
            await self._commit(parser.push(block))
        if chunk := parser.flush():
            await self._commit([chunk])
        return grew

    def _opened(self) -> tuple[Parser | None, Tail | None]:
        """Return what reads on; nothing while it cannot be known how a last line without a line break goes on."""
        if self._parser is None:
            if not self._source.holds(self.position):
                raise Cut
            if self._is_last_line_open():
                return None, None
            start, name = after_last_line(self._source, self.position), self._name
            before = self._source.blocks_before(start.offset)
            reading = reading_so_far(before, self._feeding, name) if start.offset else None
            self._parser = Parser(self._feeding, name, start=start, reading=reading)
            self._tail = Tail(self._source, start.offset, 2 * self._feeding.max_line_bytes)
        return self._parser, self._tail

    def _is_last_line_open(self) -> bool:
        """An earlier run without `follow` took a last line without a line break, and no more of it is known."""
        offset = self.position.offset
        if offset == 0 or self._source.at(offset - 1, 1) == b"\n":
            return False
        return self._source.at(offset, 2) in (b"", b"\r")

    async def _commit(self, chunks: Iterable[Chunk]) -> None:
        for chunk in chunks:
            position = self._proven(chunk.position)
            added = await self._store.add(self._number, replace(chunk, position=position))
            self.position = position
            self._counts.add(chunk, added)
            self._on_chunk(chunk, added)
            await asyncio.sleep(0)

    def _proven(self, position: Position) -> Position:
        if self._tail is None:
            return position
        return replace(position, fingerprint=self._tail.fingerprint(position.offset))

    async def _pause(self, grew: bool) -> None:
        """Wait until it is worth polling again, and tell from time to time what was held back."""
        self._polls += 1
        self._still = 0 if grew else self._still + 1
        if self._polls % TELL_POLLS == 0:
            self._counts.tell_folded()
        if self._still == TELL_POLLS and self._parser is not None and self._parser.is_within_line:
            log.warning("source.line_unfinished", source=self._name, line=self.position.line + 1)
        await asyncio.sleep(POLL_S)
