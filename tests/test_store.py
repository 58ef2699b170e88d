"""The promises of the `Store` protocol, for every kind of store; below them, what only SQLite's file can show."""

import asyncio
import os
import resource
import shutil
import signal
import sqlite3
import subprocess
import sys
import textwrap
from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from poller.errors import ConfigError, StoreError, StoreLocked, StoreUnusable
from poller.model import (
    AccountState,
    Chunk,
    Delivery,
    Fed,
    Kind,
    LookAgain,
    Position,
    Record,
    Rejection,
    Settled,
    SinkSums,
    SourceSums,
    Task,
    Written,
)
from poller.protocols import Clock, Store
from poller.store import SqliteStore, last_beat, open_store, read_store
from poller.store.faults import may_pass

OpenFile = Callable[[], Awaitable[SqliteStore]]


@pytest.fixture(params=["file", "memory"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/poller.db" if request.param == "file" else "sqlite:///:memory:"


@pytest.fixture
async def store(url: str, clock: Clock) -> AsyncIterator[Store]:
    opened = await open_store(url, clock=clock)
    yield opened
    await opened.close()


@pytest.fixture
def file_url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/poller.db"


@pytest.fixture
async def open_file(file_url: str, clock: Clock) -> AsyncIterator[OpenFile]:
    """Open the file store of the test as often as it likes; all are closed at its end."""
    opened: list[SqliteStore] = []

    async def open_it() -> SqliteStore:
        opened.append(await open_store(file_url, clock=clock))
        return opened[-1]

    yield open_it
    for each in opened:
        await each.close()


def chunk_of(*task_ids: str, account: str = "main", rejected: Sequence[Rejection] = (), blank: int = 0) -> Chunk:
    fed = tuple(
        Fed(account=account, task_id=task_id, ref=b'{"row":"' + task_id.encode() + b'"}') for task_id in task_ids
    )
    return Chunk(
        fed=fed, rejected=tuple(rejected), blank=blank, position=Position(offset=100, line=10, fingerprint="f")
    )


async def feed(store: Store, *task_ids: str, account: str = "main") -> int:
    source = await store.new_source("ids.txt")
    await store.add(source, chunk_of(*task_ids, account=account))
    return source


def finished(task: Task, kind: Kind = Kind.COMPLETE, reason: str | None = None) -> Settled:
    body = b'{"task_id":"' + task.task_id.encode() + b'"}'
    return Settled(task=task, record=Record(body=body, kind=kind, reason=reason, seen_at=5.0))


def running(task: Task, at: float, **learned: Any) -> Settled:
    return Settled(task=task, again=LookAgain(at=at, errors=learned.pop("errors", 0), **learned))


async def finish(store: Store, *task_ids: str, account: str = "main") -> None:
    await feed(store, *task_ids, account=account)
    await store.record([finished(task) for task in await store.claim(account, len(task_ids))])


def ids(found: Sequence[Task] | Sequence[Delivery]) -> list[str]:
    return [each.task_id for each in found]


# --- feeding ---------------------------------------------------------------------------------------------------------


async def test_every_line_of_a_chunk_is_counted_in_exactly_one_place(store: Store) -> None:
    source = await store.new_source("ids.txt")
    rejection = Rejection(line=3, reason="not an id", excerpt="§§")
    added = await store.add(source, chunk_of("a", "b", "a", rejected=[rejection], blank=2))
    again = await store.add(source, chunk_of("b", "c"))
    assert (added.tasks, added.duplicates, again.tasks, again.duplicates) == (2, 1, 1, 1)
    sums = await store.sums()
    assert sums.sources == (
        SourceSums(name="ids.txt", lines=8, tasks=3, duplicates=2, rejected=1, blank=2, ended=False),
    )
    assert sums.waiting == 3
    assert list(await store.rejections()) == [("ids.txt", rejection)]


async def test_the_same_id_in_two_accounts_is_two_tasks(store: Store) -> None:
    await feed(store, "a", account="one")
    await feed(store, "a", account="two")
    assert (await store.sums()).waiting == 2
    assert ids(await store.claim("one", 9)) == ["a"]
    assert ids(await store.claim("two", 9)) == ["a"]


async def test_a_source_is_found_by_name_with_the_position_of_its_last_chunk(store: Store) -> None:
    assert await store.open_source("ids.txt") is None
    first = await feed(store, "a")
    assert await store.open_source("ids.txt") == (first, Position(offset=100, line=10, fingerprint="f"))
    second = await store.new_source("ids.txt")
    assert await store.open_source("ids.txt") == (second, Position())


async def test_a_thousand_accounts_in_one_chunk_are_kept_apart(store: Store) -> None:
    source = await store.new_source("many")
    fed = tuple(Fed(account=f"account{n}", task_id="same") for n in range(1000))
    added = await store.add(source, Chunk(fed=fed, rejected=(), blank=0, position=Position()))
    assert added.tasks == 1000
    assert [task.account for task in await store.claim("account7", 5)] == ["account7"]


# --- looking ---------------------------------------------------------------------------------------------------------


async def test_a_claimed_task_tells_what_was_fed_and_learned(store: Store, clock: Clock) -> None:
    fed_at = clock()
    await feed(store, "a")
    (task,) = await store.claim("main", 1)
    assert (task.account, task.task_id, task.ref, task.looks) == ("main", "a", b'{"row":"a"}', 0)
    assert task.fed_at == task.due_at == pytest.approx(fed_at, abs=0.1)
    due_at = clock() + 30
    await store.record([running(task, due_at, errors=2, missing_at=7.0, status="PROCESSING")])
    assert await store.claim("main", 1) == []
    await asyncio.sleep(31)
    (again,) = await store.claim("main", 1)
    assert (again.looks, again.errors, again.missing_at, again.status) == (1, 2, 7.0, "PROCESSING")
    assert (again.due_at, again.fed_at, again.key) == (due_at, task.fed_at, task.key)


async def test_tasks_are_claimed_longest_due_first_and_never_twice(store: Store, clock: Clock) -> None:
    await feed(store, "a", "b", "c", "d")
    a, b = await store.claim("main", 2)
    assert ids([a, b]) == ["a", "b"]
    await store.record([running(a, clock() + 20), running(b, clock() + 10)])
    assert ids(await store.claim("main", 1)) == ["c"]
    await asyncio.sleep(30)
    assert ids(await store.claim("main", 9)) == ["d", "b", "a"]
    assert await store.claim("main", 9) == []


async def test_claiming_for_an_unknown_account_or_nothing_yields_nothing(store: Store) -> None:
    await feed(store, "a")
    assert await store.claim("other", 5) == []
    assert await store.claim("main", 0) == []
    assert await store.next_due_at("other") is None


async def test_the_next_due_instant_passes_over_leased_tasks(store: Store, clock: Clock) -> None:
    await feed(store, "a", "b")
    a, b = await store.claim("main", 2)
    assert await store.next_due_at("main") is None
    await store.record([running(a, 2e9)])
    assert await store.next_due_at("main") == 2e9
    store.release([b])
    assert await store.next_due_at("main") == b.due_at


async def test_a_released_task_can_be_claimed_again_and_costs_no_look(store: Store) -> None:
    await feed(store, "a")
    store.release(await store.claim("main", 1))
    (task,) = await store.claim("main", 1)
    assert task.looks == 0


async def test_a_look_under_a_lease_given_back_is_passed_over(store: Store) -> None:
    await feed(store, "a")
    (old,) = await store.claim("main", 1)
    store.release([old])
    (new,) = await store.claim("main", 1)
    await store.record([finished(old)])
    store.release([old])
    assert await store.claim("main", 1) == []
    assert (await store.sums()).looks == 0
    await store.record([finished(new)])
    assert (await store.sums()).kinds == {"complete": 1}


async def test_a_task_recorded_twice_has_one_outcome(store: Store) -> None:
    await feed(store, "a")
    (task,) = await store.claim("main", 1)
    await asyncio.gather(store.record([finished(task)]), store.record([finished(task), finished(task)]))
    await store.record([finished(task)])
    sums = await store.sums()
    assert (sums.finished, sums.waiting, sums.looks) == (1, 0, 1)


async def test_a_recorded_task_stays_leased_until_its_commit(store: Store) -> None:
    await feed(store, "a")
    (task,) = await store.claim("main", 1)
    async with asyncio.TaskGroup() as group:
        group.create_task(store.record([running(task, 0.0)]))
        await asyncio.sleep(0)
        store.release([task])
        assert await store.claim("main", 1) == []
    (again,) = await store.claim("main", 1)
    assert again.looks == 1


async def test_the_sums_tell_kinds_and_the_most_frequent_reasons(store: Store) -> None:
    await feed(store, *(f"t{n}" for n in range(40)))
    tasks = await store.claim("main", 40)
    kinds = [Kind.COMPLETE] * 10 + [Kind.NOT_FOUND] * 5 + [Kind.CANCELED] * 15
    reasons = [None] * 10 + ["unknown"] * 5 + [f"r{n}" for n in range(15)]
    await store.record([finished(*each) for each in zip(tasks, kinds, reasons, strict=False)])
    sums = await store.sums()
    assert sums.kinds == {"complete": 10, "not_found": 5, "canceled": 15}
    assert (sums.waiting, sums.finished, sums.looks) == (10, 30, 30)
    assert sums.reasons[0] == ("unknown", 5)
    assert len(sums.reasons) == 10


async def test_text_that_no_encoding_can_hold_does_not_stop_the_store(store: Store) -> None:
    source = await store.new_source("ids.txt")
    await store.add(source, chunk_of("a", "b", rejected=[Rejection(line=1, reason="bad \udc80", excerpt="\ud800\0")]))
    a, b = await store.claim("main", 2)
    await store.record([finished(a, Kind.CANCELED, "\udfff" * 5000), running(b, 0.0, status="\ud800")])
    assert len((await store.sums()).reasons[0][0]) == 300
    assert (await store.rejections())[0][1].reason == "bad ?"


# --- accounts --------------------------------------------------------------------------------------------------------


async def test_an_account_that_was_never_saved_knows_nothing(store: Store) -> None:
    assert await store.account("main") == AccountState()


async def test_a_saved_account_is_read_back_before_and_after_its_commit(store: Store) -> None:
    state = AccountState(
        active_at=3.0, clean=True, paused_s=4.5, day="2026-01-05", day_requests=7, pause="outage", resume_at=9.0
    )
    store.save_account("main", AccountState(active_at=1.0))
    store.save_account("main", state)
    assert await store.account("main") == state
    assert (await store.sums()).accounts == {"main": state}
    await asyncio.sleep(1.5)
    assert await store.account("main") == state
    assert (await store.sums()).accounts == {"main": state}


async def test_the_requests_of_a_day_never_decrease(store: Store) -> None:
    for day, requests in [("2026-01-05", 7), ("2026-01-06", 1), ("2026-01-05", 2), ("2026-01-06", 3)]:
        store.save_account("main", AccountState(day=day, day_requests=requests))
        await asyncio.sleep(1.5)
        assert (await store.account("main")).day_requests == max(requests, 7 if day == "2026-01-05" else 0)


async def test_new_tasks_start_from_the_paused_time_noted_last(store: Store) -> None:
    store.save_account("main", AccountState(paused_s=40.0))
    await feed(store, "a")
    store.save_account("main", AccountState(paused_s=50.0))
    await asyncio.sleep(2)
    await feed(store, "b")
    assert [task.paused_base_s for task in await store.claim("main", 2)] == [40.0, 50.0]


async def test_flushing_returns_when_a_saved_account_is_on_disk(file_url: str, clock: Clock) -> None:
    store = await open_store(file_url, clock=clock)
    store.save_account("main", AccountState(active_at=8.0))
    await store.flush()
    reader = await read_store(file_url)
    assert (await reader.account("main")).active_at == 8.0
    await reader.close()
    await store.close()


# --- delivering ------------------------------------------------------------------------------------------------------


async def test_each_attached_sink_gets_each_record_in_the_order_of_finishing(store: Store) -> None:
    assert await store.attach_sinks(["one", "two"]) == {"one": None, "two": None}
    await feed(store, "a", "b", "c")
    a, b, c = await store.claim("main", 3)
    await store.record([finished(c), running(a, 0.0), finished(b)])
    for sink in ("one", "two"):
        batch = await store.undelivered(sink, 10)
        assert ids(batch) == ["c", "b"]
        assert batch[0].body == b'{"task_id":"c"}'
    assert ids(await store.undelivered("one", 1)) == ["c"]
    assert await store.undelivered("three", 10) == []


async def test_nothing_is_undelivered_before_it_is_committed(store: Store) -> None:
    await store.attach_sinks(["one"])
    await feed(store, "a")
    (task,) = await store.claim("main", 1)
    async with asyncio.TaskGroup() as group:
        group.create_task(store.record([finished(task)]))
        await asyncio.sleep(0)
        assert await store.undelivered("one", 9) == []
    assert ids(await store.undelivered("one", 9)) == ["a"]


async def test_a_sink_gets_what_finished_before_it_was_named_and_while_it_was_away(store: Store) -> None:
    await finish(store, "a")
    await store.attach_sinks(["one"])
    await finish(store, "b")
    await store.attach_sinks(["two"])
    await finish(store, "c")
    assert [(s.name, s.undelivered, s.attached) for s in (await store.sums()).sinks] == [
        ("one", 3, False),
        ("two", 3, True),
    ]
    await store.attach_sinks(["one", "two", "one"])
    await finish(store, "d")
    assert ids(await store.undelivered("one", 9)) == ["a", "b", "c", "d"]
    assert ids(await store.undelivered("two", 9)) == ["a", "b", "c", "d"]


async def test_delivered_records_leave_the_outbox_with_position_and_dead_letters(store: Store) -> None:
    await store.attach_sinks(["one", "two"])
    await finish(store, "a", "b", "c", "d")
    batch = await store.undelivered("one", 3)
    await store.delivered("one", batch, Written(position=b"42", refused={batch[1].number: "too big"}))
    assert ids(await store.undelivered("one", 9)) == ["d"]
    assert len(await store.undelivered("two", 9)) == 4
    assert (await store.sums()).sinks == (
        SinkSums(name="one", delivered=2, undelivered=1, dead=1, attached=True),
        SinkSums(name="two", delivered=0, undelivered=4, dead=0, attached=True),
    )
    assert await store.attach_sinks(["one"]) == {"one": b"42"}


async def test_a_batch_struck_off_twice_counts_once(store: Store) -> None:
    await store.attach_sinks(["one"])
    await finish(store, "a", "b")
    batch = await store.undelivered("one", 9)
    for _ in range(2):
        await store.delivered("one", batch, Written(refused={batch[0].number: "no"}))
    assert (await store.sums()).sinks == (SinkSums(name="one", delivered=1, undelivered=0, dead=1, attached=True),)


async def test_a_noted_position_outlives_a_delivery_without_one(store: Store) -> None:
    await store.attach_sinks(["one"])
    await store.note_position("one", b"start")
    await finish(store, "a")
    await store.delivered("one", await store.undelivered("one", 9), Written())
    assert await store.attach_sinks(["one"]) == {"one": b"start"}
    await store.note_position("one", None)
    assert await store.attach_sinks(["one"]) == {"one": None}


# --- committing ------------------------------------------------------------------------------------------------------


async def test_writes_made_together_share_one_commit(store: Store, clock: Clock) -> None:
    began_at = clock()
    await asyncio.gather(*(feed(store, f"t{n}") for n in range(50)))
    assert clock() - began_at < 0.05
    assert (await store.sums()).waiting == 50


async def test_a_cancelled_caller_neither_loses_its_write_nor_hurts_others(store: Store) -> None:
    await feed(store, "a", "b")
    a, b = await store.claim("main", 2)
    async with asyncio.TaskGroup() as group:
        hasty = group.create_task(store.record([finished(a)]))
        group.create_task(store.record([finished(b)]))
        await asyncio.sleep(0)
        hasty.cancel()
    assert hasty.cancelled()
    assert (await store.sums()).finished == 2


async def test_a_closed_store_says_so(url: str, clock: Clock) -> None:
    store = await open_store(url, clock=clock)
    await store.close()
    await store.close()
    with pytest.raises(StoreError, match="closed"):
        await store.claim("main", 1)
    with pytest.raises(StoreError, match="closed"):
        await store.new_source("x")


# --- SQLite: restarts ------------------------------------------------------------------------------------------------


async def test_everything_is_there_after_closing_and_opening_again(open_file: OpenFile, tmp_path: Path) -> None:
    store = await open_file()
    await store.attach_sinks(["one"])
    await finish(store, "a")
    source = await feed(store, "b", "c")
    (leased,) = await store.claim("main", 1)
    store.save_account("main", AccountState(active_at=8.0, clean=True))
    before = await store.sums()
    await store.close()
    assert not (tmp_path / "poller.db-wal").exists()
    again = await open_file()
    assert await again.sums() == before
    assert await again.open_source("ids.txt") == (source, Position(offset=100, line=10, fingerprint="f"))
    assert ids(await again.claim("main", 9)) == [leased.task_id, "c"]
    assert ids(await again.undelivered("one", 9)) == ["a"]


async def test_closing_commits_what_is_pending(open_file: OpenFile) -> None:
    store = await open_file()
    async with asyncio.TaskGroup() as group:
        group.create_task(feed(store, "a"))
        await asyncio.sleep(0)
        await asyncio.sleep(0.03)
        await store.close()
    assert (await (await open_file()).sums()).waiting == 1


async def test_a_crash_loses_nothing_that_was_acknowledged(open_file: OpenFile, tmp_path: Path, clock: Clock) -> None:
    store = await open_file()
    await store.attach_sinks(["one"])
    await finish(store, "a", "b")
    await feed(store, "c")
    (task,) = await store.claim("main", 1)
    copied = tmp_path / "after_crash"
    copied.mkdir()
    async with asyncio.TaskGroup() as group:
        group.create_task(store.record([finished(task)]))
        await asyncio.sleep(0)
        for suffix in ("", "-wal"):
            shutil.copy(tmp_path / f"poller.db{suffix}", copied)
    survivor = await open_store(f"sqlite:///{copied}/poller.db", clock=clock)
    assert ids(await survivor.undelivered("one", 9)) == ["a", "b"]
    assert ids(await survivor.claim("main", 9)) == ["c"]
    await survivor.close()


# --- SQLite: a disk that fails ---------------------------------------------------------------------------------------


def full_by_page_limit(store: SqliteStore, *, full: bool) -> None:
    pages = store._connection.execute("PRAGMA page_count").fetchone()[0]
    store._connection.execute(f"PRAGMA max_page_count = {pages if full else 1_000_000}")


def full_by_file_size(store: SqliteStore, *, full: bool) -> None:
    hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
    size = os.stat(store._place + "-wal").st_size + 100 if full else resource.RLIM_INFINITY  # noqa: PTH116 - a string
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))


@pytest.mark.parametrize("set_full", [full_by_page_limit, full_by_file_size])
async def test_a_full_disk_makes_writers_wait_and_they_go_on_in_order_when_there_is_room(
    open_file: OpenFile,
    events: list[MutableMapping[str, Any]],
    set_full: Callable[..., None],
) -> None:
    store = await open_file()
    source = await store.new_source("ids.txt")
    await feed(store, "first")
    (task,) = await store.claim("main", 1)
    states: list[bool] = []
    many = [f"{n:0200}" for n in range(2000)]
    set_full(store, full=True)
    try:
        async with asyncio.TaskGroup() as group:
            adding = group.create_task(store.add(source, chunk_of(*many)))
            await asyncio.sleep(5)
            states.append(store.writable)
            recording = group.create_task(store.record([finished(task)]))
            await asyncio.sleep(5)
            assert not adding.done()
            assert not recording.done()
            assert (await store.sums()).waiting == 1
            assert await store.claim("main", 5) == []
            set_full(store, full=False)
    finally:
        set_full(store, full=False)
    states.append(store.writable)
    assert states == [False, True]
    assert adding.result().tasks == 2000
    assert (await store.sums()).finished == 1
    told = [event["event"] for event in events if event["event"] in ("store.unwritable", "store.writable")]
    assert told == ["store.unwritable", "store.writable"]


async def test_closing_on_a_full_disk_tells_the_waiting_callers(
    open_file: OpenFile, events: list[MutableMapping[str, Any]]
) -> None:
    store = await open_file()
    source = await store.new_source("ids.txt")
    full_by_page_limit(store, full=True)
    adding = asyncio.gather(store.add(source, chunk_of(*(f"{n:0200}" for n in range(2000)))), return_exceptions=True)
    await asyncio.sleep(2)
    await store.close()
    (told,) = await adding
    assert isinstance(told, StoreError)
    assert "store.closed_unwritten" in [event["event"] for event in events]
    assert (await (await open_file()).sums()).waiting == 0


class FailingConnection:
    """Lets every statement through but COMMIT, which fails with SQLite's error `code`."""

    def __init__(self, connection: sqlite3.Connection, code: int) -> None:
        self._connection = connection
        self._code = code
        self.commits = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)

    def execute(self, sql: str) -> sqlite3.Cursor:
        if sql == "COMMIT":
            self.commits += 1
            raise sqlite3_error(self._code)
        return self._connection.execute(sql)


def sqlite3_error(code: int) -> sqlite3.OperationalError:
    error = sqlite3.OperationalError("disk I/O error")
    error.sqlite_errorcode = code
    error.sqlite_errorname = "INJECTED"
    return error


@pytest.mark.parametrize("code", [sqlite3.SQLITE_IOERR_FSYNC, sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_IOERR_READ])
async def test_a_failed_fsync_or_damage_is_never_retried_and_stops_everything(
    open_file: OpenFile, code: int, events: list[MutableMapping[str, Any]]
) -> None:
    store = await open_file()
    await feed(store, "a")
    failing = FailingConnection(store._connection, code)
    store._commits._connection = failing  # type: ignore[assignment] # the disk cannot be made to fail an fsync
    told = await asyncio.gather(store.new_source("x"), store.new_source("y"), return_exceptions=True)
    assert [isinstance(each, StoreError) for each in told] == [True, True]
    await asyncio.sleep(10)
    assert failing.commits == 1
    with pytest.raises(StoreError):
        await store.claim("main", 1)
    with pytest.raises(StoreError):
        store.save_account("main", AccountState())
    assert [event["event"] for event in events].count("store.failed") == 1


def test_only_errors_that_left_the_disk_as_it_was_may_pass() -> None:
    codes = {name: value for name, value in vars(sqlite3).items() if name.startswith("SQLITE_IOERR")}
    passing = {name for name, code in codes.items() if may_pass(sqlite3_error(code))}
    assert passing == {f"SQLITE_IOERR_{name}" for name in ("WRITE", "TRUNCATE", "SHMOPEN", "SHMSIZE", "SHMMAP")}
    assert may_pass(sqlite3_error(sqlite3.SQLITE_FULL))
    assert may_pass(sqlite3_error(sqlite3.SQLITE_READONLY))
    assert not may_pass(sqlite3_error(sqlite3.SQLITE_READONLY_DBMOVED))
    assert not may_pass(sqlite3.ProgrammingError("no code at all"))


# --- SQLite: opening -------------------------------------------------------------------------------------------------

HOLDER = """
    import asyncio, sys, time
    from poller.store import open_store
    async def main():
        store = await open_store(sys.argv[1], clock=time.time)
        print("open", flush=True)
        sys.stdin.read()
    asyncio.run(main())
"""


def start_holder(url: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-c", textwrap.dedent(HOLDER), url]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)  # noqa: S603 - our own command


async def test_a_second_process_is_refused_by_name_until_the_first_is_dead(file_url: str, clock: Clock) -> None:
    with start_holder(file_url) as holder:
        assert holder.stdout is not None
        assert any(line == b"open\n" for line in holder.stdout)
        with pytest.raises(StoreLocked, match=f"process {holder.pid}, started 20"):
            await open_store(file_url, clock=clock)
        beat = last_beat(file_url)
        assert beat is not None
        assert beat[0] == holder.pid
        holder.send_signal(signal.SIGKILL)
        holder.wait()
    assert last_beat(file_url) is None
    await (await open_store(file_url, clock=clock)).close()


def assert_beaten_just_now(url: str, clock: Clock) -> None:
    beat = last_beat(url)
    assert beat is not None
    assert beat[0] == os.getpid()
    assert beat[1] == pytest.approx(clock(), abs=0.1)


async def test_the_lock_file_beats_with_commits_and_on_request(
    open_file: OpenFile, file_url: str, clock: Clock
) -> None:
    assert last_beat(file_url) is None
    store = await open_file()
    assert_beaten_just_now(file_url, clock)
    await asyncio.sleep(100)
    await feed(store, "a")
    assert_beaten_just_now(file_url, clock)
    await asyncio.sleep(100)
    store.beat()
    assert_beaten_just_now(file_url, clock)
    await store.close()
    assert last_beat(file_url) is None


async def test_only_the_owner_may_read_the_files(open_file: OpenFile, tmp_path: Path) -> None:
    await open_file()
    modes = {entry.name: entry.stat().st_mode & 0o777 for entry in os.scandir(tmp_path)}
    assert {"poller.db", "poller.db.lock", "poller.db-wal"} <= modes.keys()
    assert set(modes.values()) == {0o600}


def write_newer(path: Path) -> None:
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA user_version = 999")
    connection.close()


def write_foreign(path: Path) -> None:
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE task (id)")
    connection.close()


def write_text(path: Path) -> None:
    path.write_text("id\n" * 1000)


def write_damaged(path: Path) -> None:
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE task (id)")
    connection.close()
    path.write_bytes(path.read_bytes()[:100] + b"\xff" * 3996)


@pytest.mark.parametrize(
    ("spoil", "why"),
    [
        (write_newer, "is of version 999"),
        (write_foreign, "another program"),
        (write_text, "not an SQLite database"),
        (write_damaged, "is damaged"),
        (Path.mkdir, "is a folder"),
    ],
)
async def test_a_file_that_is_no_usable_state_is_refused_untouched_and_by_name(
    tmp_path: Path, file_url: str, clock: Clock, spoil: Callable[[Path], None], why: str
) -> None:
    path = tmp_path / "poller.db"
    spoil(path)
    content = path.read_bytes() if path.is_file() else b""
    with pytest.raises(StoreUnusable, match=f"{path}.*{why}"):
        await open_store(file_url, clock=clock)
    assert content == (path.read_bytes() if path.is_file() else b"")
    assert last_beat(file_url) is None


async def test_damage_found_while_running_is_told_with_a_remedy(open_file: OpenFile, tmp_path: Path) -> None:
    store = await open_file()
    await feed(store, *(f"{n:0100}" for n in range(500)))
    await store.close()
    path = tmp_path / "poller.db"
    size = path.stat().st_size
    with path.open("r+b") as file:
        file.seek(30 * 4096)
        file.write(b"\xff" * (size - 30 * 4096))
    with pytest.raises(StoreUnusable, match="recover"):
        await (await open_file()).sums()


@pytest.mark.parametrize(("below", "why"), [("missing", "is not a folder"), ("a_file", "is not a folder")])
async def test_a_place_that_is_no_folder_is_named_with_the_remedy(
    tmp_path: Path, clock: Clock, below: str, why: str
) -> None:
    (tmp_path / "a_file").touch()
    with pytest.raises(StoreUnusable, match=f"{tmp_path}/{below} {why}.*--state"):
        await open_store(f"sqlite:///{tmp_path}/{below}/poller.db", clock=clock)


@pytest.mark.parametrize("bad", ["poller.db", "sqlite://poller.db", "sqlite:///", "postgresql://u:secret@h/d", ""])
async def test_an_unknown_kind_of_store_is_a_configuration_error_that_names_what_there_is(
    bad: str, clock: Clock
) -> None:
    with pytest.raises(ConfigError, match=r"sqlite:///poller\.db") as raised:
        await open_store(bad, clock=clock)
    assert "secret" not in str(raised.value)


async def test_a_relative_path_lies_in_the_working_folder(
    tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    await (await open_store("sqlite:///odd ?#% name.db", clock=clock)).close()
    assert (tmp_path / "odd ?#% name.db").stat().st_size > 0


# --- SQLite: reading beside the owner --------------------------------------------------------------------------------


async def test_a_reader_sees_what_the_owner_committed_while_it_runs(open_file: OpenFile, file_url: str) -> None:
    store = await open_file()
    source = await store.new_source("ids.txt")
    rejection = Rejection(line=1, reason="no id", excerpt="?")
    reader = await read_store(file_url)
    await store.add(source, chunk_of("a", "b", rejected=[rejection]))
    store.save_account("main", AccountState(active_at=4.0, day="2026-01-05", day_requests=3))
    await asyncio.sleep(2)
    assert await reader.sums() == await store.sums()
    assert await reader.account("main") == await store.account("main")
    assert await reader.rejections() == [("ids.txt", rejection)]
    await reader.close()


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


async def test_reading_creates_and_changes_nothing(open_file: OpenFile, file_url: str, tmp_path: Path) -> None:
    store = await open_file()
    await finish(store, "a")
    await store.close()
    before = contents(tmp_path)
    reader = await read_store(file_url)
    assert (await reader.sums()).finished == 1
    await reader.close()
    assert contents(tmp_path) == before


async def test_reading_after_a_crash_shows_the_last_commit_and_leaves_it_to_the_next_run(
    open_file: OpenFile, tmp_path: Path
) -> None:
    store = await open_file()
    await finish(store, "a")
    copied = tmp_path / "after_crash"
    copied.mkdir()
    for suffix in ("", "-wal"):
        shutil.copy(tmp_path / f"poller.db{suffix}", copied)
    before = [(copied / f"poller.db{suffix}").read_bytes() for suffix in ("", "-wal")]
    reader = await read_store(f"sqlite:///{copied}/poller.db")
    assert (await reader.sums()).finished == 1
    await reader.close()
    assert [(copied / f"poller.db{suffix}").read_bytes() for suffix in ("", "-wal")] == before


async def test_reading_where_there_is_no_state_says_so(tmp_path: Path, file_url: str) -> None:
    with pytest.raises(StoreUnusable, match="there is no state at"):
        await read_store(file_url)
    (tmp_path / "poller.db").touch()
    with pytest.raises(StoreUnusable, match="holds nothing yet"):
        await read_store(file_url)
    with pytest.raises(ConfigError, match="memory"):
        await read_store("sqlite:///:memory:")
