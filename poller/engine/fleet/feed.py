"""What a member's sources store: under names of their own, and again after the member was buried."""

from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

from poller.core.fleet import Fenced
from poller.core.model import Added, Chunk, Position
from poller.core.protocols import FeedStore
from poller.core.sums import SourceSums
from poller.engine.fleet.member import FleetMember

T = TypeVar("T")


class MemberFeed:
    """A `FeedStore` whose sources are named `REPLICA:NAME`: positions of two machines' files never meet.

    What a buried member could not store is stored once it has joined again. Where the server lost only the answer, the
    lines count twice, as duplicates: the ledger balances.
    """

    def __init__(self, store: FeedStore, member: FleetMember) -> None:
        self._store = store
        self._member = member

    async def open_source(self, name: str) -> tuple[int, Position] | None:
        return await self._store.open_source(self._own(name))

    async def new_source(self, name: str, fingerprint: str = "") -> int:
        return await self._as_member(lambda: self._store.new_source(self._own(name), fingerprint))

    async def was_read(self, position: Position) -> bool:
        return await self._store.was_read(position)

    async def add(self, source: int, chunk: Chunk) -> Added:
        return await self._as_member(lambda: self._store.add(source, chunk))

    async def sources(self) -> Sequence[SourceSums]:
        return await self._store.sources()

    def _own(self, name: str) -> str:
        return f"{self._member.name}:{name}"

    async def _as_member(self, write: Callable[[], Awaitable[T]]) -> T:
        while True:
            await self._member.until_member()
            try:
                return await write()
            except Fenced as error:
                self._member.note_fenced(error)
