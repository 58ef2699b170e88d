"""An account's due tasks: claimed many at a time, handed out one by one."""

import asyncio
from collections import deque
from contextlib import suppress
from random import Random

import structlog

from poller.core.model import Task
from poller.core.protocols import Clock, Gate, PollStore
from poller.schedule import AccountTiming, Standstill

log = structlog.get_logger("poller")

LONGEST_SLEEP_S = 60.0  # a sleeping lane reads the schedule at least this often: wall clocks jump


class DueTasks:
    """Hands out due tasks; sleeps while none is due. While nothing finishes, hands out a few, at random."""

    def __init__(
        self,
        account: str,
        *,
        store: PollStore,
        gate: Gate,
        timing: AccountTiming | None,
        clock: Clock,
        rng: Random,
    ) -> None:
        self.timing = timing
        self._account = account
        self._store = store
        self._gate = gate
        self._clock = clock
        self._rng = rng
        self._claimed: deque[Task] = deque()
        self._claiming = asyncio.Lock()
        self._woken = asyncio.Event()
        self._sleeps_until = 0.0
        self._stopping = False
        self._standstill: Standstill | None = None  # the one that lasts
        self._standstill_from = 0.0

    async def next(self) -> Task | None:
        """Wait for a due task; None once stopped. Workers take turns, so that one claim serves many."""
        if self._claimed and not self._stopping:
            return self._claimed.popleft()
        async with self._claiming:
            while not self._claimed and not self._stopping:
                self._woken.clear()
                self._claimed.extend(await self._claim(self._clock()))
                if not self._claimed:
                    await self._sleep_until_due()
            return None if self._stopping else self._claimed.popleft()

    async def _claim(self, now: float) -> list[Task]:
        self._note_standstill(now)
        if self.timing is None or self._standstill is None:
            return await self._store.claim(self._account, self._gate.workers)
        if self._standstill.deadline_at <= now:
            fed_until = now - self.timing.deadline_s
            tasks = await self._store.claim(self._account, self._gate.workers, fed_until=fed_until)
            if tasks:
                return tasks
            self._standstill.no_deadline_passed(now)
        if self._standstill.take_turn(now):
            return await self._store.claim_any(self._account, self._rng.random())
        return []

    def _note_standstill(self, now: float) -> None:
        """Start or end the standstill, and log it once."""
        found = self.timing.standstill if self.timing is not None and self.timing.standstill.lasts(now) else None
        if found is not None and self._standstill is None:
            self._standstill_from = found.since
            log.warning("timing.standstill", account=self._account, since_s=round(now - found.since, 1))
        elif found is None and self._standstill is not None:
            after_s = round(now - self._standstill_from, 1)
            log.info("timing.standstill_ended", account=self._account, after_s=after_s)
        self._standstill = found

    async def _sleep_until_due(self) -> None:
        now = self._clock()
        if self._standstill is not None:
            due_at: float | None = self._standstill.sleeps_until
        else:
            due_at = await self._store.next_due_at(self._account)
        self._sleeps_until = min(now + LONGEST_SLEEP_S, due_at if due_at is not None else float("inf"))
        with suppress(TimeoutError):
            async with asyncio.timeout(max(0.0, self._sleeps_until - now)):
                await self._woken.wait()

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
