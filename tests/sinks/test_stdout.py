"""The stdout sink: each record at least once, whatever breaks."""

import asyncio
import errno
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from poller.core.deliveries import Delivery, Retry, Written
from poller.core.errors import OutputClosed, SinkError
from poller.sinks.stdout import StdoutSink


def delivery(number: int, body: bytes | None = None) -> Delivery:
    return Delivery(number=number, account="main", task_id=str(number), body=body or b'{"task_id":"%d"}' % number)


def deliveries(count: int) -> list[Delivery]:
    return [delivery(number) for number in range(count)]


def lines(batch: Sequence[Delivery]) -> bytes:
    return b"".join(one.body + b"\n" for one in batch)


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
        assert not asyncio.get_running_loop().remove_writer(writer), "no writer is left in the loop"
        async with asyncio.TaskGroup() as group:
            reading = group.create_task(read_slowly(reader, len(lines(batch))))
            await sink.write(batch)
    assert reading.result() == lines(batch)


async def test_stdout_writes_to_files_and_devices_that_cannot_be_waited_for(tmp_path: Path) -> None:
    for path in (tmp_path / "out", Path("/dev/null")):
        with path.open("wb") as file:
            sink = StdoutSink(file.fileno())
            await sink.open(None, [])
            await sink.write(deliveries(3))
            await sink.close()
    assert (tmp_path / "out").read_bytes() == lines(deliveries(3))


async def test_stdout_to_a_full_disk_asks_for_a_retry_and_continues_where_it_stopped(
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
