"""Which accounts a member takes and gives so that all hold equally many. Pure, and without a leader.

Accounts that the same members can serve form a class; each class is divided evenly among those members, so members with
different lists need no exception. Each member computes only its own moves, all from a snapshot of the same rows.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

MOVED_AT_ONCE = 10  # accounts that a member gives in one turn, or takes in its first, so that no fast one takes all
TAKEN_AT_ONCE = 30  # accounts that it takes in a later turn, which must not be long
TURNS_TO_SHARE = 6  # a share larger than what these turns move at that pace is moved faster


@dataclass(frozen=True, slots=True, kw_only=True)
class Seat:
    """A member, as far as balance needs it."""

    member: int
    serves: frozenset[str]  # accounts that its settings name
    is_draining: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """A member's part of one class of accounts."""

    target: int  # how many it is to hold
    mine: tuple[str, ...]
    free: tuple[str, ...]  # owned by no member


@dataclass(frozen=True, slots=True, kw_only=True)
class Moves:
    """What a member does in one turn."""

    take: tuple[tuple[tuple[str, ...], int], ...] = ()  # free accounts of a class, and how many of them
    give: tuple[str, ...] = ()


def shares(me: int, seats: Sequence[Seat], owners: Mapping[str, int | None]) -> list[Share]:
    """Return this member's part of each class it can serve. `owners`: every account and the member that holds it. Where
    a class cannot be divided, those who hold more of it already get one more, then those who hold less of all."""
    at_work = [seat for seat in seats if not seat.is_draining]
    classes: defaultdict[frozenset[int], list[str]] = defaultdict(list)
    for account in sorted(owners):
        servers = frozenset(seat.member for seat in at_work if account in seat.serves)
        if me in servers:
            classes[servers].append(account)
    holds = Counter(owner for owner in owners.values() if owner is not None)
    found = []
    for servers, accounts in classes.items():
        held = Counter(owner for account in accounts if (owner := owners[account]) is not None)
        order = sorted(servers, key=lambda member: (-held[member], holds[member], member))
        each, more = divmod(len(accounts), len(servers))
        found.append(
            Share(
                target=each + (order.index(me) < more),
                mine=tuple(account for account in accounts if owners[account] == me),
                free=tuple(account for account in accounts if owners[account] is None),
            )
        )
    return found


def moves(
    found: Sequence[Share],
    *,
    may_give: bool,
    knows_others: bool = False,
    is_busy: Callable[[str], bool] = lambda _account: False,
) -> Moves:
    """Return what to take of each class and what to give, idle accounts first. `may_give`: this member has seen enough
    turns to know that the others are there to take. `knows_others`: it has seen who is there, and its part is not too
    large. Then it takes more at once: what another one left is not polled until it is taken."""
    most = max(MOVED_AT_ONCE, sum(share.target for share in found) // TURNS_TO_SHARE)
    take, left = [], max(most, TAKEN_AT_ONCE) if knows_others else most
    for share in found:
        limit = min(share.target - len(share.mine), len(share.free), left)
        if limit > 0:
            take.append((share.free, limit))
            left -= limit
    give: list[str] = []
    for share in found if may_give else ():
        surplus = max(0, len(share.mine) - share.target)
        give += sorted(share.mine, key=lambda account: (is_busy(account), account))[:surplus]
    return Moves(take=tuple(take), give=tuple(give[:most]))
