"""A process as a member of a real state: how it learns that it is one no more, and what its heartbeats cost."""

import asyncio
import math
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import psycopg
import pytest

from poller.core.accounts import AccountState
from poller.core.fleet import Beat, Fenced
from poller.core.protocols import Clock
from poller.engine.fleet.member import FleetMember
from poller.engine.fleet.times import BeatTimes
from poller.engine.fleet.trust import Trust
from poller.store.postgres.fleet import members
from poller.store.postgres.fleet.store import FleetStore
from poller.web.fleet import FleetReader
from tests.support.fleet_members import ACCOUNTS, Open, take
from tests.support.postgres import session_of
from tests.support.store_makers import feed


def _member(store: FleetStore) -> FleetMember:
    now = asyncio.get_running_loop().time
    times = BeatTimes()
    return FleetMember(
        store.fleet,
        times=times,
        trust=Trust(times.trust_s, since_boot=now, wall=now),
        monotonic=now,
        serves=ACCOUNTS,
        settings={},
    )


def _lose_commits(database: psycopg.Connection[Any], store: FleetStore) -> None:
    database.execute("UPDATE progress SET commits = commits - 1")
    connection = store._writer._connection
    assert connection is not None
    database.execute("SELECT pg_terminate_backend(%s)", (connection.info.backend_pid,))


def _bury(database: psycopg.Connection[Any], _: FleetStore) -> None:
    database.execute("DELETE FROM replica")


async def _until_fenced(member: FleetMember) -> None:
    while await member.next_view(after=asyncio.get_running_loop().time(), unless=lambda: False) is not None:
        pass


@pytest.mark.real_time
@pytest.mark.parametrize(("end", "is_doubted"), [(_bury, False), (_lose_commits, True)])
async def test_a_member_learns_from_a_note_that_no_caller_waits_for_that_it_is_one_no_more(
    end: Callable[[psycopg.Connection[Any], FleetStore], None],
    is_doubted: bool,
    open_member: Open,
    database: psycopg.Connection[Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("poller.store.postgres.group_commit.RETRY_S", 0.02)
    store = await open_member("a", joins=False)
    member = _member(store)
    await member.open()
    assert await member.next_view(after=-math.inf, unless=lambda: False) is not None
    await take(store, "one")
    await store.flush()
    waiting = asyncio.ensure_future(_until_fenced(member))
    await asyncio.sleep(0)
    end(database, store)
    store.save_account("one", AccountState(active_at=1.0))
    with suppress(Fenced):
        await store.flush()
    async with asyncio.timeout(20):
        await waiting
    assert member.is_fenced
    assert not member.trust()
    assert (member.doubted_until > 0.0) is is_doubted
    await member.join()
    assert await member.next_view(after=-math.inf, unless=lambda: False) is not None
    await member.close()


async def test_before_its_first_turn_a_member_takes_tasks_of_every_account_that_its_settings_name(
    open_member: Open, clock: Clock
) -> None:
    """Its page is there by then: tasks of those that another polls were refused as of an unknown account."""
    member = _member(await open_member("a", joins=False))
    assert FleetReader(member, view=lambda: None, clock=clock).accounts == set(ACCOUNTS)


async def test_a_heartbeat_does_not_read_the_backlog_of_a_sink(
    open_member: Open, database: psycopg.Connection[Any]
) -> None:
    a = await open_member("a")
    await a.fleet.want_sinks(["down", "good"])
    await a.fleet.take_sinks(["down", "good"])
    database.execute("INSERT INTO undelivered SELECT id, g FROM sink, generate_series(1, 20000) g")
    database.execute("ANALYZE undelivered")
    database.execute("DELETE FROM undelivered USING sink WHERE sink = id AND name = 'good'")
    query = members._SEE.replace("%(me)s", str(a.fleet.id))
    plan = [line for (line,) in database.execute(f"EXPLAIN {query}".encode()).fetchall()]
    assert [line for line in plan if "undelivered" in line]
    assert [line for line in plan if "Seq Scan on undelivered" in line] == []
    assert await a.fleet.beat() is Beat.MADE
    assert {sink.name: sink.has_waiting for sink in (await a.fleet.seen()).sinks} == {"down": True, "good": False}


@pytest.mark.real_time
async def test_a_heartbeat_that_another_programs_lock_holds_up_does_not_wait_on_at_the_server(
    open_member: Open, database: psycopg.Connection[Any], postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("poller.store.postgres.fleet.store.BEAT_WITHIN_S", 0.2)
    a = await open_member("a")
    waits = (
        "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE 'WITH beat%'"
        " AND datname = current_database()"
    )
    with session_of(postgres_url, autocommit=False) as locker:
        locker.execute("SET idle_in_transaction_session_timeout = 0")
        locker.execute("LOCK TABLE account IN ACCESS EXCLUSIVE MODE")
        for _ in range(3):
            assert await a.fleet.beat() is Beat.UNREACHED
        for _ in range(2000):
            if database.execute(waits.encode()).fetchone() == (0,):
                break
            await asyncio.sleep(0.005)
        assert database.execute(waits.encode()).fetchone() == (0,)
    a._heart._within_s = 20.0
    assert await a.fleet.beat() is Beat.MADE


async def test_a_hint_from_before_the_first_heartbeat_is_not_lost(open_member: Open) -> None:
    other, late = await open_member("other"), await open_member("late")
    await take(late, "one")
    assert await late.claim("one", 5) == []
    await feed(other, "x", account="one")
    assert await other.fleet.beat() is Beat.MADE  # sends the hint, for which `late` does not listen yet
    assert await late.fleet.beat() is Beat.MADE
    assert late.fleet.hints().fed == {"one"}
    assert await late.fleet.beat() is Beat.MADE
    assert late.fleet.hints().fed == frozenset()
