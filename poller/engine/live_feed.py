"""Feeds a run at work, beside its input: lines of requests or of a program, as one source of the ledger."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import replace

from poller.core.model import Added, Chunk, Position
from poller.core.protocols import FeedStore
from poller.engine.service import Service


class LiveFeed:
    """Stores chunks; the lines of a source are numbered on over all runs."""

    def __init__(self, service: Service, store: FeedStore, source: str) -> None:
        self._service = service
        self._store = store
        self._source = source
        self._opening = asyncio.Lock()
        self._number: int | None = None  # the store's own
        self._line = 0  # the last line number in use

    async def add(self, chunks: Sequence[Chunk], on_stored: Callable[[Chunk, Added], None]) -> Exception | None:
        """Store the chunks. Return the error that prevents the rest from being stored: raised in a task of the run, it
        would end the run."""
        with self._service.feeding() as count:
            try:
                number = await self._open()
                before, self._line = self._line, self._line + chunks[-1].position.line
                for chunk in chunks:
                    added = await self._store.add(number, _renumbered(chunk, before))
                    count(chunk, added)
                    on_stored(chunk, added)
            except Exception as error:  # noqa: BLE001 - the caller raises it
                return error
        return None

    async def _open(self) -> int:
        async with self._opening:
            if self._number is None:
                known = await self._store.open_source(self._source)
                self._number, position = known or (await self._store.new_source(self._source), Position())
                self._line = position.line
            return self._number


def _renumbered(chunk: Chunk, before: int) -> Chunk:
    """Return the chunk with its line numbers continued after `before`."""
    rejected = tuple(replace(each, line=before + each.line) for each in chunk.rejected)
    return replace(chunk, rejected=rejected, position=Position(line=before + chunk.position.line))
