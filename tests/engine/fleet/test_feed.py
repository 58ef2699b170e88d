"""What a member's sources see of the state: their own rows, under their own names."""

import asyncio
from pathlib import Path
from types import SimpleNamespace
from typing import cast

from poller.core.model import Position
from poller.core.protocols import Clock
from poller.engine.fleet.feed import MemberFeed
from poller.engine.fleet.member import FleetMember
from poller.engine.ingest import Ingest
from poller.sources import ReadOptions, Source
from poller.store import open_store
from tests.support.store_makers import chunk_of

READ = ReadOptions(accounts=frozenset({"main"}), default_account="main")


async def at_once() -> None:
    """It is a member."""


def member(name: str) -> FleetMember:
    stub = SimpleNamespace(name=name, until_member=at_once, membership=SimpleNamespace(id=1))
    return cast("FleetMember", stub)


async def test_a_member_sees_its_own_sources_alone(clock: Clock) -> None:
    store = await open_store("sqlite:///:memory:", clock=clock)
    one, two = MemberFeed(store, member("one")), MemberFeed(store, member("two"))
    for feed, ids in ((one, ["a", "b"]), (two, ["c"])):
        await feed.add(await feed.new_source("/in/ids.txt"), chunk_of(*ids))
    found = [await feed.source("/in/ids.txt") for feed in (one, two)]
    assert [(sums.name, sums.tasks) for sums in found if sums is not None] == [("/in/ids.txt", 2), ("/in/ids.txt", 1)]
    assert await one.source("/in/other.txt") is None
    await store.close()


async def test_a_dropped_csv_with_a_header_is_read_and_moved_by_a_member(clock: Clock, tmp_path: Path) -> None:
    """Its lines are more than its ids: the sums of the source decide where it goes."""
    store = await open_store("sqlite:///:memory:", clock=clock)
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "ids.csv").write_text("task_id\nA1\n\nA2\n")
    source = Source(kind="folder", location=str(folder), options=READ)
    ended: list[bool] = []
    ingest = Ingest(
        MemberFeed(store, member("one")),
        [source],
        clock=clock,
        stdin=0,
        tolerant=False,
        on_chunk=lambda _chunk, _added: None,
        on_ended=lambda: ended.append(True),
    )

    async with asyncio.TaskGroup() as group:
        ingest.start(group)
    assert (ended, sorted(path.name for path in (folder / "done").iterdir())) == ([True], ["ids.csv"])
    known = await store.open_source(f"one:{folder}/ids.csv")
    assert known is not None
    assert isinstance(known[1], Position)
    await store.close()
