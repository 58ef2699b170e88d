"""What a trial saw from outside the replicas, for `invariants` to judge. Instants are by the machine's clock."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

STREAMED_S = 0.5  # by then a commit has reached the standby
FAILOVER_S = 15.0  # by then the standby is the primary


@dataclass(frozen=True, slots=True, kw_only=True)
class Arrival:
    """One request that reached HubSpot."""

    at: float
    account: str
    replica: str
    task_id: str  # of a poll
    is_final: bool  # the answer was COMPLETE or CANCELED, or an unknown id


@dataclass(frozen=True, slots=True, kw_only=True)
class Ownership:
    """One change of an account's owner, as the database committed it."""

    at: float
    account: str
    epoch: int
    replica: str | None  # None: freed
    is_clean: bool = True  # given in order, or taken after that: its window needs no wait
    taken_from: str | None = None  # the member that owned it until then; None: it was free


@dataclass(frozen=True, slots=True, kw_only=True)
class LateWrite:
    """A commit of a process that was no member then."""

    at: float
    replica: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """One blow to the fleet."""

    at: float
    kind: str
    replica: str | None  # None: all of them, such as a server's restart
    lasts_s: float = 0.0
    idle_s: float = 0.0  # how long an account may send nothing because of it


@dataclass(slots=True)
class History:
    """The evidence of one trial."""

    window_s: float
    limit: int
    arrivals: list[Arrival] = field(default_factory=list)
    owners: list[Ownership] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)
    late_writes: list[LateWrite] = field(default_factory=list)
    idle_holders: int = 0  # transactions that held the order of records while they waited for their client
    acknowledged: dict[tuple[str, str], float] = field(default_factory=dict)  # account and task id, when a 200 came
    lost_from: list[float] = field(default_factory=list)  # from when on a failover lost commits, until its own instant
    rows: dict[tuple[str, str], float] = field(default_factory=dict)  # account and URL of a row, when a 200 came
    offered: set[tuple[str, str]] = field(default_factory=set)  # account and URL of each row that was sent to a replica
    starts: Sequence[tuple[str, str, float]] = ()  # account, URL and instant of each start call
    settled_at: float = float("inf")  # from when on unsure rows may be started again: all blows are over
    expected: dict[tuple[str, str], str] = field(default_factory=dict)  # the kind of each task that was fed
    records: Sequence[bytes] = ()  # of the store, in the order of their numbers
    lines: Sequence[bytes] = ()  # of the JSONL file
    posts: list[tuple[str, bytes]] = field(default_factory=list)  # webhook id and body
    table: Sequence[bytes] = ()  # the records in the SQL table
    read: dict[str, list[bytes]] = field(default_factory=dict)  # by reader of /v1/finished
    imbalances: Mapping[str, Sequence[str]] = field(default_factory=dict)  # of the ledger, by replica that was asked
    recorded_requests: int = 0  # polls and starts
    workers: int = 0

    def by_account(self) -> Mapping[str, list[Arrival]]:
        """Return the arrivals of each account, in order."""
        found: dict[str, list[Arrival]] = {}
        for arrival in sorted(self.arrivals, key=lambda arrival: arrival.at):
            found.setdefault(arrival.account, []).append(arrival)
        return found

    def may_be_lost(self, at: float) -> bool:
        """Return whether what was committed then is lost with a primary: its standby was asynchronous."""
        ended = [fault.at + fault.lasts_s + FAILOVER_S for fault in self.faults if fault.kind == "failover"]
        return any(begun - STREAMED_S <= at <= end for begun, end in zip(self.lost_from, ended, strict=True))

    def blows(self) -> Counter[str]:
        """Return how many faults of each kind there were."""
        return Counter(fault.kind for fault in self.faults)
