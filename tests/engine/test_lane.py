"""A lane: answers are settled together at the commit, but before anything that depends on them."""

import asyncio
from collections.abc import Sequence
from random import Random
from typing import Any

from poller.core.accounts import AccountState, Pause
from poller.core.model import Answer, Missing, Record, Running, Settled, Task, Unreachable
from poller.core.proof import Proof
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


class Account:
    """Knows the ids of `known` alone."""

    def __init__(self, *known: str) -> None:
        self.known = frozenset(known)
        self.silent = frozenset[str]()
        self.asked: list[str] = []

    async def poll(self, task: Task) -> Answer:
        self.asked.append(task.task_id)
        await asyncio.sleep(0.1)
        if task.task_id in self.silent:
            return Answer(outcome=Running(status=None))
        return Answer(outcome=Running(status="PROCESSING") if task.task_id in self.known else Missing(code=404))


def lane_of(
    store: Any, client: Account | HubSpot, clock: Clock, *, workers: int, records: list[Record], metrics: Metrics
) -> tuple[Lane, AccountGate]:
    gate = AccountGate(
        "main",
        GateLimits(workers=workers),
        state=AccountState(),
        clock=clock,
        monotonic=asyncio.get_running_loop().time,
        rng=Random(1),
    )
    lane = Lane(
        "main",
        store=store,
        gate=gate,
        client=client,
        polling=Polling(),
        recorder=Recorder("main", store=store, metrics=metrics, on_recorded=records.extend),
        clock=clock,
        rng=Random(1),
        limits=GiveUpRules(),
    )
    return lane, gate


async def test_good_answers_wait_for_the_commit_but_a_failed_poll_and_the_one_after_it_are_settled_at_once(
    clock: Clock,
) -> None:
    store, metrics = FullDisk(await open_store("sqlite:///:memory:", clock=clock)), Metrics()
    await feed(store, *"abcdefgh")
    hubspot = HubSpot(metrics, failing="d")
    lane, _ = lane_of(store, hubspot, clock, workers=1, records=[], metrics=metrics)
    async with asyncio.TaskGroup() as group:
        group.create_task(lane.run())
        await asyncio.sleep(0.85)
        lane.stop()
        store.has_room.set()
    assert hubspot.settled == {"a": 0, "b": 0, "c": 1, "d": 1, "e": 4, "f": 5, "g": 5, "h": 5}
    assert (await store.sums()).polls == metrics.polls == 8, "the rest is settled when the lane ends"
    await store.close()


async def test_no_unknown_id_is_believed_before_the_witness_shows_that_the_account_is_the_right_one(
    clock: Clock,
) -> None:
    """The witness was polled every other time: after one id that HubSpot really did not know, it was the turn of the
    next unknown id itself, which another account's token then ended as not found."""
    store, records, account = await open_store("sqlite:///:memory:", clock=clock), list[Record](), Account("witness")
    await feed(store, "unknown")
    lane, gate = lane_of(store, account, clock, workers=4, records=records, metrics=Metrics())
    lane.know(Proof(task_id="witness", credentials=b""))
    async with asyncio.TaskGroup() as group:
        group.create_task(lane.run())
        await asyncio.sleep(60)
        account.known = frozenset()
        await feed(store, "a", "b", "c")
        lane.wake()
        await asyncio.sleep(300)
        lane.stop()
    assert account.asked[:3] == ["unknown", "witness", "unknown"]
    assert [record.task_id for record in records] == ["unknown"]
    assert gate.pause is Pause.WRONG_ACCOUNT
    await store.close()


async def test_a_witness_that_shows_nothing_keeps_no_task_from_being_polled(clock: Clock) -> None:
    store, records, account = await open_store("sqlite:///:memory:", clock=clock), list[Record](), Account()
    account.silent = frozenset({"witness"})
    await feed(store, "unknown")
    lane, _ = lane_of(store, account, clock, workers=4, records=records, metrics=Metrics())
    lane.know(Proof(task_id="witness", credentials=b""))
    async with asyncio.TaskGroup() as group:
        group.create_task(lane.run())
        await asyncio.sleep(120)
        lane.stop()
    assert [record.task_id for record in records] == ["unknown"]
    assert len(account.asked) <= 6
    await store.close()
