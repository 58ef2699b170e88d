"""Writes a source's chunks to the store; a source is cancelled between two chunks, never within one."""

import asyncio
from collections.abc import Awaitable, Callable

from poller.core.model import Added, Chunk
from poller.core.protocols import FeedStore
from poller.sources.counts import UnchangedLines

OnUnchanged = Callable[[UnchangedLines], None]
OnChunk = Callable[[Chunk, Added], None]  # called after each commit
OnRefused = Callable[[], Awaitable[None]]  # called for each input that was refused as a whole


async def _ignore() -> None:
    pass


class ChunkWriter:
    """One source's way into the store. Hold `lock` to cancel the source: no write is then under way, and the source
    knows whether each chunk was stored."""

    def __init__(
        self,
        store: FeedStore,
        on_chunk: OnChunk,
        on_unchanged: OnUnchanged = lambda _lines: None,
        on_refused: OnRefused = _ignore,
    ) -> None:
        """`on_unchanged` is called with the lines of each file that was not read, since it is unchanged."""
        self._store = store
        self._on_chunk = on_chunk
        self.on_unchanged = on_unchanged
        self.on_refused = on_refused
        self.lock = asyncio.Lock()
        self.open_source = store.open_source
        self.was_read = store.was_read
        self.source = store.source
        self.has_failed = store.has_failed
        self.count_failed = store.count_failed

    async def new_source(self, name: str, fingerprint: str = "") -> int:
        async with self.lock:
            return await self._store.new_source(name, fingerprint)

    async def add(self, source: int, chunk: Chunk) -> Added:
        async with self.lock:
            added = await self._store.add(source, chunk)
        self._on_chunk(chunk, added)
        return added
