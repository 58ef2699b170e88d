"""The pace of admissions: even, after a small burst."""

import asyncio
from functools import partial
from random import Random

import pytest

from poller.core.request_protocols import GateClosed
from poller.hubspot.limits.admission import AdmissionQueue
from poller.hubspot.limits.window import Window


@pytest.mark.parametrize("seed", range(20))
async def test_no_span_holds_more_admissions_than_its_burst_and_its_share_of_the_window(seed: int) -> None:
    rng, loop, admitted = Random(seed), asyncio.get_running_loop(), list[float]()
    window = Window(limit=rng.choice([1, 10, 100, 190, 5000]), window_s=rng.uniform(0.5, 100))
    queue = AdmissionQueue(lambda: 0, window)
    for _ in range(200):
        await asyncio.sleep(rng.uniform(0, 3) * rng.random() * window.window_s / window.limit)
        if queue.pass_at_once():
            admitted.append(loop.time())
        elif rng.random() < 0.3:
            await queue.admit(lambda: admitted.append(loop.time()))
    burst = max(1, window.limit // 50)
    for index, begin in enumerate(admitted):
        for count, end in enumerate(admitted[index:], start=1):
            assert count <= burst + (end - begin) * window.limit / window.window_s + 1e-6


@pytest.mark.parametrize(("limit", "burst"), [(10, 1), (100, 2), (190, 3)])
async def test_waiting_for_the_pace_loses_none_of_the_rate(limit: int, burst: int) -> None:
    queue, loop = AdmissionQueue(lambda: 0, Window(limit=limit, window_s=10.0)), asyncio.get_running_loop()
    began = loop.time()
    for _ in range(10 * limit):
        if not queue.pass_at_once():
            await queue.admit(lambda: None)
    assert loop.time() - began == pytest.approx(100.0 - 10.0 * burst / limit, rel=0.001)


async def test_none_passes_those_who_wait() -> None:
    queue, order = AdmissionQueue(lambda: 0, Window(limit=10, window_s=10.0)), list[str]()
    assert queue.pass_at_once()
    waiting = [asyncio.create_task(queue.admit(partial(order.append, name))) for name in "abc"]
    await asyncio.sleep(1.5)
    assert order == ["a"]
    assert not queue.pass_at_once()
    await asyncio.gather(*waiting)
    assert order == ["a", "b", "c"]


async def test_an_answer_ends_no_wait_for_the_pace_and_the_end_of_the_run_does() -> None:
    asked, loop = list[float](), asyncio.get_running_loop()

    def wait_s() -> float:
        asked.append(loop.time())
        return 0.0

    queue = AdmissionQueue(wait_s, Window(limit=10, window_s=100.0))
    assert queue.pass_at_once()
    waiting = asyncio.create_task(queue.admit(lambda: None))
    for _ in range(5):
        await asyncio.sleep(1.0)
        queue.wake()
    assert len(asked) == 2
    queue.close()
    with pytest.raises(GateClosed):
        await waiting
    assert loop.time() - asked[0] == pytest.approx(5.0, abs=0.01)
