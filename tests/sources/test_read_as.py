"""A known file is read again where its lines are read otherwise than before: an id that is never polled is lost."""

import asyncio
import tracemalloc
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from poller.core.model import Added, Chunk
from poller.core.protocols import Clock, Store
from poller.sources import ChunkWriter, ReadOptions, feed
from poller.sources.files.follow import follow
from poller.store import open_store

READ = ReadOptions(accounts=frozenset({"main", "eu"}), default_account="main", chunk_lines=100)
TABLE = "column one,column two,account\n" + "".join(f"A{n},B{n},{'us' if n == 150 else ''}\n" for n in range(300))
LINES = "".join(f'{{"column one":"A{n}","two":"B{n}"}}\n' for n in range(300))


class Killed(Exception):
    """The process is gone."""


@pytest.fixture
async def store(clock: Clock) -> AsyncIterator[Store]:
    opened = await open_store("sqlite:///:memory:", clock=clock)
    yield opened
    await opened.close()


async def read(store: Store, path: Path, options: ReadOptions, *, chunks: int = 1000) -> int:
    """Return how many new tasks a run finds in a file; it is killed before it stores more than `chunks`."""
    tasks = stored = 0

    def count(_chunk: Chunk, added: Added) -> None:
        nonlocal tasks, stored
        tasks, stored = tasks + added.tasks, stored + 1
        if stored == chunks:
            raise Killed

    with suppress(Killed):
        await feed(str(path), ChunkWriter(store, count), options)
    return tasks


@pytest.mark.parametrize("chunks", [1000, 2])
@pytest.mark.parametrize(
    ("text", "before", "now", "new"),
    [
        (TABLE, {"id_column": "column one"}, {"id_column": "column two"}, 299),
        (TABLE, {"id_column": "column one"}, {"id_column": "2"}, 299),
        (LINES, {"id_column": "column one"}, {"id_column": "two"}, 300),
        ("A1\nA2\n" * 200, {}, {"default_account": "eu"}, 2),
        (TABLE, {"id_column": "1"}, {"id_column": "1", "accounts": frozenset({"main", "us"})}, 1),
    ],
)
async def test_a_file_is_read_again_where_its_lines_are_other_tasks_now(
    store: Store, tmp_path: Path, text: str, before: dict[str, Any], now: dict[str, Any], new: int, chunks: int
) -> None:
    path = tmp_path / "ids"
    path.write_text(text)
    known = await read(store, path, replace(READ, **before), chunks=chunks)
    expected = new if chunks == 1000 or "accounts" not in now else 300 - known
    assert await read(store, path, replace(READ, **now)) == expected
    assert await read(store, path, replace(READ, **now)) == 0


@pytest.mark.parametrize("chunks", [1000, 2])
@pytest.mark.parametrize(
    ("text", "now"),
    [
        (TABLE.replace("us", ""), {"id_column": "column one", "accounts": frozenset({"main", "eu", "us"})}),
        (TABLE.replace("us", ""), {"id_column": "1"}),
        (LINES, {"id_column": "column one", "format": "jsonl"}),
    ],
)
async def test_a_file_is_not_read_again_where_its_lines_are_the_same_tasks(
    store: Store, tmp_path: Path, text: str, now: dict[str, Any], chunks: int
) -> None:
    path = tmp_path / "ids"
    path.write_text(text)
    known = await read(store, path, replace(READ, id_column="column one"), chunks=chunks)
    assert await read(store, path, replace(READ, **now)) == 300 - known
    assert len(await store.sources(100)) == 1


@pytest.mark.parametrize("grows", [False, True])
@pytest.mark.parametrize("chunks", [1000, 2])
async def test_an_id_corrected_in_what_was_read_is_read(store: Store, tmp_path: Path, chunks: int, grows: bool) -> None:
    path = tmp_path / "ids"
    lines = [f"AAAA{n:060}" for n in range(300)]
    path.write_text("\n".join(lines) + "\n")
    await read(store, path, READ, chunks=chunks)
    lines[100] = lines[100].replace("AAAA", "BBBB")
    path.write_text("\n".join([*lines, *(["A1"] if grows else [])]) + "\n")
    assert await read(store, path, READ) == (1 if chunks == 1000 else 101) + grows
    assert len(await store.sources(100)) == 2


async def test_a_resumed_file_is_known_as_a_whole(store: Store, tmp_path: Path) -> None:
    """Its digest is that of all of it, though each run read only a part."""
    path = tmp_path / "ids"
    path.write_text("".join(f"A{n}\n" for n in range(300)) + "A300")
    await read(store, path, READ, chunks=2)
    await read(store, path, READ)
    path.write_text(path.read_text() + "0\nA301\n")
    assert await read(store, path, READ) == 2
    path.write_text(path.read_text())
    assert await read(store, path, READ) == 0
    assert len(await store.sources(100)) == 1


@pytest.mark.parametrize("sign", [b"\0", b"x"])
async def test_a_file_without_line_breaks_is_not_held_in_memory_and_lets_others_work(
    store: Store, tmp_path: Path, sign: bytes
) -> None:
    """As a log that was truncated while its writer kept its offset: gigabytes of NULs. SIGTERM went unheard."""
    path = tmp_path / "ids"
    with path.open("wb") as written:
        written.write(sign)
        written.truncate(0) if sign == b"\0" else written.write(sign * 8_000_000)
        written.seek(8_000_000)
        written.write(b"\nA1\n")
    found, had_turns = asyncio.Event(), False

    async def take_turns() -> None:
        for _ in range(20):
            await asyncio.sleep(0)

    class Noting(ChunkWriter):
        async def add(self, number: int, chunk: Chunk) -> Added:
            nonlocal had_turns
            had_turns |= others.done()
            return await super().add(number, chunk)

    def note(_chunk: Chunk, added: Added) -> None:
        if added.tasks:
            found.set()

    tracemalloc.start()
    try:
        task = asyncio.create_task(feed(str(path), Noting(store, note), READ))
        others = asyncio.create_task(take_turns())
        await found.wait()
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    task.cancel()
    await asyncio.wait([task])
    assert had_turns
    assert peak < 4_000_000


async def follow_for(store: Store, path: Path, options: ReadOptions) -> int:
    """Return how many new tasks a run of a few seconds finds in a followed file."""
    tasks = 0

    def count(_chunk: Chunk, added: Added) -> None:
        nonlocal tasks
        tasks += added.tasks

    following = asyncio.create_task(follow(str(path), ChunkWriter(store, count), options))
    await asyncio.sleep(3)
    following.cancel()
    await asyncio.wait([following])
    return tasks


async def test_a_followed_file_is_read_again_under_another_column(store: Store, tmp_path: Path) -> None:
    path = tmp_path / "ids.csv"
    path.write_text(TABLE)
    one, two = replace(READ, id_column="column one"), replace(READ, id_column="column two")
    assert [await follow_for(store, path, options) for options in (one, one, two)] == [299, 0, 299]
    with path.open("a") as appended:
        appended.write("C,D,\n")
    assert await follow_for(store, path, two) == 1
    assert await read(store, path, two) == 0
    assert await read(store, path, one) == 1
    assert len(await store.sources(100)) == 3
