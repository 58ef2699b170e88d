"""What only a PostgreSQL state can show: claims beside commits, late writers, how it is opened, which errors pass."""

import asyncio
import signal
import socket
import subprocess
import sys
import textwrap
import time
from collections.abc import AsyncIterator, Iterator, MutableMapping
from typing import Any

import psycopg
import pytest

from poller.core.accounts import AccountState
from poller.core.errors import ConfigError, StoreError, StoreLocked, StoreUnusable
from poller.core.protocols import Clock
from poller.reports.ledger import imbalances
from poller.store import last_beat, open_store, read_store
from poller.store.postgres import PostgresStore, task_queue
from poller.store.postgres.connection import ANSWER_WITHIN_S, CONNECT_WITHIN_S, connect
from poller.store.postgres.dsn import parse
from poller.store.postgres.errors import may_pass, reason_text, store_error, unusable
from poller.store.postgres.lock import NotOwner, retake_lock, take_lock
from poller.store.postgres.open import READERS
from poller.store.postgres.reader import PostgresReader
from poller.store.postgres.schema import MIGRATIONS, VERSION, make_schema, refuse_old_server
from tests.support.postgres import session_of
from tests.support.store_makers import feed, finished, ids, kill, running
from tests.support.virtual import EPOCH

Events = list[MutableMapping[str, Any]]


@pytest.fixture
async def store(postgres_url: str, clock: Clock) -> AsyncIterator[PostgresStore]:
    opened = await opened_at(postgres_url, clock)
    yield opened
    await opened.close()


async def opened_at(url: str, clock: Clock) -> PostgresStore:
    store = await open_store(url, clock=clock)
    assert isinstance(store, PostgresStore)
    return store


@pytest.fixture
def database(postgres_url: str) -> Iterator[psycopg.Connection]:
    """Return a connection that reads the tables or changes them behind the store's back."""
    with session_of(postgres_url) as connection:
        yield connection


def value(connection: psycopg.Connection, query: str) -> Any:
    row = connection.execute(query.encode()).fetchone()
    assert row is not None
    return row[0]


def names(events: Events) -> list[str]:
    return [event["event"] for event in events if event["event"] not in ("store.opened", "store.closed")]


# --- claims and owners -----------------------------------------------------------------------------------------------


async def test_a_claim_costs_no_commit(store: PostgresStore, database: psycopg.Connection) -> None:
    await feed(store, "a", "b")
    await store.flush()
    before = value(database, "SELECT commits FROM replica")
    store.release(await store.claim("main", 9))
    assert ids(await store.claim("main", 9)) == ["a", "b"]
    assert value(database, "SELECT commits FROM replica") == before


async def test_a_claim_passes_over_tasks_that_were_recorded_or_released_since_it_began(
    store: PostgresStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it read may be from before the commit: polled once more, a task could get a second outcome."""
    await feed(store, "finished", "postponed", "released", "held", "free")
    has_read, goes_on = asyncio.Event(), asyncio.Event()
    find_due = task_queue.find_due

    async def find_due_slowly(*values: Any) -> Any:
        due = await find_due(*values)
        has_read.set()
        await goes_on.wait()
        return due

    monkeypatch.setattr(task_queue, "find_due", find_due_slowly)
    async with asyncio.TaskGroup() as group:
        slow = group.create_task(store.claim("main", 9))
        await has_read.wait()
        monkeypatch.setattr(task_queue, "find_due", find_due)
        a, b, c, _ = await store.claim("main", 4)
        await store.record([finished(a), running(b, EPOCH + 3600)])
        store.release([c])
        goes_on.set()
    assert ids(slow.result()) == ["free"]
    assert ids(await store.claim("main", 9)) == ["released"]


async def test_saving_accounts_uses_up_no_numbers(store: PostgresStore, database: psycopg.Connection) -> None:
    """Accounts are saved each second for years, and have an integer for a number."""
    for requests in range(20):
        for name in ("one", "two"):
            store.save_account(name, AccountState(active_at=EPOCH, day="2026-11-27", day_requests=requests))
        await store.flush()
        await feed(store, "a", account="one")
    assert value(database, "SELECT last_value FROM account_id_seq") == 2
    assert [(await store.account(name)).day_requests for name in ("one", "two")] == [19, 19]


async def test_a_lock_that_is_not_our_own_is_left_to_its_holder(postgres_url: str) -> None:
    dsn = parse(postgres_url)
    holder, other = await connect(dsn), await connect(dsn)
    await make_schema(holder, dsn)
    await take_lock(holder, dsn)
    with pytest.raises(NotOwner):
        await retake_lock(other, before=other.info.backend_pid)
    await asyncio.sleep(1)
    assert await (await holder.execute("SELECT 1")).fetchone() == (1,)
    await holder.close()
    await take_lock(other, dsn)
    await other.close()


async def test_a_claim_whose_caller_went_away_gives_its_leases_back(store: PostgresStore) -> None:
    await feed(store, "a")
    async with asyncio.TaskGroup() as group:
        hasty = group.create_task(store.claim("main", 1))
        await asyncio.sleep(0)
        hasty.cancel()
    assert ids(await store.claim("main", 1)) == ["a"]


async def test_an_owner_that_was_replaced_can_write_nothing_more(
    store: PostgresStore, database: psycopg.Connection, events: Events
) -> None:
    await feed(store, "a")
    (task,) = await store.claim("main", 1)
    database.execute("DELETE FROM replica")
    with pytest.raises(StoreError, match="another poller took over"):
        await store.record([finished(task)])
    assert value(database, "SELECT count(*) FROM record") == 0
    assert names(events) == ["store.failed"]


async def test_two_that_open_a_new_state_at_once_are_one_owner_and_one_refused(postgres_url: str, clock: Clock) -> None:
    both = [open_store(postgres_url, clock=clock) for _ in range(2)]
    one, other = await asyncio.gather(*both, return_exceptions=True)
    refused = one if isinstance(one, StoreLocked) else other
    assert isinstance(refused, StoreLocked)
    for opened in (one, other):
        if isinstance(opened, PostgresStore):
            await opened.close()


async def test_two_states_in_one_database_are_independent(
    postgres_url: str, clock: Clock, store: PostgresStore
) -> None:
    other = await opened_at(postgres_url + "_b", clock)
    await feed(other, "a")
    assert (await store.sums()).waiting == 0
    await kill(other)
    with session_of(postgres_url) as connection:
        connection.execute(f"DROP SCHEMA {parse(postgres_url + '_b').schema} CASCADE".encode())


HOLDER = """
    import asyncio, sys, time
    from poller.store import open_store
    async def main():
        store = await open_store(sys.argv[1], clock=time.time)
        print("open", flush=True)
        sys.stdin.read()
    asyncio.run(main())
"""


@pytest.mark.real_time
async def test_a_killed_process_lets_the_next_one_in_at_once(postgres_url: str) -> None:
    command = [sys.executable, "-c", textwrap.dedent(HOLDER), postgres_url]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:  # noqa: S603, ASYNC220 - our own command
        assert holder.stdout is not None
        assert any(line == b"open\n" for line in holder.stdout)
        beat = last_beat(postgres_url)
        assert beat is not None
        assert beat[0] == holder.pid
        with pytest.raises(StoreLocked, match=f"process {holder.pid} on "):
            await open_store(postgres_url, clock=lambda: 0.0)
        holder.send_signal(signal.SIGKILL)
        holder.wait()
    await (await open_store(postgres_url, clock=lambda: 0.0)).close()


# --- one instant -----------------------------------------------------------------------------------------------------


class MeddledConnection:
    """Finishes a task through another connection, after the reader's second statement."""

    def __init__(self, connection: psycopg.AsyncConnection, meddler: psycopg.Connection) -> None:
        self._connection = connection
        self._meddler = meddler
        self._statements = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)

    async def execute(self, query: Any, values: Any = ()) -> Any:
        rows = await self._connection.execute(query, values)
        self._statements += 1
        if self._statements == 2:
            self._meddler.execute("UPDATE task SET kind = 'complete', polls = 1")
            self._meddler.execute("INSERT INTO record (task, seen_at, body) SELECT key, 1, '' FROM task")
        return rows


async def test_the_sums_are_of_one_instant(
    store: PostgresStore, database: psycopg.Connection, postgres_url: str
) -> None:
    await feed(store, "a")
    async with await connect(parse(postgres_url)) as connection:
        meddled: Any = MeddledConnection(connection, database)
        sums = await PostgresReader(meddled, parse(postgres_url)).sums()
    assert (sums.finished, sums.waiting, sums.polls, imbalances(sums)) == (0, 1, 0, [])
    assert (await store.sums()).finished == 1


# --- errors ----------------------------------------------------------------------------------------------------------

REMEDIES = [
    (psycopg.errors.ReadOnlySqlTransaction("cannot execute UPDATE in a read-only transaction"), "name the primary"),
    (psycopg.errors.DiskFull("could not extend file"), "Make room on the server's disk"),
    (psycopg.OperationalError("FATAL: sorry, too many clients already"), "Raise max_connections"),
    (psycopg.errors.TooManyConnections("too many connections for role"), "Raise max_connections"),
    (psycopg.OperationalError('FATAL: password authentication failed for user "me"'), "the right password"),
]


@pytest.mark.parametrize(("error", "remedy"), REMEDIES)
def test_an_error_that_a_person_can_end_names_its_remedy_at_the_start_and_later(
    error: psycopg.Error, remedy: str
) -> None:
    dsn = parse("postgresql://db.example.com/poller")
    assert may_pass(error)
    for message in (str(unusable(error, dsn)), reason_text(error, dsn)):
        assert str(error) in message
        assert remedy in message
        assert "Check that the server runs" not in message


# --- opening ---------------------------------------------------------------------------------------------------------

SECRET = "hunter2-hunter2"


@pytest.mark.parametrize(
    ("url", "why"),
    [
        (
            f"postgresql://me:{SECRET}@127.0.0.1:1/db",
            r"cannot open the state postgresql://127\.0\.0\.1:1/db: .*refused",
        ),
        (f"postgresql://127.0.0.1:1/db?user=me&password={SECRET}", "Check that the server runs"),
    ],
)
async def test_an_unreachable_server_is_reported_without_the_password(
    url: str, why: str, clock: Clock, events: Events
) -> None:
    for use in (open_store(url, clock=clock), read_store(url)):
        with pytest.raises(StoreUnusable, match=why) as raised:
            await use
        assert SECRET not in str(raised.value)
    with pytest.raises(StoreUnusable):
        last_beat(url)
    assert SECRET not in str(events)
    assert SECRET not in repr(parse(url))


@pytest.mark.parametrize(
    "url",
    [
        f"postgresql://me:{SECRET}%zz@host/db",
        f"postgresql://me:{SECRET}@host:port:5/db?nonsense={SECRET}",
        f"postgresql://me:{SECRET}@host/db?schema=Robert');--",
        f"postgresql://me:{SECRET}@host/db?schema=",
    ],
)
async def test_a_url_that_cannot_be_used_is_a_configuration_error_without_the_password(url: str, clock: Clock) -> None:
    with pytest.raises(ConfigError) as raised:
        await open_store(url, clock=clock)
    assert SECRET not in str(raised.value)
    assert raised.value.__cause__ is None


async def test_an_unknown_user_or_database_is_reported_with_the_remedy(postgres_server: str, clock: Clock) -> None:
    for change in ("user=no_such_user", "dbname=no_such_database"):
        with pytest.raises(StoreUnusable, match=r"Check that .*host, database, user and password are right"):
            await open_store(f"{postgres_server}{'&' if '?' in postgres_server else '?'}{change}", clock=clock)


@pytest.mark.parametrize("replica", [None, "r1"])
async def test_a_server_that_is_too_old_is_a_configuration_error_with_the_remedy(
    postgres_url: str, clock: Clock, monkeypatch: pytest.MonkeyPatch, replica: str | None
) -> None:
    with pytest.raises(ConfigError, match=r"is PostgreSQL 14\.10, and a state needs 15 or newer\. Upgrade the server"):
        refuse_old_server(140010, parse(postgres_url))
    refuse_old_server(150000, parse(postgres_url))
    monkeypatch.setattr("poller.store.postgres.schema.OLDEST_SERVER", 99)
    with pytest.raises(ConfigError, match="a state needs 99 or newer"):
        await open_store(postgres_url, clock=clock, replica=replica)


async def test_a_user_without_the_right_to_create_gets_the_command_for_an_administrator(
    postgres_url: str, postgres_server: str, clock: Clock
) -> None:
    role = "poller_" + parse(postgres_url).schema
    with psycopg.connect(postgres_server, autocommit=True) as administrator:
        administrator.execute(f"CREATE ROLE {role} LOGIN PASSWORD '{SECRET}'".encode())
        try:
            with pytest.raises(StoreUnusable, match=r"CREATE SCHEMA test_.* AUTHORIZATION"):
                await open_store(f"{postgres_url}&user={role}&password={SECRET}", clock=clock)
        finally:
            administrator.execute(f"DROP ROLE {role}".encode())


async def test_a_state_of_version_1_is_migrated_with_everything_in_it(
    store: PostgresStore, database: psycopg.Connection, postgres_url: str, clock: Clock
) -> None:
    await store.close()
    schema = parse(postgres_url).schema
    database.execute(f"DROP SCHEMA {schema} CASCADE; CREATE SCHEMA {schema}; {MIGRATIONS[0]}".encode())
    database.execute(
        "INSERT INTO state_version VALUES (1);"
        " INSERT INTO account (name) VALUES ('main');"
        " INSERT INTO source (name, lines, tasks) VALUES ('ids.txt', 1, 1);"
        " INSERT INTO task (account, task_id, due_at, fed_at, paused_base_s, looks) VALUES (1, 'a', 0, 0, 0, 3)"
    )
    with pytest.raises(StoreUnusable, match="older version 1"):
        await read_store(postgres_url)
    migrated = await opened_at(postgres_url, clock)
    (details,) = await migrated.task_details("a")
    assert (details.polls, details.poll_log, details.requested_at) == (3, (), None)
    assert imbalances(await migrated.sums()) == []
    assert ids(await migrated.claim("main", 1)) == ["a"]
    await migrated.close()


async def test_a_state_of_version_2_is_migrated_with_its_polls_and_what_was_pruned(
    store: PostgresStore, database: psycopg.Connection, postgres_url: str, clock: Clock
) -> None:
    await store.close()
    schema = parse(postgres_url).schema
    database.execute(f"DROP SCHEMA {schema} CASCADE; CREATE SCHEMA {schema}; {MIGRATIONS[0]} {MIGRATIONS[1]}".encode())
    database.execute(
        "INSERT INTO state_version VALUES (2);"
        " INSERT INTO account (name) VALUES ('main');"
        " INSERT INTO source (name, lines, tasks) VALUES ('ids.txt', 5, 5);"
        " INSERT INTO task (account, task_id, kind, due_at, fed_at, paused_base_s, requested_at, looks, trail) VALUES"
        """ (1, 'kept', 'complete', 0, 0, 0, 7, 2, E'[1.5,0,0,"missing",0,2]\\n[2.5,0,0,"finished",null,null]\\n'),"""
        """ (1, 'waiting', NULL, 0, 0, 0, 8, 1, E'[1.5,0,0,"running","PROCESSING",2]\\n');"""
        ' INSERT INTO record (task, seen_at, body) VALUES (1, 2.5, \'{"result":{"id":1}}\');'
        " INSERT INTO pruned (kind, tasks, looks) VALUES ('complete', 2, 5), ('canceled', 1, 4);"
        " INSERT INTO knowledge (name, body) VALUES ('main', 'much')"
    )
    migrated = await opened_at(postgres_url, clock)
    sums = await migrated.sums()
    assert imbalances(sums) == []
    assert (sums.waiting, sums.finished, sums.pruned, sums.polls) == (1, 4, 3, 2 + 1 + 5 + 4)
    assert sums.kinds == {"complete": 3, "canceled": 1}
    assert {kind: count for kind, count in sums.landed.items() if count} == {"complete": 3}
    (kept,), (waiting,) = [await migrated.task_details(task_id) for task_id in ("kept", "waiting")]
    assert (kept.polls, [poll.at for poll in kept.poll_log]) == (2, [1.5, 2.5])
    assert (waiting.polls, [poll.outcome for poll in waiting.poll_log]) == (1, ["running"])
    assert waiting.requested_at == 8
    assert await migrated.knowledge("main") == b"much"
    await migrated.record([finished(task) for task in await migrated.claim("main", 9)])
    assert (await migrated.sums()).polls == 13
    await migrated.close()


async def test_a_migration_may_take_longer_than_any_answer(
    store: PostgresStore, database: psycopg.Connection, postgres_url: str, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cut off, it would be rolled back, and each start would begin it again."""
    await store.close()
    database.execute("UPDATE state_version SET version = version - 1")

    async def migrate_slowly(*_: object) -> int:
        await asyncio.sleep(3 * ANSWER_WITHIN_S)
        return VERSION - 1

    for module, replica in (("poller.store.postgres.open", None), ("poller.store.postgres.fleet.state_lock", "r1")):
        monkeypatch.setattr(f"{module}.migrate", migrate_slowly)
        before = clock()
        opened = await open_store(postgres_url, clock=clock, replica=replica)
        assert clock() - before >= 3 * ANSWER_WITHIN_S
        await opened.close()


@pytest.mark.parametrize(
    ("spoil", "why"),
    [
        ("UPDATE state_version SET version = 999", "is of version 999"),
        ("DROP TABLE state_version", "tables of another program"),
    ],
)
async def test_a_state_that_is_newer_or_foreign_is_refused_by_name(
    store: PostgresStore, database: psycopg.Connection, postgres_url: str, clock: Clock, spoil: str, why: str
) -> None:
    await store.close()
    database.execute(spoil.encode())
    for use in (open_store(postgres_url, clock=clock), read_store(postgres_url)):
        with pytest.raises(StoreUnusable, match=why):
            await use


async def test_without_the_driver_the_error_names_what_to_install(
    postgres_url: str, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "poller.store.postgres", None)
    monkeypatch.delattr("poller.store.postgres")
    with pytest.raises(ConfigError, match=r"pip install 'hubspot-import-poller\[postgres\]'"):
        await open_store(postgres_url, clock=clock)


async def test_settings_of_the_person_reach_the_server(postgres_url: str, clock: Clock) -> None:
    store = await opened_at(f"{postgres_url}&application_name=mine&options=-c%20work_mem%3D9MB", clock)

    async def show(connection: psycopg.AsyncConnection, _: Any) -> list[Any]:
        rows = await connection.execute(
            "SELECT current_setting('work_mem'), current_setting('application_name'),"
            " current_setting('synchronous_commit'), current_setting('search_path')"
        )
        return [await rows.fetchone()]

    schema = parse(postgres_url).schema
    assert await store._writer.run(show, None) == ("9MB", "mine", "on", schema)
    await store.close()


# --- errors ----------------------------------------------------------------------------------------------------------


async def test_a_read_whose_value_the_server_refuses_fails_alone(store: PostgresStore, postgres_url: str) -> None:
    reader = await read_store(postgres_url)
    for each in (store, reader):
        with pytest.raises(StoreError, match=r"cannot be asked for such a value: .*NUL"):
            await each.account("main\0")
        assert (await each.sums()).waiting == 0
    await reader.close()
    await feed(store, "a")


async def test_what_the_server_refuses_for_good_stops_everything(
    store: PostgresStore, database: psycopg.Connection, events: Events
) -> None:
    await feed(store, "a")
    database.execute("DROP TABLE undelivered")
    (a,) = await store.claim("main", 1)
    with pytest.raises(StoreError, match=r"cannot be used any more.*undelivered.*42P01"):
        await store.record([finished(a)])
    with pytest.raises(StoreError):
        await store.claim("main", 1)
    store.release([a])
    assert names(events) == ["store.failed"]


PASSING_GROUPS = {
    "08": "connection",
    "28": "authorization",
    "3D": "catalog name",
    "40": "rollback",
    "53": "resources",
    "57": "operator",
}
SINGLE = {"ReadOnlySqlTransaction", "IdleInTransactionSessionTimeout", "TransactionTimeout", "LockNotAvailable"}


def coded_errors() -> list[type[psycopg.Error]]:
    found = [each for each in vars(psycopg.errors).values() if isinstance(each, type)]
    return [each for each in found if issubclass(each, psycopg.Error) and each.sqlstate]


def test_every_error_of_the_driver_either_passes_or_stops_the_store() -> None:
    passing = {each for each in coded_errors() if may_pass(each())}
    assert len(coded_errors()) > 200
    assert {each.__name__ for each in passing if str(each.sqlstate)[:2] not in PASSING_GROUPS} == SINGLE
    assert all(each in passing for each in coded_errors() if str(each.sqlstate)[:2] in PASSING_GROUPS)


@pytest.mark.parametrize(
    ("error", "passes"),
    [
        (psycopg.OperationalError("the connection is closed"), True),
        (psycopg.InterfaceError("misused"), False),
        (psycopg.DataError("cannot be encoded"), False),
        (psycopg.errors.DiskFull(), True),
        (psycopg.errors.DataCorrupted(), False),
        (psycopg.errors.IoError(), False),
        (psycopg.errors.UniqueViolation(), False),
    ],
)
def test_what_passes_by_itself(error: psycopg.Error, passes: bool) -> None:
    assert may_pass(error) is passes


def test_damage_is_reported_with_a_remedy() -> None:
    error = store_error(psycopg.errors.DataCorrupted("invalid page"), parse("postgresql://me:pw@host/db"))
    assert isinstance(error, StoreUnusable)
    assert str(error) == "the state postgresql://host/db is damaged (invalid page). Restore a backup of it."


@pytest.mark.real_time
def test_the_last_beat_of_a_server_that_gives_no_answer_is_an_error_within_seconds() -> None:
    with socket.create_server(("127.0.0.1", 0)) as mute:
        began_at = time.monotonic()
        with pytest.raises(StoreUnusable, match="Check that the server runs"):
            last_beat(f"postgresql://user@127.0.0.1:{mute.getsockname()[1]}/poller")
        assert time.monotonic() - began_at < 2 * CONNECT_WITHIN_S


async def test_the_last_beat_waits_for_no_lock(store: PostgresStore, postgres_url: str) -> None:
    with session_of(postgres_url, autocommit=False) as locking:
        locking.execute("LOCK TABLE replica")
        with pytest.raises(StoreUnusable):
            last_beat(postgres_url)
    assert last_beat(postgres_url) is not None


@pytest.mark.parametrize("steps", range(8))
async def test_a_read_that_is_cancelled_while_it_gets_its_connection_ends(store: PostgresStore, steps: int) -> None:
    """The pool forgets a cancellation that comes while it hands a connection over. Its caller would go on forever: a
    lane of a fleet's member that is dropped while the server comes back."""
    taken = [await store._pool.getconn() for _ in range(READERS)]
    reading = asyncio.ensure_future(store.sources(100))
    await asyncio.sleep(0.1)
    await store._pool.putconn(taken.pop())
    for _ in range(steps):
        await asyncio.sleep(0)
    reading.cancel()
    await asyncio.wait([reading])
    for each in taken:
        await store._pool.putconn(each)
    assert reading.cancelled()


async def test_a_closed_state_is_free_at_once(postgres_url: str, clock: Clock) -> None:
    """Also before the server has noticed the end of the connection: until then it would hold the lock."""
    store = await open_store(postgres_url, clock=clock)
    assert isinstance(store, PostgresStore)
    connection = store._writer._connection
    assert connection is not None
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(connection, "close", _nothing)
        await store.close()
        await (await open_store(postgres_url, clock=clock)).close()
    await connection.close()


async def _nothing() -> None:
    """The connection stays open."""
