"""The recorder: what it reports as finished is stored."""

from collections.abc import MutableMapping
from typing import Any

from poller.core.model import Finished, Kind, Record
from poller.core.protocols import Clock
from poller.engine.metrics import Metrics
from poller.engine.recorder import Polled, Recorder
from poller.store import open_store
from tests.support.store_makers import feed, finished


async def test_a_poll_whose_lease_was_lost_is_neither_counted_nor_logged(
    clock: Clock, events: list[MutableMapping[str, Any]]
) -> None:
    store = await open_store("sqlite:///:memory:", clock=clock)
    await feed(store, "kept", "lost")
    kept, lost = await store.claim("main", 2)
    store.release([lost])
    metrics, recorded, committed = Metrics(), list[Record](), list[str]()
    recorder = Recorder("main", store=store, metrics=metrics, on_recorded=recorded.extend)
    for task in (lost, kept):
        outcome = Finished(status="COMPLETE", num_errors=0)
        recorder.add(Polled(outcome=outcome, settled=finished(task), at=0.0))
    recorder.end()
    await recorder.run(
        prepare=lambda: None, on_commit=lambda polled: committed.extend(each.settled.task.task_id for each in polled)
    )
    assert [event["task_id"] for event in events if event["event"] == "task.finished"] == ["kept"]
    assert (committed, len(recorded), metrics.kinds[Kind.COMPLETE]) == (["kept"], 1, 1)
    assert (await store.sums()).finished == 1
    await store.close()


async def test_tasks_that_one_commit_finished_are_passed_on_together(clock: Clock) -> None:
    store = await open_store("sqlite:///:memory:", clock=clock)
    await feed(store, "a", "b", "c")
    together = list[int]()
    recorder = Recorder(
        "main", store=store, metrics=Metrics(), on_recorded=lambda records: together.append(len(records))
    )
    for task in await store.claim("main", 3):
        outcome = Finished(status="COMPLETE", num_errors=0)
        recorder.add(Polled(outcome=outcome, settled=finished(task), at=0.0))
    recorder.end()
    await recorder.run(prepare=lambda: None, on_commit=lambda _: None)
    assert together == [3]
    await store.close()
