"""The commands beside `run`: what a state holds, whether a file agrees with it, and bringing records once more."""

import asyncio
import os
import random
import sys
import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import datetime
from pathlib import Path

import orjson

from poller.cli.commands import healthcheck as pulse
from poller.config import Settings, address_of
from poller.core import log as logs
from poller.core.errors import ConfigError, Exit, InputError
from poller.core.model import Delivery, Retry, Selection
from poller.core.protocols import Clock, Sink, Store
from poller.core.record import decode
from poller.core.text import redacted_url
from poller.engine import DeliveryLoop
from poller.engine.metrics import Metrics
from poller.reports.ledger import imbalances, summary
from poller.reports.verify import compare
from poller.sinks import SinkEnvironment, make_sink, make_sinks, written_files
from poller.sinks.files.csv_lines import CSV
from poller.store import StateReader, last_beat, open_store, read_store

PAGE = 1000  # records read at a time


@asynccontextmanager
async def reading(settings: Settings) -> AsyncIterator[StateReader]:
    """Open the state for reading only, also while its owner runs."""
    reader = await read_store(settings.state)
    try:
        yield reader
    finally:
        await reader.close()


# --- polling ---------------------------------------------------------------------------------------------------------


async def print_status(settings: Settings) -> Exit:
    """Print the ledger and the pauses of a state, which may be in use."""
    async with reading(settings) as store:
        sums = await store.sums()
    sys.stdout.write(summary(sums) + "\n")
    return Exit.INTERNAL if imbalances(sums) else Exit.ALL_COMPLETE


async def print_rejected(settings: Settings) -> Exit:
    """Print every rejected input line as a JSON object a line."""
    async with reading(settings) as store:
        for source, rejection in await store.rejections():
            _print_json(
                {"source": source, "line": rejection.line, "reason": rejection.reason, "excerpt": rejection.excerpt}
            )
    return Exit.ALL_COMPLETE


async def print_dead(settings: Settings) -> Exit:
    """Print every dead letter, with its record, as a JSON object a line."""
    async with reading(settings) as store:
        for letter in await store.dead_letters():
            _print_json(
                {
                    "sink": letter.sink,
                    "reason": letter.reason,
                    "refused_at": letter.refused_at,
                    "record": orjson.Fragment(letter.delivery.body),
                }
            )
    return Exit.ALL_COMPLETE


def _print_json(fields: Mapping[str, object]) -> None:
    sys.stdout.write(orjson.dumps(fields).decode() + "\n")


def sign_of_life(settings: Settings, max_age_s: float, url: str | None = None) -> tuple[str, bool]:
    """Return what to say of the run that owns the state, or that serves `url`, and whether it is alive.

    Its server is asked where there is one; else, or where that is another run's, its latest beat must not be older than
    `max_age_s`.
    """
    if url is not None:
        said, answered_by = pulse.ask(url)
        return said, answered_by is not None
    beat = last_beat(settings.state)
    if beat is None:
        return f"no run is at work on {redacted_url(settings.state)}", False
    pid, at = beat
    address = address_of(settings.listen)
    if address is not None and address.port:
        said, answered_by = pulse.ask(f"http://{address.near()}")
        if answered_by == pid:
            return said, True
    age_s = time.time() - at
    return f"process {pid} showed life {age_s:.0f} s ago", age_s <= max_age_s


# --- verifying -------------------------------------------------------------------------------------------------------


async def verify(settings: Settings, files: Sequence[Path]) -> Exit:
    """Prove that the files, read one after the other, hold each finished task's record exactly once and nothing else.

    Prints each difference; exit code 1 where there are any. Raises `InputError` where a file cannot be read.
    """
    async with reading(settings) as store:
        compared = await compare(lines_of(files), records_of(store))
        finished = set()
        if suspects := compared.suspects():
            finished = {who async for record in records_of(store) if (who := _identity(record)) in suspects}
        pruned = (await store.sums()).pruned
    if pruned and not compared.is_equal:
        sys.stdout.write(f"{pruned:,} outcomes are past their retention: their lines cannot be checked any more\n")
    for difference in compared.differences(finished):
        sys.stdout.write(difference + "\n")
    verdict = "equal" if compared.is_equal else "DIFFERENT"
    sys.stdout.write(f"{compared.lines:,} lines, {compared.records:,} finished tasks: {verdict}\n")
    return Exit.ALL_COMPLETE if compared.is_equal else Exit.NOT_ALL_COMPLETE


def lines_of(files: Sequence[Path]) -> Iterator[bytes]:
    """Yield the lines of the files, without their line breaks. Raises `InputError` for one that cannot be read."""
    for path in files:
        yield from _lines_of_one(path)


def _lines_of_one(path: Path) -> Iterator[bytes]:
    """A pattern such as `finished-%Y%m%d.jsonl` stands for all files that were written by it."""
    for file_path in written_files(path) if "%" in path.name else [path]:
        try:
            with file_path.open("rb") as file:
                if file.peek().startswith(CSV.header):
                    raise InputError(f"{file_path} is a csv sink's: its rows are not whole records; name a jsonl file")
                for line in file:
                    yield line.removesuffix(b"\n")
        except OSError as error:
            raise InputError(f"cannot read {file_path}: {error.strerror}") from None


async def records_of(store: StateReader) -> AsyncIterator[Delivery]:
    """Yield every kept record in the order in which they finished."""
    after = 0
    while page := await store.records(after, PAGE):
        for record in page:
            yield record
        after = page[-1].number


def _identity(record: Delivery) -> tuple[str, str]:
    return record.account, record.task_id


# --- replaying -------------------------------------------------------------------------------------------------------


async def replay(settings: Settings, spec: str, selection: Selection, clock: Clock = time.time) -> Exit:
    """Bring the selected records to a sink once more, or for the first time.

    A sink that the state knows gets them into its outbox again. One that it does not know gets everything and is
    known from then on; with a selection it gets just that, once, and stays unknown. Raises `ConfigError`, `SinkError`,
    and `StoreLocked` while a run is at work.
    """
    logs.configure(format=settings.log.format, level=settings.log.level, clock=clock)
    async with AsyncExitStack() as stack:
        store = await open_store(settings.state, clock=clock)
        stack.push_async_callback(store.close)
        sink = _sink_of(settings, spec, clock)
        stack.push_async_callback(sink.close)
        known = any(sums.name == sink.name for sums in (await store.sums()).sinks)
        if not known and selection.dead:
            raise ConfigError(f"the state has no dead letters of {sink.name}: it does not know that sink")
        if not known and selection != Selection():
            count = await _export(store, sink, selection)
        else:
            count = await _bring_again(store, sink, selection, known=known, clock=clock)
    sys.stderr.write(f"{count:,} records brought to {sink.name}\n")
    return Exit.ALL_COMPLETE


def _sink_of(settings: Settings, spec: str, clock: Clock) -> Sink:
    """Return the configured sink of that name, with all its options, or else the one that the spec describes."""
    around = SinkEnvironment(
        clock=clock, rng=random.SystemRandom(), environ=os.environ, hidden=settings.secret_variables()
    )
    named = [sink for sink in make_sinks(settings.sinks, around) if sink.name == spec] if settings.sinks else []
    return named[0] if named else make_sink(spec, around)


async def _bring_again(store: Store, sink: Sink, selection: Selection, *, known: bool, clock: Clock) -> int:
    position = (await store.attach_sinks([sink.name]))[sink.name]
    if known:
        await store.replay(sink.name, selection)
    metrics = Metrics()
    loop = DeliveryLoop(sink, store=store, metrics=metrics, clock=clock, give_up_s=None)
    await loop.open(position)
    loop.end()
    await loop.run()
    if loop.stopped_by is not None:
        raise loop.stopped_by
    return metrics.delivered[sink.name]


async def _export(store: Store, sink: Sink, selection: Selection) -> int:
    """Write once to a sink that the state shall not know."""
    await sink.open(None, [])
    count, after = 0, 0
    while page := await store.records(after, PAGE):
        after = page[-1].number
        batch = [record for record in page if _is_selected(record, selection)]
        while batch:
            written = await sink.write(batch)
            if isinstance(written, Retry):
                await asyncio.sleep(written.wait_s)
                continue
            count += len(batch) - len(written.refused)
            break
    return count


def _is_selected(record: Delivery, selection: Selection) -> bool:
    fields = decode(record.body)
    finished_at = datetime.fromisoformat(fields.seen_at).timestamp()
    in_time = selection.since is None or finished_at >= selection.since
    return in_time and (not selection.kinds or fields.kind in selection.kinds)
