"""An account's due work: polls before rows, so that outcomes come early; after some polls in a row, one waiting row."""

import asyncio
import math
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from poller.core.accounts import Pause
from poller.core.model import Task
from poller.core.protocols import StartStore
from poller.core.starts import Row
from poller.engine.due_tasks import DueTasks
from poller.schedule.starts import POLLS_BEFORE_A_START


class Probe:
    """The right to poll for nothing but an outage's end: no task is due, and a start must not probe."""


class DueWork(DueTasks):
    """Hands out polls, starts and, during an outage, at most one probe at a time."""

    def __init__(
        self,
        account: str,
        *,
        starts: StartStore,
        may_start: Callable[[], bool],
        next_start_at: Callable[[], float],
        on_row_claimed: Callable[[Row], None],
        **due_tasks: Any,
    ) -> None:
        """`due_tasks`: the arguments of `DueTasks`. `may_start` returns whether a row may be started now, but for the
        account's pause and for `next_start_at`, before which no start may leave."""
        super().__init__(account, **due_tasks)
        self._starts = starts
        self._may_start = may_start
        self._next_start_at = next_start_at
        self._on_row_claimed = on_row_claimed
        self._polls_in_row = 0
        self._unsure_due: list[float] = []  # when rows of this process are sent again, also while no other may start
        self._probe: Probe | None = None

    async def next_work(self) -> Task | Row | Probe | None:
        """Wait for due work; None once stopped."""
        async with self._claiming:
            while not self._stopping:
                self._woken.clear()
                if (work := await self._take()) is not None:
                    return work
                await self._sleep_until_due()
        return None

    async def _take(self) -> Task | Row | Probe | None:
        if self._begins_to_stand():
            self.release()
            self._claimed.clear()
        if not self._claimed:
            self._claimed.extend(await self._claim(self._clock(), self._gate.workers))
        may_start, may_repeat = self._rows_may_go, self._is_repeat_due()
        if self._claimed and (self._polls_in_row < POLLS_BEFORE_A_START or not (may_start or may_repeat)):
            self._polls_in_row += 1
            return self._claimed.popleft()
        if may_start or may_repeat:
            self._polls_in_row = 0  # also where no row is due: the next polls do not ask for one
            if rows := await self._starts.claim(self._account, 1, unsure=not may_start):
                self._on_row_claimed(rows[0])
                return rows[0]
            self._unsure_due = [at for at in self._unsure_due if at > self._clock()]
        if self._claimed:
            return self._claimed.popleft()
        if self._gate.pause is Pause.OUTAGE and self._probe is None:
            self._probe = Probe()
            return self._probe
        return None

    def repeat_at(self, at: float) -> None:
        """An unsure row is due then. It is a row of the trial, whose end needs its outcome."""
        self._unsure_due.append(at)
        self.wake_for(at)

    def _is_repeat_due(self) -> bool:
        return bool(self._unsure_due) and self._may_send and min(self._unsure_due) <= self._clock()

    @property
    def _may_send(self) -> bool:
        return self._gate.pause is not Pause.OUTAGE and self._next_start_at() <= self._clock()

    @property
    def _rows_may_go(self) -> bool:
        return self._may_send and self._may_start()

    def end_probe(self, probe: Probe) -> None:
        """The probe has its answer, or none: another may follow."""
        if probe is self._probe:
            self._probe = None
            self.wake()

    async def _sleep_until_due(self) -> None:
        now = self._clock()
        self._sleeps_until = math.inf  # while the schedule is read, whatever becomes due ends the sleep
        if self._standstill is not None:
            due: list[float | None] = [self._standstill.sleeps_until]
        else:
            due = [await self._store.next_due_at(self._account)]
        if self._rows_may_go:
            due.append(await self._starts.next_due_at(self._account))
        elif self._may_send:
            due += self._unsure_due
        elif self._gate.pause is not Pause.OUTAGE and (start_at := self._next_start_at()) < math.inf:
            due.append(start_at)
        self.due_at = min((at for at in due if at is not None), default=None)
        self._sleeps_until = min([self._longest_sleep_ends_at(now), *(at for at in due if at is not None)])
        with suppress(TimeoutError):
            async with asyncio.timeout(max(0.0, self._sleeps_until - now)):
                await self._woken.wait()
