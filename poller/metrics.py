"""What this run has counted so far, in memory: the numbers behind the progress display and the summary lines.

The ledger does not use them; it counts the store's rows.
"""

from collections import Counter
from dataclasses import dataclass, field

from poller.model import Added, Chunk, Kind, Outcome, Refused, Sums, Throttled, Unreachable


@dataclass(slots=True)
class Metrics:
    """Mutable counters of one run; only the engine changes them."""

    waiting: int = 0  # tasks without an outcome, of this and earlier runs
    kinds: Counter[str] = field(default_factory=Counter)  # finished tasks, of this and earlier runs
    lines: int = 0  # input lines read in this run
    tasks: int = 0
    duplicates: int = 0
    rejected: int = 0
    looks: int = 0  # answers of this run
    outcomes: Counter[str] = field(default_factory=Counter)  # looks of this run by outcome class, lower case
    troubles: Counter[str] = field(default_factory=Counter)  # looks of this run that told nothing of a task, by reason
    delivered: Counter[str] = field(default_factory=Counter)  # records of this run by sink

    def begin(self, sums: Sums) -> None:
        """Take over what earlier runs left in the store."""
        self.waiting = sums.waiting
        self.kinds.update(sums.kinds)

    @property
    def finished(self) -> int:
        return self.kinds.total()

    @property
    def known(self) -> int:
        return self.waiting + self.finished

    def fed(self, chunk: Chunk, added: Added) -> None:
        self.lines += len(chunk.fed) + len(chunk.rejected) + chunk.blank
        self.tasks += added.tasks
        self.duplicates += added.duplicates
        self.rejected += len(chunk.rejected)
        self.waiting += added.tasks

    def looked(self, outcome: Outcome) -> None:
        self.looks += 1
        self.outcomes[type(outcome).__name__.lower()] += 1
        match outcome:
            case Unreachable(reason=reason) | Refused(reason=reason):
                self.troubles[reason] += 1
            case Throttled(policy=policy):
                self.troubles[f"throttled_{policy}"] += 1

    def finish(self, kind: Kind) -> None:
        self.waiting -= 1
        self.kinds[kind.value] += 1
