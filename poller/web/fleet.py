"""The fleet as any of its members shows it: each member publishes what only it knows, every few seconds.

Counts of tasks come from the state; lanes, pauses and the readiness of sinks from their owner's latest status.
"""

import os
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from msgspec import Struct, ValidationError
from msgspec.json import decode, encode
from msgspec.structs import replace

from poller.core.fleet import FleetView, Member, Published
from poller.core.protocols import Clock
from poller.core.sums import SinkSums
from poller.engine import Service
from poller.engine.fleet.balance import Seat, unserved
from poller.engine.fleet.member import FleetMember
from poller.engine.fleet.turns import differing
from poller.engine.metrics import Metrics
from poller.web.dashboard.snapshot import FleetSnapshot, LaneView, MemberView, lane_view
from poller.web.health import SinkReadiness, sink_readiness

FRESH_S = 1.0  # the age up to which a reading is reused
STALE_S = 6.0  # an older status is shown as such


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
        """The accounts that any member's settings name."""
        view = self._view()
        return frozenset() if view is None else frozenset().union(*(member.serves for member in view.members))

    async def read(self) -> FleetReading | None:
        """Return the fleet as of now, or up to a second ago; None before this member's first turn."""
        view = self._view()
        if view is not None and not 0 <= self._clock() - self._read_at < FRESH_S:
            published = await self._member.membership.published()
            self._latest, self._read_at = reading(view, published), self._clock()
        return self._latest


def member_status(
    service: Service, metrics: Metrics, *, url: str | None, due: Mapping[str, float | None], polls_per_s: float
) -> bytes:
    """Return what this member publishes."""
    lanes = [
        lane_view(name, each.state, due_at=due.get(name), reading=each, timing=lane.timing, imports=lane.imports)
        for name, lane in service.lanes.items()
        for each in [lane.gate.reading()]
    ]
    status = MemberStatus(
        pid=os.getpid(),
        url=url,
        polls=metrics.polls,
        polls_per_s=round(polls_per_s, 3),
        lanes=lanes,
        sinks={loop.sink.name: sink_readiness(loop) for loop in service.delivery_loops},
        delivered=[metrics.sink(loop.sink.name) for loop in service.delivery_loops],
    )
    return encode(status)


def reading(view: FleetView, published: Iterable[Published]) -> FleetReading:
    """Return what the view and the published statuses show together."""
    ages_s = {each.member: each.age_s for each in published}
    statuses = {each.member: status for each in published if (status := _decoded(each.body)) is not None}
    snapshot = FleetSnapshot(
        members=[_member_view(member, view, statuses.get(member.id), ages_s.get(member.id)) for member in view.members],
        unowned=sorted(account for account, owner in view.owners.items() if owner is None),
        unserved=unserved(_seats(view.members), view.owners),
        settings_differ=differing({member.name: member.settings for member in view.members}),
    )
    names = {member.id: member.name for member in view.members if member.id != view.me}
    fresh = {names[id_]: status for id_, status in statuses.items() if id_ in names and ages_s[id_] <= STALE_S}
    return FleetReading(snapshot=snapshot, others=fresh)


def lanes_of_others(others: Mapping[str, MemberStatus], own: Collection[str]) -> list[LaneView]:
    """Return the lanes of the other members, each with its replica's name, but for accounts that are `own` now."""
    found = {lane.account: (replica, lane) for replica, status in others.items() for lane in status.lanes}
    return [replace(lane, replica=replica) for account, (replica, lane) in sorted(found.items()) if account not in own]


def _seats(members: Sequence[Member]) -> list[Seat]:
    return [Seat(member=each.id, serves=each.serves, is_draining=each.is_draining) for each in members]


def _decoded(body: bytes) -> MemberStatus | None:
    """Return a status; None where another version wrote it in another shape."""
    try:
        return decode(body, type=MemberStatus)
    except ValidationError:
        return None


def _member_view(member: Member, view: FleetView, status: MemberStatus | None, age_s: float | None) -> MemberView:
    return MemberView(
        replica=member.name,
        host=member.host,
        pid=member.pid,
        is_this=member.id == view.me,
        is_draining=member.is_draining,
        accounts=sum(owner == member.id for owner in view.owners.values()),
        sinks=sorted(place.name for place in view.sinks if place.owner == member.id),
        polls_per_s=None if status is None else status.polls_per_s,
        status_age_s=None if age_s is None else round(age_s, 1),
        is_stale=age_s is None or age_s > STALE_S,
        url=None if status is None else status.url,
    )
