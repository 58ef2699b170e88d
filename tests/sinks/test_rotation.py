"""File sinks over several files: each record exactly once in their sequence, whatever dies when."""

# ruff: noqa: ASYNC240 - the tests read small local files

import asyncio
import errno
import os
from collections.abc import MutableMapping, Sequence
from itertools import pairwise
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from poller.core.deliveries import Delivery, Retry, Written
from poller.core.errors import ConfigError, SinkError
from poller.sinks import make_sink, written_files
from poller.sinks.files.jsonl import JSONL
from poller.sinks.files.rotation import FilePosition, LineFormat, Rotation, decode_position, encode_position
from poller.sinks.files.sink import FileSink
from tests.sinks.test_files import FORMATS, Crash, content, dying, form, lines
from tests.support.makers import sink_environment

__all__ = ["form"]  # a fixture
Events = list[MutableMapping[str, Any]]


def record(number: int, day: str = "2026-01-05", size: int = 0) -> Delivery:
    body = b'{"task_id":"%d","seen_at":"%sT10:00:00.000Z","ref":{"pad":"%s"}}' % (number, day.encode(), b"x" * size)
    return Delivery(number=number, account="main", task_id=str(number), body=body)


async def deliver(sink: FileSink, position: bytes | None, *batches: Sequence[Delivery]) -> bytes | None:
    """One life of a sink: open, write the batches, close."""
    try:
        position = await sink.open(position, [one for batch in batches for one in batch])
        for batch in batches:
            answer = await sink.write(batch)
            assert isinstance(answer, Written)
            position = answer.position
    finally:
        await sink.close()
    return position


def contents(form: LineFormat, path: Path) -> bytes:
    """Return the lines of all files, without each one's header."""
    found = [file.read_bytes() for file in written_files(path)]
    assert all(data.startswith(form.header) for data in found if data)
    return b"".join(data[len(form.header) :] for data in found)


async def test_each_day_has_its_file_by_the_day_on_which_the_record_was_seen(form: LineFormat, tmp_path: Path) -> None:
    path = tmp_path / "finished-%Y%m%d.jsonl"
    batch = [record(1, "2026-01-05"), record(2, "2026-01-06"), record(3, "2026-01-06"), record(4, "2026-02-01")]
    await deliver(FileSink(path, form), None, batch[:3], batch[3:])
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == {
        "finished-20260105.jsonl": content(form, batch[:1]),
        "finished-20260106.jsonl": content(form, batch[1:3]),
        "finished-20260201.jsonl": content(form, batch[3:]),
    }
    assert all(file.stat().st_mode & 0o777 == 0o600 for file in tmp_path.iterdir())


async def test_a_record_seen_before_midnight_that_comes_after_it_stays_in_the_new_day(
    form: LineFormat, tmp_path: Path
) -> None:
    path = tmp_path / "%d.%m.%Y.jsonl"
    await deliver(
        FileSink(path, form), None, [record(1, "2025-12-31"), record(2, "2026-01-01"), record(3, "2025-12-31")]
    )
    assert [file.name for file in written_files(path)] == ["31.12.2025.jsonl", "01.01.2026.jsonl"]
    assert contents(form, path) == lines(
        form, [record(1, "2025-12-31"), record(2, "2026-01-01"), record(3, "2025-12-31")]
    )


async def test_a_file_is_followed_by_the_next_before_it_grows_too_large(form: LineFormat, tmp_path: Path) -> None:
    path = tmp_path / "finished.jsonl"
    batch = [record(number) for number in range(10, 22)]
    sizes = len(content(form, batch[:3]))
    await deliver(FileSink(path, form, rotate_bytes=sizes), None, batch[:5], batch[5:])
    assert [file.name for file in written_files(path)] == [
        "finished.jsonl",
        "finished.1.jsonl",
        "finished.2.jsonl",
        "finished.3.jsonl",
    ]
    assert all(file.stat().st_size <= sizes for file in tmp_path.iterdir())
    assert contents(form, path) == lines(form, batch)


async def test_a_record_larger_than_a_file_may_be_has_one_of_its_own(form: LineFormat, tmp_path: Path) -> None:
    batch = [record(1), record(2, size=10_000), record(3)]
    await deliver(FileSink(tmp_path / "f.jsonl", form, rotate_bytes=5000), None, batch)
    assert [file.read_bytes() for file in written_files(tmp_path / "f.jsonl")] == [
        content(form, [one]) for one in batch
    ]


async def test_days_and_sizes_combine_and_numbers_start_at_0_each_day(form: LineFormat, tmp_path: Path) -> None:
    path = tmp_path / "f-%Y%m%d.jsonl"
    batch = [record(n, day, size=3000) for n, day in enumerate(["2026-01-05"] * 3 + ["2026-01-06"] * 2)]
    position = await deliver(FileSink(path, form, rotate_bytes=5000), None, batch)
    assert [file.name for file in written_files(path)] == [
        *("f-20260105.jsonl", "f-20260105.1.jsonl", "f-20260105.2.jsonl"),
        *("f-20260106.jsonl", "f-20260106.1.jsonl"),
    ]
    assert position is not None
    assert decode_position(position) == FilePosition(day="2026-01-06", number=1, offset=len(content(form, batch[4:])))


async def test_rotation_can_begin_on_a_file_that_grew_without(form: LineFormat, tmp_path: Path) -> None:
    path = tmp_path / "f.jsonl"
    batch = [record(number, size=3000) for number in range(4)]
    position = await deliver(FileSink(path, form), None, batch[:3])
    assert position == b"%d" % len(content(form, batch[:3]))
    await deliver(FileSink(path, form, rotate_bytes=5000), position, batch[3:])
    assert [file.name for file in written_files(path)] == ["f.jsonl", "f.1.jsonl"]
    assert contents(form, path) == lines(form, batch)


@pytest.mark.parametrize(("before", "after"), [(4096, None), (None, 4096), (2048, 4096), (4096, 2048)])
async def test_what_was_written_but_not_noted_under_another_rotation_is_once_in_the_files(
    form: LineFormat, tmp_path: Path, before: int | None, after: int | None
) -> None:
    path = tmp_path / "finished.jsonl"
    start = await deliver(FileSink(path, form, rotate_bytes=before), None, [record(0, size=900)])
    batch = [record(number, size=900) for number in range(1, 12)]
    await deliver(FileSink(path, form, rotate_bytes=before), start, batch)  # killed before its position is noted
    copy = tmp_path / "finished.99.jsonl"  # a person's: it has nothing that is written now
    copy.write_bytes(form.header + form.line(record(0, size=900)))
    await deliver(FileSink(path, form, rotate_bytes=after), start, batch)
    assert copy.read_bytes() == form.header + form.line(record(0, size=900))
    copy.unlink()
    assert contents(form, path) == b"".join(map(form.line, [record(0, size=900), *batch]))


async def test_only_files_of_the_name_s_pattern_are_listed(tmp_path: Path) -> None:
    for name in ("a-20260105.jsonl", "a-20260105.2.jsonl", "a-20260105.10.jsonl", "a-20260104.jsonl"):
        (tmp_path / name).touch()
    for name in (
        "a-20260105.jsonl.foreign-0",
        "a-2026.jsonl",
        "b-20260105.jsonl",
        "a-20260105.x.jsonl",
        "xa-20260105.jsonl",
    ):
        (tmp_path / name).touch()
    assert [file.name for file in written_files(tmp_path / "a-%Y%m%d.jsonl")] == [
        *("a-20260104.jsonl", "a-20260105.jsonl", "a-20260105.2.jsonl", "a-20260105.10.jsonl")
    ]


async def test_a_new_sink_refuses_data_in_any_of_its_files(form: LineFormat, tmp_path: Path) -> None:
    for path, found in (("f-%Y.jsonl", "f-2025.jsonl"), ("g.jsonl", "g.3.jsonl")):
        (tmp_path / found).write_bytes(b"precious\n")
        with pytest.raises(SinkError, match=found):
            await deliver(FileSink(tmp_path / path, form, rotate_bytes=5000), None, [record(1)])


async def test_a_full_disk_at_the_change_of_files_writes_nothing_twice(
    form: LineFormat, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, events: Events
) -> None:
    path = tmp_path / "f-%Y%m%d.jsonl"
    batch = [record(1, "2026-01-05"), record(2, "2026-01-06")]
    real, room = os.pwrite, [len(content(form, batch[:1])) + 10]

    def nearly_full(fd: int, data: bytes, offset: int) -> int:
        if room[0] <= 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        count = real(fd, data[: room[0]], offset)
        room[0] -= count
        return count

    sink = FileSink(path, form)
    await sink.open(None, batch)
    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", nearly_full)
        answer = await sink.write(batch)
    assert isinstance(answer, Retry)
    assert "f-20260106.jsonl: No space left" in answer.reason
    assert contents(form, path) == lines(form, batch[:1]), "readers see no half line"
    assert isinstance(await sink.write([*batch, record(3, "2026-01-06")]), Written)
    await sink.close()
    assert contents(form, path) == lines(form, [*batch, record(3, "2026-01-06")])
    assert events == []


async def test_foreign_lines_in_the_file_that_is_left_are_kept_in_another(
    form: LineFormat, tmp_path: Path, events: Events
) -> None:
    path = tmp_path / "f-%Y%m%d.jsonl"
    sink = FileSink(path, form)
    await sink.open(None, [])
    await sink.write([record(1, "2026-01-05")])
    with (tmp_path / "f-20260105.jsonl").open("ab") as file:
        file.write(b"foreign\n")
    await sink.write([record(2, "2026-01-06")])
    await sink.close()
    assert contents(form, path) == lines(form, [record(1, "2026-01-05"), record(2, "2026-01-06")])
    assert [event["event"] for event in events] == ["sink.foreign_tail"]


async def test_a_dated_file_moved_away_is_followed_by_a_new_one(form: LineFormat, tmp_path: Path) -> None:
    path = tmp_path / "f-%Y%m%d.jsonl"
    sink = FileSink(path, form)
    await sink.open(None, [])
    await sink.write([record(1)])
    (tmp_path / "f-20260105.jsonl").rename(tmp_path / "archived")
    answer = await sink.write([record(2)])
    assert isinstance(answer, Retry)
    assert answer.position == encode_position(FilePosition(day="2026-01-05"))
    await sink.write([record(2)])
    await sink.close()
    assert contents(form, path) == lines(form, [record(2)])


async def test_a_dated_file_that_was_archived_while_no_run_was_at_work_is_followed_by_a_new_one(
    form: LineFormat, tmp_path: Path, events: Events
) -> None:
    """An archive job moved it while the poller was down, which refused to start, in a container in a loop."""
    path = tmp_path / "out" / "finished-%Y%m%d.jsonl"
    path.parent.mkdir()
    position = await deliver(FileSink(path, form), None, [record(1, "2026-01-05")])
    (path.parent / "finished-20260105.jsonl").rename(tmp_path / "archived.jsonl")
    for batch in ([], [record(2, "2026-01-05")], [record(3, "2026-01-06")]):
        position = await deliver(FileSink(path, form), position, batch)
    assert {file.name: file.read_bytes() for file in path.parent.iterdir()} == {
        "finished-20260105.jsonl": content(form, [record(2, "2026-01-05")]),
        "finished-20260106.jsonl": content(form, [record(3, "2026-01-06")]),
    }
    assert [event["event"] for event in events] == ["sink.file_moved"]
    path.parent.rename(tmp_path / "not mounted")
    with pytest.raises(SinkError, match="folder does not exist"):
        await deliver(FileSink(path, form), position, [])


@pytest.mark.parametrize("name", ["f-%H.jsonl", "f-%m%d.jsonl", "f-%Y%d.jsonl", "f-%Y%Y.jsonl", "%Y/f.jsonl", "f%"])
def test_an_unusable_pattern_is_a_configuration_error(name: str) -> None:
    with pytest.raises(ConfigError, match="sink jsonl: path: "):
        make_sink(f"jsonl:{name}", sink_environment())


def test_two_percent_signs_are_one() -> None:
    assert Rotation(path=Path("100%%.jsonl"), format=JSONL).file_at(FilePosition()) == Path("100%.jsonl")


DAYS = ["2026-01-04", "2026-01-05", "2026-01-06", "2026-02-01"]
RECORDS = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 60)), min_size=1, max_size=25).map(
    lambda drawn: [record(n, DAYS[day], size) for n, (day, size) in enumerate(drawn)]
)
ROTATIONS = st.builds(
    lambda name, most: (name, most), st.sampled_from(["f.jsonl", "f-%Y%m%d.jsonl", "%Y-%m"]), st.none() | st.just(200)
)


@given(
    form=st.sampled_from(FORMATS),
    records=RECORDS,
    rotation=ROTATIONS,
    cuts=st.lists(st.integers(0, 25), max_size=5),
)
def test_where_a_record_goes_does_not_depend_on_the_batches(
    form: LineFormat, records: list[Delivery], rotation: tuple[str, int | None], cuts: list[int]
) -> None:
    files = Rotation(path=Path(rotation[0]), format=form, most_bytes=rotation[1])

    def placed(batches: Sequence[Sequence[Delivery]]) -> dict[tuple[str, int, int], int]:
        position, bytes_at = FilePosition(), {}
        for batch in batches:
            for part in files.parts(position, batch):
                for at, byte in enumerate(part.lines):
                    bytes_at[(part.start.day, part.start.number, part.start.offset + at)] = byte
                position = part.end
        return bytes_at

    bounds = [0, *sorted(cuts), len(records)]
    in_pieces = [records[begin:end] for begin, end in pairwise(bounds)]
    assert placed(in_pieces) == placed([records])
    headers = len(form.header) * len({(day, number) for day, number, _ in placed([records])})
    assert len(placed([records])) == len(lines(form, records)) + headers, "no byte overwrites another"


class Life:
    """What the store does for the sink: undelivered records, and the position noted with the delivered ones."""

    def __init__(self, records: Sequence[Delivery]) -> None:
        self.undelivered = list(records)
        self.position: bytes | None = None

    async def run(self, form: LineFormat, path: Path, most: int | None, rng: Random, forget: float = 0.0) -> None:
        sink = FileSink(path, form, rotate_bytes=most)
        try:
            self.position = await sink.open(self.position, self.undelivered[:10])
            while self.undelivered:
                batch = self.undelivered[: rng.randint(1, 10)]
                answer = await sink.write(batch)
                assert isinstance(answer, Written)
                if rng.random() < forget:
                    raise Crash
                del self.undelivered[: len(batch)]
                self.position = answer.position
        finally:
            await sink.close()  # like the end of a process: frees the lock, changes nothing


@settings(max_examples=200, deadline=None)
@given(
    form=st.sampled_from(FORMATS),
    records=RECORDS,
    rotation=ROTATIONS,
    crashes=st.lists(st.tuples(st.integers(0, 15), st.floats(0, 1)), max_size=6),
    seed=st.integers(0, 1000),
)
def test_each_record_is_once_in_the_files_after_any_crashes(
    form: LineFormat,
    records: list[Delivery],
    rotation: tuple[str, int | None],
    crashes: list[tuple[int, float]],
    seed: int,
) -> None:
    rng, life = Random(seed), Life(records)
    with TemporaryDirectory() as folder:
        path = Path(folder) / rotation[0]
        for before_call, torn in crashes:
            try:
                with dying(before_call, torn):
                    asyncio.run(life.run(form, path, rotation[1], rng, forget=0.2))
            except Crash:
                pass
        asyncio.run(life.run(form, path, rotation[1], rng))
        assert contents(form, path) == lines(form, records)
        assert set(written_files(path)) == set(Path(folder).iterdir()), "nothing was taken for foreign"
