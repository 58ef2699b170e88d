"""The law of retention: what a file had once is fed once, though its tasks were pruned before the file grew, however
that was cut: within a line, a record or an element; and the run that read it was killed. `POLLER_RESUMPTIONS=20000`
tries as many files."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, MutableMapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import pytest

from poller.core.errors import InputError
from poller.core.model import Added, Chunk, Kind
from poller.core.protocols import Clock, Store
from poller.sources import ChunkWriter, ReadOptions, feed
from poller.sources.files.follow import follow
from poller.sources.imports import RowOptions
from poller.sources.intake import OnChunk
from poller.store import open_store
from tests.sources.test_resumption import FILES, READ, Killed, document, first_read, options_of
from tests.support.simulation import named
from tests.support.store_makers import finished

LONG_S = 4.0  # in which a follower reads all there is


@pytest.fixture
async def store(clock: Clock) -> AsyncIterator[Store]:
    opened = await open_store("sqlite:///:memory:", clock=clock)
    yield opened
    await opened.close()


class PrunedReading:
    """A file whose tasks are finished and pruned after each of the runs that read it."""

    def __init__(self, store: Store, path: Path, options: ReadOptions) -> None:
        self._store, self._path, self.options = store, path, options
        self._left = -1
        self.polled: list[str] = []
        self.on_chunk: OnChunk = lambda _chunk, _added: None

    async def read(self, *, chunks: int = -1) -> None:
        """Read to the end, or until as many chunks are stored."""
        self._left = chunks
        with suppress(Killed):
            await feed(str(self._path), self._writer(), self.options)
        await self._finish_and_prune()

    async def follow(self, seconds: float = LONG_S, *, chunks: int = -1) -> None:
        self._left = chunks
        following = asyncio.create_task(follow(str(self._path), self._writer(), self.options))
        await asyncio.sleep(seconds)
        following.cancel()
        with suppress(asyncio.CancelledError, Killed):
            await following
        await self._finish_and_prune()

    def _writer(self) -> ChunkWriter:
        writer = ChunkWriter(self._store, self._note)
        begin = writer.new_source

        async def new_source(*values: str, **named: str) -> int:
            number = await begin(*values, **named)
            if self._left == 0:
                raise Killed
            return number

        writer.new_source = new_source  # type: ignore[method-assign]
        return writer

    def _note(self, chunk: Chunk, added: Added) -> None:
        self.on_chunk(chunk, added)
        self._left -= 1
        if self._left == 0:
            raise Killed

    async def _finish_and_prune(self) -> None:
        tasks = [task for account in ("main", "emea") for task in await self._store.claim(account, 1000)]
        self.polled += [task.task_id for task in tasks]
        await self._store.record([finished(task, at=0.0) for task in tasks])
        await self._store.prune(1.0, 1000)

    async def lines(self) -> list[tuple[int, int]]:
        """Return of each source its lines, and the sum of where they went."""
        sources = (await self._store.sums()).sources
        return [(each.lines, each.tasks + each.duplicates + each.rejected + each.blank) for each in sources]


GROWN: Sequence[tuple[bytes, bytes, list[str]]] = [  # what was read, what came then, ids of tasks in the end
    (b'id,note\nA1,x\nA2,"one\ntwo"', b"\nA3,y\n", ["A1", "A2", "A3"]),
    (b"id,note\nA1,x\nA2,y", b"yy\nA3,y\n", ["A1", "A2", "A3"]),
    (b'id,note\nA1,x\nA2,"y\nA3,z', b'z\nA4,"\n', ["A1", "A3"]),
    (b'[{"id":"A1"},{"id":"A2"},{"id":"A', b'3"},{"id":"A4"}]', ["A1", "A2", "A3", "A4"]),
    (b'{"id":"A1"}', b'{"id":"A2"}', ["A1", "A2"]),
    (b"id,note\nA1,x\nnote,id", b"\ny,A2\n", ["A1", "A2"]),
    (b'{"id":"A1"}\n{"id":"A2"}', b' \n{"id":"A3"}\n', ["A1", "A2", "A3"]),
    (b"A1\nA1\nA2", b"3\nA1\n", ["A1", "A1", "A2", "A23"]),  # fed once more, behind the rest
]


@pytest.mark.parametrize(("half", "rest", "polled"), GROWN)
@pytest.mark.parametrize("is_followed", [False, True])
async def test_lines_whose_tasks_were_pruned_are_duplicates_where_their_file_was_half_written(
    store: Store, tmp_path: Path, half: bytes, rest: bytes, polled: list[str], is_followed: bool
) -> None:
    (path := tmp_path / "ids").write_bytes(half)
    reading = PrunedReading(store, path, READ)
    await reading.read()
    path.write_bytes(half + rest)
    await (reading.follow() if is_followed else reading.read())
    assert sorted(reading.polled) == polled
    assert all(lines == went for lines, went in await reading.lines())


@pytest.mark.parametrize("is_followed", [False, True])
@pytest.mark.parametrize("chunks", [0, 1, 2, 3, 4])
async def test_lines_of_a_second_reading_that_was_killed_are_duplicates_too(
    store: Store, tmp_path: Path, chunks: int, is_followed: bool
) -> None:
    (path := tmp_path / "ids").write_bytes(b'id,note\nA1,x\nA2,x\nA3,x\nA4,"one\ntwo"')
    reading = PrunedReading(store, path, replace(READ, chunk_lines=1))
    await reading.read()
    with path.open("ab") as file:
        file.write(b"\nA5,y\n")
    await (reading.follow(chunks=chunks) if is_followed else reading.read(chunks=chunks))
    await reading.read()
    assert sorted(reading.polled) == ["A1", "A2", "A3", "A4", "A5"]


HALF, REST = b'id,note,account\nA1,B1,\nA2,B2,emea\nA3,B3,\nA4,"B4\n",', b"\nA5,B5,\n"
EMEA = replace(READ, accounts=frozenset({"main", "emea"}), chunk_lines=1)


@pytest.mark.parametrize("is_followed", [False, True])
@pytest.mark.parametrize("chunks", [0, 1, 2])
@pytest.mark.parametrize(
    ("corrected", "options", "polled"),
    [
        ((b"A", b"C"), {}, {"C1", "C3", "C4", "C5"}),
        ((b"A3", b"C3"), {}, {"C3", "A5"}),
        ((b"", b""), {"accounts": EMEA.accounts}, {"A2", "A5"}),
        ((b"", b""), {"accounts": EMEA.accounts, "default_account": "emea"}, {"A2", "A3", "A4", "A5"}),
        ((b"", b""), {"id_column": "note"}, {"B3", "B5"}),
    ],
)
async def test_what_changed_after_a_second_reading_was_killed_is_not_taken_for_stored(
    store: Store,
    tmp_path: Path,
    chunks: int,
    is_followed: bool,
    corrected: tuple[bytes, bytes],
    options: dict[str, Any],
    polled: set[str],
) -> None:
    """A line that is taken for a stored one is lost: what the earlier reading had is proven again, and how."""
    (path := tmp_path / "ids").write_bytes(HALF)
    reading = PrunedReading(store, path, replace(READ, chunk_lines=1))
    await reading.read()
    path.write_bytes(HALF + REST)
    await (reading.follow(chunks=chunks) if is_followed else reading.read(chunks=chunks))
    before = len(reading.polled)
    path.unlink()
    path.write_bytes((HALF + REST).replace(*corrected))
    reading.options = replace(reading.options, **options)
    await (reading.follow() if is_followed else reading.read())
    assert polled <= set(reading.polled[before:])


async def test_a_block_that_changes_while_the_file_is_read_again_is_not_taken_for_stored(
    store: Store, tmp_path: Path
) -> None:
    note = b"x" * 20_000
    half = b"id,note\n" + b"".join(b"A%d,%b\n" % (number, note) for number in range(10, 40)) + b'A40,"\n'
    (path := tmp_path / "ids").write_bytes(half)
    reading = PrunedReading(store, path, replace(READ, chunk_lines=1))
    await reading.read()
    path.write_bytes(half + b'"\nA41,y\n')

    def correct(_chunk: Chunk, _added: Added) -> None:
        with path.open("r+b") as file:
            file.seek(half.index(b"A39"))
            file.write(b"C39")

    reading.on_chunk = correct
    await reading.read()
    assert {"C39", "A41"} <= set(reading.polled)


async def test_a_record_that_was_cut_off_is_read_with_the_rest_also_where_a_kill_was_behind_it(
    store: Store, tmp_path: Path
) -> None:
    """The reading that was resumed behind it knew of no record."""
    (path := tmp_path / "ids").write_bytes(b'id,note\nA1,"two\nli')
    reading = PrunedReading(store, path, replace(READ, chunk_lines=2))
    await reading.read(chunks=1)
    await reading.read()
    path.write_bytes(b'id,note\nA1,"two\nlines"\nA2,x\n')
    await reading.read()
    assert {"A1", "A2"} <= set(reading.polled)


async def test_rows_that_other_options_rejected_are_fed_with_the_rest(store: Store, tmp_path: Path) -> None:
    """Also where the sums hold a line twice, since it had grown."""
    rows = RowOptions(defaults={"access": "PRIVATE", "folderPath": "/{brand}"})
    parts = b"url,brand,n\nhttps://a.com/1,#REF!,1\nhttps://a.com/2,b,1", b'2\nhttps://a.com/3,b,"a\nb"', b"\n"
    for number in (1, 2):
        (tmp_path / "rows.csv").write_bytes(b"".join(parts[:number]))
        await feed(str(tmp_path / "rows.csv"), store, replace(READ, rows=rows))
    (tmp_path / "rows.csv").write_bytes(b"".join(parts))
    rows = RowOptions(defaults={"access": "PRIVATE", "folderPath": "/"})
    await feed(str(tmp_path / "rows.csv"), store, replace(READ, rows=rows))
    assert [(each.lines, each.tasks) for each in (await store.sums()).sources] == [(5, 2), (4, 3)]


async def test_rows_below_a_half_written_header_are_fed_under_options_that_need_the_rest_of_it(
    store: Store, tmp_path: Path
) -> None:
    rows = RowOptions(defaults={"access": "PRIVATE", "folderPath": "/p"})
    (path := tmp_path / "rows.csv").write_bytes(b"url,b")
    await feed(str(path), store, replace(READ, rows=rows))
    path.write_bytes(b"url,brand\nhttps://a.com/1,b\n")
    rows = RowOptions(defaults={"access": "PRIVATE", "folderPath": "/{brand}"})
    assert (await feed(str(path), store, replace(READ, rows=rows))).usable == 1


async def test_a_row_that_failed_and_was_read_half_written_is_not_imported_again_by_the_rest(
    store: Store, tmp_path: Path
) -> None:
    """No more than one of a file that was whole: for another attempt it is fed again."""
    rows = RowOptions(defaults={"access": "PRIVATE", "folderPath": "/p"})
    half, rest = b'url,n\nhttps://example.com/1,1\nhttps://example.com/2,"a\nb"', b"\nhttps://example.com/3,3\n"
    (path := tmp_path / "rows.csv").write_bytes(half)
    options = replace(READ, rows=rows)
    first = await feed(str(path), store, options)
    path.write_bytes(half + rest)
    grown = await feed(str(path), store, options)
    assert (first.usable, grown.usable) == (2, 3)
    assert [(each.tasks, each.duplicates) for each in (await store.sums()).sources] == [(2, 0), (1, 2)]


async def test_a_failed_task_of_a_file_read_half_written_counts_as_failed(store: Store, tmp_path: Path) -> None:
    half, rest = b'id,note\nA1,x\nA2,"one\ntwo"', b"\nA3,y\n"
    (path := tmp_path / "ids").write_bytes(half)
    await feed(str(path), store, READ)
    tasks = await store.claim("main", 9)
    await store.record([finished(task, Kind.CANCELED) for task in tasks])
    path.write_bytes(half + rest)
    await feed(str(path), store, READ)
    assert [each.failed for each in (await store.sums()).sources] == [0, 2]


async def test_a_ref_of_half_a_line_is_logged_as_another_one(
    store: Store, tmp_path: Path, events: list[MutableMapping[str, Any]]
) -> None:
    (path := tmp_path / "ids").write_bytes(b"id,note\nA1,x\nA2,y")
    await feed(str(path), store, READ)
    path.write_bytes(b"id,note\nA1,x\nA2,yy\n")
    await feed(str(path), store, READ)
    assert [event["count"] for event in named(events, "source.refs_differed")] == [1]


async def test_lines_that_a_run_under_other_accounts_rejected_are_read_with_the_rest(
    store: Store, tmp_path: Path
) -> None:
    half, rest = b'id,account\nA1,\nA2,emea\nA3,"\n"', b"\nA4,\n"
    (path := tmp_path / "ids").write_bytes(half)
    await feed(str(path), store, READ)
    path.write_bytes(half + rest)
    await feed(str(path), store, replace(READ, accounts=frozenset({"main", "emea"})))
    assert [task.task_id for task in await store.claim("emea", 9)] == ["A2"]


async def test_a_line_that_was_rejected_as_a_part_of_one_is_read_once_it_is_whole(store: Store, tmp_path: Path) -> None:
    """The process was killed before it opened the file that replaced it."""
    path, moved = tmp_path / "ids.csv", tmp_path / "ids.csv.1"
    path.write_bytes(b"id,note\nA1,x\nA2,y")
    reading = PrunedReading(store, path, READ)
    following = asyncio.create_task(reading.follow(30.0, chunks=2))
    await asyncio.sleep(5)
    path.rename(moved)
    path.write_bytes(b"id,note\nB1,x\n")
    await following
    with moved.open("ab") as file:
        file.write(b"yy\n")
    await reading.follow(30.0)
    assert sorted(reading.polled) == ["A1", "A2", "B1"]


async def test_a_random_file_that_grew_in_pieces_while_its_tasks_were_pruned_gives_each_once(
    store: Store, tmp_path: Path, rng: Random
) -> None:
    for number in range(FILES):
        data, options = document(rng), options_of(rng)
        path = tmp_path / f"{number}"
        reading = PrunedReading(store, path, options)
        sizes = [*sorted(rng.randrange(len(data)) for _ in range(rng.randrange(3))), len(data)]
        with suppress(InputError):
            for size in sizes:
                path.write_bytes(data[:size])
                for _ in range(rng.randrange(2)):
                    await reading.read(chunks=rng.randint(1, 3))
                await (reading.follow() if rng.random() < 0.3 else reading.read())
            await reading.read()  # a follower waits for the last line's end
            whole = Counter(name for name in reading.polled if len(name) == len("A1000"))  # an `A10` may be two lines
            assert set(whole.values()) <= {1}, (data, sizes, whole)
            with suppress(InputError):
                assert set(first_read(data, options)) <= set(reading.polled), (data, sizes)
