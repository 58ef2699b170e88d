"""A lane: one account at work. Its work loop is the product: claim, pass the gate, poll, decide, record."""

import asyncio
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from random import Random

import structlog
from msgspec import Struct

from poller.core.errors import GaveUp, TokenRefused
from poller.core.log import tells_debug
from poller.core.model import (
    Decision,
    Finish,
    Finished,
    Outcome,
    Pause,
    Poll,
    PollAgain,
    Record,
    Refused,
    Running,
    Settled,
    Task,
    Throttled,
    Unreachable,
)
from poller.core.poll_log import trace
from poller.core.protocols import Clock, Gate, GateClosed, StatusClient, Store
from poller.core.record import render
from poller.engine.metrics import Metrics
from poller.schedule import AccountTiming
from poller.schedule.policy import Polling, decide

log = structlog.get_logger()

LONGEST_SLEEP_S = 60.0  # a sleeping lane looks at the schedule at least so often: wall clocks jump
BROKEN_AFTER = 3  # failed polls in a row, others' succeeding meanwhile, after which a task is no sign of an outage
UNRECORDED_A_WORKER = 10  # so many polls may wait for the disk; then no more are made until it takes them
REFUSALS_AT_START = 2  # one may be a token that was just being replaced


class Polled(Struct, frozen=True, kw_only=True):
    """A poll made and decided, on its way to the disk."""

    outcome: Outcome
    settled: Settled
    at: float  # when it was decided


@dataclass(frozen=True, slots=True, kw_only=True)
class GiveUpRules:
    """When a run stops waiting for something that may never come back."""

    give_up_s: float | None = None  # an outage or a dead sink this long ends the run; None: never
    needs_token: bool = False  # a token refused before the first good answer ends the run


class Lane:
    """One account at work: its workers share its gate, its client and its schedule."""

    def __init__(
        self,
        account: str,
        *,
        store: Store,
        gate: Gate,
        client: StatusClient,
        polling: Polling,
        timing: AccountTiming | None = None,
        metrics: Metrics,
        clock: Clock,
        rng: Random,
        limits: GiveUpRules,
        on_recorded: Callable[[Record | None], None],
    ) -> None:
        self.account = account
        self.gate = gate
        self._store = store
        self._client = client
        self._polling = polling
        self._timing = timing
        self._metrics = metrics
        self._clock = clock
        self._rng = rng
        self._limits = limits
        self._on_recorded = on_recorded
        self._claimed: deque[Task] = deque()
        self._claiming = asyncio.Lock()
        self._woken = asyncio.Event()
        self._sleeps_until = 0.0
        self._workers = 0
        self._unrecorded: list[Polled] = []
        self._has_unrecorded = asyncio.Event()
        self._has_room = asyncio.Event()
        self._stopping = False
        self._ended = False
        self._had_good_answer = False
        self._answered: Task | None = None  # the latest whose status HubSpot told
        self._asks_answered = False
        self._failing_since: float | None = None
        self._refusals = 0
        self._unknown_words: set[str] = set()

    async def run(self) -> None:
        """Work until stopped; leave the account's state behind as ended in order."""
        self.save()
        if self._timing is not None:
            self._store.delay_first_polls(self.account, self._timing.first_poll_s)
        await self._store.flush()  # before the first request: a crash from here on must not forget the window
        async with asyncio.TaskGroup() as recording:
            recording.create_task(self._record())
            async with asyncio.TaskGroup() as staff:
                self._hire(staff)
            self._ended = True
            self._has_unrecorded.set()
        self._store.release(list(self._claimed))
        if self._timing is not None:
            self._store.save_knowledge(self._timing.name, self._timing.knowledge())
        self._store.save_account(self.account, replace(self.gate.state(), clean=True))

    def _hire(self, staff: asyncio.TaskGroup) -> None:
        """Have as many workers as the gate can use; that may grow, for it learns the limits from the answers."""
        while self._workers < self.gate.workers:
            self._workers += 1
            staff.create_task(self._work(staff))

    async def _work(self, staff: asyncio.TaskGroup) -> None:
        while (task := await self._next_task()) is not None:
            waiting_since = self._clock()
            try:
                about = task.key if task.errors < BROKEN_AFTER else "tasks that are broken by themselves"
                async with self.gate.slot(about) as slot:
                    asked, asked_at = self._probe_of(task), self._clock()
                    answer = await self._client.poll(asked)
                    slot.answered(answer)
            except GateClosed:
                self._store.release([task])
                return
            gate_s, request_s = asked_at - waiting_since, self._clock() - asked_at
            self._metrics.polled(self.account, answer.outcome, request_s=request_s, gate_s=gate_s)
            self._hire(staff)
            if asked is task:
                self._settle(task, answer.outcome, asked_at=asked_at, gate_s=gate_s)
                await self._leave_room()
            else:
                self._pass_over(task, asked, answer.outcome)

    def _probe_of(self, task: Task) -> Task:
        """In an outage, ask every other time for a task that was answered before: if all that wait are broken by
        themselves, only that one can tell that the API is up."""
        if self.gate.pause is not Pause.OUTAGE or self._answered is None:
            return task
        self._asks_answered = not self._asks_answered
        return self._answered if self._asks_answered else task

    async def _next_task(self) -> Task | None:
        """Wait for a due task; None once the lane stops. Workers ask in turn, so that one claim serves many."""
        if self._claimed and not self._stopping:
            return self._claimed.popleft()
        async with self._claiming:
            while not self._claimed and not self._stopping:
                self._woken.clear()
                self._claimed.extend(await self._store.claim(self.account, self.gate.workers))
                if not self._claimed:
                    await self._sleep_until_due()
            return None if self._stopping else self._claimed.popleft()

    async def _sleep_until_due(self) -> None:
        now, due_at = self._clock(), await self._store.next_due_at(self.account)
        self._sleeps_until = min(now + LONGEST_SLEEP_S, due_at if due_at is not None else float("inf"))
        with suppress(TimeoutError):
            async with asyncio.timeout(max(0.0, self._sleeps_until - now)):
                await self._woken.wait()

    def _settle(self, task: Task, outcome: Outcome, *, asked_at: float, gate_s: float) -> None:
        now = self._clock()
        learned_gap_s = None if self._timing is None else self._timing.learn(task, outcome, asked_at=asked_at, now=now)
        decision = decide(
            task,
            outcome,
            now=now,
            paused_s=self.gate.paused_s,
            weather=self.gate.pause is Pause.OUTAGE,
            polling=self._polling,
            rng=self._rng,
            learned_gap_s=learned_gap_s,
        )
        self._plan_polls(task, decision, now)
        again = decision if isinstance(decision, PollAgain) else None
        record = render(task, outcome, decision.kind, seen_at=now) if isinstance(decision, Finish) else None
        poll = Poll(
            at=asked_at,
            gate_s=gate_s,
            took_s=now - asked_at,
            outcome=type(outcome).__name__.lower(),
            says=_says(outcome),
            again_in_s=None if again is None else again.at - now,
        )
        settled = Settled(task=task, again=again, record=record, trace=trace(poll))
        self._unrecorded.append(Polled(outcome=outcome, settled=settled, at=now))
        self._has_unrecorded.set()
        if isinstance(outcome, Running | Finished):
            self._answered = task

    def _plan_polls(self, task: Task, decision: Decision, now: float) -> None:
        if self._timing is None:
            return
        if isinstance(decision, Finish):
            self._timing.forget(task)
        if self._timing.refresh(now):
            self._store.delay_first_polls(self.account, self._timing.first_poll_s)
            learned = self._timing.learned
            log.debug(
                "timing.planned",
                account=self.account,
                learned_from=learned.hazard.finished,
                first_poll_s=round(learned.first_poll_s, 3),
                pressure=round(learned.pressure, 3),
            )
            if (knowledge := self._timing.to_save(now)) is not None:
                self._store.save_knowledge(self._timing.name, knowledge)

    async def _leave_room(self) -> None:
        """Wait while the disk is behind: what is not on it yet, a crash would have to ask for again."""
        while len(self._unrecorded) >= UNRECORDED_A_WORKER * self.gate.workers:
            self._has_room.clear()
            await self._has_room.wait()

    async def _record(self) -> None:
        """Record polls, as many at a time as were made while the disk took those before; tell of them only then."""
        while self._unrecorded or not self._ended:
            await self._has_unrecorded.wait()
            self._has_unrecorded.clear()
            polled, self._unrecorded = self._unrecorded, []
            self._has_room.set()
            self.save()
            await self._store.record([each.settled for each in polled])
            for each in polled:
                self._tell(each)
            for each in polled:
                self._give_up_if_hopeless(each.outcome, each.at)

    def _pass_over(self, task: Task, asked: Task, outcome: Outcome) -> None:
        """Give `task` back unasked: its turn went to a probe."""
        self._store.release([task])
        self.wake()
        log.debug(
            "outage.probed",
            account=self.account,
            task_id=asked.task_id,
            outcome=type(outcome).__name__.lower(),
            says=_says(outcome),
        )
        self._give_up_if_hopeless(outcome, self._clock())

    def _tell(self, polled: Polled) -> None:
        outcome, task, now = polled.outcome, polled.settled.task, polled.at
        again, record = polled.settled.again, polled.settled.record
        if again is not None and again.at < self._sleeps_until:
            self.wake()
        if tells_debug():
            log.debug(
                "poll.answered",
                account=self.account,
                task_id=task.task_id,
                outcome=type(outcome).__name__.lower(),
                says=_says(outcome),
                polls=task.polls + 1,
                again_in_s=None if again is None else round(again.at - now, 3),
            )
        match outcome:
            case Running(known=False, status=str(word)) if word not in self._unknown_words:
                self._unknown_words.add(word)
                log.warning("status.unknown", account=self.account, status=word, task_id=task.task_id)
        if record is not None:
            self._metrics.finish(record.kind)
            log.info(
                "task.finished",
                account=self.account,
                task_id=task.task_id,
                kind=record.kind.value,
                polls=task.polls + 1,
                waited_s=round(now - task.fed_at, 3),
                reason=record.reason,
                correlation_id=outcome.correlation_id,
            )
        self._on_recorded(record)

    def _give_up_if_hopeless(self, outcome: Outcome, now: float) -> None:
        match outcome:
            case Refused(reason="token_refused", detail=detail):
                self._refusals += 1
                if self._limits.needs_token and not self._had_good_answer and self._refusals >= REFUSALS_AT_START:
                    raise TokenRefused(f"account {self.account}: HubSpot refuses the token: {detail}")
            case Unreachable(reason=reason):
                self._failing_since = now if self._failing_since is None else self._failing_since
                failing_s = now - self._failing_since
                if self._limits.give_up_s is not None and failing_s >= self._limits.give_up_s:
                    raise GaveUp(
                        f"account {self.account}: no good answer for {failing_s:.0f} s (latest: {reason}); nothing is "
                        "lost, run the same command again when the API is back"
                    )
            case Refused() | Throttled():
                pass
            case _:
                self._had_good_answer = True
                self._failing_since = None

    def save(self) -> None:
        """Note the account's state: while the lane runs, it may send a request at any instant."""
        if self._ended:
            return
        self._store.save_account(self.account, replace(self.gate.state(), active_at=self._clock(), clean=False))

    def keep_knowledge(self) -> None:
        """Note what was learned of when to poll."""
        if self._timing is not None:
            self._store.save_knowledge(self._timing.name, self._timing.knowledge())

    def apply(
        self, *, client: StatusClient, polling: Polling, timing: AccountTiming | None, limits: GiveUpRules
    ) -> None:
        """Use other settings from the next poll on."""
        self._client, self._polling, self._timing, self._limits = client, polling, timing, limits
        self._store.delay_first_polls(self.account, 0.0 if timing is None else timing.first_poll_s)

    def wake(self) -> None:
        """Tasks may have become due."""
        self._woken.set()

    def stop(self) -> None:
        """Claim nothing more; polls in flight are finished and recorded."""
        self._stopping = True
        self.gate.close()
        self.wake()


def _says(outcome: Outcome) -> str | int | None:
    """The one word of an outcome that a log line needs."""
    match outcome:
        case Unreachable(reason=word) | Refused(reason=word) | Throttled(policy=word):
            return word
        case _:
            return getattr(outcome, "status", getattr(outcome, "code", None))
