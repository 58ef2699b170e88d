"""Each member's own moves, made at the same time as those of all others, divide the accounts evenly and then end."""

from collections import Counter
from collections.abc import Collection, Mapping
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from poller.engine.fleet.balance import MOVED_AT_ONCE, Moves, Seat, moves, shares


def accounts(count: int) -> list[str]:
    return [f"a{number:04}" for number in range(count)]


class Fleet:
    """Members that make their moves turn by turn: all read one snapshot, then each takes and gives."""

    def __init__(self, serves: Mapping[int, Collection[str]], owners: Mapping[str, int | None], seed: int = 0) -> None:
        self.seats = {member: Seat(member=member, serves=frozenset(names)) for member, names in serves.items()}
        self.owners = dict(owners)
        self.rng = Random(seed)
        self.most_taken = 0
        self.knows_others = False

    def turn(self) -> int:
        """Return how many accounts moved."""
        seen, order = dict(self.owners), list(self.seats)
        self.rng.shuffle(order)
        moved = 0
        for member in order:
            wanted = self.moves(member, seen)
            taken = 0
            for free, limit in wanted.take:
                for account in [name for name in free if self.owners[name] is None][:limit]:
                    self.owners[account] = member
                    taken += 1
            for account in wanted.give:
                assert self.owners[account] == member
                self.owners[account] = None
            self.most_taken = max(self.most_taken, taken)
            moved += taken + len(wanted.give)
        return moved

    def moves(self, member: int, seen: Mapping[str, int | None]) -> Moves:
        found = shares(member, list(self.seats.values()), seen)
        return moves(found, may_give=True, knows_others=self.knows_others)

    def settle(self) -> int:
        """Return after how many turns nothing moved any more."""
        for turn in range(200):
            if self.turn() == 0:
                return turn
        raise AssertionError("it never ends")

    def holds(self) -> Counter[int | None]:
        return Counter(self.owners.values())


def drained(fleet: Fleet, member: int) -> None:
    fleet.seats[member] = Seat(member=member, serves=fleet.seats[member].serves, is_draining=True)
    for account, owner in fleet.owners.items():
        if owner == member:
            fleet.owners[account] = None


def test_eight_members_share_two_hundred_accounts_in_a_few_turns() -> None:
    fleet = Fleet(dict.fromkeys(range(8), accounts(200)), dict.fromkeys(accounts(200)))
    assert fleet.settle() <= 4
    assert set(fleet.holds().values()) == {25}


def test_no_member_takes_more_than_ten_in_a_turn_or_a_sixth_of_a_large_share() -> None:
    fleet = Fleet(dict.fromkeys(range(8), accounts(400)), dict.fromkeys(accounts(400)))
    assert fleet.settle() <= 6
    assert fleet.most_taken == MOVED_AT_ONCE
    fleet = Fleet(dict.fromkeys(range(8), accounts(1000)), dict.fromkeys(accounts(1000)))
    assert fleet.settle() <= 8
    assert fleet.most_taken == 125 // 6


@pytest.mark.parametrize(("count", "turns"), [(200, 8), (1000, 23)])  # and two until a member gives
def test_a_second_member_has_its_half_within_the_time_that_was_promised(count: int, turns: int) -> None:
    fleet = Fleet(dict.fromkeys(range(2), accounts(count)), dict.fromkeys(accounts(count), 0))
    assert fleet.settle() <= turns
    assert fleet.holds() == {0: count // 2, 1: count // 2}


def test_a_member_alone_begins_within_a_quarter_of_a_minute() -> None:
    fleet = Fleet({1: accounts(1000)}, dict.fromkeys(accounts(1000)))
    assert fleet.settle() <= 15


def test_a_new_member_gets_its_part_from_all() -> None:
    owners = {name: number % 3 for number, name in enumerate(accounts(200))}
    fleet = Fleet(dict.fromkeys(range(4), accounts(200)), owners)
    assert fleet.settle() <= 8
    assert set(fleet.holds().values()) == {50}


def test_what_a_buried_member_held_is_taken_in_the_next_turn() -> None:
    owners: dict[str, int | None] = {name: number % 8 for number, name in enumerate(accounts(200))}
    owners = {name: None if owner == 7 else owner for name, owner in owners.items()}
    fleet = Fleet(dict.fromkeys(range(7), accounts(200)), owners)
    fleet.turn()
    assert fleet.holds()[None] == 0
    assert max(fleet.holds().values()) - min(fleet.holds().values()) <= 1


def test_what_a_member_leaves_is_taken_in_the_next_turn_by_those_who_know_the_others() -> None:
    """Nothing is sent for an account meanwhile."""
    fleet = Fleet(dict.fromkeys(range(4), accounts(200)), {name: n % 4 for n, name in enumerate(accounts(200))})
    fleet.knows_others = True
    drained(fleet, 3)
    fleet.turn()
    assert fleet.holds()[None] == 0
    assert fleet.settle() == 0


def test_a_draining_member_takes_nothing_back() -> None:
    fleet = Fleet(dict.fromkeys(range(3), accounts(10)), {name: number % 3 for number, name in enumerate(accounts(10))})
    drained(fleet, 2)
    fleet.settle()
    assert sorted(fleet.holds().items(), key=str) == [(0, 5), (1, 5)]


def test_even_numbers_are_left_alone() -> None:
    owners = {name: number % 3 for number, name in enumerate(accounts(200))}  # 67, 67, 66
    assert Fleet(dict.fromkeys(range(3), accounts(200)), owners).settle() == 0


def test_members_with_different_lists_share_what_both_can_serve() -> None:
    names = accounts(20)
    fleet = Fleet({1: names[:10], 2: names, 3: names[10:]}, dict.fromkeys(names))
    fleet.settle()
    assert fleet.holds() == {1: 5, 2: 10, 3: 5}
    assert {fleet.owners[name] for name in names[10:]} == {2, 3}


def test_idle_accounts_are_given_first() -> None:
    found = shares(
        1,
        [Seat(member=1, serves=frozenset("abcd")), Seat(member=2, serves=frozenset("abcd"))],
        dict.fromkeys("abcd", 1),
    )
    assert moves(found, may_give=True, is_busy=lambda name: name in "ac").give == ("b", "d")


def test_a_member_that_does_not_know_the_others_yet_gives_nothing() -> None:
    found = shares(
        1, [Seat(member=1, serves=frozenset("ab")), Seat(member=2, serves=frozenset("ab"))], dict.fromkeys("ab", 1)
    )
    assert moves(found, may_give=False) == Moves()


@given(
    st.integers(1, 6).flatmap(
        lambda members: st.tuples(
            st.just(members),
            st.lists(st.tuples(st.sets(st.integers(0, members - 1)), st.integers(-1, members - 1)), max_size=60),
            st.integers(0, 1000),
        )
    )
)
def test_from_any_start_each_class_is_even_all_are_owned_and_the_moves_end(
    start: tuple[int, list[tuple[set[int], int]], int],
) -> None:
    members, listed, seed = start
    serves: dict[int, set[str]] = {member: set() for member in range(members)}
    owners: dict[str, int | None] = {}
    for name, (servers, owner) in zip(accounts(len(listed)), listed, strict=True):
        for member in servers:
            serves[member].add(name)
        owners[name] = owner if owner in servers else None
    fleet = Fleet(serves, owners, seed)
    fleet.settle()
    for alike in {frozenset(servers) for servers, _ in listed if servers}:
        of_class = [name for name, (each, _) in zip(accounts(len(listed)), listed, strict=True) if each == alike]
        held = Counter(fleet.owners[name] for name in of_class)
        assert None not in held
        counts = [held[member] for member in alike]
        assert max(counts) - min(counts) <= 1
