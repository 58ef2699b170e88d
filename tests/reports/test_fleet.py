"""The members of a fleet as `poller status` and the page show them."""

from typing import Any

from msgspec.json import encode

from poller.core.fleet import FleetView, Member, Published, SinkPlace
from poller.core.fleet_faults import differing, unserved
from poller.reports.fleet import fleet_snapshot, fleet_text


def member(number: int, **changes: Any) -> Member:
    fields: dict[str, Any] = {
        "id": number,
        "name": f"r{number}",
        "beats": 1,
        "seen_at": 0.0,
        "host": "here",
        "pid": 100 + number,
        "is_draining": False,
        "serves": frozenset({"a", "b"}),
        "settings": {"accounts.a.requests": 100},
        "owns": 1,
        "sinks": frozenset(),
    }
    return Member(**fields | changes)


def view(*members: Member, **owners: int | None) -> FleetView:
    return FleetView(
        me=1,
        members=members,
        mine={},
        owners=owners,
        free=frozenset(name for name, owner in owners.items() if owner is None),
        sinks=(SinkPlace(name="jsonl:x", owner=2, epoch=1, home="r2", is_wanted=True),),
        counts={},
    )


def test_each_member_is_shown_with_what_it_owns_and_published() -> None:
    body = encode({"polls_per_s": 12.5, "url": "http://10.0.0.1:8321/", "new": ["key"]})
    published = [Published(member=1, name="r1", age_s=0.4, body=body)]
    found = fleet_snapshot(view(member(1), member(2), a=1, b=2, c=None), published)
    one, other = found.members
    assert (one.accounts, one.is_this, one.polls_per_s, one.is_stale) == (1, True, 12.5, False)
    assert (other.accounts, other.sinks, other.polls_per_s, other.is_stale) == (1, ["jsonl:x"], None, True)
    assert (found.unowned, found.unserved) == (["c"], ["c"])
    assert fleet_text(found) == (
        "replicas\n"
        "  r1: at work, 1 account, 12.5 polls a second, http://10.0.0.1:8321/, process 101 on here\n"
        "  r2: no news, 1 account, delivers jsonl:x, process 102 on here\n"
        "  no replica's settings name: c"
    )


def test_a_status_of_another_version_is_no_news() -> None:
    published = [Published(member=1, name="r1", age_s=0.4, body=b'{"url": 5}')]
    (one,) = fleet_snapshot(view(member(1)), published).members
    assert one.url is None


def test_accounts_in_no_list_are_named() -> None:
    seen = view(
        member(1, serves=frozenset("ab")), member(2, serves=frozenset("d"), is_draining=True), a=1, b=1, c=1, d=2
    )
    assert unserved(seen) == ["c", "d"]


def test_settings_that_differ_are_named() -> None:
    one, other = {"requests": 100, "window_s": 10.0, "accounts": ["a"]}, {"requests": 90, "accounts": ["a"]}
    assert differing({"r1": one, "r2": other}) == ["requests"]
    assert differing({"r1": one}) == []
    differ = fleet_snapshot(view(member(1), member(2, settings={"accounts.a.requests": 90}), a=1), [])
    assert differ.settings_differ == ["accounts.a.requests"]


def test_a_sink_whose_home_is_away_is_named() -> None:
    assert fleet_snapshot(view(member(1), member(2), a=1), []).sinks_away == {}
    away = fleet_snapshot(view(member(1), a=1), [])
    assert away.sinks_away == {"jsonl:x": "r2"}
    assert "jsonl:x waits for its home, replica r2" in fleet_text(away)
