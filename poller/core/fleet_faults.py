"""What is wrong between the members of a fleet: accounts that none serves, settings that differ. Pure."""

from collections.abc import Mapping

from poller.core.fleet import FleetView


def unserved(view: FleetView) -> list[str]:
    """Return the accounts of the state that the settings of no member name that is not draining."""
    served = frozenset().union(*(member.serves for member in view.members if not member.is_draining))
    return sorted(view.owners.keys() - served)


def differing(settings: Mapping[str, Mapping[str, object]]) -> list[str]:
    """Return the names of settings that are not the same for all members that have them. `settings`: each member's, by
    name."""
    names = {name for each in settings.values() for name in each}
    return sorted(name for name in names if len({repr(each[name]) for each in settings.values() if name in each}) > 1)
