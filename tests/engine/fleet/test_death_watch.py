"""A member is dead once its beats are unchanged for a lease by our clock, and in as many of our own turns."""

from collections.abc import Iterable

from poller.engine.fleet.death_watch import DeathWatch
from poller.engine.fleet.times import BeatTimes

LEASE_S = BeatTimes().lease_s


def turns(watch: DeathWatch, beats: Iterable[int], *, every_s: float = 1.0, begin_at: float = 0.0) -> list[float]:
    """Let member 7 show these numbers, one a turn; return at which turns it was dead."""
    found = []
    for turn, number in enumerate(beats):
        now = begin_at + turn * every_s
        if watch.dead({7: number}, now):
            found.append(now)
    return found


def test_a_member_that_beats_is_never_dead() -> None:
    assert turns(DeathWatch(LEASE_S), range(1000)) == []


def test_a_member_that_stopped_is_dead_after_six_seconds() -> None:
    assert turns(DeathWatch(LEASE_S), [1, 2, 3, 3, 3, 3, 3, 3, 3]) == [8.0]


def test_it_is_buried_with_the_beats_that_were_seen() -> None:
    watch = DeathWatch(LEASE_S)
    found = [watch.dead({7: 41, 8: turn}, float(turn)) for turn in range(7)]
    assert found[-1] == {7: 41}


def test_one_beat_begins_the_lease_again() -> None:
    assert turns(DeathWatch(LEASE_S), [3, 3, 3, 3, 3, 3, 4, 4, 4, 4, 4, 4]) == []


def test_a_server_that_stood_still_for_all_buries_no_one() -> None:
    """Our turns stood still, too: the first one after it sees old numbers, and the members need a moment to beat."""
    watch = DeathWatch(LEASE_S)
    assert turns(watch, [5, 6]) == []
    assert turns(watch, [6, 6, 7, 8], begin_at=120.0) == []


def test_fast_turns_do_not_shorten_the_lease() -> None:
    assert turns(DeathWatch(LEASE_S), [3] * 60, every_s=0.1) == []


def test_slow_turns_lengthen_it() -> None:
    assert turns(DeathWatch(LEASE_S), [3] * 7, every_s=4.0) == [24.0]


def test_a_member_that_is_gone_is_forgotten() -> None:
    watch = DeathWatch(LEASE_S)
    assert turns(watch, [3] * 5) == []
    watch.dead({}, 5.0)
    assert turns(watch, [3] * 6, begin_at=6.0) == []
