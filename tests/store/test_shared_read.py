"""One read for all lanes that ask at the same time."""

import asyncio
from collections.abc import Mapping, Sequence

import pytest

from poller.store.postgres.shared_read import SharedRead


class Table:
    """Answers after a second with what was there when the read began."""

    def __init__(self, **values: int) -> None:
        self.values = values
        self.reads: list[Sequence[str]] = []
        self.fails = 0

    async def read(self, names: Sequence[str]) -> Mapping[str, int]:
        found = {name: self.values[name] for name in names if name in self.values}
        self.reads.append(names)
        await asyncio.sleep(1)
        if self.fails:
            self.fails -= 1
            raise ConnectionError
        return found


async def test_all_that_ask_together_share_a_read() -> None:
    table = Table(a=1, b=2)
    read = SharedRead(table.read)
    answers = await asyncio.gather(*(read.of(name) for name in "baca"))
    assert answers == [2, 1, None, 1]
    assert table.reads == [["a", "b", "c"]]


async def test_an_answer_is_never_older_than_its_question() -> None:
    """What is asked during a read, which may have missed a change, is read again, once for all."""
    table = Table(a=1)
    read = SharedRead(table.read)
    async with asyncio.TaskGroup() as group:
        first = group.create_task(read.of("a"))
        await asyncio.sleep(0.5)
        table.values |= {"a": 5, "b": 6}
        second, third = group.create_task(read.of("a")), group.create_task(read.of("b"))
    assert (first.result(), second.result(), third.result()) == (1, 5, 6)
    assert table.reads == [["a"], ["a", "b"]]


async def test_one_that_is_cancelled_in_mid_read_leaves_the_others_their_answer() -> None:
    table = Table(a=1, b=2)
    read = SharedRead(table.read)
    async with asyncio.TaskGroup() as group:
        reading = group.create_task(read.of("a"))
        other = group.create_task(read.of("b"))
        await asyncio.sleep(0.5)
        reading.cancel()
    assert other.result() == 2


async def test_a_read_that_fails_is_repeated_by_the_others_that_asked() -> None:
    table = Table(a=1, b=2)
    table.fails = 1
    read = SharedRead(table.read)
    failed, found = await asyncio.gather(read.of("a"), read.of("b"), return_exceptions=True)
    assert isinstance(failed, ConnectionError)
    assert found == 2
    table.fails = 1
    with pytest.raises(ConnectionError):
        await read.of("a")
