"""Counters of a run, in memory: the numbers behind the progress display, the summary lines and /metrics.

The ledger does not use them; it counts the store's rows.
"""

from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from poller.core.fleet import KindCount
from poller.core.histogram import Histogram
from poller.core.model import ANSWERING, Added, Chunk, Kind, Outcome
from poller.core.poll_log import failure_reason
from poller.core.starts import StartOutcome
from poller.core.sums import SinkSums, Sums

REQUEST_BOUNDS_S = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
GATE_BOUNDS_S = (0.001, 0.01, 0.1, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)


class AccountPolls:
    """One account's polls in this run."""

    __slots__ = ("classes", "gate", "request", "starts")

    def __init__(self) -> None:
        self.starts: Counter[str] = Counter()  # start calls by outcome class, lower case
        self.classes: defaultdict[type[Outcome], int] = defaultdict(int)
        self.request = Histogram(REQUEST_BOUNDS_S)  # from sending to the answer read
        self.gate = Histogram(GATE_BOUNDS_S)  # waiting for the right to send

    @property
    def outcomes(self) -> Counter[str]:
        """Answered polls by outcome class, lower case."""
        return Counter({outcome.__name__.lower(): count for outcome, count in self.classes.items()})


@dataclass(slots=True)
class Metrics:
    """Mutable counters of one run; only the engine changes them."""

    waiting: int = 0  # tasks without an outcome, of this and earlier runs
    blocked: int = 0  # of these, as of up to half a minute ago: in accounts that the forecast leaves out
    elsewhere: int = 0  # as old: in the other accounts, but those with too many rows to count; 0 where none has
    kinds: Counter[str] = field(default_factory=Counter)  # finished tasks, of this and earlier runs
    landed: Counter[str] = field(default_factory=Counter)  # by kind: how many of these have a file
    tried_again: int = 0  # of those finished without a file: attempts at rows that have a later one, which counts
    lines: int = 0  # input lines read in this run
    tasks: int = 0
    duplicates: int = 0
    rejected: int = 0
    blank: int = 0
    polls: int = 0  # answers of this run
    starts: int = 0  # answered or lost, of this run
    failed_polls: Counter[str] = field(default_factory=Counter)  # of this run: without news of their task, by reason
    delivered: Counter[str] = field(default_factory=Counter)  # records of this run by sink
    dead: Counter[str] = field(default_factory=Counter)  # records of this run that a sink refused for good

    retried: Counter[str] = field(default_factory=Counter)  # dead letters that are in a sink's outbox again
    sinks_before: dict[str, SinkSums] = field(default_factory=dict)  # where records went, without this run's
    missed_before: int = 0  # finished tasks that a sink which is new does not get
    accounts_taken: Counter[bool] = field(default_factory=Counter)  # in this run, by whether they were given in order
    polls_of_fleet: int | None = None  # ever, of all members; None: this process owns the state alone
    accounts: defaultdict[str, AccountPolls] = field(default_factory=lambda: defaultdict(AccountPolls))

    def begin(self, sums: Sums) -> None:
        """Take over what earlier runs left in the store."""
        self.waiting = sums.waiting
        self.kinds.update(sums.kinds)
        self.landed.update(sums.landed)
        self.tried_again = sums.tried_again
        self.sinks_before = {sink.name: sink for sink in sums.sinks}
        self.missed_before = sums.pruned

    def take_over(self, sink: SinkSums) -> None:
        """Deliver to a sink from now on that another process delivered to."""
        delivered = sink.delivered - self.delivered[sink.name]
        dead = sink.dead - self.dead[sink.name] + self.retried[sink.name]
        self.sinks_before[sink.name] = replace(sink, delivered=delivered, dead=dead)

    def sink(self, name: str) -> SinkSums:
        """Return where the sink's records went, including those of earlier runs."""
        new = SinkSums(name=name, delivered=0, undelivered=0, dead=0, attached=True, missed=self.missed_before)
        before = self.sinks_before.get(name, new)
        return replace(
            before,
            delivered=before.delivered + self.delivered[name],
            undelivered=self.undelivered(name),
            dead=before.dead + self.dead[name] - self.retried[name],
            attached=True,
        )

    def count_all(self, counts: Mapping[str, KindCount]) -> None:
        """Take over what all members of a fleet have recorded, by kind; "" for what waits."""
        self.polls_of_fleet = sum(count.polls for count in counts.values())
        for kind, count in counts.items():
            if kind:
                self.kinds[kind], self.landed[kind] = count.tasks, count.landed
            else:
                self.waiting, self.tried_again = count.tasks, count.landed

    def undelivered(self, sink: str) -> int:
        """Return how many finished tasks the sink does not have yet."""
        before = self.sinks_before.get(sink)
        settled = self.missed_before if before is None else before.delivered + before.dead + before.missed
        settled += self.delivered[sink] + self.dead[sink]
        return max(0, self.finished - settled + self.retried[sink])

    @property
    def outcomes(self) -> Counter[str]:
        """Polls of this run by outcome class, lower case."""
        return sum((polls.outcomes for polls in self.accounts.values()), Counter())

    @property
    def finished(self) -> int:
        return self.kinds.total()

    @property
    def known(self) -> int:
        return self.waiting + self.finished

    def add_chunk(self, chunk: Chunk, added: Added) -> None:
        self.lines += chunk.lines
        self.tasks += added.tasks
        self.duplicates += added.duplicates
        self.rejected += len(chunk.rejected)
        self.blank += chunk.blank
        if self.polls_of_fleet is None:
            self.waiting += added.tasks
            self.tried_again += added.again

    def add_poll(self, account: str, outcome: Outcome, *, request_s: float, gate_s: float) -> None:
        self.polls += 1
        polls = self.accounts[account]
        polls.classes[type(outcome)] += 1
        polls.request.add(request_s)
        polls.gate.add(gate_s)
        if not isinstance(outcome, ANSWERING) and (reason := failure_reason(outcome)) is not None:
            self.failed_polls[reason] += 1

    def add_start(self, account: str, outcome: StartOutcome, *, request_s: float, gate_s: float) -> None:
        self.starts += 1
        polls = self.accounts[account]
        polls.starts[type(outcome).__name__.lower()] += 1
        polls.request.add(request_s)
        polls.gate.add(gate_s)

    def finish(self, kind: Kind, *, landed: bool) -> None:
        if self.polls_of_fleet is not None:
            return  # `count_all` has it, with what the others finished: a number must never go back
        self.waiting -= 1
        word = str(kind)  # at a fifth of the cost of `value`
        self.kinds[word] += 1
        self.landed[word] += landed
