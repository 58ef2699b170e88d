"""`poller replay` beside a fleet at work: the replica that delivers a sink delivers to it again, a new sink gets its
records from this process. No replica stops.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from poller.app.replay import Replayed, export, sink_of
from poller.config import Settings
from poller.core.deliveries import Selection
from poller.core.errors import ConfigError
from poller.core.protocols import Clock
from poller.store import StateReader, read_store, replay_beside


@dataclass(frozen=True, slots=True, kw_only=True)
class LeftToFleet:
    """Records that are in the outbox of a sink again: a replica delivers them."""

    sink: str
    replica: str | None  # that delivered the sink until now
    records: int


async def has_fleet(settings: Settings) -> bool:
    """Return whether any replica is at work on the state, which is in PostgreSQL."""
    reader = await read_store(settings.state)
    try:
        view = await reader.fleet_view()
        return view is not None and bool(view.members)
    finally:
        await reader.close()


async def deliver_beside(
    settings: Settings, spec: str, selection: Selection, *, environ: Mapping[str, str], clock: Clock
) -> Replayed | LeftToFleet:
    """Have the selected records delivered to a sink of the fleet again, or write them once to one that the state does
    not know. Raises `ConfigError`, `SinkError`, `StoreError`; the state is then as it was."""
    reader = await read_store(settings.state)
    try:
        sink = sink_of(settings, spec, environ, clock)
        if sink.name not in {each.name for each in (await reader.sums()).sinks}:
            return await _export(reader, settings, spec, selection, environ=environ, clock=clock)
        replica = await _replica_of(reader, sink.name)  # before it hears of the replay, and leaves the sink to any
        records = await replay_beside(settings.state, sink.name, selection)
        return LeftToFleet(sink=sink.name, replica=replica, records=records)
    finally:
        await reader.close()


async def _export(
    reader: StateReader,
    settings: Settings,
    spec: str,
    selection: Selection,
    *,
    environ: Mapping[str, str],
    clock: Clock,
) -> Replayed:
    sink = sink_of(settings, spec, environ, clock)
    if selection.dead:
        raise ConfigError(f"the state has no dead letters of {sink.name}: it does not know that sink")
    try:
        delivered, refused = await export(reader, sink, selection)
    finally:
        await sink.close()
    return Replayed(sink=sink.name, delivered=delivered, refused=refused)


async def _replica_of(reader: StateReader, sink: str) -> str | None:
    view = await reader.fleet_view()
    if view is None:
        return None
    owner = next((place.owner for place in view.sinks if place.name == sink), None)
    return next((member.name for member in view.members if member.id == owner), None)
