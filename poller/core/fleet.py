"""The words and the contract of a fleet: several processes ("members") on one state, each account owned by one of them.

A member's row is its right to write. Accounts and sinks point to the row of their owner, so that its deletion takes
everything from the member at once. The store has no clock here: who decides that a member is dead, or that it may
still send, is the engine, by its own monotonic clock.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from enum import StrEnum
from typing import NamedTuple, Protocol

from msgspec import Struct

from poller.core.errors import StoreError


class Fenced(StoreError):
    """This process is no member (any more): its row was deleted, or the server lost what it had confirmed.

    Raised by every writing method of the store until `Membership.join` succeeded. Nothing of the failed call is stored,
    except that a commit whose answer was lost may count. All that was owned, leased and noted is forgotten: lanes,
    sources and delivery loops end without recording, and begin again after the next `join`.
    """

    def __init__(self, message: str, *, lost_commits: int = 0) -> None:
        super().__init__(message)
        self.lost_commits = lost_commits  # confirmed to us, gone after a failover; 0: another member deleted the row


class Beat(StrEnum):
    """What a heartbeat learned."""

    MADE = "made"  # this process is a member
    UNREACHED = "unreached"  # the server did not answer in time: nothing is known
    FENCED = "fenced"  # the row is gone


class Member(Struct, frozen=True, kw_only=True):
    """A process that has joined."""

    id: int  # of this membership: each join has a new one
    name: str  # a label for people, files and sources; one member at a time has it
    beats: int  # grows with each heartbeat; compare it with an earlier value of the same id only
    seen_at: float  # its latest heartbeat by the server's clock: for people only
    host: str
    pid: int
    is_draining: bool  # it takes nothing more, and gives all back
    serves: frozenset[str]  # accounts that its settings name
    settings: Mapping[str, object]  # without secrets, to show which members differ
    owns: int  # accounts that it owns now
    sinks: frozenset[str]  # that its settings name


class SinkPlace(Struct, frozen=True, kw_only=True):
    """Where a sink of the fleet is delivered from."""

    name: str
    owner: int | None  # id of the member that delivers it
    epoch: int  # grows with each owner
    home: str | None  # the only member name that may deliver it: its file is there; None: any that names it
    is_wanted: bool  # a member names it
    has_waiting: bool = False  # its outbox has records; known of those only that the viewing member delivers


class FleetView(Struct, frozen=True, kw_only=True):
    """The fleet at one instant, in one snapshot."""

    me: int | None  # the id of this process; None: it has not joined, or is fenced
    members: tuple[Member, ...]  # by id, this process too
    mine: Mapping[str, int]  # account → epoch, of those that this process owns
    owners: Mapping[str, int | None]  # every account of the state, with the id of the member that owns it
    free: frozenset[str]  # accounts without an owner, whether or not a member can serve them
    sinks: tuple[SinkPlace, ...]  # that are attached
    counts: Mapping[str, "KindCount"]  # the fleet's tasks by kind; "" for those that wait


class Taken(Struct, frozen=True, kw_only=True):
    """An account that this process owns from now on."""

    account: str
    epoch: int  # grows with each owner
    is_clean: bool  # given back in order, or never owned: `slot_ages_s` are all requests that its window still has
    slot_ages_s: tuple[float, ...]  # how old each used slot of the window was when it was given back
    freed_ago_s: float | None  # how long ago that was, by the server's clock, which may jump; None: not clean
    moved_s: float  # by how much this account's instants were moved back: its owner's clock was ahead of ours


class TakenSink(Struct, frozen=True, kw_only=True):
    """A sink that this process delivers from now on."""

    name: str
    epoch: int
    position: bytes | None  # as noted with its last delivered batch, for `Sink.open`


class Hints(NamedTuple):
    """What other members did since the last call. Hints may be lost: they save waiting, nothing depends on them."""

    fed: frozenset[str]  # accounts of this process that got new tasks
    reload: bool  # a person asked all members to reload
    replayed: bool = False  # records are in the outbox of a sink again, which its owner has not counted


class Published(Struct, frozen=True, kw_only=True):
    """The latest status that a member published."""

    member: int
    name: str
    age_s: float  # by the server's clock
    body: bytes


class KindCount(NamedTuple):
    """The fleet's tasks of one kind, kept as they are recorded: no rows are counted."""

    tasks: int
    landed: int
    polls: int


class Membership(Protocol):
    """One process in a fleet. Every method may be called from any task of the event loop.

    `beat`, `set_draining` and `hints` never wait longer than `beat_within_s`. The others wait for as long as the server
    is out of reach, as all methods of the store do. `StoreError`: the state cannot be used any more, stop.
    """

    name: str
    on_fenced: Callable[[Fenced], None]  # called as soon as the store finds out, also where no caller waits for a write

    @property
    def id(self) -> int | None:
        """The id of this process's row. None before `join`, after `leave`, and while it is fenced."""

    async def server_ahead_s(self) -> float:
        """Return by how much the clock of the members at work, or where there is none the server's, is ahead of this
        process's. Also before `join`."""

    @property
    def unheard_reason(self) -> str:
        """Why the latest heartbeat that failed was not made, for people; empty before the first failure."""

    # --- who is there

    async def join(self, *, serves: Collection[str], settings: Mapping[str, object]) -> int | None:
        """Become a member; return its id. None where a row with this name is there: `bury` it once it is dead, or stop
        where it beats. `serves`: accounts, which the state knows from now on. An earlier membership of this process
        ends."""

    async def announce(self, *, serves: Collection[str], settings: Mapping[str, object]) -> None:
        """Replace what `join` announced, after a reload. Raises `Fenced`."""

    async def beat(self, status: bytes = b"") -> Beat:
        """Make one heartbeat on a connection of its own, so that it never waits behind a commit. The same statement
        replaces this member's published status, unless it is empty, and reads what `seen` returns. Trust counts from
        before this call, by the caller's clock. The status is lost in a crash of the server; no promise rests on it."""

    async def seen(self) -> FleetView:
        """Return what the latest heartbeat saw that was made. Asks the server only where owners, members or what they
        announced have changed since the last call."""

    async def view(self) -> FleetView:
        """Return who is there and who owns what, as of now. Also before `join`."""

    async def bury(self, seen: Mapping[int, int]) -> list[int]:
        """Delete those of these members (id → beats) that made no heartbeat since; return their ids. What they owned is
        free, and unclean. A member in the middle of a commit is passed over: try again. Also before `join`."""

    async def set_draining(self) -> Beat:
        """Show the others that this member takes nothing more."""

    async def leave(self) -> None:
        """Delete this member's row. What it still owns is free, and unclean. Does nothing where it is fenced."""

    # --- accounts

    async def take(self, accounts: Sequence[str], limit: int) -> list[Taken]:
        """Own up to `limit` of these accounts, of those that have no owner, in any order. Raises `Fenced`."""

    async def adopt(self, account: str, epoch: int) -> bool:
        """Work on an account that the state shows as this member's without its doing, as on one that it took: leases of
        its tasks end. Returns False where the state does not show that any more. Raises `Fenced`."""

    async def give(self, account: str, epoch: int, *, slot_ages_s: Sequence[float], is_clean: bool) -> bool:
        """Give an account back, after its lane has ended and its polls are recorded; what was noted of it is stored
        first. `is_clean`: `slot_ages_s` are all requests of its window. False, for one that is still in a wait after an
        unclean take. Returns False, and raises nothing, where it is not owned any more or this process is fenced."""

    async def with_rows(self, accounts: Collection[str]) -> frozenset[str]:
        """Return those of these accounts that have rows to import, without a task."""

    # --- sinks

    async def want_sinks(self, names: Sequence[str], *, shared: Collection[str] = ()) -> None:
        """Make these, and only these, the sinks that this member names. The fleet's sinks are the union. One that is
        not `shared` gets a home, where it has none: the name of the first member that names it. A sink gets everything
        that finished while no member named it. Raises `Fenced`."""

    async def take_sinks(self, names: Sequence[str]) -> list[TakenSink]:
        """Own those of these sinks that have no owner, and no home other than this member's name. Raises `Fenced`."""

    async def give_sink(self, name: str, epoch: int) -> bool:
        """Give a sink back, after its delivery loop has ended. Returns False, and raises nothing, where it is not owned
        any more or this process is fenced."""

    async def detach_sinks(self, names: Collection[str]) -> list[str]:
        """Detach those of these sinks that no member names; return them. Call it for what was not wanted for a minute
        of the caller's clock. Raises `Fenced`."""

    # --- what members show each other

    async def published(self) -> list[Published]:
        """Return the latest status of each member that published one."""

    async def counts(self) -> Mapping[str, KindCount]:
        """Return the fleet's tasks by kind; "" for those that wait. The same whichever member answers."""

    def hints(self) -> Hints:
        """Return what arrived with the last heartbeats since the call before. After the first, and after the
        connection broke, `fed` are all accounts of this process: what was sent before is lost."""

    async def hint_reload(self) -> None:
        """Ask all members to reload their settings, this one included."""
