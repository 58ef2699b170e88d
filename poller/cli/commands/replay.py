"""`poller replay`: delivers finished tasks to a sink again, or to a new one."""

import os
import time
from typing import TYPE_CHECKING, Annotated

import typer

from poller.cli import completion
from poller.cli.options import Config, Settings, Since, State, instant_of, run_async, settings_of
from poller.core.deliveries import Selection
from poller.core.errors import Exit, StoreLocked
from poller.core.model import Kind
from poller.core.protocols import Clock
from poller.core.text import counted, redacted_url

if TYPE_CHECKING:
    from poller.app.replay import Replayed

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
    --dead; beside a fleet without that limit.

    A known sink gets them again. A new one gets all of them and is known from then on; with --since or --kind it gets
    only those, once. A jsonl or csv file never gets a record twice: name a new one, or delete it to have it written
    again as a whole. A replay that is refused changes nothing.
    """
    from poller.app.fleet_replay import has_fleet
    from poller.store import POSTGRES

    settings = settings_of(config, state=state)
    is_beside = settings.state.startswith(POSTGRES) and run_async(has_fleet(settings))
    if not is_beside and (beat := last_beat_of(settings)) is not None:
        return _ask_running(settings, beat, sink, is_dead_only=dead and not (since or kind))
    selection = Selection(since=instant_of(since), kinds=frozenset(map(str, kind or ())), dead=dead)
    if is_beside:
        return run_async(replay_beside_fleet(settings, sink, selection))
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
    status, answer = run_async(ask_run(settings, pid, "/v1/dead-letters/retry", {"sink": sink}))
    if status != 200:
        raise NotAnswered(str(answer.get("message", f"the server answered {status}")))
    letters = counted(answer["retried"], "dead letter is", "dead letters are")
    typer.echo(f"{letters} delivered to {sink} again by process {pid}", err=True)
    return Exit.ALL_COMPLETE


async def replay_to(settings: Settings, spec: str, selection: Selection, clock: Clock = time.time) -> Exit:
    """Deliver the selected records to a sink again, or for the first time; print how many."""
    from poller.app.replay import deliver_again
    from poller.core import log as logs

    logs.configure(format=settings.log.format, level=settings.log.level, clock=clock)
    return _conclude(await deliver_again(settings, spec, selection, environ=os.environ, clock=clock))


async def replay_beside_fleet(settings: Settings, spec: str, selection: Selection, clock: Clock = time.time) -> Exit:
    """As `replay_to`, but a sink of the fleet gets the records from the replica that delivers it."""
    from poller.app.fleet_replay import LeftToFleet, deliver_beside
    from poller.core import log as logs

    logs.configure(format=settings.log.format, level=settings.log.level, clock=clock)
    replayed = await deliver_beside(settings, spec, selection, environ=os.environ, clock=clock)
    if not isinstance(replayed, LeftToFleet):
        return _conclude(replayed)
    by = "the replica that takes it next" if replayed.replica is None else f"replica {replayed.replica}"
    typer.echo(
        f"{counted(replayed.records, 'record is', 'records are')} delivered to {replayed.sink} again by {by}", err=True
    )
    return Exit.ALL_COMPLETE


def _conclude(replayed: "Replayed") -> Exit:
    typer.echo(f"{counted(replayed.delivered, 'record')} delivered to {replayed.sink}", err=True)
    if replayed.refused:
        typer.echo(
            f"poller: {counted(replayed.refused, 'record')} refused by {replayed.sink}: see sink.refused in the log",
            err=True,
        )
    return Exit.NOT_ALL_COMPLETE if replayed.refused else Exit.ALL_COMPLETE
