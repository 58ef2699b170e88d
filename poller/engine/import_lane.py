"""A lane that also starts imports: polls first, then rows; each start is stored before its first byte leaves."""

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, assert_never

import structlog

from poller.core.accounts import Pause
from poller.core.errors import GaveUp
from poller.core.log import Folded
from poller.core.model import Answer, Kind, Record, Task
from poller.core.person_pause import person_pause_detail
from poller.core.protocols import StartStore
from poller.core.record import render_row
from poller.core.request_protocols import GateClosed, RightLost, Slot, StartClient
from poller.core.starts import (
    HELD_UP,
    AwaitStart,
    Begin,
    EndRow,
    ImportsReading,
    Row,
    StartAgain,
    StartAnswer,
    StartDecision,
    Started,
    Unsure,
)
from poller.core.trial_note import TrialNote
from poller.engine.due_work import DueWork, Probe
from poller.engine.import_progress import ImportProgress
from poller.engine.lane import Lane
from poller.engine.recorder import Polled
from poller.engine.retries import Retries
from poller.engine.witness import known_task
from poller.schedule.starts import (
    REPRICE_EVERY_S,
    StartRules,
    backlog_tradeoff,
    body_to_send,
    decide_start,
    may_be_sent,
    settle_s,
)

log = structlog.get_logger("poller")

LONGEST_INTENT_S = 5.0  # that storing a start may take: its row's settle time runs meanwhile
UNKNOWN_ID = "AAAAAAAAAAA"  # well-formed: HubSpot answers that it does not know it, which shows that it answers


class ImportLane(Lane):
    """One account at work on rows and tasks. A poll, never a start, probes an outage."""

    def __init__(
        self,
        account: str,
        *,
        starts: StartStore,
        starter: StartClient,
        start_rules: StartRules,
        on_trial_failed: Callable[[int, str], None] | None,
        retries: Retries | None = None,
        **lane: Any,
    ) -> None:
        """`lane`: the arguments of `Lane`. `on_trial_failed` gets the trial's size and the one reason for which
        all of it failed; None pauses the account until a person resumes it: a fleet's other accounts go on."""
        super().__init__(account, **lane)
        self._starts = starts
        self._starter = starter
        self._progress = ImportProgress(account, starts, start_rules, self._clock)
        self._on_trial_failed = on_trial_failed
        self._retries = retries
        self._trial_note = TrialNote(account, self._store)
        self._refused_after: dict[int, int] = {}  # row → how many this process had accepted when it was refused
        self._warn = Folded(log.warning, clock=self._clock)
        self._due_work = DueWork(
            account,
            store=self._store,
            gate=self.gate,
            timing=self._timing,
            settle=self._settle,
            clock=self._clock,
            rng=self._rng,
            starts=starts,
            may_start=self._progress.may_start,
            next_start_at=self._progress.next_start_at,
            on_row_claimed=self._progress.take,
            longest_sleep_s=self._longest_sleep_s,
        )
        self._due_tasks = self._due_work

    async def run(self) -> None:
        """Work until stopped, as `Lane.run`."""
        self._repeat_at(await self._progress.begin())
        async with asyncio.TaskGroup() as group:
            pricing = group.create_task(self._reprice_polls())
            if self._retries is not None:
                group.create_task(self._retries.run())
            await super().run()
            pricing.cancel()
            if self._retries is not None:
                self._retries.end()

    async def release(self) -> None:
        """Resume the account on a person's word; a trial that failed begins again, and starts leave as usual."""
        self._repeat_at(await self._progress.begin_trial())
        await super().release()

    def save(self) -> None:
        super().save()
        self._trial_note.keep(self.imports)

    @property
    def imports(self) -> ImportsReading:
        return self._progress.reading

    def apply_starter(self, starter: StartClient) -> None:
        """Use another client from the next start on."""
        self._starter = starter

    def apply_rules(self, rules: StartRules) -> None:
        """Use other rules from the next start on."""
        self._progress.apply(rules)
        self.wake()

    @property
    def rules(self) -> StartRules:
        """The rules of starts that are in force."""
        return self._progress.rules

    @property
    def retries(self) -> Retries | None:
        """What starts failed rows again, where that is wanted."""
        return self._retries

    async def _work(self, workers: asyncio.TaskGroup) -> None:
        goes_on = True
        while goes_on and (work := await self._due_work.next_work()) is not None:
            match work:
                case Task():
                    goes_on = await self._poll(work, workers)
                case Row():
                    try:
                        goes_on = await self._start(work, workers)
                    finally:
                        self._progress.let_go()
                        if self._progress.is_unanswered:
                            self.wake()
                case Probe():
                    goes_on = await self._probe(work)
                case _:
                    assert_never(work)

    # --- a start

    async def _start(self, row: Row, workers: asyncio.TaskGroup) -> bool:
        """Start a row; return False where the run drains."""
        if not may_be_sent(row, self.rules):
            await self._end_unsent(row)
            return True
        waiting_since = self._clock()
        try:
            async with self.gate.slot(("row", row.key)) as slot:
                if self.gate.pause is Pause.OUTAGE:  # it began while the start waited
                    self._give_back(row)
                    await self._poll_witness(slot)
                    return True
                sent_at = self._clock()
                sent = await self._starts.intend(row, sent_at=sent_at, due_at=sent_at + self._settle_s())
                answer = HELD_UP if self._was_held_up(sent_at) else await self._starter.start(body_to_send(row))
                if answer.shows_hubspot:
                    slot.answered(Answer(outcome=answer.shows, limits=answer.limits))
        except GateClosed:
            self._give_back(row)
            return False
        except RightLost:  # of the witness
            return True
        self._recorder.count_start(answer.outcome, request_s=self._clock() - sent_at, gate_s=sent_at - waiting_since)
        self._start_workers(workers)
        self._progress.note_start(answer.outcome, paused_s=self.gate.paused_s, rng=self._rng)
        await self._settle_start(row, sent, answer)
        if answer.shows_hubspot:
            self._check_patience(answer.shows, self._clock())
        return True

    def _was_held_up(self, since: float) -> bool:
        """Return whether storing a start took so long that its row would be due too early, which is logged, or a person
        paused."""
        if (took_s := self._clock() - since) > LONGEST_INTENT_S:
            self._warn("start.held_up", account=self.account, took_s=round(took_s, 3))
            return True
        return self.gate.pause is Pause.PAUSED_BY_PERSON

    def _settle_s(self) -> float:
        """Return how long after its departure a start whose answer was lost may be repeated."""
        return self._starter.longest_s + settle_s(None if self._timing is None else self._timing.planner)

    def _give_back(self, row: Row) -> None:
        """Give a row back that was not sent."""
        self._starts.release([row])
        if row.lost:
            self._wake_for(row, self._clock())
        self._uncount(row)

    async def _settle_start(self, row: Row, sent: Row, answer: StartAnswer) -> None:
        """Store what the answer means. `row` is as it was before, `sent` as it is stored now."""
        decision = decide_start(
            row,
            answer.outcome,
            now=self._clock(),
            others_accepted=self._progress.accepted > self._refused_after.get(row.key, 0),
            rules=self.rules,
            rng=self._rng,
        )
        if isinstance(decision, Begin) and not await self._starts.settle(sent, decision):
            answer = StartAnswer(outcome=Unsure(reason="foreign_answer"), shows=answer.shows)
            decision = AwaitStart()
        self._log_start(row, answer, decision, due_at=sent.due_at)
        match decision:
            case Begin():
                self._progress.accept()
                self._refused_after.pop(row.key, None)
                self.wake()
            case StartAgain():
                self._uncount(row)
                if decision.refusals > row.refusals:
                    self._refused_after[row.key] = self._progress.accepted
                await self._starts.settle(sent, decision)
                self._wake_for(row, decision.at)
            case AwaitStart():
                self._starts.release([row])
                self._wake_for(sent, sent.due_at)
            case EndRow(kind=kind):
                record = render_row(sent, answer.outcome, kind, seen_at=self._clock())
                if isinstance(answer.outcome, Unsure):
                    await self._starts.end_unsent(sent, record)
                else:
                    await self._starts.settle(sent, decision, record)
                self._finish_row(row, record)
            case _:
                assert_never(decision)

    def _repeat_at(self, due: Sequence[float]) -> None:
        """Unsure rows of the trial that a run before left are due then."""
        for due_at in due:
            self._due_work.repeat_at(due_at)

    def _wake_for(self, row: Row, due_at: float) -> None:
        """The row is sent again then: an unsure one also while a trial lets no other row go."""
        if row.lost and self._progress.is_on_trial:
            self._due_work.repeat_at(due_at)
        else:
            self._due_work.wake_for(due_at)

    async def _end_unsent(self, row: Row) -> None:
        """Give an unsure row that is not sent again its outcome."""
        record = render_row(row, None, Kind.START_UNKNOWN, seen_at=self._clock())
        await self._starts.end_unsent(row, record)
        self._finish_row(row, record)

    def _finish_row(self, row: Row, record: Record) -> None:
        self._progress.count_off()
        self._refused_after.pop(row.key, None)
        self._recorder.finish_row(row, record)
        self._note_end(self._progress.end(record))

    def _log_start(self, row: Row, answer: StartAnswer, decision: StartDecision, *, due_at: float) -> None:
        """`due_at`: when the row is next due, where nothing certain is known of the start."""
        outcome = answer.outcome
        log.debug(
            "row.started",
            account=self.account,
            row=row.row,
            outcome=type(outcome).__name__.lower(),
            task_id=outcome.task_id if isinstance(outcome, Started) else None,
            starts=row.starts + 1,
        )
        if isinstance(outcome, Unsure) and not isinstance(decision, Begin):
            due_in_s = round(due_at - self._clock(), 3)
            self._warn(
                "start.lost",
                by=(outcome.reason,),
                account=self.account,
                row=row.row,
                reason=outcome.reason,
                due_in_s=due_in_s,
            )

    def _uncount(self, row: Row) -> None:
        self._progress.return_unaccepted(row)
        self.wake()

    def _note_end(self, failed_for: str | None) -> None:
        """A row has its outcome: others may follow, or the trial has failed for one reason."""
        if failed_for is not None:
            self._stop_for(failed_for)
        self.wake()

    def _stop_for(self, reason: str) -> None:
        if self._on_trial_failed is not None:
            self._on_trial_failed(self.rules.trial, reason)
            return
        since = person_pause_detail(self._clock())
        self.gate.hold(f"{since}: each of the {self.rules.trial} rows of the trial failed, for one reason: {reason}")
        self.save()

    # --- probes of an outage

    async def _probe(self, probe: Probe) -> bool:
        try:
            async with self.gate.slot() as slot:
                await self._poll_witness(slot)
        except GateClosed:
            return False
        except RightLost:
            return True
        finally:
            self._due_work.end_probe(probe)
        return True

    async def _poll_witness(self, slot: Slot) -> None:
        """Poll a task that HubSpot knows, or an id that it answers not to know: either shows that it answers."""
        witness, asked_at = self._witness.task or known_task(self.account, UNKNOWN_ID), self._clock()
        answer = await self._client.poll(witness)
        slot.answered(answer, of_witness=True)
        outcome, now = answer.outcome, self._clock()
        self._recorder.count(outcome, request_s=now - asked_at, gate_s=0.0)
        self._log_probe(witness, outcome)
        self._check_patience(outcome, now)
        self.wake()

    # --- what a lane does with polls, with rows beside them

    def _on_commit(self, polled: Sequence[Polled]) -> None:
        super()._on_commit(polled)
        for each in polled:
            if each.settled.record is not None and each.settled.task.start is not None:
                self._note_end(self._progress.land(each.settled.record))

    async def _reprice_polls(self) -> None:
        """While rows could be started, let a poll cost what it delays."""
        while True:
            await self._progress.count_unstarted()
            if self._timing is not None:
                reading = self.gate.reading()
                waiting = self._progress.unstarted if self._progress.may_start() else 0
                pace = reading.window_limit / reading.window_s
                self._timing.planner.reprice(backlog_tradeoff(self._polling, waiting, pace))
            try:
                self._give_up.check_starts(self._progress.unanswered_s(self.gate.paused_s))
            except GaveUp as error:
                self.on_given_up(error)
            await asyncio.sleep(REPRICE_EVERY_S)
