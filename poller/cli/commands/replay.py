"""`poller replay`: delivers finished tasks to a sink again, or to a new one."""

import os
import random
import time
from contextlib import AsyncExitStack
from datetime import datetime
from enum import Enum, auto
from typing import TYPE_CHECKING, Annotated

import typer

from poller.cli import completion
from poller.cli.options import Config, Settings, Since, State, instant_of, run_async, settings_of
from poller.core.deliveries import Delivery, Retry, Selection
from poller.core.errors import ConfigError, Exit, SinkError, StoreLocked
from poller.core.model import Kind
from poller.core.protocols import Clock, Sink, Store
from poller.core.text import redacted_url

if TYPE_CHECKING:
    from poller.engine import DeliveryLoop

EXAMPLES = "\b\nExample:\n  poller replay --sink jsonl:failed.jsonl --kind canceled --kind not_found"


def replay(
    sink: Annotated[str, typer.Option(metavar="SPEC", help="The sink.", autocompletion=completion.sinks)],
    since: Since = None,
    kind: Annotated[
        list[Kind] | None,
        typer.Option(metavar="KIND", help="Of this kind; repeatable.", autocompletion=completion.kinds),
    ] = None,
    dead: Annotated[bool, typer.Option("--dead", help="Only the dead letters of this sink.")] = False,
    config: Config = None,
    state: State = None,
) -> Exit:
    """Deliver finished tasks to a sink again, or to a new one. While a poller is running on the state, only with
    --dead.

    A known sink gets them again. A new one gets all of them and is known from then on; with --since or --kind it gets
    only those, once. A jsonl or csv file never gets a record twice: name a new one, or delete it to have it written
    again as a whole. A replay that is refused changes nothing.
    """
    if (beat := last_beat_of(settings := settings_of(config, state=state))) is not None:
        return _ask_running(settings, beat, sink, is_dead_only=dead and not (since or kind))
    selection = Selection(since=instant_of(since), kinds=frozenset(map(str, kind or ())), dead=dead)
    return run_async(replay_to(settings, sink, selection))


def last_beat_of(settings: Settings) -> int | None:
    """Return the process that runs on the state."""
    from poller.store import last_beat

    beat = last_beat(settings.state, settings.own_replica)
    return None if beat is None else beat[0]


def _ask_running(settings: Settings, pid: int, sink: str, *, is_dead_only: bool) -> Exit:
    """Have the running poller try dead letters again; anything else needs the state for itself."""
    from poller.cli.running import NotAnswered, ask_run

    if not is_dead_only:
        raise StoreLocked(
            f"process {pid} runs on {redacted_url(settings.state)}, and a replay needs the state for itself. Stop it "
            "first; only dead letters can be tried again meanwhile: --dead without --since and --kind."
        )
    status, answer = ask_run(settings, pid, "/v1/dead-letters/retry", {"sink": sink})
    if status != 200:
        raise NotAnswered(str(answer.get("message", f"the server answered {status}")))
    typer.echo(f"{answer['retried']:,} dead letters are delivered to {sink} again by process {pid}", err=True)
    return Exit.ALL_COMPLETE


async def replay_to(settings: Settings, spec: str, selection: Selection, clock: Clock = time.time) -> Exit:
    """Deliver the selected records to a sink again, or for the first time.

    A sink that the state knows gets them into its outbox again. One that it does not know gets all and is known from
    then on; with a selection it gets only those, once, and stays unknown. Raises `ConfigError`, `SinkError`, and
    `StoreLocked` while a poller is running on the state; the state is then as it was.
    """
    from poller.core import log as logs
    from poller.engine import DeliveryLoop
    from poller.engine.metrics import Metrics
    from poller.store import open_store

    logs.configure(format=settings.log.format, level=settings.log.level, clock=clock)
    async with AsyncExitStack() as stack:
        metrics = Metrics()
        store = await open_store(settings.state, clock=clock)
        stack.push_async_callback(store.close)
        sink = _sink_of(settings, spec, clock)
        loop = DeliveryLoop(sink, store=store, metrics=metrics, clock=clock, give_up_s=None)
        stack.push_async_callback(loop.close)
        known = next((sums for sums in (await store.sums()).sinks if sums.name == sink.name), None)
        if known is None and selection.dead:
            raise ConfigError(f"the state has no dead letters of {sink.name}: it does not know that sink")
        if known is None and selection != Selection():
            delivered, refused = await _export(store, sink, selection)
        else:
            is_stopped_replay = selection == Selection() and known is not None and known.undelivered > 0
            what = _Outbox.AS_IT_IS if known is None else _outbox_for(sink, selection, is_stopped_replay)
            await _deliver_again(store, loop, selection, what)
            delivered, refused = metrics.delivered[sink.name], metrics.dead[sink.name]
    typer.echo(f"{delivered:,} records delivered to {sink.name}", err=True)
    if refused:
        typer.echo(f"poller: {refused:,} records refused by {sink.name}: see sink.refused in the log", err=True)
    return Exit.NOT_ALL_COMPLETE if refused else Exit.ALL_COMPLETE


def _sink_of(settings: Settings, spec: str, clock: Clock) -> Sink:
    """Return the configured sink of that name, with all its options, or else the one that the spec describes."""
    from poller.sinks import SinkEnvironment, make_sink, make_sinks

    hidden = settings.secret_variables()
    environment = SinkEnvironment(clock=clock, rng=random.SystemRandom(), environ=os.environ, hidden=hidden)
    configured = make_sinks(settings.sinks, environment) if settings.sinks else []
    return next((sink for sink in configured if sink.name == spec), None) or make_sink(spec, environment)


class _Outbox(Enum):
    """What a replay does to the sink's outbox before it is delivered."""

    AS_IT_IS = auto()
    REFILLED = auto()
    FROM_START = auto()  # the sink's file is gone: all of it is written again


def _outbox_for(sink: Sink, selection: Selection, is_stopped_replay: bool) -> _Outbox:
    """Return what to do with the outbox of a known sink. Raises `SinkError` where a file would have a record twice."""
    from poller.sinks.files.sink import FileSink

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


async def _deliver_again(store: Store, loop: "DeliveryLoop", selection: Selection, outbox: _Outbox) -> None:
    """Deliver what is in the sink's outbox. What may be refused comes before the first change of the state."""
    name, from_start = loop.sink.name, outbox is _Outbox.FROM_START
    await loop.open(None if from_start else (await store.positions([name]))[name])
    await store.attach_sinks([name])
    if outbox is not _Outbox.AS_IT_IS:
        await store.replay(name, selection, from_start=from_start)
    loop.end()
    await loop.run()
    if loop.stopped_by is not None:
        raise loop.stopped_by


async def _export(store: Store, sink: Sink, selection: Selection) -> tuple[int, int]:
    """Write once to a sink that stays unknown to the state; return how many records it took and refused."""
    import asyncio

    from poller.cli.records import PAGE

    await sink.open(None, [])
    delivered, refused, after = 0, 0, 0
    while page := await store.records(after, PAGE):
        after = page[-1].number
        batch = [record for record in page if _is_selected(record, selection)]
        while batch:
            written = await sink.write(batch)
            if isinstance(written, Retry):
                await asyncio.sleep(written.wait_s)
                continue
            delivered, refused = delivered + len(batch) - len(written.refused), refused + len(written.refused)
            break
    return delivered, refused


def _is_selected(record: Delivery, selection: Selection) -> bool:
    from poller.core.record import decode

    fields = decode(record.body)
    finished_at = datetime.fromisoformat(fields.seen_at).timestamp()
    in_time = selection.since is None or finished_at >= selection.since
    return in_time and (not selection.kinds or fields.kind in selection.kinds)
