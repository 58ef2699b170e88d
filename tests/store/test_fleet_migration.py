"""A rolling update: a member of a newer version brings the state to its own beside members of the version before."""

import asyncio
import re
from collections.abc import Iterator, MutableMapping
from contextlib import contextmanager
from typing import Any

import psycopg
import pytest

from poller.core.errors import StoreUnusable
from poller.store.postgres import lock_watch, schema
from poller.store.postgres.fleet import open as fleet_open
from poller.store.postgres.fleet import state_lock
from poller.store.postgres.fleet.store import FleetStore
from tests.support.fleet_members import Open, take
from tests.support.simulation import named
from tests.support.store_makers import feed, finished, ids

FIRST_OF_A_FLEET = 10
NEXT = schema.VERSION + 1
ADDED = "ALTER TABLE account ADD COLUMN colour text"


@contextmanager
def newer(script: str = ADDED, *, is_additive: bool = True) -> Iterator[None]:
    """Members that open the state meanwhile are of a version with one more migration."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(schema, "MIGRATIONS", [*schema.MIGRATIONS, script])
        for module in (schema, state_lock, fleet_open):
            patch.setattr(module, "VERSION", NEXT)
        patch.setattr(state_lock, "ADDITIVE", state_lock.ADDITIVE | ({NEXT} if is_additive else set()))
        yield


def version(database: psycopg.Connection[Any]) -> int:
    row = database.execute("SELECT version FROM state_version").fetchone()
    assert row is not None
    return int(row[0])


async def works(store: FleetStore, task_id: str, account: str) -> None:
    """Feed, claim, record and see."""
    await feed(store, task_id, account=account)
    tasks = await store.claim(account, 9)
    assert ids(tasks) == [task_id]
    assert await store.record([finished(each) for each in tasks])
    assert await store.fleet.beat()
    await store.fleet.view()


def test_each_version_since_the_first_fleet_can_be_brought_to_this_one_by_a_rolling_update() -> None:
    """A migration that cannot run beside older members needs an exception here, and a word to those who run a fleet."""
    assert set(range(FIRST_OF_A_FLEET, schema.VERSION + 1)) <= state_lock.ADDITIVE


async def test_an_additive_migration_runs_beside_members_at_work(
    open_member: Open, database: psycopg.Connection[Any]
) -> None:
    old = await open_member("old")
    await take(old, "one")
    await works(old, "before", "one")
    with newer():
        new = await open_member("new")
    assert version(database) == NEXT
    await works(old, "after", "one")
    await take(new, "two")
    await works(new, "x", "two")
    assert (await old.sums()).finished == 3
    with newer():
        await open_member("newer")  # finds nothing to do


async def test_members_that_start_together_bring_the_state_up_to_date_once(
    open_member: Open, database: psycopg.Connection[Any]
) -> None:
    await open_member("old")
    with newer():
        opened = await asyncio.gather(*(open_member(name) for name in ("b", "c", "d")))
    assert [store.fleet.id is not None for store in opened] == [True] * 3
    assert version(database) == NEXT


async def test_a_migration_waits_for_a_long_transaction_and_is_tried_again(
    open_member: Open, database: psycopg.Connection[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """While it waits for the table, all who use that wait behind it: so it waits a short time, and comes back."""
    old = await open_member("old")
    await take(old, "one")
    monkeypatch.setattr(state_lock, "LOCK_WAIT_S", 0.1)
    monkeypatch.setattr(state_lock, "MIGRATION_TRIES", 1000)
    with newer():
        with database.transaction():
            database.execute("SELECT FROM account")  # holds off the change of the table
            opening = asyncio.ensure_future(open_member("new"))
            await works(old, "x", "one")
            await works(old, "y", "one")
            assert not opening.done()
        new = await opening
    assert version(database) == NEXT
    assert new.fleet.id is not None


async def test_a_migration_that_finds_the_table_locked_each_time_is_refused(
    open_member: Open, database: psycopg.Connection[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    await open_member("old")
    monkeypatch.setattr(state_lock, "LOCK_WAIT_S", 0.01)
    with newer(), database.transaction():
        database.execute("SELECT FROM account")
        with pytest.raises(StoreUnusable, match="locked by a long transaction"):
            await open_member("new")


@pytest.mark.real_time
async def test_while_a_migration_waits_for_another_program_the_log_names_it_and_for_how_long(
    open_member: Open,
    database: psycopg.Connection[Any],
    events: list[MutableMapping[str, Any]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    await (await open_member("old")).close()
    database.execute("SET application_name = 'nightly report'")
    for name, seconds in (("ASKED_EVERY_S", 0.05), ("LOGGED_EVERY_S", 0.2), ("ASKED_WITHIN_S", 30.0)):
        monkeypatch.setattr(lock_watch, name, seconds)
    with newer():
        with database.transaction():
            database.execute("SELECT FROM account")  # a reader alone: it holds off the change of the table
            opening = asyncio.ensure_future(open_member("new"))
            async with asyncio.timeout(60):
                while len(locked := named(events, "store.locked")) < 2:  # noqa: ASYNC110
                    await asyncio.sleep(0.01)
        assert (await opening).fleet.id is not None
    assert re.match(
        r"the migration has waited up to \S+ s for process \d+ of the server \(nightly report, in a transaction of"
        r" \S+ s\), which uses table account\. It continues when that ends; SELECT pg_terminate_backend\(\d+\) ends it",
        locked[0]["reason"],
    ), locked


async def test_another_migration_is_refused_while_older_members_are_at_work(
    open_member: Open, database: psycopg.Connection[Any]
) -> None:
    old = await open_member("old")
    with newer(is_additive=False):
        with pytest.raises(StoreUnusable, match="in use by"):
            await open_member("new")
        await old.close()
        assert (await open_member("new")).fleet.id is not None
    assert version(database) == NEXT


async def test_a_member_of_the_version_before_does_not_start_on_the_newer_state(open_member: Open) -> None:
    await open_member("old")
    with newer():
        await open_member("new")
    with pytest.raises(StoreUnusable, match="newer"):
        await open_member("late")
