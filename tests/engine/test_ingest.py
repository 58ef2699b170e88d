"""Sources that are left off and read again: what a member of a fleet does once it was buried."""

import asyncio
from pathlib import Path

from poller.core.model import Position
from poller.core.protocols import Clock, FeedStore
from poller.engine.ingest import Ingest
from poller.sources import ReadOptions, Source
from poller.store import SqliteStore, open_store


class DeafStore:
    """A state whose reads swallow the first cancellation, as psycopg's pool may do."""

    def __init__(self, store: SqliteStore) -> None:
        self._store = store
        self.is_deaf = True
        self.new_source, self.was_read = store.new_source, store.was_read
        self.add, self.source = store.add, store.source
        self.has_failed, self.count_failed = store.has_failed, store.count_failed

    async def open_source(self, name: str) -> tuple[int, Position] | None:
        while self.is_deaf:
            try:
                await asyncio.sleep(3600)
            except asyncio.CancelledError:
                self.is_deaf = False
                await asyncio.sleep(3600)
        return await self._store.open_source(name)


def ingest_of(store: FeedStore, source: Source, clock: Clock, ended: list[bool]) -> Ingest:
    return Ingest(
        store,
        [source],
        clock=clock,
        stdin=0,
        tolerant=True,
        on_chunk=lambda _chunk, _added: None,
        on_ended=lambda: ended.append(True),
    )


async def test_the_removal_of_the_last_source_ends_the_input_also_where_it_does_not_hear_its_end(
    tmp_path: Path, clock: Clock
) -> None:
    store = await open_store("sqlite:///:memory:", clock=clock)
    assert isinstance(store, SqliteStore)
    (tmp_path / "ids.txt").write_text("AAAA1\nAAAA2\n")
    options = ReadOptions(accounts=frozenset({"main"}), default_account="main")
    source = Source(kind="file", location=str(tmp_path / "ids.txt"), options=options)
    ended: list[bool] = []
    ingest = ingest_of(DeafStore(store), source, clock, ended)
    async with asyncio.TaskGroup() as group:
        ingest.start(group)
        await asyncio.sleep(1)
        async with asyncio.timeout(10):
            await ingest.change([])
        assert (ingest.ended, ended) == (True, [True])
    await store.close()


async def test_a_source_that_does_not_hear_its_end_at_once_is_left_off_and_read_again(
    tmp_path: Path, clock: Clock
) -> None:
    store = await open_store("sqlite:///:memory:", clock=clock)
    assert isinstance(store, SqliteStore)
    file = tmp_path / "ids.txt"
    file.write_text("AAAA1\nAAAA2\n")
    options = ReadOptions(accounts=frozenset({"main"}), default_account="main")
    source = Source(kind="file", location=str(file), options=options)
    deaf = DeafStore(store)
    ended: list[bool] = []
    ingest = ingest_of(deaf, source, clock, ended)
    async with asyncio.TaskGroup() as group:
        ingest.start(group)
        await asyncio.sleep(1)
        async with asyncio.timeout(10):
            await ingest.leave_off()
        assert (ingest.ended, ended) == (False, [])
        ingest.read_again()
    assert (ingest.ended, ended) == (True, [True])
    assert [sums.tasks for sums in await store.sources(100)] == [2]
    await store.close()
