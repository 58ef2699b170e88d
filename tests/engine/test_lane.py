"""A lane: answers are settled together at the commit, but before anything that depends on them."""

import asyncio
from collections.abc import Sequence
from random import Random
from typing import Any

from poller.core.accounts import AccountState, Pause
from poller.core.errors import PollerError
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


async def test_polls_wait_for_a_full_disk_after_ten_a_worker(clock: Clock) -> None:
    """A crash would repeat all that are not recorded."""
    store, account = FullDisk(await open_store("sqlite:///:memory:", clock=clock)), Account()
    account.silent = frozenset(f"id{number}" for number in range(60))
    await feed(store, *account.silent)
    lane, _ = lane_of(store, account, clock, workers=2, records=[], metrics=Metrics())
    async with asyncio.TaskGroup() as group:
        group.create_task(lane.run())
        await asyncio.sleep(30)
        asked = len(account.asked)
        store.has_room.set()
        await asyncio.sleep(30)
        lane.stop()
    assert 20 <= asked <= 24
    assert len(set(account.asked)) == 60
    await store.close()


async def test_answers_that_come_during_the_last_commit_are_recorded(clock: Clock) -> None:
    store, account = FullDisk(await open_store("sqlite:///:memory:", clock=clock)), Account(*"abcd")
    await feed(store, *"abcd")
    lane, _ = lane_of(store, account, clock, workers=1, records=[], metrics=Metrics())
    async with asyncio.TaskGroup() as group:
        group.create_task(lane.run())
        await asyncio.sleep(0.45)  # the first is being stored
        lane.stop()
        await asyncio.sleep(1)
        store.has_room.set()
    assert (await store.sums()).polls == len(account.asked) == 4
    await store.close()


async def test_a_lane_that_ends_gives_back_what_it_claimed_ahead_and_is_saved_as_ended_in_order(clock: Clock) -> None:
    """The account may be another lane's in this process: after a reload that removes it and one that adds it."""
    store, account = await open_store("sqlite:///:memory:", clock=clock), Account(*"abcdefgh")
    await feed(store, *account.known)
    lane, _ = lane_of(store, account, clock, workers=1, records=[], metrics=Metrics())
    async with asyncio.TaskGroup() as group:
        group.create_task(lane.run())
        await asyncio.sleep(0.15)
        lane.stop()
    lane.save()  # by the upkeep, which does not know yet
    assert len(await store.claim("main", 9)) == 8 - len(account.asked) > 0
    assert (await store.account("main")).clean
    await store.close()


async def test_a_pause_by_a_person_does_not_count_as_time_without_an_answer(clock: Clock) -> None:
    store, hubspot = await open_store("sqlite:///:memory:", clock=clock), HubSpot(Metrics(), failing="a")
    await feed(store, "a")
    lane, _ = lane_of(store, hubspot, clock, workers=1, records=[], metrics=Metrics())
    given_up: list[PollerError] = []
    lane.on_given_up = given_up.append
    polling, limits = Polling(), GiveUpRules(give_up_s=60.0)
    lane.apply(client=hubspot, polling=polling, timing=None, limits=limits)
    async with asyncio.TaskGroup() as group:
        group.create_task(lane.run())
        await asyncio.sleep(30)
        await lane.hold()
        await asyncio.sleep(600)
        await lane.release()
        await asyncio.sleep(40)
        assert given_up == []
        await asyncio.sleep(60)
        assert given_up
        lane.stop()
    await store.close()
