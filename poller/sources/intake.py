"""How a source is ended between two chunks, never within one."""

import asyncio

from poller.core.model import Added, Chunk, Position
from poller.core.protocols import FeedStore


class Valve(FeedStore):
    """One source's way into the store. While it is `shut`, nothing is being stored and nothing will be: whoever is
    cancelled then knows of every chunk what became of it."""

    def __init__(self, store: FeedStore) -> None:
        self._store = store
        self.shut = asyncio.Lock()

    async def open_source(self, name: str) -> tuple[int, Position] | None:
        return await self._store.open_source(name)

    async def new_source(self, name: str, fingerprint: str = "") -> int:
        async with self.shut:
            return await self._store.new_source(name, fingerprint)

    async def add(self, source: int, chunk: Chunk) -> Added:
        async with self.shut:
            return await self._store.add(source, chunk)

    async def was_read(self, position: Position) -> bool:
        return await self._store.was_read(position)
