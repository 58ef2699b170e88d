"""A fleet whose server goes away, freezes, loses commits, or waits for a member that is frozen."""

import asyncio
import os
from collections.abc import Mapping, MutableMapping
from itertools import count
from typing import Any, Literal

import psycopg
import pytest

from poller.core.accounts import AccountState
from poller.core.fleet import Beat, Fenced
from poller.core.model import Chunk, FedRow, Position
from poller.core.protocols import Clock
from poller.core.starts import Begin, StartAgain
from poller.engine.fleet.feed import MemberFeed
from poller.engine.fleet.member import FleetMember
from poller.engine.fleet.times import BeatTimes
from poller.engine.fleet.trust import Trust
from poller.reports.ledger import imbalances
from poller.store.postgres.connection import connect
from poller.store.postgres.dsn import NOT_EVERYWHERE, Dsn
from poller.store.postgres.fleet.store import FleetStore
from tests.support.fleet_members import ACCOUNTS, Open, bury, give, hold_commits, see, take
from tests.support.postgres import session_of
from tests.support.store_makers import chunk_of, feed, finished, ids
from tests.support.virtual import EPOCH
from tests.support.wire import Wire

Events = list[MutableMapping[str, Any]]


@pytest.fixture
async def wired(wire: Wire, postgres_url: str, open_member: Open) -> FleetStore:
    """Return a member whose connections are the wire."""
    return await open_member("wired", url=wire.url(postgres_url))


@pytest.mark.parametrize("loses", ["commit", "answer"])
async def test_a_members_commit_whose_answer_is_lost_counts_once(
    wire: Wire, wired: FleetStore, loses: Literal["commit", "answer"]
) -> None:
    await wired.fleet.want_sinks(["file"])
    wire.loses = loses
    assert set(await take(wired, "one")) == {"one"}
    wire.loses = loses
    await feed(wired, "a", "b", account="one")
    a, _ = await wired.claim("one", 2)
    wire.loses = loses
    assert ids([each.task for each in await wired.record([finished(a)])]) == ["a"]
    source = await wired.new_source("more.txt")
    wire.loses = loses
    assert (await wired.add(source, chunk_of("a", "c", account="one"))).tasks == 1
    sums = await wired.sums()
    assert (sums.finished, sums.waiting, sums.polls, imbalances(sums)) == (1, 2, 1, [])
    assert await wired.fleet.counts() == {"": (2, 0, 0), "complete": (1, 0, 1)}
    wire.loses = loses
    assert await give(wired, "one", ages=(1.0,))
    assert (await take(wired, "one"))["one"].slot_ages_s == (1.0,)
    assert wire.broke.is_set()


async def test_a_member_that_was_buried_while_the_server_was_out_of_its_reach_joins_again(
    wire: Wire, wired: FleetStore, open_member: Open
) -> None:
    other = await open_member("other")
    await take(wired, "one")
    await feed(wired, "a", account="one")
    (a,) = await wired.claim("one", 1)
    wire.loses = "answer"  # whether it counted is known to the state alone
    recording = asyncio.ensure_future(wired.record([finished(a)]))
    await wire.broke.wait()
    wire.is_cut = True
    await bury(other, wired)
    wire.is_cut = False
    with pytest.raises(Fenced):
        await recording
    assert not await wired.fleet.give("one", 1, slot_ages_s=(), is_clean=True)
    assert await wired.fleet.join(serves=ACCOUNTS, settings={}) is not None
    assert not (await take(other, "one"))["one"].is_clean
    sums = await other.sums()
    assert (sums.finished + sums.waiting, imbalances(sums)) == (1, [])


async def test_a_server_that_lost_commits_fences_who_made_them(
    wire: Wire, wired: FleetStore, database: psycopg.Connection[Any], open_member: Open, events: Events
) -> None:
    """After a failover to a standby that was behind: what the member knows of the state is wrong."""
    other = await open_member("other")
    before = wired.fleet.id
    await take(wired, "one", "two")
    await wired.flush()
    wire.cut()
    database.execute("UPDATE progress SET commits = commits - 2 WHERE replica = %s", (before,))
    wire.is_cut = False
    with pytest.raises(Fenced) as fenced:
        await wired.flush()
    assert fenced.value.lost_commits == 2
    assert [event["commits"] for event in events if event["event"] == "store.commits_lost"] == [2]
    assert (await see(other)).free == {"three", "four"}  # the row is still there
    assert await wired.fleet.join(serves=ACCOUNTS, settings={}) not in (None, before)
    assert (await see(other)).free == set(ACCOUNTS)
    assert not (await take(other, "one"))["one"].is_clean


async def test_starts_that_a_failover_lost_are_stored_again_before_their_account_is_free(
    wire: Wire, wired: FleetStore, database: psycopg.Connection[Any], open_member: Open
) -> None:
    """HubSpot has started what the standby does not know: a second start would go unflagged."""
    other = await open_member("other")
    await take(wired, "one")
    rows = tuple(FedRow(account="one", row=name, body=b"{}", ref=b"{}") for name in "wxyz")
    fed = Chunk(fed=(), rows=rows, rejected=(), blank=0, position=Position())
    await wired.add(await wired.new_source("rows.csv"), fed)
    starts = wired.starts
    _, x, y, z = await starts.claim("one", 9)
    x, y, z = [await starts.intend(row, sent_at=EPOCH, due_at=EPOCH + 600) for row in (x, y, z)]
    assert await starts.settle(y, Begin(task_id="T1"))
    assert await starts.settle(z, StartAgain(at=EPOCH, refusals=0, left=True))
    wire.cut()
    database.execute(
        "UPDATE progress SET commits = commits - 4 WHERE replica = (SELECT id FROM replica WHERE name = 'wired');"
        " DELETE FROM task; UPDATE import_sum SET accepted = 0, refused = 0;"
        " UPDATE import_row SET task = NULL, ref = '{}', starts = 0, lost = 0, first_sent_at = NULL, due_at = fed_at"
    )
    wire.is_cut = False
    with pytest.raises(Fenced):
        await wired.flush()
    assert await wired.fleet.join(serves=ACCOUNTS, settings={}) is not None
    await take(other, "one")
    assert [row.row for row in await other.starts.claim("one", 9)] == ["w", "z"]
    assert ids(await other.claim("one", 9)) == ["T1"]
    sums = await other.sums()
    assert sums.starts is not None
    assert (sums.starts.unsure, sums.starts.accepted, imbalances(sums)) == (1, 1, [])
    stored = database.execute("SELECT starts, first_sent_at FROM import_row WHERE row IN ('x', 'y')").fetchall()
    assert stored == [(1, EPOCH), (1, EPOCH)]


async def test_a_task_id_that_a_failover_lost_is_stored_again_though_its_start_was_not_lost(
    wire: Wire, wired: FleetStore, database: psycopg.Connection[Any], open_member: Open
) -> None:
    """The standby was behind by less than HubSpot took to answer: it knows of the start, not of the task."""
    other = await open_member("other")
    await take(wired, "one")
    fed = Chunk(
        fed=(),
        rows=(FedRow(account="one", row="x", body=b"{}", ref=b"{}"),),
        rejected=(),
        blank=0,
        position=Position(),
    )
    await wired.add(await wired.new_source("rows.csv"), fed)
    (x,) = await wired.starts.claim("one", 9)
    x = await wired.starts.intend(x, sent_at=EPOCH, due_at=EPOCH)
    before = database.execute("SELECT starts, lost, due_at FROM import_row").fetchall()
    assert await wired.starts.settle(x, Begin(task_id="T1"))
    wire.cut()
    database.execute(
        "UPDATE progress SET commits = commits - 1 WHERE replica = (SELECT id FROM replica WHERE name = 'wired');"
        " DELETE FROM task; UPDATE import_sum SET accepted = 0; UPDATE import_row SET task = NULL, ref = '{}', lost = 1"
    )
    assert database.execute("SELECT starts, lost, due_at FROM import_row").fetchall() == before
    wire.is_cut = False
    with pytest.raises(Fenced):
        await wired.flush()
    assert await wired.fleet.join(serves=ACCOUNTS, settings={}) is not None
    await take(other, "one")
    assert await other.starts.claim("one", 9) == []
    assert ids(await other.claim("one", 9)) == ["T1"]
    sums = await other.sums()
    assert sums.starts is not None
    assert (sums.starts.unsure, sums.starts.accepted, imbalances(sums)) == (0, 1, [])


async def test_a_heartbeat_that_gets_no_answer_is_known_in_time(wire: Wire, wired: FleetStore) -> None:
    loop = asyncio.get_running_loop()
    assert await wired.fleet.beat() is Beat.MADE
    wire.flows.clear()
    began = loop.time()
    assert await wired.fleet.beat() is Beat.UNREACHED
    assert loop.time() - began < 3.5
    wire.flows.set()
    assert await wired.fleet.beat() is Beat.MADE
    wire.cut()
    assert await wired.fleet.beat() is Beat.UNREACHED
    wire.is_cut = False
    assert await wired.fleet.beat() is Beat.MADE


async def test_a_heartbeat_whose_new_connection_freezes_while_it_is_set_up_is_known_in_time(
    wire: Wire, wired: FleetStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def frozen(dsn: Dsn, changed: Mapping[str, str]) -> Any:
        connection = await connect(dsn, changed)
        wire.flows.clear()
        return connection

    loop = asyncio.get_running_loop()
    began = loop.time()
    with monkeypatch.context() as freezing:
        freezing.setattr("poller.store.postgres.fleet.heart.connect", frozen)
        assert await wired.fleet.beat() is Beat.UNREACHED
    assert loop.time() - began < 3.5
    wire.flows.set()
    assert await wired.fleet.beat() is Beat.MADE


async def test_after_a_broken_connection_all_accounts_may_have_been_fed(
    wire: Wire, wired: FleetStore, open_member: Open
) -> None:
    other = await open_member("other")
    await take(wired, "one", "two")
    await take(other, "three")
    for store in (wired, other, wired):
        assert await store.fleet.beat() is Beat.MADE
    assert wired.fleet.hints().fed == {"one", "two"}  # with its first connection
    assert await wired.fleet.beat() is Beat.MADE
    assert wired.fleet.hints().fed == frozenset()
    wire.cut()
    await feed(other, "x", account="one")
    assert await other.fleet.beat() is Beat.MADE  # its hint reaches no one
    wire.is_cut = False
    assert [await wired.fleet.beat() for _ in range(2)] == [Beat.UNREACHED, Beat.MADE]
    assert wired.fleet.hints().fed == {"one", "two"}
    await feed(wired, "y", account="three")
    wire.cut()
    assert await wired.fleet.beat() is Beat.UNREACHED
    wire.is_cut = False
    assert [await store.fleet.beat() for store in (wired, other)] == [Beat.MADE, Beat.MADE]
    assert other.fleet.hints().fed == {"three"}  # sent once more


async def test_a_heartbeat_over_a_socket_that_the_system_closed_is_no_defect(
    wired: FleetStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fails(*_: object) -> Beat:
        raise OSError(9, "Bad file descriptor")

    with monkeypatch.context() as broken:
        broken.setattr(wired._heart, "_send", fails)
        assert await wired.fleet.beat() is Beat.UNREACHED
    assert await wired.fleet.beat() is Beat.MADE


@pytest.mark.real_time
@pytest.mark.parametrize("is_in_mid_message", [False, True])
async def test_a_member_that_is_frozen_in_a_transaction_holds_others_up_for_a_moment_only(
    open_member: Open, monkeypatch: pytest.MonkeyPatch, is_in_mid_message: bool
) -> None:
    monkeypatch.setattr("poller.store.postgres.fleet.state_lock.IDLE_S", 0.2)
    frozen, other = await open_member("frozen"), await open_member("other")
    await take(frozen, "one")
    began, thaws = hold_commits(frozen, monkeypatch)
    flushing = asyncio.ensure_future(frozen.flush())
    await began.wait()
    if is_in_mid_message and (session := frozen._writer._connection) is not None:
        os.write(session.fileno(), b"H\0\0\0\4")  # Flush: until its end, the server has no time limit for the client
    (seen, _) = (await see(other)).members
    buried: list[int] = []
    for _ in range(100):
        if buried := await other.fleet.bury({seen.id: seen.beats}):
            break
        await asyncio.sleep(0.02)
    thaws.set()
    assert buried == [frozen.fleet.id]
    with pytest.raises(Fenced):
        await flushing


async def test_the_order_of_records_waits_for_no_client(
    wire: Wire, wired: FleetStore, open_member: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All that needs the lock is one message: what is frozen between it and the server holds up no one."""
    other = await open_member("other")
    for store, account in ((wired, "one"), (other, "two")):
        await take(store, account)
        await feed(store, "x", account=account)
    (x,), (y,) = await wired.claim("one", 1), await other.claim("two", 1)
    at_commit = asyncio.Event()
    commit = wired._writer._commit

    async def freeze(connection: Any) -> None:
        wire.flows.clear()
        at_commit.set()
        await commit(connection)

    monkeypatch.setattr(wired._writer, "_commit", freeze)
    frozen = asyncio.ensure_future(wired.record([finished(x)]))
    await at_commit.wait()
    async with asyncio.timeout(2):
        await other.record([finished(y)])
    wire.flows.set()
    await frozen
    assert [record.account for record in await other.records(0, 9)] == ["two", "one"]


async def test_a_source_whose_row_a_failover_lost_is_opened_again_under_its_name(
    open_member: Open, database: psycopg.Connection[Any], clock: Clock
) -> None:
    store = await open_member("r1")
    member = FleetMember(
        store.fleet,
        times=BeatTimes(),
        trust=Trust(5.0, since_boot=clock, wall=clock),
        monotonic=clock,
        serves=ACCOUNTS,
        settings={},
    )
    await store.fleet.leave()
    await member.join()
    source_feed = MemberFeed(store, member)
    source = await source_feed.new_source("http")
    assert (await source_feed.add(source, chunk_of("a", account="one"))).tasks == 1
    database.execute("DELETE FROM source")
    database.execute("DELETE FROM task")
    await store.fleet.leave()
    await member.join()
    assert (await source_feed.add(source, chunk_of("b", "c", account="one"))).tasks == 2
    (sums,) = await store.sources(100)
    assert (sums.name, sums.tasks) == ("r1:http", 2)
    assert imbalances(await store.sums()) == []


@pytest.mark.real_time
async def test_a_writer_that_another_programs_lock_holds_up_for_long_leaves_no_session_waiting_for_each_try(
    open_member: Open, database: psycopg.Connection[Any], postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sessions that wait on pile up, until the server has no connection left for anybody."""
    connections, many = count(1), asyncio.Event()

    async def connect_and_count(dsn: Dsn) -> Any:
        if next(connections) == 3:  # each for a try after one that got no answer
            many.set()
        return await connect(dsn)

    (name, _, condition), *others = NOT_EVERYWHERE
    monkeypatch.setattr("poller.store.postgres.dsn.NOT_EVERYWHERE", [(name, "20ms", condition), *others])
    store = await open_member("a")
    await take(store, "one")
    monkeypatch.setattr("poller.store.postgres.group_commit.connect", connect_and_count)
    monkeypatch.setattr("poller.store.postgres.group_commit.ANSWER_WITHIN_S", 0.05)  # doubled with each try
    monkeypatch.setattr("poller.store.postgres.connection.SILENT_AFTER_S", 0.05)
    monkeypatch.setattr("poller.store.postgres.group_commit.RETRY_S", 0.02)
    with session_of(postgres_url, autocommit=False) as locker:
        locker.execute("LOCK TABLE account IN ACCESS EXCLUSIVE MODE")
        store.save_account("one", AccountState(active_at=1.0))
        flushing = asyncio.ensure_future(store.flush())
        await blocked_for_tables(database, at_least=1)
        async with asyncio.timeout(60):
            await many.wait()
        waiting = await blocked_for_tables(database, at_most=2)
    await flushing
    assert waiting <= 2
    assert (await store.account("one")).active_at == 1.0


async def blocked_for_tables(database: psycopg.Connection[Any], *, at_least: int = 0, at_most: int = 99) -> int:
    """Return how many sessions wait for a lock, once there are so many."""
    query = (
        "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
        " AND application_name LIKE 'poller a %'"
    )
    for _ in range(6000):
        ((waiting,),) = database.execute(query.encode()).fetchall()
        if at_least <= waiting <= at_most:
            return int(waiting)
        await asyncio.sleep(0.005)
    raise TimeoutError(f"{waiting} sessions wait for a lock")


@pytest.mark.real_time
async def test_a_program_that_locks_a_table_is_named_in_the_log_and_to_probes_with_what_ends_it(
    open_member: Open, postgres_url: str, monkeypatch: pytest.MonkeyPatch, events: Events
) -> None:
    monkeypatch.setattr("poller.store.postgres.connection.SILENT_AFTER_S", 0.05)
    monkeypatch.setattr("poller.store.postgres.lock.ASKED_WITHIN_S", 30.0)  # asked only once in a try
    monkeypatch.setattr("poller.store.postgres.fleet.store.BEAT_WITHIN_S", 30.0)
    monkeypatch.setattr("poller.store.postgres.fleet.heart.LOCK_SHARE", 0.02)  # 0.6 s: all the rest is for the answer
    store = await open_member("a")
    await take(store, "one")
    with session_of(postgres_url, autocommit=False, name="psql") as locker:
        locker.execute("LOCK TABLE account IN ACCESS EXCLUSIVE MODE")
        pid = locker.info.backend_pid
        store.save_account("one", AccountState(active_at=1.0))
        flushing = asyncio.ensure_future(store.flush())
        assert await store.fleet.beat() is Beat.UNREACHED
        async with asyncio.timeout(60):
            while not (locked := [each for each in events if each["event"] == "store.locked"]):  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        reason = store.unwritable_reason
    await flushing
    words = f"table account is locked by process {pid} of the server (psql). "
    assert [event["reason"].startswith(words) for event in locked] == [True]
    assert reason == locked[0]["reason"]
    assert store.fleet.unheard_reason == reason
