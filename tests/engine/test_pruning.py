"""Retention: finished tasks are deleted as fast as they come, and the state stops growing."""

import asyncio
from collections.abc import MutableMapping
from typing import Any

import pytest

from poller.core.deliveries import PruneWalk, Selection, Written
from poller.core.protocols import Clock
from poller.engine import Service
from poller.engine.metrics import Metrics
from poller.store import SqliteStore, open_store
from tests.support.store_makers import feed, finish, finished, ids

RATE = 50  # tasks finish a second; a portion is less than half of it
RETENTION_S = 60.0


async def finish_tasks(store: SqliteStore, clock: Clock, seconds: int, began: int = 0) -> None:
    for second in range(began, began + seconds):
        await feed(store, *(f"task-{second}-{number}" for number in range(RATE)))
        now = clock()
        await store.record([finished(task, at=now) for task in await store.claim("main", RATE)])
        await asyncio.sleep(1.0 - 0.1)


def pages(store: SqliteStore) -> int:
    (count,) = store._connection.execute("PRAGMA page_count").fetchone()
    return int(count)


async def test_pruning_keeps_pace_with_tasks_that_finish_and_the_state_has_a_plateau(
    clock: Clock, monkeypatch: pytest.MonkeyPatch, events: list[MutableMapping[str, Any]]
) -> None:
    monkeypatch.setattr("poller.engine.upkeep.PRUNED_AT_ONCE", RATE // 3)
    store = await open_store("sqlite:///:memory:", clock=clock)
    assert isinstance(store, SqliteStore)
    service = Service(store=store, metrics=Metrics(), clock=clock, endless=True, shutdown_s=5, retention_s=RETENTION_S)
    kept, sizes = [], []
    async with asyncio.TaskGroup() as group:
        group.create_task(service.run())
        for minutes in range(6):
            await finish_tasks(store, clock, 60, began=60 * minutes)
            kept.append(len(await store.records(0, 100_000)))
            sizes.append(pages(store))
        service.drain()
    sums = await store.sums()
    assert sums.finished == RATE * 60 * 6
    assert max(kept) <= RATE * (RETENTION_S + 60 + 10)
    assert sizes[-1] <= 1.05 * sizes[2]  # the sources stay
    assert sum(event["tasks"] for event in events if event["event"] == "tasks.pruned") == sums.pruned
    await store.close()


async def test_pruning_leaves_half_of_the_time_for_other_work(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("poller.engine.upkeep.PRUNED_AT_ONCE", 10)
    store = await open_store("sqlite:///:memory:", clock=clock)
    assert isinstance(store, SqliteStore)
    await finish_tasks(store, clock, 10)
    began_at: list[float] = []
    ended_at: list[float] = []
    prune = store.prune
    loop = asyncio.get_running_loop()

    async def timed(before: float, limit: int, walk: PruneWalk) -> int:
        began_at.append(loop.time())
        pruned = await prune(before, limit, walk)
        ended_at.append(loop.time())
        return pruned

    monkeypatch.setattr(store, "prune", timed)
    service = Service(store=store, metrics=Metrics(), clock=clock, endless=True, shutdown_s=5, retention_s=0.0)
    async with asyncio.TaskGroup() as group:
        group.create_task(service.run())
        await asyncio.sleep(30)
        service.drain()
    at_work = [ended - began for began, ended in zip(began_at, ended_at, strict=True)]
    rests = [began - ended for began, ended in zip(began_at[1:], ended_at, strict=False)]
    assert len(rests) == RATE * 10 / 10
    assert all(rest >= 0.99 * work for rest, work in zip(rests, at_work, strict=False))
    await store.close()


async def test_behind_a_dead_sink_only_what_it_lacks_stays_and_its_return_brings_the_plateau_back() -> None:
    store = await open_store("sqlite:///:memory:", clock=lambda: 0.0)
    assert isinstance(store, SqliteStore)
    await store.attach_sinks(["healthy", "dead"])
    kept, sizes = [], []
    for turn in range(12):
        is_dead = 3 <= turn < 6
        await finish(store, *(f"task-{turn}-{number}" for number in range(300)), at=float(turn))
        for sink in ("healthy",) if is_dead else ("healthy", "dead"):
            while batch := await store.undelivered(sink, 500):
                await store.delivered(sink, batch, Written())
        await store.prune(turn, 10_000)
        kept.append(len(await store.records(0, 10_000)))
        sizes.append(pages(store))
    assert kept == [300, 300, 300, 300, 600, 900, 300, 300, 300, 300, 300, 300]  # a turn's own are not yet expired
    assert max(sizes) == sizes[6]  # the most were kept when the sink came back; freed pages are used again
    await store.close()


async def test_what_a_dead_sink_lacks_is_examined_in_portions_and_once_a_walk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("poller.store.pruning.EXAMINED_AT_ONCE", 10)
    store = await open_store("sqlite:///:memory:", clock=lambda: 0.0)
    assert isinstance(store, SqliteStore)
    await store.attach_sinks(["healthy", "dead"])
    await finish(store, *(f"early-{number:02}" for number in range(25)), at=1.0)
    await store.delivered("healthy", await store.undelivered("healthy", 99), Written())
    await store.attach_sinks(["healthy"])
    await finish(store, *(f"late-{number:02}" for number in range(25)), at=2.0)
    await store.delivered("healthy", await store.undelivered("healthy", 99), Written())
    await store.attach_sinks(["healthy", "dead"])
    await store.delivered("dead", (await store.undelivered("dead", 99))[25:], Written())  # the late ones alone
    portions: list[tuple[float, int]] = []
    write = store._write

    async def noted(work: Any, before: float, limit: int, after: tuple[float, int]) -> Any:
        portions.append(after)
        return await write(work, before, limit, after)

    monkeypatch.setattr(store, "_write", noted)
    walk = PruneWalk()
    assert [await store.prune(9.0, 20, walk), await store.prune(9.0, 20, walk)] == [20, 5]
    assert len(portions) == 50 // 10 + 1
    assert portions == sorted(portions)
    assert len(await store.records(0, 99)) == 25
    await store.close()


@pytest.mark.parametrize("ending", ["retried", "its sink left out"])
async def test_a_dead_letter_stays_until_a_retry_delivers_it_or_a_run_leaves_its_sink_out(ending: str) -> None:
    store = await open_store("sqlite:///:memory:", clock=lambda: 0.0)
    await store.attach_sinks(["strict", "healthy"])
    await finish(store, "good", "bad")
    await store.delivered("healthy", await store.undelivered("healthy", 9), Written())
    batch = await store.undelivered("strict", 9)
    await store.delivered("strict", batch, Written(refused={batch[1].number: "no"}))
    assert await store.prune(99.0, 9) == 1
    assert ids(await store.records(0, 9)) == ["bad"]
    if ending == "retried":
        await store.replay("strict", Selection(dead=True))
        await store.delivered("strict", await store.undelivered("strict", 9), Written())
    else:
        await store.attach_sinks(["healthy"])
    assert await store.prune(99.0, 9) == 1
    sums = await store.sums()
    assert {sink.name: (sink.delivered, sink.missed) for sink in sums.sinks} == {
        "healthy": (2, 0),
        "strict": (2, 0) if ending == "retried" else (1, 1),
    }
    await store.close()
