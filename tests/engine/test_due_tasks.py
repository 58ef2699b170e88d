"""Due tasks: claimed ahead of the workers, and no sleep past a task that became due while the schedule was read."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from random import Random
from types import SimpleNamespace
from typing import Any

import pytest

from poller.core.model import Task
from poller.core.protocols import Clock, PollStore
from poller.engine.due_tasks import LEAST_CLAIMED, DueTasks
from poller.schedule import AccountTiming
from poller.schedule.policy import Polling
from poller.store import open_store
from tests.support.store_makers import feed, running

WORKERS = 5


class DistantStore:
    """A store whose reads take a second, as those over a network take a while; the rest is another store's."""

    def __init__(self, store: PollStore) -> None:
        self._store = store
        self.claims = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    async def claim(self, account: str, limit: int, **options: Any) -> list[Task]:
        self.claims += 1
        claimed = await self._store.claim(account, limit, **options)
        await asyncio.sleep(1)
        return claimed

    async def next_due_at(self, account: str) -> float | None:
        due_at = await self._store.next_due_at(account)
        await asyncio.sleep(1)
        return due_at


@pytest.fixture
async def store(clock: Clock) -> AsyncIterator[Any]:
    store = await open_store("sqlite:///:memory:", clock=clock)
    yield DistantStore(store)
    await store.close()


def due_tasks(store: Any, clock: Clock, timing: AccountTiming | None = None, **options: Any) -> DueTasks:
    gate: Any = SimpleNamespace(workers=WORKERS, paused_s=0.0)
    options.setdefault("settle", lambda: None)
    return DueTasks("main", store=store, gate=gate, timing=timing, clock=clock, rng=Random(1), **options)


async def test_while_one_worker_claims_the_others_are_handed_what_was_claimed_before(store: Any, clock: Clock) -> None:
    await feed(store, *(f"id{number}" for number in range(2 * LEAST_CLAIMED)))
    due = due_tasks(store, clock)
    for _ in range(LEAST_CLAIMED - WORKERS + 1):
        await due.next()
    async with asyncio.TaskGroup() as group:
        claiming = group.create_task(due.next())
        await asyncio.sleep(0.5)
        handed = [await due.next() for _ in range(WORKERS - 1)]
        assert not claiming.done()
    assert None not in handed
    assert store.claims == 2


async def test_few_due_tasks_cost_one_claim_not_one_each(store: Any, clock: Clock) -> None:
    await feed(store, *(f"id{number}" for number in range(WORKERS)))
    due = due_tasks(store, clock)
    assert len({task.task_id for _ in range(WORKERS) if (task := await due.next()) is not None}) == WORKERS
    assert store.claims == 1


async def test_each_claim_follows_from_all_answers_before_it(store: Any, clock: Clock) -> None:
    await feed(store, "a")
    claims = list[int]()
    assert await due_tasks(store, clock, settle=lambda: claims.append(store.claims)).next() is not None
    assert (claims, store.claims) == ([0], 1)


async def test_second_polls_do_not_wait_for_all_first_polls(store: Any, clock: Clock) -> None:
    """Tasks fed at once are all due before any that was polled since: half of what is handed out, at the most."""
    await feed(store, *(f"id{number}" for number in range(200)))
    await store.record([running(task, clock()) for task in await store.claim("main", 60)])
    due = due_tasks(store, clock)
    handed = [task.polls for _ in range(100) if (task := await due.next()) is not None]
    assert sum(handed) == 50
    assert all(1 <= sum(handed[start : start + 4]) <= 3 for start in range(96))
    due.release()
    assert len(await store.claim("main", 300)) == 200 - 100


async def test_a_lane_at_rest_claims_only_what_is_due(store: Any, clock: Clock) -> None:
    """It reads the schedule again and again, since another process may have fed it: one question instead of two."""
    await feed(store, "later")
    (later,) = await store.claim("main", 1)
    await store.record([running(later, clock() + 100)])
    due, claims, began = due_tasks(store, clock, longest_sleep_s=10.0), store.claims, clock()
    async with asyncio.TaskGroup() as group:
        waiting = group.create_task(due.next())
        await asyncio.sleep(35)
        await feed(store, "fed by another process")
        task = await waiting
    assert task is not None
    assert task.task_id == "fed by another process"
    assert clock() - began < 35 + 10 + 3
    assert store.claims - claims == 2


async def test_lanes_at_rest_read_the_schedule_at_the_same_instants(clock: Clock) -> None:
    """Whenever each began to sleep: what they ask together is one read of a fleet's member."""
    store = await open_store("sqlite:///:memory:", clock=clock)
    asked: list[float] = []

    async def next_due_at(_: str) -> float | None:
        asked.append(round(clock(), 3))
        return None

    store.next_due_at = next_due_at  # type: ignore[method-assign, assignment]
    lanes = [due_tasks(store, clock, longest_sleep_s=10.0) for _ in range(5)]
    async with asyncio.TaskGroup() as group:
        for lane in lanes:
            group.create_task(lane.next())
            await asyncio.sleep(1.3)
        asked.clear()
        await asyncio.sleep(25)
        for lane in lanes:
            lane.stop()
    await store.close()
    assert len(asked) >= 2 * len(lanes)
    assert len(set(asked)) <= 3


async def test_a_task_that_becomes_due_earlier_while_the_schedule_is_read_ends_the_sleep(
    store: Any, clock: Clock
) -> None:
    await feed(store, "later", "sooner")
    later, sooner = await store.claim("main", 2)
    await store.record([running(later, clock() + 50)])
    due, began = due_tasks(store, clock), clock()
    async with asyncio.TaskGroup() as group:
        waiting = group.create_task(due.next())
        await asyncio.sleep(1.5)  # nothing was due; when the next one is has just been read
        await store.record([running(sooner, clock() + 5)])
        due.wake_for(clock() + 5)
    task = waiting.result()
    assert task is not None
    assert task.task_id == "sooner"
    assert clock() - began < 10


async def test_what_was_claimed_ahead_is_not_polled_once_nothing_finishes(clock: Clock) -> None:
    store = await open_store("sqlite:///:memory:", clock=clock)
    await feed(store, *(f"id{number}" for number in range(100)))
    timing = AccountTiming("main", Polling().tradeoff)
    due = due_tasks(store, clock, timing)
    await due.next()  # claims for all workers
    for key in range(60):
        timing.standstill.unfinished(key, 0.5, before_at=clock() - 10, now=clock(), deadline_at=clock() + 86_400)
        await asyncio.sleep(2)
    handed = 0
    with suppress(TimeoutError):
        async with asyncio.timeout(30):
            while await due.next() is not None:
                handed += 1
    assert 1 <= handed <= 5  # a turn every 6 s or more; the 19 claimed tasks at once otherwise
    assert len(await store.claim("main", 200)) == 100 - 1 - handed
    await store.close()


async def test_of_a_long_queue_that_is_put_off_what_is_due_beyond_need_is_given_back(clock: Clock) -> None:
    """Otherwise it was leased as long as the lane lived, and never polled."""
    store = await open_store("sqlite:///:memory:", clock=clock)
    await feed(store, *(f"id{number:03}" for number in range(LEAST_CLAIMED + 300)))
    later = {f"id{number:03}" for number in (*range(LEAST_CLAIMED), 100)}
    timing: Any = SimpleNamespace(
        standstill=SimpleNamespace(may_last=False, lasts=lambda _now: False, paused_s=0.0),
        put_off_s=lambda task, _now: 3600.0 if task.task_id in later else 0.0,
        chance=lambda _task, _now: 0.5,
    )
    due = due_tasks(store, clock, timing)
    first = await due.next()
    assert first is not None
    due.release()
    await store.flush()
    assert len(await store.claim("main", 500)) == 300 - 2
    await store.close()
