"""A model of a whole run before it begins: how many polls it takes, and how long. Pure; no I/O and no real time."""

import heapq
import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from poller.schedule.learned import PollPlanner
from poller.schedule.standstill import Standstill

MOST_PLAYED = 4000  # of more tasks this many are played, at the same share of the rate limit


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


def _play(
    courses: Sequence[Course],
    spacing_s: float,
    deadline_s: float,
    gap_s: Callable[[float], float],
    learned: PollPlanner | None,
) -> tuple[int, float, list[float]]:
    """Return the number of polls, the instant of the last one, and how late each finished task was seen."""
    first_s = 0.0 if learned is None else learned.first_poll_s
    due = [(first_s, turn, turn, 0.0) for turn in range(len(courses))]  # due, turn, task, its age at the poll before
    standstill, rng = Standstill(), random.Random(1)  # noqa: S311 - a simulation
    polls, now, stood_until, late_s = 0, -spacing_s, -math.inf, []
    while due:
        at = max(due[0][0], now + spacing_s)
        if at < deadline_s and standstill.lasts(at):
            stood_until = at = max(at, standstill.sleeps_until)
            standstill.take_turn(at)
            _bring_forward_any(due, at, rng)
        due_at, turn, number, before_s = heapq.heappop(due)
        course = courses[number]
        now = at
        polls += 1
        age_s = now + course.age_s
        if learned is not None:
            if turn >= len(courses):
                learned.pressure.waited(max(0.0, now - max(due_at, stood_until)))
            if course.took_s <= age_s:
                standstill.finished(now)
            else:
                standstill.unfinished(number, learned.curve.chance(before_s, age_s), now=now, deadline_at=math.inf)
            _learn(learned, course, before_s, age_s, now)
        if course.took_s <= age_s:
            late_s.append(min(age_s - course.took_s, now))
        elif now < deadline_s:
            wait_s = gap_s(now) if learned is None else learned.gap_s(age_s)
            heapq.heappush(due, (min(now + wait_s, deadline_s), len(courses) + polls, number, age_s))
    return polls, max(0.0, now), late_s


def _bring_forward_any(due: list[tuple[float, int, int, float]], now: float, rng: random.Random) -> None:
    """Make any of the due tasks the first: a poll of a standstill is of one at random."""
    chosen = rng.choice([place for place, each in enumerate(due) if each[0] <= now])
    _, turn, number, before_s = due[chosen]
    due[chosen] = (-math.inf, turn, number, before_s)
    heapq.heapify(due)


def _learn(learned: PollPlanner, course: Course, before_s: float, age_s: float, now: float) -> None:
    learned.learn(min(before_s, course.took_s), min(age_s, course.took_s), finished=course.took_s <= age_s)
    learned.refresh(now)
