"""The sink behind `finished()` of the Python API: in order, each record once, and again only what was in hand."""

import asyncio
from pathlib import Path

import hypothesis.strategies as st
from hypothesis import given

from poller.core.deliveries import Delivery, Written
from poller.sinks.consumer import ConsumerSink


def batch_of(*numbers: int) -> list[Delivery]:
    return [Delivery(number=n, account="main", task_id=f"t{n}", body=b"%d" % n) for n in numbers]


class State:
    """What the state holds of a sink: its outbox and its position."""

    def __init__(self, *numbers: int) -> None:
        self.outbox = list(numbers)
        self.position: bytes | None = None

    async def mark(self, _name: str, position: bytes) -> None:
        self.position = position

    def acknowledge(self, batch: list[Delivery], written: Written) -> None:
        taken = [each.number for each in batch[: written.count]]
        self.outbox = [number for number in self.outbox if number not in taken]
        if written.position is not None:
            self.position = written.position


async def consume(state: State, limit: int, *, in_hand: bool, batch: int, dies: bool) -> list[int]:
    """Take `limit` records, maybe have one more in hand, then end in order or die. Return what the loop's body had."""
    sink = ConsumerSink(int, state.mark, on_batch=lambda: None)
    await sink.open(state.position, [])
    had: list[int] = []

    async def deliver() -> None:
        while state.outbox:
            deliveries = batch_of(*state.outbox[:batch])
            written = await sink.write(deliveries)
            assert isinstance(written, Written)
            state.acknowledge(deliveries, written)
            if written.count == 0:
                return

    delivering = asyncio.create_task(deliver())
    for number in range(limit + in_hand):
        await asyncio.sleep(0.001)
        if (record := sink.next()) is None:
            break
        had.append(record)
        if number < limit:
            await sink.take()
    if dies:
        delivering.cancel()
    else:
        sink.end()
    await asyncio.wait([delivering])
    return had


@given(
    runs=st.lists(st.tuples(st.integers(0, 9), st.booleans(), st.booleans()), max_size=8),
    count=st.integers(0, 30),
    batch=st.integers(1, 7),
)
def test_over_any_kills_each_record_is_taken_once_and_only_the_one_in_hand_comes_again(
    runs: list[tuple[int, bool, bool]], count: int, batch: int
) -> None:
    async def all_runs() -> tuple[list[int], list[int]]:
        state, taken, held = State(*range(1, count + 1)), list[int](), list[int]()
        for limit, in_hand, dies in [*runs, (99, False, False)]:
            had = await consume(state, limit, in_hand=in_hand, batch=batch, dies=dies)
            taken += had[:limit]
            held += had[limit:]
        return taken, held

    taken, held = asyncio.run(all_runs())
    assert taken == list(range(1, count + 1))
    assert set(held) <= set(taken)


async def test_a_record_that_python_cannot_read_is_a_dead_letter_and_the_others_go_on() -> None:
    sink = ConsumerSink(int, State().mark, on_batch=lambda: None)
    await sink.open(None, [])
    odd = Delivery(number=2, account="main", task_id="t2", body=b"1e999")
    writing = asyncio.create_task(sink.write([*batch_of(1), odd, *batch_of(3)]))
    had = []
    for _ in range(2):
        await asyncio.sleep(1)
        had.append(sink.next())
        await sink.take()
    written = await writing
    assert isinstance(written, Written)
    assert had == [1, 3]
    assert (written.count, list(written.refused)) == (3, [2])
    assert sink.settled == 3


async def test_a_record_that_python_cannot_read_is_a_dead_letter_also_after_a_kill_between_two_others() -> None:
    state = State(1, 2, 3, 4)
    batch = [*batch_of(1), Delivery(number=2, account="main", task_id="t2", body=b"1e999"), *batch_of(3, 4)]
    sink = ConsumerSink(int, state.mark, on_batch=lambda: None)
    await sink.open(None, [])
    killed = asyncio.create_task(sink.write(batch))
    for _ in range(2):
        await asyncio.sleep(1)
        sink.next()
        await sink.take()
    killed.cancel()
    again = ConsumerSink(int, state.mark, on_batch=lambda: None)
    await again.open(state.position, batch)
    writing = asyncio.create_task(again.write(batch))
    await asyncio.sleep(1)
    assert again.next() == 4
    await again.take()
    written = await writing
    assert isinstance(written, Written)
    assert (written.count, list(written.refused), again.settled) == (4, [2], 4)


async def test_records_of_a_replay_are_handed_over_though_their_numbers_are_older(tmp_path: Path) -> None:
    state = State(1, 2, 3, 4)
    assert await consume(state, 2, in_hand=False, batch=4, dies=True) == [1, 2]
    state.outbox = [0, *state.outbox]
    assert await consume(state, 9, in_hand=False, batch=4, dies=False) == [0, 3, 4]
    state.outbox = [1, 4]
    assert await consume(state, 9, in_hand=False, batch=4, dies=False) == [1, 4]
