"""The sql sink: one row a task, exactly once, in SQLite and in PostgreSQL."""

# ruff: noqa: S608 - small local files; our own table names

import asyncio
import os
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator, MutableMapping, Sequence
from contextlib import closing, suppress
from itertools import count
from pathlib import Path
from random import Random
from typing import Any

import orjson
import psycopg
import pytest

from poller.core.deliveries import Delivery, Retry, Written
from poller.core.errors import ConfigError, SinkError
from poller.core.protocols import Clock, Sink
from poller.sinks import make_sink
from poller.sinks.sql.postgres import PostgresDatabase
from poller.store import open_store
from tests.support.makers import sink_environment
from tests.support.pooler import pool
from tests.support.wire import wire_to

Events = list[MutableMapping[str, Any]]
Query = Callable[[str], list[tuple[Any, ...]]]
_numbers = count(1)
COLUMNS = "account, task_id, kind, status, num_errors, polls"


def record(number: int, *, kind: str = "complete", extra: bytes = b"") -> Delivery:
    body = (
        b'{"task_id":"t%d","account":"main","kind":"%s","status":"COMPLETE","num_errors":0,"errors":null,"result":'
        b'{"size":123456789012345678901234567890,"size":1.50},"seen_at":"2026-01-05T00:00:0%d.000Z","polls":3%s}'
    ) % (number, kind.encode(), number % 10, extra)
    return Delivery(number=number, account="main", task_id=f"t{number}", body=body)


def records(count: int) -> list[Delivery]:
    return [record(number) for number in range(count)]


async def opened(spec: Any, **environ: str) -> Sink:
    sink = make_sink(spec, sink_environment(**environ))
    try:
        await sink.open(None, [])
    except BaseException:
        await sink.close()
        raise
    return sink


async def written(spec: Any, *batches: Sequence[Delivery]) -> list[Written | Retry]:
    sink = await opened(spec)
    try:
        return [await sink.write(batch) for batch in batches]
    finally:
        await sink.close()


@pytest.fixture
def database_url(postgres_server: str) -> Iterator[str]:
    """Return the URL of a database whose tables are in a schema of this test alone."""
    schema = f"sinks_{os.getpid()}_{next(_numbers)}"
    with psycopg.connect(postgres_server, autocommit=True, options="-c client_min_messages=warning") as connection:
        connection.execute(f"CREATE SCHEMA {schema}".encode())
        yield f"{postgres_server}{'&' if '?' in postgres_server else '?'}options=-csearch_path%3D{schema}"
        connection.execute(f"DROP SCHEMA {schema} CASCADE".encode())


@pytest.fixture(params=["sqlite", "postgres"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "postgres":
        return str(request.getfixturevalue("database_url"))
    return f"sqlite:///{tmp_path}/finished.db"


@pytest.fixture
def query(url: str) -> Iterator[Query]:
    """Return a function that asks the database, by a connection of its own."""
    if url.startswith("sqlite"):
        with closing(sqlite3.connect(url.removeprefix("sqlite:///"), isolation_level=None)) as lite:
            yield lambda text: lite.execute(text).fetchall()
    else:
        with psycopg.connect(url, autocommit=True) as connection:

            def ask(text: str) -> list[tuple[Any, ...]]:
                cursor = connection.execute(text)
                return cursor.fetchall() if cursor.description else []

            yield ask


# --- both databases --------------------------------------------------------------------------------------------------


async def test_each_record_is_a_row_with_the_record_untouched(url: str, query: Query) -> None:
    assert await written(f"sql:{url}", records(3)) == [Written()]
    rows = query(f"SELECT {COLUMNS} FROM poller_finished ORDER BY task_id")
    assert rows == [("main", f"t{number}", "complete", "COMPLETE", 0, 3) for number in range(3)]
    bodies = query("SELECT CAST(record AS text) FROM poller_finished ORDER BY task_id")
    assert [body.encode() for (body,) in bodies] == [one.body for one in records(3)]


async def test_a_record_that_comes_again_changes_nothing_and_a_new_outcome_replaces_the_old(
    url: str, query: Query
) -> None:
    await written(f"sql:{url}", records(5), records(7))
    await written(f"sql:{url}", records(3), [record(1, kind="canceled")])
    assert query("SELECT task_id, kind FROM poller_finished ORDER BY task_id") == [
        (f"t{number}", "canceled" if number == 1 else "complete") for number in range(7)
    ]


async def test_a_table_that_is_there_is_filled_also_with_columns_of_its_own(url: str, query: Query) -> None:
    spec = {"kind": "sql", "url": url, "table": "imports"}
    await written(spec, records(1))
    query("ALTER TABLE imports ADD COLUMN mine text DEFAULT 'x'")
    await written(spec, records(2))
    assert query("SELECT task_id, mine FROM imports ORDER BY task_id") == [("t0", "x"), ("t1", "x")]


async def test_a_record_that_the_table_refuses_dies_alone(url: str, query: Query) -> None:
    query(
        "CREATE TABLE poller_finished (account text, task_id text, kind text CHECK (kind <> 'canceled'), status text,"
        " num_errors int, polls int, seen_at text, record text, PRIMARY KEY (account, task_id))"
    )
    batch = [record(number, kind="canceled" if number in (2, 5) else "complete") for number in range(8)]
    (answer,) = await written(f"sql:{url}", batch)
    assert isinstance(answer, Written)
    assert answer.refused.keys() == {2, 5}
    assert "check" in answer.refused[2].lower()
    assert len(query("SELECT task_id FROM poller_finished")) == 6


async def test_what_is_no_record_dies_alone(url: str, query: Query) -> None:
    batch = [record(0), Delivery(number=1, account="main", task_id="t1", body=b"[" * 20_000), record(2)]
    (answer,) = await written(f"sql:{url}", batch)
    assert isinstance(answer, Written)
    assert answer.refused.keys() == {1}
    assert query("SELECT task_id FROM poller_finished ORDER BY 1") == [("t0",), ("t2",)]


@pytest.mark.parametrize("number", [2**63, 2**64, -(2**70), 10**30])
async def test_a_number_beyond_64_bits_is_bounded_in_its_column_and_exact_in_the_record(
    url: str, query: Query, number: int
) -> None:
    body = record(0).body.replace(b'"num_errors":0', b'"num_errors":%d' % number)
    one = Delivery(number=0, account="main", task_id="t0", body=body)
    assert await written(f"sql:{url}", [one, *records(3)[1:]]) == [Written()]
    assert query("SELECT num_errors FROM poller_finished ORDER BY task_id")[0] in ((2**63 - 1,), (-(2**63),))
    assert query("SELECT CAST(record AS text) FROM poller_finished ORDER BY task_id")[0] == (body.decode(),)


async def test_every_record_can_be_cast_to_jsonb_and_a_nul_is_named_where_it_cannot_be_stored(
    database_url: str,
) -> None:
    one = record(0, extra=b',"ref":{"a":"x\\u0000\\u0000","b":"\\\\u0000"}')
    assert await written(f"sql:{database_url}", [one]) == [Written()]
    with psycopg.connect(database_url, autocommit=True) as connection:
        found = connection.execute("SELECT record::jsonb -> 'ref' FROM poller_finished").fetchone()
        assert found == ({"a": "x\ufffd\ufffd", "b": "\\u0000"},)
        connection.execute("ALTER TABLE poller_finished ADD CHECK (task_id <> 't1')")
    [answer] = await written(f"sql:{database_url}", records(2)[1:])
    assert isinstance(answer, Written)
    assert "violates check constraint" in answer.refused[1]
    assert "Failing row contains" in answer.refused[1]


@pytest.fixture
def pooled_url(postgres_server: str) -> Iterator[str]:
    """Return the URL of a PgBouncer in transaction mode in front of the server, with two connections to it."""
    with pool(postgres_server, mode="transaction") as (url, _):
        yield url


@pytest.mark.real_time
async def test_through_a_pooler_in_transaction_mode_every_row_arrives(pooled_url: str, postgres_server: str) -> None:
    table = f"pooled_{os.getpid()}"
    sinks = [make_sink({"kind": "sql", "url": pooled_url, "table": table}, sink_environment()) for _ in range(2)]
    for at in range(20):  # psycopg would prepare a statement at its fifth use
        batch = [record(number) for number in range(at * 10, at * 10 + 10)]
        assert await asyncio.gather(*(sink.write(batch) for sink in sinks)) == [Written(), Written()]
    for sink in sinks:
        await sink.close()
    with psycopg.connect(postgres_server, autocommit=True) as connection:
        assert connection.execute(f"SELECT count(*) FROM {table}".encode()).fetchone() == (200,)
        connection.execute(f"DROP TABLE {table}".encode())


async def test_a_frozen_server_holds_a_batch_and_a_cancellation_up_no_longer_than_its_time(
    postgres_server: str, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """psycopg asks a server that does not answer to cancel, and waits ten seconds more for it."""
    monkeypatch.setattr("tests.support.virtual.SOCKET_GRACE_S", 0.002)
    schema = database_url.rpartition("options=")[2]
    async with wire_to(postgres_server) as wire:
        url = f"{wire.url('').rpartition('&')[0]}&options={schema}"
        sink = await opened({"kind": "sql", "url": url, "timeout_s": 3})
        assert await sink.write(records(1)) == Written()
        loop, took = asyncio.get_running_loop(), list[float]()
        for limit_s in (60.0, 1.0):
            wire.flows.clear()
            began = loop.time()
            with suppress(TimeoutError):
                async with asyncio.timeout(limit_s):
                    assert isinstance(await sink.write(records(2)), Retry)
            took.append(loop.time() - began)
            wire.flows.set()
            assert await sink.write(records(2)) == Written()
        await sink.close()
    assert took == pytest.approx([3.0, 1.0], abs=0.5)


@pytest.mark.parametrize("state", ["26000", "42P05"])
async def test_a_prepared_statement_that_a_pooler_lost_is_a_failure_that_passes(state: str) -> None:
    database = PostgresDatabase("postgresql://x/y", "t", sink="sql", timeout_s=1)
    error = psycopg.errors.lookup(state)("prepared statement does not exist")
    assert await database._classify(error) == "prepared statement does not exist"


async def test_nul_in_a_record_is_replaced(url: str, query: Query) -> None:
    extra = b',"ref":{"a":"\\u0000"}'
    body = record(0, extra=extra).body.replace(b'"COMPLETE"', b'"CO\\u0000"')
    (answer,) = await written(f"sql:{url}", [Delivery(number=0, account="main", task_id="t0", body=body)])
    assert answer == Written()
    assert query("SELECT status FROM poller_finished") == [("CO\ufffd",)]


async def test_a_table_of_another_shape_needs_a_person(url: str, query: Query) -> None:
    query("CREATE TABLE poller_finished (id int)")
    with pytest.raises(
        SinkError, match=r"(poller_finished|finished.db) cannot be used: .*; correct that, or name another"
    ):
        await written(f"sql:{url}", records(1))


async def test_a_table_dropped_meanwhile_needs_a_person(url: str, query: Query) -> None:
    sink = await opened(f"sql:{url}")
    query("DROP TABLE poller_finished")
    with pytest.raises(SinkError):
        await sink.write(records(1))
    await sink.close()


# --- SQLite ----------------------------------------------------------------------------------------------------------


async def test_a_database_in_use_by_another_is_waited_for(tmp_path: Path) -> None:
    file = tmp_path / "finished.db"
    sink = await opened(f"sql:sqlite:///{file}")
    with closing(sqlite3.connect(file, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        waits = []
        for _ in range(9):
            answer = await sink.write(records(2))
            assert isinstance(answer, Retry)
            assert "locked" in answer.reason
            waits.append(answer.wait_s)
        other.execute("ROLLBACK")
        assert all(wait_s <= step for wait_s, step in zip(waits, [1, 2, 4, 8, 16, 32, 60, 60, 60], strict=True))
        assert await sink.write(records(2)) == Written()
    await sink.close()


async def test_a_database_that_is_locked_at_the_start_is_met_later(tmp_path: Path) -> None:
    file = tmp_path / "finished.db"
    with closing(sqlite3.connect(file, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        sink = await opened(f"sql:sqlite:///{file}")
        assert isinstance(await sink.write(records(1)), Retry)
    assert await sink.write(records(1)) == Written()
    await sink.close()


async def test_a_full_disk_is_waited_for_and_keeps_no_part_of_a_batch(tmp_path: Path) -> None:
    program = """
import asyncio, resource, sys
from tests.sinks.test_sql import opened, records
async def main():
    sink = await opened("sql:sqlite:///" + sys.argv[1])
    resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, 10_000_000))
    print(type(await sink.write(records(500))).__name__)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000_000, 10_000_000))
    print(type(await sink.write(records(500))).__name__)
    await sink.close()
asyncio.run(main())
"""
    file = tmp_path / "finished.db"
    command = [sys.executable, "-W", "error", "-c", program, str(file)]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603, ASYNC221 - our own code
    assert ran.stdout.split() == ["Retry", "Written"], ran.stderr
    with closing(sqlite3.connect(file)) as connection:
        assert connection.execute("SELECT count(*) FROM poller_finished").fetchone() == (500,)


async def test_a_file_moved_meanwhile_is_followed_by_a_new_one(tmp_path: Path, events: Events) -> None:
    file = tmp_path / "finished.db"
    sink = await opened(f"sql:sqlite:///{file}")
    await sink.write(records(2))
    file.rename(tmp_path / "old.db")
    assert await sink.write([record(2)]) == Written()
    await sink.close()
    with closing(sqlite3.connect(file)) as connection:
        assert connection.execute("SELECT task_id FROM poller_finished").fetchall() == [("t2",)]
    assert [event["event"] for event in events] == ["sink.file_moved"]


async def test_a_poller_s_own_state_is_not_written_to(tmp_path: Path, clock: Clock) -> None:
    store = await open_store(f"sqlite:///{tmp_path}/poller.db", clock=clock)
    await store.close()
    with pytest.raises(SinkError, match="is the state of a poller"):
        await opened(f"sql:sqlite:///{tmp_path}/poller.db")


@pytest.mark.parametrize(
    ("content", "message"), [(b"precious data\n" * 500, "not a database"), (None, "folder does not")]
)
async def test_what_cannot_be_a_database_is_named(tmp_path: Path, content: bytes | None, message: str) -> None:
    file = tmp_path / "finished.db"
    if content is None:
        file = tmp_path / "nowhere" / "finished.db"
    else:
        file.write_bytes(content)
    with pytest.raises(SinkError, match=message):
        await opened(f"sql:sqlite:///{file}")


async def test_a_folder_cannot_be_a_database_and_a_new_file_is_its_owner_s_alone(tmp_path: Path) -> None:
    with pytest.raises(SinkError, match="Is a directory"):
        await opened(f"sql:sqlite:///{tmp_path}")
    await written(f"sql:sqlite:///{tmp_path}/finished.db", records(1))
    assert (tmp_path / "finished.db").stat().st_mode & 0o777 == 0o600


def test_a_kill_at_any_moment_leaves_each_record_once(tmp_path: Path) -> None:
    program = """
import asyncio, sys
from tests.sinks.test_sql import opened, records
async def main():
    sink = await opened("sql:sqlite:///" + sys.argv[1])
    print("open", flush=True)
    while True:
        for at in range(0, 200, 10):
            await sink.write(records(200)[at:at + 10])
asyncio.run(main())
"""
    file, rng = tmp_path / "finished.db", Random(1)
    for _ in range(3):
        command = [sys.executable, "-c", program, str(file)]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as process:  # noqa: S603 - our own code
            assert process.stdout is not None
            process.stdout.readline()
            try:
                process.wait(rng.uniform(0.01, 0.1))
            except subprocess.TimeoutExpired:
                process.kill()
    asyncio.run(written(f"sql:sqlite:///{file}", records(200)))
    with closing(sqlite3.connect(file)) as connection:
        assert connection.execute("SELECT count(*), count(DISTINCT task_id) FROM poller_finished").fetchone() == (
            200,
            200,
        )
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)


# --- PostgreSQL ------------------------------------------------------------------------------------------------------


async def test_a_connection_that_is_cut_is_made_again(database_url: str) -> None:
    sink = await opened(f"sql:{database_url}")
    assert await sink.write(records(2)) == Written()
    with psycopg.connect(database_url, autocommit=True) as other:
        other.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'poller'")
    answer = await sink.write(records(4))
    assert isinstance(answer, Retry)
    assert await sink.write(records(4)) == Written()
    await sink.close()
    with psycopg.connect(database_url) as other:
        assert other.execute("SELECT count(*) FROM poller_finished").fetchone() == (4,)


async def test_a_table_locked_by_another_is_waited_for_within_the_time_out(database_url: str) -> None:
    sink = await opened({"kind": "sql", "url": database_url, "timeout_s": 1})
    with psycopg.connect(database_url) as other:
        other.execute("LOCK TABLE poller_finished")
        answer = await sink.write(records(1))
        assert isinstance(answer, Retry)
        assert answer.reason == "no answer in time"
    assert await sink.write(records(1)) == Written()
    await sink.close()


async def test_the_record_can_be_searched_as_json_and_the_instant_as_an_instant(database_url: str) -> None:
    await written(f"sql:{database_url}", records(2))
    with psycopg.connect(database_url) as other:
        rows = other.execute(
            "SELECT record->>'kind', record::jsonb->'polls', extract(epoch FROM seen_at)::int FROM poller_finished"
            " ORDER BY task_id"
        ).fetchall()
    assert rows == [("complete", 3, 1767571200), ("complete", 3, 1767571201)]


async def test_a_table_may_be_in_a_schema(database_url: str) -> None:
    with psycopg.connect(database_url, autocommit=True) as other:
        other.execute("DROP SCHEMA IF EXISTS hub CASCADE")
        other.execute("CREATE SCHEMA hub")
        spec = {"kind": "sql", "url": database_url, "table": "hub.imports"}
        assert await written(spec, records(2)) == [Written()]
        assert other.execute("SELECT count(*) FROM hub.imports").fetchone() == (2,)
        other.execute("DROP SCHEMA hub CASCADE")


async def test_a_server_that_is_down_is_retried_and_its_password_is_not_shown(events: Events) -> None:
    sink = await opened("sql:postgresql://me:hunter2@127.0.0.1:1/nothing")
    answer = await sink.write(records(1))
    await sink.close()
    assert isinstance(answer, Retry)
    assert "hunter2" not in answer.reason + str(events)


async def test_a_database_that_does_not_exist_needs_a_person(database_url: str) -> None:
    scheme, _, rest = database_url.partition("://")
    server = rest.partition("/")[0]
    query = rest.partition("?")[2]
    with pytest.raises(SinkError, match="does not exist"):
        await opened(f"sql:{scheme}://{server}/nowhere?{query}")


def test_without_the_driver_it_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "psycopg", None)
    monkeypatch.delitem(sys.modules, "poller.sinks.sql.postgres", raising=False)
    with pytest.raises(ConfigError, match=r"pip install 'hubspot-import-poller\[postgres\]'"):
        make_sink("sql:postgresql://localhost/x", sink_environment())


# --- settings --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spec", "name"),
    [
        ("sql:sqlite:///a/b.db", "sql:sqlite:///a/b.db"),
        ({"kind": "sql", "url": "sqlite:///b.db", "table": "x"}, "sql:sqlite:///b.db#x"),
        ("sql:postgresql://me:hunter2@db:5432/crm?sslkey=hunter2", "sql:postgresql://db:5432/crm"),
        ({"kind": "sql", "url_env": "DB", "table": "s.x"}, "sql:$DB#s.x"),
    ],
)
def test_the_name_is_stable_and_holds_no_password(spec: Any, name: str) -> None:
    assert make_sink(spec, sink_environment(DB="postgresql://me:hunter2@db/x")).name == name


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({}, "needs a target, such as sql:sqlite:///finished.db"),
        ({"table": "x"}, "needs one of url, url_env and url_file, such as sql:sqlite:///finished.db"),
        ({"url": "finished.db"}, "url: must be sqlite:///PATH or postgresql://"),
        ({"url": "mysql://hunter2@x/y"}, "url: must be sqlite:///PATH or postgresql://"),
        ({"url": "postgresql://me:p@ss/hunter2@x/y"}, "write them as %20 and %40"),
        ({"url_env": "DB"}, "DB is not set"),
        ({"url": "sqlite:///x.db", "tabel": "x"}, "tabel: there is no such setting; did you mean table?"),
        ({"url": "sqlite:///x.db", "table": "x; DROP TABLE hunter2"}, "table: "),
        ({"url": "sqlite:///x.db", "table": "s.x"}, "SQLite knows no schemas"),
    ],
)
def test_a_wrong_setting_is_named_and_no_value_shown(table: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        make_sink({"kind": "sql"} | table, sink_environment())
    assert message in str(caught.value)
    assert "hunter2" not in str(caught.value)


def test_a_record_s_fields_are_those_of_the_columns() -> None:
    fields = orjson.loads(record(0).body.replace(b"123456789012345678901234567890", b"1"))
    assert {"kind", "status", "num_errors", "polls", "seen_at"} <= fields.keys()
    assert os.sep not in fields["seen_at"]
