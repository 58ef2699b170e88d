"""A model of a whole run before it begins: how many polls it takes, and how long. Pure; no I/O and no real time."""

import heapq
import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from poller.schedule.learned import PollPlanner
from poller.schedule.poll_order import PollOrder
from poller.schedule.standstill import HOUR_S, Standstill

MOST_PLAYED = 4000  # of more tasks this many are played, at the same share of the rate limit
STEP = 1.05  # of the time so far, what of a long standstill is played in one


@dataclass(frozen=True, slots=True, kw_only=True)
class Course:
    """A future task: its age when it is fed, and how long it takes in all (infinity: it never finishes)."""

    age_s: float
    took_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class SimulatedRun:
    """What a run takes in the model."""

    polls: int
    lasts_s: float
    mean_late_s: float  # from a task's end, or its feeding if that was later, to the poll that sees it
    timed_out: int


def simulate_run(
    count: int,
    courses: Callable[[int], Sequence[Course]],
    *,
    per_second: float,
    deadline_s: float,
    gap_s: Callable[[float], float],
    learned: PollPlanner | None = None,
) -> SimulatedRun:
    """Play `count` tasks that are fed at once. `courses` returns as many courses as are played. `gap_s` returns the
    wait at an age since feeding; `learned` replaces it and continues to learn."""
    if count == 0:
        return SimulatedRun(polls=0, lasts_s=0.0, mean_late_s=0.0, timed_out=0)
    played = min(count, MOST_PLAYED)
    share = played / count
    polls, lasts_s, late_s = _play(courses(played), 1 / (per_second * share), deadline_s, gap_s, learned)
    return SimulatedRun(
        polls=round(polls / share),
        lasts_s=lasts_s,
        mean_late_s=sum(late_s) / len(late_s) if late_s else 0.0,
        timed_out=round((played - len(late_s)) / share),
    )


class _Due(NamedTuple):
    """A task that waits for its poll."""

    due_at: float
    turn: int  # decides between two that are due at once
    number: int
    before_s: float  # its age at the poll before
    polls: int


class _Queue:
    """The waiting tasks, in the order of the engine's claims."""

    def __init__(self, tasks: int, first_s: float) -> None:
        self._first = [_Due(first_s, number, number, 0.0, 0) for number in range(tasks)]
        self._again: list[_Due] = []
        self._turns = tasks
        self._order, self._rng = PollOrder(), random.Random(1)  # noqa: S311 - a simulation

    @property
    def due_at(self) -> float:
        """When the next one is due; infinity: none waits."""
        return min([waiting[0].due_at for waiting in (self._first, self._again) if waiting], default=math.inf)

    def __len__(self) -> int:
        return len(self._first) + len(self._again)

    def add(self, due_at: float, number: int, age_s: float, polls: int) -> None:
        self._turns += 1
        heapq.heappush(self._again, _Due(due_at, self._turns, number, age_s, polls))

    def take(self, now: float, chance: Callable[[_Due], float] | None) -> _Due:
        """Return the one whose turn it is."""
        if not self._first or (self._again and self._again[0] < self._first[0]):
            return heapq.heappop(self._again)
        if self._again and self._again[0].due_at <= now and self._order.takes(self._first[0], self._again[0], chance):
            return heapq.heappop(self._again)
        return heapq.heappop(self._first)

    def ends_at(self, courses: Sequence[Course]) -> float:
        """When the first of them is finished; infinity: none ever is."""
        return min(courses[each.number].took_s - courses[each.number].age_s for each in (*self._first, *self._again))

    def seen_unfinished(self, courses: Sequence[Course], now: float, learned: PollPlanner) -> None:
        """Teach that those that were polled before are unfinished now."""
        for index, each in enumerate(self._again):
            age_s = now + courses[each.number].age_s
            learned.learn(each.before_s, age_s, finished=False)
            self._again[index] = each._replace(before_s=age_s)

    def take_any(self, now: float) -> _Due:
        """Return any of those that are due: a poll of a standstill is of one at random."""
        chosen = self._rng.choice([each for each in (*self._first, *self._again) if each.due_at <= now])
        waiting = self._again if chosen.polls else self._first
        waiting.remove(chosen)
        heapq.heapify(waiting)
        return chosen


def _play(
    courses: Sequence[Course],
    spacing_s: float,
    deadline_s: float,
    gap_s: Callable[[float], float],
    learned: PollPlanner | None,
) -> tuple[int, float, list[float]]:
    """Return the number of polls, the instant of the last one, and how late each finished task was seen."""
    queue = _Queue(len(courses), 0.0 if learned is None else learned.first_poll_s)
    standstill = Standstill()
    after_s = gap_s if learned is None else learned.gap_s
    polls, now, stood_until, late_s = 0, -spacing_s, -math.inf, []

    def chance(each: _Due) -> float:
        return 0.0 if learned is None else learned.curve.chance(each.before_s, now + courses[each.number].age_s)

    while (due_at := queue.due_at) < math.inf:
        now = max(due_at, now + spacing_s)
        if now < deadline_s and standstill.lasts(now):
            stood_until = now = max(now, standstill.sleeps_until)
            if standstill.length_s(now) > HOUR_S:
                in_vain, now = _pass_over(queue, courses, standstill, after_s, now, deadline_s, learned)
                polls, stood_until = polls + in_vain, now
            standstill.take_turn(now)
            each = queue.take_any(now)
        else:
            each = queue.take(now, None if learned is None else chance)
        course = courses[each.number]
        polls += 1
        age_s = now + course.age_s
        if learned is not None:
            if each.polls:
                learned.pressure.waited(max(0.0, now - max(each.due_at, stood_until)))
            if course.took_s <= age_s:
                standstill.finished(now, now - (age_s - course.took_s))
            else:
                before_at = now - (age_s - each.before_s)
                standstill.unfinished(each.number, chance(each), before_at=before_at, now=now, deadline_at=math.inf)
            _learn(learned, course, each.before_s, age_s, now)
        if course.took_s <= age_s:
            late_s.append(min(age_s - course.took_s, now))
        elif now < deadline_s:
            queue.add(min(now + after_s(age_s), deadline_s), each.number, age_s, each.polls + 1)
    return polls, max(0.0, now), late_s


def _pass_over(
    queue: _Queue,
    courses: Sequence[Course],
    standstill: Standstill,
    after_s: Callable[[float], float],
    now: float,
    deadline_s: float,
    learned: PollPlanner | None,
) -> tuple[int, float]:
    """Return how many polls are made in vain for some time of a standstill, and its end. Their pace is even after the
    first hour, so a month of them need not be played one by one."""
    until = min(queue.ends_at(courses), deadline_s, now * STEP)
    gap_s = max(standstill.gap_s(now), after_s(now + courses[0].age_s) / len(queue))  # only of those that are due
    polls = int(max(0.0, until - now) / gap_s)
    if not polls:
        return 0, now
    if learned is not None:
        queue.seen_unfinished(courses, until, learned)
    return polls, until


def _learn(learned: PollPlanner, course: Course, before_s: float, age_s: float, now: float) -> None:
    learned.learn(min(before_s, course.took_s), min(age_s, course.took_s), finished=course.took_s <= age_s)
    learned.refresh(now)
