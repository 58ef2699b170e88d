"""`poller replay`: delivers finished tasks to a sink again, or to a new one."""

import os
import time
from typing import Annotated

import typer

from poller.cli import completion
from poller.cli.options import Config, Settings, Since, State, instant_of, run_async, settings_of
from poller.core.deliveries import Selection
from poller.core.errors import Exit, StoreLocked
from poller.core.model import Kind
from poller.core.protocols import Clock
from poller.core.text import redacted_url

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
    """Deliver the selected records to a sink again, or for the first time; print how many."""
    from poller.app.replay import deliver_again
    from poller.core import log as logs

    logs.configure(format=settings.log.format, level=settings.log.level, clock=clock)
    replayed = await deliver_again(settings, spec, selection, environ=os.environ, clock=clock)
    typer.echo(f"{replayed.delivered:,} records delivered to {replayed.sink}", err=True)
    if replayed.refused:
        typer.echo(
            f"poller: {replayed.refused:,} records refused by {replayed.sink}: see sink.refused in the log", err=True
        )
    return Exit.NOT_ALL_COMPLETE if replayed.refused else Exit.ALL_COMPLETE
