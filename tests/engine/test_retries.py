"""Failed rows that are started again."""

import asyncio
from random import Random

from poller.core.model import Chunk, FedRow, Finished, Kind, Position, Settled
from poller.core.protocols import Clock, Store
from poller.core.record import render
from poller.core.starts import Begin
from poller.engine import Service
from poller.engine.metrics import Metrics
from poller.engine.retries import Retries
from poller.store import open_store

FAILED = Finished(status="COMPLETE", num_errors=1, errors=b'[{"message":"503"}]', has_errors=True)


async def test_another_attempt_sends_what_the_latest_one_sent(clock: Clock) -> None:
    """A person had corrected the row: the first attempt's body would put the file where it was not wanted."""
    store = await open_store("sqlite:///:memory:", clock=clock)
    service = Service(store=store, metrics=Metrics(), clock=clock, endless=False, shutdown_s=30)
    retries = Retries(
        "main", service=service, store=store, most=2, is_worth_it=lambda _: True, clock=clock, rng=Random(1)
    )
    await attempt(store, b'{"folderPath":"/wrong"}', "T1", clock)
    settled = await attempt(store, b'{"folderPath":"/right"}', "T2", clock)
    assert settled.record is not None
    retries.on_recorded([settled.record])
    retries.end()
    await retries.run()
    await asyncio.sleep(2000)
    (row,) = await store.starts.claim("main", 9)
    assert (row.row, row.body) == ("a~3", b'{"folderPath":"/right"}')
    await store.close()


async def attempt(store: Store, body: bytes, task_id: str, clock: Clock) -> Settled:
    """Feed the row with this body, start it, and have it fail."""
    fed = FedRow(account="main", row="a", body=body, ref=b"{}")
    chunk = Chunk(fed=(), rows=(fed,), rejected=(), blank=0, position=Position())
    await store.add(await store.new_source("rows"), chunk)
    (row,) = await store.starts.claim("main", 1)
    sent = await store.starts.intend(row, sent_at=clock(), due_at=clock() + 600)
    assert await store.starts.settle(sent, Begin(task_id=task_id))
    (task,) = await store.claim("main", 1)
    settled = Settled(task=task, record=render(task, FAILED, Kind.COMPLETE_WITH_ERRORS, seen_at=clock()))
    await store.record([settled])
    return settled
