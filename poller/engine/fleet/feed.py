"""What a member's sources store: under names of their own, and again after the member was buried."""

from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import NamedTuple, TypeVar

from poller.core.fleet import Fenced
from poller.core.model import Added, Chunk, Failed, Position
from poller.core.protocols import FeedStore
from poller.core.sums import SourceSums
from poller.engine.fleet.member import FleetMember

T = TypeVar("T")


class _OpenSource(NamedTuple):
    name: str
    number: int
    member: int | None  # the id of the membership in which it was opened


class MemberFeed:
    """A `FeedStore` whose sources are named `REPLICA:NAME`: positions of two machines' files never meet.

    Files are read on from where the state has them, once a buried member has joined again; see `Ingest.leave_off`. What
    a stream could not store is stored then: where the server lost only the answer, its lines count twice, as
    duplicates, and the ledger balances.
    """

    def __init__(self, store: FeedStore, member: FleetMember) -> None:
        self._store = store
        self._member = member
        self._sources: dict[int, _OpenSource] = {}  # by the number under which each was opened first

    async def open_source(self, name: str) -> tuple[int, Position] | None:
        if (found := await self._store.open_source(self._own(name))) is not None:
            self._sources[found[0]] = self._opened(self._own(name), found[0])
        return found

    async def new_source(self, name: str, fingerprint: str = "", digest: str = "") -> int:
        number = await self._as_member(lambda: self._store.new_source(self._own(name), fingerprint, digest))
        self._sources[number] = self._opened(self._own(name), number)
        return number

    async def was_read(self, position: Position) -> bool:
        return await self._store.was_read(position)

    async def add(self, source: int, chunk: Chunk) -> Added:
        return await self._as_member(lambda: self._add(source, chunk))

    async def _add(self, source: int, chunk: Chunk) -> Added:
        """Where this process joined again, a failover may have lost the source's row, and its number be another's."""
        opened = self._sources[source]
        if opened.member != self._member.membership.id:
            known = await self._store.open_source(opened.name)
            number = known[0] if known is not None else await self._store.new_source(opened.name)
            opened = self._sources[source] = self._opened(opened.name, number)
        return await self._store.add(opened.number, chunk)

    def _opened(self, name: str, number: int) -> _OpenSource:
        return _OpenSource(name, number, self._member.membership.id)

    async def source(self, name: str) -> SourceSums | None:
        """As of any store, but of this member's own sources, by the names that they have for it."""
        sums = await self._store.source(self._own(name))
        return None if sums is None else replace(sums, name=name)

    async def has_failed(self) -> bool:
        return await self._store.has_failed()

    async def count_failed(self, chunk: Chunk) -> Failed:
        return await self._store.count_failed(chunk)

    def _own(self, name: str) -> str:
        return f"{self._member.name}:{name}"

    async def _as_member(self, write: Callable[[], Awaitable[T]]) -> T:
        while True:
            await self._member.until_member()
            try:
                return await write()
            except Fenced as error:
                self._member.note_fenced(error)
