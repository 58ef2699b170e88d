"""The law of resumption: wherever a reading was cut off, by a kill or because the file was only half written, the same
command then gives the tasks and rejected lines of one reading. `POLLER_RESUMPTIONS=20000` tries as many files."""

import os
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from random import Random

import orjson
import pytest

from poller.core.errors import InputError
from poller.core.model import Added, Chunk, Fed, Position, Rejection
from poller.core.protocols import Clock, Store
from poller.sources import ChunkWriter, Parser, ReadOptions, feed
from poller.sources.files.read_as import OF_REST
from poller.sources.imports import RowOptions
from poller.store import open_store

FILES = int(os.environ.get("POLLER_RESUMPTIONS", "15"))
READ = ReadOptions(accounts=frozenset({"main"}), default_account="main")
HEADERS = [
    "task_id,name",
    "name,task_id",
    "Task ID,name",
    "name,Task ID",
    "id,name",
    "name,id",
    "n,m,taskId",
    "task_id",
]
NOTES = [
    "x",
    "",
    '"q"',
    '"two\nlines"',
    '"two\r\nlines"',
    '"a, b"',
    "é",
    "name",
    '"x\nname,task_id\ny"',
    '"x',
    'x"',
    "\0",
]
VALUES = [1, "a,b", [1, 2], {"x": [{"y": "}"}]}, '"],[', "\\", "é", None, "{"]


class Killed(Exception):
    """The process is gone."""


@pytest.fixture
async def store(clock: Clock) -> AsyncIterator[Store]:
    opened = await open_store("sqlite:///:memory:", clock=clock)
    yield opened
    await opened.close()


class Reading:
    """What became of the lines of a file, over all runs that read it."""

    def __init__(self, store: Store, path: Path, options: ReadOptions) -> None:
        self._store, self._path, self._options = store, path, options
        self._left = -1
        self.chunks: list[Chunk] = []
        self.other_refs = 0

    async def run(self, *, chunks: int = -1) -> None:
        """Read to the end, or until as many chunks are stored."""
        self._left = chunks
        if chunks:
            with suppress(Killed):
                await feed(str(self._path), ChunkWriter(self._store, self._note), self._options)

    def _note(self, chunk: Chunk, added: Added) -> None:
        self.chunks.append(chunk)
        self.other_refs += added.other_refs
        self._left -= 1
        if self._left == 0:
            raise Killed

    @property
    def fed(self) -> list[Fed]:
        return [fed for chunk in self.chunks for fed in chunk.fed]

    @property
    def everything(self) -> tuple[list[Fed], list[Rejection], int]:
        return lines_of(self.chunks)


def table(rng: Random, ids: Iterator[str], columns: list[str]) -> list[str]:
    """Return the lines of a table, of which some are odd."""
    rows = [",".join(columns)]
    for _ in range(rng.randrange(6)):
        row = [next(ids) if "id" in column.lower() else rng.choice(NOTES) for column in columns]
        rows.append(rng.choice([",".join(row)] * 15 + ["", ",", "# c", rows[0], '"', ",".join([*row, "more"])]))
    return rows


def element(rng: Random, ids: Iterator[str], line_break: str) -> str:
    """Return an element of a JSON array, or an object."""
    value = {rng.choice(["task_id", "task_id", "other"]): next(ids), "n": rng.choice(VALUES)}
    text = orjson.dumps(value, option=rng.choice([0, orjson.OPT_INDENT_2])).decode()
    return text.replace("\n", line_break)


def document(rng: Random) -> bytes:
    """Return a file as people have them: ids, tables one after the other, JSON of any form."""
    ids, line_break = (f"A{number}" for number in range(1000, 9999)), rng.choice(["\n", "\n", "\r\n", "\r"])
    kind = rng.choice(["ids", "table", "tables", "tables", "array", "objects", "lines"])
    match kind:
        case "ids":
            text = line_break.join(rng.choice([next(ids), next(ids), "", "# c", "no id", "\0"]) for _ in range(9))
        case "table" | "tables":
            lines = ["sep=,"] * (rng.random() < 0.1) + ["A title"] * (rng.random() < 0.1)
            for _ in range(1 if kind == "table" else 3):
                lines += table(rng, ids, rng.choice(HEADERS).split(","))
            text = line_break.join(lines).replace(",", rng.choice([",", ";", "\t", "|"]))
        case "array":
            between = rng.choice([",", ", ", f",{line_break}", f"{line_break},"])
            text = f"[{between.join(element(rng, ids, line_break) for _ in range(5))}]"
        case _:
            between = line_break if kind == "lines" else rng.choice(["", " ", line_break])
            text = between.join(element(rng, ids, line_break if kind == "objects" else " ") for _ in range(6))
    text += rng.choice(["", line_break])
    return text.encode("utf-8-sig") if rng.random() < 0.8 else f"\ufeff{text}".encode("utf-16-le")


def options_of(rng: Random) -> ReadOptions:
    """Return options under which files have many chunks."""
    return ReadOptions(
        accounts=frozenset({"main"}),
        default_account="main",
        chunk_lines=rng.choice([1, 2, 3]),
        chunk_bytes=rng.choice([1, 40, 4000]),
    )


def in_pieces(data: bytes, options: ReadOptions, cuts: list[int]) -> Iterator[Chunk]:
    """Yield what is read of an input whose writer pauses at each cut, as a pipe's or a followed file's does."""
    parser = Parser(options, "ids")
    for begin, end in pairwise([0, *cuts, len(data)]):
        yield from parser.push(data[begin:end])
        if chunk := parser.flush():
            yield chunk
    yield from parser.end()


def lines_of(chunks: list[Chunk]) -> tuple[list[Fed], list[Rejection], int]:
    """Return the tasks, the rejected lines and how many were blank."""
    fed = [fed for chunk in chunks for fed in chunk.fed]
    return fed, [rejection for chunk in chunks for rejection in chunk.rejected], sum(chunk.blank for chunk in chunks)


def first_read(data: bytes, options: ReadOptions) -> list[str]:
    parser = Parser(options, "ids")
    return [fed.task_id for chunks in (parser.push(data), parser.end()) for chunk in chunks for fed in chunk.fed]


@pytest.mark.parametrize(
    ("data", "chunks"),
    [
        (b"task_id,name\nA1,x\nname,Task ID\ny,A2\nz,A3\n", 3),  # a later header in another spelling
        (b"id,name\nA1,x\nname,id\ny,A2\nz,A3\n", 3),
        (b'task_id,name\nA1,"x\nname,task_id\ny"\nA2,z\nA3,z\n', 2),  # what looks like a header within a value
        (b'task_id,name\nA1,x\nA2,"y\nz"', 2),  # nothing is left but the end
    ],
)
@pytest.mark.parametrize("id_column", [None, "id"])
async def test_a_table_is_resumed_under_the_header_that_was_in_force(
    store: Store, tmp_path: Path, data: bytes, chunks: int, id_column: str | None
) -> None:
    (path := tmp_path / "ids.csv").write_bytes(data if id_column is None else data.lower().replace(b"task", b""))
    options = ReadOptions(
        accounts=frozenset({"main"}), default_account="main", chunk_lines=1, id_column=id_column, format="csv"
    )
    reading = Reading(store, path, options)
    await reading.run(chunks=chunks)
    await reading.run()
    assert [fed.task_id for fed in reading.fed] == first_read(path.read_bytes(), options)


async def test_rows_in_json_that_were_read_half_written_are_read_once_the_file_has_grown(
    store: Store, tmp_path: Path
) -> None:
    rows = RowOptions(defaults={"access": "PRIVATE", "folderPath": "/p"})
    half, rest = b'{"url":"https://example.com/1","n":', b'1}{"url":"https://example.com/2","n":2}'
    (path := tmp_path / "rows").write_bytes(half)
    reading = Reading(store, path, replace(READ, rows=rows))
    await reading.run()
    path.write_bytes(half + rest)
    await reading.run()
    assert [len(chunk.rows) for chunk in reading.chunks] == [0, 2]


@pytest.mark.parametrize(
    ("half", "rest"),
    [
        (b'[{"task_id":"A1"},{"ta', b'sk_id":"A2"},{"task_id":"A3"}]'),
        (b'[{"task_id":"A1"},\n', b'{"task_id":"A2"}]'),
        (b"{", b'\n "task_id": "A1"\n}\n{\n "task_id": "A2"\n}\n'),  # not known as JSON yet
        (b'task_id,name\nA1,x\nA2,"y\n', b'z"\nA3,x\n'),
        (b'task_id,name\nA1,x\nA2,"y\nz"', b'" x"\nA3,x\n'),
        (b'"task\nid",na', b"me\nA1,x\n"),
        ("\ufefftask_id\nA1\nA2\n".encode("utf-16-le")[:-1], "\0A3\n".encode("utf-16-le")[1:]),
        (b"\xff", "\ufeffA1\nA2\n".encode("utf-16-le")[1:]),
    ],
)
async def test_a_file_that_was_read_half_written_is_read_from_its_start_once_it_has_grown(
    store: Store, tmp_path: Path, half: bytes, rest: bytes
) -> None:
    (path := tmp_path / "ids").write_bytes(half)
    reading = Reading(store, path, READ)
    await reading.run()
    await reading.run()
    path.write_bytes(half + rest)
    await reading.run()
    assert set(first_read(half + rest, READ)) <= {fed.task_id for fed in reading.fed}


async def test_a_reading_that_was_killed_after_any_chunk_and_resumed_gives_what_one_reading_gives(
    store: Store, tmp_path: Path, rng: Random
) -> None:
    for number in range(FILES):
        data, options = document(rng), options_of(rng)
        (path := tmp_path / f"{number}").write_bytes(data)
        whole = Reading(store, path, options)
        with suppress(InputError):
            await whole.run()
            for chunks in {1, len(whole.chunks) - 1, rng.randint(1, len(whole.chunks))}:
                path = tmp_path / f"{number}-{chunks}"
                path.write_bytes(data)
                resumed = Reading(store, path, options)
                await resumed.run(chunks=chunks)
                await resumed.run()
                assert (resumed.everything, data) == (whole.everything, data)


@pytest.mark.parametrize(("header", "usable"), [("", 1), ("name,task_id\n", 4)])
async def test_a_table_that_an_earlier_version_read_is_read_on_unless_it_has_a_later_header(
    store: Store, tmp_path: Path, header: str, usable: int
) -> None:
    """It noted no headers. From the start, tasks that were pruned meanwhile would be fed and reported once more."""
    (path := tmp_path / "ids.csv").write_text(f"task_id,name\nA1,x\nA2,y\n{header}A3,A4\n")
    await feed(str(path), store, READ)
    number, position = await store.open_source(str(path)) or (0, Position())
    earlier = replace(position, digest=" ".join(position.digest.split(" ")[:OF_REST]))
    await store.add(number, Chunk(fed=(), rejected=(), blank=0, position=earlier))
    with path.open("a") as file:
        file.write("A5,A6\n")
    assert (await feed(str(path), store, READ)).usable == usable


async def test_every_task_of_a_file_that_was_read_half_written_is_read_once_it_is_whole(
    store: Store, tmp_path: Path, rng: Random
) -> None:
    for number in range(FILES):
        data, options = document(rng), options_of(rng)
        (path := tmp_path / f"{number}").write_bytes(data)
        whole = Reading(store, path, options)
        with suppress(InputError):
            await whole.run()
            path, size = tmp_path / f"{number}-half", rng.randrange(len(data))
            path.write_bytes(data[:size])
            grown = Reading(store, path, options)
            await grown.run()
            path.write_bytes(data)
            await grown.run()
            missing = [fed for fed in whole.fed if fed not in grown.fed]  # but with the `ref` of half a record
            assert {fed.task_id for fed in missing} <= {fed.task_id for fed in grown.fed}, (data[:size], data[size:])
            assert len(missing) <= grown.other_refs, (data[:size], data[size:])


@pytest.mark.parametrize(
    ("data", "ids"),
    [
        (b'{"task_id":"A1"}{"task_id":"A2"}\n', ["A1", "A2"]),
        (b'\n{\r\n "task_id": "A1"\r\n}\r\n{\r\n "task_id": "A2"\r\n}', ["A1", "A2"]),
        (b'\xef\xbb\xbf[{"task_id":"A1"},{"task_id":"A2"}]', ["A1", "A2"]),
        (b"task_id,name\rA1,x\rA2,y\r", ["A1", "A2"]),
        ("\ufefftask_id\r\nA1\r\nA2\r\n".encode("utf-16-le"), ["A1", "A2"]),
        ("\ufeffA1\nA2\n".encode("utf-16-be"), ["A1", "A2"]),
    ],
)
def test_an_input_is_read_alike_wherever_its_writer_pauses(data: bytes, ids: list[str]) -> None:
    for cut in range(1, len(data)):
        chunks = in_pieces(data, READ, [cut])
        assert [fed.task_id for chunk in chunks for fed in chunk.fed] == ids, data[:cut]


def test_a_random_input_whose_writer_pauses_at_random_gives_what_one_reading_gives(rng: Random) -> None:
    for _ in range(4 * FILES):
        data, options = document(rng), options_of(rng)
        if b"\r" in data.replace(b"\r\n", b"") or b"\0" in data:
            continue  # a later LF, or NUL, decides what is not known before
        with suppress(InputError):
            cuts = sorted(rng.randrange(len(data)) for _ in range(2))
            whole, pieces = (list(in_pieces(data, options, each)) for each in ([], cuts))
            assert (lines_of(pieces), data, cuts) == (lines_of(whole), data, cuts)
