"""The fleet as any of its members shows it: each member publishes what only it knows, every few seconds.

Counts of tasks come from the state; lanes, pauses and the readiness of sinks from their owner's latest status.
"""

import os
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass

from msgspec import Struct, ValidationError
from msgspec.json import decode, encode
from msgspec.structs import replace

from poller.core.fleet import FleetView, Published
from poller.core.protocols import Clock
from poller.core.sums import SinkSums
from poller.engine import Service
from poller.engine.fleet.member import FleetMember
from poller.engine.metrics import Metrics
from poller.reports.fleet import STALE_S, FleetSnapshot, fleet_snapshot
from poller.web.dashboard.snapshot import LaneView, lane_view
from poller.web.readiness import SinkReadiness, sink_readiness

FRESH_S = 1.0  # the age up to which a reading is reused


class MemberStatus(Struct, frozen=True, kw_only=True):
    """What a member publishes of itself."""

    pid: int
    url: str | None  # of its server
    polls: int  # of this run
    polls_per_s: float
    lanes: list[LaneView]
    sinks: dict[str, SinkReadiness]
    delivered: list[SinkSums]  # of these sinks


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetReading:
    """What one reading of the state shows."""

    snapshot: FleetSnapshot
    others: Mapping[str, MemberStatus]  # by replica, those with a status that is not stale


class FleetReader:
    """Reads the fleet for pages and probes, at most once a second."""

    def __init__(self, member: FleetMember, *, view: Callable[[], FleetView | None], clock: Clock) -> None:
        """`view` returns what the latest turn saw; None before the first."""
        self._member = member
        self._view = view
        self._clock = clock
        self._read_at = float("-inf")
        self._latest: FleetReading | None = None

    @property
    def is_member(self) -> bool:
        """Whether this process may write: it has not been buried."""
        return not self._member.is_fenced

    @property
    def reading(self) -> FleetReading | None:
        """The latest reading."""
        return self._latest

    @property
    def latest(self) -> FleetSnapshot | None:
        """What the latest reading showed."""
        return None if self._latest is None else self._latest.snapshot

    def owner(self, account: str) -> str | None:
        """Return where the account is polled, for people; None where it is not, or here."""
        view = self._view()
        owner = None if view is None else view.owners.get(account)
        if view is None or owner is None or owner == view.me:
            return None
        name = next((member.name for member in view.members if member.id == owner), None)
        url = None if self.latest is None else next((m.url for m in self.latest.members if m.replica == name), None)
        return None if name is None else f"replica {name}{f', {url}' if url else ''}"

    @property
    def accounts(self) -> frozenset[str]:
        """The accounts that any member's settings name: before the first turn, those of our own."""
        view = self._view()
        return self._member.serves.union(*(() if view is None else (member.serves for member in view.members)))

    async def read(self) -> FleetReading | None:
        """Return the fleet as of now, or up to a second ago; None before this member's first turn."""
        view = self._view()
        if view is not None and not 0 <= self._clock() - self._read_at < FRESH_S:
            published = await self._member.membership.published()
            self._latest, self._read_at = reading(view, published), self._clock()
        return self._latest


def member_status(service: Service, metrics: Metrics, *, url: str | None, polls_per_s: float) -> bytes:
    """Return what this member publishes."""
    lanes = [
        lane_view(name, each.state, due_at=lane.due_at, reading=each, timing=lane.timing, imports=lane.imports)
        for name, lane in service.lanes.items()
        for each in [lane.gate.reading()]
    ]
    status = MemberStatus(
        pid=os.getpid(),
        url=url,
        polls=metrics.polls,
        polls_per_s=round(polls_per_s, 3),
        lanes=lanes,
        sinks={loop.sink.name: sink_readiness(loop) for loop in service.deliveries.loops},
        delivered=[metrics.sink(loop.sink.name) for loop in service.deliveries.loops],
    )
    return encode(status)


def reading(view: FleetView, published: Iterable[Published]) -> FleetReading:
    """Return what the view and the published statuses show together."""
    latest = list(published)
    names = {member.id: member.name for member in view.members if member.id != view.me}
    fresh = [each for each in latest if each.member in names and each.age_s <= STALE_S]
    others = {names[each.member]: status for each in fresh if (status := _decoded(each.body)) is not None}
    return FleetReading(snapshot=fleet_snapshot(view, latest), others=others)


def lanes_of_others(others: Mapping[str, MemberStatus], own: Collection[str]) -> list[LaneView]:
    """Return the lanes of the other members, each with its replica's name, but for accounts that are `own` now."""
    found = {lane.account: (replica, lane) for replica, status in others.items() for lane in status.lanes}
    return [replace(lane, replica=replica) for account, (replica, lane) in sorted(found.items()) if account not in own]


def _decoded(body: bytes) -> MemberStatus | None:
    """Return a status; None where another version wrote it in another shape."""
    try:
        return decode(body, type=MemberStatus)
    except ValidationError:
        return None
