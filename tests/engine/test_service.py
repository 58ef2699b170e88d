"""The end of a run: whatever a reload brings at that time, the run ends, and nothing is left over."""

import asyncio
import os
from collections.abc import Sequence
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from random import Random

import pytest

from poller.core.accounts import AccountState
from poller.core.deliveries import Delivery, Retry, Written
from poller.core.errors import GaveUp, StoreError
from poller.core.model import Answer, Chunk, Fed, Finished, Kind, Position, Running, Settled, Task
from poller.core.protocols import Clock, Store
from poller.core.record import render
from poller.engine import DeliveryLoop, GiveUpRules, Lane, Recorder, Service
from poller.engine.metrics import Metrics
from poller.hubspot.limits import AccountGate, GateLimits
from poller.schedule.policy import Polling
from poller.sources import ReadOptions, Source
from poller.store import last_beat, open_store


class SlowSink:
    """A sink whose writes take some seconds."""

    def __init__(self, name: str, write_s: float) -> None:
        self.name = name
        self.taken: list[str] = []
        self._write_s = write_s

    async def open(self, position: bytes | None, following: Sequence[Delivery]) -> bytes | None:  # noqa: ARG002
        return position

    async def write(self, batch: Sequence[Delivery]) -> Written | Retry:
        await asyncio.sleep(self._write_s)
        self.taken += [delivery.task_id for delivery in batch]
        return Written()

    async def close(self) -> None:
        pass


class DeadSink(SlowSink):
    """A sink that takes nothing."""

    async def write(self, batch: Sequence[Delivery]) -> Written | Retry:  # noqa: ARG002
        return Retry(reason="no connection", wait_s=60)


class Run:
    """A service without lanes on a state of two tasks, of which one has its outcome."""

    def __init__(self, store: Store, clock: Clock) -> None:
        self.store, self.clock, self.metrics = store, clock, Metrics()
        self.service = Service(store=store, metrics=self.metrics, clock=clock, endless=False, shutdown_s=30)

    async def deliver_to(self, *sinks: SlowSink) -> None:
        await self.store.attach_sinks([sink.name for sink in sinks])
        await self.store.add(
            await self.store.new_source("-"),
            Chunk(
                fed=(Fed(account="a", task_id="one"), Fed(account="a", task_id="two")),
                rejected=(),
                blank=0,
                position=Position(line=2),
            ),
        )
        await self.finish_one()
        self.metrics.begin(await self.store.sums())
        self.service.deliveries.loops = [await self.opened(sink) for sink in sinks]

    async def opened(self, sink: SlowSink) -> DeliveryLoop:
        loop = DeliveryLoop(sink, store=self.store, metrics=self.metrics, clock=self.clock, give_up_s=None)
        await loop.open(None)
        return loop

    async def finish_one(self) -> None:
        (task,) = await self.store.claim("a", 1)
        outcome = Finished(status="COMPLETE", num_errors=0, result=b"{}")
        record = render(task, outcome, Kind.COMPLETE, seen_at=self.clock())
        await self.store.record([Settled(task=task, record=record)])
        if self.service.deliveries.loops:
            self.metrics.finish(Kind.COMPLETE, landed=True)
            self.service.on_recorded([record])


async def test_a_sink_is_exchanged_while_the_last_task_finishes_and_the_run_ends_once_it_has_all(clock: Clock) -> None:
    run = Run(await open_store("sqlite:///:memory:", clock=clock), clock)
    await run.deliver_to(SlowSink("x", 5))
    async with asyncio.timeout(60), asyncio.TaskGroup() as group:
        group.create_task(run.service.run())
        await asyncio.sleep(1)
        changed = SlowSink("x", 1)
        async with run.service.changing():
            ending = group.create_task(run.service.deliveries.end(run.service.deliveries.loops[0]))
            await asyncio.sleep(1)
            await run.finish_one()
            await ending
            run.service.deliveries.begin(await run.opened(changed))
    assert changed.taken == ["two"]
    await run.store.close()


async def test_a_sink_that_is_opened_while_others_deliver_the_rest_ends_with_the_run(clock: Clock) -> None:
    run = Run(await open_store("sqlite:///:memory:", clock=clock), clock)
    await run.deliver_to(SlowSink("x", 5), SlowSink("y", 7))
    await run.finish_one()
    changed = SlowSink("x", 1)
    async with asyncio.timeout(60), asyncio.TaskGroup() as group:
        group.create_task(run.service.run())
        await asyncio.sleep(1)
        assert run.service.is_ending
        await run.service.deliveries.end(run.service.deliveries.loops[0])
        run.service.deliveries.begin(await run.opened(changed))
    assert run.service.deliveries.loops[0].sink is changed
    assert await run.store.undelivered("x", 9) == await run.store.undelivered("y", 9) == []
    await run.store.close()


async def test_the_only_sink_is_exchanged_while_the_run_waits_for_it_alone(clock: Clock) -> None:
    run = Run(await open_store("sqlite:///:memory:", clock=clock), clock)
    await run.deliver_to(DeadSink("x", 0))
    await run.finish_one()
    changed = SlowSink("x", 1)
    async with asyncio.timeout(60), asyncio.TaskGroup() as group:
        group.create_task(run.service.run())
        await asyncio.sleep(1)
        async with run.service.changing():
            await run.service.deliveries.end(run.service.deliveries.loops[0])
            await asyncio.sleep(1)
            run.service.deliveries.begin(await run.opened(changed))
    assert changed.taken == ["one", "two"]
    await run.store.close()


@pytest.mark.parametrize("write_s", [5, 1000])
async def test_a_sink_that_a_reload_ends_is_closed_once_also_where_the_store_fails_meanwhile(
    clock: Clock, write_s: float
) -> None:
    """The run then ends before another sink is in its place."""
    run = Run(await open_store("sqlite:///:memory:", clock=clock), clock)
    closed: list[str] = []

    class Noted(SlowSink):
        async def close(self) -> None:
            closed.append(self.name)

    await run.deliver_to(Noted("x", write_s))
    async with asyncio.TaskGroup() as group:
        with suppress(StoreError):
            run.service.deliveries.start(group)
            await asyncio.sleep(10)
            if write_s > 10:
                await run.store.close()
            await run.service.deliveries.end(run.service.deliveries.loops[0])
    assert closed == ["x"]
    await run.service.deliveries.close()
    assert closed == ["x"]
    await run.store.close()


async def test_a_lane_or_a_source_that_comes_at_the_end_is_left_to_the_next_run(clock: Clock, tmp_path: Path) -> None:
    run = Run(await open_store("sqlite:///:memory:", clock=clock), clock)
    await run.deliver_to(SlowSink("x", 5))
    await run.finish_one()
    (tmp_path / "more.txt").write_text("AAAA1\n")
    options = ReadOptions(accounts=frozenset({"a"}), default_account="a")
    async with asyncio.timeout(60), asyncio.TaskGroup() as group:
        group.create_task(run.service.run())
        await asyncio.sleep(1)
        assert run.service.is_ending
        run.service.begin_lane(lane_of(run))
        await run.service.ingest.change([Source(kind="file", location=str(tmp_path / "more.txt"), options=options)])
    assert (run.service.lanes, run.service.fed) == ({}, False), "the exit code shows that input is left"
    await run.store.close()


@pytest.mark.parametrize("holds", ["a reload", "a feed"])
async def test_no_run_ends_while_its_settings_change_or_it_is_fed(clock: Clock, holds: str) -> None:
    run = Run(await open_store("sqlite:///:memory:", clock=clock), clock)
    await run.deliver_to(SlowSink("x", 0))
    ends = run.service.ending.is_set
    async with asyncio.timeout(60), asyncio.TaskGroup() as group:
        group.create_task(run.service.run())
        await asyncio.sleep(1)
        async with AsyncExitStack() as held:
            if holds == "a reload":
                await held.enter_async_context(run.service.changing())
            else:
                held.enter_context(run.service.feeding())
            await run.finish_one()
            assert not ends()
        assert ends()
    await run.store.close()


async def test_of_several_errors_the_first_is_why_a_run_ended(clock: Clock) -> None:
    run = Run(await open_store("sqlite:///:memory:", clock=clock), clock)
    first, second = GaveUp("first"), GaveUp("second")
    run.service.end_with(first)
    run.service.end_with(second)
    assert run.service.stopped_by is first
    await run.store.close()


async def test_dead_letters_that_are_tried_again_are_delivered_at_once_and_counted(clock: Clock) -> None:
    class Refusing(SlowSink):
        async def write(self, batch: Sequence[Delivery]) -> Written | Retry:
            await super().write(batch)
            return Written(refused={each.number: "not today" for each in batch} if len(self.taken) == 1 else {})

    run, sink = Run(await open_store("sqlite:///:memory:", clock=clock), clock), Refusing("x", 0)
    await run.deliver_to(sink)
    async with asyncio.timeout(60), asyncio.TaskGroup() as group:
        group.create_task(run.service.run())
        await asyncio.sleep(5)
        assert run.metrics.sink("x").dead == 1
        assert await run.service.deliveries.retry_dead_letters("x") == 1
        await asyncio.sleep(5)
        assert (sink.taken, run.metrics.sink("x")) == (["one", "one"], (await run.store.sums()).sinks[0])
        run.service.drain()
    await run.store.close()


async def test_a_run_that_only_waits_for_a_sink_is_alive(clock: Clock, tmp_path: Path) -> None:
    run = Run(await open_store(f"sqlite:///{tmp_path}/poller.db", clock=clock), clock)
    await run.deliver_to(DeadSink("x", 0))
    await run.finish_one()
    async with asyncio.TaskGroup() as group:
        running = group.create_task(run.service.run())
        await asyncio.sleep(60)
        assert run.service.is_ending
        os.utime(tmp_path / "poller.db.lock", (0, 0))
        await asyncio.sleep(30)
        beat = last_beat(f"sqlite:///{tmp_path}/poller.db")
        assert beat is not None
        assert beat[1] > 0
        assert not running.done()
        run.service.drain()
    await run.store.close()


class Silent:
    """A HubSpot that is never asked."""

    async def poll(self, _task: Task) -> Answer:
        return Answer(outcome=Running(status="PENDING"))


def lane_of(run: Run) -> Lane:
    gate = AccountGate(
        "a",
        GateLimits(workers=4),
        state=AccountState(),
        clock=run.clock,
        monotonic=asyncio.get_running_loop().time,
        rng=Random(1),
    )
    return Lane(
        "a",
        store=run.store,
        gate=gate,
        client=Silent(),
        polling=Polling(),
        recorder=Recorder("a", store=run.store, metrics=run.metrics, on_recorded=lambda _records: None),
        clock=run.clock,
        rng=Random(1),
        limits=GiveUpRules(),
    )
