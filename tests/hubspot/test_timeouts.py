"""One timer for many waits: each ends at its own time, and no cancellation from elsewhere counts as a time-out. How
long a request may take follows from how long the latest answers took."""

import asyncio

import pytest

from poller.core.shared_timeout import GRACE_S, SharedTimeout
from poller.hubspot.timeouts import RequestTimeouts
from tests.support.virtual import VirtualLoop


async def waited(shared: SharedTimeout, begin_s: float, wait_s: float) -> tuple[str, float]:
    """Wait within the time-out, beginning at `begin_s`; return how that ended and after how long."""
    loop = asyncio.get_running_loop()
    await asyncio.sleep(begin_s)
    begun = loop.time()
    try:
        with shared:
            await asyncio.sleep(wait_s)
    except TimeoutError:
        return "over", round(loop.time() - begun, 2)
    return "done", round(loop.time() - begun, 2)


async def test_each_wait_has_the_whole_time_however_many_run() -> None:
    shared = SharedTimeout(30.0)
    begun_waits = [(0.0, 5.0), (0.0, 40.0), (10.0, 29.0), (10.0, 31.0), (29.5, 100.0), (200.0, 40.0)]
    found = await asyncio.gather(*(waited(shared, *each) for each in begun_waits))
    assert found == [("done", 5.0), ("over", 30.0), ("done", 29.0), ("over", 30.0), ("over", 30.0), ("over", 30.0)]


@pytest.mark.parametrize("has_answer", [True, False])
async def test_an_answer_that_came_while_the_process_stood_still_counts(has_answer: bool) -> None:
    loop, shared = asyncio.get_running_loop(), SharedTimeout(5.0)
    assert isinstance(loop, VirtualLoop)
    arrived = loop.create_future()

    async def wait() -> str:
        try:
            with shared:
                await arrived
        except TimeoutError:
            return "over"
        return "done"

    async with asyncio.TaskGroup() as group:
        waits = [group.create_task(wait()) for _ in range(3)]
        await asyncio.sleep(1)
        loop.stand_still(60.0)
        if has_answer:
            loop.call_soon(arrived.set_result, None)  # as what the kernel has for its socket
        await asyncio.sleep(GRACE_S + 0.01)
        assert all(each.done() for each in waits)
    assert [each.result() for each in waits] == ["done" if has_answer else "over"] * 3
    assert await waited(shared, 0.0, 100.0) == ("over", 5.0)


class Counting(SharedTimeout):
    """Counts how often its timer fired."""

    wakes = 0

    def _cancel_late(self) -> None:
        self.wakes += 1
        super()._cancel_late()


async def test_a_task_can_wait_many_times_and_one_timer_serves_all() -> None:
    shared = Counting(30.0)

    async def poll_often() -> None:
        for _ in range(300):
            assert (await waited(shared, 0.0, 1.0))[0] == "done"

    await asyncio.gather(*(poll_often() for _ in range(10)))
    assert 10 <= shared.wakes <= 12  # 3,000 waits in 300 s


async def test_a_cancellation_from_elsewhere_passes_through() -> None:
    shared = SharedTimeout(30.0)
    waiting = asyncio.create_task(waited(shared, 0.0, 100.0))
    await asyncio.sleep(10)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert await waited(shared, 0.0, 100.0) == ("over", 30.0)


class Joined(SharedTimeout):
    """Cancels the waiting task in the turn in which its time is over."""

    waiting: "asyncio.Task[None]"

    def _cancel_late(self) -> None:
        super()._cancel_late()
        self.waiting.cancel()


async def test_a_cancellation_in_the_turn_of_the_time_out_stays_a_cancellation() -> None:
    shared = Joined(30.0)

    async def run() -> None:
        await waited(shared, 0.0, 100.0)

    shared.waiting = asyncio.create_task(run())
    with pytest.raises(asyncio.CancelledError):
        await shared.waiting


async def test_after_a_time_out_the_task_can_wait_for_other_things() -> None:
    shared = SharedTimeout(30.0)
    assert await waited(shared, 0.0, 100.0) == ("over", 30.0)
    async with asyncio.timeout(5):
        await asyncio.sleep(1)
    assert await waited(shared, 0.0, 1.0) == ("done", 1.0)


async def limit_of(timeouts: RequestTimeouts, key: int) -> float:
    """Let a request for task `key` hang; return after how long it timed out."""
    ended, after_s = await waited(timeouts.of(key), 0.0, 1000.0)
    assert ended == "over"
    return after_s


def answered(took_s: float, count: int = 100) -> RequestTimeouts:
    timeouts = RequestTimeouts(30.0)
    for _ in range(count):
        timeouts.answer(1, sent_at=0.0, took_s=took_s)
    return timeouts


@pytest.mark.parametrize(
    ("took_s", "count", "limit_s"), [(0.1, 19, 30), (0.1, 20, 7.5), (0.9, 100, 7.5), (2.0, 100, 15), (5.0, 100, 30)]
)
async def test_a_request_may_take_many_times_what_usual_answers_take(took_s: float, count: int, limit_s: float) -> None:
    assert await limit_of(answered(took_s, count), 1) == limit_s


async def test_a_few_slow_answers_are_not_usual() -> None:
    timeouts = RequestTimeouts(30.0)
    for turn in range(400):
        timeouts.answer(1, sent_at=turn, took_s=20.0 if turn % 25 == 0 else 0.1)
    assert await limit_of(timeouts, 1) == 7.5
    for turn in range(400):
        timeouts.answer(1, sent_at=turn, took_s=20.0 if turn % 10 == 0 else 0.1)
    assert await limit_of(timeouts, 1) == 30


async def test_a_task_whose_request_timed_out_gets_twice_the_time_up_to_the_persons_limit_until_it_is_answered() -> (
    None
):
    timeouts = answered(0.1)
    found = []
    for _ in range(4):
        found.append(await limit_of(timeouts, 7))
        timeouts.time_out(7, sent_at=1.0)
        timeouts.answer(1, sent_at=2.0, took_s=0.1)
    assert found == [7.5, 15, 30, 30]
    assert await limit_of(timeouts, 8) == 7.5
    timeouts.answer(7, sent_at=3.0, took_s=25.0)
    assert await limit_of(timeouts, 7) == 7.5


async def test_where_every_answer_becomes_slow_only_the_first_requests_time_out() -> None:
    timeouts = answered(0.1)
    timed_out = 0
    for key in range(200):
        if await limit_of(timeouts, key) < 12:
            timed_out += 1
            timeouts.time_out(key, sent_at=1.0 + key)
        else:
            timeouts.answer(key, sent_at=1.0 + key, took_s=12.0)
    assert timed_out <= 20
    assert await limit_of(timeouts, 999) == 30


async def test_requests_that_hang_together_do_not_lengthen_the_others_where_one_sent_after_them_was_answered() -> None:
    timeouts = answered(0.1)
    timeouts.answer(1, sent_at=20.0, took_s=0.1)
    for key in (7, 8, 9):
        timeouts.time_out(key, sent_at=19.0)
    assert await limit_of(timeouts, 1) == 7.5
    timeouts.time_out(7, sent_at=21.0)
    assert await limit_of(timeouts, 1) == 15


async def test_a_limit_below_the_usual_is_the_persons() -> None:
    timeouts = RequestTimeouts(2.0)
    for _ in range(100):
        timeouts.answer(1, sent_at=0.0, took_s=0.1)
    assert await limit_of(timeouts, 1) == 2.0


async def test_tasks_that_are_never_answered_are_forgotten_after_thousands_of_others() -> None:
    timeouts = answered(0.1)
    for key in range(100, 100 + 3 * RequestTimeouts.REMEMBERED):
        timeouts.time_out(key, sent_at=-1.0)
    assert len(timeouts._timed_out) == RequestTimeouts.REMEMBERED
    timeouts.answer(1, sent_at=0.0, took_s=0.1)
    assert await limit_of(timeouts, 99 + 3 * RequestTimeouts.REMEMBERED) == 15
    assert await limit_of(timeouts, 100) == 7.5
