"""A lane: answers are settled together at the commit, but before anything that depends on them."""

import asyncio
from collections.abc import Sequence
from random import Random
from typing import Any

from poller.core.accounts import AccountState
from poller.core.model import Answer, Running, Settled, Task, Unreachable
from poller.core.protocols import Clock
from poller.engine import GiveUpRules, Lane, Recorder
from poller.engine.metrics import Metrics
from poller.hubspot.limits import AccountGate, GateLimits
from poller.schedule.policy import Polling
from poller.store import open_store
from tests.support.store_makers import feed


class FullDisk:
    """A store whose commits wait until there is room; the rest is another store's."""

    def __init__(self, store: Any) -> None:
        self._store = store
        self.has_room = asyncio.Event()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    async def record(self, settled: Sequence[Settled]) -> Any:
        await self.has_room.wait()
        return await self._store.record(settled)


class HubSpot:
    """Answers that all tasks are processing, but for one whose poll fails; notes how many polls were settled then."""

    def __init__(self, metrics: Metrics, failing: str) -> None:
        self._metrics = metrics
        self._failing = failing
        self.settled: dict[str, int] = {}

    async def poll(self, task: Task) -> Answer:
        self.settled.setdefault(task.task_id, self._metrics.polls)
        await asyncio.sleep(0.1)
        outcome = Unreachable(reason="http_500") if task.task_id == self._failing else Running(status="PROCESSING")
        return Answer(outcome=outcome)


async def test_good_answers_wait_for_the_commit_but_a_failed_poll_and_the_one_after_it_are_settled_at_once(
    clock: Clock,
) -> None:
    store, metrics = FullDisk(await open_store("sqlite:///:memory:", clock=clock)), Metrics()
    await feed(store, *"abcdefgh")
    hubspot, loop = HubSpot(metrics, failing="d"), asyncio.get_running_loop()
    gate = AccountGate(
        "main", GateLimits(workers=1), state=AccountState(), clock=clock, monotonic=loop.time, rng=Random(1)
    )
    lane = Lane(
        "main",
        store=store,
        gate=gate,
        client=hubspot,
        polling=Polling(),
        recorder=Recorder("main", store=store, metrics=metrics, on_recorded=lambda _records: None),
        clock=clock,
        rng=Random(1),
        limits=GiveUpRules(),
    )
    async with asyncio.TaskGroup() as group:
        group.create_task(lane.run())
        await asyncio.sleep(0.85)
        lane.stop()
        store.has_room.set()
    assert hubspot.settled == {"a": 0, "b": 0, "c": 1, "d": 1, "e": 4, "f": 5, "g": 5, "h": 5}
    assert (await store.sums()).polls == metrics.polls == 8, "the rest is settled when the lane ends"
    await store.close()
