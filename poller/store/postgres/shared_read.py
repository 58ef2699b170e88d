"""One read for all that ask at the same time: of many lanes, several find nothing due while one asks when work is."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

T = TypeVar("T")


@dataclass(slots=True)
class _Round(Generic[T]):
    """One read, and those that share it."""

    names: set[str] = field(default_factory=set)
    found: Mapping[str, T] | None = None  # None: not read yet


class SharedRead(Generic[T]):
    """Answers by name. Those that ask while a read is under way share the next one, which begins after they asked."""

    def __init__(self, read: Callable[[Sequence[str]], Awaitable[Mapping[str, T]]]) -> None:
        """`read` returns what it found, by name. What it raises is raised to one of those that share the read; the next
        one of them reads again."""
        self._read = read
        self._next = _Round[T]()
        self._reading = asyncio.Lock()

    async def of(self, name: str) -> T | None:
        """Return what a read that begins from now on finds for `name`; None where it finds nothing."""
        mine = self._next
        mine.names.add(name)
        async with self._reading:
            await asyncio.sleep(0)  # what is awake by now asks, too
            if mine.found is None:
                if self._next is mine:
                    self._next = _Round()
                mine.found = await self._read(sorted(mine.names))
            return mine.found.get(name)
