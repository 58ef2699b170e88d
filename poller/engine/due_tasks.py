"""An account's due tasks: claimed many at a time, handed out one by one."""

import asyncio
import math
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from random import Random

import structlog

from poller.core.model import Task
from poller.core.protocols import Clock, PollStore
from poller.core.request_protocols import Gate
from poller.schedule import AccountTiming, PollOrder, Standstill

log = structlog.get_logger("poller")

MOST_AT_ONCE = 500  # tasks that are put off: the event loop waits for it
LONGEST_SLEEP_S = 60.0  # a sleeping lane reads the schedule at least this often: wall clocks jump
CLAIMED_A_WORKER = 4  # due tasks that are claimed at once: a claim costs about as much for many as for few
LEAST_CLAIMED = 64  # also for few workers: as for the default number


class DueTasks:
    """Hands out due tasks; sleeps while none is due. While nothing finishes, hands out a few, at random."""

    def __init__(
        self,
        account: str,
        *,
        store: PollStore,
        gate: Gate,
        timing: AccountTiming | None,
        settle: Callable[[], None],
        clock: Clock,
        rng: Random,
        longest_sleep_s: float = LONGEST_SLEEP_S,
    ) -> None:
        """`settle` is called before a claim: it learns from all answers so far. `longest_sleep_s`: how long tasks that
        another process fed may stay unseen."""
        self.timing = timing
        self.longest_sleep_s = longest_sleep_s
        self._account = account
        self._store = store
        self._gate = gate
        self._settle = settle
        self._clock = clock
        self._rng = rng
        self.due_at: float | None = None  # of the earliest waiting task, as last read
        self._claimed: deque[Task] = deque()
        self._claiming = asyncio.Lock()
        self._more_are_due = False
        self._woken = asyncio.Event()
        self._sleeps_until = 0.0
        self._stopping = False
        self._limit = 0  # of the next claim, where that is more than the workers need
        self._next_put_off_at = math.inf  # what was put off does not show in the store before a commit
        self._order_of_polls = PollOrder()
        self._standstill: Standstill | None = None  # the one that lasts
        self._standstill_from = 0.0

    def at_hand(self) -> Task | None:
        """Return a due task that is claimed already; None where `next` must be awaited."""
        claimed, timing = self._claimed, self.timing  # once a poll: the questions of `next` are spelled out
        if not claimed or self._stopping:
            return None
        if self._more_are_due and len(claimed) < self._gate.workers and not self._claiming.locked():
            return None
        may_stand = timing is not None and timing.standstill.may_last
        return None if may_stand and self._begins_to_stand() else claimed.popleft()

    async def next(self) -> Task | None:
        """Wait for a due task; None once stopped. Workers take turns to claim, and the others go on meanwhile."""
        if (task := self.at_hand()) is not None:
            return task
        async with self._claiming:
            if self._begins_to_stand():  # what was claimed ahead is not polled either
                self.release()
                self._claimed.clear()
            while not self._stopping and (not self._claimed or self._is_short()):
                self._woken.clear()
                now, limit = self._clock(), max(self._useful, self._limit)
                claimed = await self._claim(now, limit)
                due = self._put_off(claimed, now)
                self._claimed.extend(due)
                self._more_are_due = len(claimed) == limit
                if claimed and not due:
                    await asyncio.sleep(0)  # others have their turn; a commit makes what was put off claimable
                elif not self._claimed:
                    await self._sleep_until_due()
            return None if self._stopping else self._claimed.popleft()

    def _begins_to_stand(self) -> bool:
        """Whether nothing finishes, which is not acted on yet."""
        if self.timing is None or self._standstill is not None or not self.timing.standstill.may_last:
            return False
        self.timing.standstill.paused_s = self._gate.paused_s
        return self.timing.standstill.lasts(self._clock())

    def _is_short(self) -> bool:
        """Whether to claim more before the last claimed task is handed out, so that no worker waits for a claim."""
        return self._more_are_due and len(self._claimed) < self._gate.workers

    async def _claim(self, now: float, limit: int) -> list[Task]:
        self._settle()
        self._note_standstill(now)
        if self.timing is None or self._standstill is None:
            return self._divide(await self._store.claim(self._account, limit, again=(limit + 1) // 2), limit, now)
        if self._standstill.deadline_at <= now:
            fed_until = now - self.timing.deadline_s
            tasks = await self._store.claim(self._account, limit, fed_until=fed_until)
            if tasks:
                return tasks
            self._standstill.no_deadline_passed(now)
        if self._standstill.take_turn(now):
            return await self._store.claim_any(self._account, self._rng.random())
        return []

    def _divide(self, due: list[Task], limit: int, now: float) -> list[Task]:
        """Return those that are polled now, so that tasks which were polled before do not wait for all first polls."""
        if len(due) <= limit:
            return due
        timing = self.timing
        chance = None if timing is None else lambda task: timing.chance(task, now)
        ordered = self._order_of_polls.divide(due, limit, chance)
        self._store.release(ordered[limit:])
        return list(ordered[:limit])

    def _put_off(self, claimed: list[Task], now: float) -> list[Task]:
        """Put those tasks off that, by what was learned since, are polled better later; return the others. Where all
        of them were, the next claim is for more, so that a long queue is gone through at once."""
        if self.timing is None or self._standstill is not None:
            return claimed
        waits_s = [self.timing.put_off_s(task, now) for task in claimed]
        put_off = [(task, now + wait_s) for task, wait_s in zip(claimed, waits_s, strict=True) if wait_s > 0]
        if not put_off:
            self._limit = 0
            return claimed
        self._store.put_off(put_off)
        self._next_put_off_at = min(self._next_put_off_at, *(due_at for _, due_at in put_off))
        due = [task for task, wait_s in zip(claimed, waits_s, strict=True) if wait_s <= 0]
        self._limit = 0 if due else min(4 * len(claimed), MOST_AT_ONCE)
        self._store.release(due[self._useful :])
        return due[: self._useful]

    @property
    def _useful(self) -> int:
        """How many due tasks to claim at once."""
        return max(CLAIMED_A_WORKER * self._gate.workers, LEAST_CLAIMED)

    def _note_standstill(self, now: float) -> None:
        """Start or end the standstill, and log it once."""
        found = None if self.timing is None else self.timing.standstill
        if found is not None:
            found.paused_s = self._gate.paused_s
            found = found if found.lasts(now) else None
        if found is not None and self._standstill is None:
            self._standstill_from = found.since
            log.warning("timing.standstill", account=self._account, since_s=round(found.length_s(now), 1))
        elif found is None and self._standstill is not None:
            after_s = round(now - self._standstill_from, 1)
            log.info("timing.standstill_ended", account=self._account, after_s=after_s)
        self._standstill = found

    async def _sleep_until_due(self) -> None:
        """Sleep until a task may be due. The schedule is read now and then, but claimed only for a reason."""
        while True:
            due_at = await self._sleep()
            is_early = self._clock() < min(math.inf if due_at is None else due_at, self._next_put_off_at)
            if self._woken.is_set() or not is_early or self._standstill is not None or self._begins_to_stand():
                return

    async def _sleep(self) -> float | None:
        """Sleep until a task is due by the schedule as of now, or for `longest_sleep_s`; return when one is due."""
        now = self._clock()
        self._sleeps_until = math.inf  # while the schedule is read, every task that becomes due ends the sleep
        if self._standstill is not None:
            due_at: float | None = self._standstill.sleeps_until
        else:
            due_at = await self._store.next_due_at(self._account)
        if self._next_put_off_at <= now:
            self._next_put_off_at = math.inf
        self.due_at = due_at
        self._sleeps_until = min(
            self._longest_sleep_ends_at(now), math.inf if due_at is None else due_at, self._next_put_off_at
        )
        with suppress(TimeoutError):
            async with asyncio.timeout(max(0.0, self._sleeps_until - now)):
                await self._woken.wait()
        return due_at

    def _longest_sleep_ends_at(self, now: float) -> float:
        """Return when all lanes at rest read the schedule next: a member of a fleet reads it once for all."""
        return (now // self.longest_sleep_s + 1) * self.longest_sleep_s

    def end_standstill(self) -> None:
        """Check the queue, where nothing finished until now."""
        if self._standstill is not None:
            self.wake()

    def wake(self) -> None:
        """End a sleep."""
        self._woken.set()

    def wake_for(self, due_at: float) -> None:
        """End a sleep that would last longer than until `due_at`."""
        if due_at < self._sleeps_until:
            self.wake()

    def stop(self) -> None:
        """Hand out nothing more."""
        self._stopping = True
        self.wake()

    def release(self) -> None:
        """Give back what was claimed and not handed out."""
        self._store.release(list(self._claimed))
