"""File sinks of every line format: each record exactly once in a file, whatever breaks."""

# ruff: noqa: ASYNC240 - the tests read small local files

import asyncio
import errno
import fcntl
import os
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator, MutableMapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from poller.core.deliveries import Delivery, Retry, Written
from poller.core.errors import SinkError
from poller.sinks.files.csv_lines import CSV
from poller.sinks.files.jsonl import JSONL
from poller.sinks.files.rotation import LineFormat
from poller.sinks.files.sink import FileSink

Events = list[MutableMapping[str, Any]]
FORMATS = [JSONL, CSV]


def delivery(number: int, body: bytes | None = None) -> Delivery:
    return Delivery(number=number, account="main", task_id=str(number), body=body or b'{"task_id":"%d"}' % number)


def deliveries(count: int) -> list[Delivery]:
    return [delivery(number) for number in range(count)]


def content(form: LineFormat, batch: Sequence[Delivery]) -> bytes:
    """Return what a file with exactly these records contains."""
    return form.header + lines(form, batch) if batch else b""


def lines(form: LineFormat, batch: Sequence[Delivery]) -> bytes:
    return b"".join(map(form.line, batch))


@pytest.fixture(params=FORMATS, ids=lambda form: form.kind)
def form(request: pytest.FixtureRequest) -> LineFormat:
    return request.param  # type: ignore[no-any-return]


# --- what is written


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "finished.jsonl"


async def reopened(form: LineFormat, path: Path, position: bytes | None, following: Sequence[Delivery]) -> FileSink:
    sink = FileSink(path, form)
    try:
        await sink.open(position, following)
    except BaseException:
        await sink.close()
        raise
    return sink


async def written(sink: FileSink, batch: Sequence[Delivery]) -> bytes:
    answer = await sink.write(batch)
    assert isinstance(answer, Written)
    assert answer.position is not None
    return answer.position


async def test_a_file_that_an_earlier_version_began_keeps_its_columns_and_the_next_one_has_all(tmp_path: Path) -> None:
    (older,) = CSV.older
    path, batch = tmp_path / "finished.csv", deliveries(300)
    sink = FileSink(path, older)
    await sink.open(None, [])
    position = await written(sink, batch[:20])
    await sink.close()
    found = []
    for _ in ("killed", "again"):  # after a kill the same bytes are written again at the same offsets
        sink = FileSink(path, CSV, rotate_bytes=4096)
        await sink.open(position, batch[20:])
        await written(sink, batch[20:])
        await sink.close()
        found.append({file: file.read_bytes() for file in tmp_path.iterdir()})
    assert found[0] == found[1]
    first, *others = [found[0][file] for file in sorted(found[0], key=lambda file: (len(file.name), file.name))]
    assert first.startswith(older.header + lines(older, batch[:25]))
    assert others
    assert all(data.startswith(CSV.header) for data in others)
    assert sum(data.count(b"\r\n") - 1 for data in (first, *others)) == 300


async def test_a_file_of_an_earlier_version_that_was_moved_is_followed_by_one_with_all_columns(tmp_path: Path) -> None:
    (older,) = CSV.older
    path, batch = tmp_path / "finished.csv", deliveries(30)
    sink = FileSink(path, older)
    await sink.open(None, [])
    position = await written(sink, batch[:10])
    await sink.close()
    sink = FileSink(path, CSV)
    await sink.open(position, batch[10:])
    position = await written(sink, batch[10:20])
    path.rename(tmp_path / "moved.csv")
    assert isinstance(await sink.write(batch[20:]), Retry)
    await written(sink, batch[20:25])
    await written(sink, batch[25:])
    await sink.close()
    assert (tmp_path / "moved.csv").read_bytes() == content(older, batch[:20])
    assert path.read_bytes() == content(CSV, batch[20:])


async def test_records_are_lines_in_order_and_the_position_is_the_length(form: LineFormat, path: Path) -> None:
    sink = FileSink(path, form)
    assert await sink.open(None, []) == b"0"
    first = await written(sink, deliveries(3))
    second = await written(sink, [delivery(3)])
    await sink.close()
    assert path.read_bytes() == content(form, deliveries(4))
    assert (int(first), int(second)) == (len(content(form, deliveries(3))), path.stat().st_size)


async def test_a_new_file_is_readable_by_its_owner_alone(form: LineFormat, path: Path) -> None:
    await (await reopened(form, path, None, [])).close()
    assert path.stat().st_mode & 0o777 == 0o600


async def test_a_run_continues_at_the_noted_position(form: LineFormat, path: Path) -> None:
    sink = await reopened(form, path, None, [])
    position = await written(sink, deliveries(2))
    await sink.close()
    sink = await reopened(form, path, position, [delivery(2)])
    await written(sink, [delivery(2)])
    await sink.close()
    assert path.read_bytes() == content(form, deliveries(3))


# --- files that cannot be used


async def test_a_file_with_unknown_data_is_refused_and_left_alone(form: LineFormat, path: Path) -> None:
    path.write_bytes(b"precious\n")
    with pytest.raises(SinkError, match="this state did not write"):
        await reopened(form, path, None, [])
    assert path.read_bytes() == b"precious\n"


@pytest.mark.parametrize(
    ("found", "message"),
    [(None, "is missing"), (b"", "holds 0 bytes"), (b"{}\n", "holds 3 bytes"), (b"x" * 50, "was changed")],
)
async def test_a_file_that_is_not_the_one_written_to_is_refused(
    form: LineFormat, path: Path, found: bytes | None, message: str
) -> None:
    if found is not None:
        path.write_bytes(found)
    with pytest.raises(SinkError, match=message):
        await reopened(form, path, b"20", [])
    assert (path.read_bytes() if path.exists() else None) == found


async def test_a_file_with_other_columns_is_refused_and_left_alone(path: Path) -> None:
    older = b"task_id,kind\r\nt1,complete\r\n"
    path.write_bytes(older)
    with pytest.raises(SinkError, match="begins with other columns"):
        await reopened(CSV, path, b"%d" % len(older), [])
    assert path.read_bytes() == older


async def test_what_is_not_a_regular_file_is_refused_with_a_hint_at_stdout(form: LineFormat, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    for path in (tmp_path, tmp_path / "fifo", Path("/dev/null")):
        with pytest.raises(SinkError, match="stdout"):
            await reopened(form, path, None, [])


async def test_a_missing_folder_is_named(form: LineFormat, tmp_path: Path) -> None:
    with pytest.raises(SinkError, match="folder does not exist"):
        await reopened(form, tmp_path / "nowhere" / "finished.jsonl", None, [])


async def test_a_link_to_a_folder_that_is_not_there_is_named_as_that(form: LineFormat, path: Path) -> None:
    path.symlink_to(path.parent / "unmounted" / path.name)
    with pytest.raises(SinkError, match="is a link to a folder that does not exist; choose another path"):
        await reopened(form, path, None, [])


def test_a_second_process_is_refused_and_the_first_is_named(form: LineFormat, path: Path) -> None:
    holder = textwrap.dedent("""
        import asyncio, sys
        from pathlib import Path
        from poller.sinks.files.csv_lines import CSV
        from poller.sinks.files.jsonl import JSONL
        from poller.sinks.files.sink import FileSink
        asyncio.run(FileSink(Path(sys.argv[1]), {"jsonl": JSONL, "csv": CSV}[sys.argv[2]]).open(None, []))
        print("open", flush=True)
        sys.stdin.read()
    """)
    command = [sys.executable, "-c", holder, str(path), form.kind]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as first:  # noqa: S603 - our own code
        assert first.stdout is not None
        assert first.stdout.readline() == b"open\n"
        with pytest.raises(SinkError, match=rf"process {first.pid}\b"):
            asyncio.run(reopened(form, path, None, []))
        first.kill()
    sink = asyncio.run(reopened(form, path, b"0", []))
    asyncio.run(sink.close())
    assert path.read_bytes() == b""


# --- what a crash leaves


def test_every_torn_tail_is_written_over(form: LineFormat) -> None:
    """The batch was written up to any byte when the process died: the file ends up with each record once."""

    async def check(length: int, path: Path) -> None:
        sink = await reopened(form, path, None, [])
        position = await written(sink, deliveries(2))
        await sink.close()
        rest = deliveries(5)[2:]
        with path.open("ab") as file:
            file.write(lines(form, rest)[:length])
        before = path.read_bytes()
        sink = await reopened(form, path, position, rest)
        assert path.read_bytes() == before, "a reader of the torn tail sees nothing change"
        for one in rest:
            await written(sink, [one])
        await sink.close()
        assert path.read_bytes() == content(form, deliveries(5))

    for length in range(len(lines(form, deliveries(5)[2:])) + 1):
        with TemporaryDirectory() as folder:
            asyncio.run(check(length, Path(folder) / "finished.jsonl"))


@pytest.mark.parametrize(("ours", "junk"), [(0, b"\0" * 40), (0, b'{"torn'), (-2, b""), (None, b'{"tor')])
async def test_a_tail_without_a_whole_foreign_line_is_cut_off(
    form: LineFormat, path: Path, ours: int | None, junk: bytes, events: Events
) -> None:
    path.write_bytes(content(form, deliveries(2)) + lines(form, [delivery(2)])[:ours] + junk)
    sink = await reopened(form, path, b"%d" % len(content(form, deliveries(2))), [delivery(2)])
    await written(sink, [delivery(2)])
    await sink.close()
    assert path.read_bytes() == content(form, deliveries(3))
    assert [file.name for file in path.parent.iterdir()] == ["finished.jsonl"]
    assert events == []


async def test_holes_of_a_power_cut_are_not_taken_for_foreign_lines(form: LineFormat, path: Path) -> None:
    batch = deliveries(4)
    torn = bytearray(content(form, batch))
    torn[5:30] = b"\0" * 25
    path.write_bytes(torn)
    sink = await reopened(form, path, b"0", batch)
    await written(sink, batch)
    await sink.close()
    assert path.read_bytes() == content(form, batch)
    assert [file.name for file in path.parent.iterdir()] == ["finished.jsonl"]


@pytest.mark.parametrize("ours", [0, 7, None])  # bytes of our own next line; None: all of it
async def test_foreign_lines_after_the_position_are_kept_in_another_file(
    form: LineFormat, path: Path, ours: int | None, events: Events
) -> None:
    noted = content(form, deliveries(2))
    foreign = b'{"not":"ours"}\nsecond\nthi'
    path.write_bytes(noted + lines(form, [delivery(2)])[:ours] + foreign)
    sink = await reopened(form, path, b"%d" % len(noted), [delivery(2)])
    await written(sink, [delivery(2)])
    await sink.close()
    (aside,) = (file for file in path.parent.iterdir() if file != path)
    assert path.read_bytes() == content(form, deliveries(3))
    assert aside.read_bytes().endswith(foreign)
    assert aside.stat().st_mode & 0o777 == 0o600
    assert [event["event"] for event in events] == ["sink.foreign_tail"]
    assert events[0]["kept_in"] == str(aside)


async def test_lines_that_another_program_appends_are_kept_in_another_file(form: LineFormat, path: Path) -> None:
    sink = await reopened(form, path, None, [])
    position = await written(sink, deliveries(2))
    for word in (b"one\n", b"two\n"):
        with path.open("ab") as file:
            file.write(word)
        await sink.close()
        sink = await reopened(form, path, position, [])
    with path.open("ab") as file:
        file.write(b"three\n")
    await written(sink, [delivery(2)])
    await sink.close()
    assert path.read_bytes() == content(form, deliveries(3))
    asides = [file.read_bytes() for file in sorted(path.parent.iterdir()) if file != path]
    assert asides == [b"one\n", b"two\n", b"three\n"]


class Crash(BaseException):
    """The process dies here."""


@contextmanager
def dying(before_call: int, torn: float) -> Iterator[None]:
    """Die before the n-th call that changes a file; of a write, the first `torn` part still arrives."""
    left = before_call
    real: dict[str, Callable[..., Any]] = {
        name: getattr(os, name) for name in ("pwrite", "ftruncate", "fdatasync", "fsync")
    }

    def wrapped(name: str) -> Callable[..., Any]:
        def call(*args: Any) -> Any:
            nonlocal left
            left -= 1
            if left >= 0:
                return real[name](*args)
            if name == "pwrite" and left == -1:
                real[name](args[0], args[1][: int(len(args[1]) * torn)], args[2])
            raise Crash

        return call

    with pytest.MonkeyPatch.context() as patch:
        for name in real:
            patch.setattr(os, name, wrapped(name))
        yield


class Outbox:
    """What the store does for one sink: the undelivered records, and the position noted with the delivered ones."""

    def __init__(self, records: Sequence[Delivery]) -> None:
        self.undelivered = list(records)
        self.position: bytes | None = None

    async def deliver(self, form: LineFormat, path: Path, rng: Random, forget: float = 0.0) -> None:
        """One life of the process. With the chance `forget` it dies between a write and its note."""
        sink = FileSink(path, form)
        try:
            self.position = await sink.open(self.position, self.undelivered[:10])
            while self.undelivered:
                batch = self.undelivered[: rng.randint(1, 10)]
                position = await written(sink, batch)
                if rng.random() < forget:
                    raise Crash
                del self.undelivered[: len(batch)]
                self.position = position
        finally:
            await sink.close()  # like the end of a process: frees the lock, changes nothing


@settings(max_examples=150, deadline=None)
@given(
    form=st.sampled_from(FORMATS),
    bodies=st.lists(st.binary(max_size=30).map(lambda raw: raw.hex().encode()), min_size=1, max_size=30),
    crashes=st.lists(st.tuples(st.integers(0, 12), st.floats(0, 1)), max_size=6),
    seed=st.integers(0, 1000),
)
def test_each_record_is_once_in_the_file_after_any_crashes(
    form: LineFormat, bodies: list[bytes], crashes: list[tuple[int, float]], seed: int
) -> None:
    records = [delivery(number, b'{"n":%d,"ref":{"b":"%s"}}' % (number, body)) for number, body in enumerate(bodies)]
    rng, outbox = Random(seed), Outbox(records)
    with TemporaryDirectory() as folder:
        path = Path(folder) / "finished.jsonl"
        for before_call, torn in crashes:
            try:
                with dying(before_call, torn):
                    asyncio.run(outbox.deliver(form, path, rng, forget=0.2))
            except Crash:
                assert (path.read_bytes() if path.exists() else b"") == content(form, records)[: path.stat().st_size]
        asyncio.run(outbox.deliver(form, path, rng))
        assert path.read_bytes() == content(form, records)
        assert list(path.parent.iterdir()) == [path]


# --- failures while it runs


async def test_a_full_disk_asks_for_a_retry_and_shows_readers_no_half_line(
    form: LineFormat, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sink = await reopened(form, path, None, [])
    await written(sink, deliveries(2))
    real, room = os.pwrite, [9, 0, 0]

    def nearly_full(fd: int, data: bytes, offset: int) -> int:
        if not room or (left := room.pop(0)) == 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(fd, data[:left], offset)

    waits = []
    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", nearly_full)
        for _ in range(8):
            answer = await sink.write(deliveries(4)[2:])
            assert isinstance(answer, Retry)
            assert "No space left" in answer.reason
            waits.append(answer.wait_s)
            assert path.read_bytes() == content(form, deliveries(2))
    await written(sink, deliveries(4)[2:])
    await sink.close()
    assert waits == [1, 2, 4, 8, 16, 32, 60, 60]
    assert path.read_bytes() == content(form, deliveries(4))


def test_a_file_size_limit_is_a_full_disk(path: Path) -> None:
    program = textwrap.dedent("""
        import asyncio, resource, sys
        from pathlib import Path
        from poller.core.deliveries import Delivery
        from poller.sinks.files.jsonl import JSONL
        from poller.sinks.files.sink import FileSink
        async def main():
            sink = FileSink(Path(sys.argv[1]), JSONL)
            await sink.open(None, [])
            resource.setrlimit(resource.RLIMIT_FSIZE, (100, 1000))
            batch = [Delivery(number=n, account="main", task_id=str(n), body=b"x" * 39) for n in range(3)]
            print(type(await sink.write(batch)).__name__)
            resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
            print(type(await sink.write(batch)).__name__)
        asyncio.run(main())
    """)
    command = [sys.executable, "-c", program, str(path)]
    ran = subprocess.run(command, capture_output=True, check=True, text=True)  # noqa: S603 - our own code
    assert ran.stdout.split() == ["Retry", "Written"]
    assert path.read_bytes() == (b"x" * 39 + b"\n") * 3


async def test_short_writes_are_continued(form: LineFormat, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sink, real = await reopened(form, path, None, []), os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda fd, data, offset: real(fd, data[:3], offset))
    await written(sink, deliveries(5))
    await sink.close()
    assert path.read_bytes() == content(form, deliveries(5))


async def test_a_failed_sync_ends_the_run(form: LineFormat, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(fd: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    sink = await reopened(form, path, None, [])
    monkeypatch.setattr(os, "fdatasync", failing)
    with pytest.raises(SinkError, match="check the disk"):
        await sink.write(deliveries(1))
    await sink.close()


async def test_a_new_file_is_opened_only_with_its_name_on_disk(
    form: LineFormat, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[int] = []
    monkeypatch.setattr(os, "fsync", lambda fd: synced.append(os.fstat(fd).st_ino))
    sink = await reopened(form, path, None, [])
    await sink.close()
    assert path.parent.stat().st_ino in synced


@pytest.mark.parametrize("moved", [True, False])
async def test_a_file_moved_or_deleted_meanwhile_is_followed_by_a_new_one(
    form: LineFormat, path: Path, moved: bool, events: Events
) -> None:
    sink = await reopened(form, path, None, [])
    await written(sink, deliveries(2))
    old = path.with_name("finished.jsonl.1")
    if moved:
        path.rename(old)
    else:
        path.unlink()
    answer = await sink.write([delivery(2)])
    assert answer == Retry(
        reason=f"{path} was moved or deleted: continuing in a new file", wait_s=0.0, position=b"0"
    ), "the new position is noted before anything is written there"
    assert not path.exists()
    position = await written(sink, [delivery(2)])
    await sink.close()
    assert path.read_bytes() == content(form, [delivery(2)])
    assert int(position) == path.stat().st_size
    assert not moved or old.read_bytes() == content(form, deliveries(2))
    assert [event["event"] for event in events] == ["sink.file_moved"]


async def test_a_file_moved_with_an_unacknowledged_tail_leaves_no_record_twice(form: LineFormat, path: Path) -> None:
    noted = content(form, deliveries(2))
    path.write_bytes(content(form, deliveries(3)))
    sink = await reopened(form, path, b"%d" % len(noted), [delivery(2)])
    old = path.rename(path.with_name("finished.jsonl.1"))
    assert isinstance(await sink.write([delivery(2)]), Retry)
    assert old.read_bytes() == noted
    await written(sink, [delivery(2)])
    await sink.close()
    assert old.read_bytes() == noted
    assert path.read_bytes() == content(form, [delivery(2)])


async def test_a_run_continues_in_the_new_file_after_a_crash_that_followed_a_move(form: LineFormat, path: Path) -> None:
    sink = await reopened(form, path, None, [])
    await written(sink, deliveries(2))
    path.rename(path.with_name("finished.jsonl.1"))
    answer = await sink.write([delivery(2)])
    assert isinstance(answer, Retry)
    await sink.write([delivery(2)])
    await sink.close()  # dies before the write is noted
    sink = await reopened(form, path, answer.position, [delivery(2)])
    await written(sink, [delivery(2)])
    await sink.close()
    assert path.read_bytes() == content(form, [delivery(2)])


async def test_a_file_emptied_meanwhile_is_written_from_its_start(form: LineFormat, path: Path, events: Events) -> None:
    sink = await reopened(form, path, None, [])
    await written(sink, deliveries(2))
    os.truncate(path, 0)
    answer = await sink.write([delivery(2)])
    assert isinstance(answer, Retry)
    assert (answer.position, answer.wait_s) == (b"0", 0)
    await written(sink, [delivery(2)])
    await sink.close()
    assert path.read_bytes() == content(form, [delivery(2)])
    assert [event["event"] for event in events] == ["sink.file_emptied"]


async def test_a_file_cut_meanwhile_stops_the_sink(form: LineFormat, path: Path) -> None:
    sink = await reopened(form, path, None, [])
    await written(sink, deliveries(2))
    os.truncate(path, 5)
    with pytest.raises(SinkError, match="holds 5 bytes"):
        await sink.write([delivery(2)])
    await sink.close()


async def test_the_lock_ends_with_close(form: LineFormat, path: Path) -> None:
    await (await reopened(form, path, None, [])).close()
    with path.open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    await (await reopened(form, path, b"0", [])).close()
    assert path.stat().st_size == 0


async def test_a_second_sink_of_the_same_file_is_refused_and_no_other_process_is_blamed(
    form: LineFormat, path: Path
) -> None:
    sink = await reopened(form, path, None, [])
    with pytest.raises(SinkError, match="is the file of another sink of this run, too"):
        await reopened(form, path, None, [])
    await sink.close()
