"""One timer for many waits: each ends at its own time, and no cancellation from elsewhere counts as a time-out."""

import asyncio

import pytest

from poller.hubspot.timeouts import SharedTimeout


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


class Counting(SharedTimeout):
    """Counts how often its timer fired."""

    wakes = 0

    def _cancel_late(self, loop: asyncio.AbstractEventLoop) -> None:
        self.wakes += 1
        super()._cancel_late(loop)


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

    def _cancel_late(self, loop: asyncio.AbstractEventLoop) -> None:
        super()._cancel_late(loop)
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
