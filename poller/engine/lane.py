"""A lane: one account at work. Its work loop is the product: claim, pass the gate, poll, decide, record."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import replace
from random import Random
from typing import assert_never

import structlog
from msgspec import Struct

from poller.core.errors import PollerError, raise_error
from poller.core.model import ANSWERING, REPORTING, Finish, Missing, Outcome, PollAgain, Record, Settled, Task
from poller.core.person_pause import person_pause_detail
from poller.core.poll_log import outcome_detail, outcome_name, poll_line
from poller.core.proof import Proof
from poller.core.protocols import Clock, PollStore
from poller.core.record import render
from poller.core.request_protocols import Gate, GateClosed, RightLost, StatusClient
from poller.core.starts import ImportsReading
from poller.engine.account_notes import AccountNotes
from poller.engine.due_tasks import LONGEST_SLEEP_S, DueTasks
from poller.engine.give_up import GiveUpRules, GiveUpWatch
from poller.engine.known_ids import KnownIds
from poller.engine.recorder import Polled, Recorder
from poller.engine.witness import Witness, doubted, known_task
from poller.schedule import AccountTiming
from poller.schedule.policy import Polling, age_of, decide
from poller.schedule.slowest import KnownDurations, learned

log = structlog.get_logger("poller")

UNRECORDED_A_WORKER = 10  # polls that may wait for the disk; at that number polling waits, too


class Answered(Struct, frozen=True, gc=False):
    """An answered poll, not settled yet."""

    task: Task
    outcome: Outcome
    asked_at: float
    gate_s: float
    at: float  # of the answer
    paused_s: float  # the account's paused time by then


class Lane:
    """One account at work: its workers share its gate, its client and its schedule."""

    def __init__(
        self,
        account: str,
        *,
        store: PollStore,
        gate: Gate,
        client: StatusClient,
        polling: Polling,
        timing: AccountTiming | None = None,
        recorder: Recorder,
        clock: Clock,
        rng: Random,
        limits: GiveUpRules,
        longest_sleep_s: float = LONGEST_SLEEP_S,
    ) -> None:
        self.account = account
        self._longest_sleep_s = longest_sleep_s
        self.gate = gate
        self._store = store
        self._client = client
        self._polling = polling
        self._timing = timing
        self._recorder = recorder
        self._clock, self._began_at = clock, clock()
        self._rng = rng
        self._give_up = GiveUpWatch(account, limits)
        self._due_tasks = DueTasks(
            account,
            store=store,
            gate=gate,
            timing=timing,
            settle=self._settle,
            clock=clock,
            rng=rng,
            longest_sleep_s=longest_sleep_s,
        )
        self._answered: list[Answered] = []
        self._workers = 0
        self._notes = AccountNotes(account, store, clock)
        self._witness = Witness()
        self._known_ids = KnownIds()
        self.on_given_up: Callable[[PollerError], None] = raise_error  # for each outcome by which the run should end

    def know(self, proof: Proof) -> None:
        """Take a task whose status HubSpot reported in an earlier run: it shows whether the account is answered, and
        whether the token is the account's."""
        self._witness.task = known_task(self.account, proof.task_id)
        self._known_ids = KnownIds(proof.credentials)

    async def run(self) -> None:
        """Work until stopped; then save the account's state as ended in order."""
        self.save()
        if self._timing is not None:
            self._store.delay_first_polls(self.account, self._timing.planner.first_poll_s)
        await self._store.flush()  # before the first request: a crash from here on must not forget the window
        async with asyncio.TaskGroup() as recording:
            recording.create_task(self._recorder.run(prepare=self._prepare_commit, on_commit=self._on_commit))
            async with asyncio.TaskGroup() as workers:
                self._start_workers(workers)
            self._settle()
            self._recorder.end()
        self._due_tasks.release()
        self.keep_knowledge()
        self._notes.note_limit(self.gate.reading())
        self._store.save_account(self.account, replace(self.gate.state(), clean=True))

    def _start_workers(self, workers: asyncio.TaskGroup) -> None:
        """Start as many workers as the gate can use; the number may grow, for the gate learns limits from answers."""
        while self._workers < self.gate.workers:
            self._workers += 1
            workers.create_task(self._work(workers))

    async def _work(self, workers: asyncio.TaskGroup) -> None:
        while (task := self._due_tasks.at_hand() or await self._due_tasks.next()) is not None:
            if not await self._poll(task, workers):
                return

    async def _poll(self, task: Task, workers: asyncio.TaskGroup) -> bool:
        """Poll a task, or in doubt another in its place; return False where the run drains."""
        waiting_since = self._clock()
        try:
            async with self.gate.slot(self._witness.subject(task)) as slot:
                asked, asked_at = self._whom_to_ask(task), self._clock()
                answer = await self._client.poll(asked)
                now, of_witness = self._clock(), asked is not task
                is_overdue = age_of(asked, now, self.gate.paused_s) >= self._polling.deadline_s
                answer = doubted(answer, asked, is_witness=of_witness, is_overdue=is_overdue)
                checked = self._known_ids.check(asked, answer, asked_at=asked_at, now=now, of_witness=of_witness)
                answer = answer if self._polling.trust_unknown else checked
                slot.answered(answer, of_witness=of_witness)
        except GateClosed:
            self._store.release([task])
            return False
        except RightLost:
            self._store.release([task])
            return True
        if self._workers < (enough := self.gate.workers):
            self._start_workers(workers)
        if asked is not task:
            self._recorder.count(answer.outcome, request_s=now - asked_at, gate_s=asked_at - waiting_since)
            self._return_unpolled(task, asked, answer.outcome)
            return True
        gate_s = asked_at - waiting_since
        self._take(Answered(task, answer.outcome, asked_at, gate_s, now, self.gate.paused_s))
        if len(self._answered) + self._recorder.unrecorded >= (most := UNRECORDED_A_WORKER * enough):
            self._settle()
            await self._recorder.wait_for_room(most)
        return True

    def _whom_to_ask(self, task: Task) -> Task:
        """Return the task to poll: in doubt one of which HubSpot has reported a status."""
        known, pause = self._known_ids, self.gate.pause
        if self._polling.trust_unknown:
            return self._witness.instead_of(task, pause)
        needs_proof = known.needs_proof(task)
        is_doubted, must_show = needs_proof or known.doubts_all(), needs_proof and not known.is_witness_silent
        return self._witness.instead_of(task, pause, is_doubted=is_doubted, must_show=must_show)

    def _take(self, answered: Answered) -> None:
        """Take a poll, to be settled with others at the commit: that takes two thirds of the time, for the processor
        has code and data at hand. A failed poll, and the one after it, depend on the account's state: at once."""
        if not self._answered:
            self._recorder.wake()
        self._answered.append(answered)
        if self._witness.is_in_doubt or not isinstance(answered.outcome, REPORTING):
            self._settle()

    def _return_unpolled(self, task: Task, probe: Task, outcome: Outcome) -> None:
        """Give `task` back to the queue: its request was spent on `probe`."""
        self._store.release([task])
        self.wake()
        self._witness.note(probe, outcome, now=self._clock())
        self._log_probe(probe, outcome)
        self._check_patience(outcome, self._clock())

    def _check_patience(self, outcome: Outcome, at: float) -> None:
        try:
            self._give_up.check(outcome, at)
        except PollerError as error:
            self.on_given_up(error)

    def _log_probe(self, probe: Task, outcome: Outcome) -> None:
        name, detail = outcome_name(outcome), outcome_detail(outcome)
        log.debug("outage.probed", account=self.account, task_id=probe.task_id, outcome=name, detail=detail)

    def _settle(self) -> None:
        """Decide what the answers so far mean, in their order, and hand it to the recorder."""
        answered, self._answered = self._answered, []
        for each in answered:
            outcome, asked_at, now = each.outcome, each.asked_at, each.at
            self._recorder.count(outcome, request_s=now - asked_at, gate_s=each.gate_s)
            again, record = self._decide(each)
            again_in_s = None if again is None else again.at - now
            line = poll_line(outcome, at=asked_at, gate_s=each.gate_s, took_s=now - asked_at, again_in_s=again_in_s)
            settled = Settled(task=each.task, again=again, record=record, poll_line=line)
            self._recorder.add(Polled(outcome=outcome, settled=settled, at=now))
        if answered:
            self._plan_polls(answered[-1].at)

    def _decide(self, answered: Answered) -> tuple[PollAgain | None, Record | None]:
        """Learn from an answer; return when its task is polled again, or the record with which it is finished."""
        task, outcome, now, paused_s = answered.task, answered.outcome, answered.at, answered.paused_s
        learned_gap_s = None
        if (timing := self._timing) is not None:
            timing.standstill.paused_s = paused_s
            learned_gap_s = timing.learn(task, outcome, asked_at=answered.asked_at, now=now, gate_s=answered.gate_s)
        is_failed = not isinstance(outcome, ANSWERING)
        decision = decide(
            task,
            outcome,
            now=now,
            paused_s=paused_s,
            is_paused=is_failed and self.gate.pause is not None,
            others_answered=is_failed and self._witness.others_answered(task),
            holds_unknown=isinstance(outcome, Missing) and self._holds_unknown(task, now),
            failed_share=self._witness.failed_share,
            polling=self._polling,
            rng=self._rng,
            learned_gap_s=learned_gap_s,
            followed_s=now - self._began_at,
        )
        self._witness.note(task, outcome, now=now)
        match decision:
            case PollAgain():
                return decision, None
            case Finish(kind=kind):
                self._witness.forget(task)
                return None, render(task, outcome, kind, seen_at=now)
            case _:
                assert_never(decision)

    def _holds_unknown(self, task: Task, now: float) -> bool:
        again_s, trusts = self._polling.missing_again_s, self._polling.trust_unknown
        return self._witness.doubts_unknown(task) or (not trusts and self._known_ids.holds(task, now, again_s))

    def _plan_polls(self, now: float) -> None:
        if self._timing is None:
            return
        if self._timing.refresh(now):
            learned = self._timing.planner
            self._store.delay_first_polls(self.account, learned.first_poll_s)
            log.debug(
                "timing.planned",
                account=self.account,
                learned_from=learned.hazard.finished,
                first_poll_s=round(learned.first_poll_s, 3),
                pressure=round(learned.pressure.factor, 3),
            )
            if (knowledge := self._timing.to_save(now)) is not None:
                self._store.save_knowledge(self._timing.name, knowledge)

    def _on_commit(self, polled: Sequence[Polled]) -> None:
        due_at = [again.at for each in polled if (again := each.settled.again) is not None]
        if due_at:
            self._due_tasks.wake_for(min(due_at))
        if len(due_at) < len(polled):
            self._due_tasks.end_standstill()
        for each in polled:
            self._check_patience(each.outcome, each.at)

    def _prepare_commit(self) -> None:
        self._settle()
        self.save()

    def save(self) -> None:
        """Save the account's state: while the lane runs, it may send a request at any instant."""
        if not self._recorder.ended:
            state = replace(self.gate.state(), active_at=self._clock(), clean=False)
            self._store.save_account(self.account, state)
            self._notes.note_limit(self.gate.reading())
            self._note_proof()

    def _note_proof(self, *, at_once: bool = False) -> None:
        if self._witness.task is not None and self._known_ids.shown_by:
            proof = Proof(task_id=self._witness.task.task_id, credentials=self._known_ids.shown_by)
            self._notes.note_proof(proof, at_once=at_once)

    @property
    def durations(self) -> KnownDurations | None:
        """What its polls taught about how long imports take; None where that is too little."""
        return None if self._timing is None else learned(self._timing.planner)

    @property
    def due_at(self) -> float | None:
        """When the earliest waiting task is due, as last read; None where none waits."""
        return self._due_tasks.due_at

    async def hold(self) -> None:
        """Pause the account on a person's word; returns when that is on disk. Polls in flight are finished."""
        self.gate.hold(person_pause_detail(self._clock()))
        self.save()
        await self._store.flush()

    async def release(self) -> None:
        """Resume the account on a person's word; returns when that is on disk."""
        self.gate.release()
        self._give_up.forget()
        self.save()
        await self._store.flush()

    def keep_knowledge(self) -> None:
        """Save what was learned about when to poll, and a task that HubSpot still knows."""
        self._note_proof(at_once=True)
        if self._timing is not None:
            self._store.save_knowledge(self._timing.name, self._timing.knowledge(self._clock()))

    @property
    def imports(self) -> ImportsReading | None:
        """The rows that it starts; None where it starts none."""
        return None

    @property
    def timing(self) -> str | None:
        """What its polls follow from, for people; None where the policy does not learn."""
        return None if self._timing is None else self._timing.explanation(self._clock())

    def apply(
        self,
        *,
        client: StatusClient,
        polling: Polling,
        timing: AccountTiming | None,
        limits: GiveUpRules,
    ) -> None:
        """Use other settings from the next poll on. What those before showed of ids may be of another status path."""
        self._client, self._polling, self._give_up.rules = client, polling, limits
        self._timing = self._due_tasks.timing = timing
        self._known_ids = KnownIds(self._known_ids.shown_by)
        self._witness = self._witness.renewed()
        self._store.delay_first_polls(self.account, 0.0 if timing is None else timing.planner.first_poll_s)

    def wake(self) -> None:
        """Check the queue: tasks may have become due."""
        self._due_tasks.wake()

    def stop(self) -> None:
        """Claim nothing more; polls in flight are finished and recorded."""
        self.gate.close()
        self._due_tasks.stop()
