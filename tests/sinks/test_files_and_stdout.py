"""Sinks: each record exactly once in a file and at least once on standard output, whatever breaks."""

# ruff: noqa: ASYNC240 - what the tests poll are small local files

import asyncio
import errno
import fcntl
import os
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator, MutableMapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from poller.core.errors import ConfigError, OutputClosed, SinkError
from poller.core.model import Delivery, Retry, Written
from poller.sinks import make_sink
from poller.sinks.files.jsonl import JsonlSink
from poller.sinks.stdout import StdoutSink

Events = list[MutableMapping[str, Any]]


def delivery(number: int, body: bytes | None = None) -> Delivery:
    return Delivery(number=number, account="main", task_id=str(number), body=body or b'{"task_id":"%d"}' % number)


def deliveries(count: int) -> list[Delivery]:
    return [delivery(number) for number in range(count)]


def lines(batch: Sequence[Delivery]) -> bytes:
    return b"".join(one.body + b"\n" for one in batch)


# --- specs


def test_a_spec_names_its_sink() -> None:
    assert make_sink("stdout").name == "stdout"
    assert make_sink("jsonl:out/finished.jsonl").name == "jsonl:out/finished.jsonl"
    assert make_sink("jsonl:./a:b.jsonl").name == "jsonl:a:b.jsonl"


@pytest.mark.parametrize("spec", ["", "kafka:topic", "jsonl", "jsonl:", "stdout:x", "finished.jsonl"])
def test_an_unusable_spec_is_a_configuration_error(spec: str) -> None:
    with pytest.raises(ConfigError):
        make_sink(spec)


def test_an_unknown_kind_is_answered_with_the_known_ones_and_a_bare_path_with_the_right_spec() -> None:
    with pytest.raises(ConfigError, match="known kinds: command, jsonl, sql, stdout, webhook"):
        make_sink("kafka:topic")
    with pytest.raises(ConfigError, match="write jsonl:finished"):
        make_sink("finished.jsonl")


# --- jsonl: the plain way


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "finished.jsonl"


async def reopened(path: Path, position: bytes | None, following: Sequence[Delivery]) -> JsonlSink:
    sink = JsonlSink(path)
    try:
        await sink.open(position, following)
    except BaseException:
        await sink.close()
        raise
    return sink


async def written(sink: JsonlSink, batch: Sequence[Delivery]) -> bytes:
    answer = await sink.write(batch)
    assert isinstance(answer, Written)
    assert answer.position is not None
    return answer.position


async def test_records_stand_as_lines_in_order_and_the_position_is_the_length(path: Path) -> None:
    sink = JsonlSink(path)
    assert await sink.open(None, []) == b"0"
    first = await written(sink, deliveries(3))
    second = await written(sink, [delivery(3)])
    await sink.close()
    assert path.read_bytes() == lines(deliveries(4))
    assert (int(first), int(second)) == (len(lines(deliveries(3))), path.stat().st_size)


async def test_a_new_file_is_readable_by_its_owner_alone(path: Path) -> None:
    await (await reopened(path, None, [])).close()
    assert path.stat().st_mode & 0o777 == 0o600


async def test_a_run_continues_at_the_noted_position(path: Path) -> None:
    sink = await reopened(path, None, [])
    position = await written(sink, deliveries(2))
    await sink.close()
    sink = await reopened(path, position, [delivery(2)])
    await written(sink, [delivery(2)])
    await sink.close()
    assert path.read_bytes() == lines(deliveries(3))


# --- jsonl: files that cannot be used


async def test_a_file_with_unknown_data_is_refused_and_left_alone(path: Path) -> None:
    path.write_bytes(b"precious\n")
    with pytest.raises(SinkError, match="does not know"):
        await reopened(path, None, [])
    assert path.read_bytes() == b"precious\n"


@pytest.mark.parametrize(
    ("found", "message"),
    [(None, "is missing"), (b"", "holds 0 bytes"), (b"{}\n", "holds 3 bytes"), (b"x" * 50, "was changed")],
)
async def test_a_file_that_is_not_the_one_written_to_is_refused(path: Path, found: bytes | None, message: str) -> None:
    if found is not None:
        path.write_bytes(found)
    with pytest.raises(SinkError, match=message):
        await reopened(path, b"20", [])
    assert (path.read_bytes() if path.exists() else None) == found


async def test_what_is_not_a_regular_file_is_refused_with_a_hint_at_stdout(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    for place in (tmp_path, tmp_path / "fifo", Path("/dev/null")):
        with pytest.raises(SinkError, match="stdout"):
            await reopened(place, None, [])


async def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(SinkError, match="folder does not exist"):
        await reopened(tmp_path / "nowhere" / "finished.jsonl", None, [])


def test_a_second_process_is_refused_and_told_the_first(path: Path) -> None:
    holder = textwrap.dedent("""
        import asyncio, sys
        from pathlib import Path
        from poller.sinks.files.jsonl import JsonlSink
        asyncio.run(JsonlSink(Path(sys.argv[1])).open(None, []))
        print("open", flush=True)
        sys.stdin.read()
    """)
    command = [sys.executable, "-c", holder, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as first:  # noqa: S603 - our own code
        assert first.stdout is not None
        assert first.stdout.readline() == b"open\n"
        with pytest.raises(SinkError, match=rf"process {first.pid}\b"):
            asyncio.run(reopened(path, None, []))
        first.kill()
    sink = asyncio.run(reopened(path, b"0", []))
    asyncio.run(sink.close())
    assert path.read_bytes() == b""


# --- jsonl: what a crash leaves


def test_every_torn_tail_is_written_over() -> None:
    """The batch was written up to any byte when the process died: the file ends up with each record once."""

    async def check(length: int, path: Path) -> None:
        sink = await reopened(path, None, [])
        position = await written(sink, deliveries(2))
        await sink.close()
        rest = deliveries(5)[2:]
        with path.open("ab") as file:
            file.write(lines(rest)[:length])
        before = path.read_bytes()
        sink = await reopened(path, position, rest)
        assert path.read_bytes() == before, "a reader of the torn tail sees nothing change"
        for one in rest:
            await written(sink, [one])
        await sink.close()
        assert path.read_bytes() == lines(deliveries(5))

    for length in range(len(lines(deliveries(5)[2:])) + 1):
        with TemporaryDirectory() as folder:
            asyncio.run(check(length, Path(folder) / "finished.jsonl"))


@pytest.mark.parametrize("junk", [b"\0" * 40, b'{"torn', b'{"task_id":"2"', b'{"task_id":"2"}\n{"tor'])
async def test_a_tail_without_a_whole_foreign_line_is_cut_off(path: Path, junk: bytes, events: Events) -> None:
    path.write_bytes(lines(deliveries(2)) + junk)
    sink = await reopened(path, b"%d" % len(lines(deliveries(2))), [delivery(2)])
    await written(sink, [delivery(2)])
    await sink.close()
    assert path.read_bytes() == lines(deliveries(3))
    assert [file.name for file in path.parent.iterdir()] == ["finished.jsonl"]
    assert events == []


async def test_holes_of_a_power_cut_are_not_taken_for_foreign_lines(path: Path) -> None:
    batch = deliveries(4)
    torn = bytearray(lines(batch))
    torn[5:30] = b"\0" * 25
    path.write_bytes(torn)
    sink = await reopened(path, b"0", batch)
    await written(sink, batch)
    await sink.close()
    assert path.read_bytes() == lines(batch)
    assert [file.name for file in path.parent.iterdir()] == ["finished.jsonl"]


@pytest.mark.parametrize("ours", [b"", lines([delivery(2)]), lines([delivery(2)])[:7]])
async def test_foreign_lines_behind_the_position_are_kept_in_another_file(
    path: Path, ours: bytes, events: Events
) -> None:
    noted = lines(deliveries(2))
    foreign = b'{"not":"ours"}\nsecond\nthi'
    path.write_bytes(noted + ours + foreign)
    sink = await reopened(path, b"%d" % len(noted), [delivery(2)])
    await written(sink, [delivery(2)])
    await sink.close()
    (aside,) = (file for file in path.parent.iterdir() if file != path)
    assert path.read_bytes() == lines(deliveries(3))
    assert aside.read_bytes().endswith(foreign)
    assert aside.stat().st_mode & 0o777 == 0o600
    assert [event["event"] for event in events] == ["sink.foreign_tail"]
    assert events[0]["kept_in"] == str(aside)


async def test_lines_that_somebody_appends_meanwhile_are_kept_in_another_file(path: Path) -> None:
    sink = await reopened(path, None, [])
    position = await written(sink, deliveries(2))
    for word in (b"one\n", b"two\n"):
        with path.open("ab") as file:
            file.write(word)
        await sink.close()
        sink = await reopened(path, position, [])
    with path.open("ab") as file:
        file.write(b"three\n")
    await written(sink, [delivery(2)])
    await sink.close()
    assert path.read_bytes() == lines(deliveries(3))
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

    async def deliver(self, path: Path, rng: Random, forget: float = 0.0) -> None:
        """One life of the process. With the chance `forget` it dies between a write and its note."""
        sink = JsonlSink(path)
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
    bodies=st.lists(st.binary(max_size=30).map(lambda raw: raw.hex().encode()), min_size=1, max_size=30),
    crashes=st.lists(st.tuples(st.integers(0, 12), st.floats(0, 1)), max_size=6),
    seed=st.integers(0, 1000),
)
def test_each_record_stands_once_in_the_file_after_any_crashes(
    bodies: list[bytes], crashes: list[tuple[int, float]], seed: int
) -> None:
    records = [delivery(number, b'{"n":%d,"b":"%s"}' % (number, body)) for number, body in enumerate(bodies)]
    rng, outbox = Random(seed), Outbox(records)
    with TemporaryDirectory() as folder:
        path = Path(folder) / "finished.jsonl"
        for before_call, torn in crashes:
            try:
                with dying(before_call, torn):
                    asyncio.run(outbox.deliver(path, rng, forget=0.2))
            except Crash:
                assert (path.read_bytes() if path.exists() else b"") == lines(records)[: path.stat().st_size]
        asyncio.run(outbox.deliver(path, rng))
        assert path.read_bytes() == lines(records)
        assert list(path.parent.iterdir()) == [path]


# --- jsonl: trouble while it runs


async def test_a_full_disk_asks_for_a_retry_and_shows_readers_no_half_line(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sink = await reopened(path, None, [])
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
            assert path.read_bytes() == lines(deliveries(2))
    await written(sink, deliveries(4)[2:])
    await sink.close()
    assert waits == [1, 2, 4, 8, 16, 30, 30, 30]
    assert path.read_bytes() == lines(deliveries(4))


def test_a_file_size_limit_is_a_full_disk(path: Path) -> None:
    program = textwrap.dedent("""
        import asyncio, resource, sys
        from pathlib import Path
        from poller.core.model import Delivery
        from poller.sinks.files.jsonl import JsonlSink
        async def main():
            sink = JsonlSink(Path(sys.argv[1]))
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


async def test_short_writes_are_continued(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sink, real = await reopened(path, None, []), os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda fd, data, offset: real(fd, data[:3], offset))
    await written(sink, deliveries(5))
    await sink.close()
    assert path.read_bytes() == lines(deliveries(5))


async def test_a_failed_sync_ends_the_run(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(fd: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    sink = await reopened(path, None, [])
    monkeypatch.setattr(os, "fdatasync", failing)
    with pytest.raises(SinkError, match="check the disk"):
        await sink.write(deliveries(1))
    await sink.close()


async def test_a_new_file_is_opened_only_with_its_name_on_disk(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[int] = []
    monkeypatch.setattr(os, "fsync", lambda fd: synced.append(os.fstat(fd).st_ino))
    sink = await reopened(path, None, [])
    await sink.close()
    assert path.parent.stat().st_ino in synced


@pytest.mark.parametrize("moved", [True, False])
async def test_a_file_moved_or_deleted_meanwhile_is_followed_by_a_new_one(
    path: Path, moved: bool, events: Events
) -> None:
    sink = await reopened(path, None, [])
    await written(sink, deliveries(2))
    old = path.with_name("finished.jsonl.1")
    if moved:
        path.rename(old)
    else:
        path.unlink()
    answer = await sink.write([delivery(2)])
    assert answer == Retry(reason=f"{path} was moved or deleted: going on in a new file", wait_s=0.0, position=b"0"), (
        "the new place is to be noted before anything stands there"
    )
    assert not path.exists()
    position = await written(sink, [delivery(2)])
    await sink.close()
    assert path.read_bytes() == lines([delivery(2)])
    assert int(position) == path.stat().st_size
    assert not moved or old.read_bytes() == lines(deliveries(2))
    assert [event["event"] for event in events] == ["sink.file_moved"]


async def test_a_file_moved_with_an_unacknowledged_tail_leaves_no_record_twice(path: Path) -> None:
    noted = lines(deliveries(2))
    path.write_bytes(lines(deliveries(3)))
    sink = await reopened(path, b"%d" % len(noted), [delivery(2)])
    old = path.rename(path.with_name("finished.jsonl.1"))
    assert isinstance(await sink.write([delivery(2)]), Retry)
    assert old.read_bytes() == noted
    await written(sink, [delivery(2)])
    await sink.close()
    assert old.read_bytes() == noted
    assert path.read_bytes() == lines([delivery(2)])


async def test_a_crash_after_a_moved_file_was_noticed_goes_on_in_the_new_one(path: Path) -> None:
    sink = await reopened(path, None, [])
    await written(sink, deliveries(2))
    path.rename(path.with_name("finished.jsonl.1"))
    answer = await sink.write([delivery(2)])
    assert isinstance(answer, Retry)
    await sink.write([delivery(2)])
    await sink.close()  # dies before the write is noted
    sink = await reopened(path, answer.position, [delivery(2)])
    await written(sink, [delivery(2)])
    await sink.close()
    assert path.read_bytes() == lines([delivery(2)])


async def test_a_file_emptied_meanwhile_is_begun_anew(path: Path, events: Events) -> None:
    sink = await reopened(path, None, [])
    await written(sink, deliveries(2))
    os.truncate(path, 0)
    answer = await sink.write([delivery(2)])
    assert isinstance(answer, Retry)
    assert (answer.position, answer.wait_s) == (b"0", 0)
    await written(sink, [delivery(2)])
    await sink.close()
    assert path.read_bytes() == lines([delivery(2)])
    assert [event["event"] for event in events] == ["sink.file_emptied"]


async def test_a_file_cut_meanwhile_stops_the_sink(path: Path) -> None:
    sink = await reopened(path, None, [])
    await written(sink, deliveries(2))
    os.truncate(path, 5)
    with pytest.raises(SinkError, match="holds 5 bytes"):
        await sink.write([delivery(2)])
    await sink.close()


# --- stdout


@contextmanager
def pipe() -> Iterator[tuple[int, int]]:
    reader, writer = os.pipe()
    try:
        yield reader, writer
    finally:
        for fd in (reader, writer):
            with suppress(OSError):  # the test may have closed it
                os.close(fd)


async def read_slowly(fd: int, length: int) -> bytes:
    os.set_blocking(fd, False)
    got = bytearray()
    while len(got) < length:
        await asyncio.sleep(0.001)
        try:
            got += os.read(fd, 3000)
        except BlockingIOError:
            continue
    return bytes(got)


async def test_stdout_waits_for_a_slow_reader_without_holding_up_the_loop() -> None:
    batch = [delivery(number, b"%d" % number * 5000) for number in range(50)]
    with pipe() as (reader, writer):
        sink = StdoutSink(writer)
        assert await sink.open(None, []) is None
        async with asyncio.TaskGroup() as group:
            reading = group.create_task(read_slowly(reader, len(lines(batch))))
            answer = await sink.write(batch)
        assert os.get_blocking(writer), "O_NONBLOCK would break others who share the terminal"
    assert answer == Written()
    assert reading.result() == lines(batch)


async def test_stdout_without_a_reader_is_closed_output() -> None:
    with pipe() as (reader, writer):
        sink = StdoutSink(writer)
        await sink.open(None, [])
        os.close(reader)
        with pytest.raises(OutputClosed):
            await sink.write(deliveries(1))


async def test_a_reader_that_goes_away_while_stdout_waits_is_closed_output() -> None:
    with pipe() as (reader, writer):
        sink = StdoutSink(writer)
        await sink.open(None, [])
        asyncio.get_running_loop().call_later(1, os.close, reader)
        with pytest.raises(OutputClosed):
            await sink.write([delivery(0, b"x" * 1_000_000)])


async def test_a_cancelled_write_stops_waiting_and_is_continued_in_mid_line() -> None:
    batch = [delivery(number, b"%d" % number * 300_000) for number in range(3)]
    with pipe() as (reader, writer):
        sink = StdoutSink(writer)
        await sink.open(None, [])
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(1):
                await sink.write(batch)
        assert not asyncio.get_running_loop().remove_writer(writer), "nobody waits any more"
        async with asyncio.TaskGroup() as group:
            reading = group.create_task(read_slowly(reader, len(lines(batch))))
            await sink.write(batch)
    assert reading.result() == lines(batch)


async def test_stdout_writes_to_files_and_devices_that_cannot_be_waited_for(tmp_path: Path) -> None:
    for place in (tmp_path / "out", Path("/dev/null")):
        with place.open("wb") as file:
            sink = StdoutSink(file.fileno())
            await sink.open(None, [])
            await sink.write(deliveries(3))
            await sink.close()
    assert (tmp_path / "out").read_bytes() == lines(deliveries(3))


async def test_stdout_to_a_full_disk_asks_for_a_retry_and_goes_on_where_it_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    room, real = [5], os.write

    def nearly_full(fd: int, data: bytes) -> int:
        if room[0] == 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        count = real(fd, data[: room[0]])
        room[0] -= count
        return count

    with (tmp_path / "out").open("wb") as file:
        sink = StdoutSink(file.fileno())
        await sink.open(None, [])
        with monkeypatch.context() as patch:
            patch.setattr(os, "write", nearly_full)
            answer = await sink.write(deliveries(3))
        assert isinstance(answer, Retry)
        assert await sink.write(deliveries(3)) == Written()
    assert (tmp_path / "out").read_bytes() == lines(deliveries(3))


async def test_a_closed_stdout_is_refused_at_the_start(tmp_path: Path) -> None:
    fd = os.open(tmp_path / "x", os.O_WRONLY | os.O_CREAT)
    os.close(fd)
    with pytest.raises(SinkError, match="closed"):
        await StdoutSink(fd).open(None, [])


async def test_the_devices_own_full_disk_is_a_retry() -> None:
    fd = os.open("/dev/full", os.O_WRONLY)
    try:
        sink = StdoutSink(fd)
        await sink.open(None, [])
        assert isinstance(await sink.write(deliveries(1)), Retry)
    finally:
        os.close(fd)


async def test_the_lock_ends_with_close(path: Path) -> None:
    await (await reopened(path, None, [])).close()
    with path.open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    await (await reopened(path, b"0", [])).close()
    assert path.stat().st_size == 0
