"""Plays an account's imports through the service's own timing, as a lane does: claim, put off or poll, learn, wait.

No sockets, no store and no clock; a poll takes no time, and the limit is an even pace.
"""

import heapq
import math
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from random import Random

from msgspec.structs import replace

from bench.timing_workloads import DEADLINE_S, Import
from poller.core.model import Finished, Outcome, Running, Task
from poller.schedule import AccountTiming, PollOrder
from poller.schedule.policy import Polling

START_AT = 1_767_571_200.0  # 2026-01-05; simulated seconds are added


@dataclass(slots=True)
class Played:
    """What a play cost, by task."""

    polls: list[int]
    late_s: list[float]  # negative: not seen finished
    put_offs: int = 0
    drained_s: float = 0.0
    waited_s: float = 0.0  # the longest wait of a second or later poll past its due time, but for standstills
    passed_over: float = 0.0  # the most first polls made while a second one was due, for each second one made then
    longest_plan_s: float = 0.0


def outcome_of(task: Import, now: float) -> Outcome:
    """Return what a poll of the task shows; `now` in simulated seconds."""
    requested_at = START_AT + task.requested_at + task.skew_s if task.names_request else None
    started_at = None
    if task.started_at is not None and task.started_at <= now:
        started_at = START_AT + task.started_at + task.skew_s
    if task.completed_at > now:
        status = "PENDING" if task.started_at is not None and started_at is None else "PROCESSING"
        return Running(status=status, requested_at=requested_at, started_at=started_at)
    return Finished(
        status="COMPLETE",
        num_errors=0,
        requested_at=_text(requested_at),
        started_at=_text(started_at),
        completed_at=_text(START_AT + task.completed_at + task.skew_s),
    )


def _text(at: float | None) -> str | None:
    return None if at is None else datetime.fromtimestamp(at, UTC).isoformat()


class SimulatedLane:
    """One account at work on simulated imports."""

    def __init__(self, imports: Sequence[Import], timing: AccountTiming, per_second: float, deadline_s: float) -> None:
        self.timing = timing
        self.played = Played(polls=[0] * len(imports), late_s=[-1.0] * len(imports))
        self._imports = imports
        self._order = sorted(range(len(imports)), key=lambda number: imports[number].fed_at)
        self._fed = 0
        self._spacing_s = 1 / per_second
        self._deadline_s = deadline_s
        self._tasks: dict[int, Task] = {}  # waiting
        self._due: list[tuple[float, int]] = []
        self._again: list[tuple[float, int]] = []  # of them those that were polled before
        self._order_of_polls = PollOrder()
        self._polled_at: list[float] = []
        self._first_polls = [0]  # until each of them
        self._rng = Random(1)  # noqa: S311 - a simulation

    def run(self) -> Played:
        free_at = 0.0
        while self._fed < len(self._order) or self._tasks:
            now = self._next_at(free_at)
            if self._fed < len(self._order):
                fed_at = START_AT + self._imports[self._order[self._fed]].fed_at
                if fed_at <= now:
                    self._feed(fed_at)
                    continue
            task = self._claim(now)
            if task is not None:
                self._poll(task, now)
                free_at = now + self._spacing_s
                self.played.drained_s = now - START_AT
        return self.played

    def _feed(self, fed_at: float) -> None:
        number = self._order[self._fed]
        one = self._imports[number]
        due_at = fed_at + self.timing.first_poll_s
        ref = None if one.attr is None else b'{"attr":"%s"}' % one.attr.encode()
        key = self._fed + 1
        self._fed += 1
        self._tasks[key] = Task(
            key=key,
            account="a",
            task_id=str(number),
            ref=ref,
            fed_at=fed_at,
            due_at=due_at,
            polls=0,
            errors=0,
            missing_at=None,
            status=None,
            paused_base_s=0.0,
        )
        heapq.heappush(self._due, (due_at, key))

    def _next_at(self, free_at: float) -> float:
        """Return when the next poll may be made."""
        while self._due and not self._is_due(*self._due[0]):
            heapq.heappop(self._due)
        if not self._due:
            return math.inf
        at = max(free_at, self._due[0][0])
        standstill = self.timing.standstill
        return max(at, standstill.sleeps_until) if standstill.lasts(at) else at

    def _is_due(self, due_at: float, key: int) -> bool:
        return key in self._tasks and self._tasks[key].due_at == due_at

    def _claim(self, now: float) -> Task | None:
        standstill = self.timing.standstill
        if not standstill.lasts(now):
            return self._put_off(self._next(now), now)
        if standstill.deadline_at <= now:
            for due_at, key in self._due:
                if self._is_due(due_at, key) and due_at <= now and self._tasks[key].fed_at <= now - self._deadline_s:
                    return self._tasks[key]
            standstill.no_deadline_passed(now)
        return self._any(now) if standstill.take_turn(now) else None

    def _next(self, now: float) -> Task:
        """Return the task whose turn it is, as a claim of one has it."""
        longest = self._tasks[self._due[0][1]]
        while self._again and not self._is_due(*self._again[0]):
            heapq.heappop(self._again)
        if not self._again or self._again[0][0] > now or self._again[0] == self._due[0]:
            return longest
        again = self._tasks[self._again[0][1]]
        return (
            again if self._order_of_polls.takes(longest, again, lambda task: self.timing.chance(task, now)) else longest
        )

    def _any(self, now: float) -> Task | None:
        for _ in range(100):
            due_at, key = self._rng.choice(self._due)
            if due_at <= now and self._is_due(due_at, key):
                return self._tasks[key]
        return self._tasks[self._due[0][1]]

    def _put_off(self, task: Task, now: float) -> Task | None:
        put_off_s = self.timing.put_off_s(task, now)
        if put_off_s <= 0:
            return task
        self.played.put_offs += 1
        self._requeue(replace(task, due_at=now + put_off_s))
        return None

    def _requeue(self, task: Task) -> None:
        self._tasks[task.key] = task
        heapq.heappush(self._due, (task.due_at, task.key))
        if task.polls:
            heapq.heappush(self._again, (task.due_at, task.key))

    def _note_wait(self, task: Task, now: float) -> None:
        """Note for how long a second poll waited for the limit, and for which others."""
        before = bisect_left(self._polled_at, task.due_at)
        firsts = self._first_polls[-1] - self._first_polls[before]
        seconds = len(self._polled_at) - before - firsts
        self.played.waited_s = max(self.played.waited_s, now - task.due_at)
        self.played.passed_over = max(self.played.passed_over, firsts / (seconds + 1))

    def _poll(self, task: Task, now: float) -> None:
        number, at = int(task.task_id), now - START_AT
        one = self._imports[number]
        self.played.polls[number] += 1
        if task.polls and not self.timing.standstill.lasts(now):
            self._note_wait(task, now)
        self._polled_at.append(now)
        self._first_polls.append(self._first_polls[-1] + (task.polls == 0))
        outcome = outcome_of(one, at)
        gap_s = self.timing.learn(task, outcome, asked_at=now, now=now)
        self.timing.refresh(now)
        if isinstance(outcome, Running) and gap_s is not None and now < task.fed_at + self._deadline_s:
            due_at = min(now + gap_s, task.fed_at + self._deadline_s)
            self._requeue(
                replace(
                    task,
                    due_at=due_at,
                    polls=task.polls + 1,
                    status=outcome.status,
                    seen_at=now,
                    requested_at=outcome.requested_at or task.requested_at,
                    started_at=outcome.started_at or task.started_at,
                )
            )
            return
        del self._tasks[task.key]
        if isinstance(outcome, Finished):
            self.played.late_s[number] = at - one.seen_from


def play(imports: Sequence[Import], per_second: float, polling: Polling | None = None) -> Played:
    """Play the imports under a limit; without `polling`, by the default."""
    rules = polling or Polling(deadline_s=DEADLINE_S)
    return SimulatedLane(imports, AccountTiming("a", rules.tradeoff), per_second, rules.deadline_s).run()
