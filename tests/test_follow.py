"""The promises of `--follow`: what is written to a file that grows, is rotated, truncated or missing counts once."""

import asyncio
import os
import shutil
import signal
from collections import Counter
from collections.abc import AsyncIterator, Mapping, MutableMapping
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from random import Random
from typing import Any

import pytest

from poller.errors import Exit
from poller.protocols import Clock, Store
from poller.sandbox import Scenario, parse_durations
from poller.source import Feeding, feed, follow
from poller.store import SqliteStore, open_store
from tests.processes import TOKEN, hubspot, running, wait_until
from tests.simulation import Simulation, named

Events = list[MutableMapping[str, Any]]

LONG_S = 30.0  # longer than it takes to notice anything


def feeding(**changes: Any) -> Feeding:
    return Feeding(**{"accounts": frozenset({"main"}), "default_account": "main"} | changes)


@pytest.fixture
async def store(clock: Clock) -> AsyncIterator[SqliteStore]:
    opened = await open_store("sqlite:///:memory:", clock=clock)
    yield opened
    await opened.close()


@pytest.fixture
def ids(tmp_path: Path) -> Path:
    return tmp_path / "ids.txt"


@asynccontextmanager
async def following(path: Path, store: Store, **changes: Any) -> AsyncIterator[None]:
    """Follow the file meanwhile; begin by reading what is there, and stop at any await."""
    async with asyncio.TaskGroup() as group:
        task = group.create_task(follow(str(path), store, feeding(**changes), on_chunk=lambda _chunk, _added: None))
        await asyncio.sleep(3)
        yield
        task.cancel()


async def fed_ids(store: Store) -> list[str]:
    """Return the ids in the order in which they were fed."""
    tasks = await store.claim("main", 100_000)
    store.release(tasks)
    return [task.task_id for task in sorted(tasks, key=lambda task: task.key)]


async def sums(store: Store) -> list[tuple[int, int, int, int, bool]]:
    """Return lines, tasks, duplicates, rejected and whether it ended, of each source."""
    return [(s.lines, s.tasks, s.duplicates, s.rejected, s.ended) for s in (await store.sums()).sources]


def append(path: Path, data: bytes) -> None:
    with path.open("ab") as file:
        file.write(data)


# --- growth ----------------------------------------------------------------------------------------------------------


async def test_what_is_appended_is_fed_within_two_seconds(store: SqliteStore, ids: Path) -> None:
    append(ids, b"A1\n")
    async with following(ids, store):
        for number in range(2, 5):
            append(ids, b"A%d\n" % number)
            await asyncio.sleep(2)
            assert (await fed_ids(store))[-1] == f"A{number}"
    assert await sums(store) == [(4, 4, 0, 0, False)]


async def test_a_line_is_not_taken_before_its_line_break_and_that_is_said(
    store: SqliteStore, ids: Path, events: Events
) -> None:
    append(ids, b"A1\nA2")
    async with following(ids, store):
        await asyncio.sleep(300)
        assert await fed_ids(store) == ["A1"]
        append(ids, b"34\r")
        await asyncio.sleep(LONG_S)
        append(ids, b"\nA5\n")
        await asyncio.sleep(2)
    assert await fed_ids(store) == ["A1", "A234", "A5"]
    assert [event["line"] for event in named(events, "source.line_unfinished")] == [2]


async def test_a_csv_record_over_lines_that_is_half_written_is_not_taken(store: SqliteStore, ids: Path) -> None:
    append(ids, b'id,note\nA1,"one\n')
    async with following(ids, store):
        assert await fed_ids(store) == []
        append(ids, b'two"\nA2,\n')
        await asyncio.sleep(2)
    assert [task.ref for task in await store.claim("main", 9)] == [b'{"note":"one\\ntwo"}', b'{"note":""}']


async def test_a_stopped_follower_goes_on_where_it_stopped(store: SqliteStore, ids: Path) -> None:
    append(ids, b"u;id\n1;A1\n2;A")
    async with following(ids, store):
        pass
    append(ids, b"2\n3;A3\n")
    async with following(ids, store):
        pass
    assert await fed_ids(store) == ["A1", "A2", "A3"]
    assert await sums(store) == [(4, 3, 0, 0, False)]


@pytest.mark.parametrize(
    ("more", "fed", "lines"),
    [
        ([b"\nA3\n"], ["A1", "A2", "A3"], 3),
        ([b"\r", b"\nA3\n"], ["A1", "A2", "A3"], 3),
        ([b"34", b"5\nA3\n"], ["A1", "A2", "A2345", "A3"], 4),
    ],
)
async def test_a_last_line_taken_without_its_break_by_a_run_that_did_not_follow_goes_on_as_it_should(
    store: SqliteStore, ids: Path, more: list[bytes], fed: list[str], lines: int
) -> None:
    append(ids, b"A1\nA2")
    await feed(str(ids), store, feeding(), on_chunk=lambda _chunk, _added: None)
    async with following(ids, store):
        for piece in more:
            append(ids, piece)
            await asyncio.sleep(5)
    assert await fed_ids(store) == fed
    assert await sums(store) == [(lines, lines, 0, 0, False)]


async def test_rejected_lines_that_were_folded_are_told_while_the_file_is_followed(
    store: SqliteStore, ids: Path, events: Events
) -> None:
    append(ids, b"a b\n" * 50)
    async with following(ids, store):
        await asyncio.sleep(100)
    assert [event["count"] for event in named(events, "source.lines_rejected")] == [30]


# --- rotation --------------------------------------------------------------------------------------------------------


async def test_a_renamed_file_is_read_to_its_end_before_the_new_one(
    store: SqliteStore, ids: Path, events: Events
) -> None:
    append(ids, b"A1\nA")
    async with following(ids, store):
        rotated = ids.rename(f"{ids}.1")
        append(ids, b"B1\n")
        await asyncio.sleep(3)
        append(rotated, b"2\nA3\n")
        await asyncio.sleep(LONG_S)
    assert await fed_ids(store) == ["A1", "A2", "A3", "B1"]
    assert await sums(store) == [(3, 3, 0, 0, True), (1, 1, 0, 0, False)]
    assert len(named(events, "source.moved")) == 1


async def test_a_line_cut_off_by_a_rotation_is_rejected_and_can_be_found(store: SqliteStore, ids: Path) -> None:
    append(ids, b"A1\nA23")
    async with following(ids, store):
        ids.rename(f"{ids}.1")
        append(ids, b"B1\n")
        await asyncio.sleep(LONG_S)
    [(name, rejection)] = await store.rejections()
    assert (name, rejection.line, rejection.excerpt) == (str(ids), 2, "A23")
    assert await sums(store) == [(2, 1, 0, 1, True), (1, 1, 0, 0, False)]


async def test_while_nothing_stands_at_the_path_the_renamed_file_is_read_on(store: SqliteStore, ids: Path) -> None:
    append(ids, b"A1\n")
    async with following(ids, store):
        rotated = ids.rename(f"{ids}.1")
        await asyncio.sleep(600)
        append(rotated, b"A2\n")
        await asyncio.sleep(2)
        assert await fed_ids(store) == ["A1", "A2"]
        append(ids, b"B1\n")
        await asyncio.sleep(LONG_S)
    assert await fed_ids(store) == ["A1", "A2", "B1"]


async def test_a_longer_copy_put_in_its_place_as_editors_do_is_read_on(store: SqliteStore, ids: Path) -> None:
    append(ids, b"A1\nA2\n")
    async with following(ids, store):
        edited = ids.with_name("4913")
        edited.write_bytes(b"A1\nA2\nA3\n")
        edited.rename(ids)
        await asyncio.sleep(LONG_S)
    assert await sums(store) == [(3, 3, 0, 0, False)]


@pytest.mark.parametrize("rotated", ["ids.txt.1", "ids.txt-20261123", "ids.txt.2026-11-23_10-00", "ids-1763900000.txt"])
async def test_what_was_rotated_away_while_the_poller_was_down_is_found_and_read_first(
    store: SqliteStore, ids: Path, events: Events, rotated: str
) -> None:
    append(ids, b"A1\n")
    async with following(ids, store):
        pass
    append(ids, b"A2\n")
    ids.rename(ids.with_name(rotated))
    append(ids, b"A1\nB1\n")
    async with following(ids, store):
        await asyncio.sleep(LONG_S)
    assert await fed_ids(store) == ["A1", "A2", "B1"]
    assert await sums(store) == [(2, 2, 0, 0, True), (2, 1, 1, 0, False)]
    [found] = named(events, "source.rest_found")
    assert found["file"] == str(ids.with_name(rotated))


@pytest.mark.parametrize("names", [["3", "2", "1"], ["20261120", "20261121", "20261122"]])
async def test_files_that_came_and_were_rotated_away_while_the_poller_was_down_are_read_in_order(
    store: SqliteStore, ids: Path, events: Events, names: list[str]
) -> None:
    older = ids.with_name(f"ids.txt.{'4' if names[0] == '3' else '20261119'}")
    append(older, b"OLD\n")
    append(ids, b"A1\n")
    async with following(ids, store):
        pass
    for number, name in enumerate(names):
        append(ids, b"B%d\n" % number)
        ids.rename(ids.with_name(f"ids.txt.{name}"))
    append(ids, b"C1\n")
    async with following(ids, store):
        await asyncio.sleep(60)
    assert await fed_ids(store) == ["A1", "B0", "B1", "B2", "C1"]
    assert [lines for lines, *_ in await sums(store)] == [2, 1, 1, 1]
    assert len(named(events, "source.unseen_found")) == 2


async def test_a_file_renamed_before_it_had_a_line_is_found_too(store: SqliteStore, ids: Path) -> None:
    ids.touch()
    async with following(ids, store):
        pass
    append(ids, b"A1\n")
    ids.rename(f"{ids}.1")
    append(ids, b"B1\n")
    async with following(ids, store):
        await asyncio.sleep(LONG_S)
    assert await fed_ids(store) == ["A1", "B1"]


async def test_a_file_that_is_gone_without_a_trace_is_said_and_the_new_one_read(
    store: SqliteStore, ids: Path, events: Events
) -> None:
    append(ids, b"A1\nA2\n")
    async with following(ids, store):
        pass
    ids.unlink()
    append(ids.with_name("ids.txt.1.gz"), b"A1\nA2\nA3\n")
    append(ids, b"B1\n")
    async with following(ids, store):
        await asyncio.sleep(LONG_S)
    assert await fed_ids(store) == ["A1", "A2", "B1"]
    assert [(event["line"], event["offset"]) for event in named(events, "source.rest_not_found")] == [(2, 6)]


# --- truncation ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("again", [b"", b"B1\n", b"B1\nB2\nB3\nB4\n", b"A1\nB2\n"])
async def test_a_truncated_file_is_read_from_its_beginning(
    store: SqliteStore, ids: Path, events: Events, again: bytes
) -> None:
    append(ids, b"A1\nA2\nA")
    async with following(ids, store):
        ids.write_bytes(again)
        await asyncio.sleep(5)
        append(ids, b"C1\n")
        await asyncio.sleep(5)
    fresh = [line for line in again.decode().split() if line != "A1"]
    assert await fed_ids(store) == ["A1", "A2", *fresh, "C1"]
    assert [(rejected, ended) for *_, rejected, ended in await sums(store)] == [(1, True), (0, False)]
    assert len(named(events, "source.truncated")) == 1


@pytest.mark.parametrize("is_running", [True, False])
async def test_the_rest_of_a_truncated_file_is_read_from_the_copy_beside_it(
    store: SqliteStore, ids: Path, is_running: bool
) -> None:
    append(ids, b"A1\nA2\n")

    def copy_and_truncate() -> None:
        append(ids, b"A3\n")
        shutil.copyfile(ids, f"{ids}.1")
        ids.write_bytes(b"B1\n")

    async with following(ids, store):
        if is_running:
            copy_and_truncate()
            await asyncio.sleep(LONG_S)
    if not is_running:
        copy_and_truncate()
    async with following(ids, store):
        await asyncio.sleep(LONG_S)
    assert await fed_ids(store) == ["A1", "A2", "A3", "B1"]
    assert await sums(store) == [(3, 3, 0, 0, True), (1, 1, 0, 0, False)]


async def test_an_older_file_that_begins_alike_is_not_taken_for_a_copy(store: SqliteStore, ids: Path) -> None:
    append(ids.with_name("ids.csv.1"), b"id,n\nOLD,1\n")
    os.utime(ids.with_name("ids.csv.1"), (1, 1))
    table = ids.with_name("ids.csv")
    append(table, b"id,n\n")
    async with following(table, store):
        table.write_bytes(b"id\nB1\n")
        await asyncio.sleep(LONG_S)
    assert await fed_ids(store) == ["B1"]


# --- what cannot be read ---------------------------------------------------------------------------------------------


async def test_a_file_that_is_not_there_yet_is_said_once_and_waited_for(
    store: SqliteStore, ids: Path, events: Events
) -> None:
    async with following(ids, store):
        await asyncio.sleep(600)
        append(ids, b"A1\n")
        await asyncio.sleep(3)
    assert await fed_ids(store) == ["A1"]
    [said] = named(events, "source.waited_for")
    assert "there is no such file" in said["reason"]


async def test_a_folder_in_its_place_is_said_once_and_waited_for(store: SqliteStore, ids: Path, events: Events) -> None:
    append(ids, b"A1\n")
    async with following(ids, store):
        ids.unlink()
        ids.mkdir()
        await asyncio.sleep(300)
        ids.rmdir()
        append(ids, b"B1\n")
        await asyncio.sleep(LONG_S)
    assert await fed_ids(store) == ["A1", "B1"]
    assert ["folder" in event["reason"] for event in named(events, "source.waited_for")] == [True]


async def test_a_csv_whose_header_names_no_id_waits_for_a_better_one(
    store: SqliteStore, ids: Path, events: Events
) -> None:
    append(ids, b"name,url\nx,y\n")
    async with following(ids, store, format="csv"):
        await asyncio.sleep(300)
        ids.write_bytes(b"id,url\nA1,y\n")
        await asyncio.sleep(LONG_S)
    assert await fed_ids(store) == ["A1"]
    assert ["--id-column" in event["reason"] for event in named(events, "source.waited_for")] == [True]


async def test_a_named_pipe_is_read_anew_for_each_writer(store: SqliteStore, tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    async with following(pipe, store):
        for number in (1, 2):
            append(pipe, b"A%d\n" % number)
            await asyncio.sleep(5)
    assert await fed_ids(store) == ["A1", "A2"]


async def test_a_pipe_without_a_name_ends_with_its_writer(store: SqliteStore) -> None:
    reading, writing = os.pipe()
    with os.fdopen(reading, "rb"), os.fdopen(writing, "wb") as writer:
        writer.write(b"A1\n")
        writer.close()
        async with asyncio.timeout(60):
            await follow(f"/proc/self/fd/{reading}", store, feeding(), on_chunk=lambda _chunk, _added: None)
    assert await fed_ids(store) == ["A1"]


# --- everything at once ----------------------------------------------------------------------------------------------


class Writer:
    """Appends unique ids to a file that it rotates and truncates itself, as a program and logrotate do.

    Files carry the time of the virtual clock.
    """

    def __init__(self, path: Path, clock: Clock, rng: Random) -> None:
        self.path = path
        self.lines = 0  # whole ones
        self.lines_before = 0  # those in files before this one
        self._clock = clock
        self._rng = rng
        self._torn = b""  # what is still to be written of the last line
        self._fd = self._open()

    def _open(self) -> int:
        fd = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        self._stamp(fd)
        return fd

    def _stamp(self, file: int | Path) -> None:
        os.utime(file, (self._clock(), self._clock()))

    def _write(self, data: bytes) -> None:
        os.write(self._fd, data)
        self._stamp(self._fd)

    def finish_line(self) -> None:
        if self._torn:
            self._write(self._torn)
            self.lines += 1
        self._torn = b""

    def append(self) -> None:
        self.finish_line()
        count = self._rng.choice([1, 1, 2, 3, 50])
        data = b"".join(b"AAAA%d\n" % number for number in range(self.lines + 1, self.lines + count + 1))
        cut = self._rng.randrange(1, len(data)) if self._rng.random() < 0.5 else len(data)
        cut = max(cut, data.rfind(b"\n", 0, -1) + 2)  # within the last line
        self._write(data[:cut])
        self._torn = data[cut:]
        self.lines += count - bool(self._torn)

    async def rename(self) -> None:
        """Rotate; a line begun before is finished in the renamed file, a moment later."""
        self._shift()
        self.path.rename(f"{self.path}.1")
        following = self._open()
        if self._torn:
            await asyncio.sleep(self._rng.uniform(0, 2))
            self.finish_line()
        os.close(self._fd)
        self._fd, self.lines_before = following, self.lines

    def copy_and_truncate(self) -> None:
        self._shift()
        shutil.copyfile(self.path, f"{self.path}.1")
        self._stamp(Path(f"{self.path}.1"))
        self.truncate()

    def truncate(self) -> None:
        assert not self._torn
        os.truncate(self.path, 0)
        self._stamp(self.path)
        self.lines_before = self.lines

    def _shift(self) -> None:
        for number in range(40, 0, -1):
            with suppress(FileNotFoundError):
                Path(f"{self.path}.{number}").rename(f"{self.path}.{number + 1}")

    def close(self) -> None:
        os.close(self._fd)


class Life:
    """A follower that is killed or stopped, and started again on what is on disk then."""

    def __init__(self, folder: Path, path: Path, clock: Clock, group: asyncio.TaskGroup) -> None:
        self._folder = folder
        self._path = path
        self._clock = clock
        self._group = group
        self._lives = 0
        self.store: SqliteStore | None = None
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        (self._folder / str(self._lives)).mkdir(parents=True, exist_ok=True)
        self.store = await open_store(f"sqlite:///{self._folder}/{self._lives}/poller.db", clock=self._clock)
        following = follow(str(self._path), self.store, feeding(), on_chunk=lambda _chunk, _added: None)
        self._task = self._group.create_task(following)

    async def stop(self) -> None:
        """Drain: what is being stored is stored."""
        assert self.store is not None
        assert self._task is not None
        self._task.cancel()
        await self.store.close()
        self.store = None

    async def kill(self) -> None:
        """Lose what is not on disk at this instant."""
        left = self._folder / str(self._lives + 1)
        shutil.copytree(self._folder / str(self._lives), left)
        await self.stop()
        shutil.rmtree(self._folder / str(self._lives))
        self._lives += 1

    async def lines(self) -> int:
        """Return how many lines are in the ledger; only while it runs."""
        assert self.store is not None
        return sum(source.lines for source in (await self.store.sums()).sources)

    async def has_read(self, lines: int) -> None:
        for _ in range(2000):
            if await self.lines() >= lines:
                return
            await asyncio.sleep(0.5)
        raise AssertionError("it does not read on")


async def live_through(disruptions: int, writer: Writer, life: Life, rng: Random) -> Counter[str]:
    """Disrupt writing and reading at random; return how often each thing was done."""
    done: Counter[str] = Counter()
    while done.total() < disruptions:
        for _ in range(rng.randrange(3)):
            writer.append()
            await asyncio.sleep(rng.choice([0, rng.uniform(0, 0.1), rng.uniform(0, 3)]))
        what = rng.choice(["rename", "copy", "truncate", "kill", "stop"])
        if what in ("kill", "stop"):
            if life.store is None:
                await life.start()
                continue
            await (life.kill() if what == "kill" else life.stop())
        elif what == "rename":
            await writer.rename()
        else:
            writer.finish_line()
            if life.store is None or writer.lines == writer.lines_before:
                continue
            await life.has_read(writer.lines if what == "truncate" else writer.lines_before + 1)
            if what == "copy" and rng.random() < 0.3:
                writer.append()
                writer.finish_line()
                await life.kill()
            (writer.truncate if what == "truncate" else writer.copy_and_truncate)()
        done[what] += 1
    return done


@pytest.mark.parametrize("seed", range(int(os.environ.get("FOLLOW_SEEDS", "2"))))
async def test_a_file_disrupted_200_times_at_random_gives_every_line_once(
    tmp_path: Path, clock: Clock, seed: int
) -> None:
    rng = Random(seed)
    path = tmp_path / "ids" / "ids.txt"
    path.parent.mkdir()
    async with asyncio.TaskGroup() as group:
        writer, life = Writer(path, clock, rng), Life(tmp_path / "state", path, clock, group)
        await life.start()
        await asyncio.sleep(3)  # what was rotated away before the first run is not its own
        done = await live_through(200, writer, life, rng)
        writer.finish_line()
        if life.store is None:
            await life.start()
        assert life.store is not None
        await life.has_read(writer.lines)
        await asyncio.sleep(60)
        fed, rows = await fed_ids(life.store), await sums(life.store)
        await life.stop()
        writer.close()
    assert Counter(fed) == Counter(f"AAAA{number}" for number in range(1, writer.lines + 1))
    assert sum(row[0] for row in rows) == sum(row[1] for row in rows) == writer.lines
    assert min(done.values()) >= 10, done
