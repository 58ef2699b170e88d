"""What a store keeps of one task and of what was learned; every test runs on every kind of store."""

import asyncio

import pytest

from poller.core.deliveries import Written
from poller.core.details import Poll
from poller.core.model import Finished, Kind, Missing, Outcome, PollAgain, Running, Settled, Unreachable
from poller.core.poll_log import LONGEST, poll_line, polls
from poller.core.protocols import Clock, Store
from poller.store import read_store
from tests.support.store_makers import Open, feed, finished, running

RUNNING = Running(status="PENDING")


def poll(at: float, outcome: str = "running", says: str | int | None = "PENDING") -> Poll:
    return Poll(at=at, gate_s=0.5, took_s=0.125, outcome=outcome, detail=says, again_in_s=2.0)


def line(at: float, outcome: Outcome = RUNNING) -> str:
    """The line of `poll`."""
    return poll_line(outcome, at=at, gate_s=0.5, took_s=0.125, again_in_s=2.0)


def test_a_poll_log_returns_its_polls_unchanged() -> None:
    read = polls(line(1.5) + line(2.0, Missing(code=404)) + line(3.0, Unreachable(reason="bad\n[\ud800]")))
    assert read[:2] == (poll(1.5), poll(2.0, "missing", 404))
    assert (read[2].at, read[2].outcome) == (3.0, "unreachable")


def test_a_poll_log_that_was_cut_returns_its_latest_polls() -> None:
    poll_log = "".join(line(float(at)) for at in range(100))[-LONGEST:]
    read = polls(poll_log)
    assert 15 < len(read) < 40
    assert [each.at for each in read] == [float(at) for at in range(100 - len(read), 100)]


async def test_the_details_of_a_task_reach_from_its_feeding_to_its_deliveries(store: Store) -> None:
    await store.attach_sinks(["one", "two", "three"])
    await feed(store, "a", "b")
    (a, _) = await store.claim("main", 2)
    again = PollAgain(at=0.0, errors=1, status="PENDING", requested_at=7.0)
    await store.record([Settled(task=a, again=again, poll_line=line(1.0))])
    (waiting,) = await store.task_details("a")
    assert (waiting.kind, waiting.record, waiting.deliveries) == (None, None, {})
    assert (waiting.account, waiting.ref, waiting.polls, waiting.errors) == ("main", b'{"row":"a"}', 1, 1)
    assert (waiting.status, waiting.requested_at, waiting.poll_log) == ("PENDING", 7.0, (poll(1.0),))
    (a,) = await store.claim("main", 1)
    assert a.requested_at == 7.0
    settled = finished(a, Kind.CANCELED, "gone")
    last = Poll(at=2.0, gate_s=0.0, took_s=0.0, outcome="finished", detail="CANCELED", again_in_s=None)
    outcome = Finished(status="CANCELED", num_errors=0)
    last_line = poll_line(outcome, at=2.0, gate_s=0.0, took_s=0.0, again_in_s=None)
    await store.record([Settled(task=a, record=settled.record, poll_line=last_line)])
    for sink, refused in (("one", {}), ("two", {1: "too big"})):
        await store.delivered(sink, await store.undelivered(sink, 1), Written(refused=refused))
    (details,) = await store.task_details("a")
    assert (details.kind, details.record, details.polls) == (Kind.CANCELED, settled.record, 2)
    assert details.poll_log == (poll(1.0), last)
    assert details.deliveries == {"one": "delivered", "two": "dead: too big", "three": "undelivered"}


async def test_a_known_request_time_stays_when_a_poll_has_none(store: Store) -> None:
    await feed(store, "a")
    for requested_at in (7.0, None):
        (a,) = await store.claim("main", 1)
        await store.record([running(a, 0.0, requested_at=requested_at)])
    assert [details.requested_at for details in await store.task_details("a")] == [7.0]


async def test_an_id_has_details_in_each_account_that_has_it_and_in_no_other(store: Store) -> None:
    await feed(store, "a", account="two")
    await feed(store, "a", account="one")
    assert [details.account for details in await store.task_details("a")] == ["one", "two"]
    assert list(await store.task_details("A")) == []


async def test_a_reader_returns_the_same_details_and_knowledge(open_kept: Open, kept_url: str) -> None:
    store = await open_kept()
    await feed(store, "a")
    store.save_knowledge("main", b"much")
    await store.flush()
    await asyncio.sleep(2)
    reader = await read_store(kept_url)
    assert await reader.task_details("a") == await store.task_details("a") != []
    assert await reader.knowledge("main") == b"much"
    await reader.close()


async def test_knowledge_is_readable_at_once_and_survives_its_process(open_kept: Open) -> None:
    store = await open_kept()
    assert await store.knowledge("main") is None
    for knowledge in (b"little", b"more"):
        store.save_knowledge("main", knowledge)
        assert await store.knowledge("main") == knowledge
    await asyncio.sleep(2)
    store.save_knowledge("main", b"all")
    store.save_knowledge("other", b"else")
    await store.close()
    store = await open_kept()
    assert (await store.knowledge("main"), await store.knowledge("other")) == (b"all", b"else")


@pytest.mark.parametrize("spans_s", [0.5, 1.5])
async def test_knowledge_is_stored_within_a_second_or_with_the_next_commit(
    open_kept: Open, kept_url: str, clock: Clock, spans_s: float
) -> None:
    store = await open_kept()
    store.save_knowledge("main", b"much")
    await asyncio.sleep(spans_s)
    if spans_s < 1:
        await store.flush()
    reader = await read_store(kept_url)
    assert await reader.knowledge("main") == b"much"
    await reader.close()
