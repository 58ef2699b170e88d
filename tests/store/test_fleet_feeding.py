"""Members that are fed the same ids at the same time wait for each other in one direction only."""

import asyncio
from collections.abc import MutableMapping
from typing import Any

import psycopg

from poller.core.model import Chunk, FedRow, Kind, Position, Record
from poller.reports.ledger import imbalances
from tests.support.fleet_members import Open, blocked, held, hold, take
from tests.support.store_makers import chunk_of, ids
from tests.support.virtual import EPOCH

Events = list[MutableMapping[str, Any]]


def refused_commits(events: Events) -> list[Any]:
    """Return why commits were tried again: for deadlocks, among others."""
    return [event["reason"] for event in events if event["event"] == "store.unwritable"]


async def test_members_that_feed_the_same_ids_in_opposite_order_do_not_deadlock(
    open_member: Open, database: psycopg.Connection[Any], events: Events
) -> None:
    a, b = await open_member("a"), await open_member("b")
    await take(a, "one")
    sources = await a.new_source("ids.txt"), await b.new_source("ids.txt")
    hold(database, "INSERT", "task", "NEW.task_id = 'm'")
    with held(database):
        first = asyncio.ensure_future(a.add(sources[0], chunk_of("m", "a", "z", account="one")))
        await blocked(database, 1)
        second = asyncio.ensure_future(b.add(sources[1], chunk_of("z", "m", "a", account="one")))
        await blocked(database, 2, for_rows=True)
    assert ((await first).tasks, (await second).tasks) == (3, 0)
    assert refused_commits(events) == []
    assert ids(await a.claim("one", 9)) == ["m", "a", "z"]  # in the order of the lines


async def test_the_chunks_of_a_commit_are_inserted_as_one(
    open_member: Open, database: psycopg.Connection[Any], events: Events
) -> None:
    """Requests with the same ids, at two members, several at a time."""
    a, b = await open_member("a"), await open_member("b")
    await take(a, "one", "two")
    sources = await a.new_source("ids.txt"), await b.new_source("ids.txt")
    hold(database, "INSERT", "task", "NEW.task_id = 'm'")
    with held(database):
        first = [asyncio.ensure_future(a.add(sources[0], chunk_of(*each, account="one"))) for each in ("z", "ma", "zb")]
        first += [asyncio.ensure_future(a.add(sources[0], chunk_of("a", account="two")))]
        await blocked(database, 1)
        second = [asyncio.ensure_future(b.add(sources[1], chunk_of("a", account="two")))]
        second += [asyncio.ensure_future(b.add(sources[1], chunk_of(*each, account="one"))) for each in ("m", "az")]
        await blocked(database, 2, for_rows=True)
    added = await asyncio.gather(*first, *second)
    assert [each.tasks for each in added] == [1, 2, 1, 1, 0, 0, 0]
    assert [each.duplicates for each in added] == [0, 0, 1, 0, 1, 1, 2]
    assert refused_commits(events) == []
    assert ids(await a.claim("one", 9)) == ["z", "m", "a", "b"]
    sums = await b.sums()
    assert (sums.waiting, imbalances(sums)) == (5, [])
    assert await b.fleet.counts() == {"": (5, 0, 0)}


def chunk_of_rows(*names: str) -> Chunk:
    rows = tuple(FedRow(account="one", row=name, body=b"{}", ref=b"{}") for name in names)
    return Chunk(fed=(), rows=rows, rejected=(), blank=0, position=Position(offset=1, line=len(rows)))


async def test_a_failed_row_that_two_members_are_fed_at_the_same_time_is_one_attempt(
    open_member: Open, database: psycopg.Connection[Any], events: Events
) -> None:
    a, b = await open_member("a"), await open_member("b")
    await take(a, "one")
    sources = await a.new_source("rows.csv"), await b.new_source("rows.csv")
    await a.add(sources[0], chunk_of_rows("x"))
    (x,) = await a.starts.claim("one", 1)
    failed = Record(
        body=b"{}", kind=Kind.NOT_STARTED, landed=False, reason="no", seen_at=EPOCH, account="one", task_id=""
    )
    await a.starts.end_unsent(x, failed)
    hold(database, "INSERT", "import_row", "NEW.row = 'x~2'")
    with held(database):
        first = asyncio.ensure_future(a.add(sources[0], chunk_of_rows("x")))
        await blocked(database, 1)
        second = asyncio.ensure_future(b.add(sources[1], chunk_of_rows("x")))
        await blocked(database, 2, for_rows=True, unless=second)
    assert ((await first).tasks, (await second).tasks) == (1, 0)
    assert [row.row for row in await a.starts.claim("one", 9)] == ["x~2"]
    sums = await b.sums()
    assert (sums.waiting, imbalances(sums)) == (1, [])


async def test_members_that_feed_the_same_rows_in_opposite_order_do_not_deadlock(
    open_member: Open, database: psycopg.Connection[Any], events: Events
) -> None:
    a, b = await open_member("a"), await open_member("b")
    await take(a, "one")
    sources = await a.new_source("rows.csv"), await b.new_source("rows.csv")
    await a.add(sources[0], chunk_of_rows("first"))  # the account's sums are there
    hold(database, "INSERT", "import_row", "NEW.row = 'm'")
    with held(database):
        first = asyncio.ensure_future(a.add(sources[0], chunk_of_rows("m", "a", "z")))
        await blocked(database, 1)
        second = asyncio.ensure_future(b.add(sources[1], chunk_of_rows("z", "m", "a")))
        await blocked(database, 2, for_rows=True)
    assert ((await first).tasks, (await second).tasks) == (3, 0)
    assert refused_commits(events) == []
    assert [row.row for row in await a.starts.claim("one", 9)] == ["first", "m", "a", "z"]  # in the order of the lines
