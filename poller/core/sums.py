"""Where lines, tasks, starts and records went: the counts of which the ledger is made. No I/O."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from poller.core.accounts import AccountState


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceSums:
    """Where one source's lines went: lines = tasks + duplicates + rejected + blank."""

    name: str
    lines: int
    tasks: int
    duplicates: int
    rejected: int
    blank: int
    ended: bool
    failed: int = 0  # of `duplicates`: their task had ended before, but not complete


@dataclass(frozen=True, slots=True, kw_only=True)
class SinkSums:
    """Where one sink's records went: finished = delivered + undelivered + dead + missed."""

    name: str
    delivered: int
    undelivered: int
    dead: int
    attached: bool  # configured in the latest run
    missed: int = 0  # pruned before the sink, which is new or was away, could get them


class ReasonSum(NamedTuple):
    """One reason why tasks are not plainly complete."""

    reason: str
    tasks: int
    landed: int  # of these: a file is there all the same


@dataclass(frozen=True, slots=True, kw_only=True)
class StartSums:
    """Where the starts of a state went: starts = accepted + refused + lost."""

    unstarted: int = 0  # rows that were never sent, or certainly not accepted
    unsure: int = 0  # rows that may have been accepted
    underway: int = 0  # tasks of rows, without an outcome
    starts: int = 0  # POSTs that may have left
    accepted: int = 0
    refused: int = 0  # certainly not accepted
    lost: int = 0  # answers that are not known
    repeated: int = 0  # POSTs of rows whose earlier answer was lost
    tried_again: int = 0  # attempts that ended without a file and have a later one: the latest counts for the row


@dataclass(frozen=True, slots=True, kw_only=True)
class Sums:
    """Everything the store counts, from the rows themselves: what the ledger is made of.

    Finished tasks that were pruned after their retention stay in `finished`, `polls` and `kinds`.
    """

    sources: tuple[SourceSums, ...]
    sinks: tuple[SinkSums, ...]
    accounts: Mapping[str, AccountState]
    waiting: int  # tasks without an outcome, and rows without a task
    finished: int
    polls: int
    kinds: Mapping[str, int]
    landed: Mapping[str, int]  # by kind: how many of these have a file
    reasons: tuple[ReasonSum, ...]  # of records still kept, most frequent first, at most ten
    pruned: int = 0  # finished tasks whose rows are gone
    blocked: int = 0  # of `waiting`, those of accounts that are paused until a person or HubSpot acts
    blocked_rows: int = 0  # of `blocked`, rows without a task
    starts: StartSums | None = None  # None: the state never had a row to import

    @property
    def unstarted(self) -> int:
        """The rows that still cost a start, without those of blocked accounts; unsure ones count."""
        return 0 if self.starts is None else self.starts.unstarted + self.starts.unsure - self.blocked_rows

    @property
    def tried_again(self) -> int:
        """Finished tasks that are attempts at a row with a later one."""
        return 0 if self.starts is None else self.starts.tried_again

    @property
    def started(self) -> int:
        """Starts that HubSpot accepted, ever."""
        return 0 if self.starts is None else self.starts.accepted
