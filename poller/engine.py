"""The work: lanes that look, outlets that deliver, and the service that runs and drains them together.

A lane's work loop is the product: claim, pass the gate, look, decide, record. Nothing here knows HTTP, SQL or a file.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from random import Random
from typing import Any

import structlog

from poller.errors import GaveUp, TokenRefused
from poller.metrics import Metrics
from poller.model import (
    Added,
    Chunk,
    Delivery,
    Finish,
    LookAgain,
    Outcome,
    Pause,
    Record,
    Refused,
    Retry,
    Running,
    Settled,
    Task,
    Throttled,
    Unreachable,
)
from poller.policy import Polling, decide
from poller.protocols import Clock, Gate, GateClosed, Sink, StatusClient, Store
from poller.record import render

log = structlog.get_logger()

LONGEST_SLEEP_S = 60.0  # a sleeping lane looks at the schedule at least so often: wall clocks jump
BROKEN_AFTER = 3  # failed looks in a row, others' succeeding meanwhile, after which a task is no sign of an outage
WORKERS_A_LOOK = 2  # the gate lets `workers` look at a time; as many more wait for the disk meanwhile
REFUSALS_AT_START = 2  # one may be a token that was just being replaced


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
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
        workers: int,
        metrics: Metrics,
        clock: Clock,
        rng: Random,
        limits: Limits,
        on_recorded: Callable[[Record | None], None],
    ) -> None:
        self.account = account
        self.gate = gate
        self._store = store
        self._client = client
        self._polling = polling
        self._workers = workers
        self._metrics = metrics
        self._clock = clock
        self._rng = rng
        self._limits = limits
        self._on_recorded = on_recorded
        self._claimed: deque[Task] = deque()
        self._claiming = asyncio.Lock()
        self._woken = asyncio.Event()
        self._sleeps_until = 0.0
        self._stopping = False
        self._ended = False
        self._had_good_answer = False
        self._failing_since: float | None = None
        self._refusals = 0
        self._unknown_words: set[str] = set()

    async def run(self) -> None:
        """Work until stopped; leave the account's state behind as ended in order."""
        self.save()
        await self._store.flush()  # before the first request: a crash from here on must not forget the window
        async with asyncio.TaskGroup() as workers:
            for _ in range(WORKERS_A_LOOK * self._workers):
                workers.create_task(self._work())
        self._ended = True
        self._store.release(list(self._claimed))
        self._store.save_account(self.account, replace(self.gate.state(), clean=True))

    async def _work(self) -> None:
        while (task := await self._next_task()) is not None:
            try:
                about = task.key if task.errors < BROKEN_AFTER else "tasks that are broken by themselves"
                async with self.gate.slot(about) as slot:
                    answer = await self._client.look(task)
                    slot.answered(answer)
            except GateClosed:
                self._store.release([task])
                return
            await self._settle(task, answer.outcome)

    async def _next_task(self) -> Task | None:
        """Wait for a due task; None once the lane stops. Workers ask in turn, so that one claim serves many."""
        async with self._claiming:
            while not self._claimed and not self._stopping:
                self._woken.clear()
                self._claimed.extend(await self._store.claim(self.account, self._workers))
                if not self._claimed:
                    await self._sleep_until_due()
            return None if self._stopping else self._claimed.popleft()

    async def _sleep_until_due(self) -> None:
        now, due_at = self._clock(), await self._store.next_due_at(self.account)
        self._sleeps_until = min(now + LONGEST_SLEEP_S, due_at if due_at is not None else float("inf"))
        with suppress(TimeoutError):
            async with asyncio.timeout(max(0.0, self._sleeps_until - now)):
                await self._woken.wait()

    async def _settle(self, task: Task, outcome: Outcome) -> None:
        now = self._clock()
        decision = decide(
            task,
            outcome,
            now=now,
            paused_s=self.gate.paused_s,
            weather=self.gate.pause is Pause.OUTAGE,
            polling=self._polling,
            rng=self._rng,
        )
        again = decision if isinstance(decision, LookAgain) else None
        record = render(task, outcome, decision.kind, seen_at=now) if isinstance(decision, Finish) else None
        self.save()
        await self._store.record([Settled(task=task, again=again, record=record)])
        if again is not None and again.at < self._sleeps_until:
            self.wake()
        self._tell(task, outcome, again, record, now)
        self._on_recorded(record)
        self._give_up_if_hopeless(outcome, now)

    def _tell(self, task: Task, outcome: Outcome, again: LookAgain | None, record: Record | None, now: float) -> None:
        self._metrics.looked(outcome)
        log.debug(
            "look.answered",
            account=self.account,
            task_id=task.task_id,
            outcome=type(outcome).__name__.lower(),
            says=_says(outcome),
            looks=task.looks + 1,
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
                looks=task.looks + 1,
                waited_s=round(now - task.fed_at, 3),
                reason=record.reason,
                correlation_id=outcome.correlation_id,
            )

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

    def wake(self) -> None:
        """Tasks may have become due."""
        self._woken.set()

    def stop(self) -> None:
        """Claim nothing more; looks in flight are finished and recorded."""
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


class Outlet:
    """One sink and its outbox: delivers in order, at its own pace, and holds up nobody else."""

    BATCH = 500  # records a write
    LINGER_S = 0.1  # lets a batch gather, so that a sink syncs ten times a second at most

    def __init__(self, sink: Sink, *, store: Store, metrics: Metrics, clock: Clock, give_up_s: float | None) -> None:
        self.sink = sink
        self.backlog_reason: str | None = None  # why the sink takes nothing now
        self._store = store
        self._metrics = metrics
        self._clock = clock
        self._give_up_s = give_up_s
        self._failing_since: float | None = None
        self._woken = asyncio.Event()
        self._ending = False

    async def open(self, position: bytes | None) -> None:
        """Make the sink ready. Raises `SinkError` where a person must act."""
        following = await self._store.undelivered(self.sink.name, self.BATCH)
        await self._store.note_position(self.sink.name, await self.sink.open(position, following))

    async def run(self) -> None:
        """Deliver until `end` was called and the outbox is empty."""
        while True:
            self._woken.clear()
            if batch := await self._store.undelivered(self.sink.name, self.BATCH):
                await self._deliver(batch)
            elif self._ending:
                return
            else:
                await self._woken.wait()
                await asyncio.sleep(0 if self._ending else self.LINGER_S)

    async def _deliver(self, batch: Sequence[Delivery]) -> None:
        match await self.sink.write(batch):
            case Retry(reason=reason, wait_s=wait_s):
                self._note_failure(reason)
                await asyncio.sleep(wait_s)
            case written:
                self._note_success()
                await self._store.delivered(self.sink.name, batch, written)
                self._metrics.delivered[self.sink.name] += len(batch) - len(written.refused)

    def _note_failure(self, reason: str) -> None:
        now = self._clock()
        if self._failing_since is None:
            self._failing_since = now
        if reason != self.backlog_reason:
            log.warning("sink.failed", sink=self.sink.name, reason=reason)
        self.backlog_reason = reason
        if self._give_up_s is not None and now - self._failing_since >= self._give_up_s:
            raise GaveUp(f"sink {self.sink.name}: {reason}, for {now - self._failing_since:.0f} s; nothing is lost")

    def _note_success(self) -> None:
        if self._failing_since is not None:
            log.info("sink.recovered", sink=self.sink.name, failed_s=round(self._clock() - self._failing_since, 3))
        self._failing_since = self.backlog_reason = None

    def wake(self) -> None:
        """There may be records to deliver."""
        self._woken.set()

    def end(self) -> None:
        """Return from `run` as soon as everything is delivered."""
        self._ending = True
        self.wake()


Feed = Callable[[Callable[[Chunk, Added], None]], Coroutine[Any, Any, None]]


class Service:
    """A whole run: feeding, lanes and outlets, from the first line to the last delivery."""

    BEAT_S = 5.0  # how often a lane's state is noted, so that a restart knows the account was in use

    def __init__(
        self, *, store: Store, metrics: Metrics, clock: Clock, feed: Feed, endless: bool, shutdown_s: float
    ) -> None:
        self.lanes: dict[str, Lane] = {}
        self.outlets: list[Outlet] = []
        self.fed = False  # the input has ended
        self.draining = False
        self._store = store
        self._metrics = metrics
        self._clock = clock
        self._feed = feed
        self._endless = endless
        self._shutdown_s = shutdown_s
        self._done = asyncio.Event()
        self._limit: asyncio.Timeout | None = None

    async def run(self) -> bool:
        """Run to the end of the work, or until `drain`. Return False when draining took longer than allowed."""
        try:
            async with asyncio.timeout(self._shutdown_s if self.draining else None) as self._limit:
                await self._run()
        except TimeoutError:
            if self._limit is None or not self._limit.expired():
                raise
            log.warning("run.drain_timed_out", shutdown_s=self._shutdown_s)
            return False
        return True

    async def _run(self) -> None:
        async with asyncio.TaskGroup() as delivering:
            for outlet in self.outlets:
                delivering.create_task(outlet.run())
            beating = delivering.create_task(self._beat())
            await self._look_until_done()
            beating.cancel()
            for outlet in self.outlets:
                outlet.end()

    async def _look_until_done(self) -> None:
        async with asyncio.TaskGroup() as looking:
            for lane in self.lanes.values():
                looking.create_task(lane.run())
            feeding = looking.create_task(self._feed_all())
            await self._done.wait()
            feeding.cancel()
            for lane in self.lanes.values():
                lane.stop()

    async def _feed_all(self) -> None:
        await self._feed(self._on_fed)
        self.fed = True
        self._end_if_idle()

    async def _beat(self) -> None:
        while True:
            for lane in self.lanes.values():
                lane.save()
            self._store.beat()
            await asyncio.sleep(self.BEAT_S)

    def pauses(self) -> dict[str, str]:
        """Return what is paused now, lanes and sinks, each with the reason."""
        lanes = {lane.account: lane.gate.pause for lane in self.lanes.values()}
        sinks = {outlet.sink.name: outlet.backlog_reason for outlet in self.outlets}
        return {name: str(reason) for name, reason in (lanes | sinks).items() if reason is not None}

    def _on_fed(self, chunk: Chunk, added: Added) -> None:
        self._metrics.fed(chunk, added)
        for account in {line.account for line in chunk.fed}:
            self.lanes[account].wake()

    def on_recorded(self, record: Record | None) -> None:
        """A lane has recorded a look; with a record, the outlets have work."""
        if record is not None:
            for outlet in self.outlets:
                outlet.wake()
            self._end_if_idle()

    def _end_if_idle(self) -> None:
        if self.fed and not self._endless and self._metrics.waiting == 0:
            self._done.set()

    def drain(self) -> None:
        """Claim nothing more, finish what is in flight, deliver, end; within `shutdown_s`."""
        if not self.draining:
            self.draining = True
            log.info("run.draining", waiting=self._metrics.waiting, shutdown_s=self._shutdown_s)
            self._done.set()
            if self._limit is not None:
                self._limit.reschedule(asyncio.get_running_loop().time() + self._shutdown_s)
