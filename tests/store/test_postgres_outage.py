"""A PostgreSQL state whose server goes away: all callers wait, and a commit whose answer was lost counts once."""

import asyncio
from collections.abc import AsyncIterator, MutableMapping, Sequence
from pathlib import Path
from typing import Any, Literal

import psycopg
import pytest
from psycopg import AsyncConnection

from poller.core.accounts import AccountState
from poller.core.errors import Exit, StoreError, StoreUnusable
from poller.core.protocols import Clock
from poller.sandbox import Fate, Scenario, parse_durations
from poller.store import open_store, read_store
from poller.store.postgres import PostgresStore
from poller.store.postgres.connection import ANSWER_WITHIN_S, NoAnswer, answered
from poller.store.postgres.feeding import insert_source
from poller.store.postgres.reader import PostgresReader
from tests.support.postgres import session_of
from tests.support.simulation import Simulation, assert_each_has_its_right_outcome_once
from tests.support.store_makers import chunk_of, feed, finished, ids
from tests.support.wire import Wire, wire_to

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


def names(events: Events) -> list[str]:
    return [event["event"] for event in events if event["event"] not in ("store.opened", "store.closed")]


@pytest.fixture
async def wired(wire: Wire, postgres_url: str, clock: Clock) -> AsyncIterator[PostgresStore]:
    opened = await opened_at(wire.url(postgres_url), clock)
    yield opened
    await opened.close()


@pytest.mark.parametrize("loses", ["commit", "answer"])
async def test_a_commit_whose_answer_is_lost_counts_once(
    wire: Wire, wired: PostgresStore, loses: Literal["commit", "answer"], events: Events
) -> None:
    await wired.attach_sinks(["one"])
    await feed(wired, "a", "b")
    a, _ = await wired.claim("main", 2)
    wire.loses = loses
    await wired.record([finished(a)])
    wire.loses = loses
    source = await wired.new_source("more.txt")
    wire.loses = loses
    assert (await wired.add(source, chunk_of("a", "c"))).tasks == 1
    assert ids(await wired.claim("main", 9)) == ["c"]
    sums = await wired.sums()
    assert (sums.finished, sums.waiting, sums.polls) == (1, 2, 1)
    assert [each.lines for each in sums.sources] == [2, 2]
    assert ids(await wired.undelivered("one", 9)) == ["a"]
    assert names(events) == ["store.unwritable", "store.writable"] * 3


async def test_while_the_server_is_away_all_callers_wait_and_then_continue_in_order(
    wire: Wire, wired: PostgresStore, events: Events
) -> None:
    await wired.attach_sinks(["one"])
    await feed(wired, "a")
    (a,) = await wired.claim("main", 1)
    wire.cut()
    async with asyncio.TaskGroup() as group:
        waiting = [
            group.create_task(wired.record([finished(a)])),
            group.create_task(feed(wired, "b")),
            group.create_task(wired.undelivered("one", 9)),
            group.create_task(wired.sums()),
        ]
        wired.save_account("main", AccountState(active_at=7.0))
        wired.beat()
        await asyncio.sleep(60)
        assert not any(task.done() for task in waiting)
        states = [wired.writable]
        wire.is_cut = False
    assert [*states, wired.writable] == [False, True]
    await wired.flush()
    sums = await wired.sums()
    assert (sums.finished, sums.waiting, sums.accounts["main"].active_at) == (1, 1, 7.0)
    assert names(events) == ["store.unwritable", "store.writable"]


async def test_reads_wait_for_the_server_too_and_it_is_logged_once(
    wire: Wire, wired: PostgresStore, events: Events
) -> None:
    source = await feed(wired, "a")
    wire.cut()
    async with asyncio.TaskGroup() as group:
        reading = [group.create_task(wired.open_source("ids.txt")) for _ in range(6)]
        await asyncio.sleep(60)
        wire.is_cut = False
    assert {task.result() for task in reading} == {await wired.open_source("ids.txt")}
    assert names(events) == ["store.unreadable", "store.readable"]
    assert (await wired.open_source("ids.txt") or (0, None))[0] == source


async def test_a_frozen_server_is_an_outage_within_seconds_and_work_continues_by_itself(
    wire: Wire, wired: PostgresStore, events: Events
) -> None:
    await wired.attach_sinks(["one"])
    await feed(wired, "a")
    (a,) = await wired.claim("main", 1)
    wire.flows.clear()
    async with asyncio.TaskGroup() as group:
        waiting = [group.create_task(wired.record([finished(a)])), group.create_task(wired.sources(100))]
        await asyncio.sleep(5)
        states = [wired.writable]
        await asyncio.sleep(25)
        assert not any(task.done() for task in waiting)
        wire.flows.set()
    assert [*states, wired.writable] == [False, True]
    assert (await wired.sums()).finished == 1
    assert names(events) == ["store.unwritable", "store.writable"]
    assert "no answer" in events[-2]["reason"]


async def test_a_connection_that_never_answers_is_replaced_and_what_it_committed_counts_once(
    wire: Wire, wired: PostgresStore
) -> None:
    await wired.attach_sinks(["one"])
    await feed(wired, "a")
    (a,) = await wired.claim("main", 1)
    wire.flows.clear()
    stuck = wire.flows
    async with asyncio.TaskGroup() as group:
        group.create_task(wired.record([finished(a)]))
        await asyncio.sleep(1)
        wire.flows = asyncio.Event()  # new connections work, the old one stays frozen
        wire.flows.set()
        await asyncio.sleep(ANSWER_WITHIN_S + 20)
    stuck.set()
    assert ((await wired.sums()).finished, ids(await wired.undelivered("one", 9))) == (1, ["a"])


@pytest.mark.parametrize("module", ["store", "group_commit"])
async def test_only_a_late_answer_is_waited_for_longer_and_never_without_bound(
    store: PostgresStore, module: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A commit doubled its limit each second while the server refused connections, a read until it overflowed."""
    errors = [psycopg.OperationalError("refused"), NoAnswer("late"), NoAnswer("late"), *[NoAnswer("late")] * 6]
    limits: list[float] = []

    async def fails(work: Any, connection: Any, *, within_s: float, **how: Any) -> Any:
        if within_s < ANSWER_WITHIN_S:  # a rollback, or a new connection
            return await answered(work, connection, within_s=within_s)
        limits.append(within_s)
        if errors:
            work.close()
            raise errors.pop(0)
        return await answered(work, connection, within_s=within_s)

    monkeypatch.setattr(f"poller.store.postgres.{module}.answered", fails)
    monkeypatch.setattr(f"poller.store.postgres.{module}.RETRY_S", 0.0)
    await (store.last_fed_at() if module == "store" else store.flush())
    assert limits == [ANSWER_WITHIN_S * share for share in (1, 1, 2, 4, 8, 16, 32, 32, 32, 32)]


async def test_what_a_broken_socket_left_in_a_transaction_is_not_stored_twice(store: PostgresStore) -> None:
    tries = 0

    async def insert(connection: AsyncConnection, names: Sequence[str]) -> list[int]:
        nonlocal tries
        tries += 1
        numbers = [await insert_source(connection, name, "", "") for name in names]
        if tries == 1:
            raise OSError("bad file descriptor")
        return numbers

    await store._writer.run(insert, "ids.txt")
    assert [each.name for each in await store.sources(9)] == ["ids.txt"]


async def test_a_caller_that_is_cancelled_does_not_wait_for_a_frozen_server(wire: Wire, wired: PostgresStore) -> None:
    await feed(wired, "a")
    wire.flows.clear()
    before = asyncio.get_running_loop().time()
    for call in (wired.sums(), wired.claim("main", 1), feed(wired, "b")):
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(1):
                await call
    await wired.close()
    assert asyncio.get_running_loop().time() - before < 3 + 6


async def test_a_frozen_server_cannot_be_opened(wire: Wire, postgres_url: str, clock: Clock) -> None:
    wire.flows.clear()
    with pytest.raises(StoreUnusable, match="no answer within 5 s"):
        await opened_at(wire.url(postgres_url), clock)
    with pytest.raises(StoreUnusable, match="no answer within 5 s"):
        await read_store(wire.url(postgres_url))


async def test_a_killed_server_connection_is_replaced(store: PostgresStore, postgres_url: str, events: Events) -> None:
    await feed(store, "a")
    with session_of(postgres_url) as database:
        database.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE application_name = 'poller' AND pid <> pg_backend_pid()"
        )
    (a,) = await store.claim("main", 9)
    await store.record([finished(a)])
    assert (await store.sums()).finished == 1
    assert names(events) == ["store.unwritable", "store.writable"]


async def test_closing_while_the_server_is_away_raises_in_the_waiting_callers(
    wire: Wire, wired: PostgresStore, events: Events
) -> None:
    wire.cut()
    adding = asyncio.gather(feed(wired, "a"), return_exceptions=True)
    await asyncio.sleep(5)
    await wired.close()
    (raised,) = await adding
    assert isinstance(raised, StoreError)
    assert "store.closed_unwritten" in names(events)


async def test_an_owner_cut_off_while_another_took_over_stops(
    wire: Wire, wired: PostgresStore, postgres_url: str, clock: Clock
) -> None:
    await feed(wired, "a")
    (task,) = await wired.claim("main", 1)
    wire.cut()
    recording = asyncio.gather(wired.record([finished(task)]), return_exceptions=True)
    await asyncio.sleep(5)
    second = await opened_at(postgres_url, clock)
    assert ids(await second.claim("main", 1)) == ["a"]
    wire.is_cut = False
    await asyncio.sleep(5)
    await second.close()
    (raised,) = await recording
    assert "took over" in str(raised)


# --- the whole service -----------------------------------------------------------------------------------------------

SEVERAL = Scenario(
    seed=7,
    durations=parse_durations("uniform:5,40"),
    fates={Fate.COMPLETE_WITH_ERRORS: 0.1, Fate.CANCELED: 0.05, Fate.UNKNOWN: 0.05},
    latency_s=(0.05, 0.3),
)


async def next_request(simulation: Simulation) -> None:
    """Return when the service has opened its state and polls; virtual time runs on while a busy server opens it."""
    before = simulation.api.stats().requests_total
    while simulation.api.stats().requests_total == before:  # noqa: ASYNC110 - the simulation has no event for it
        await asyncio.sleep(0.5)


async def test_the_service_finishes_right_through_lost_answers_and_a_server_that_is_away(
    tmp_path: Path, clock: Clock, wire: Wire, postgres_url: str
) -> None:
    simulation = Simulation(tmp_path, clock, SEVERAL)
    fed = simulation.write_ids(40)

    async def trouble() -> None:
        await next_request(simulation)
        for loses in ("answer", "commit", "answer"):
            await asyncio.sleep(6)
            wire.loses = loses
        await asyncio.sleep(5)
        wire.cut()
        await asyncio.sleep(20)
        wire.is_cut = False

    async with asyncio.TaskGroup() as group:
        group.create_task(trouble())
        running = group.create_task(simulation.run(fed, {"state": wire.url(postgres_url)}))
    assert running.result() is Exit.NOT_ALL_COMPLETE
    assert_each_has_its_right_outcome_once(simulation, fed)
    assert simulation.api.stats().throttled_total == 0


async def test_a_service_whose_server_is_frozen_drains_in_time_and_logs_nothing_as_finished(
    tmp_path: Path, clock: Clock, wire: Wire, postgres_url: str, events: Events
) -> None:
    simulation = Simulation(tmp_path, clock, SEVERAL)
    fed = simulation.write_ids(40)
    took_s = 0.0

    async def freeze() -> None:
        nonlocal took_s
        await next_request(simulation)
        await asyncio.sleep(6)
        wire.flows.clear()
        at = len(events)
        await asyncio.sleep(20)
        assert not [event for event in events[at + 5 :] if event["event"] == "task.finished"]
        simulation.drain()
        took_s = -asyncio.get_running_loop().time()

    async with asyncio.TaskGroup() as group:
        group.create_task(freeze())
        with pytest.raises(StoreError, match="does not answer"):
            await simulation.run(fed, {"state": wire.url(postgres_url), "shutdown_s": 8})
    assert 0 < took_s + asyncio.get_running_loop().time() <= 10
    wire.flows.set()
    logged = {event["task_id"] for event in events if event["event"] == "task.finished"}
    assert len(logged) <= (await stored_finished(postgres_url)) < 40
    assert await simulation.run(fed, {"state": postgres_url}) is Exit.NOT_ALL_COMPLETE
    assert_each_has_its_right_outcome_once(simulation, fed)


async def stored_finished(url: str) -> int:
    reader = await read_store(url)
    sums = await reader.sums()
    await reader.close()
    return sums.finished


async def test_a_killed_service_continues_where_it_was(
    tmp_path: Path, clock: Clock, postgres_url: str, postgres_server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tests.support.virtual.SOCKET_GRACE_S", 0.002)
    simulation = Simulation(tmp_path, clock, SEVERAL)
    fed = simulation.write_ids(40)
    for seconds in (6, 22):
        async with wire_to(postgres_server) as wire, asyncio.TaskGroup() as group:
            running = group.create_task(simulation.run(fed, {"state": wire.url(postgres_url)}))
            await next_request(simulation)
            await asyncio.sleep(seconds)
            wire.cut()  # nothing that is done from here on can reach the state
            running.cancel()
    assert await simulation.run(fed, {"state": postgres_url}) is Exit.NOT_ALL_COMPLETE
    assert_each_has_its_right_outcome_once(simulation, fed)
    reader = await read_store(postgres_url)
    assert (await reader.sums()).polls <= simulation.api.stats().requests_total
    await reader.close()


@pytest.mark.real_time
async def test_a_command_that_reads_names_the_program_that_locks_a_table_and_waits_for_what_is_only_slow(
    store: PostgresStore, postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    await feed(store, "a")
    monkeypatch.setattr("poller.store.postgres.connection.SILENT_AFTER_S", 0.02)
    for limit in ("lock.ASKED_WITHIN_S", "connection.CONNECT_WITHIN_S"):  # of which a busy machine may need much
        monkeypatch.setattr(f"poller.store.postgres.{limit}", 30.0)
    reader = await read_store(postgres_url)
    assert isinstance(reader, PostgresReader)
    with session_of(postgres_url, autocommit=False, name="psql") as locker:
        locker.execute("LOCK TABLE task IN SHARE MODE")  # as CREATE INDEX does: reading goes on
        await reader._read(lambda connection: connection.execute("SELECT pg_sleep(0.1)"))
        locker.execute("LOCK TABLE task IN ACCESS EXCLUSIVE MODE")
        words = rf"table task is locked by process {locker.info.backend_pid} of the server \(psql\)"
        with pytest.raises(StoreUnusable, match=words):
            await reader.sums()
    await reader.close()


@pytest.mark.real_time
async def test_a_page_of_a_state_reads_again_after_its_connection_was_ended(
    store: PostgresStore, postgres_url: str
) -> None:
    await feed(store, "a")
    reader = await read_store(postgres_url)
    assert isinstance(reader, PostgresReader)
    with session_of(postgres_url) as database:
        database.execute("SELECT pg_terminate_backend(%s)", (reader._connection.info.backend_pid,))
    with pytest.raises(StoreError):
        await reader.sums()
    found = await asyncio.gather(reader.sums(), reader.sums())
    assert [sums.waiting for sums in found] == [1, 1]
    await reader.close()


async def test_a_password_that_was_changed_is_named_though_the_outage_began_as_a_broken_connection(
    postgres_url: str, clock: Clock, events: Events, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Connections outlive a new password: only when they end, as in a restart, does the server refuse the old one."""
    store = await opened_at(postgres_url, clock)
    words = 'connection failed: FATAL: password authentication failed for user "me"'

    async def refused(*_args: Any) -> AsyncConnection:
        raise psycopg.OperationalError(words)

    with monkeypatch.context() as meanwhile:
        meanwhile.setattr("poller.store.postgres.group_commit.connect", refused)
        with session_of(postgres_url) as database:
            database.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid = %s", (store._writer._backend,)
            )
        feeding = asyncio.ensure_future(feed(store, "a"))
        await asyncio.sleep(30)
        assert (
            store.unwritable_reason == f"{words}. Put the right password into the URL or the file that it is read from"
        )
        reasons = [event["reason"] for event in events if event["event"] == "store.unwritable"]
        assert (len(reasons), reasons[-1]) == (2, store.unwritable_reason)
    await feeding
    assert names(events) == ["store.unwritable", "store.unwritable", "store.writable"]
    await store.close()
