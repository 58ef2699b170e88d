"""Several members on one PostgreSQL state: who owns an account, who may write, and in which order numbers appear."""

import asyncio
import time
from collections.abc import MutableMapping
from typing import Any

import psycopg
import pytest

from poller.core.accounts import AccountState
from poller.core.deliveries import Written
from poller.core.errors import ConfigError, StoreLocked
from poller.core.fleet import Beat, Fenced
from poller.core.protocols import Clock
from poller.store import last_beat, open_store
from tests.support.fleet_members import ACCOUNTS, Open, blocked, bury, give, held, hold, see, take
from tests.support.store_makers import feed, finished, ids, kill, running
from tests.support.virtual import EPOCH

Events = list[MutableMapping[str, Any]]


def value(connection: psycopg.Connection, query: str) -> Any:
    row = connection.execute(query.encode()).fetchone()
    assert row is not None
    return row[0]


# --- who is there ----------------------------------------------------------------------------------------------------


async def test_members_see_each_other_with_what_they_announced(open_member: Open) -> None:
    a, b = await open_member("a"), await open_member("b")
    await b.fleet.announce(serves=["one"], settings={"limit": 20})
    assert [await b.fleet.beat() for _ in range(3)] == [Beat.MADE] * 3
    await a.fleet.set_draining()
    await take(a, "one", "two")
    for store in (a, b):
        view = await see(store)
        first, second = view.members
        assert (view.me, first.id, second.id) == (store.fleet.id, a.fleet.id, b.fleet.id)
        assert (first.name, first.beats, first.is_draining, first.owns) == ("a", 0, True, 2)
        assert (second.name, second.beats, second.is_draining, second.owns) == ("b", 3, False, 0)
        assert (first.serves, first.settings) == (frozenset(ACCOUNTS), {"limit": 10})
        assert (second.serves, second.settings) == (frozenset({"one"}), {"limit": 20})
        assert view.free == {"three", "four"}
    assert (await see(a)).mine == {"one": 1, "two": 1}
    assert (await see(b)).mine == {}


async def test_what_the_last_view_showed_is_read_again_after_each_change(open_member: Open) -> None:
    """An account that is fed for the first time, taken, given, taken by another, or freed by its owner's burial."""
    a, b = await open_member("a"), await open_member("b")
    await see(a)
    await feed(b, "x", account="new")
    assert "new" in (await see(a)).free
    owners: list[tuple[int | None, int | None]] = []
    for change in (take(b, "one"), give(b, "one"), take(a, "one"), give(a, "one"), take(b, "one"), bury(a, b)):
        await change
        assert await a.fleet.beat() is Beat.MADE
        owners.append(((await a.fleet.seen()).owners["one"], (await see(a)).owners["one"]))
    one, other = a.fleet.id, b.fleet.id
    assert owners == [(owner, owner) for owner in (other, None, one, None, other, None)]


async def test_a_heartbeat_sees_what_a_view_shows_and_reads_nothing_more_at_rest(
    open_member: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    a, b = await open_member("a"), await open_member("b")
    for store in (a, b):
        await store.fleet.want_sinks(["hook"], shared=["hook"])
    await a.fleet.take_sinks(["hook"])
    await take(a, "one")
    await feed(b, "x", account="one")
    await a.record([finished(task) for task in await a.claim("one", 1)])
    for store in (b, a):
        assert await store.fleet.beat() is Beat.MADE
    seen, view = await a.fleet.seen(), await see(a)
    assert (seen.owners, seen.sinks, seen.counts) == (view.owners, view.sinks, await b.fleet.counts())
    assert [(each.name, each.serves, each.sinks, each.owns) for each in seen.members] == [
        (each.name, each.serves, each.sinks, each.owns) for each in view.members
    ]
    assert [sink.has_waiting for sink in seen.sinks] == [True]
    assert [sink.has_waiting for sink in (await b.fleet.seen()).sinks] == [False]  # that is for its owner
    monkeypatch.setattr(a._fleet, "_read", _no_read)
    await a.delivered("hook", await a.undelivered("hook", 9), Written(count=1))
    assert await a.fleet.beat() is Beat.MADE
    assert [sink.has_waiting for sink in (await a.fleet.seen()).sinks] == [False]


async def _no_read(*_: object) -> None:
    raise AssertionError("the server was asked")


async def test_a_name_is_used_by_one_member_at_a_time(open_member: Open) -> None:
    a = await open_member("a")
    other = await open_member("a", joins=False)
    assert await other.fleet.join(serves=ACCOUNTS, settings={}) is None
    (seen,) = (await see(other)).members
    assert await a.fleet.beat() is Beat.MADE
    assert await other.fleet.bury({seen.id: seen.beats}) == []  # it has beaten since
    await bury(other, a)
    assert await other.fleet.join(serves=ACCOUNTS, settings={}) is not None
    assert await a.fleet.beat() is Beat.FENCED


async def test_all_that_were_killed_are_buried_by_the_next_that_starts(open_member: Open) -> None:
    """Of its own name and of others; what they owned is free, and unclean."""
    dead = [await open_member(name) for name in ("a", "b")]
    await take(dead[0], "one")
    await give(dead[0], "one")
    await take(dead[1], "one", "two")
    for each in dead:
        await kill(each)
    a = await open_member("a", joins=False)
    assert await a.fleet.join(serves=ACCOUNTS, settings={}) is None
    seen = {member.id: member.beats for member in (await see(a)).members}
    assert sorted(await a.fleet.bury(seen)) == sorted(seen)
    assert await a.fleet.join(serves=ACCOUNTS, settings={}) is not None
    taken = await take(a)
    assert {name: each.is_clean for name, each in taken.items()} == {
        "one": False,
        "two": False,
        "three": True,
        "four": True,
    }
    assert {name: each.epoch for name, each in taken.items()} == {"one": 3, "two": 2, "three": 1, "four": 1}


async def test_a_member_that_leaves_is_gone_at_once_and_can_join_again(open_member: Open) -> None:
    a, b = await open_member("a"), await open_member("b")
    before = a.fleet.id
    await take(a, "one")
    await a.fleet.leave()
    assert a.fleet.id is None
    assert [member.name for member in (await see(b)).members] == ["b"]
    with pytest.raises(Fenced):
        await feed(a, "x", account="one")
    assert await a.fleet.join(serves=ACCOUNTS, settings={}) not in (None, before)
    assert await a.claim("one", 1) == []


async def test_a_single_owner_and_a_fleet_exclude_each_other(
    open_member: Open, postgres_url: str, clock: Clock, database: psycopg.Connection
) -> None:
    single = await open_store(postgres_url, clock=clock)
    await feed(single, "x", account="one")
    with pytest.raises(StoreLocked, match=r"process .* which is in no fleet"):
        await open_member("a")
    await single.close()
    a = await open_member("a")
    with pytest.raises(StoreLocked, match="in use by a fleet: a"):
        await open_store(postgres_url, clock=clock)
    assert not (await take(a, "one"))["one"].is_clean  # the single owner's window is not known
    await give(a, "one")
    await a.close()
    await (await open_store(postgres_url, clock=clock)).close()
    assert value(database, "SELECT count(*) FROM account WHERE freed_at IS NOT NULL") == 0


async def test_a_fleet_needs_postgres(tmp_path: Any, clock: Clock) -> None:
    with pytest.raises(ConfigError, match="a fleet needs a state in PostgreSQL"):
        await open_store(f"sqlite:///{tmp_path}/poller.db", clock=clock, replica="a")


async def test_the_health_check_finds_the_replica_by_its_name(open_member: Open, postgres_url: str) -> None:
    a, _ = await open_member("a"), await open_member("b")
    await a.fleet.beat()
    beat = last_beat(postgres_url, "a")
    assert beat is not None
    assert beat[1] == pytest.approx(time.time(), abs=60)
    assert last_beat(postgres_url, "c") is None


# --- accounts --------------------------------------------------------------------------------------------------------


async def test_an_account_has_one_owner_however_many_take_it_at_once(open_member: Open) -> None:
    stores = [await open_member(name) for name in "abcd"]
    names = [f"account{n}" for n in range(40)]
    await stores[0].fleet.announce(serves=names, settings={})
    for _ in range(5):
        taken = await asyncio.gather(*[store.fleet.take(names, 10) for store in stores])
        owned = [each.account for batch in taken for each in batch]
        assert len(owned) == len(set(owned)) > 0
        for store, batch in zip(stores, taken, strict=True):
            assert set((await see(store)).mine) == {each.account for each in batch}
            for each in batch:
                assert await store.fleet.give(each.account, each.epoch, slot_ages_s=(), is_clean=True)


async def test_nothing_is_taken_from_a_member_that_joined_just_now(
    open_member: Open, postgres_url: str, database: psycopg.Connection[Any]
) -> None:
    """The first version asked whether the owner is a member. After a change of the account in mid-statement that reads
    the new owner, but the members of before: it stole from those that had joined meanwhile."""
    row_by_row = f"{postgres_url}&options=-c%20enable_hashjoin%3Doff%20-c%20enable_mergejoin%3Doff"
    a, c = await open_member("a", url=row_by_row), await open_member("c", joins=False)
    first, *_, last = [name for (name,) in database.execute("SELECT name FROM account")]
    hold(database, "UPDATE", "account", f"NEW.name = '{first}'")
    with held(database):
        taking = asyncio.ensure_future(a.fleet.take([first, last], 99))
        await blocked(database, 1)
        await c.fleet.join(serves=ACCOUNTS, settings={})
        assert set(await take(c, last)) == {last}
    assert [taken.account for taken in await taking] == [first]
    assert set((await see(c)).mine) == {last}


async def test_slots_are_handed_over_with_an_account(open_member: Open) -> None:
    a, b = await open_member("a"), await open_member("b")
    await take(a, "one", "two")
    assert await give(a, "one", ages=(0.5, 9.0))
    assert await give(a, "two", is_clean=False, ages=(0.5,))
    assert not await a.fleet.give("one", 1, slot_ages_s=(), is_clean=True)  # a second time
    taken = await take(b)
    assert (taken["one"].is_clean, taken["one"].slot_ages_s) == (True, (0.5, 9.0))
    assert taken["one"].freed_ago_s is not None
    assert 0 <= taken["one"].freed_ago_s < 60
    assert (taken["two"].is_clean, taken["two"].freed_ago_s) == (False, None)  # its wait is not forgotten
    await give(b, "one")
    assert (await take(a, "one"))["one"].slot_ages_s == ()


async def test_what_was_noted_of_an_account_is_there_for_its_next_owner(open_member: Open) -> None:
    a, b = await open_member("a"), await open_member("b")
    await take(a, "one")
    state = AccountState(active_at=EPOCH, paused_s=7.0, day="2026-01-05", day_requests=12)
    a.save_account("one", state)
    a.save_knowledge("one/timing", b"much")
    await give(a, "one")
    await take(b, "one")
    assert await b.account("one") == state
    assert await b.knowledge("one/timing") == b"much"
    a.save_account("one", AccountState(paused_s=99.0))  # its lane was late
    await a.flush()
    assert (await b.account("one")).paused_s == 7.0


async def test_the_next_owners_clock_moves_instants_that_are_ahead(open_member: Open, clock: Clock) -> None:
    ahead, behind = await open_member("ahead", clock=lambda: clock() + 3600), await open_member("behind")
    await take(ahead, "one")
    await feed(ahead, "x", account="one")
    (x,) = await ahead.claim("one", 1)
    await ahead.record([running(x, clock() + 3600 + 30)])
    ahead.save_account("one", AccountState(active_at=clock() + 3600))
    await give(ahead, "one")
    taken = await take(behind, "one")
    assert taken["one"].moved_s == pytest.approx(3600, abs=60)
    due_at = await behind.next_due_at("one")
    assert due_at == pytest.approx(clock() + 30, abs=60)


# --- at rest ---------------------------------------------------------------------------------------------------------


async def test_a_lane_that_sends_nothing_is_saved_twice_a_minute_and_one_that_does_at_once(
    open_member: Open, database: psycopg.Connection, clock: Clock
) -> None:
    a = await open_member("a")
    await take(a, "one")
    commits = "SELECT commits FROM progress"
    saved_at = "SELECT active_at FROM account WHERE name = 'one'"
    began, before = clock(), value(database, commits)
    while clock() < began + 60:
        a.save_account("one", AccountState(active_at=clock(), day="2026-01-05", day_requests=12))
        await asyncio.sleep(5)
    assert value(database, commits) - before == 2
    assert clock() - value(database, saved_at) <= 40
    a.save_account("one", AccountState(active_at=clock(), day="2026-01-05", day_requests=13))
    await a.flush()
    assert clock() - value(database, saved_at) < 1
    await give(a, "one")
    await take(a, "one")  # in another epoch: what another owner stored meanwhile is not known
    await asyncio.sleep(1)
    a.save_account("one", AccountState(active_at=clock(), day="2026-01-05", day_requests=13))
    await a.flush()
    assert clock() - value(database, saved_at) < 1


async def test_nothing_is_indexed_before_anything_is_fed(open_member: Open, database: psycopg.Connection) -> None:
    a, b = await open_member("a"), await open_member("b")
    await feed(b, "x", account="one")

    async def attempts() -> int:
        """Return how often a asks the server in two minutes."""
        before = value(database, "SELECT sum(commits) FROM progress")
        for _ in range(24):
            assert [await store.fleet.beat() for store in (b, a)] == [Beat.MADE, Beat.MADE]
            assert await a.index_rows(256) == 0
            await asyncio.sleep(5)
        return int(value(database, "SELECT sum(commits) FROM progress") - before)

    assert await attempts() == 2  # at once, and when the task is a minute old
    assert await attempts() == 0
    await feed(b, *(f"y{number}" for number in range(300)), account="one")
    await asyncio.sleep(70)
    assert await a.fleet.beat() is Beat.MADE
    assert await a.index_rows(256) == 256
    assert await a.index_rows(256) == 0  # only full runs are indexed


async def test_an_account_that_the_state_shows_as_ours_after_all_is_worked_on_as_one_that_is_taken(
    open_member: Open,
) -> None:
    """After a failover that lost its giving: what this process had in hand then must not wait for its next start."""
    a = await open_member("a")
    taken = await take(a, "one")
    await feed(a, "x", "y", account="one")
    assert len(await a.claim("one", 1)) == 1
    a._holdings.end_owning("one", taken["one"].epoch)  # given, and the server lost that
    assert await a.claim("one", 9) == []
    assert not await a.fleet.adopt("one", taken["one"].epoch + 1)
    assert await a.fleet.adopt("one", taken["one"].epoch)
    tasks = await a.claim("one", 9)
    assert sorted(ids(tasks)) == ["x", "y"]
    assert len(await a.record([finished(task) for task in tasks])) == 2


async def test_a_member_that_joins_goes_by_the_clock_of_those_at_work_however_the_servers_was_set(
    open_member: Open, clock: Clock, events: Events
) -> None:
    """They store instants for each other: with another time, tasks would be polled late and starts repeated early."""
    a = await open_member("a", clock=lambda: time.time() - 7200)  # the server's was set by two hours since
    assert await a.fleet.beat() is Beat.MADE
    b = await open_member("b", joins=False, clock=time.time)
    assert await b.fleet.server_ahead_s() == pytest.approx(-7200, abs=5)
    (differs,) = (event for event in events if event["event"] == "clock.differs")
    assert differs["by_s"] == pytest.approx(7200, abs=5)
    await a.fleet.leave()
    assert await b.fleet.server_ahead_s() == pytest.approx(0, abs=5)
