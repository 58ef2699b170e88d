"""What only planted bugs (`make bugs`) showed to be untested."""

import os
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from poller.core.model import Chunk, Fed, Kind, Position, Settled, Written
from poller.core.record import restore
from poller.sinks.files.jsonl import JSONL
from poller.sinks.files.sink import FileSink
from poller.store import SqliteStore, open_store
from poller.store.sqlite.group_commit import GroupCommit
from poller.store.sqlite.schema import open_writing

Clock = Callable[[], float]


async def opened(folder: Path, clock: Clock, *ids: str) -> SqliteStore:
    """Return a store that holds tasks of these ids, with the sink `stdout`."""
    store = await open_store(f"sqlite:///{folder}/poller.db", clock=clock)
    assert isinstance(store, SqliteStore)
    await store.attach_sinks(["stdout"])
    fed = tuple(Fed(account="default", task_id=task_id) for task_id in ids)
    await store.add(await store.new_source("ids.txt"), Chunk(fed=fed, rejected=(), blank=0, position=Position()))
    return store


async def finish_all(store: SqliteStore, clock: Clock) -> None:
    tasks = await store.claim("default", 100)
    record = restore(b"{}", kind=Kind.COMPLETE, reason=None, seen_at=clock())
    await store.record([Settled(task=task, record=record) for task in tasks])


async def test_a_commit_that_failed_halfway_is_undone_before_it_is_tried_again(tmp_path: Path, clock: Clock) -> None:
    full = sqlite3.OperationalError("database or disk is full")
    full.sqlite_errorcode = sqlite3.SQLITE_FULL
    failures = [full, full]
    with closing(open_writing(tmp_path / "poller.db")) as connection:
        commits = GroupCommit(connection, place="poller.db", linger_s=0.0, clock=clock, committed=lambda: None)

        def insert() -> None:
            connection.execute("INSERT INTO source (name) VALUES ('ids.txt')")
            if failures:
                raise failures.pop()

        await commits.run(insert)
        commits.close()
        assert connection.execute("SELECT count(*) FROM source").fetchone() == (1,)


async def test_every_commit_is_synced_to_the_disk(tmp_path: Path) -> None:
    with closing(open_writing(tmp_path / "poller.db")) as connection:
        assert connection.execute("PRAGMA synchronous").fetchone() == (2,)  # FULL


async def test_nobody_ever_sees_a_record_without_its_outbox_row(tmp_path: Path, clock: Clock) -> None:
    store = await opened(tmp_path, clock, "a", "b")
    seen: set[tuple[int, int]] = set()
    with closing(sqlite3.connect(tmp_path / "poller.db")) as another:

        def poll(_statement: str) -> None:
            counts = "SELECT (SELECT count(*) FROM record), (SELECT count(*) FROM undelivered)"
            seen.add(another.execute(counts).fetchone())

        store._connection.set_trace_callback(poll)
        await finish_all(store, clock)
        store._connection.set_trace_callback(None)
        poll("")
    await store.close()
    assert seen == {(0, 0), (2, 2)}


async def test_the_position_noted_is_that_of_the_latest_delivery(tmp_path: Path, clock: Clock) -> None:
    store = await opened(tmp_path, clock, "a", "b")
    await finish_all(store, clock)
    await store.note_position("stdout", b"0")
    for delivery, position in zip(await store.undelivered("stdout", 10), (b"3", b"6"), strict=True):
        await store.delivered("stdout", [delivery], Written(position=position))
        assert await store.attach_sinks(["stdout"]) == {"stdout": position}
    await store.close()


async def test_a_new_file_is_opened_for_lines_only_with_its_name_on_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[int] = []
    monkeypatch.setattr(os, "fsync", lambda fd: synced.append(os.fstat(fd).st_ino))
    sink = FileSink(tmp_path / "finished.jsonl", JSONL)
    await sink.open(None, [])
    await sink.close()
    assert os.stat(tmp_path).st_ino in synced  # noqa: PTH116 - the loop has nothing else to do
