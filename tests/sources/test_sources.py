"""The promises of `[[sources]]`: files, patterns, drop folders and standard input, each line of each once."""

import asyncio
import errno
import fcntl
import os
import resource
import shutil
from collections import Counter
from collections.abc import AsyncIterator, Callable, MutableMapping, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from random import Random
from typing import Any

import pytest

from poller.app.inputs import missing_sources
from poller.config import load
from poller.core.errors import ConfigError, Exit, InputError
from poller.core.model import Added, Chunk
from poller.core.open_files import raise_limit
from poller.core.protocols import Clock, Store
from poller.core.steady_clock import SteadyClock
from poller.core.sums import SourceSums
from poller.engine.ingest import Ingest
from poller.sandbox import Scenario, parse_durations
from poller.sources import ChunkWriter, ReadOptions, Source, check_beginnings, check_sources, feed
from poller.sources.files.glob_files import current_of
from poller.sources.files.moved_files import move_into
from poller.sources.intake import SharedLock
from poller.store import open_store
from tests.support.simulation import Simulation, named, settings_for

Events = list[MutableMapping[str, Any]]

SOON_S = 5.0  # a dropped file is read within it
READ = ReadOptions(accounts=frozenset({"main", "eu"}), default_account="main", chunk_lines=100)


@pytest.fixture
async def store(clock: Clock) -> AsyncIterator[Store]:
    opened = await open_store("sqlite:///:memory:", clock=clock)
    yield opened
    await opened.close()


def file(path: Path, *, follow: bool = False) -> Source:
    return Source(kind="file", location=str(path), options=READ, follow=follow)


def pattern(text: Path, *, follow: bool = False) -> Source:
    return Source(kind="glob", location=str(text), options=READ, follow=follow)


def folder(path: Path, *, follow: bool = False, settle_s: float = 2.0) -> Source:
    return Source(kind="folder", location=str(path), options=READ, follow=follow, settle_s=settle_s)


class Fed:
    """An ingest at work."""

    def __init__(
        self,
        store: Store,
        clock: Clock,
        sources: Sequence[Source],
        *,
        on_chunk: Callable[[Chunk], None] = lambda _chunk: None,
    ) -> None:
        self._on_chunk = on_chunk
        self.has_ended = asyncio.Event()
        self.chunks = asyncio.Semaphore(0)  # released with each
        self.ingest = Ingest(
            store,
            sources,
            clock=clock,
            stdin=0,
            tolerant=any(source.follow for source in sources),
            on_chunk=self._note,
            on_ended=self.has_ended.set,
        )

    def _note(self, chunk: Chunk, _added: Added) -> None:
        self.chunks.release()
        self._on_chunk(chunk)

    async def has_chunks(self, count: int) -> None:
        for _ in range(count):
            await self.chunks.acquire()


@asynccontextmanager
async def reading(store: Store, clock: Clock, *sources: Source) -> AsyncIterator[Fed]:
    """Read the sources meanwhile, and stop at any await."""
    async with asyncio.TaskGroup() as group:
        fed = Fed(store, clock, sources)
        fed.ingest.start(group)
        await asyncio.sleep(SOON_S)
        yield fed
        fed.ingest.stop()


async def feed_all(store: Store, clock: Clock, *sources: Source) -> Ingest:
    """Read sources that end, to their end."""
    fed = Fed(store, clock, sources)
    async with asyncio.TaskGroup() as group:
        fed.ingest.start(group)
    return fed.ingest


def names(path: Path) -> set[str]:
    return {each.name for each in path.iterdir()}


def open_files() -> int:
    return len(names(Path("/proc/self/fd")))


async def fed_ids(store: Store, account: str = "main") -> list[str]:
    tasks = await store.claim(account, 100_000)
    store.release(tasks)
    return [task.task_id for task in sorted(tasks, key=lambda task: task.key)]


async def lines(store: Store) -> list[tuple[int, int, int, int]]:
    """Return lines, tasks, duplicates and rejected ones of each source."""
    return [(s.lines, s.tasks, s.duplicates, s.rejected) for s in (await store.sums()).sources]


# --- a drop folder ---------------------------------------------------------------------------------------------------


async def test_dropped_files_are_read_whole_and_moved_to_done(store: Store, clock: Clock, tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("id,url\nA1,https://x/1\n")
    (tmp_path / "b.txt").write_text("B1\n../..\nB2")
    async with reading(store, clock, folder(tmp_path, follow=True)):
        (tmp_path / "c.jsonl").write_text('{"id": "C1"}\n')
        await asyncio.sleep(SOON_S)
    assert sorted(await fed_ids(store)) == ["A1", "B1", "B2", "C1"]
    assert names(tmp_path / "done") == {"a.csv", "b.1-rejected.txt", "c.jsonl"}
    assert names(tmp_path) == {"done"}
    assert sorted(await lines(store)) == [(1, 1, 0, 0), (2, 1, 0, 0), (3, 2, 0, 1)]


async def test_a_run_that_does_not_follow_empties_the_folder_and_ends(
    store: Store, clock: Clock, tmp_path: Path
) -> None:
    for number in range(5):
        (tmp_path / f"{number}.txt").write_text(f"A{number}\n")
    await feed_all(store, clock, folder(tmp_path))
    assert len(await fed_ids(store)) == len(list((tmp_path / "done").iterdir())) == 5


async def test_a_file_that_is_still_being_written_is_not_taken_half(store: Store, clock: Clock, tmp_path: Path) -> None:
    growing = tmp_path / "slow.txt"
    async with reading(store, clock, folder(tmp_path, follow=True)):
        for number in range(10):
            with growing.open("a") as file:  # reopened for each line, as `echo … >>` does
                file.write(f"A{number}\n")
            await asyncio.sleep(1.5)
            assert await fed_ids(store) == []
        await asyncio.sleep(SOON_S)
    assert len(await fed_ids(store)) == 10
    assert await lines(store) == [(10, 10, 0, 0)]


async def test_a_file_that_its_writer_keeps_open_is_waited_for_however_long_it_is_unchanged(
    store: Store, clock: Clock, tmp_path: Path, events: Events
) -> None:
    with (tmp_path / "open.txt").open("w") as file:
        file.write("A1\nA")
        file.flush()
        async with reading(store, clock, folder(tmp_path, follow=True)):
            await asyncio.sleep(600)
            assert await fed_ids(store) == []
            file.write("2\n")
            file.close()
            await asyncio.sleep(SOON_S)
            assert await fed_ids(store) == ["A1", "A2"]
    assert [event["reason"] for event in named(events, "source.waited_for")] == ["open.txt is still open for writing"]


@pytest.fixture
def others_file(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files are another user's: their leases are refused."""
    ask = fcntl.fcntl

    def refuse(fd: int, command: int, *args: int) -> int:
        if command == fcntl.F_SETLEASE:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        return ask(fd, command, *args)

    monkeypatch.setattr(fcntl, "fcntl", refuse)


@pytest.mark.usefixtures("others_file")
async def test_a_file_of_another_user_rests_longer_and_is_moved_back_where_it_grows_afterwards(
    store: Store, clock: Clock, tmp_path: Path, events: Events
) -> None:
    (tmp_path / "other.txt").write_text("B1\n")
    with (tmp_path / "slow.txt").open("w", buffering=1) as file:
        async with reading(store, clock, folder(tmp_path, follow=True)):
            for number in range(3):
                file.write(f"A{number}\nA")
                await asyncio.sleep(25)
                assert not any(task_id.startswith("A") for task_id in await fed_ids(store))
            await asyncio.sleep(10)
            assert names(tmp_path / "done") == {"slow.txt", "other.txt"}
            (tmp_path / "slow.txt").write_text("C1\n")
            file.write("3\nA4\n")
            await asyncio.sleep(120)
            assert (await fed_ids(store))[-3:] == ["C1", "A3", "A4"]
    assert {path.read_text() for path in (tmp_path / "done").glob("slow*")} == {"A0\nAA1\nAA2\nA3\nA4\n", "C1\n"}
    assert len(named(events, "source.file_moved_back")) == 1
    assert ["unchanged for 30 s" in event["reason"] for event in named(events, "source.waited_for")] == [True]


@pytest.mark.usefixtures("others_file")
async def test_a_file_that_was_moved_before_a_reload_is_moved_back_where_it_grows_after_it(
    store: Store, clock: Clock, tmp_path: Path, events: Events
) -> None:
    with (tmp_path / "slow.txt").open("w", buffering=1) as file:
        async with reading(store, clock, folder(tmp_path, follow=True)) as fed:
            file.write("A0\n")
            await asyncio.sleep(60)
            assert names(tmp_path / "done") == {"slow.txt"}
            await fed.ingest.change([folder(tmp_path, follow=True, settle_s=3.0)])
            file.write("A1\n")
            await asyncio.sleep(120)
            assert await fed_ids(store) == ["A0", "A1"]
    assert len(named(events, "source.file_moved_back")) == 1


@pytest.mark.parametrize(("moved_s", "set_s"), [(3600.0, 0.0), (0.0, -3600.0), (0.0, 3600.0)])
@pytest.mark.usefixtures("others_file")
async def test_a_file_in_a_writers_hands_is_not_taken_for_an_old_one_by_a_clock_that_differs(
    store: Store, clock: Clock, tmp_path: Path, moved_s: float, set_s: float
) -> None:
    """A fleet goes by the server's clock, a file has the machine's, and a person may set that one meanwhile."""
    machine = [clock() - 1e6 - asyncio.get_running_loop().time()]

    def wall() -> float:
        return machine[0] + asyncio.get_running_loop().time()

    steady = SteadyClock(wall, asyncio.get_running_loop().time)
    steady.move(moved_s, since="the server of the state")
    path = tmp_path / "slow.txt"
    with path.open("w", buffering=1) as file:
        async with reading(store, steady, folder(tmp_path, follow=True)):
            for number in range(4):
                file.write(f"A{number}\nA")
                os.utime(path, (wall(), wall()))
                if number == 1:
                    machine[0] += set_s
                await asyncio.sleep(10)
                assert await fed_ids(store) == []
            await asyncio.sleep(35)
            assert len(await fed_ids(store)) == 5


async def test_a_file_renamed_into_the_folder_is_taken_at_once(store: Store, clock: Clock, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    async with reading(store, clock, folder(tmp_path / "in", follow=True, settle_s=3600)):
        old = tmp_path / "a.txt"
        old.write_text("A1\n")
        os.utime(old, (clock() - 7200, clock() - 7200))
        old.rename(tmp_path / "in" / "a.txt")
        await asyncio.sleep(SOON_S)
        assert await fed_ids(store) == ["A1"]


@pytest.mark.parametrize("name", [".hidden.csv", "a.csv.tmp", "a.part", "A.PART", "a.csv~", ".a.csv.Xy12", "~$a.xlsx"])
async def test_hidden_and_temporary_names_are_left_alone(store: Store, clock: Clock, tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("A1\n")
    (tmp_path / "folder.csv").mkdir()
    await feed_all(store, clock, folder(tmp_path))
    assert await fed_ids(store) == []
    assert names(tmp_path) == {name, "folder.csv"}


async def test_nothing_in_done_is_ever_overwritten(store: Store, clock: Clock, tmp_path: Path) -> None:
    for number in range(3):
        (tmp_path / "a.csv").write_text(f"id\nA{number}\n")
        await feed_all(store, clock, folder(tmp_path))
    assert {path.name: path.read_text() for path in (tmp_path / "done").iterdir()} == {
        "a.csv": "id\nA0\n",
        "a.1.csv": "id\nA1\n",
        "a.2.csv": "id\nA2\n",
    }


async def test_a_file_of_the_same_name_is_another_file_also_where_it_begins_like_the_first(
    store: Store, clock: Clock, tmp_path: Path
) -> None:
    for count in (2, 2, 3):
        (tmp_path / "all.txt").write_text("".join(f"A{number}\n" for number in range(count)))
        await feed_all(store, clock, folder(tmp_path))
    assert await lines(store) == [(2, 2, 0, 0), (2, 0, 2, 0), (3, 1, 2, 0)]


async def test_what_cannot_be_read_goes_to_failed_and_holds_up_no_other(
    store: Store, clock: Clock, tmp_path: Path, events: Events
) -> None:
    (tmp_path / "a.csv").write_text("url,name\nhttps://x/1,one\n")
    (tmp_path / "b.csv.gz").write_bytes(b"\x1f\x8b\x08")
    (tmp_path / "c.csv").write_text("id\nC1\n")
    demanded = ReadOptions(accounts=frozenset({"main"}), default_account="main", format="csv")
    await feed_all(store, clock, Source(kind="folder", location=str(tmp_path), options=demanded))
    assert await fed_ids(store) == ["C1"]
    assert names(tmp_path / "failed") == {"a.csv", "b.csv.gz"}
    reasons = [event["reason"] for event in named(events, "source.file_failed")]
    assert any("column" in reason for reason in reasons)
    assert any("unpack it" in reason for reason in reasons)


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("a.xlsx", b"PK\x03\x04[Content_Types].xml", "Excel workbook"),
        ("a.csv", b"name,url\nx,y\n", "Columns found: 'name', 'url'"),
        ("a.json", b'[{"name": 1}]', "line 1: no id: there is no key"),
        ("a.txt", b"a b\nnull\n", "no line of"),
    ],
)
async def test_a_dropped_file_without_a_usable_line_goes_to_failed(
    store: Store, clock: Clock, tmp_path: Path, events: Events, name: str, content: bytes, reason: str
) -> None:
    (tmp_path / name).write_bytes(content)
    await feed_all(store, clock, folder(tmp_path))
    assert names(tmp_path / "failed") == {name}
    assert not (tmp_path / "done").exists()
    assert reason in named(events, "source.file_failed")[0]["reason"]


async def test_a_dropped_file_with_some_rejected_lines_is_marked_in_its_name_and_in_the_log(
    store: Store, clock: Clock, tmp_path: Path, events: Events
) -> None:
    (tmp_path / "a.txt").write_text("A1\na b\nnull\n")
    (tmp_path / "b.txt").write_text("# none today\n")
    await feed_all(store, clock, folder(tmp_path))
    assert names(tmp_path / "done") == {"a.2-rejected.txt", "b.txt"}
    [moved, _] = named(events, "source.file_moved")
    assert (moved["log_level"], moved["rejected"]) == ("warning", 2)


@pytest.mark.parametrize("first", ["name,url\na,b\n", "task_id,name\nA1,b\n"])
async def test_a_file_that_takes_a_dropped_one_s_place_before_it_is_moved_is_read_itself(
    store: Store, clock: Clock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, first: str
) -> None:
    """Such as the corrected one: it was moved in place of the other, unread."""
    path = tmp_path / "a.csv"
    path.write_text(first)
    source_sums = store.source

    async def replace(_what: str) -> None:
        if "B1" not in path.read_text():
            (tmp_path / ".next").write_text("task_id,name\nB1,b\nB2,b\n")
            (tmp_path / ".next").rename(path)

    async def sums_late(name: str) -> SourceSums | None:
        await replace(name)
        return await source_sums(name)

    monkeypatch.setattr(store, "source", sums_late)
    fed = Fed(store, clock, [folder(tmp_path)])
    fed.ingest.on_refused = replace
    async with asyncio.TaskGroup() as group:
        fed.ingest.start(group)
    assert (await fed_ids(store))[-2:] == ["B1", "B2"]
    assert names(tmp_path) == {"done"}


def test_a_file_that_takes_the_place_of_one_while_it_is_moved_is_not_deleted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, link = tmp_path / "a.txt", os.link
    path.write_text("A1\n")

    def link_and_replace(*args: Any, **options: Any) -> None:
        link(*args, **options)
        (tmp_path / ".next").write_text("B1\n")
        (tmp_path / ".next").rename(path)

    monkeypatch.setattr(os, "link", link_and_replace)
    assert move_into(path, tmp_path / "done").read_text() == "A1\n"
    assert path.read_text() == "B1\n"


async def test_a_dropped_file_that_grows_while_it_is_read_is_read_to_its_new_end_before_it_is_moved(
    store: Store, clock: Clock, tmp_path: Path
) -> None:
    path = tmp_path / "a.txt"
    path.write_text("A1\nA2\n")

    def grow(chunk: Chunk) -> None:
        if chunk.position.ended and path.stat().st_size < 9:
            with path.open("a") as writer:
                writer.write("A3\n")

    async with asyncio.TaskGroup() as group:
        Fed(store, clock, [folder(tmp_path)], on_chunk=grow).ingest.start(group)
    assert await fed_ids(store) == ["A1", "A2", "A3"]
    assert (tmp_path / "done/a.txt").read_text() == "A1\nA2\nA3\n"


class FailingReads:
    """Reads of files fail while `error` is set, those from `offset` on."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.error: OSError | None = None
        self.offset = 0
        self._read, self._pread, self._open = os.read, os.pread, os.open
        for name in ("read", "pread", "open"):
            patch.setattr(os, name, getattr(self, name))

    def read(self, fd: int, length: int) -> bytes:
        if self.error is not None and self.error.errno == errno.EIO and os.lseek(fd, 0, os.SEEK_CUR) >= self.offset:
            raise self.error
        return self._read(fd, length)

    def pread(self, fd: int, length: int, offset: int) -> bytes:
        return self._pread(fd, length, offset)

    def open(self, path: str, *args: Any, **options: Any) -> int:
        if self.error is not None and self.error.errno in (errno.EMFILE, errno.EACCES) and str(path).endswith(".txt"):
            raise self.error
        return self._open(path, *args, **options)


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch) -> FailingReads:
    return FailingReads(monkeypatch)


PASSING = [OSError(code, os.strerror(code)) for code in (errno.EIO, errno.EMFILE, errno.EACCES)]


@pytest.mark.parametrize("error", PASSING, ids=str)
@pytest.mark.parametrize("follow", [True, False])
async def test_a_read_error_that_passes_is_waited_for_and_decides_nothing_about_a_dropped_file(
    store: Store, clock: Clock, tmp_path: Path, events: Events, failing: FailingReads, error: OSError, follow: bool
) -> None:
    """The file is read on where it was left."""
    ids = [f"A{number:06}" for number in range(350)]
    for name in ("a.txt", "b.txt"):
        (tmp_path / name).write_text("".join(f"{name[0]}{task_id}\n" for task_id in ids))
    failing.error, failing.offset = error, 20
    async with asyncio.TaskGroup() as group:
        fed = Fed(store, clock, [folder(tmp_path, follow=follow)])
        fed.ingest.start(group)
        await asyncio.sleep(20)
        (tmp_path / "c.jsonl").write_text('{"id": "C1"}\n')
        await asyncio.sleep(20)
        assert names(tmp_path) >= {"a.txt", "b.txt"}
        assert not (tmp_path / "failed").exists()
        failing.error = None
        await asyncio.sleep(20)
        fed.ingest.stop()
    assert len(await fed_ids(store)) == 701
    assert names(tmp_path / "done") == {"a.txt", "b.txt", "c.jsonl"}
    assert sorted(row[1:] for row in await lines(store) if row[0]) == [(1, 0, 0), (350, 0, 0), (350, 0, 0)]
    waited = named(events, "source.waited_for")
    assert len(waited) == 2
    assert all(error.strerror in event["reason"] for event in waited)


async def test_a_run_with_an_end_gives_up_a_dropped_file_that_cannot_be_read_for_long_and_leaves_it_there(
    store: Store, clock: Clock, tmp_path: Path, failing: FailingReads
) -> None:
    """Its end is that of the input, not of the run: tasks of other files wait."""
    (tmp_path / "a.txt").write_text("A1\n")
    (tmp_path / "b.jsonl").write_text('{"id": "B1"}\n')
    failing.error = PASSING[2]
    ingest = await feed_all(store, clock, folder(tmp_path))
    assert (ingest.ended, ingest.is_input_left) == (True, True)
    assert "a.txt: Permission denied" in ingest.unread_reason
    assert await fed_ids(store) == ["B1"]
    assert names(tmp_path) == {"a.txt", "done"}


async def test_a_rotated_file_of_a_pattern_is_read_once_an_error_has_passed(
    store: Store, clock: Clock, tmp_path: Path, failing: FailingReads
) -> None:
    (tmp_path / "ids.txt").write_text("A1\n")
    (tmp_path / "ids-1.txt").write_text("A0\n")
    async with reading(store, clock, pattern(tmp_path / "ids*.txt", follow=True)):
        failing.error = PASSING[0]
        await asyncio.sleep(60)
        assert await fed_ids(store) == ["A1"]
        failing.error = None
        await asyncio.sleep(60)
    assert await fed_ids(store) == ["A1", "A0"]


@pytest.mark.parametrize(("content", "where"), [("a b\n", "failed/a.txt"), ("A1\na b\n", "done/a.1-rejected.txt")])
async def test_a_dropped_file_is_judged_alike_where_the_run_was_killed_before_it_was_moved(
    store: Store, clock: Clock, tmp_path: Path, content: str, where: str
) -> None:
    (tmp_path / "a.txt").write_text(content)
    writer = ChunkWriter(store, lambda _chunk, _added: None)
    await feed(str(tmp_path / "a.txt"), writer, READ)  # what a killed run had stored
    await feed_all(store, clock, folder(tmp_path))
    assert (tmp_path / where).exists()


async def test_a_link_in_a_drop_folder_is_not_followed(
    store: Store, clock: Clock, tmp_path: Path, events: Events
) -> None:
    secret = tmp_path / "secret"
    secret.write_text("SECRET\n")
    drop = tmp_path / "drop"
    drop.mkdir()
    (drop / "a.txt").symlink_to(secret)
    (drop / "b.txt").write_text("B1\n")
    await feed_all(store, clock, folder(drop))
    assert await fed_ids(store) == ["B1"]
    assert (drop / "failed/a.txt").is_symlink()
    assert secret.read_text() == "SECRET\n"
    assert "link" in named(events, "source.file_failed")[0]["reason"]


@pytest.mark.parametrize("follow", [False, True])
async def test_a_pattern_follows_no_link(store: Store, clock: Clock, tmp_path: Path, follow: bool) -> None:
    outside = tmp_path / "outside"
    inside = tmp_path / "inside"
    outside.mkdir()
    inside.mkdir()
    (outside / "s.txt").write_text("SECRET\n")
    (inside / "a.txt").write_text("A1\n")
    (inside / "l.txt").symlink_to(outside / "s.txt")
    (inside / "d").symlink_to(outside)
    (tmp_path / "alias").symlink_to(inside)
    async with reading(store, clock, pattern(tmp_path / "alias" / "**" / "*.txt", follow=follow)):
        if follow:  # a followed file that is replaced by a link is not followed there
            (inside / "a.txt").unlink()
            (inside / "a.txt").symlink_to(outside / "s.txt")
            await asyncio.sleep(20)
    assert await fed_ids(store) == ["A1"]


async def test_a_file_that_cannot_be_moved_is_not_read_again_and_is_moved_later(
    store: Store, clock: Clock, tmp_path: Path, events: Events
) -> None:
    (tmp_path / "done").write_text("# in the way\n")
    (tmp_path / "a.txt").write_text("A1\n")
    async with reading(store, clock, folder(tmp_path, follow=True)):
        await asyncio.sleep(100)
        assert [path.name for path in (tmp_path / "failed").glob("*")] == []
        (tmp_path / "done").unlink()
        await asyncio.sleep(100)
        assert (tmp_path / "done" / "a.txt").exists()
    assert [row for row in await lines(store) if row[1]] == [(1, 1, 0, 0)]
    assert named(events, "source.file_not_moved")


async def test_a_missing_folder_is_an_error_or_is_waited_for(store: Store, clock: Clock, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there is no folder"):
        check_sources([folder(tmp_path / "none")])
    async with reading(store, clock, folder(tmp_path / "none", follow=True)):
        (tmp_path / "none").mkdir()
        (tmp_path / "none" / "a.txt").write_text("A1\n")
        await asyncio.sleep(2 * SOON_S)
    assert await fed_ids(store) == ["A1"]


NO_PATHS = ["a" * 300, "loop/x"]


@pytest.mark.parametrize("name", NO_PATHS, ids=["long", "loop"])
async def test_a_path_that_cannot_be_looked_up_is_an_error_or_is_waited_for(
    store: Store, clock: Clock, tmp_path: Path, events: Events, name: str
) -> None:
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    (tmp_path / "ids.txt").write_text("A1\n")
    for kind in (file, folder):
        source = kind(tmp_path / name)
        assert source.is_rereadable
        with pytest.raises(InputError, match="cannot read the input"):
            check_sources([source])
        check_beginnings([source])
        assert "cannot read the" in (await feed_all(store, clock, source)).unread_reason
    await feed_all(store, clock, pattern(tmp_path / name))
    settings = load(None, {"sources": [{"path": str(tmp_path / name)}]}, {}, secrets_dir=tmp_path / "none")
    assert ["does not exist" in message for message in missing_sources(settings)] == [True]
    every = [kind(tmp_path / name / kind.__name__, follow=True) for kind in (file, folder, pattern)]
    async with reading(store, clock, *every, file(tmp_path / "ids.txt", follow=True)):
        await asyncio.sleep(100)
    assert await fed_ids(store) == ["A1"]
    assert len(named(events, "source.waited_for")) == 2


async def test_a_link_that_leads_nowhere_holds_up_no_other_file_of_a_drop_folder(
    store: Store, clock: Clock, tmp_path: Path
) -> None:
    (tmp_path / "loop.txt").symlink_to(tmp_path / "loop.txt")
    (tmp_path / "a.txt").write_text("A1\n")
    await feed_all(store, clock, folder(tmp_path))
    assert await fed_ids(store) == ["A1"]
    assert names(tmp_path / "failed") == {"loop.txt"}


def test_a_move_that_was_cut_off_is_finished_by_the_next(tmp_path: Path) -> None:
    file = tmp_path / "a.txt"
    file.write_text("A1\n")
    (tmp_path / "done").mkdir()
    os.link(file, tmp_path / "done" / "a.txt")
    assert move_into(file, tmp_path / "done") == tmp_path / "done" / "a.txt"
    assert [path.name for path in (tmp_path / "done").iterdir()] == ["a.txt"]
    assert not file.exists()


async def test_killed_at_any_instant_a_drop_folder_counts_every_line_once(clock: Clock, tmp_path: Path) -> None:
    """Each life is cut off at a random instant: the state and the folder are copied as they are then."""
    rng, dropped, cut_short = Random(5), 0, 0
    base, left = tmp_path / "before", tmp_path / "left"
    (base / "in").mkdir(parents=True)
    for _ in range(60):
        for _ in range(rng.randrange(4)):
            count = rng.choice([1, 3, 450])
            fresh = "".join(f"A{number}\n" for number in range(dropped, dropped + count))
            (base / "in" / f"{dropped}.txt").write_text(fresh)
            dropped += count
        store = await open_store(f"sqlite:///{base}/poller.db", clock=clock)
        async with asyncio.TaskGroup() as group:
            fed = Fed(store, clock, [folder(base / "in", follow=True, settle_s=0.1)])
            fed.ingest.start(group)
            with suppress(TimeoutError):
                await asyncio.wait_for(fed.has_chunks(rng.randrange(8)), rng.choice([rng.uniform(0, 1.3), 3]))
            copy_with_inodes(base, left)
            cut_short += any(0 < s.lines < 450 and not s.ended for s in (await store.sums()).sources)
            fed.ingest.stop()
        await store.close()
        shutil.rmtree(base)
        left.rename(base)
    store = await open_store(f"sqlite:///{base}/poller.db", clock=clock)
    await feed_all(store, clock, folder(base / "in", settle_s=0.1))
    rows, ids = await lines(store), await fed_ids(store)
    await store.close()
    assert cut_short >= 5
    assert Counter(ids) == Counter(f"A{number}" for number in range(dropped))
    assert (sum(row[0] for row in rows), sum(row[2] for row in rows)) == (dropped, 0)


def copy_with_inodes(base: Path, target: Path) -> None:
    """Copy what a kill leaves: the state's files as they are, the dropped files themselves."""
    (target / "in" / "done").mkdir(parents=True)
    for path in base.glob("poller.db*"):
        if not path.name.endswith((".lock", "-shm")):
            shutil.copy2(path, target / path.name)
    for path in (base / "in").rglob("*.txt"):
        os.link(path, target / path.relative_to(base))


# --- patterns --------------------------------------------------------------------------------------------------------


async def test_a_pattern_reads_what_matches_and_followed_picks_up_what_comes(
    store: Store, clock: Clock, tmp_path: Path
) -> None:
    (tmp_path / "a.csv").write_text("id\nA1\n")
    (tmp_path / "other.txt").write_text("B1\n")
    async with reading(store, clock, pattern(tmp_path / "*.csv", follow=True)):
        (tmp_path / "c.csv").write_text("id\nC1\n")
        with (tmp_path / "a.csv").open("a") as file:
            file.write("A2\n")
        await asyncio.sleep(SOON_S)
        assert sorted(await fed_ids(store)) == ["A1", "A2", "C1"]


async def test_a_pattern_that_does_not_follow_is_read_once_and_ends(store: Store, clock: Clock, tmp_path: Path) -> None:
    for name in "ab":
        (tmp_path / f"{name}.csv").write_text(f"id\n{name}1\n")
    await feed_all(store, clock, pattern(tmp_path / "*.csv"))
    assert await fed_ids(store) == ["a1", "b1"]


async def test_files_rotated_within_the_pattern_count_once_also_while_no_run_follows(
    store: Store, clock: Clock, tmp_path: Path
) -> None:
    written = 0

    def append(count: int) -> None:
        nonlocal written
        with (tmp_path / "ids.txt").open("a") as file:
            file.write("".join(f"A{number}\n" for number in range(written, written + count)))
        written += count

    def rotate() -> None:
        for number in range(9, 0, -1):
            if (tmp_path / f"ids.txt.{number}").exists():
                (tmp_path / f"ids.txt.{number}").rename(tmp_path / f"ids.txt.{number + 1}")
        (tmp_path / "ids.txt").rename(tmp_path / "ids.txt.1")
        (tmp_path / "ids.txt").touch()

    append(3)
    for _ in range(3):
        async with reading(store, clock, pattern(tmp_path / "ids*", follow=True)):
            append(2)
            rotate()
            append(2)
            await asyncio.sleep(60)
        append(2)
        rotate()
        append(1)
    async with reading(store, clock, pattern(tmp_path / "ids*", follow=True)):
        await asyncio.sleep(120)
    assert Counter(await fed_ids(store)) == Counter(f"A{number}" for number in range(written))
    assert sum(row[0] for row in await lines(store)) == written


async def test_files_that_were_rotated_before_the_first_run_belong_to_the_pattern(
    store: Store, clock: Clock, tmp_path: Path
) -> None:
    (tmp_path / "ids.txt.1").write_text("A1\n")
    (tmp_path / "ids.txt.2.gz").write_text("gzip")
    (tmp_path / "ids.txt").write_text("A2\n")
    async with reading(store, clock, pattern(tmp_path / "ids*", follow=True)):
        await asyncio.sleep(60)
    assert sorted(await fed_ids(store)) == ["A1", "A2"]
    assert await lines(store) == [(1, 1, 0, 0), (1, 1, 0, 0)]


@pytest.mark.parametrize(
    ("name", "rotated"),
    [
        ("ids.txt.1", True),
        ("ids-20260101.txt", True),
        ("ids-2026-01-01.txt", True),
        ("ids.txt.3.gz", True),
        ("ids.txt.gz", True),
        ("ids.txt", False),
        ("other-1.txt", False),
    ],
)
def test_rotated_names_are_those_of_another_match_with_a_mark(name: str, rotated: bool) -> None:
    assert (current_of(f"in/{name}", {"in/ids.txt", f"in/{name}"}) is not None) is rotated


async def test_the_files_of_a_followed_pattern_are_stored_in_common_commits(
    store: Store, clock: Clock, tmp_path: Path
) -> None:
    for number in range(50):
        (tmp_path / f"batch-x{number}.txt").write_text(f"A{number}\n")
    loop = asyncio.get_running_loop()
    begun = loop.time()
    async with asyncio.TaskGroup() as group:
        fed = Fed(store, clock, [pattern(tmp_path / "*.txt", follow=True)])
        fed.ingest.start(group)
        await fed.has_chunks(50)
        took_s = loop.time() - begun
        fed.ingest.stop()
    assert len(await fed_ids(store)) == 50
    assert took_s < 0.5  # one after the other: 5


async def test_who_holds_a_shared_lock_alone_waits_for_the_others_and_they_for_it() -> None:
    lock, order, begun = SharedLock(), list[str](), asyncio.Event()

    async def share(name: str, for_s: float) -> None:
        async with lock.shared():
            order.append(name)
            await asyncio.sleep(for_s)
            order.append(f"{name} ends")

    async def hold_alone() -> None:
        begun.set()
        async with lock:
            order.append("alone")
            await asyncio.sleep(1)

    async with asyncio.TaskGroup() as group:
        group.create_task(share("a", 2))
        group.create_task(share("b", 1))
        await asyncio.sleep(0.1)
        group.create_task(hold_alone())
        cut_off = group.create_task(hold_alone())
        await begun.wait()
        group.create_task(share("c", 1))
        cut_off.cancel()
    assert order == ["a", "b", "b ends", "a ends", "alone", "c", "c ends"]


async def test_more_files_than_may_be_open_wait_for_a_place(
    store: Store, clock: Clock, tmp_path: Path, events: Events, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (40, 40))
    paths = [tmp_path / f"batch-x{number:02}.txt" for number in range(30)]
    for path in paths:
        path.write_text(f"{path.stem}\n")
    async with reading(store, clock, pattern(tmp_path / "*.txt", follow=True)):
        assert len(await fed_ids(store)) == 20
        for path in paths[:12]:
            path.unlink()
        await asyncio.sleep(200)
        assert len(await fed_ids(store)) == 30
    [waited] = named(events, "source.waited_for")
    assert "20 files are followed, as many as a limit of 40 open files leaves room for" in waited["reason"]


def test_the_limit_of_open_files_is_raised_to_what_the_system_permits() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(soft, 512), hard))
        raise_limit()
        most = 65_536 if hard == resource.RLIM_INFINITY else min(hard, 65_536)
        assert resource.getrlimit(resource.RLIMIT_NOFILE) == (most, hard)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


async def test_a_match_that_was_deleted_is_not_followed_any_more(store: Store, clock: Clock, tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("id\nA1\n")
    async with reading(store, clock, pattern(tmp_path / "*.csv", follow=True)):
        opened = open_files()
        (tmp_path / "a.csv").unlink()
        await asyncio.sleep(120)
        assert open_files() == opened - 1
        (tmp_path / "a.csv").write_text("id\nA2\n")
        await asyncio.sleep(2 * SOON_S)
    assert await fed_ids(store) == ["A1", "A2"]


# --- several sources -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("follow", [False, True])
async def test_a_file_named_twice_is_read_once(
    store: Store, clock: Clock, tmp_path: Path, follow: bool, events: Events
) -> None:
    ids = tmp_path / "ids.txt"
    ids.write_text("A1\n")
    (tmp_path / "link.txt").symlink_to(ids)
    other = tmp_path / ".." / tmp_path.name / "ids.txt"
    sources = [file(ids, follow=follow), file(tmp_path / "link.txt", follow=follow), file(other, follow=follow)]
    async with reading(store, clock, *sources, pattern(tmp_path / "*.txt", follow=follow)):
        pass
    assert await lines(store) == [(1, 1, 0, 0)]
    assert len(named(events, "source.named_twice")) == 2


async def test_sources_that_end_are_read_in_turn_beside_those_that_are_followed(
    store: Store, clock: Clock, tmp_path: Path
) -> None:
    for name in "abc":
        (tmp_path / name).write_text(f"{name}1\n{name}2\n")
    sources = [file(tmp_path / "c", follow=True), file(tmp_path / "b"), file(tmp_path / "a")]
    async with reading(store, clock, *sources):
        with (tmp_path / "c").open("a") as written:
            written.write("c3\n")
        await asyncio.sleep(SOON_S)
    ids = await fed_ids(store)
    assert [task_id for task_id in ids if task_id[0] != "c"] == ["b1", "b2", "a1", "a2"]
    assert [task_id for task_id in ids if task_id[0] == "c"] == ["c1", "c2", "c3"]


async def test_a_source_that_is_removed_and_added_back_resumes_where_it_was(
    store: Store, clock: Clock, tmp_path: Path
) -> None:
    """Whenever it is taken out, and whatever it was doing."""
    ids, rng, fed_lines = tmp_path / "ids.txt", Random(3), []

    def count(chunk: Chunk, _added: object) -> None:
        fed_lines.append(len(chunk.fed))

    ids.write_text("".join(f"A{number}\n" for number in range(3_000)))
    source = file(ids, follow=True)
    async with asyncio.TaskGroup() as group:
        ingest = Ingest(store, [source], clock=clock, stdin=0, tolerant=True, on_chunk=count, on_ended=lambda: None)
        ingest.start(group)
        for _ in range(30):
            await asyncio.sleep(rng.choice([0, 0.001, rng.uniform(0, 0.05)]))
            await ingest.change([])
            assert sum(fed_lines) == sum(row[1] for row in await lines(store)), "what is stored is counted, and no more"
            await ingest.change([source])
        await asyncio.sleep(SOON_S)
        ingest.stop()
    assert await lines(store) == [(3_000, 3_000, 0, 0)]
    assert sum(fed_lines) == 3_000


async def test_each_source_has_its_own_account_and_format(tmp_path: Path, clock: Clock) -> None:
    simulation = Simulation(tmp_path, clock, Scenario(fates={}, durations=parse_durations("fixed:5")))
    first, second = simulation.api.preload(2)
    (tmp_path / "a.csv").write_text(f"task;what\n{first};one\n")
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "b.txt").write_text(f"{second}\n")
    flags = {
        "accounts": {"main": {"workers": 4}, "eu": {"workers": 4}},
        "account": "main",
        "sources": [
            {"path": str(tmp_path / "a.csv"), "account": "eu", "id_column": "task", "format": "csv"},
            {"folder": str(tmp_path / "in")},
        ],
    }
    assert await simulation.run(None, flags) is Exit.ALL_COMPLETE
    delivered = {record["task_id"]: (record["account"], record["ref"]) for record in simulation.records()}
    assert delivered == {first: ("eu", {"what": "one"}), second: ("main", None)}


async def test_a_run_with_a_source_that_follows_is_a_service_that_never_ends(tmp_path: Path, clock: Clock) -> None:
    simulation = Simulation(tmp_path, clock, Scenario(fates={}, durations=parse_durations("fixed:5")))
    (tmp_path / "in").mkdir()
    async with asyncio.TaskGroup() as group:
        sources = [{"folder": str(tmp_path / "in"), "follow": True}]
        running = group.create_task(simulation.run(None, {"sources": sources}))
        for number, task_id in enumerate(simulation.api.preload(3)):
            await asyncio.sleep(600)
            (tmp_path / "in" / f"{number}.txt").write_text(f"{task_id}\n")
        await asyncio.sleep(60)
        assert len(simulation.records()) == 3
        assert not running.done()
        simulation.drain()
    assert running.result() is Exit.ALL_COMPLETE


# --- settings --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ('pth = "a"', "table 1: pth: there is no such setting; did you mean path?"),
        ("follow = true", 'table 1: needs one of path = "ids.txt"'),
        ('path = "a"\nglob = "b"', "table 1: needs one of"),
        ('kind = "folder"\npath = "a"', 'table 1: kind = "folder" needs folder, not path'),
        ('path = "a"\nsettle_s = 3', "table 1: settle_s goes only with folder"),
        ("stdin = true\nfollow = true", "table 1: standard input ends by itself"),
        ('path = "a"\naccount = "other"', "table 1: account must be one of default"),
        ('folder = "a"\nsettle_s = "x"', "table 1: settle_s: must be a number"),
        ("path = []", "table 1: path: must name at least one file"),
        ('path = "a"\nformat = "xml"', "table 1: format: must be 'auto', 'text', 'jsonl' or 'csv'"),
        ('stdin = true\n[[sources]]\npath = "-"', "standard input can be read only once"),
    ],
)
def test_a_source_that_makes_no_sense_is_refused_with_location_and_remedy(
    tmp_path: Path, table: str, message: str
) -> None:
    config = tmp_path / "config.toml"
    config.write_text(f"[[sources]]\n{table}\n")
    with pytest.raises(ConfigError) as refused:
        load(config, {}, {}, secrets_dir=tmp_path)
    assert message in str(refused.value)


def test_sources_may_be_plain_paths_and_come_from_the_environment(tmp_path: Path) -> None:
    settings = load(None, {}, {"POLLER_SOURCES": '["a.txt", {"folder": "in", "follow": true}]'}, secrets_dir=tmp_path)
    assert [table.to_json() for table in settings.sources] == [{"path": "a.txt"}, {"folder": "in", "follow": True}]
    assert [table.found_kind for table in settings_for(tmp_path, {"sources": [{"kind": "stdin"}]}).sources] == ["stdin"]
