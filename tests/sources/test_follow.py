"""The promises of `--follow`: what is written to a file that grows, is rotated, truncated or missing counts once."""

import asyncio
import os
import resource
import shutil
import signal
import subprocess
from collections import Counter
from collections.abc import AsyncIterator, MutableMapping
from contextlib import asynccontextmanager
from pathlib import Path
from random import Random
from typing import Any

import pytest

from poller.core.errors import Exit
from poller.core.model import Position
from poller.core.protocols import Clock, Store
from poller.sandbox import Scenario, parse_durations
from poller.sources import ReadOptions, feed
from poller.sources.files.follow import follow
from poller.sources.files.open_file import open_file
from poller.sources.files.tail import Tail
from poller.store import open_store
from tests.support.processes import counted, fed, hubspot, running, wait_until, whole_lines
from tests.support.simulation import Simulation, named

Events = list[MutableMapping[str, Any]]

LONG_S = 30.0  # longer than it takes to notice anything


def options(**changes: Any) -> ReadOptions:
    return ReadOptions(**{"accounts": frozenset({"main"}), "default_account": "main"} | changes)


@pytest.fixture
async def store(clock: Clock) -> AsyncIterator[Store]:
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
        task = group.create_task(follow(str(path), store, options(**changes)))
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


def overwrite(path: Path, data: bytes) -> None:
    """Truncate the file and rewrite it."""
    path.write_bytes(data)


def open_files() -> int:
    return max(int(each.name) for each in Path("/proc/self/fd").iterdir())


def move(path: Path, name: str) -> Path:
    return path.rename(path.with_name(name))


# --- growth ----------------------------------------------------------------------------------------------------------


async def test_what_is_appended_is_fed_within_two_seconds(store: Store, ids: Path) -> None:
    append(ids, b"A1\n")
    async with following(ids, store):
        for number in range(2, 5):
            append(ids, b"A%d\n" % number)
            await asyncio.sleep(2)
            assert (await fed_ids(store))[-1] == f"A{number}"
    assert await sums(store) == [(4, 4, 0, 0, False)]


async def test_an_unfinished_line_is_logged_and_not_taken_before_its_line_break(
    store: Store, ids: Path, events: Events
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


async def test_a_csv_record_over_lines_that_is_half_written_is_not_taken(store: Store, ids: Path) -> None:
    append(ids, b'id,note\nA1,"one\n')
    async with following(ids, store):
        assert await fed_ids(store) == []
        append(ids, b'two"\nA2,\n')
        await asyncio.sleep(2)
    assert [task.ref for task in await store.claim("main", 9)] == [b'{"note":"one\\ntwo"}', b'{"note":""}']


async def test_rows_held_back_by_a_quote_that_is_not_closed_are_logged(store: Store, ids: Path, events: Events) -> None:
    append(ids, b'task_id,name,note\nA1,x,ok\nA2,"broken,ok\nA3,y\n')
    async with following(ids, store):
        await asyncio.sleep(300)
        assert await fed_ids(store) == ["A1"]
        append(ids, b"A4,y,ok\n")
        await asyncio.sleep(2)
    assert await fed_ids(store) == ["A1", "A3", "A4"]
    assert [event["line"] for event in named(events, "source.line_unfinished")] == [3]


async def test_a_stopped_follower_resumes_where_it_stopped(store: Store, ids: Path) -> None:
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
async def test_a_last_line_taken_without_its_line_break_by_a_run_that_did_not_follow_is_completed(
    store: Store, ids: Path, more: list[bytes], fed: list[str], lines: int
) -> None:
    append(ids, b"A1\nA2")
    await feed(str(ids), store, options())
    async with following(ids, store):
        for piece in more:
            append(ids, piece)
            await asyncio.sleep(5)
    assert await fed_ids(store) == fed
    assert await sums(store) == [(lines, lines, 0, 0, False)]


@pytest.mark.parametrize(
    ("half", "rest"),
    [
        (b'[{"task_id":"A1"},{"ta', b'sk_id":"A2"},{"task_id":"A3"}]'),
        (b'{"task_id":"A1"}{"task_', b'id":"A2"}{"task_id":"A3"}'),
        (b'{"task_id":"A1"}', b'{"task_id":"A2"}{"task_id":"A3"}'),  # not known as joined objects before
        (b'task_id,name\nA1,x\nA2,"y\n', b'z"\nA3,x\n'),
    ],
)
async def test_a_file_read_half_written_by_a_run_that_did_not_follow_is_read_again_once_it_grows(
    store: Store, ids: Path, half: bytes, rest: bytes
) -> None:
    append(ids, half)
    await feed(str(ids), store, options())
    async with following(ids, store):
        append(ids, rest)
        await asyncio.sleep(5)
    assert await fed_ids(store) == ["A1", "A2", "A3"]


async def test_folded_rejected_lines_are_logged_while_the_file_is_followed(
    store: Store, ids: Path, events: Events
) -> None:
    append(ids, b"a b\n" * 50)
    async with following(ids, store):
        await asyncio.sleep(100)
    assert [event["count"] for event in named(events, "source.lines_rejected")] == [30]


# --- rotation --------------------------------------------------------------------------------------------------------


async def test_a_renamed_file_is_read_to_its_end_before_the_new_one(store: Store, ids: Path, events: Events) -> None:
    append(ids, b"A1\nA")
    async with following(ids, store):
        rotated = move(ids, "ids.txt.1")
        append(ids, b"B1\n")
        await asyncio.sleep(3)
        append(rotated, b"2\nA3\n")
        await asyncio.sleep(LONG_S)
    assert await fed_ids(store) == ["A1", "A2", "A3", "B1"]
    assert await sums(store) == [(3, 3, 0, 0, True), (1, 1, 0, 0, False)]
    assert len(named(events, "source.moved")) == 1


async def test_a_line_cut_off_by_a_rotation_is_rejected_and_can_be_found(store: Store, ids: Path) -> None:
    append(ids, b"A1\nA23")
    async with following(ids, store):
        move(ids, "ids.txt.1")
        append(ids, b"B1\n")
        await asyncio.sleep(LONG_S)
    [(name, rejection)] = await store.rejections()
    assert (name, rejection.line, rejection.excerpt) == (str(ids), 2, "A23")
    assert await sums(store) == [(2, 1, 0, 1, True), (1, 1, 0, 0, False)]


async def test_while_nothing_is_at_the_path_the_renamed_file_is_read_on(store: Store, ids: Path) -> None:
    append(ids, b"A1\n")
    async with following(ids, store):
        rotated = move(ids, "ids.txt.1")
        await asyncio.sleep(600)
        append(rotated, b"A2\n")
        await asyncio.sleep(2)
        assert await fed_ids(store) == ["A1", "A2"]
        append(ids, b"B1\n")
        await asyncio.sleep(LONG_S)
    assert await fed_ids(store) == ["A1", "A2", "B1"]


async def test_a_longer_copy_that_replaces_the_file_as_editors_do_is_read_on(store: Store, ids: Path) -> None:
    append(ids, b"A1\nA2\n")
    async with following(ids, store):
        edited = ids.with_name("4913")
        append(edited, b"A1\nA2\nA3\n")
        move(edited, "ids.txt")
        await asyncio.sleep(LONG_S)
    assert await sums(store) == [(3, 3, 0, 0, False)]


@pytest.mark.parametrize("rotated", ["ids.txt.1", "ids.txt-20261123", "ids.txt.2026-11-23_10-00", "ids-1763900000.txt"])
async def test_what_was_rotated_away_while_the_poller_was_down_is_found_and_read_first(
    store: Store, ids: Path, events: Events, rotated: str
) -> None:
    append(ids, b"A1\n")
    async with following(ids, store):
        pass
    append(ids, b"A2\n")
    move(ids, rotated)
    append(ids, b"A1\nB1\n")
    async with following(ids, store):
        await asyncio.sleep(LONG_S)
    assert await fed_ids(store) == ["A1", "A2", "B1"]
    assert await sums(store) == [(2, 2, 0, 0, True), (2, 1, 1, 0, False)]
    [found] = named(events, "source.rest_found")
    assert found["file"] == str(ids.with_name(rotated))


@pytest.mark.parametrize("names", [["3", "2", "1"], ["20261120", "20261121", "20261122"]])
async def test_files_that_came_and_were_rotated_away_while_the_poller_was_down_are_read_in_order(
    store: Store, ids: Path, events: Events, names: list[str]
) -> None:
    older = ids.with_name(f"ids.txt.{'4' if names[0] == '3' else '20261119'}")
    append(older, b"OLD\n")
    append(ids, b"A1\n")
    async with following(ids, store):
        pass
    for number, name in enumerate(names):
        append(ids, b"B%d\n" % number)
        move(ids, f"ids.txt.{name}")
    append(ids, b"C1\n")
    async with following(ids, store):
        await asyncio.sleep(60)
    assert await fed_ids(store) == ["A1", "B0", "B1", "B2", "C1"]
    assert [lines for lines, *_ in await sums(store)] == [2, 1, 1, 1]
    assert len(named(events, "source.unseen_found")) == 2


async def test_a_renamed_file_that_was_read_to_its_end_is_waited_with_after_a_restart_too(
    store: Store, ids: Path
) -> None:
    append(ids, b"A1\n")
    async with following(ids, store):
        pass
    rotated = move(ids, "ids.txt.1")
    append(ids, b"B1\n")
    async with following(ids, store):
        append(rotated, b"A2\n")
        await asyncio.sleep(LONG_S)
    assert await fed_ids(store) == ["A1", "A2", "B1"]


async def test_a_file_renamed_before_it_had_a_line_is_found_too(store: Store, ids: Path) -> None:
    append(ids, b"")
    async with following(ids, store):
        pass
    append(ids, b"A1\n")
    move(ids, "ids.txt.1")
    append(ids, b"B1\n")
    async with following(ids, store):
        await asyncio.sleep(LONG_S)
    assert await fed_ids(store) == ["A1", "B1"]


async def test_a_file_that_is_gone_without_a_trace_is_logged_and_the_new_one_read(
    store: Store, ids: Path, events: Events
) -> None:
    append(ids, b"A1\nA2\n")
    async with following(ids, store):
        pass
    os.unlink(ids)  # noqa: PTH108 - gone
    append(ids.with_name("ids.txt.1.gz"), b"A1\nA2\nA3\n")
    append(ids, b"B1\n")
    async with following(ids, store):
        await asyncio.sleep(LONG_S)
    assert await fed_ids(store) == ["A1", "A2", "B1"]
    assert [(event["line"], event["offset"]) for event in named(events, "source.rest_not_found")] == [(2, 6)]


# --- truncation ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("again", [b"", b"B1\n", b"B1\nB2\nB3\nB4\n", b"A1\nB2\n"])
async def test_a_truncated_file_is_read_from_its_beginning(
    store: Store, ids: Path, events: Events, again: bytes
) -> None:
    append(ids, b"A1\nA2\nA")
    async with following(ids, store):
        overwrite(ids, again)
        await asyncio.sleep(5)
        append(ids, b"C1\n")
        await asyncio.sleep(5)
    fresh = [line for line in again.decode().split() if line != "A1"]
    assert await fed_ids(store) == ["A1", "A2", *fresh, "C1"]
    assert [(rejected, ended) for *_, rejected, ended in await sums(store)] == [(1, True), (0, False)]
    assert len(named(events, "source.truncated")) == 1


@pytest.mark.parametrize("is_running", [True, False])
async def test_the_rest_of_a_truncated_file_is_read_from_the_copy_beside_it(
    store: Store, ids: Path, is_running: bool
) -> None:
    append(ids, b"A1\nA2\n")

    def copy_and_truncate() -> None:
        append(ids, b"A3\n")
        shutil.copyfile(ids, f"{ids}.1")
        overwrite(ids, b"B1\n")

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


async def test_the_target_of_a_link_that_was_rotated_in_its_own_folder_while_the_poller_was_down_is_read_to_its_end(
    store: Store, ids: Path
) -> None:
    target = ids.parent / "logs" / "imports.log"
    target.parent.mkdir()
    append(target, b"A1\n")
    os.symlink(target, ids)  # noqa: PTH211 - in a test
    async with following(ids, store):
        pass
    append(target, b"A2\n")
    target.rename(f"{target}.2")
    append(target.with_name("imports.log.1"), b"A3\n")
    append(target, b"A4\n")
    async with following(ids, store):
        await asyncio.sleep(LONG_S)
    assert await fed_ids(store) == ["A1", "A2", "A3", "A4"]


@pytest.mark.parametrize("is_running", [True, False])
async def test_the_nuls_that_a_truncation_leaves_before_the_first_line_cost_no_line(
    store: Store, ids: Path, is_running: bool
) -> None:
    def truncate_under_the_writer() -> None:
        os.truncate(ids, 0)
        with ids.open("r+b") as file:
            file.seek(60_000)  # where the writer was
            file.write(b"B1\nB2\n")

    append(ids, b"".join(b"A%d\n" % number for number in range(100)))
    async with following(ids, store):
        if is_running:
            truncate_under_the_writer()
            await asyncio.sleep(LONG_S)
    if not is_running:
        truncate_under_the_writer()
    async with following(ids, store):
        await asyncio.sleep(LONG_S)
        append(ids, b"B3\n")
        await asyncio.sleep(LONG_S)
    assert (await fed_ids(store))[100:] == ["B1", "B2", "B3"]
    assert [rejected for *_, rejected, _ in await sums(store)] == [0, 0]


async def test_the_copies_beside_a_truncated_file_are_not_all_open_at_once(store: Store, ids: Path) -> None:
    append(ids, b"A1\nA2\n")
    async with following(ids, store):
        pass
    for number in range(60):
        append(ids.with_name(f"ids.txt-2026{number:04}"), b"OLD%d\n" % number)
    append(ids, b"A3\n")
    shutil.copy2(ids, ids.with_name("ids.txt-20270101"))
    overwrite(ids, b"B1\n")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (open_files() + 40, hard))
        async with following(ids, store):
            await asyncio.sleep(LONG_S)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert await fed_ids(store) == ["A1", "A2", "A3", "B1"]


async def test_an_older_file_that_begins_alike_is_not_taken_for_a_copy(store: Store, ids: Path) -> None:
    append(ids.with_name("ids.csv.1"), b"id,n\nOLD,1\n")
    os.utime(ids.with_name("ids.csv.1"), (1, 1))
    table = ids.with_name("ids.csv")
    append(table, b"id,n\n")
    async with following(table, store):
        overwrite(table, b"id\nB1\n")
        await asyncio.sleep(LONG_S)
    assert await fed_ids(store) == ["B1"]


def test_what_proves_the_reading_is_what_would_be_computed_from_the_file(ids: Path, rng: Random) -> None:
    append(ids, rng.randbytes(900_000))
    with open_file(str(ids), 0) as source:
        tail = Tail(source, 5000, 1000)
        while tail.block():
            pass
        for offset in [0, 1, 4095, 4096, 4097, 5000, 700_000, *(900_000 - rng.randrange(9000) for _ in range(50))]:
            assert tail.fingerprint(offset) == source.fingerprint(offset)
            assert source.holds(Position(offset=offset, fingerprint=tail.fingerprint(offset)))


# --- what cannot be read ---------------------------------------------------------------------------------------------


async def test_a_file_that_does_not_exist_yet_is_logged_once_and_waited_for(
    store: Store, ids: Path, events: Events
) -> None:
    async with following(ids, store):
        await asyncio.sleep(600)
        append(ids, b"A1\n")
        await asyncio.sleep(3)
    assert await fed_ids(store) == ["A1"]
    [event] = named(events, "source.waited_for")
    assert "there is no such file" in event["reason"]


async def test_a_folder_at_the_path_is_logged_once_and_waited_for(store: Store, ids: Path, events: Events) -> None:
    append(ids, b"A1\n")
    async with following(ids, store):
        move(ids, "elsewhere")
        folder = ids.with_name("folder")
        os.mkdir(folder)  # noqa: PTH102
        move(folder, "ids.txt")
        await asyncio.sleep(300)
        move(ids, "folder")
        append(ids, b"B1\n")
        await asyncio.sleep(LONG_S)
    assert await fed_ids(store) == ["A1", "B1"]
    assert ["folder" in event["reason"] for event in named(events, "source.waited_for")] == [True]


async def test_a_csv_whose_header_names_no_id_waits_for_a_better_one(store: Store, ids: Path, events: Events) -> None:
    append(ids, b"name,url\nx,y\n")
    async with following(ids, store, format="csv"):
        await asyncio.sleep(300)
        overwrite(ids, b"id,url\nA1,y\n")
        await asyncio.sleep(LONG_S)
    assert await fed_ids(store) == ["A1"]
    assert ["--id-column" in event["reason"] for event in named(events, "source.waited_for")] == [True]


async def test_a_named_pipe_is_reopened_for_each_writer(store: Store, tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    async with following(pipe, store):
        for number in (1, 2):
            append(pipe, b"A%d\n" % number)
            await asyncio.sleep(5)
    assert await fed_ids(store) == ["A1", "A2"]


async def test_a_pipe_without_a_name_ends_with_its_writer(store: Store) -> None:
    reading, writing = os.pipe()
    with os.fdopen(reading, "rb"), os.fdopen(writing, "wb") as writer:
        writer.write(b"A1\n")
        writer.close()
        async with asyncio.timeout(60):
            await follow(f"/proc/self/fd/{reading}", store, options())
    assert await fed_ids(store) == ["A1"]


# --- a whole run -----------------------------------------------------------------------------------------------------


async def test_a_run_that_follows_polls_what_comes_later_until_it_is_stopped(
    tmp_path: Path, clock: Clock, ids: Path, events: Events
) -> None:
    simulation = Simulation(tmp_path, clock, Scenario(fates={}, durations=parse_durations("fixed:5")))
    async with asyncio.TaskGroup() as group:
        running = group.create_task(simulation.run(ids, {"follow": True}))
        for _ in range(3):
            append(ids, b"".join(task_id.encode() + b"\n" for task_id in simulation.api.preload(10)))
            await asyncio.sleep(600)
        assert not running.done()
        simulation.drain()
    assert running.result() is Exit.ALL_COMPLETE
    assert Counter(record["task_id"] for record in simulation.records()) == fed(ids)
    assert len(named(events, "run.summarized")) >= 59


async def test_a_run_that_follows_and_is_stopped_with_work_left_reports_it(
    tmp_path: Path, clock: Clock, ids: Path
) -> None:
    simulation = Simulation(tmp_path, clock, Scenario(fates={}, durations=parse_durations("fixed:5000")))
    append(ids, simulation.api.preload(1)[0].encode() + b"\n")
    async with asyncio.TaskGroup() as group:
        running = group.create_task(simulation.run(ids, {"follow": True}))
        await asyncio.sleep(60)
        simulation.drain()
    assert running.result() is Exit.WORK_LEFT


async def test_a_run_that_follows_waits_for_its_file_and_for_a_better_token(
    tmp_path: Path, clock: Clock, ids: Path
) -> None:
    simulation = Simulation(tmp_path, clock, Scenario(tokens=frozenset({"another"})))
    async with asyncio.TaskGroup() as group:
        running = group.create_task(simulation.run(ids, {"follow": True}))
        await asyncio.sleep(600)
        append(ids, simulation.api.preload(1)[0].encode() + b"\n")
        await asyncio.sleep(600)
        assert not running.done()
        simulation.drain()
    assert running.result() is Exit.WORK_LEFT


@pytest.mark.real_time
def test_two_files_and_standard_input_are_followed_at_once_through_a_kill_and_a_rotation(tmp_path: Path) -> None:
    one, two = tmp_path / "one.txt", tmp_path / "two.txt"
    finished = tmp_path / "finished.jsonl"
    with hubspot("--fate", "complete=1", imports=60) as server:
        command = ("run", "one.txt", "two.txt", "-", "--follow", "--base-url", server.url)
        quick = ("--requests", "100", "--window-s", "0.5")
        lines = [task_id.encode() + b"\n" for task_id in server.take(60)]
        append(one, b"".join(lines[:10]))
        with running(*command, *quick, folder=tmp_path, stdin=subprocess.PIPE) as first:
            first.stdin.write(b"".join(lines[10:20]))
            first.stdin.close()
            append(two, b"".join(lines[20:30]))
            wait_until(lambda: whole_lines(finished) == 30, "the first 30 outcomes")
            append(one, b"".join(lines[30:40]))
            first.signal(signal.SIGKILL)
            first.ended()
        append(one, b"".join(lines[40:50]))
        one.rename(tmp_path / "one.txt.1")
        append(one, b"".join(lines[50:]))
        with running(*command, *quick, folder=tmp_path) as second:
            wait_until(lambda: whole_lines(finished) == 60, "all 60 outcomes")
            second.signal(signal.SIGTERM)
            assert second.ended() == Exit.ALL_COMPLETE
    assert counted(finished) == Counter(line.decode().strip() for line in lines)
    assert "(balanced)" in second.log()
