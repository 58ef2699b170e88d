"""The members of a fleet, for people and programs. Pure."""

from collections.abc import Iterable

from msgspec import Struct, ValidationError
from msgspec.json import decode

from poller.core.fleet import FleetView, Member, Published
from poller.core.fleet_faults import differing, unserved
from poller.core.text import counted, printable

MEMBER_STATES = ("at_work", "stopping", "no_news")
STALE_S = 6.0  # an older status is shown as such


class MemberView(Struct, frozen=True, kw_only=True):
    """A member of a fleet, for people."""

    replica: str
    host: str
    pid: int
    is_this: bool  # the one that answers
    is_draining: bool
    accounts: int  # that it owns
    sinks: list[str]  # that it delivers to
    polls_per_s: float | None  # None: it has published nothing yet
    status_age_s: float | None
    is_stale: bool  # its latest status is old
    url: str | None  # of its page


class FleetSnapshot(Struct, frozen=True, kw_only=True):
    """All members of a fleet, and what is wrong between them."""

    members: list[MemberView]
    unowned: list[str]  # accounts that no member polls now
    unserved: list[str]  # of these: that no member's settings name
    settings_differ: list[str]  # names of settings that members have with different values
    sinks_away: dict[str, str]  # sinks that wait for their home, and the replica that is it


class _News(Struct, frozen=True):
    """What is read here of a member's published status."""

    polls_per_s: float | None = None
    url: str | None = None


def fleet_snapshot(view: FleetView, published: Iterable[Published]) -> FleetSnapshot:
    """Return the fleet as the state shows it, with what its members published."""
    latest = {each.member: each for each in published}
    names = {member.name for member in view.members}
    away = {place.name: place.home for place in view.sinks if place.home is not None and place.home not in names}
    return FleetSnapshot(
        members=[_member_view(member, view, latest.get(member.id)) for member in view.members],
        unowned=sorted(account for account, owner in view.owners.items() if owner is None),
        unserved=unserved(view),
        settings_differ=differing({member.name: member.settings for member in view.members}),
        sinks_away=away,
    )


def _member_view(member: Member, view: FleetView, published: Published | None) -> MemberView:
    news = _News() if published is None else _news(published.body)
    return MemberView(
        replica=member.name,
        host=member.host,
        pid=member.pid,
        is_this=member.id == view.me,
        is_draining=member.is_draining,
        accounts=sum(owner == member.id for owner in view.owners.values()),
        sinks=sorted(place.name for place in view.sinks if place.owner == member.id),
        polls_per_s=news.polls_per_s,
        status_age_s=None if published is None else round(published.age_s, 1),
        is_stale=published is None or published.age_s > STALE_S,
        url=news.url,
    )


def _news(body: bytes) -> _News:
    """Return what is known of a status; nothing of one that another version wrote in another shape."""
    try:
        return decode(body, type=_News)
    except ValidationError:
        return _News()


def fleet_text(fleet: FleetSnapshot) -> str:
    """Return the fleet as lines for a terminal."""
    return "\n".join(fleet_lines(fleet))


def fleet_lines(fleet: FleetSnapshot) -> list[str]:
    """Return a headline, a line a replica, and a line for each thing that is wrong between them."""
    lines = ["replicas", *(_line(member) for member in fleet.members)]
    if fleet.unserved:
        lines.append(f"  no replica's settings name: {printable(', '.join(fleet.unserved))}")
    elif fleet.unowned:
        lines.append(f"  polled by no replica now: {printable(', '.join(fleet.unowned))}")
    for sink, home in fleet.sinks_away.items():
        lines.append(f"  {printable(sink)} waits for its home, replica {printable(home)}")
    if fleet.settings_differ:
        lines.append(f"  settings differ: {printable(', '.join(fleet.settings_differ[:10]))}")
    return lines


def fleet_words(fleet: FleetSnapshot) -> list[str]:
    """Return the fleet in a few words: how many replicas, and what is wrong."""
    words = [counted(len(fleet.members), "replica")]
    words += [f"{printable(each.replica)}: {state}" for each in fleet.members if (state := _state(each)) != "at work"]
    words += [f"accounts polled by no replica: {len(fleet.unowned):,}"] if fleet.unowned else []
    return words


def _line(member: MemberView) -> str:
    parts = [counted(member.accounts, "account")]
    parts += [] if member.polls_per_s is None else [f"{member.polls_per_s:.3g} polls a second"]
    parts += [f"delivers {printable(', '.join(member.sinks))}"] if member.sinks else []
    parts += [member.url] if member.url else []
    return (
        f"  {printable(member.replica)}: {_state(member)}, {', '.join(parts)}, process {member.pid} on "
        f"{printable(member.host)}"
    )


def member_state(member: MemberView) -> str:
    """Return what a member does: one of `MEMBER_STATES`."""
    at_work, stopping, no_news = MEMBER_STATES
    return stopping if member.is_draining else no_news if member.is_stale else at_work


def _state(member: MemberView) -> str:
    state = member_state(member)
    is_old = state == MEMBER_STATES[-1] and member.status_age_s is not None
    return state.replace("_", " ") + (f" for {member.status_age_s:.0f} s" if is_old else "")
