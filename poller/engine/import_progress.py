"""How far one account's imports are: its rows to start, its imports under way, and the trial. Counts only."""

import math
from random import Random

import structlog

from poller.core.model import Record
from poller.core.protocols import Clock, StartStore
from poller.core.starts import BACKLOG_COUNTED, Declined, ImportsReading, NotSent, Row, Started, StartOutcome, Unsure
from poller.schedule.lost_starts import LostStarts
from poller.schedule.starts import StartRules
from poller.schedule.trial import LANDED_ENOUGH, Trial

log = structlog.get_logger("poller")

STUCK_AFTER_S = 600.0  # imports from before a trial hold its rows back no longer: they may be of another file


class ImportProgress:
    """Decides whether another row may be started."""

    def __init__(self, account: str, starts: StartStore, rules: StartRules, clock: Clock) -> None:
        self.rules = rules
        self.unstarted = 0  # counted in the state now and then, and down with each start
        self.accepted = 0  # by this process
        self._account = account
        self._starts = starts
        self._clock = clock
        self._trial = Trial(rules.trial)
        self._trial_began_at = 0.0
        self._earlier = 0  # imports that were under way when the trial began
        self._underway = 0
        self._in_hand = 0  # rows at a worker
        self._lost = LostStarts()

    async def begin(self) -> list[float]:
        """Begin with what earlier runs left. Returns as `begin_trial`."""
        self._underway = await self._starts.underway(self._account)
        return await self.begin_trial()

    async def begin_trial(self) -> list[float]:
        """Begin a trial, unless enough has landed: imports under way are its first rows, and those whose start got no
        answer. Returns when the latter are due."""
        size = self.rules.trial
        self._lost = LostStarts()
        landed = await self._starts.landed(self._account, LANDED_ENOUGH)
        self._trial = Trial(size, landed=landed)
        unsure = [] if self._trial.is_over else await self._starts.unsure_due(self._account, size)
        self._trial = Trial(size, landed=landed, underway=self._underway + self._in_hand + len(unsure))
        self._trial_began_at, self._earlier = self._clock(), self._underway
        if (begun := self._trial.reading) is not None:
            log.info("import.trial_began", account=self._account, rows=begun.rows, needed=begun.needed)
        return unsure

    async def count_unstarted(self) -> None:
        """Count the rows to start."""
        self.unstarted = await self._starts.backlog(self._account, BACKLOG_COUNTED)

    def apply(self, rules: StartRules) -> None:
        """Use other rules from the next start on."""
        self.rules = rules
        self._trial.resize(rules.trial)

    @property
    def reading(self) -> ImportsReading:
        """The counts for people and metrics."""
        trial = self._trial.reading if self.unstarted else None
        return ImportsReading(unstarted=self.unstarted, underway=self._underway, trial=trial)

    @property
    def is_on_trial(self) -> bool:
        """Whether the trial may still keep rows from being started."""
        return not self._trial.is_over

    def may_start(self) -> bool:
        """Whether the limit of imports under way, and the trial, let another row go."""
        if self._earlier and self._trial.holds and self._clock() - self._trial_began_at >= STUCK_AFTER_S:
            self._trial.overtake(self._earlier)
            self._earlier = 0
        return self._underway + self._in_hand < self.rules.underway and not self._trial.holds

    def next_start_at(self) -> float:
        """Return when the next start may leave; infinity until the one that is out has its answer."""
        return math.inf if self._in_hand and self.is_unanswered else self._lost.next_at

    @property
    def is_unanswered(self) -> bool:
        """Whether so many starts were lost in a row that one at a time leaves."""
        return self._lost.since is not None

    def unanswered_s(self, paused_s: float) -> float:
        """Return for how long starts were lost in a row, pauses excluded; 0 where that is no trouble."""
        return 0.0 if self._lost.since is None else self._clock() - paused_s - self._lost.since

    def note_start(self, outcome: StartOutcome, *, paused_s: float, rng: Random) -> None:
        """Note what came of a start: where the call stays without answers, few rows must become unsure, and few
        requests be spent."""
        now = self._clock()
        match outcome:
            case Started() | Declined():
                after_s = self.unanswered_s(paused_s)
                if self._lost.answer():
                    log.info("start.answered", account=self._account, after_s=round(after_s, 3))
            case Unsure(reason=reason) | NotSent(reason=reason, left=True):
                if self._lost.lose(now=now, active_at=now - paused_s, rng=rng):
                    log.warning("start.unanswered", account=self._account, reason=reason)
            case _:
                self._lost.put_off(now)

    # --- a row, from its claim to its outcome

    def take(self, row: Row) -> None:
        """A worker has the row: counted before another one is claimed."""
        self._in_hand += 1
        if row.lost == 0:
            self._trial.count(1)

    def let_go(self) -> None:
        """The worker is done with its row."""
        self._in_hand -= 1

    def return_unaccepted(self, row: Row) -> None:
        """The row was taken and not accepted. An unsure one still counts for its earlier start."""
        if row.lost == 0:
            self._trial.count(-1)

    def accept(self) -> None:
        """The row's import is under way."""
        self._underway += 1
        self.accepted += 1
        self.count_off()

    def count_off(self) -> None:
        """A row needs no start any more: the count is as old as that of what is under way."""
        if 0 < self.unstarted < BACKLOG_COUNTED:
            self.unstarted -= 1

    def land(self, record: Record) -> str | None:
        """An import that was under way has its outcome. Returns as `end`."""
        self._underway -= 1
        return self.end(record)

    def end(self, record: Record) -> str | None:
        """A row has its outcome. Returns, once, the one reason for which all rows of the trial failed."""
        was_over, had_failed = self._trial.is_over, self._trial.failed_for is not None
        self._trial.end(None if record.landed else record.reason or record.kind.value)
        if (reason := self._trial.failed_for) is not None and not (was_over or had_failed):
            log.warning("import.trial_failed", account=self._account, reason=reason, rows=self.rules.trial)
            return reason
        if self._trial.is_over and not was_over:
            log.info("import.trial_passed", account=self._account)
        return None
