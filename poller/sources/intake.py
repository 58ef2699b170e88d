"""Writes a source's chunks to the store; a source is cancelled between two chunks, never within one."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from poller.core.model import Added, Chunk
from poller.core.protocols import FeedStore
from poller.sources.counts import UnchangedLines
from poller.sources.options import ReadOptions

OnUnchanged = Callable[[UnchangedLines], None]
OnChunk = Callable[[Chunk, Added], None]  # called after each commit
OnRefused = Callable[[str], Awaitable[None]]  # called with the identity of each input that was refused as a whole


async def _ignore(_what: str) -> None:
    pass


class SharedLock:
    """A lock that many hold at once by `shared()`, or one alone by `async with`: that one waits for all others, and who
    comes after it waits for it."""

    def __init__(self) -> None:
        self._alone = asyncio.Lock()
        self._unused = asyncio.Event()
        self._unused.set()
        self._holders = 0

    @asynccontextmanager
    async def shared(self) -> AsyncIterator[None]:
        """Hold it beside others."""
        async with self._alone:
            self._holders += 1
            self._unused.clear()
        try:
            yield
        finally:
            self._holders -= 1
            if self._holders == 0:
                self._unused.set()

    async def __aenter__(self) -> None:
        await self._alone.acquire()
        try:
            await self._unused.wait()
        except BaseException:
            self._alone.release()
            raise

    async def __aexit__(self, *_: object) -> None:
        self._alone.release()


class ChunkWriter:
    """One source's way into the store. Hold `lock` to cancel the source: no write is then under way, and the source
    knows whether each chunk was stored. The files of a followed pattern write side by side, into one commit."""

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
        self.latest_options: ReadOptions | None = None  # of a stream that is read on after a reload
        self.lock = SharedLock()
        self.open_source = store.open_source
        self.was_read = store.was_read
        self.source = store.source
        self.has_failed = store.has_failed
        self.count_failed = store.count_failed

    async def new_source(self, name: str, fingerprint: str = "", digest: str = "") -> int:
        async with self.lock.shared():
            return await self._store.new_source(name, fingerprint, digest)

    async def add(self, source: int, chunk: Chunk) -> Added:
        async with self.lock.shared():
            added = await self._store.add(source, chunk)
        self._on_chunk(chunk, added)
        return added
