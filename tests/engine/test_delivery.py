"""Delivery: each sink at its own pace, through temporary and permanent failures."""

import asyncio
from collections.abc import MutableMapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from msgspec import json

from poller.core.deliveries import Delivery, Retry, Written
from poller.core.errors import ConfigError, GaveUp, SinkError, StoreError
from poller.core.model import Chunk, Fed, Finished, Kind, Position, Settled
from poller.core.protocols import Clock, Store
from poller.core.record import render
from poller.engine import DeliveryLoop
from poller.engine.metrics import Metrics
from poller.store import open_store

Events = list[MutableMapping[str, Any]]


class Receiver:
    """A sink that returns the given answers, then takes everything."""

    def __init__(self, name: str, *answers: Retry | Written | SinkError) -> None:
        self.name = name
        self.taken: list[str] = []
        self.opened_with: list[str] = []
        self._answers = list(answers)

    async def open(self, position: bytes | None, following: Sequence[Delivery]) -> bytes | None:
        self.opened_with = [delivery.task_id for delivery in following]
        return position or b"start"

    async def write(self, batch: Sequence[Delivery]) -> Written | Retry:
        if self._answers:
            answer = self._answers.pop(0)
            if isinstance(answer, SinkError):
                raise answer
            return answer
        self.taken += [delivery.task_id for delivery in batch]
        return Written(position=b"%d" % len(self.taken))

    async def close(self) -> None:
        pass


async def store_with(clock: Clock, folder: Path, count: int, *sinks: str) -> Store:
    store = await open_store(f"sqlite:///{folder}/poller.db", clock=clock)
    await store.attach_sinks(sinks)
    fed = tuple(Fed(account="default", task_id=f"task-{number}") for number in range(count))
    await store.add(await store.new_source("-"), Chunk(fed=fed, rejected=(), blank=0, position=Position()))
    finished = Finished(status="COMPLETE", num_errors=0, result=b"{}")
    tasks = await store.claim("default", count)
    await store.record(
        [Settled(task=task, record=render(task, finished, Kind.COMPLETE, seen_at=clock())) for task in tasks]
    )
    return store


def delivery_loop_of(receiver: Receiver, store: Store, clock: Clock, give_up_s: float | None = None) -> DeliveryLoop:
    return DeliveryLoop(receiver, store=store, metrics=Metrics(), clock=clock, give_up_s=give_up_s)


EVERYTHING = [f"task-{number}" for number in range(5)]


async def test_everything_is_delivered_in_order_and_leaves_the_outbox(tmp_path: Path, clock: Clock) -> None:
    store = await store_with(clock, tmp_path, 5, "one")
    receiver = Receiver("one")
    delivery_loop = delivery_loop_of(receiver, store, clock)
    await delivery_loop.open(None)
    delivery_loop.end()
    await delivery_loop.run()
    assert receiver.opened_with == receiver.taken == EVERYTHING
    assert await store.undelivered("one", 10) == []
    await store.close()


async def test_a_sink_that_fails_for_an_hour_gets_everything_afterwards_and_delays_no_other(
    tmp_path: Path, clock: Clock
) -> None:
    store = await store_with(clock, tmp_path, 5, "slow", "fine")
    slow, fine = Receiver("slow", *[Retry(reason="down", wait_s=60)] * 60), Receiver("fine")
    delivery_loops = [delivery_loop_of(receiver, store, clock) for receiver in (slow, fine)]
    async with asyncio.TaskGroup() as group:
        for delivery_loop in delivery_loops:
            delivery_loop.end()
            group.create_task(delivery_loop.run())
        await asyncio.sleep(10)
        meanwhile = (list(slow.taken), list(fine.taken), delivery_loops[0].backlog_reason)
    assert meanwhile == ([], EVERYTHING, "down")
    assert (slow.taken, delivery_loops[0].backlog_reason) == (EVERYTHING, None)
    await store.close()


async def test_a_position_that_changed_without_a_write_is_noted(tmp_path: Path, clock: Clock) -> None:
    store = await store_with(clock, tmp_path, 5, "one")
    delivery_loop = delivery_loop_of(
        Receiver("one", Retry(reason="moved", wait_s=0, position=b"new"), SinkError("stop")), store, clock
    )
    await delivery_loop.run()
    assert await store.attach_sinks(["one"]) == {"one": b"new"}
    await store.close()


async def test_records_that_a_sink_refuses_are_dead_letters_and_the_ledger_still_balances(
    tmp_path: Path, clock: Clock
) -> None:
    store = await store_with(clock, tmp_path, 5, "one")
    refused = {delivery.number: "bad" for delivery in (await store.undelivered("one", 2))}
    metrics = Metrics()
    metrics.begin(await store.sums())
    receiver = Receiver("one", Written(refused=refused))
    delivery_loop = DeliveryLoop(receiver, store=store, metrics=metrics, clock=clock, give_up_s=None)
    delivery_loop.end()
    await delivery_loop.run()
    sums = (await store.sums()).sinks[0]
    assert (sums.delivered, sums.undelivered, sums.dead) == (3, 0, 2)
    assert metrics.sink("one") == sums
    await store.close()


async def test_a_sink_that_needs_a_person_stops_and_reports_it(tmp_path: Path, clock: Clock) -> None:
    store = await store_with(clock, tmp_path, 5, "one")
    stopped: list[str] = []
    delivery_loop = delivery_loop_of(Receiver("one", SinkError("the file is gone")), store, clock)
    delivery_loop.on_stopped = lambda: stopped.append("one")
    await delivery_loop.run()
    assert (str(delivery_loop.stopped_by), stopped) == ("the file is gone", ["one"])
    assert len(await store.undelivered("one", 10)) == 5
    await store.close()


async def test_a_sink_out_of_reach_for_longer_than_give_up_s_ends_the_run(tmp_path: Path, clock: Clock) -> None:
    store = await store_with(clock, tmp_path, 5, "one")
    delivery_loop = delivery_loop_of(
        Receiver("one", *[Retry(reason="down", wait_s=60)] * 60), store, clock, give_up_s=600
    )
    with pytest.raises(GaveUp, match="sink one: down"):
        await delivery_loop.run()
    assert 600 <= asyncio.get_running_loop().time() <= 700
    await store.close()


@pytest.mark.parametrize("give_up_s", [4.0, 600.0])
async def test_give_up_s_counts_time_and_not_tries(tmp_path: Path, clock: Clock, give_up_s: float) -> None:
    store = await store_with(clock, tmp_path, 1, "one")
    down = [Retry(reason="down", wait_s=wait_s) for wait_s in (0.5, 300, 18_000, 86_400)]
    loop = delivery_loop_of(Receiver("one", *down), store, clock, give_up_s=give_up_s)
    began_at = asyncio.get_running_loop().time()
    with pytest.raises(GaveUp, match=f"down, for {give_up_s:.0f} s"):
        await loop.run()
    assert asyncio.get_running_loop().time() - began_at == pytest.approx(give_up_s, abs=0.1)
    await store.close()


async def test_a_lower_give_up_s_counts_while_the_sink_waits_for_its_next_try(tmp_path: Path, clock: Clock) -> None:
    store = await store_with(clock, tmp_path, 1, "one")
    loop = delivery_loop_of(Receiver("one", Retry(reason="down", wait_s=86_400)), store, clock)
    began_at = asyncio.get_running_loop().time()
    asyncio.get_running_loop().call_later(100, lambda: loop.apply(give_up_s=60))
    with pytest.raises(GaveUp):
        await loop.run()
    assert asyncio.get_running_loop().time() - began_at == pytest.approx(100, abs=0.1)
    await store.close()


@pytest.mark.parametrize(("wait_s", "ends_after_s", "taken"), [(600.0, 5.0, []), (10.0, 10.0, ["task-0"])])
async def test_a_drain_waits_only_for_a_try_that_comes_before_its_end(
    tmp_path: Path, clock: Clock, wait_s: float, ends_after_s: float, taken: list[str]
) -> None:
    store = await store_with(clock, tmp_path, 1, "one")
    receiver = Receiver("one", Retry(reason="down", wait_s=wait_s))
    loop = delivery_loop_of(receiver, store, clock)
    now = asyncio.get_running_loop().time()
    asyncio.get_running_loop().call_later(5, loop.end)
    asyncio.get_running_loop().call_later(5, loop.drain, now + 35)
    await loop.run()
    assert asyncio.get_running_loop().time() - now == pytest.approx(ends_after_s, abs=0.5)
    assert receiver.taken == taken
    await store.close()


class DefectiveSink(Receiver):
    """Code of other people that breaks its contract in one call."""

    def __init__(self, broken_call: str) -> None:
        super().__init__("theirs")
        self._broken_call = broken_call

    async def open(self, position: bytes | None, following: Sequence[Delivery]) -> bytes | None:
        if self._broken_call == "open":
            raise KeyError("their bug")
        return await super().open(position, following)

    async def write(self, batch: Sequence[Delivery]) -> Written | Retry:
        if self._broken_call == "return":
            return None  # type: ignore[return-value]
        if self._broken_call == "write":
            raise KeyError("their bug")
        if self._broken_call == "config":
            raise ConfigError("their table does not exist")
        if self._broken_call == "state":
            raise StoreError("their cache is broken")
        if self._broken_call == "cancel":
            library = asyncio.get_running_loop().create_future()
            library.cancel()
            await library
        return await super().write(batch)

    async def close(self) -> None:
        if self._broken_call == "close":
            raise KeyError("their bug")
        if self._broken_call == "config":
            raise ConfigError("their table does not exist")


@pytest.mark.parametrize(
    ("broken_call", "named"),
    [
        ("write", "KeyError: 'their bug'"),
        ("return", "NoneType"),
        ("cancel", "failed in write: CancelledError"),
        ("config", "their table does not exist"),
        ("state", "failed in write: StoreError"),
    ],
)
async def test_a_sink_whose_code_fails_stops_alone_and_loses_nothing(
    tmp_path: Path, clock: Clock, events: Events, broken_call: str, named: str
) -> None:
    store = await store_with(clock, tmp_path, 5, "theirs", "fine")
    theirs = delivery_loop_of(DefectiveSink(broken_call), store, clock)
    fine = delivery_loop_of(Receiver("fine"), store, clock)
    async with asyncio.TaskGroup() as group:
        for delivery_loop in (theirs, fine):
            delivery_loop.end()
            group.create_task(delivery_loop.run())
    await theirs.close()
    assert isinstance(theirs.stopped_by, SinkError | ConfigError)
    assert named in str(theirs.stopped_by)
    assert [len(await store.undelivered(name, 10)) for name in ("theirs", "fine")] == [5, 0]
    assert {event["sink"] for event in events if event["event"] == "sink.stopped"} == {"theirs"}
    await store.close()


@pytest.mark.parametrize(
    ("answer", "named"),
    [
        (Retry(reason="down", wait_s=None), "wait_s=None"),  # type: ignore[arg-type]
        (Retry(reason="down", wait_s=float("nan")), "wait_s=nan"),
        (Retry(reason=None, wait_s=1.0), "reason=None"),  # type: ignore[arg-type]
        (Written(count="1"), "count='1'"),  # type: ignore[arg-type]
        (Written(count=-1), "count=-1"),
        (Written(position="7"), "position '7'"),  # type: ignore[arg-type]
        (Written(refused={1: None}), "a reason in refused"),  # type: ignore[dict-item]
        (Written(refused=None), "refused=None"),  # type: ignore[arg-type]
        (Written(refused=[]), "refused=[]"),  # type: ignore[arg-type]
        (Written(refused={99: "bad"}), "a number in refused"),
    ],
)
async def test_a_sink_whose_answer_is_not_of_its_contract_stops_alone_and_loses_nothing(
    tmp_path: Path, clock: Clock, answer: Retry | Written, named: str
) -> None:
    store = await store_with(clock, tmp_path, 5, "theirs")
    theirs = delivery_loop_of(Receiver("theirs", answer), store, clock)
    await theirs.open(None)
    await theirs.run()
    assert named in str(theirs.stopped_by)
    assert len(await store.undelivered("theirs", 10)) == 5
    await store.close()


async def test_a_sink_that_takes_nothing_is_named_and_asked_again_after_a_second(
    tmp_path: Path, clock: Clock, events: Events
) -> None:
    store = await store_with(clock, tmp_path, 5, "theirs")
    receiver = Receiver("theirs", *[Written(count=0)] * 5, *[Retry(reason="busy", wait_s=0)] * 5)
    theirs = delivery_loop_of(receiver, store, clock)
    theirs.end()
    began_at = asyncio.get_running_loop().time()
    await theirs.run()
    assert asyncio.get_running_loop().time() - began_at == pytest.approx(5.5, abs=0.3)
    assert receiver.taken == EVERYTHING
    failed = [event["reason"] for event in events if event["event"] == "sink.failed"]
    assert failed == ["it took none of the records", "busy"]
    await store.close()


async def test_a_sink_whose_code_fails_as_it_opens_or_closes_is_named(
    tmp_path: Path, clock: Clock, events: Events
) -> None:
    store = await store_with(clock, tmp_path, 5, "theirs")
    with pytest.raises(SinkError, match="sink theirs: its code failed in open: KeyError"):
        await delivery_loop_of(DefectiveSink("open"), store, clock).open(None)
    await delivery_loop_of(DefectiveSink("close"), store, clock).close()
    assert [event["sink"] for event in events if event["event"] == "sink.stopped"] == ["theirs"]
    await store.close()


async def test_a_sink_that_empties_its_batch_is_not_sent_it_again(tmp_path: Path, clock: Clock) -> None:
    class Popping(Receiver):
        async def write(self, batch: Sequence[Delivery]) -> Written | Retry:
            assert isinstance(batch, list)
            self.taken += [batch.pop(0).task_id for _ in range(len(batch))]
            return Written()

    store = await store_with(clock, tmp_path, 5, "theirs")
    theirs = delivery_loop_of(Popping("theirs"), store, clock)
    theirs.end()
    async with asyncio.timeout(60):
        await theirs.run()
    assert theirs.sink.taken == EVERYTHING  # type: ignore[attr-defined]
    await store.close()


async def test_a_sink_that_hangs_as_it_closes_is_named_and_not_waited_for(
    tmp_path: Path, clock: Clock, events: Events
) -> None:
    class Hanging(Receiver):
        async def close(self) -> None:
            await asyncio.sleep(86_400)

    store = await store_with(clock, tmp_path, 1, "theirs")
    await delivery_loop_of(Hanging("theirs"), store, clock).close()
    assert asyncio.get_running_loop().time() < 11
    (stopped,) = (event["reason"] for event in events if event["event"] == "sink.stopped")
    assert "failed in close: TimeoutError" in stopped
    await store.close()


@pytest.mark.parametrize("odd", ["no \udcff.jsonl", "two\nlines", "\x1b[2Jgone"])
async def test_whatever_words_a_sink_uses_probes_and_page_can_show_them(tmp_path: Path, clock: Clock, odd: str) -> None:
    """A path that is not UTF-8 in a reason made /readyz answer 500."""
    store = await store_with(clock, tmp_path, 2, "theirs")
    receiver = Receiver("theirs", Retry(reason=odd, wait_s=1.0), Written(count=1, refused={1: odd}), SinkError(odd))
    theirs = delivery_loop_of(receiver, store, clock)
    shown = list[str | None]()
    asyncio.get_running_loop().call_later(0.5, lambda: shown.append(theirs.backlog_reason))
    await theirs.run()
    for words in (*shown, theirs.refusal, theirs.backlog_reason):
        assert words is not None
        assert words.isprintable()
        assert json.encode(words)
    await store.close()


async def test_where_a_sink_begins_is_noted_before_it_writes(tmp_path: Path, clock: Clock) -> None:
    """Without it, the lines that it wrote right before a kill would be of unknown origin to the next run."""
    store = await store_with(clock, tmp_path, 5, "one")
    seen = list[bytes | None]()

    class Noting(Receiver):
        async def write(self, batch: Sequence[Delivery]) -> Written | Retry:
            seen.append((await store.positions(["one"]))["one"])
            return await super().write(batch)

    loop = delivery_loop_of(Noting("one"), store, clock)
    await loop.open(None)
    loop.end()
    await loop.run()
    assert seen == [b"start"]
    await store.close()


async def test_what_a_sink_leaves_of_a_batch_comes_again_before_the_rest(tmp_path: Path, clock: Clock) -> None:
    store = await store_with(clock, tmp_path, 5, "one")
    receiver = Receiver("one", Written(count=2), Written(count=0))
    delivery_loop = delivery_loop_of(receiver, store, clock)
    await delivery_loop.open(None)
    delivery_loop.end()
    await delivery_loop.run()
    assert receiver.taken == EVERYTHING[2:]
    sums = {sink.name: (sink.delivered, sink.undelivered) for sink in (await store.sums()).sinks}
    assert sums == {"one": (5, 0)}
