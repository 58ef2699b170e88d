"""`poller sinks`: which replica of a fleet delivers each sink; moves one whose file a person has moved."""

from typing import TYPE_CHECKING, Annotated

import typer

from poller.cli.options import Config, Settings, State, run_async, settings_of
from poller.core.errors import ConfigError, Exit
from poller.core.text import redacted_url

if TYPE_CHECKING:
    from poller.core.fleet import FleetView, SinkPlace

EXAMPLES = (
    "\b\nExamples:\n  poller sinks --state postgresql://poller@db/poller\n"
    "  poller sinks --state postgresql://poller@db/poller --move jsonl:finished.jsonl --to poller-1"
)


def sinks(
    config: Config = None,
    state: State = None,
    move: Annotated[str | None, typer.Option(metavar="SINK", help="Deliver this sink from another replica.")] = None,
    to: Annotated[str | None, typer.Option(metavar="REPLICA", help="With --move: who has its file.")] = None,
) -> Exit:
    """Print which replica delivers what, or move a sink.

    A file belongs to the first replica that wrote it: while that is away, its records wait. Copy the file to another
    machine, then move the sink.
    """
    if (move is None) != (to is None):
        raise typer.BadParameter("--move and --to belong together: --move jsonl:finished.jsonl --to poller-1")
    settings = settings_of(config, state=state)
    lines = run_async(show(settings) if move is None or to is None else move_to(settings, move, to))
    for line in lines:
        typer.echo(line)
    return Exit.ALL_COMPLETE


async def show(settings: Settings) -> list[str]:
    """Return a line a sink. Raises `ConfigError` where no replica uses the state."""
    view = await _view(settings)
    if view is None:
        raise ConfigError(f"no replica of a fleet uses {redacted_url(settings.state)}. Name another with --state.")
    return [_line(sink, view) for sink in view.sinks]


async def move_to(settings: Settings, sink: str, replica: str) -> list[str]:
    """Move a sink; return the message."""
    from poller.store import move_sink

    before = await move_sink(settings.state, sink, replica)
    if before == replica:
        return [f"{sink} is delivered by {replica} already"]
    lines = [f"{sink} is delivered by {replica} from now on, no more by {before}"]
    view = await _view(settings)
    if view is None or replica not in {member.name for member in view.members}:
        lines.append(f"no replica is named {replica} now: the records of {sink} wait until it starts")
    return lines


async def _view(settings: Settings) -> "FleetView | None":
    from poller.cli.records import open_state

    async with open_state(settings) as reader:
        return await reader.fleet_view()


def _line(sink: "SinkPlace", view: "FleetView") -> str:
    names = {member.id: member.name for member in view.members}
    owner = None if sink.owner is None else names.get(sink.owner)
    where = "any replica" if sink.home is None else f"only {sink.home}"
    wanted = "" if sink.is_wanted else "; no replica names it"
    return f"{sink.name}: delivered by {owner or 'no replica now'} ({where}{wanted})"
