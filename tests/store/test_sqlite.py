"""What only an SQLite state can show: its file, its lock, a disk that fails, damage, older versions."""

import asyncio
import os
import resource
import shutil
import signal
import sqlite3
import subprocess
import sys
import textwrap
from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from poller.core.accounts import AccountState
from poller.core.deliveries import DeadLetter, Delivery, Selection
from poller.core.errors import ConfigError, StoreError, StoreLocked, StoreUnusable
from poller.core.protocols import Clock
from poller.core.sums import ReasonSum, SinkSums
from poller.reports.ledger import imbalances
from poller.store import SqliteStore, is_new, last_beat, open_store, read_store, versions
from poller.store.sqlite import schema
from poller.store.sqlite.errors import may_pass
from poller.store.sqlite.group_commit import GroupCommit
from poller.store.sqlite.open import open_writing
from poller.store.sqlite.schema import VERSION
from tests.support.simulation import named
from tests.support.store_makers import chunk_of, feed, finish, finished, ids

OpenFile = Callable[[], Awaitable[SqliteStore]]
STATES = Path(__file__).parent / "states"


@pytest.fixture
def file_url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/poller.db"


@pytest.fixture
async def open_file(file_url: str, clock: Clock) -> AsyncIterator[OpenFile]:
    """Open the file store of the test as often as it likes; all are closed at its end."""
    opened: list[SqliteStore] = []

    async def open_it() -> SqliteStore:
        store = await open_store(file_url, clock=clock)
        assert isinstance(store, SqliteStore)
        opened.append(store)
        return store

    yield open_it
    for each in opened:
        await each.close()


# --- files that disappear --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", ["", ".lock", "-wal"])
@pytest.mark.parametrize("way", ["deleted", "moved", "replaced"])
async def test_a_state_whose_files_are_gone_ends_within_seconds(
    open_file: OpenFile, tmp_path: Path, suffix: str, way: str, events: list[MutableMapping[str, Any]]
) -> None:
    store = await open_file()
    await feed(store, "a")
    store.beat()
    store.save_account("main", AccountState())
    path = tmp_path / f"poller.db{suffix}"
    path.rename(tmp_path / "elsewhere")
    if way == "deleted":
        (tmp_path / "elsewhere").unlink()
    if way == "replaced":
        path.touch()
    await asyncio.sleep(3)
    store.beat()
    with pytest.raises(StoreUnusable, match=r"poller\.db\S* was moved or deleted while it was in use"):
        store.save_account("main", AccountState())
    with pytest.raises(StoreUnusable):
        await store.claim("main", 1)
    assert [event["error"] for event in events if event["event"] == "store.failed"] == ["moved"]


async def test_the_sums_of_a_state_that_was_just_deleted_are_refused(open_file: OpenFile, tmp_path: Path) -> None:
    store = await open_file()
    for suffix in ("", ".lock", "-wal"):
        (tmp_path / f"poller.db{suffix}").unlink()
    with pytest.raises(StoreUnusable):
        await store.sums()


async def test_a_folder_that_cannot_be_read_for_a_moment_is_no_lost_state(
    open_file: OpenFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError

    store = await open_file()
    with monkeypatch.context() as patch:
        patch.setattr(Path, "stat", refuse)
        await store.sums()


# --- a disk that fails ----------------------------------------------------------------------------------------------


def full_by_page_limit(store: SqliteStore, *, full: bool) -> None:
    pages = store._connection.execute("PRAGMA page_count").fetchone()[0]
    store._connection.execute(f"PRAGMA max_page_count = {pages if full else 1_000_000}")


def full_by_file_size(store: SqliteStore, *, full: bool) -> None:
    hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
    size = os.stat(store._path + "-wal").st_size + 100 if full else resource.RLIM_INFINITY  # noqa: PTH116 - a string
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))


@pytest.mark.parametrize("set_full", [full_by_page_limit, full_by_file_size])
async def test_a_full_disk_makes_writers_wait_and_they_continue_in_order_when_there_is_room(
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
    logged = [event["event"] for event in events if event["event"] in ("store.unwritable", "store.writable")]
    assert logged == ["store.unwritable", "store.writable"]


@pytest.mark.parametrize(("free_bytes", "pages"), [(2**21, 64), (2**40, 16_000), (0, 1)])
async def test_the_log_may_take_an_eighth_of_a_small_disk(
    open_file: OpenFile, monkeypatch: pytest.MonkeyPatch, free_bytes: int, pages: int
) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=free_bytes))
    store = await open_file()
    assert store._connection.execute("PRAGMA wal_autocheckpoint").fetchone() == (pages,)


async def test_a_log_without_room_to_grow_is_truncated(
    open_file: OpenFile, events: list[MutableMapping[str, Any]]
) -> None:
    store = await open_file()
    for number in range(30):
        await feed(store, *(f"{n:05}-{number}" for n in range(100)))
    full_by_file_size(store, full=True)  # several times what the database needs
    try:
        async with asyncio.timeout(60):
            for number in range(30, 40):
                await feed(store, *(f"{n:05}-{number}" for n in range(100)))
    finally:
        full_by_file_size(store, full=False)
    assert (await store.sums()).waiting == 4000
    assert [event["event"] for event in events if "writable" in event["event"]] == [
        "store.unwritable",
        "store.writable",
    ]


async def test_closing_on_a_full_disk_raises_in_the_waiting_callers(
    open_file: OpenFile, events: list[MutableMapping[str, Any]]
) -> None:
    store = await open_file()
    source = await store.new_source("ids.txt")
    full_by_page_limit(store, full=True)
    adding = asyncio.gather(store.add(source, chunk_of(*(f"{n:0200}" for n in range(2000)))), return_exceptions=True)
    await asyncio.sleep(2)
    await store.close()
    (raised,) = await adding
    assert isinstance(raised, StoreError)
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
    async with asyncio.timeout(10):  # a retry would wait forever
        raised = await asyncio.gather(store.new_source("x"), store.new_source("y"), return_exceptions=True)
    assert [isinstance(each, StoreError) for each in raised] == [True, True]
    await asyncio.sleep(10)
    assert failing.commits == 1
    with pytest.raises(StoreError):
        await store.claim("main", 1)
    with pytest.raises(StoreError):
        store.save_account("main", AccountState())
    assert [event["event"] for event in events].count("store.failed") == 1


@pytest.mark.parametrize("read", ["claim", "next_due_at", "backlog", "underway", "landed"])
async def test_damage_that_a_read_of_rows_to_import_meets_is_the_states_and_stops_everything(
    open_file: OpenFile, tmp_path: Path, read: str, events: list[MutableMapping[str, Any]]
) -> None:
    """It was called a defect of the poller."""
    store = await open_file()
    with closing(sqlite3.connect(tmp_path / "poller.db")) as other:
        other.executescript("DROP TABLE import_row; DROP INDEX task_underway")
    for _ in range(2):
        with pytest.raises(StoreError, match="cannot be used any more"):
            await getattr(store.starts, read)("main", *([] if read in ("next_due_at", "underway") else [1]))
    assert [event["event"] for event in events].count("store.failed") == 1


async def test_a_commit_that_failed_halfway_is_rolled_back_before_its_retry(tmp_path: Path, clock: Clock) -> None:
    failures = [sqlite3_error(sqlite3.SQLITE_FULL), sqlite3_error(sqlite3.SQLITE_FULL)]
    with closing(await open_writing(tmp_path / "poller.db")) as connection:
        commits = GroupCommit(connection, path="poller.db", linger_s=0.0, clock=clock, beat=lambda: None)

        def insert() -> None:
            connection.execute("INSERT INTO source (name) VALUES ('ids.txt')")
            if failures:
                raise failures.pop()

        await commits.run(insert)
        commits.close()
        assert connection.execute("SELECT count(*) FROM source").fetchone() == (1,)


async def test_every_commit_is_synced_to_the_disk(tmp_path: Path) -> None:
    with closing(await open_writing(tmp_path / "poller.db")) as connection:
        assert connection.execute("PRAGMA synchronous").fetchone() == (2,)  # FULL


async def test_no_other_process_ever_sees_a_record_without_its_outbox_row(open_file: OpenFile, tmp_path: Path) -> None:
    store = await open_file()
    await store.attach_sinks(["one"])
    await feed(store, "a", "b")
    tasks = await store.claim("main", 2)
    seen: set[tuple[int, int]] = set()
    with closing(sqlite3.connect(tmp_path / "poller.db")) as another:

        def count(_statement: str) -> None:
            counts = "SELECT (SELECT count(*) FROM record), (SELECT count(*) FROM undelivered)"
            seen.add(another.execute(counts).fetchone())

        store._connection.set_trace_callback(count)
        await store.record([finished(task) for task in tasks])
        store._connection.set_trace_callback(None)
        count("")
    assert seen == {(0, 0), (2, 2)}


def test_only_errors_that_left_the_disk_as_it_was_may_pass() -> None:
    codes = {name: value for name, value in vars(sqlite3).items() if name.startswith("SQLITE_IOERR")}
    passing = {name for name, code in codes.items() if may_pass(sqlite3_error(code))}
    assert passing == {f"SQLITE_IOERR_{name}" for name in ("WRITE", "TRUNCATE", "SHMOPEN", "SHMSIZE", "SHMMAP")}
    assert may_pass(sqlite3_error(sqlite3.SQLITE_FULL))
    assert may_pass(sqlite3_error(sqlite3.SQLITE_READONLY))
    assert not may_pass(sqlite3_error(sqlite3.SQLITE_READONLY_DBMOVED))
    assert not may_pass(sqlite3.ProgrammingError("no code at all"))


# --- opening ---------------------------------------------------------------------------------------------------------

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
        (os.mkfifo, "is a pipe or a device"),
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


async def test_a_state_with_two_names_is_refused_under_either_one(tmp_path: Path, clock: Clock) -> None:
    """The lock and SQLite's log are found by name: two runs would not notice each other."""
    one, two = (f"sqlite:///{tmp_path}/{name}.db" for name in ("one", "two"))
    store = await open_store(one, clock=clock)
    (tmp_path / "two.db").hardlink_to(tmp_path / "one.db")
    with pytest.raises(StoreUnusable, match=r"two.db has another name .a hard link.*cp -p .*two.db .*two.db.new && mv"):
        await open_store(two, clock=clock)
    await feed(store, "AAAA1", "AAAA2", "AAAA3", "AAAA4", "AAAA5")
    await store.close()
    with pytest.raises(StoreUnusable, match=r"one.db has another name"):
        await open_store(one, clock=clock)
    (tmp_path / "two.db").unlink()
    store = await open_store(one, clock=clock)
    assert (await store.sums()).waiting == 5
    await store.close()


@pytest.mark.parametrize("is_there", [False, True])
async def test_a_state_behind_a_link_is_that_of_the_file(tmp_path: Path, clock: Clock, is_there: bool) -> None:
    """SQLite keeps its log beside the file; the lock has to be there, too, or two processes write one state."""
    (tmp_path / "volume").mkdir()
    link, file = (f"sqlite:///{tmp_path}/{name}" for name in ("poller.db", "volume/state.db"))
    (tmp_path / "poller.db").symlink_to("volume/state.db")
    if is_there:
        await (await open_store(file, clock=clock)).close()
    store = await open_store(link, clock=clock)
    await feed(store, "A1")
    beats = last_beat(link), last_beat(file)
    with pytest.raises(StoreLocked, match="in use by another poller"):
        await open_store(file, clock=clock)
    await store.close()
    assert beats[0] is not None
    assert beats[0] == beats[1]
    reader = await read_store(link)
    assert (await reader.sums()).waiting == 1
    await reader.close()


async def test_damage_is_reported_with_a_remedy_before_a_run_and_by_a_reader(
    open_file: OpenFile, file_url: str, tmp_path: Path
) -> None:
    store = await open_file()
    await feed(store, *(f"{n:0100}" for n in range(500)))
    await store.close()
    path = tmp_path / "poller.db"
    size = path.stat().st_size
    with path.open("r+b") as file:
        file.seek(30 * 4096)
        file.write(b"\xff" * (size - 30 * 4096))
    with pytest.raises(StoreUnusable, match="recover"):
        await open_file()
    with pytest.raises(StoreUnusable, match="recover"):
        await (await read_store(file_url)).sums()


@pytest.mark.parametrize(("below", "why"), [("missing", "is not a folder"), ("a_file", "is not a folder")])
async def test_a_path_that_is_no_folder_is_named_with_the_remedy(
    tmp_path: Path, clock: Clock, below: str, why: str
) -> None:
    (tmp_path / "a_file").touch()
    with pytest.raises(StoreUnusable, match=f"{tmp_path}/{below} {why}.*--state"):
        await open_store(f"sqlite:///{tmp_path}/{below}/poller.db", clock=clock)


async def test_a_relative_path_is_below_the_working_folder(
    tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    await (await open_store("sqlite:///odd ?#% name.db", clock=clock)).close()
    assert (tmp_path / "odd ?#% name.db").stat().st_size > 0


# --- reading ---------------------------------------------------------------------------------------------------------


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


async def test_reading_after_a_crash_shows_the_last_commit_and_changes_nothing(
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


async def test_a_reader_sees_runs_that_begin_and_end_after_it_was_opened(open_file: OpenFile, file_url: str) -> None:
    store = await open_file()
    await finish(store, "a")
    await store.close()
    reader = await read_store(file_url)
    assert (await reader.sums()).finished == 1
    for names in (("b", "c"), ("d",)):
        store = await open_file()
        await finish(store, *names)
        assert (await reader.sums()).finished == (await store.sums()).finished
        finished = (await store.sums()).finished
        await store.close()
        assert (await reader.sums()).finished == finished
        store = await open_file()
        await finish(store, f"{names[0]} again")
        await store.close()
        assert (await reader.sums()).finished == finished + 1, "a whole run between two reads"
    await reader.close()


async def test_reading_without_a_state_is_refused(tmp_path: Path, file_url: str) -> None:
    with pytest.raises(StoreUnusable, match="there is no state at"):
        await read_store(file_url)
    (tmp_path / "poller.db").touch()
    with pytest.raises(StoreUnusable, match="holds nothing yet"):
        await read_store(file_url)
    with pytest.raises(ConfigError, match="memory"):
        await read_store("sqlite:///:memory:")


async def test_a_name_that_no_file_can_have_is_refused_as_one_that_has_none(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/{'x' * 300}.db"
    assert is_new(url)
    with pytest.raises(StoreUnusable, match="there is no state at"):
        await read_store(url)
    with pytest.raises(StoreUnusable, match="File name too long"):
        await open_store(url, clock=lambda: 0.0)


async def test_a_closed_state_is_one_file(open_file: OpenFile, tmp_path: Path) -> None:
    store = await open_file()
    await finish(store, "a")
    await store.close()
    assert contents(tmp_path).keys() == {"poller.db", "poller.db.lock"}


# --- older versions --------------------------------------------------------------------------------------------------


def write_version(version: int, path: Path) -> None:
    with sqlite3.connect(path) as connection:
        connection.executescript((STATES / f"sqlite_version_{version}.sql").read_text("utf-8"))
    connection.close()


LANDED, EMPTY = b'{"task_id":"kept","result":{"id":"1"}}', b'{"task_id":"kept","result":null}'


@pytest.mark.parametrize(("body", "landed"), [(LANDED, 1), (EMPTY, 0), (b"no record", 0)])
async def test_an_older_state_learns_whether_its_files_landed(
    open_file: OpenFile, tmp_path: Path, body: bytes, landed: int
) -> None:
    write_version(3, tmp_path / "poller.db")
    with closing(sqlite3.connect(tmp_path / "poller.db")) as connection:
        connection.execute("UPDATE record SET body = ?, reason = 'r'", (body,))
        connection.execute("UPDATE task SET kind = 'complete_with_errors' WHERE kind IS NOT NULL")
        connection.execute("INSERT OR REPLACE INTO pruned (kind, tasks, looks) VALUES ('complete', 5, 9)")
        connection.commit()
    store = await open_file()
    sums = await store.sums()
    assert sums.landed["complete_with_errors"] == landed
    assert sums.landed["complete"] == 5
    assert sums.reasons == (ReasonSum("r", 1, landed),)


async def test_a_migration_of_many_tasks_shows_its_progress_and_may_be_interrupted(
    open_file: OpenFile, tmp_path: Path, events: list[MutableMapping[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(versions, "REPORTED_EVERY", 10)
    monkeypatch.setattr(schema, "MIGRATED_AT_ONCE", 4)
    write_version(3, tmp_path / "poller.db")
    with closing(sqlite3.connect(tmp_path / "poller.db")) as connection:
        (known,) = connection.execute("SELECT count(kind) FROM task").fetchone()
        for number in range(40 - known):
            (key,) = connection.execute(
                "INSERT INTO task (account, task_id, kind, due_at, fed_at, paused_base_s)"
                " VALUES (1, ?, 'canceled', 0, 0, 0) RETURNING key",
                (f"more-{number}",),
            ).fetchone()
            connection.execute("INSERT INTO record (task, seen_at, body) VALUES (?, 1, ?)", (key, LANDED))
        connection.commit()
    opening = asyncio.ensure_future(open_file())
    while not named(events, "store.migration_advanced"):  # noqa: ASYNC110 - in the middle of it
        await asyncio.sleep(0)
    opening.cancel()
    with pytest.raises(asyncio.CancelledError):
        await opening
    with closing(sqlite3.connect(tmp_path / "poller.db")) as connection:
        assert connection.execute("PRAGMA user_version").fetchone() == (3,)
    events.clear()
    store = await open_file()
    advanced = named(events, "store.migration_advanced")
    assert [each["tasks"] // 10 for each in advanced] == [1, 2, 3, 4]
    assert {each["of"] for each in advanced} == {40}
    assert (await store.sums()).landed["canceled"] >= 40 - known


async def test_a_state_of_version_1_is_migrated_with_everything_in_it(
    open_file: OpenFile, tmp_path: Path, file_url: str, events: list[MutableMapping[str, Any]]
) -> None:
    write_version(1, tmp_path / "poller.db")
    with pytest.raises(StoreUnusable, match="older version 1"):
        await read_store(file_url)
    store = await open_file()
    opening = [event for event in events if event["event"] in ("store.migrating", "store.opened")]
    assert [(event["event"], event["migrated_from"]) for event in opening] == [
        ("store.migrating", 1),
        ("store.opened", 1),
    ]
    sums = await store.sums()
    assert imbalances(sums) == []
    assert (sums.finished, sums.waiting, sums.polls, sums.pruned) == (3, 1, 4, 0)
    assert sums.accounts["main"].pause == "outage"
    assert sums.sinks == (
        SinkSums(name="one", delivered=1, undelivered=1, dead=1, attached=True),
        SinkSums(name="two", delivered=0, undelivered=3, dead=0, attached=False),
    )
    refused = Delivery(number=2, account="main", task_id="refused", body=b'{"task_id":"refused"}')
    dead = DeadLetter(sink="one", reason="too big", refused_at=1000.0, delivery=refused)
    assert await store.dead_letters(with_bodies=True) == [dead]
    assert await store.replay("one", Selection(dead=True)) == 1
    assert await store.attach_sinks(["one"]) == {"one": b"33"}
    assert ids(await store.undelivered("one", 9)) == ["refused", "canceled"]
    (waiting,) = await store.claim("main", 9)
    assert (waiting.task_id, waiting.ref, waiting.errors) == ("waiting", b'{"row":"waiting"}', 2)


async def test_a_state_of_version_3_is_migrated_with_its_polls_and_what_was_pruned(
    open_file: OpenFile, tmp_path: Path
) -> None:
    write_version(3, tmp_path / "poller.db")
    store = await open_file()
    sums = await store.sums()
    assert imbalances(sums) == []
    assert (sums.waiting, sums.finished, sums.pruned, sums.polls) == (1, 3, 2, 2 + 3 + 4)
    assert sums.kinds == {"complete": 2, "canceled": 1}
    assert sums.sinks == (SinkSums(name="one", delivered=2, undelivered=1, dead=0, attached=True),)
    (kept,), (waiting,) = [await store.task_details(task_id) for task_id in ("kept", "waiting")]
    assert (kept.polls, [poll.at for poll in kept.poll_log]) == (3, [1000.0, 1001.0, 1010.0])
    assert (waiting.polls, [poll.outcome for poll in waiting.poll_log]) == (2, ["running", "running"])
    assert (waiting.requested_at, waiting.status) == (900.0, "PROCESSING")
    assert (sums.accounts["main"].pause, sums.accounts["main"].day_requests) == ("outage", 8)
    assert await store.knowledge("main") == b"much"
    await store.record([finished(task) for task in await store.claim("main", 9)])
    assert (await store.sums()).polls == 10


async def test_a_migration_that_is_cut_short_leaves_the_older_state(open_file: OpenFile, tmp_path: Path) -> None:
    path = tmp_path / "poller.db"
    write_version(1, path)
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE pruned (something_in_the_way)")
    connection.close()
    with pytest.raises(StoreError, match="already exists"):
        await open_file()
    with sqlite3.connect(path) as connection:
        assert connection.execute("PRAGMA user_version").fetchone() == (1,)
        connection.execute("DROP TABLE pruned")
    connection.close()
    assert (await (await open_file()).sums()).finished == 3


@pytest.mark.parametrize("version", [1, 3])
async def test_a_migrated_state_has_the_tables_of_a_new_one(tmp_path: Path, version: int) -> None:
    write_version(version, tmp_path / "old.db")
    schemas = []
    for name in ("old.db", "poller.db"):
        store = await open_store(f"sqlite:///{tmp_path}/{name}", clock=lambda: 1.0)
        await store.close()
        with sqlite3.connect(tmp_path / name) as connection:
            schemas.append(set(connection.execute("SELECT type, name, sql FROM sqlite_schema")))
            assert connection.execute("PRAGMA user_version").fetchone() == (VERSION,)
        connection.close()
    assert schemas[0] == schemas[1]
