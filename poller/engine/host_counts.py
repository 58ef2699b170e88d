"""Counts what landed by the host that the files come from, in bounded memory."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

from poller.core.columns import Columns, source_file

HOSTS = 500  # counted one by one; others that come later count together

_COLUMNS = Columns()
_origin = re.compile(r"\s*https?://[^/?#]+", re.IGNORECASE).match


@dataclass(slots=True)
class HostCount:
    """The finished tasks of one host; of a row that was tried again, the latest that finished."""

    landed: int = 0
    not_landed: int = 0


class HostCounts:
    """Receives finished tasks, one by one. A row without a URL has no host and is not counted."""

    def __init__(self) -> None:
        self.seen = 0  # tasks, those without a host too
        self.others = HostCount()  # of hosts that came once there were `HOSTS`
        self._hosts: dict[str, HostCount] = {}

    @property
    def hosts(self) -> Mapping[str, HostCount]:
        """The counts of each host."""
        return self._hosts

    def add(self, ref: object, *, landed: bool, is_again: bool = False) -> None:
        """Count a task whose row is `ref`. `is_again`: the row was tried before, and counts by this attempt only."""
        self.seen += 1
        if (host := _host(ref)) is None:
            return
        found = self._hosts.get(host)
        if found is None:
            found = self.others if len(self._hosts) >= HOSTS else self._hosts.setdefault(host, HostCount())
        if is_again and found.not_landed:  # the attempt before may be older than what is counted
            found.not_landed -= 1
            self.seen -= 1
        if landed:
            found.landed += 1
        else:
            found.not_landed += 1

    def counted(self) -> int:
        """Return how many tasks were counted."""
        return sum(each.landed + each.not_landed for each in (*self._hosts.values(), self.others))

    def worst(self, most: int) -> list[tuple[str, HostCount]]:
        """Return the hosts of which most did not land, then those with most tasks."""
        return sorted(self._hosts.items(), key=lambda item: (-item[1].not_landed, -item[1].landed, item[0]))[:most]


def _host(ref: object) -> str | None:
    """Return the host that `source_file` does, in a third of its time."""
    url = _COLUMNS.value(ref, "url") if isinstance(ref, dict) else None
    if not isinstance(url, str):
        return None
    return _host_of(found[0] if (found := _origin(url)) else url)


@lru_cache(maxsize=4096)
def _host_of(url: str) -> str | None:
    return source_file({"url": url}).host
