"""A PostgreSQL state behind PgBouncer: in session mode it works, and in transaction mode it is refused."""

import time

import psycopg
import pytest

from poller.core.errors import ConfigError
from poller.core.fleet import Beat
from poller.store import open_store
from poller.store.postgres import PostgresStore
from poller.store.postgres.lock import last_beat
from tests.support.fleet_members import ACCOUNTS, Open, take
from tests.support.pooler import pool
from tests.support.postgres import session_of
from tests.support.store_makers import feed, ids

pytestmark = pytest.mark.real_time


def through(pool_url: str, postgres_url: str) -> str:
    """Return the URL of the same state through the pool."""
    return f"{pool_url}?schema={postgres_url.rpartition('schema=')[2]}"


async def test_through_a_pool_in_session_mode_a_member_works_in_its_schema_and_outlives_the_pooler(
    postgres_server: str, postgres_url: str, open_member: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("store", "group_commit"):
        monkeypatch.setattr(f"poller.store.postgres.{module}.RETRY_S", 0.05)
    monkeypatch.setattr("poller.store.postgres.fleet.store.BEAT_WITHIN_S", 30.0)  # a busy machine may need much of it
    other = await open_member("other")
    with pool(postgres_server, mode="session", size=8) as (url, pooler):
        store = await open_member("pooled", url=through(url, postgres_url))
        assert {member.name for member in (await other.fleet.view()).members} == {"other", "pooled"}
        assert set(await take(store, "one")) == {"one"}
        assert last_beat(through(url, postgres_url), "pooled") is not None
        assert await store.fleet.beat() is Beat.MADE
        store.fleet.hints()
        await feed(store, "a", account="two")
        assert [await store.fleet.beat() for _ in range(2)] == [Beat.MADE, Beat.MADE]
        assert store._heart.heard() == set()  # its own hint
        pooler.kill()
        assert await store.fleet.beat() is Beat.UNREACHED
        pooler.start()
        await feed(store, "b", account="one")
        assert ids(await store.claim("one", 2)) == ["b"]
        assert await store.fleet.beat() is Beat.MADE


async def test_a_single_owner_behind_a_pool_knows_the_session_that_has_its_lock(
    postgres_server: str, postgres_url: str
) -> None:
    """It ends that where its connection broke and the pooler has not noticed."""
    with pool(postgres_server, mode="session", size=8) as (url, _), session_of(postgres_url) as database:
        store = await open_store(through(url, postgres_url), clock=time.time)
        ((backend,),) = database.execute(
            "SELECT DISTINCT pid FROM pg_locks WHERE locktype = 'advisory' AND database ="
            " (SELECT oid FROM pg_database WHERE datname = current_database()) AND classid = 1349479532"
        ).fetchall()
        assert isinstance(store, PostgresStore)
        assert store._writer._backend == backend
        await store.close()


@pytest.mark.parametrize("replica", [None, "r1"])
async def test_a_pool_in_transaction_mode_is_refused_before_a_setting_reaches_others(
    postgres_server: str, postgres_url: str, replica: str | None
) -> None:
    with pool(postgres_server, mode="transaction") as (url, _):
        with pytest.raises(ConfigError, match="pool_mode = session"):
            await open_store(through(url, postgres_url), clock=time.time, replica=replica)
        for _ in range(3):
            with psycopg.connect(url, autocommit=True) as another:
                assert another.execute("SHOW search_path").fetchone() == ('"$user", public',)


async def test_limits_of_the_role_do_not_hold_for_the_state(
    postgres_server: str, postgres_url: str, open_member: Open
) -> None:
    limits = {"statement_timeout": "1min", "lock_timeout": "1min", "idle_session_timeout": "1min"}
    isolation = "ALTER ROLE {role} SET default_transaction_isolation = serializable"
    with psycopg.connect(postgres_server, autocommit=True) as database:
        role = f"limited_{postgres_url.rpartition('schema=')[2]}"
        database.execute(f"CREATE ROLE {role} LOGIN SUPERUSER".encode())
        for name, value in limits.items():
            database.execute(f"ALTER ROLE {role} SET {name} = '{value}'".encode())
        database.execute(isolation.format(role=role).encode())
        try:
            store = await open_member("r1", url=postgres_url.replace("postgres:", f"{role}:"))
            assert set(await take(store)) == set(ACCOUNTS)
            async with store._connection() as connection:
                made = [
                    (await (await connection.execute(f"SHOW {name}".encode())).fetchone())
                    for name in (*limits, "default_transaction_isolation")
                ]
            assert made == [("0",), ("0",), ("0",), ("read committed",)]
            await store.close()
        finally:
            database.execute(f"DROP OWNED BY {role} CASCADE; DROP ROLE {role}".encode())
