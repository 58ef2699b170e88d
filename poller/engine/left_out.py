"""Which accounts of a run have no forecast, and which keep others' rows from being counted."""

from collections.abc import Collection, Mapping

from poller.core.starts import BACKLOG_COUNTED
from poller.engine.lane import Lane


def left_out(lanes: Mapping[str, Lane]) -> set[str]:
    """Return the accounts without which the run is forecast: those that only a person or HubSpot can release; and
    those on trial, where others are not."""
    blocked = {name for name, lane in lanes.items() if lane.gate.state().is_blocked}
    on_trial = {name for name, lane in lanes.items() if lane.imports is not None and lane.imports.trial is not None}
    return blocked | on_trial if lanes.keys() - blocked - on_trial else blocked


def beside_many_rows(names: Collection[str], lanes: Mapping[str, Lane]) -> set[str]:
    """Return those of these accounts that are beside ones with too many rows to count; empty where none has."""
    many = {
        name for name in names if (imports := lanes[name].imports) is not None and imports.unstarted >= BACKLOG_COUNTED
    }
    return set(names) - many if many else set()
