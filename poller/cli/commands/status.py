"""`poller status`: the ledger of a state, once or every few seconds, and what it rejected; also during a run."""

import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Annotated, NamedTuple

import typer
from msgspec.json import encode

from poller.cli.options import AsJson, Config, Settings, State, run_async, settings_of
from poller.core.errors import Exit
from poller.core.learned_limit import LearnedLimit
from poller.core.protocols import Clock
from poller.core.sums import Sums
from poller.core.text import NO_RUN
from poller.reports.fleet import FleetSnapshot, fleet_snapshot, fleet_text
from poller.reports.ledger import imbalances, summary
from poller.reports.row import unsure_text

if TYPE_CHECKING:
    from poller.core.protocols import StateReader
    from poller.core.search import FoundTask
    from poller.core.starts import ImportsReading
    from poller.reports.slowest import Slowest

EXAMPLES = "\b\nExamples:\n  poller status --state sqlite:///poller.db --rejected\n  poller status --json | jq .waiting"
EVERY_S = 2.0
UNSURE_READ = 500  # rows, in the order in which they were fed: the first are the next ones
IDLE_RATIO = 4  # --watch waits at least this many times as long as the state took to count


def status(
    config: Config = None,
    state: State = None,
    as_json: AsJson = False,
    watch: Annotated[
        bool, typer.Option("--watch", help="A live view until Ctrl-C; lines where there is no terminal.")
    ] = False,
    rejected: Annotated[bool, typer.Option("--rejected", help="List the rejected input lines as JSON lines.")] = False,
    dead: Annotated[bool, typer.Option("--dead", help="List the dead letters of sinks as JSON lines.")] = False,
) -> Exit:
    """Print the ledger, also during a run.

    It has what was fed, what has its outcome, what is delivered, and why an account is paused.

    Exit code 70 where the ledger does not balance.
    """
    if sum((watch, rejected, dead)) > 1:
        raise typer.BadParameter("give one of --watch, --rejected and --dead")
    settings = settings_of(config, state=state)
    if rejected or dead:
        return run_async(print_refused(settings, dead=not rejected))
    if watch:
        with suppress(KeyboardInterrupt):
            run_async(watch_status(settings, as_json=as_json))
        return Exit.ALL_COMPLETE
    return run_async(print_status(settings, as_json=as_json))


async def print_status(settings: Settings, *, as_json: bool, clock: Clock = time.time) -> Exit:
    """Print the ledger and the pauses, as text or as one JSON object. Exit code 70 where it does not balance."""
    from poller.cli.records import is_worked_on, open_state

    async with open_state(settings) as store:
        sums = await store.sums()
        fleet, unsure = await _fleet(store), await _unsure(store, sums)
    if as_json:
        typer.echo(_json(settings, sums, clock(), fleet))
    else:
        parts = [summary(sums)]
        parts += [unsure_text(unsure, clock(), is_repeated=settings.imports.unsure == "repeat")] if unsure else []
        parts += [] if fleet is None else [fleet_text(fleet)]
        parts += [NO_RUN] if sums.waiting and not is_worked_on(settings) else []
        typer.echo("\n".join(parts))
    return Exit.INTERNAL if imbalances(sums) else Exit.ALL_COMPLETE


async def watch_status(
    settings: Settings, *, as_json: bool, clock: Clock = time.time, every_s: float = EVERY_S
) -> None:
    """Show the state every few seconds until interrupted: a live view on a terminal, else one line each time."""
    import asyncio

    from poller.cli.watch import LiveView
    from poller.reports.status import status_line
    from poller.store import last_beat

    view = LiveView.on_stdout() if sys.stdout.isatty() and not as_json else None
    began: tuple[float, int] | None = None
    try:
        while True:
            started_at = clock()
            sums, fleet, limits, slowest, trials, unsure = await _watched(settings, clock())
            beat = last_beat(settings.state, settings.own_replica)
            if view is not None:
                view.show(sums, limits, beat, clock(), slowest, fleet, trials, unsure)
            elif as_json:
                typer.echo(_json(settings, sums, clock(), fleet))
            else:
                is_running = beat is not None or bool(fleet and fleet.members)
                line = status_line(
                    sums, now=clock(), before=began, is_running=is_running, fleet=fleet, unsure_until=unsure
                )
                typer.echo(line)
            began = began or (clock(), sums.finished)
            await asyncio.sleep(max(every_s, IDLE_RATIO * (clock() - started_at)))
    except BrokenPipeError:
        pass
    finally:
        if view is not None:
            view.leave()


async def print_refused(settings: Settings, *, dead: bool) -> Exit:
    """Print every rejected input line, or every dead letter with its record, as a JSON object a line."""
    import orjson

    from poller.cli.records import open_state
    from poller.core.timestamps import iso

    rows: list[dict[str, object]]
    async with open_state(settings) as store:
        if dead:
            rows = [
                {"sink": each.sink, "reason": each.reason, "refused_at": iso(each.refused_at)}
                | {"record": orjson.Fragment(each.delivery.body)}
                for each in await store.dead_letters(with_bodies=True)
            ]
        else:
            rows = [
                {"source": source, "line": each.line, "reason": each.reason, "excerpt": each.excerpt}
                for source, each in await store.rejections()
            ]
    sys.stdout.writelines(orjson.dumps(row).decode() + "\n" for row in rows)
    return Exit.ALL_COMPLETE


async def _unsure(store: "StateReader", sums: Sums) -> "Sequence[FoundTask]":
    """Return the first rows whose start got no answer."""
    from poller.core.search import TaskFilter

    if sums.starts is None or sums.starts.unsure == 0:
        return ()
    return (await store.find_tasks(TaskFilter(state="unsure"), after=0, limit=UNSURE_READ)).tasks


async def _fleet(store: "StateReader") -> FleetSnapshot | None:
    view = await store.fleet_view()
    return None if view is None else fleet_snapshot(view, await store.fleet_published())


class Watched(NamedTuple):
    """What `--watch` shows of a state."""

    sums: Sums
    fleet: FleetSnapshot | None  # None: one process owns the state, or none
    limits: Mapping[str, LearnedLimit]  # by account: what HubSpot's answers showed
    slowest: "Slowest | None"  # until when the slowest task may take
    trials: "Mapping[str, ImportsReading]"  # by account: the rows of an import on trial
    unsure_until: float | None  # when the first row whose start got no answer is due


async def _watched(settings: Settings, now: float) -> Watched:
    from poller.cli.records import open_state
    from poller.reports.slowest import limits_in, slowest_in, trials_in

    async with open_state(settings) as store:
        sums, fleet = await store.sums(), await _fleet(store)
        limits = await limits_in(store, sums.accounts)
        deadline_s, timings = settings.longest_deadline_s, settings.timing_keys
        slowest = await slowest_in(store, sums, timings=timings, deadline_s=deadline_s, now=now)
        trials, unsure = await trials_in(store, sums), await _unsure(store, sums)
    unsure_until = min((row.due_at for row in unsure), default=None)
    return Watched(sums, fleet, limits, slowest, trials, unsure_until)


def _json(settings: Settings, sums: Sums, now: float, fleet: FleetSnapshot | None = None) -> str:
    from poller.reports.status import ledger_view
    from poller.store import last_beat

    differences = [str(imbalance) for imbalance in imbalances(sums)]
    fields = ledger_view(
        sums, differences=differences, heartbeat=last_beat(settings.state, settings.own_replica), now=now, fleet=fleet
    )
    return encode(fields).decode()
