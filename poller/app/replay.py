"""Delivers finished tasks to a sink again, or to a new one: `poller replay`, and `Poller.replay`.

A file never gets a record twice, and what is refused changes nothing.
"""

import asyncio
import random
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import datetime
from enum import Enum, auto

import structlog

from poller.config import Settings
from poller.core.deliveries import Delivery, Retry, Selection, Written
from poller.core.errors import ConfigError, SinkError
from poller.core.protocols import Clock, Sink, StateReader, Store
from poller.core.record import decode
from poller.engine import DeliveryLoop
from poller.engine.metrics import Metrics
from poller.sinks import SinkEnvironment, consumer, make_sink, make_sinks
from poller.sinks.files.sink import FileSink
from poller.store import open_store

log = structlog.get_logger("poller")

PAGE = 1000  # records read at a time


@dataclass(frozen=True, slots=True, kw_only=True)
class Replayed:
    """What a sink took and refused."""

    sink: str
    delivered: int
    refused: int  # dead letters now


async def deliver_again(
    settings: Settings, spec: str, selection: Selection, *, environ: Mapping[str, str], clock: Clock
) -> Replayed:
    """Deliver the selected records to a sink again, or for the first time.

    A sink that the state knows gets them into its outbox again. One that it does not know gets all and is known from
    then on; with a selection it gets only those, once, and stays unknown. Raises `ConfigError`, `SinkError`, and
    `StoreLocked` while a poller is running on the state; the state is then as it was.
    """
    async with AsyncExitStack() as stack:
        metrics = Metrics()
        store = await open_store(settings.state, clock=clock)
        stack.push_async_callback(store.close)
        sink = sink_of(settings, spec, environ, clock)
        loop = DeliveryLoop(sink, store=store, metrics=metrics, clock=clock, give_up_s=None)
        stack.push_async_callback(loop.close)
        sinks = (await store.sums()).sinks
        known = next((sums for sums in sinks if sums.name == sink.name), None)
        if known is None and selection.dead:
            raise ConfigError(f"the state has no dead letters of {sink.name}: it does not know that sink")
        if known is None and selection != Selection():
            delivered, refused = await export(store, sink, selection)
        else:
            is_stopped_replay = selection == Selection() and known is not None and known.undelivered > 0
            what = _Outbox.AS_IT_IS if known is None else _outbox_for(sink, selection, is_stopped_replay)
            await _deliver(store, loop, selection, what, [sums.name for sums in sinks if sums.attached])
            delivered, refused = metrics.delivered[sink.name], metrics.dead[sink.name]
    return Replayed(sink=sink.name, delivered=delivered, refused=refused)


async def take_again(settings: Settings, selection: Selection, *, clock: Clock) -> int:
    """Have the next run on the state yield the selected tasks in its loop again; return how many. Raises
    `StoreLocked` while a poller is running on the state."""
    store = await open_store(settings.state, clock=clock)
    try:
        if all(sums.name != consumer.NAME for sums in (await store.sums()).sinks):
            return 0  # no loop has taken any: the first one gets all
        position = (await store.positions([consumer.NAME]))[consumer.NAME]
        if (taken := consumer.taken_before(position)) is not None:  # by a loop that was killed within its batch
            owed = await store.undelivered(consumer.NAME, taken[1] - taken[0] + 1)
            while batch := [each for each in owed if taken[0] <= each.number <= taken[1]]:
                await store.delivered(consumer.NAME, batch, Written(position=consumer.NOTHING_IN_HAND))
                owed = await store.undelivered(consumer.NAME, taken[1] - batch[-1].number)
        return await store.replay(consumer.NAME, selection)
    finally:
        await store.close()


def sink_of(settings: Settings, spec: str, environ: Mapping[str, str], clock: Clock) -> Sink:
    """Return the configured sink of that name, with all its options, or else the one that the spec describes."""
    hidden = settings.secret_variables()
    environment = SinkEnvironment(clock=clock, rng=random.SystemRandom(), environ=environ, hidden=hidden)
    configured = make_sinks(settings.sinks, environment) if settings.sinks else []
    return next((sink for sink in configured if sink.name == spec), None) or make_sink(spec, environment)


class _Outbox(Enum):
    """What a replay does to the sink's outbox before it is delivered."""

    AS_IT_IS = auto()
    REFILLED = auto()
    FROM_START = auto()  # the sink's file is gone: all of it is written again


def _outbox_for(sink: Sink, selection: Selection, is_stopped_replay: bool) -> _Outbox:
    """Return what to do with the outbox of a known sink. Raises `SinkError` where a file would have a record twice."""
    if not isinstance(sink, FileSink) or selection.dead:
        return _Outbox.REFILLED
    if is_stopped_replay and sink.has_data():
        return _Outbox.AS_IT_IS
    other_file = f"{sink.kind}:{sink.path.with_stem(sink.path.stem + '-2')}"
    if sink.has_data():
        raise SinkError(
            f"{sink.name} contains these records already: a replay would write them twice. Name a new file, such as "
            f"--sink {other_file}; or move the file away, then a replay writes all of it again"
        )
    if selection != Selection():
        raise SinkError(
            f"{sink.path} is gone, and the selected records alone would not be the whole file. Leave out --since and "
            f"--kind to have all of it written again, or name a new file, such as --sink {other_file}"
        )
    return _Outbox.FROM_START


async def _deliver(
    store: Store, loop: DeliveryLoop, selection: Selection, outbox: _Outbox, attached: Sequence[str]
) -> None:
    """Deliver what is in the sink's outbox. What may be refused comes before the first change of the state. The sinks
    of the latest run stay attached: the ledger has what they still lack."""
    name, from_start = loop.sink.name, outbox is _Outbox.FROM_START
    await loop.open(None if from_start else (await store.positions([name]))[name])
    await store.attach_sinks([*attached, name])
    if outbox is not _Outbox.AS_IT_IS:
        await store.replay(name, selection, from_start=from_start)
    loop.end()
    await loop.run()
    if loop.stopped_by is not None:
        raise loop.stopped_by


async def export(store: Store | StateReader, sink: Sink, selection: Selection) -> tuple[int, int]:
    """Write once to a sink that stays unknown to the state; return how many records it took and refused."""
    await sink.open(None, [])
    delivered, refused, after, failed = 0, 0, 0, ""
    while page := await store.records(after, PAGE):
        after = page[-1].number
        batch = [record for record in page if _is_selected(record, selection)]
        while batch:
            written = await sink.write(batch)
            if isinstance(written, Retry):
                if written.reason != failed:
                    failed = written.reason
                    log.warning("sink.failed", sink=sink.name, reason=failed)
                await asyncio.sleep(written.wait_s)
                continue
            delivered, refused = delivered + len(batch) - len(written.refused), refused + len(written.refused)
            break
    return delivered, refused


def _is_selected(record: Delivery, selection: Selection) -> bool:
    fields = decode(record.body)
    finished_at = datetime.fromisoformat(fields.seen_at).timestamp()
    in_time = selection.since is None or finished_at >= selection.since
    return in_time and (not selection.kinds or fields.kind in selection.kinds)
