"""What a source may do with the store, and how a source is cancelled between two chunks, never within one."""

import asyncio
from collections.abc import Callable
from typing import Protocol

from poller.core.model import Added, Chunk, Position

OnChunk = Callable[[Chunk, Added], None]  # called after each commit


class Intake(Protocol):
    """The part of the store that sources use; `Store` defines the contracts."""

    async def open_source(self, name: str) -> tuple[int, Position] | None: ...

    async def new_source(self, name: str, fingerprint: str = "") -> int: ...

    async def add(self, source: int, chunk: Chunk) -> Added: ...

    async def was_read(self, position: Position) -> bool: ...


class ChunkWriter:
    """One source's way into the store. Hold `lock` to cancel the source: no write is then under way, and the source
    knows whether each chunk was stored."""

    def __init__(self, store: Intake, on_chunk: OnChunk) -> None:
        self._store = store
        self._on_chunk = on_chunk
        self.lock = asyncio.Lock()
        self.open_source = store.open_source
        self.was_read = store.was_read

    async def new_source(self, name: str, fingerprint: str = "") -> int:
        async with self.lock:
            return await self._store.new_source(name, fingerprint)

    async def add(self, source: int, chunk: Chunk) -> Added:
        async with self.lock:
            added = await self._store.add(source, chunk)
        self._on_chunk(chunk, added)
        return added
